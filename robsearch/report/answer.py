"""The answer first: the law in words, lambda* at each width, and the net to deploy at each width."""

from __future__ import annotations

import math
import re

from pandas import DataFrame, Series

from robsearch.selection import collapsed_among
from robsearch.wording import counted

from .evidence import Evidence, number, suggestions_of, words
from .goals import aims
from .hover import linked
from .markup import ABSENT, Html, html, join, left_out, row, table, tag
from .numerals import percent, plain, points

TEST = "test/robust_accuracy"
SELECTION = (
    "The best trial is the one to deploy, but its validation score was selected as the maximum of many noisy "
    "ones and is therefore too good: judge it by its test score. λ* is estimated from many trials, "
    "not read off the winner, so the two lambdas differ."
)
ESTIMATED = (
    "The best λ at each width, estimated from {} together, and the range of λ whose fitted "
    "accuracy is within 0.5 points of the highest (it ends where the searched range ends)."
)


def answer(evidence: Evidence) -> Html:
    """The law's sentence, where the search stands, and the two tables per width."""
    law = tag("p", typeset(evidence.search.ridge.sentence()), class_="law")
    return join([law, standing(evidence), aims(evidence), lam_table(evidence), best_table(evidence)])


def typeset(sentence: str) -> Html:
    """The terminal's sentence as the page's: ``lambda* = 1.5 * width^0.3`` with signs and exponent."""
    signs = html(sentence).replace("lambda*", "λ*").replace(" * ", " × ")
    return Html(re.sub(r"\^(-?[\d.]*\d)", r"<sup>\1</sup>", signs))


def standing(evidence: Evidence) -> Html:
    """How many trials there are and how they ended; says so when the search is not over or has nothing."""
    trials = evidence.trials
    if trials.empty:
        return tag("p", "This search has no trials yet.", class_="absent")
    told = f"{counted(len(trials), 'trial')} at {counted(len(evidence.widths), 'width')}: {ended(trials)}."
    if collapsed := int(collapsed_among(trials).sum()):
        told += f" {counted(collapsed, 'net')} collapsed: nearly all images get one class. "
        told += "Such a net is never the best, and neither in the law nor in the figures of finished trials."
    if evidence.finished.empty:
        told += " No trial has finished: there is nothing to compare yet."
    if rungs := climbed(evidence):
        told += f" {rungs}"
    if (trials["state"] == "RUNNING").any():
        told += " The search was not over when this page was written: trials marked running have no final value."
    return tag("p", told)


def climbed(evidence: Evidence) -> str:
    """How many cheap trials chose how many full ones; empty for a search without rungs."""
    rungs = evidence.scouts["rung"].value_counts(sort=False)
    if rungs.empty:
        return ""
    told = ", ".join(f"{counted(int(count), 'trial')} of rung {rung}" for rung, count in rungs.items())
    return (
        f"They were chosen by {told}: cheaper trainings, which enter neither law nor figures, only the tables of cost "
        "and of all trials."
    )


def ended(trials: DataFrame) -> str:
    """``18 done, 4 pruned, 2 failed``, and those still running where there are any."""
    counts = trials["state"].value_counts()
    kinds = [("COMPLETE", "done"), ("PRUNED", "pruned"), ("FAIL", "failed"), ("RUNNING", "running")]
    told = [(int(counts.get(state, 0)), word) for state, word in kinds]
    return ", ".join(f"{count} {word}" for count, word in told if count or word != "running")


def lam_table(evidence: Evidence) -> Html:
    """Lambda* of every width with its interval and the lambdas that are as good."""
    interval = f"{plain(100 * evidence.search.ridge.confidence)} % interval"
    head = ["Width", "λ*", interval, "λ within 0.5 points", "Trials"]
    rows = []
    for place, width in enumerate(evidence.widths):
        own = evidence.trials[evidence.trials["width"] == width]
        rows.append(row(swatch(place, plain(width)), [*optimum_cells(evidence, width), ended(own)]))
        if censored := evidence.search.ridge.optimum(width).censored:
            rows.append(tag("tr", tag("td"), tag("td", typeset(censored), colspan="4"), class_="aside"))
    return table(ESTIMATED.format(evidence.fitted_words), head, [rows + not_tried(evidence)])


def not_tried(evidence: Evidence) -> list[Html]:
    """Where there is a law, what it recommends one step beyond the widest net, as far as the last two are apart."""
    if evidence.search.ridge.law is None:
        return []
    before, widest = evidence.widths[-2:]
    width = widest * widest / before
    found = evidence.search.ridge.optimum(width)
    cells = [ABSENT if found.lam is None else plain(found.lam), between(found.low, found.high), ABSENT]
    return [row(f"{plain(width)}, not tried", [*cells, "by the law, beyond the widths searched"])]


def optimum_cells(evidence: Evidence, width: float) -> list[str]:
    """Lambda*, its interval and the near-best lambdas of one width."""
    found, near = evidence.search.ridge.optimum(width), evidence.search.ridge.near_best(width)
    return [
        ABSENT if found.lam is None else plain(found.lam),
        between(found.low, found.high),
        ABSENT if near is None or found.lam is None else between(*near),
    ]


def between(low: float | None, high: float | None) -> str:
    """``2.1 to 6.3``."""
    return ABSENT if low is None or high is None else f"{plain(low)} to {plain(high)}"


def swatch(place: int, label: str) -> Html:
    """A label with a width's colour in the figures."""
    return join([tag("span", "", class_="swatch", style=f"background: var(--w{place})"), label])


def best_table(evidence: Evidence) -> Html:
    """The best trial of every width: its scores, and its gain over the controls."""
    if evidence.finished.empty:
        return left_out("the table of the best trials, because no trial has finished")
    seeds = ["Mean over its seeds"] if seeded(evidence) else []
    head = [
        "Width", "Best trial", "λ", "Robust, validation", *seeds, "Robust, test", "Natural, test", "Stability, test",
        "Control: robust, test", "Gain (points)",
    ]  # fmt: skip
    widths = enumerate(evidence.widths)
    rows = [row(swatch(place, plain(width)), best_cells(evidence, width)) for place, width in widths]
    caption = (
        "The best trial at each width, in percent ± one standard error over the test examples, not over "
        "seeds. Test scores are those of the best validation epoch; the error of the gain takes the two nets "
        "as independent."
    )
    if seeded(evidence):
        caption += " The mean over seeds is that of the same λ: ± one standard deviation between its (so many) seeds."
    return join([table(caption, head, [rows]), tag("p", SELECTION, class_="note")])


def best_cells(evidence: Evidence, width: float) -> list[object]:
    """One width's row of the table of best trials."""
    best = evidence.best(width)
    if best is None:
        every = evidence.trials[(evidence.trials["width"] == width) & (evidence.trials["state"] == "COMPLETE")]
        why = "no trial finished" if every.empty else "all finished trials collapsed"
        return [why, *[ABSENT] * (8 if seeded(evidence) else 7)]
    controls = evidence.controls[evidence.controls["width"] == width]
    against = [versus(best, control) for _, control in controls.iterrows()]
    return [
        tag("span", linked(evidence, best["trial"]), class_="whole"),
        plain(number(best, "lam")),
        percent(number(best, "value")),
        *([over_seeds(evidence, best)] if seeded(evidence) else []),
        *(score(best, f"test/{rate}") for rate in ("robust_accuracy", "natural_accuracy", "stability")),
        lines([f"{words(control['control'])} {score(control, TEST)}" for _, control in controls.iterrows()]),
        lines(against),
    ]


def seeded(evidence: Evidence) -> bool:
    """Whether some suggestion has several finished seeds."""
    return bool((suggestions_of(evidence.complete)["n"] > 1).any())


def over_seeds(evidence: Evidence, best: Series) -> str:
    """Mean and standard deviation over the seeds of the best trial's suggestion: ``63.1 ± 1.2 (3)``."""
    every = suggestions_of(evidence.complete)  # a seed that collapsed is one of its seeds
    own = every[(every["width"] == best["width"]) & (every["number"] == best["number"])].iloc[0]
    return f"{percent(own['value'], own['sd'])} ({own['n']:.0f})"


def score(trial: Series, column: str) -> str:
    """A test rate with its standard error."""
    return percent(number(trial, column), number(trial, f"{column}_se"))


def versus(best: Series, control: Series) -> str:
    """The gain in test robust accuracy over one control."""
    gain = number(best, TEST) - number(control, TEST)
    return points(gain, math.hypot(number(best, f"{TEST}_se"), number(control, f"{TEST}_se")))


def lines(texts: list[str]) -> Html:
    """Several texts in one cell, one under the other; a dash when there is none."""
    return join(texts or [ABSENT], "<br>")
