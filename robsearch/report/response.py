"""The figure that carries the answer: accuracy against lambda, and below it lambda* of each width."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pandas import DataFrame

from robsearch.trainer import VALUE
from robsearch.wording import counted

from .canvas import (
    LAMBDA,
    LIMIT,
    PAPER,
    RING,
    ROBUST,
    SOFT,
    Drawing,
    filled,
    legend,
    log_axis,
    look,
    mark,
    missed,
    panels,
    svg,
    tone,
    width_entries,
)
from .crest import ends, interval_name
from .evidence import Evidence, LeftOutError, meets
from .goals import Constraint, constraints, named
from .hover import layer, spots
from .numerals import plain

ROOM = 0.06
HOLLOW: dict[str, Any] = {"markerfacecolor": PAPER, "markersize": 4.5}


def accuracy_against_lam(evidence: Evidence) -> Drawing:
    """Every trial's validation robust accuracy, the fitted curves, and below them lambda* with intervals."""
    finished = evidence.finished[evidence.finished["lam"] > 0]
    if finished.empty:
        raise LeftOutError("no trial with a positive lambda finished")
    with look():
        count = len(evidence.widths)
        apart = [each for each in constraints(evidence) if each.metric in finished]
        heights = [4, *[1.6] * len(apart), 0.3 + 0.22 * count]
        shape: dict[str, Any] = {"rows": len(heights), "height_ratios": heights}
        figure, (axes, *others, strip) = panels(sum(heights) - 0.1, sharex=True, **shape)
        for width in evidence.widths:
            scatter(axes, evidence, width, floor(finished))
            curve(axes, evidence, width)
        axes.set(ylabel=f"validation {ROBUST}")
        axes.set_ylim(bottom=floor(finished))
        for own, wanted in zip(others, apart, strict=True):
            constrained(own, evidence, wanted)
        for wanted in constraints(evidence):
            if wanted.metric == VALUE:
                axes.axhline(100 * wanted.least, **LIMIT)
        log_axis(strip, "x")
        strip.set_xlim(strip.get_xlim())
        for place, width in enumerate(evidence.widths):
            interval(strip, evidence, width, place)
        strip.set(xlabel=LAMBDA, ylabel="λ*", ylim=(count - 0.4, -0.6), yticks=[])
        legend(figure, [*width_entries(evidence.widths), *state_entries(evidence)], columns=5)
        shown = evidence.trials[evidence.trials["state"].isin(["COMPLETE", "PRUNED"])]
        found = spots(axes, evidence, shown, shown["lam"], (100 * shown["value"]).clip(lower=floor(finished)))
        label = "Validation robust accuracy against lambda, one colour per width"
        drawn = svg(figure, "response", label, partial(layer, found=found))
    return Drawing(drawn, response_caption(evidence, floor(finished)))


def floor(finished: DataFrame) -> float:
    """The axis's lower end in percent: the finished trials decide it, not a trial pruned after an epoch."""
    low, high = 100 * finished["value"].min(), 100 * finished["value"].max()
    return float(low - max(ROOM * (high - low), 0.5))


def scatter(axes: Axes, evidence: Evidence, width: float, bottom: float) -> None:
    """The trials of one width: finished ones large, pruned ones small and hollow, the best one ringed."""
    color, marker = tone(evidence.widths, width)
    suggested(axes, evidence, width)
    cut = evidence.trials[(evidence.trials["width"] == width) & (evidence.trials["state"] == "PRUNED")]
    if len(cut):  # an empty unclipped line has its extent at the figure's corner, which upsets the layout
        heights = (100 * cut["value"]).clip(lower=bottom)
        axes.plot(cut["lam"], heights, marker, zorder=2.5, clip_on=False, color=color, **HOLLOW)
    best = evidence.best(width)
    if best is not None:
        axes.plot([best["lam"]], [100 * best["value"]], "o", zorder=4, **RING)


def suggested(axes: Axes, evidence: Evidence, width: float) -> None:
    """One mark per suggestion, hollow where it misses a constraint; with several seeds mean, spread and each seed."""
    color, marker = tone(evidence.widths, width)
    every = evidence.suggestions[evidence.suggestions["width"] == width]
    for met, style in ((True, filled(color)), (False, missed(color))):
        own = every[every["feasible"] == met]
        axes.plot(own["lam"], 100 * own["value"], marker, zorder=3, **style)
    several = every[every["n"] > 1]
    if len(several):
        spread: dict[str, Any] = {"ecolor": color, "elinewidth": 1.2, "capsize": 2.5}
        axes.errorbar(several["lam"], 100 * several["value"], 100 * several["sd"], fmt="none", zorder=2.8, **spread)
        own = evidence.finished[evidence.finished["width"] == width]
        seeds = own[own["number"].isin(several["number"])]
        axes.plot(seeds["lam"], 100 * seeds["value"], ".", zorder=2.9, color=color, markersize=4)


def constrained(axes: Axes, evidence: Evidence, wanted: Constraint) -> None:
    """A constrained metric of the finished trials, with the line they have to reach."""
    for width in evidence.widths:
        color, marker = tone(evidence.widths, width)
        own = evidence.finished[evidence.finished["width"] == width]
        enough = own[wanted.metric] >= wanted.least
        for rows, style in ((own[enough], filled(color)), (own[~enough], missed(color))):
            axes.plot(rows["lam"], 100 * rows[wanted.metric], marker, **style)
    axes.axhline(100 * wanted.least, **LIMIT)
    axes.set(ylabel=f"{named(wanted.metric)} (%)".replace(" ", "\n", 1))
    axes.margins(y=0.15)


def curve(axes: Axes, evidence: Evidence, width: float) -> None:
    """The fitted curve over the lambdas tried at this width."""
    ridge = evidence.search.ridge
    lams = next((np.geomspace(own.low, own.high, 100) for own in ridge.searched if own.width == width), None)
    if ridge.surface is not None and lams is not None:
        axes.plot(lams, 100 * ridge.curve(width, lams), color=tone(evidence.widths, width).color)


def interval(strip: Axes, evidence: Evidence, width: float, place: int) -> None:
    """One width's lambda* and interval as a row of the strip; hollow where it is censored."""
    color, _ = tone(evidence.widths, width)
    lam, low, high, censored = ends(evidence, width)
    if not math.isfinite(lam):
        beside: dict[str, Any] = {"transform": strip.get_yaxis_transform(), "va": "center", "fontsize": 9}
        strip.text(0.01, place, f"width {plain(width)}: not determined", color=color, **beside)
        return
    left, right = strip.get_xlim()
    strip.plot(np.clip([low, high], left, right), [place, place], color=color, linewidth=2.2)
    if left < lam < right:
        face = PAPER if censored else color
        strip.plot([lam], [place], "D", color=color, markersize=6.5, markerfacecolor=face)
    for end, edge, shape in ((low < left, left, "<"), (high > right, right, ">")):
        if end:
            strip.plot([edge], [place], shape, color=color, markersize=6, clip_on=False)


def state_entries(evidence: Evidence) -> list[tuple[Any, str]]:
    """The legend's samples of what became of a trial."""
    told = [(mark("o", **RING), "best trial"), (mark("o", **HOLLOW), "pruned, best value so far")]
    if not meets(evidence.finished).all():
        told.append((mark("o", **missed(SOFT)), "misses a constraint"))
    if constraints(evidence):
        told.append((Line2D([], [], **LIMIT), "constraint"))
    if len(evidence.replicated):
        told.append((mark("."), "one seed"))
    return [*told, (mark("D"), "λ* and interval")]


def response_caption(evidence: Evidence, bottom: float) -> str:
    """What the reader sees, and on how much it stands."""
    pruned = evidence.trials[evidence.trials["state"] == "PRUNED"]
    below = int((100 * pruned["value"] < bottom).sum())
    edge = f"Pruned trials drawn on the lower edge lie below it ({below}). " if below else ""
    fitted = (
        f"Curves: one surface fitted to {evidence.fitted_words}, quadratic in log λ, its crest moving with log "
        f"width. Lower panel: λ* and its {interval_name(evidence)}; hollow where λ* lies outside the "
        "searched range, arrows where the interval leaves the axis. "
    )
    surface = fitted if evidence.search.ridge.surface else "No curve: the trials are too few to fit one. "
    several = evidence.replicated
    seeds = "Several seeds of one λ: their mean ± one standard deviation, and each as a dot. " if len(several) else ""
    limited = "Large hollow marks miss a constraint; curves and λ* are fitted to all trials alike. "
    limit = limited if constraints(evidence) else ""
    return (
        f"Validation robust accuracy at the best epoch of each trial against λ. {seeds}{limit}{surface}{edge}"
        f"{evidence.sample(evidence.finished, 'finished trial')}, and "
        f"{counted(len(pruned), 'pruned trial')}; {evidence.examples('validation')}."
    )
