"""Lambda* of each width: its interval, and the figure of the law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .canvas import (
    PAPER,
    SOFT,
    Drawing,
    legend,
    log_axis,
    look,
    panels,
    svg,
    tone,
    width_axis,
    width_entries,
)
from .evidence import Evidence, LeftOutError
from .numerals import plain

BAND = 0.18
ROOM = 10.0


def ends(evidence: Evidence, width: float) -> tuple[float, float, float, bool]:
    """Lambda* at a width, its interval, and whether it is censored; NaN where it is not determined."""
    found = evidence.search.ridge.optimum(width)
    if found.lam is None or found.low is None or found.high is None:
        return math.nan, math.nan, math.nan, True
    return found.lam, found.low, found.high, found.censored is not None


def interval_name(evidence: Evidence) -> str:
    """``95 % interval``."""
    return f"{plain(100 * evidence.search.ridge.confidence)} % interval"


def lam_against_width(evidence: Evidence) -> Drawing:
    """Lambda* of each width on log axes, with the law and its band, or the words that there is none."""
    widths = [width for width in evidence.widths if math.isfinite(ends(evidence, width)[0])]
    if not widths:
        raise LeftOutError(f"λ* is not determined at any width ({evidence.search.ridge.problem})")
    with look():
        figure, (axes,) = panels(3.8)
        law_and_band(axes, evidence)
        for width in widths:
            crest(axes, evidence, width)
        axes.set(xlabel="width", ylabel="λ*")
        width_axis(axes, evidence.widths)
        log_axis(axes, "y")
        law = law_entries(evidence) if evidence.search.ridge.law else []
        legend(figure, [*width_entries(widths, line=False), *law])
        drawn = svg(figure, "law", "Lambda star against width, log-log")
    return Drawing(drawn, law_caption(evidence))


def law_entries(evidence: Evidence) -> list[tuple[Any, str]]:
    """The legend's samples of the law and its band."""
    band = Patch(facecolor=SOFT, alpha=BAND), f"its {interval_name(evidence)}"
    return [(Line2D([], [], color=SOFT, linewidth=1.2), "law"), band]


def law_caption(evidence: Evidence) -> str:
    """Why points and law agree."""
    return (
        f"λ* against width, both on log axes. Bars and band: pointwise {interval_name(evidence)}s from the "
        "same surface, so points and law are one estimate, not a fit through independent points. Hollow: "
        f"outside the searched range of λ; arrows: the interval goes on. "
        f"{evidence.sample(evidence.fitted, 'finished trial')}; {evidence.examples('validation')}."
    )


def crest(axes: Axes, evidence: Evidence, width: float) -> None:
    """Lambda* at one width with its interval; an arrow where that goes on."""
    color, marker = tone(evidence.widths, width)
    lam, low, high, censored = ends(evidence, width)
    bottom, top = view(evidence)
    shown = np.clip([low, high], bottom, top)
    axes.plot([width, width], shown, color=color, linewidth=2.2)
    face = PAPER if censored else color
    if bottom <= lam <= top:
        axes.plot([width], [lam], marker, color=color, markersize=8, markerfacecolor=face)
    for beyond, end, arrow in ((low < bottom, shown[0], "v"), (high > top, shown[1], "^")):
        if beyond:
            axes.plot([width], [end], arrow, color=color, markersize=6)


def view(evidence: Evidence) -> tuple[float, float]:
    """The lambdas worth showing: those searched and a decade beyond; an interval may run far off."""
    searched = evidence.search.ridge.searched
    return min(own.low for own in searched) / ROOM, max(own.high for own in searched) * ROOM


def law_and_band(axes: Axes, evidence: Evidence) -> None:
    """The law through the widths searched, or the words that there is none."""
    ridge = evidence.search.ridge
    if ridge.law is None:
        axes.text(0.5, 0.95, "no law determined", transform=axes.transAxes, ha="center", va="top", color=SOFT)
        return
    widths = np.geomspace(evidence.widths[0], evidence.widths[-1], 60)
    lows, highs = np.array([ends(evidence, width)[1:3] for width in widths]).T
    bounds = view(evidence)
    axes.fill_between(
        widths, np.clip(lows, *bounds), np.clip(highs, *bounds), color=SOFT, alpha=BAND, linewidth=0, zorder=1
    )
    axes.plot(widths, [ridge.law(width) for width in widths], color=SOFT, linewidth=1.2, zorder=1.5)
