"""What the MLflow UI shows first of a search: a saved view of its own kind, which a link names.

MLflow draws a chart for each of a run's hundred metrics, in the order of the alphabet. This view
puts four charts above them, closes the sections of the others, and gives the table of runs the
columns that answer the question. It is an experiment's tag, as the UI's own "share" makes one
(``mlflow.sharedViewState.KEY``; seen in MLflow 3.17). ``view.json`` is that state of the page for a
search without runs, in which lambda is a number that stays.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from robsearch.metrics import LAM
from robsearch.tracking.store import SEARCHED

KEY = "robsearch"
TAG = f"mlflow.sharedViewState.{KEY}"
STATE = Path(__file__).with_name("view.json")
FIRST = "At a glance"
"""The section of the view's own charts."""
BEST = "val/best_robust_accuracy"
DRAWN = 100
"""The UI draws so many runs, the first: where there are more, the newest, which are of all widths,
not the best."""
RUNS_READ = 200
"""Runs whose metrics are looked at for the sections' names."""


def publish_view(uri: str, experiment: str) -> str | None:
    """Saves the view in the store; returns its key, or None where one may not write."""
    client = MlflowClient(uri)
    try:
        runs = client.search_runs([experiment], max_results=RUNS_READ)
        compressed = base64.b64encode(zlib.compress(json.dumps(view(runs)).encode())).decode()
        client.set_experiment_tag(experiment, TAG, f"deflate;{compressed}")
    except MlflowException:
        return None
    return KEY


def view(runs: Sequence[Run]) -> dict[str, Any]:
    """The state of the UI's page of runs, for runs such as these; their search's own run is left
    out."""
    state: dict[str, Any] = json.loads(STATE.read_text())
    names = {name for run in runs for name in run.data.params}
    searched = {name for name in names if name.startswith(SEARCHED)}
    if "log10_lam" in names:
        searched.discard(f"{SEARCHED}lam")
    else:
        # Where lambda is not a number that stays (WAR), its last value stands for it.
        parallel, scatter, *_ = state["compareRunCharts"]
        parallel["selectedParams"] = ["width"]
        parallel["selectedMetrics"] = [LAM, BEST]
        scatter["xaxis"] = {"key": LAM, "type": "METRIC"}
        scatter["uuid"] = scatter["uuid"].replace("log10_lam", LAM)
    state["compareRunCharts"][0]["selectedParams"] += sorted(searched)
    if len(runs) > DRAWN:
        state["orderByKey"] = "attributes.start_time"
    for name in sorted({_section(metric) for run in runs for metric in run.data.metrics}):
        section = {"uuid": name, "name": name, "isReordered": False, "deleted": False}
        state["compareRunSections"].append({**section, "isGenerated": True, "display": False})
    return state


def _section(metric: str) -> str:
    """The section that the UI puts a metric's own chart in."""
    above = metric.rpartition("/")[0]
    return {"": "Model metrics", "system": "System metrics"}.get(above, above)
