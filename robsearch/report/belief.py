"""What all trials say together: the believed value over width and lambda, how sure that is, and the trials on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .canvas import ACCENT, INK, PAPER, ROBUST, Drawing, filled, legend, log_axis, look, svg, tone, width_axis
from .evidence import Evidence, suggestions_of
from .hover import Spot, layer, spots
from .markup import Html, tag
from .numerals import plain
from .picture import Picture, assumed, caption, optima_table

FALLS, SHADES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), (0.72, 0.5, 0.33, 0.2, 0.1)
"""Points below the best at a width, and how strongly the bands between them are tinted."""
ANSWER: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (5, 2.5))}
DOTTED: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (1, 1.5))}
COLUMNS, NORMAL = 4, 1.96
CREST = 12
"""Widths between those searched at which lambda* is drawn."""


def belief_over_width(evidence: Evidence) -> list[Html | Drawing]:
    """The model in words, the belief drawn with the trials on it, and its lambda* beside that of the answer."""
    picture = Picture.of(evidence)
    return [tag("p", assumed(picture)), belief_figure(picture), optima_table(picture)]


def belief_figure(picture: Picture) -> Drawing:
    """A map over width and lambda, where there are several widths, and below it each width's curve."""
    found: list[Spot] = []
    with look():
        figure, whole, slices = canvas(len(picture.widths))
        if whole is not None:
            surface(whole, picture)
            crest(whole, picture)
            marks(whole, picture)
            dress(whole, picture)
        for axes, width in zip(slices, picture.widths, strict=False):
            curve(axes, picture, width)
            own = picture.trials[picture.trials["width"] == width]
            found += spots(axes, picture.evidence, own, own["lam"], 100 * own["value"])
        level(slices[: len(picture.widths)])
        entries(figure, picture)
        label = "Believed robust accuracy over width and lambda, with the trials"
        drawn = svg(figure, "belief", label, partial(layer, found=found))
    return Drawing(drawn, caption(picture))


def canvas(count: int) -> tuple[Figure, Axes | None, list[Axes]]:
    """The figure, the map's axes above, and those of ``count`` curves below."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    heights = [3.6] * (count > 1) + [2.5 if count > 1 else 3.6] * rows
    figure = Figure(figsize=(8.6, sum(heights) + 0.7), layout=ConstrainedLayoutEngine(wspace=0.04, hspace=0.05))
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    above = [figure.add_subplot(grid[0, :])] if count > 1 else []
    places = [(row, column) for row in range(len(above), len(heights)) for column in range(columns)]
    return figure, above[0] if above else None, [figure.add_subplot(grid[place]) for place in places[:count]]


def surface(axes: Axes, picture: Picture) -> None:
    """The fall from the best: a strip at each searched width, what a width between would do between them."""
    for low, high in pairwise(picture.widths):
        own = [width for width in picture.between if low < width < high]
        bands(axes, picture, own, np.column_stack([picture.fall(width) for width in own]))
    for width in picture.widths:
        ends = [width / picture.margin, width * picture.margin]
        bands(axes, picture, ends, np.column_stack([picture.fall(width)] * 2))


def bands(axes: Axes, picture: Picture, widths: Sequence[float], fall: np.ndarray) -> None:
    """Tinted bands of some falls (lams, widths)."""
    tints = [to_rgba(ACCENT, shade) for shade in SHADES]
    axes.contourf(widths, picture.lams, fall, levels=FALLS, colors=tints, antialiased=False, zorder=0.5)


def crest(axes: Axes, picture: Picture) -> None:
    """The believed lambda* with its interval, and the law of the answer."""
    places = [picture.between[i] for i in np.linspace(0, len(picture.between) - 1, CREST).astype(int)]
    lams, *interval = picture.crest(places)
    for end in interval:
        axes.plot(places, end, **DOTTED)
    axes.plot(places, lams, color=INK, linewidth=1.6)
    if (law := picture.evidence.search.ridge.law) is not None:
        ends = np.geomspace(picture.widths[0], picture.widths[-1], 40)
        axes.plot(ends, [law(width) for width in ends], **ANSWER)


def marks(axes: Axes, picture: Picture) -> None:
    """Every suggestion, tinted by what it scored itself, and beside its strip the width's lambda* and interval."""
    tried = suggestions_of(picture.trials)
    for width in picture.widths:
        _, marker = tone(picture.evidence.widths, width)
        own = tried[tried["width"] == width]
        best = picture.belief.value(width, picture.lams)[0].max()
        falls = 100 * np.maximum(best - own["value"].to_numpy(), 0)
        for lam, fall in zip(own["lam"], falls, strict=True):
            place = int(np.searchsorted(FALLS, fall, side="right")) - 1
            shade = SHADES[place] if place < len(SHADES) else 0.0
            style: dict[str, Any] = {"markersize": 7, "linestyle": "none", "marker": marker}
            axes.plot([width], [lam], **style, markerfacecolor=PAPER, markeredgecolor=PAPER, markeredgewidth=2.6)
            axes.plot([width], [lam], **style, markerfacecolor=to_rgba(ACCENT, shade), markeredgecolor=INK)
        found, *interval = np.array(picture.optima[width][1:4], dtype=float)
        beside = width * picture.margin**1.6
        axes.plot([beside, beside], interval, color=INK, linewidth=2.2, solid_capstyle="butt")
        axes.plot([beside], [found], "D", color=INK, markersize=5.5)


def dress(axes: Axes, picture: Picture) -> None:
    """Scales and labels of the map."""
    axes.set_xlim(picture.widths[0] / picture.margin**2, picture.widths[-1] * picture.margin**2.6)
    low, high = picture.belief.span
    room = (high / low) ** 0.04
    axes.set(xlabel="width", ylabel="λ", ylim=(low / room, high * room))
    axes.grid(visible=False)
    width_axis(axes, picture.widths)
    log_axis(axes, "y")


def curve(axes: Axes, picture: Picture, width: float) -> None:
    """One width: the believed curve and its band, the trials, lambda*, and the answer's curve."""
    color, marker = tone(picture.evidence.widths, width)
    mean, sd = picture.belief.value(width, picture.lams)
    band = 100 * (mean - NORMAL * sd), 100 * (mean + NORMAL * sd)
    axes.fill_between(picture.lams, *band, color=ACCENT, alpha=0.18, linewidth=0)
    axes.plot(picture.lams, 100 * mean, color=ACCENT)
    trials = picture.trials[picture.trials["width"] == width]
    ridge = picture.evidence.search.ridge
    if ridge.surface is not None:
        lams = np.geomspace(trials["lam"].min(), trials["lam"].max(), 60)
        axes.plot(lams, 100 * ridge.curve(width, lams), **ANSWER)
    axes.plot(trials["lam"], 100 * trials["value"], marker, **{**filled(color), "markersize": 6.5})
    axes.set_xlim(picture.belief.span[0] / 1.15, picture.belief.span[1] * 1.15)
    axes.set(xlabel="λ", title=f"width {plain(width)}")
    log_axis(axes, "x")


def level(slices: Sequence[Axes]) -> None:
    """Gives all curves the same scale, each around its own trials, so that steepness compares."""
    spans = [tuple(sorted(axes.get_ylim())) for axes in slices]
    half = max(high - low for low, high in spans) / 2
    for place, (axes, (low, high)) in enumerate(zip(slices, spans, strict=True)):
        middle = (low + high) / 2
        axes.set_ylim(middle - half, middle + half)
        if place % COLUMNS == 0:
            axes.set_ylabel(f"validation {ROBUST}")


def entries(figure: Figure, picture: Picture) -> None:
    """The legend."""
    told: list[tuple[Any, str]] = []
    if len(picture.widths) > 1:
        labels = [f"{plain(low)} to {plain(high)}" for low, high in pairwise(FALLS)]
        tints = [Patch(facecolor=to_rgba(ACCENT, shade)) for shade in SHADES]
        told += [*zip(tints, [f"{label} points lost" for label in labels], strict=True)]
        told += [(Line2D([], [], color=INK), "believed λ*"), (Line2D([], [], **DOTTED), "95 % interval")]
    told += [(Line2D([], [], **ANSWER), "the answer's law and curves")]
    legend(figure, told, columns=4)
