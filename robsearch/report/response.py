"""The figure that carries the answer: accuracy against lambda, and below it lambda* of each width."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame

from .canvas import (
    LAMBDA,
    PAPER,
    RING,
    ROBUST,
    Drawing,
    filled,
    legend,
    log_axis,
    look,
    mark,
    panels,
    svg,
    tone,
    width_entries,
)
from .crest import ends, interval_name
from .evidence import Evidence, LeftOutError
from .numerals import counted, plain

ROOM = 0.06
HOLLOW: dict[str, Any] = {"markerfacecolor": PAPER, "markersize": 4.5}


def accuracy_against_lam(evidence: Evidence) -> Drawing:
    """Every trial's validation robust accuracy, the fitted curves, and below them lambda* with intervals."""
    finished = evidence.finished[evidence.finished["lam"] > 0]
    if finished.empty:
        raise LeftOutError("no trial with a positive lambda finished")
    with look():
        count = len(evidence.widths)
        figure, (axes, strip) = panels(4.2 + 0.22 * count, rows=2, sharex=True, height_ratios=[4, 0.3 + 0.22 * count])
        for width in evidence.widths:
            scatter(axes, evidence, width, floor(finished))
            curve(axes, evidence, width)
        axes.set(ylabel=f"validation {ROBUST}")
        axes.set_ylim(bottom=floor(finished))
        log_axis(strip, "x")
        strip.set_xlim(strip.get_xlim())
        for place, width in enumerate(evidence.widths):
            interval(strip, evidence, width, place)
        strip.set(xlabel=LAMBDA, ylabel="λ*", ylim=(count - 0.4, -0.6), yticks=[])
        legend(figure, [*width_entries(evidence.widths), *state_entries()])
        drawn = svg(figure, "response", "Validation robust accuracy against lambda, one colour per width")
    return Drawing(drawn, response_caption(evidence, floor(finished)))


def floor(finished: DataFrame) -> float:
    """The axis's lower end in percent: the finished trials decide it, not a trial pruned after an epoch."""
    low, high = 100 * finished["value"].min(), 100 * finished["value"].max()
    return float(low - max(ROOM * (high - low), 0.5))


def scatter(axes: Axes, evidence: Evidence, width: float, bottom: float) -> None:
    """The trials of one width: finished ones filled, pruned ones small and hollow, the best one ringed."""
    color, marker = tone(evidence.widths, width)
    done = evidence.finished[evidence.finished["width"] == width]
    axes.plot(done["lam"], 100 * done["value"], marker, zorder=3, **filled(color))
    cut = evidence.trials[(evidence.trials["width"] == width) & (evidence.trials["state"] == "PRUNED")]
    if len(cut):  # an empty unclipped line has its extent at the figure's corner, which upsets the layout
        heights = (100 * cut["value"]).clip(lower=bottom)
        axes.plot(cut["lam"], heights, marker, zorder=2.5, clip_on=False, color=color, **HOLLOW)
    best = evidence.best(width)
    if best is not None:
        axes.plot([best["lam"]], [100 * best["value"]], "o", zorder=4, **RING)


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


def state_entries() -> list[tuple[Any, str]]:
    """The legend's samples of what became of a trial."""
    return [
        (mark("o", **RING), "best trial"),
        (mark("o", **HOLLOW), "pruned, best value so far"),
        (mark("D"), "λ* and interval"),
    ]


def response_caption(evidence: Evidence, bottom: float) -> str:
    """What the reader sees, and on how much it stands."""
    pruned = evidence.trials[evidence.trials["state"] == "PRUNED"]
    below = int((100 * pruned["value"] < bottom).sum())
    edge = f"Pruned trials drawn on the lower edge lie below it ({below}). " if below else ""
    fitted = (
        "Curves: one surface fitted to all finished trials, quadratic in log λ, its crest moving with log "
        f"width. Lower panel: λ* and its {interval_name(evidence)}; hollow where λ* lies outside the "
        "searched range, arrows where the interval leaves the axis. "
    )
    surface = fitted if evidence.search.ridge.surface else "No curve: the trials are too few to fit one. "
    return (
        f"Validation robust accuracy at the best epoch of each trial against λ. {surface}{edge}"
        f"{evidence.sample(evidence.finished, 'finished trial')}, and "
        f"{counted(len(pruned), 'pruned trial')}; {evidence.examples('validation')}."
    )
