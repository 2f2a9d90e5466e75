"""What the driver tells MLflow of a trial, in MLflow's terms: run name, parameters, tags, metrics."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq

from robsearch.checkpoints import best_epoch, read_history
from robsearch.costs import Cost, cost_of
from robsearch.data import content_digest, load
from robsearch.protocols import Dataset, Metrics
from robsearch.provenance import Facts, commit_text, read_attempts, read_search, versions_text
from robsearch.search.opening import answer_lines
from robsearch.search.result import Search
from robsearch.search.strongest import STRONGEST, ladder_of, strongest
from robsearch.spaces import Stage
from robsearch.study import COLUMN, SearchRecord, Study, Suggestion, Training
from robsearch.tracking import SEARCH_ID, STATUS, Tracker
from robsearch.trainer import VALUE
from robsearch.trial import read_test
from robsearch.wording import counted

NOT_COMPARED = re.compile(
    r"(train_set|val_raw|test_raw)/.*|test_last/(?!robust_accuracy$).*|gap/loss"
    r"|(val|test)/(wrong_to_right|confidence|loss|epoch)|time/(train_seconds|images_per_second)"
    r"|.*(_se|/(se|min|q05|q50|q95|max|spread|std|condition))|ladder/[^/]+/(?!robust_accuracy$).*"
)
"""What a trial's folder keeps and MLflow is not told: its pages draw a chart for every name."""
STRANGE = re.compile(r"[^\w .:/-]", re.ASCII)
"""What MLflow refuses in the name of a parameter."""


class Recorder:
    """One search's trials, passed on to its tracker. Everything may be said twice; MLflow keeps it once.

    Args:
        tracker: the search's record in MLflow.
        trials: the folder of the trials' folders.
        record: of the search, for the tags that all its runs share.
    """

    def __init__(self, tracker: Tracker, trials: Path, record: SearchRecord | None = None) -> None:
        self.tracker, self.trials = tracker, trials
        self._facts = facts(record) if record else {}
        self._setting = record.setting if record else {}
        self._data: dict[Dataset, dict[str, str]] = {}

    def begin_search(self, record: SearchRecord) -> None:
        """The run of the search itself, which holds its summary, its report and, if asked for, the machine's load."""
        tags = {**self._facts, **_driver_tags(read_search(self.trials.parent))}
        tags |= {"robsearch.kind": "search", "robsearch.seed": str(record.seed)}
        tags["mlflow.note.content"] = _described(record)
        self.tracker.begin("search", f"search {record.name}", {"space": record.space}, tags)
        self.tracker.watch_machine()

    def begin(self, suggestion: Suggestion) -> None:
        """A trial starts, or goes on after an interruption."""
        tags = {
            **self._facts,
            **attempt_tags(read_attempts(self.trials / suggestion.trial)),
            "robsearch.kind": "control" if suggestion.stage.control else "trial",
            "robsearch.width": _width_of(suggestion),
            "robsearch.control": suggestion.stage.control or "none",
            "robsearch.fidelity": suggestion.stage.rung or "full",
            "robsearch.seed": str(suggestion.recipe.seed),
        }
        dataset = suggestion.recipe.data
        if dataset not in self._data:
            self._data[dataset] = logged_data(dataset)
        data = self._data[dataset]
        self.tracker.begin(suggestion.trial, run_name(suggestion), params(suggestion), tags, data)

    def attempted(self, trial: str) -> None:
        """A new attempt at a trial has begun: what it runs on is told."""
        self.tracker.tag(trial, attempt_tags(read_attempts(self.trials / trial)))

    def epochs(self, trial: str, entries: list[Metrics]) -> None:
        """Per-epoch metrics, at their original times."""
        self.tracker.epochs(trial, [compared(entry) for entry in entries])

    def cost(self, trial: str, cost: Cost) -> None:
        """What a trial took that has ended, or all of a ``search``; said again once a trial is measured."""
        self.tracker.log(trial, cost.metrics, 0, time.time())

    def ended(
        self, trial: str, state: str, history: list[Metrics], reason: str | None = None, collapsed: bool = False
    ) -> None:
        """A trial ended; its best epoch is logged under names of its own, because MLflow compares last values."""
        when = time.time()
        if history:
            best, when = history[best_epoch(history) - 1], history[-1]["time"]
            summary = {"val/best_robust_accuracy": best[VALUE], "val/best_epoch": best["epoch"]}
            self.tracker.log(trial, summary, 0, when)
            self.strongest(trial, read_test(self.trials / trial), history)
        tags = attempt_tags(read_attempts(self.trials / trial))
        tags |= {"robsearch.reason": reason} if reason else {}
        tags |= {"robsearch.collapsed": "true"} if collapsed else {}
        self.tracker.end(trial, state, when, tags)

    def measured(self, trial: str, test: Metrics) -> None:
        """The averages as metrics, the tables and figures as artifacts."""
        folder = self.trials / trial
        self.tracker.log(trial, compared(test), 0, (folder / "test.json").stat().st_mtime)
        self.strongest(trial, test, read_history(folder))
        for file in [folder / "test.json", *sorted(folder.glob("*.parquet"))]:
            self.tracker.artifact(trial, file, "tables")
        for file in sorted(folder.glob("figures/*.png")):
            self.tracker.artifact(trial, file, "figures")

    def strongest(self, trial: str, test: Metrics, history: list[Metrics]) -> None:
        """The strongest known robust accuracy of a trial, and in a tag its attack, n and interval."""
        number = best_epoch(history) if history else 0
        best = {"best_epoch": number, "value": history[number - 1][VALUE]} if history else {}
        if found := strongest(ladder_of(self.trials / trial), {**test, **best}, self._setting):
            self.tracker.log(trial, {STRONGEST[0]: found.robust_accuracy}, 0, time.time())
            self.tracker.tag(trial, {"robsearch.strongest": found.text})

    def answer(self, search: Search) -> None:
        """What the search found in words, in its own run."""
        law, lines = search.ridge.sentence(), [f"- {line}" for line in answer_lines(search)]
        answer = "\n".join([f"__{law}__", "", *lines]).replace("*", r"\*")  # Markdown would take lambda* for emphasis
        summary = f"{answer}\n\n{_described(search.record)}"
        self.tracker.tag("search", {"robsearch.law": law, "mlflow.note.content": summary})

    def conclude(self, search: Search) -> None:
        """The answer, the report, all trials and epochs as tables, in the search's own run."""
        self.answer(search)
        self.cost("search", search.cost)
        self.tracker.artifact("search", search.report)
        folder = search.folder / "tables"
        folder.mkdir(exist_ok=True)
        for name in ("trials", "epochs"):
            pq.write_table(search.table(name), folder / f"{name}.parquet")
            self.tracker.artifact("search", folder / f"{name}.parquet", "tables")
        search.trials.to_csv(folder / "trials.csv", index=False)
        self.tracker.artifact("search", folder / "trials.csv", "tables")

    def not_measured(self, trial: str, reason: str) -> None:
        """Measures failed, all or some: a tag, because the trial's own state does not change."""
        self.tracker.tag(trial, {"robsearch.measures": reason})

    def catch_up(self, studies: list[Study]) -> None:
        """Brings MLflow up to what Optuna and the trials' folders know, where a dead driver had not got to."""
        recorded = self.tracker.statuses()
        for study in studies:
            for _, training in study.trainings():
                agreed = recorded.get(training.trial) == f"{training.state} {STATUS.get(training.state)}"
                if training.state != "RUNNING" and not agreed:
                    self._say_again(study, training)

    def _say_again(self, study: Study, training: Training) -> None:
        suggestion = study.again(training)
        history = read_history(self.trials / suggestion.trial)
        test, facts = read_test(self.trials / suggestion.trial), training.facts
        self.begin(suggestion)
        self.epochs(suggestion.trial, history)
        if test:
            self.measured(suggestion.trial, test)
        self.cost(suggestion.trial, cost_of(history, test, facts))
        self.ended(suggestion.trial, training.state, history, facts.get("reason"), facts.get("collapsed", False))


def compared(metrics: Metrics) -> Metrics:
    """Those by which a person compares trials; ``load_search`` has all of them, from the trials' folders.

    NaN and infinity are left out: MLflow's stores would show 1.8e308.
    """
    return {name: value for name, value in metrics.items() if math.isfinite(value) and not NOT_COMPARED.fullmatch(name)}


def _described(record: SearchRecord) -> str:
    """How a search was made, as Markdown."""
    return "\n".join(f"- **{label}**: {text}" for label, text in record.setting.items())


def facts(record: SearchRecord) -> dict[str, str]:
    """The tags that all runs of a search share."""
    return {
        "robsearch.search": record.name,
        SEARCH_ID: record.identity,
        "mlflow.source.name": record.space,
    }


def attempt_tags(attempts: Sequence[Facts]) -> dict[str, str]:
    """What each attempt at a trial ran on, and of the last one also tags by which runs can be compared."""
    if not attempts:
        return {}
    last = attempts[-1]
    tags = {**_code_tags(last), "robsearch.hardware": f"{last['node']}, {last['device']}"}
    tags |= {"robsearch.node": last["node"], "robsearch.device": last["device"]}
    for each in attempts:
        parts = (each["node"], each["device"], commit_text(each), versions_text(each))
        tags[f"robsearch.attempt.{each['attempt']}"] = "; ".join(parts)
    return tags


def _driver_tags(search: Facts) -> dict[str, str]:
    """What the newest driver of a search runs on."""
    drivers = search.get("drivers")
    if not drivers:
        return {}
    last = drivers[-1]
    hardware = [last["node"], counted(os.cpu_count() or 1, "CPU"), driver_gpus()]
    return {**_code_tags(last), "robsearch.hardware": ", ".join(filter(None, hardware))}


def _code_tags(of: Facts) -> dict[str, str]:
    clean = {True: "true", False: "false"}.get(of["clean"], "unknown")
    return {"robsearch.commit": of["commit"], "robsearch.clean": clean, "robsearch.versions": versions_text(of)}


@cache
def driver_gpus() -> str:
    """The names of the driver's GPUs, such as ``2 x NVIDIA H200``; empty where there are none."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ", ".join(f"{count} x {name}" for name, count in Counter(asked.stdout.split("\n")).items() if name)


def logged_data(dataset: Dataset) -> dict[str, str]:
    """A data set as the fields of an ``mlflow.entities.Dataset``: its name, digest, source, sizes and shape."""
    sizes = {split: len(part.labels) for split, part in load(dataset).items()}
    spec = dataset.spec
    return {
        "name": type(dataset).__name__,
        "digest": content_digest(dataset),
        "source_type": "robsearch",
        "source": json.dumps({"dataset": repr(dataset)}),
        "schema": json.dumps({"images": ["uint8", *spec.shape], "labels": ["int64", spec.num_classes]}),
        "profile": json.dumps({"num_rows": sum(sizes.values()), **sizes}),
    }


def run_name(suggestion: Suggestion) -> str:
    """What the runs table shows: ``w4 lam 6.31 #017``, or ``w4 standard`` for a control."""
    stage, width = suggestion.stage, f"w{_width_of(suggestion)}"
    if stage.control:
        return f"{width} {stage.control}"
    lam = suggestion.recipe.flat().get("lam")
    number = f"#{suggestion.number:03d}" + ("" if suggestion.replicate is None else f" r{suggestion.replicate}")
    parts = [width, stage.rung, f"lam {lam:.3g}" if isinstance(lam, float) else None, number]
    return " ".join(part for part in parts if part)


def _width_of(suggestion: Suggestion) -> str:
    """As in the trial's name: it tells all widths of the search apart."""
    return Stage(suggestion.width, exact=suggestion.stage.exact).label.removeprefix("w")


def params(suggestion: Suggestion) -> dict[str, str | float]:
    """The recipe's flat view, what was suggested, and width and lambda on the log scale, which MLflow's axes lack."""
    flat = suggestion.recipe.flat()
    logs: dict[str, str | float] = {"width": suggestion.width, "log2_width": math.log2(suggestion.width)}
    lam = flat.get("lam")
    if isinstance(lam, float) and lam > 0:
        logs["log10_lam"] = math.log10(lam)
    suggested = {f"{COLUMN}{STRANGE.sub('_', name)}": value for name, value in suggestion.params.items()}
    return flat | logs | suggested
