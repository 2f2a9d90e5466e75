"""What the MLflow UI shows first of a search: a saved view of its own kind, which a link names.

MLflow draws a chart for each of a run's hundred metrics, in the order of the alphabet. This view puts four charts
above them, closes the sections of the others, and gives the table of runs the columns that answer the question. It is
an experiment's tag, as the UI's own "share" makes one (``mlflow.sharedViewState.KEY``; seen in MLflow 3.17).
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from robsearch.tracking.store import TRIAL

KEY = "robsearch"
TAG = f"mlflow.sharedViewState.{KEY}"
FIRST = "At a glance"
BEST = "val/best_robust_accuracy"
COLUMNS = (
    "params.`width`",
    "params.`lam`",
    "metrics.`strongest/robust_accuracy`",
    "tags.`robsearch.strongest`",
    f"metrics.`{BEST}`",
    "metrics.`test/robust_accuracy`",
    "metrics.`test/natural_accuracy`",
    "metrics.`test/stability`",
    "metrics.`test/lipschitz/logit_ratio/mean`",
    "metrics.`test/margin/logit/mean`",
    "tags.`robsearch.state`",
    "tags.`robsearch.best`",
)
DRAWN = 100
"""The UI draws so many runs, the first: where there are more, the newest, which are of all widths, not the best."""
RUNS_READ = 200
"""Runs whose metrics are looked at for the sections' names."""


def publish_view(uri: str, experiment: str) -> str | None:
    """Saves the view in the store; returns its key, or None where one may not write."""
    client = MlflowClient(uri)
    try:
        runs = client.search_runs([experiment], max_results=RUNS_READ)
        packed = base64.b64encode(zlib.compress(json.dumps(view(runs)).encode())).decode()
        client.set_experiment_tag(experiment, TAG, f"deflate;{packed}")
    except MlflowException:
        return None
    return KEY


def view(runs: Sequence[Run]) -> dict[str, Any]:
    """The state of the UI's page of runs, for runs such as these; their search's own run is left out."""
    sections = sorted({_section(name) for run in runs for name in run.data.metrics})
    return {
        "compareRunCharts": _charts(any("log10_lam" in run.data.params for run in runs)),
        "compareRunSections": [
            _described(FIRST, display=True, columns=2, cardHeight=330),
            *(_described(name, display=False) for name in sections),
        ],
        "isAccordionReordered": True,
        "selectedColumns": list(COLUMNS),
        "orderByKey": f"metrics.`{BEST}`" if len(runs) <= DRAWN else "attributes.start_time",
        "orderByAsc": False,
        "searchFilter": f"tags.`{TRIAL}` != 'search'",
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
    }


def _charts(fixed: bool) -> list[dict[str, Any]]:
    """Where lambda is not a number that stays (WAR), its last value stands for it."""
    lam = {"key": "log10_lam", "type": "PARAM"} if fixed else {"key": "train/lam", "type": "METRIC"}
    axes = {"selectedParams": ["log10_lam", "width"] if fixed else ["width"]}
    axes["selectedMetrics"] = [BEST] if fixed else ["train/lam", BEST]
    natural, robust = ({"key": f"test/{name}_accuracy", "type": "METRIC"} for name in ("natural", "robust"))
    by_epoch = {"metricKey": "val/robust_accuracy", "selectedMetricKeys": ["val/robust_accuracy"]}
    return [
        _chart("PARALLEL", **axes, showAllRuns=True),
        _chart("SCATTER", xaxis=lam, yaxis={"key": BEST, "type": "METRIC"}),
        _chart("SCATTER", xaxis=natural, yaxis=robust),
        _chart("LINE", **by_epoch, xAxisKey="step", scaleType="linear", xAxisScaleType="linear", lineSmoothness=0),
    ]


def _chart(kind: str, **facts: Any) -> dict[str, Any]:
    name = "-".join([KEY, kind, *(str(axis["key"]) for axis in facts.values() if isinstance(axis, dict))])
    own = {"uuid": name, "type": kind, "metricSectionId": FIRST, "deleted": False, "isGenerated": False}
    return own | {"runsCountToCompare": 100} | facts


def _described(name: str, **facts: Any) -> dict[str, Any]:
    own = {"uuid": name, "name": name, "isReordered": name == FIRST, "deleted": False, "isGenerated": name != FIRST}
    return own | facts


def _section(metric: str) -> str:
    """The section that the UI puts a metric's own chart in."""
    above = metric.rpartition("/")[0]
    return {"": "Model metrics", "system": "System metrics"}.get(above, above)
