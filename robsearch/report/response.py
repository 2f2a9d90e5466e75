"""Accuracy against lambda, and below it lambda* of each width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pandas import DataFrame, Series

from robsearch.drawing.style import (
    LAMBDA,
    LIMIT,
    PAPER,
    RING,
    ROBUST,
    SOFT,
    Tone,
    legend,
    log_axis,
    mark,
    missed,
    panels,
    svg,
    width_entries,
)
from robsearch.metrics import VALUE
from robsearch.report.answer import title
from robsearch.report.evidence import Evidence, LeftOutError, meets, suggestions_of
from robsearch.report.marks import mark_optimum, mark_trials
from robsearch.report.thinning import uncovered
from robsearch.spaces import AtLeast

ROOM = 0.06
"""Below the lowest finished trial, as a share of their range."""
HOLLOW: dict[str, Any] = {"markerfacecolor": PAPER, "markersize": 4.5}


def accuracy_against_lam(evidence: Evidence) -> dict[str, Any]:
    """Every trial's validation robust accuracy, the fitted curves, and below them lambda* with
    intervals."""
    finished = evidence.finished[evidence.finished["lam"] > 0]
    if finished.empty:
        raise LeftOutError("no trial with a positive lambda finished")
    floor = axis_floor(finished)
    pruned = evidence.trials[evidence.trials["state"] == "PRUNED"]
    suggestions = suggestions_of(evidence.finished)
    is_drawn = suggestions_drawn(suggestions)
    covered = suggestions[~is_drawn]
    heights = (100 * pruned["value"]).clip(lower=floor)
    marked = evidence.drawn(pruned, np.log(pruned["lam"].where(pruned["lam"] > 0)), heights)
    # What a mark says goes with it.
    hidden = places_of(evidence.trials).isin(places_of(covered))
    hidden &= evidence.trials["state"] == "COMPLETE"
    hidden |= evidence.trials["trial"].isin(pruned["trial"][~pruned.index.isin(marked.index)])
    return {
        "svg": response_figure(
            evidence, floor, suggestions[is_drawn], marked, evidence.trials[~hidden]
        ),
        "pruned": len(pruned),
        "below": int((100 * pruned["value"] < floor).sum()),
        "seeded": (suggestions["n"] > 1).any(),
        "constrained": bool(evidence.search.subject_to),
        "has_curves": any(map(evidence.ridge.fitted_range, evidence.widths)),
    }


def response_figure(
    evidence: Evidence,
    floor: float,
    suggestions: DataFrame,
    pruned: DataFrame,
    answering: DataFrame,
) -> Markup:
    """The panel of robust accuracy, one for each other metric that is constrained, and the strip of
    lambda*; the suggestions and the pruned trials that are drawn, and the trials that answer the
    pointer."""
    count = len(evidence.widths)
    limits = evidence.search.subject_to
    apart = [limit for limit in limits if limit.metric in evidence.finished]
    heights = [4, *[1.6] * len(apart), 0.3 + 0.22 * count]
    figure, (axes, *others, strip) = panels(
        sum(heights), len(heights), sharex=True, height_ratios=heights
    )
    for width, tone, trials in evidence.by_width(evidence.finished):
        draw_suggestions(axes, tone, suggestions[suggestions["width"] == width], trials)
        draw_curve(axes, evidence, width, tone.color)
        cut = pruned[pruned["width"] == width]
        if len(cut):  # an empty unclipped line has its extent at the figure's corner
            values = (100 * cut["value"]).clip(lower=floor)
            axes.plot(
                cut["lam"],
                values,
                tone.marker,
                color=tone.color,
                clip_on=False,
                zorder=2.5,
                **HOLLOW,
            )
    bests = evidence.bests
    axes.plot(bests["lam"], 100 * bests["value"], "o", zorder=4, **RING)
    axes.set(ylabel=f"validation {ROBUST}")
    axes.set_ylim(bottom=floor)
    for panel, limit in zip(others, apart, strict=True):
        draw_constrained(panel, evidence, limit)
    for limit in limits:
        if limit.metric == VALUE:
            axes.axhline(100 * limit.value, **LIMIT)
    log_axis(axes, "x")
    # All panels share this axis, and an interval of lambda* that goes on must not widen it.
    strip.set_xlim(strip.get_xlim())
    for place, (width, tone, _) in enumerate(evidence.by_width(evidence.trials)):
        draw_optimum(strip, evidence, width, place, tone.color)
    strip.set(xlabel=LAMBDA, ylabel="λ*", ylim=(count - 0.4, -0.6), yticks=[])
    entries = state_entries(evidence, seeded=bool((suggestions["n"] > 1).any()))
    legend(figure, [*width_entries(evidence.widths), *entries], columns=5)
    trials = answering[answering["state"].isin(["COMPLETE", "PRUNED"])]
    values = (100 * trials["value"]).clip(lower=floor)
    spots = evidence.spots(axes, trials, trials["lam"], values)
    label = "Validation robust accuracy against lambda, one colour per width"
    return svg(figure, "response", label, spots)


def suggestions_drawn(suggestions: DataFrame) -> Series[bool]:
    """Which suggestions the panel draws (see ``thinning``)."""
    is_best = suggestions.groupby("width")["value"].transform("max") == suggestions["value"]
    lams = suggestions["lam"].where(suggestions["lam"] > 0)
    return uncovered(suggestions, np.log(lams), suggestions["value"], is_best)


def places_of(rows: DataFrame) -> pd.MultiIndex:
    """Width and number of the suggestion of each row."""
    return pd.MultiIndex.from_frame(rows[["width", "number"]])


def axis_floor(finished: DataFrame) -> float:
    """The axis's lower end in percent: the finished trials decide it, not a trial pruned after an
    epoch."""
    low = 100 * finished["value"].min()
    high = 100 * finished["value"].max()
    return float(low - max(ROOM * (high - low), 0.5))


def draw_suggestions(axes: Axes, tone: Tone, suggestions: DataFrame, trials: DataFrame) -> None:
    """One mark per suggestion of a width, hollow where it misses a constraint; with several seeds
    mean, spread and each seed."""
    values = 100 * suggestions["value"]
    mark_trials(
        axes,
        tone,
        suggestions["lam"],
        values,
        suggestions["feasible"],
        zorder=3,
    )
    several = suggestions[suggestions["n"] > 1]
    if several.empty:
        return
    axes.errorbar(
        several["lam"],
        100 * several["value"],
        100 * several["sd"],
        fmt="none",
        ecolor=tone.color,
        elinewidth=1.2,
        capsize=2.5,
        zorder=2.8,
    )
    seeds = trials[trials["number"].isin(several["number"])]
    values = 100 * seeds["value"]
    axes.plot(
        seeds["lam"],
        values,
        ".",
        color=tone.color,
        markersize=4,
        zorder=2.9,
    )


def draw_constrained(axes: Axes, evidence: Evidence, limit: AtLeast) -> None:
    """A constrained metric of the finished trials, with the line they have to reach."""
    for _, tone, trials in evidence.by_width(evidence.finished):
        trials = evidence.drawn(trials, np.log(trials["lam"]), trials[limit.metric])
        rates = trials[limit.metric]
        mark_trials(axes, tone, trials["lam"], 100 * rates, rates >= limit.value)
    axes.axhline(100 * limit.value, **LIMIT)
    axes.set(ylabel=f"{title(limit.metric)} (%)".replace(" ", "\n", 1))
    axes.margins(y=0.15)


def draw_curve(axes: Axes, evidence: Evidence, width: float, color: str) -> None:
    """The fitted curve over the lambdas that bend it."""
    fitted = evidence.ridge.fitted_range(width)
    if fitted is not None:
        lams = np.geomspace(*fitted, 100)
        axes.plot(lams, 100 * evidence.ridge.curve(width, lams), color=color)


def draw_optimum(strip: Axes, evidence: Evidence, width: float, place: int, color: str) -> None:
    """One width's lambda* and interval as a row of the strip; hollow where it is censored."""
    optimum = evidence.ridge.optimum(width)
    if optimum.lam is None:
        strip.text(
            0.01,
            place,
            f"width {evidence.names[width]}: not determined",
            color=color,
            transform=strip.get_yaxis_transform(),
            va="center",
            fontsize=9,
        )
        return

    def plot(lams: Sequence[float], *marker: str, **style: Any) -> None:
        strip.plot(lams, [place] * len(lams), *marker, **style)

    mark_optimum(plot, optimum, strip.get_xlim(), "<>", color)


def state_entries(evidence: Evidence, seeded: bool) -> list[tuple[Any, str]]:
    """The legend's samples of what became of a trial."""
    entries = [
        (mark("o", **RING), "best trial"),
        (mark("o", **HOLLOW), "pruned, best value so far"),
    ]
    if not meets(evidence.finished).all():
        entries.append((mark("o", **missed(SOFT)), "misses a constraint"))
    if evidence.search.subject_to:
        entries.append((Line2D([], [], **LIMIT), "constraint"))
    if seeded:
        entries.append((mark("."), "one seed"))
    return [*entries, (mark("D"), "λ* and interval")]
