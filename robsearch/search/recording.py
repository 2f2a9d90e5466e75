"""What the driver tells MLflow of a trial, in MLflow's terms: run name, parameters, tags, metrics."""

from __future__ import annotations

import math
import time
from pathlib import Path

from robsearch.checkpoints import best_epoch, read_history
from robsearch.protocols import Metrics
from robsearch.study import Study, Suggestion
from robsearch.tracking import STATUS, Tracker
from robsearch.trainer import VALUE
from robsearch.trial import read_test


class Recorder:
    """One search's trials, passed on to its tracker. Everything may be said twice; MLflow keeps it once.

    Args:
        tracker: the search's record in MLflow.
        trials: the folder of the trials' folders.
    """

    def __init__(self, tracker: Tracker, trials: Path) -> None:
        self.tracker, self.trials = tracker, trials

    def begin(self, suggestion: Suggestion) -> None:
        """A trial starts, or goes on after an interruption."""
        tags = {
            "robsearch.kind": "control" if suggestion.control else "trial",
            "robsearch.width": f"{suggestion.width:g}",
            "robsearch.control": suggestion.control or "none",
        }
        self.tracker.begin(suggestion.trial, run_name(suggestion), params(suggestion), tags)

    def epochs(self, trial: str, entries: list[Metrics]) -> None:
        """Per-epoch metrics, at their original times."""
        self.tracker.epochs(trial, entries)

    def ended(self, trial: str, state: str, history: list[Metrics], reason: str | None = None) -> None:
        """A trial ended; its best epoch is logged under names of its own, because MLflow compares last values."""
        when = time.time()
        if history:
            best, when = history[best_epoch(history) - 1], history[-1]["time"]
            summary = {"val/best_robust_accuracy": best[VALUE], "val/best_epoch": best["epoch"]}
            self.tracker.log(trial, summary, 0, when)
        self.tracker.end(trial, state, when, {"robsearch.reason": reason} if reason else None)

    def measured(self, trial: str, test: Metrics) -> None:
        """The averages as metrics, the tables and figures as artifacts."""
        folder = self.trials / trial
        self.tracker.log(trial, test, 0, (folder / "test.json").stat().st_mtime)
        for file in sorted(folder.glob("*.parquet")):
            self.tracker.artifact(trial, file, "tables")
        for file in sorted(folder.glob("figures/*.png")):
            self.tracker.artifact(trial, file, "figures")

    def not_measured(self, trial: str, reason: str) -> None:
        """Measures failed, all or some: a tag, because the trial's own state does not change."""
        self.tracker.tag(trial, {"robsearch.measures": reason})

    def catch_up(self, studies: list[Study]) -> None:
        """Brings MLflow up to what Optuna and the trials' folders know, where a dead driver had not got to."""
        recorded = self.tracker.statuses()
        for study in studies:
            for trial in study.trials():
                name, state = study.name(trial.number), trial.state.name
                agreed = recorded.get(name) == f"{state} {STATUS.get(state)}"
                if state != "RUNNING" and "recipe" in trial.user_attrs and not agreed:
                    self._say_again(study, trial.number, state, trial.user_attrs.get("reason"))

    def _say_again(self, study: Study, number: int, state: str, reason: str | None) -> None:
        suggestion = study.again(number)
        history = read_history(self.trials / suggestion.trial)
        self.begin(suggestion)
        self.epochs(suggestion.trial, history)
        if test := read_test(self.trials / suggestion.trial):
            self.measured(suggestion.trial, test)
        self.ended(suggestion.trial, state, history, reason)


def run_name(suggestion: Suggestion) -> str:
    """What the runs table shows: ``w4 lam 6.31 #017``, or ``w4 standard`` for a control."""
    if suggestion.control:
        return f"w{suggestion.width:g} {suggestion.control}"
    lam = suggestion.recipe.flat().get("lam")
    shown = f" lam {lam:.3g}" if isinstance(lam, float) else ""
    return f"w{suggestion.width:g}{shown} #{suggestion.number:03d}"


def params(suggestion: Suggestion) -> dict[str, str | float]:
    """The recipe's flat view, with width and lambda on the log scale, which MLflow's axes lack."""
    flat = suggestion.recipe.flat()
    logs: dict[str, str | float] = {"width": suggestion.width, "log2_width": math.log2(suggestion.width)}
    lam = flat.get("lam")
    if isinstance(lam, float) and lam > 0:
        logs["log10_lam"] = math.log10(lam)
    return flat | logs
