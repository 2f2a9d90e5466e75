"""Every trial and control of the search, and why the failed ones failed."""

from __future__ import annotations

from pandas import Series

from .answer import TEST, swatch
from .evidence import Evidence, LeftOutError, number, words
from .markup import ABSENT, Html, row, table, tag
from .numerals import counted, duration, percent, plain, whole

HEAD = (
    "Trial", "State", "λ", "Robust, validation", "Best epoch", "Robust, test", "Natural, test",
    "Stability, test", "Robust, last epoch", "Time", "Seed",
)  # fmt: skip
STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def all_trials(evidence: Evidence) -> Html:
    """One table, a group of rows per width, the best trial in bold, controls last."""
    if evidence.trials.empty and evidence.controls.empty:
        raise LeftOutError("the search has no trials")
    groups = [group(evidence, place, width) for place, width in enumerate(evidence.widths)]
    return table(caption(evidence), HEAD, groups)


def caption(evidence: Evidence) -> str:
    """What the columns mean, and how sure the test rates are."""
    errors = evidence.trials.get(f"{TEST}_se")
    error = ""
    if errors is not None and errors.notna().any():
        error = f" Their standard error over examples is about {percent(float(errors.median()))} points."
    return (
        "All trials by width; rates in percent. A pruned trial shows its best value so far. Test rates are "
        f"at the best validation epoch, except in the last column of rates.{error}"
    )


def group(evidence: Evidence, place: int, width: float) -> list[Html]:
    """The rows of one width under a line that names it."""
    best = evidence.best(width)
    trials = evidence.trials[evidence.trials["width"] == width].sort_values("trial")
    controls = evidence.controls[evidence.controls["width"] == width].sort_values("trial")
    title = swatch(place, f"width {plain(width)}: {counted(len(trials), 'trial')}")
    header = tag("tr", tag("th", title, colspan=str(len(HEAD)), scope="rowgroup"), class_="group")
    listed: list[Html] = [header]
    for frame in (trials, controls):
        for _, trial in frame.iterrows():
            listed += trial_rows(trial, best is not None and trial["trial"] == best["trial"])
    return listed


def trial_rows(trial: Series, is_best: bool) -> list[Html]:
    """A trial's row, and beneath it the reason when there is one."""
    name = tag("strong", trial["trial"]) if is_best else trial["trial"]
    shown = [row(name, cells(trial, is_best))]
    if reason := words(trial["reason"]):
        shown.append(tag("tr", tag("td", reason, colspan=str(len(HEAD))), class_="reason"))
    return shown


def cells(trial: Series, is_best: bool) -> list[object]:
    """A trial's cells after its name."""
    control = words(trial["control"])
    state = STATES.get(words(trial["state"]), words(trial["state"]))
    return [
        "best" if is_best else f"control: {control}" if control else state,
        plain(number(trial, "lam")),
        percent(number(trial, "value")),
        whole(number(trial, "best_epoch")),
        *(percent(number(trial, f"test/{rate}")) for rate in ("robust_accuracy", "natural_accuracy", "stability")),
        percent(number(trial, "test_last/robust_accuracy")),
        duration(number(trial, "seconds")),
        words(trial["seed"]) or ABSENT,
    ]
