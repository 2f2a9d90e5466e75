"""Lambda* and the law over width, drawn on what all trials together say of every width and lambda,
with the trials on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from pandas import DataFrame

from robsearch.drawing.formatting import names_of
from robsearch.drawing.style import (
    ACCENT,
    INK,
    ROBUST,
    blank,
    filled,
    legend,
    log_axis,
    mark,
    svg,
    tone,
    width_axis,
)
from robsearch.errors import counted
from robsearch.laws import Optimum
from robsearch.laws.posterior import LEAST, Posterior
from robsearch.report.evidence import Evidence, LeftOutError, suggestions_of
from robsearch.report.marks import (
    LOSSES,
    SHADES,
    loss_bands,
    loss_entries,
    mark_optimum,
    tint_of,
    tinted_marks,
)
from robsearch.report.thinning import uncovered

BETWEEN = 24
"""Widths between those searched at which the surface is drawn."""
STRIP = 0.022
"""Half a searched width's strip, as a share of the axis."""
FURTHER = 10.0
"""How far, as a factor, the map reaches beyond the lambdas tried, for a lambda* that lies there."""
CURVE: dict[str, Any] = {
    "color": INK,
    "linewidth": 1.1,
    "linestyle": (0, (5, 2.5)),
}
DOTTED: dict[str, Any] = {
    "color": INK,
    "linewidth": 0.9,
    "linestyle": (0, (1, 1.5)),
}
COLUMNS = 4
NORMAL = 1.96


@dataclass(frozen=True)
class Surface:
    """What the finished trials say together, and the places at which it is drawn."""

    evidence: Evidence
    trials: DataFrame
    posterior: Posterior

    @classmethod
    def of(cls, evidence: Evidence) -> Surface:
        """From the trials of positive lambda that the law is fitted from."""
        trials = evidence.fitted[evidence.fitted["lam"] > 0]
        posterior = evidence.ridge.posterior
        if posterior is None or trials.empty:
            widths = trials["width"].nunique()
            there = f"{counted(len(trials), 'finished trial')} at {counted(widths, 'width')}"
            needed = f"it takes {max(widths, 1) + LEAST}, of {LEAST} different λ"
            raise LeftOutError(f"{there}, and {needed}")
        return cls(evidence, trials, posterior)

    @cached_property
    def widths(self) -> list[float]:
        """Those with finished trials, thin to wide."""
        return sorted(self.trials["width"].unique())

    @cached_property
    def lams(self) -> np.ndarray:
        """(81,), over the range tried."""
        return np.geomspace(*self.posterior.span, 81)

    @property
    def margin(self) -> float:
        """Half a strip, as a factor of width."""
        return math.pow(self.widths[-1] / self.widths[0], STRIP)

    @cached_property
    def between(self) -> list[list[float]]:
        """Widths that were not searched, gap by gap, up to the strips of those that were."""
        count = max(BETWEEN // (len(self.widths) - 1), 3)
        return [
            np.geomspace(low * self.margin, high / self.margin, count).tolist()
            for low, high in pairwise(self.widths)
        ]

    def lost(self, width: float) -> np.ndarray:
        """Points below the best lambda's, at each of ``lams``."""
        mean, _ = self.posterior.value(width, self.lams)
        return np.asarray(100 * (mean.max() - mean))

    @property
    def noise(self) -> float:
        """Standard deviation of two trainings' values at one lambda and width, in points."""
        variance = float(self.posterior.weights @ self.posterior.shapes[:, 2] ** 2)
        return 100 * self.posterior.trials.unit * math.sqrt(variance)

    @cached_property
    def optima(self) -> list[Optimum]:
        """Those of the answer at each width where it is determined."""
        optima = map(self.evidence.ridge.optimum, self.widths)
        return [optimum for optimum in optima if optimum.lam is not None]

    @cached_property
    def view(self) -> tuple[float, float]:
        """The lambdas tried, and up to a decade beyond where a lambda* lies there."""
        low, high = self.posterior.span
        lams = [optimum.lam for optimum in self.optima if optimum.lam is not None]
        bottom = max(min([low, *lams]), low / FURTHER)
        top = min(max([high, *lams]), high * FURTHER)
        padding_factor = (top / bottom) ** 0.04
        return bottom / padding_factor, top * padding_factor


def lam_over_width(evidence: Evidence) -> dict[str, Any]:
    """The map of width and lambda with the answer on it, where there are several widths, and below
    it each width's curve."""
    surface = Surface.of(evidence)
    count = len(surface.widths)
    columns = min(count, COLUMNS)
    names = [f"width {name}" for name in names_of(surface.widths).values()]
    names += ["."] * (-count % columns)  # the mosaic's sign for an empty place
    rows: list[Any] = [names[first : first + columns] for first in range(0, len(names), columns)]
    heights = [2.5 if count > 1 else 3.8] * len(rows)
    if count > 1:
        rows = [["map"] * columns, *rows]
        heights = [4.0, *heights]
    figure = blank(sum(heights) + 0.7)
    axes: dict[str, Axes] = figure.subplot_mosaic(rows, height_ratios=heights)
    if count > 1:
        draw_map(axes.pop("map"), surface)
    spots = []
    fitted = surface.trials
    drawn = evidence.drawn(fitted, np.log(fitted["lam"]), fitted["value"])
    for (name, panel), width in zip(axes.items(), surface.widths, strict=True):
        trials = drawn[drawn["width"] == width]
        draw_slice(panel, surface, width, trials)
        panel.set(xlabel="λ", title=name)
        spots += evidence.spots(panel, trials, trials["lam"], 100 * trials["value"])
    share_scale(list(axes.values()))
    legend(figure, entries(surface), columns=4)
    label = "Robust accuracy over width and lambda, with lambda star, the law and the trials"
    return {"surface": surface, "svg": svg(figure, "surface", label, spots)}


def draw_map(axes: Axes, surface: Surface) -> None:
    """The points lost, every suggestion, the law, and lambda* beside each width's strip."""
    ridge = surface.evidence.ridge
    for gap in surface.between:
        draw_bands(axes, surface, gap, [surface.lost(width) for width in gap])
    for width in surface.widths:
        strip = [width / surface.margin, width * surface.margin]
        draw_bands(axes, surface, strip, [surface.lost(width)] * 2)
    draw_suggestions(axes, surface)
    law = ridge.law
    if law is None:
        axes.set_title("no law determined", loc="right", color=INK)
    else:
        widths_drawn = np.geomspace(surface.widths[0], surface.widths[-1], 40)
        lams = [law(width) for width in widths_drawn]
        predicted = filter(None, map(ridge.by_law, widths_drawn))
        # With two widths there is no interval: absent ends become NaN, which is not drawn.
        ends = np.array([(optimum.low, optimum.high) for optimum in predicted], dtype=float)
        axes.plot(widths_drawn, lams, color=INK)
        axes.plot(widths_drawn, ends.clip(*surface.view), **DOTTED)
    for optimum in surface.optima:
        draw_optimum(axes, surface, optimum)
    axes.set(xlabel="width", ylabel="λ", ylim=surface.view)
    # On the right there is room for lambda*, which stands beside the widest net's strip.
    left = surface.widths[0] / surface.margin**2
    right = surface.widths[-1] * surface.margin**2.6
    axes.set_xlim(left, right)
    axes.grid(visible=False)
    width_axis(axes, surface.widths)
    log_axis(axes, "y")


def draw_bands(
    axes: Axes,
    surface: Surface,
    widths: Sequence[float],
    lost: Sequence[np.ndarray],
) -> None:
    """Tinted bands of the points lost (lams,) at some widths."""
    axes.contourf(
        widths,
        surface.lams,
        np.column_stack(lost),
        levels=LOSSES,
        colors=[to_rgba(ACCENT, shade) for shade in SHADES],
        antialiased=False,
        zorder=0.5,
    )


def draw_suggestions(axes: Axes, surface: Surface) -> None:
    """Every suggestion, tinted by what it scored itself, on a ground of paper."""
    suggestions = suggestions_of(surface.trials)
    is_drawn = uncovered(
        suggestions,
        np.log(suggestions["width"]),
        np.log(suggestions["lam"]),
        suggestions["value"] == suggestions.groupby("width")["value"].transform("max"),
    )
    # Marks of one tint are then drawn at once: each of its own line would take seconds.
    is_crowded = not is_drawn.all()
    suggestions = suggestions[is_drawn]
    for width in surface.widths:
        _, marker = tone(surface.evidence.widths, width)
        best = surface.posterior.value(width, surface.lams)[0].max()
        here = suggestions[suggestions["width"] == width]
        # A suggestion above the mean's best counts as one that loses nothing.
        bands = loss_bands(100 * (best - here["value"]))
        groups = here.groupby(bands if is_crowded else np.arange(len(here)), sort=False)
        for _, rows in groups:
            tint = tint_of(int(bands[here.index.get_loc(rows.index[0])]))
            tinted_marks(axes, [width] * len(rows), rows["lam"], marker, tint)


def draw_optimum(axes: Axes, surface: Surface, optimum: Optimum) -> None:
    """Lambda* beside the strip of its width, hollow outside the lambdas tried there; arrows where
    its interval goes on."""
    # A little to the right of the strip, whose half width is the margin.
    beside = optimum.width * surface.margin**1.6

    def plot(lams: Sequence[float], *marker: str, **style: Any) -> None:
        axes.plot([beside] * len(lams), lams, *marker, **style)

    mark_optimum(
        plot,
        optimum,
        surface.view,
        "v^",
        INK,
        markersize=5.5,
    )


def draw_slice(axes: Axes, surface: Surface, width: float, trials: DataFrame) -> None:
    """One width: the mean of all trials together and its band, the trials, and the answer's
    curve."""
    color, marker = tone(surface.evidence.widths, width)
    mean, sd = surface.posterior.value(width, surface.lams)
    low = 100 * (mean - NORMAL * sd)
    high = 100 * (mean + NORMAL * sd)
    axes.fill_between(
        surface.lams,
        low,
        high,
        color=ACCENT,
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(surface.lams, 100 * mean, color=ACCENT)
    ridge = surface.evidence.ridge
    fitted = ridge.fitted_range(width)
    if fitted is not None:
        lams = np.geomspace(*fitted, 60)
        axes.plot(lams, 100 * ridge.curve(width, lams), **CURVE)
    style = {**filled(color), "markersize": 6.5}
    axes.plot(trials["lam"], 100 * trials["value"], marker, **style)
    weakest, strongest = surface.posterior.span
    axes.set_xlim(weakest / 1.15, strongest * 1.15)
    log_axis(axes, "x")


def share_scale(slices: Sequence[Axes]) -> None:
    """Gives all curves the same scale, each around its own trials, so that steepness compares."""
    spans = [axes.get_ylim() for axes in slices]
    half = max(high - low for low, high in spans) / 2
    for place, (axes, (low, high)) in enumerate(zip(slices, spans, strict=True)):
        middle = (low + high) / 2
        axes.set_ylim(middle - half, middle + half)
        # Only the first panel of a row needs the label.
        if place % COLUMNS == 0:
            axes.set_ylabel(f"validation {ROBUST}")


def entries(surface: Surface) -> list[tuple[Any, str]]:
    """The legend."""
    curves = [
        (Line2D([], [], color=ACCENT), "all trials together"),
        (Line2D([], [], **CURVE), "the answer's curves"),
    ]
    if len(surface.widths) == 1:
        return curves
    samples = loss_entries()
    if surface.evidence.ridge.law is not None:
        samples.append((Line2D([], [], color=INK), "law"))
        samples.append((Line2D([], [], **DOTTED), f"its {surface.evidence.interval_name}"))
    if surface.optima:
        samples.append((mark("D", INK), "λ* and interval"))
    return [*samples, *curves]
