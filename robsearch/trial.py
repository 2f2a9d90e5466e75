"""One trial, as a worker runs it: train in its folder and report, then measure on ``test``. No Ray in here."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from robsearch.checkpoints import Attempt, Saved, StaleAttemptError, best_epoch, newest
from robsearch.data import load
from robsearch.evaluation import averages, best_device, examples, judge, to_device
from robsearch.protocols import Metrics
from robsearch.recipe import Recipe
from robsearch.trainer import NonFiniteLossError, train

REPORT_SECONDS = 0.25
"""Epochs shorter than this share one report and one checkpoint: at most this much training is ever redone."""


@dataclass(frozen=True)
class Report:
    """What a worker tells the driver.

    Attributes:
        epochs: the metrics of the epochs since the last report, each with ``epoch`` and ``time`` (Unix seconds).
        ended: None while training, then ``COMPLETE`` or ``FAIL``.
        reason: why it failed.
        attempt: the number of this try at the trial.
        test: the averages over ``test``, from a measuring job.
    """

    epochs: list[Metrics] = field(default_factory=list)
    ended: str | None = None
    reason: str | None = None
    attempt: int = 0
    test: Metrics = field(default_factory=dict)


def run(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Trains the recipe in its folder, from the last valid checkpoint if there is one.

    The first report repeats what earlier attempts had saved, so that a driver that lost a report catches up.
    Errors are reported, not raised: only the death of the process is left for Ray to see.
    """
    attempt = Attempt.claim(folder)
    try:
        yield from _train(recipe, attempt)
    except (NonFiniteLossError, StaleAttemptError) as error:
        yield Report(ended="FAIL", reason=str(error), attempt=attempt.number)
    except Exception as error:
        yield Report(ended="FAIL", reason=_reason(error, attempt.folder), attempt=attempt.number)


def measure(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Takes the full measures of a trained trial on ``test``: best epoch per example, last epoch in brief.

    Writes ``test.parquet`` (one row per image) and then ``test.json`` (the averages) in the trial's folder.
    """
    try:
        saved = newest(folder)
        if saved is None:
            raise FileNotFoundError(f"no valid checkpoint in {folder}")
        yield Report(ended="COMPLETE", test=_measure(recipe, folder, saved))
    except Exception as error:
        yield Report(ended="FAIL", reason=_reason(error, folder))


def read_test(folder: Path) -> Metrics:
    """The averages over ``test`` of a measured trial; empty if it has not been measured."""
    file = folder / "test.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _train(recipe: Recipe, attempt: Attempt) -> Iterator[Report]:
    saved = attempt.resume()
    history = list(saved.history) if saved else []
    if saved:
        yield Report(list(history), attempt=attempt.number)
    sent, due = len(history), time.monotonic() + REPORT_SECONDS
    epoch = None
    for epoch in train(recipe, saved.state if saved else None):
        history.append({"epoch": epoch.number, "time": time.time(), **epoch.metrics})
        report = time.monotonic() >= due
        if report or best_epoch(history) == epoch.number:
            attempt.save(epoch, history)
        if report:
            yield Report(history[sent:], attempt=attempt.number)
            sent, due = len(history), time.monotonic() + REPORT_SECONDS
    if epoch is not None and sent < len(history):
        attempt.save(epoch, history)
    yield Report(history[sent:], ended="COMPLETE", attempt=attempt.number)


def _measure(recipe: Recipe, folder: Path, saved: Saved) -> Metrics:
    device = best_device()
    test = to_device(load(recipe.data)["test"], device)
    model = recipe.model.build(recipe.data.spec).to(device)

    model.load_state_dict(saved.state["judged"])
    metrics = {f"test_last/{name}": rate for name, rate in judge(recipe, model, test).items()}
    if recipe.averaging is not None:
        model.load_state_dict(saved.best_state["model"])
        metrics |= {f"test_raw/{name}": rate for name, rate in judge(recipe, model, test).items()}
    model.load_state_dict(saved.best_state["judged"])
    table = examples(recipe, model, test)
    metrics |= {f"test/{name}": value for name, value in averages(table, recipe.measures or ()).items()}
    metrics["test/epoch"] = best_epoch(saved.history)
    pq.write_table(table, folder / "test.parquet")
    _write_last(folder / "test.json", metrics)
    return metrics


def _write_last(file: Path, metrics: Metrics) -> None:
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(metrics))
    unfinished.replace(file)


def _reason(error: Exception, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.txt").write_text(traceback.format_exc())
    return f"{type(error).__name__}: {error} (traceback: {folder / 'error.txt'})"
