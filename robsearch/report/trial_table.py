"""Every trial and control of the search, and why the failed ones failed."""

from __future__ import annotations

from pandas import DataFrame, Series

from robsearch.wording import counted

from .answer import TEST, swatch
from .evidence import Evidence, LeftOutError, number, words
from .hover import linked
from .markup import ABSENT, Html, html, row, table, tag
from .numerals import duration, percent, plain, whole

HEAD = (
    "Trial", "State", "λ", "Robust, validation", "Best epoch", "Robust, test", "Natural, test",
    "Stability, test", "Robust, last epoch", "Time", "Seed",
)  # fmt: skip
RATES = ("value", TEST, "test/natural_accuracy", "test/stability", "test_last/robust_accuracy")
STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def all_trials(evidence: Evidence) -> Html:
    """One table, a group of rows per width, the best trial in bold, then controls, then trials of lower fidelity."""
    if evidence.trials.empty and evidence.controls.empty and evidence.scouts.empty:
        raise LeftOutError("the search has no trials")
    groups = [group(evidence, place, width) for place, width in enumerate(evidence.widths)]
    return table(caption(evidence), HEAD, groups)


def caption(evidence: Evidence) -> str:
    """What the columns mean, and how sure the test rates are."""
    errors = evidence.trials.get(f"{TEST}_se")
    error = ""
    if errors is not None and errors.notna().any():
        error = f" Their standard error over examples is about {percent(float(errors.median()))} points."
    if len(evidence.replicated):
        error += " Below the seeds of a suggestion: their mean ± one standard deviation between them."
    if len(evidence.scouts):
        error += " Trials of lower fidelity come last, with their rung; their rates compare only among themselves."
    return (
        "All trials by width; rates in percent. A pruned trial shows its best value so far. Test rates are "
        f"at the best validation epoch, except in the last column of rates.{error}"
    )


def group(evidence: Evidence, place: int, width: float) -> list[Html]:
    """The rows of one width under a line that names it."""
    best = evidence.best(width)
    trials = evidence.trials[evidence.trials["width"] == width].sort_values("trial")
    controls = evidence.controls[evidence.controls["width"] == width].sort_values("trial")
    scouts = evidence.scouts[evidence.scouts["width"] == width].sort_values(["rung", "trial"])
    title = swatch(place, f"width {plain(width)}: {counted(len(trials), 'trial')}")
    header = tag("tr", tag("th", title, colspan=str(len(HEAD)), scope="rowgroup"), class_="group")
    listed: list[Html] = [header]
    for _, suggestion in trials.groupby("number", dropna=False, sort=False):
        for _, trial in suggestion.iterrows():
            is_best = best is not None and trial["trial"] == best["trial"]
            listed += trial_rows(trial, is_best, linked(evidence, trial["trial"]))
        listed += mean_row(suggestion)
    for frame in (controls, scouts):
        for _, trial in frame.iterrows():
            listed += trial_rows(trial, False, linked(evidence, trial["trial"]))
    return listed


def mean_row(suggestion: DataFrame) -> list[Html]:
    """What the finished seeds of a suggestion come to, where there are several."""
    done = suggestion[(suggestion["state"] == "COMPLETE") & suggestion["value"].notna()]
    if len(done) < 2:
        return []
    spread = [percent(float(done[rate].mean()), float(done[rate].std())) if rate in done else ABSENT for rate in RATES]
    told = [plain(float(done["lam"].mean())), spread[0], "", *spread[1:], "", ""]
    name = tag("td", f"mean of {counted(len(done), 'seed')}", colspan="2")
    return [tag("tr", name, *(tag("td", cell) for cell in told), class_="aside")]


def trial_rows(trial: Series, is_best: bool, link: Html) -> list[Html]:
    """A trial's row, and beneath it the reason when there is one."""
    name = tag("strong", link) if is_best else link
    shown = [row(name, cells(trial, is_best))]
    if reason := words(trial["reason"]):
        shown.append(tag("tr", tag("td", reason, colspan=str(len(HEAD))), class_="reason"))
    return shown


def cells(trial: Series, is_best: bool) -> list[object]:
    """A trial's cells after its name."""
    return [
        "best" if is_best else became(trial),
        plain(number(trial, "lam")),
        percent(number(trial, "value")),
        whole(number(trial, "best_epoch")),
        *(percent(number(trial, f"test/{rate}")) for rate in ("robust_accuracy", "natural_accuracy", "stability")),
        percent(number(trial, "test_last/robust_accuracy")),
        duration(number(trial, "seconds")),
        words(trial["seed"]) or ABSENT,
    ]


def became(trial: Series) -> Html:
    """A trial's state, with its rung; for a control which one it is."""
    if control := words(trial["control"]):
        return html(f"control: {control}")
    state, rung = STATES.get(words(trial["state"]), words(trial["state"])), words(trial["rung"])
    state = "collapsed" if words(trial["collapsed"]) == "True" else state
    return tag("span", f"{rung}: {state}", class_="whole") if rung else html(state)
