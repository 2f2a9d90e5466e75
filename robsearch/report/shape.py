"""The shape of what was searched: slices, a contour, parallel coordinates, and ranks against
lambda."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator
from matplotlib.tri import LinearTriInterpolator, Triangulation
from pandas import DataFrame, Series

from robsearch.drawing.formatting import number
from robsearch.drawing.style import (
    ACCENT,
    INK,
    LAMBDA,
    ROBUST,
    SMALL,
    SOFT,
    filled,
    legend,
    log_axis,
    mark,
    panels,
    svg,
    tone,
    width_entries,
)
from robsearch.report.evidence import Evidence, LeftOutError
from robsearch.report.marks import (
    LOSSES,
    SHADES,
    loss_bands,
    loss_entries,
    tint_of,
    tinted_marks,
)
from robsearch.report.parameters import Parameter
from robsearch.report.thinning import MOST_DRAWN, uncovered

COLUMNS = 3
PANEL_HEIGHT = 2.5
MOST_SLICES = 12
"""Panels of one figure, and axes of the parallel coordinates: those of the most important
parameters."""
LEAST_FOR_CONTOUR = 6
"""Suggestions of a width without which no contour is drawn between them."""
GRID_STEPS = 60
TWO_DECADES = 100
JITTER = 0.28
"""How far marks stray from the middle of a choice, which has a width of 1."""
FIFTHS = ("best fifth", "second", "third", "fourth", "last fifth")
LONGEST_CHOICE = 14


class Column(NamedTuple):
    """An axis of the parallel coordinates: its title, the height of each row from 0 to 1, and its
    ticks."""

    title: str
    heights: Series[float]
    ticks: list[tuple[float, str]]


def slice_by_parameter(evidence: Evidence) -> dict[str, Any]:
    """Robust accuracy against each parameter, a panel each."""
    rows = finished_suggestions(evidence)
    ordered, more = shown(evidence)
    figure, axes = small_panels(len(ordered), sharey=True)
    spots = []
    for place, (panel, parameter) in enumerate(zip(axes, ordered, strict=True)):
        xs = drawn_at(parameter, rows)
        drawn = thinned(rows, parameter, xs, rows["value"])
        for _, (color, marker), here in evidence.by_width(drawn):
            style = {**filled(color), "markersize": 6}
            panel.plot(xs[here.index], 100 * here["value"], marker, **style)
        label_axis(panel, parameter, "x")
        if place % COLUMNS == 0:
            panel.set(ylabel=f"validation {ROBUST}")
        spots += evidence.spots(panel, drawn, xs[drawn.index], 100 * drawn["value"])
    legend(figure, width_entries(evidence.widths, line=False))
    label = "Validation robust accuracy against each searched parameter"
    return {**said(evidence, rows), "more": more, "svg": svg(figure, "slice", label, spots)}


def contour_of_two(evidence: Evidence) -> dict[str, Any]:
    """Points lost over the two most important parameters, a panel for each width."""
    rows = finished_suggestions(evidence)
    varying = [
        parameter
        for parameter in evidence.parameters.most_important
        if parameter.positions(rows).nunique() > 1
    ]
    if len(varying) < 2:
        only = "".join(f" but {parameter.name}" for parameter in varying)
        raise LeftOutError(f"a contour takes two parameters, and nothing{only} was varied")
    across, up = sorted(varying[:2], key=lambda parameter: parameter.name != "lam")
    rows = rows[across.positions(rows).notna() & up.positions(rows).notna()]
    widths = [width for width in evidence.widths if rows["width"].eq(width).any()]
    figure, axes = small_panels(len(widths), sharex=True, sharey=True)
    spots = []
    without = []
    for place, (panel, width) in enumerate(zip(axes, widths, strict=True)):
        here = rows[rows["width"] == width]
        if not draw_ground(panel, across, up, here):
            without.append(evidence.names[width])
        xs = drawn_at(across, here)
        ys = drawn_at(up, here)
        drawn = thinned(here, across, xs, ys)
        draw_tinted(panel, drawn, xs, ys, tone(evidence.widths, width).marker)
        panel.set_title(f"width {evidence.names[width]}")
        label_axis(panel, across, "x")
        label_axis(panel, up, "y")
        if place % COLUMNS:
            panel.set_ylabel("")
        panel.grid(visible=False)
        # The ground ends at the outermost marks, which would be cut in two.
        panel.use_sticky_edges = False
        panel.margins(0.06)
        spots += evidence.spots(panel, drawn, xs[drawn.index], ys[drawn.index])
    legend(figure, loss_entries(), columns=5)
    label = f"Points lost over {across.label} and {up.label}, a panel for each width"
    return {
        **said(evidence, rows),
        "parameters": [across, up],
        "without": without,
        "has_words": bool(across.choices or up.choices),
        "by_importance": not evidence.parameters.importance.empty,
        "svg": svg(figure, "contour", label, spots),
    }


def parallel_coordinates(evidence: Evidence) -> dict[str, Any]:
    """A line for each suggestion through all that was searched to its robust accuracy."""
    rows = finished_suggestions(evidence)
    ordered, more = shown(evidence)
    # Of many suggestions every so many-th in the order of their loss is drawn, the best among them.
    rows = rows.sort_values(["lost", "value"], ascending=[True, False], kind="stable")
    step = math.ceil(len(rows) / MOST_DRAWN)
    drawn = rows.iloc[::step].iloc[::-1]
    figure, (axes,) = panels(3.9)
    columns: list[Column] = []
    if len(evidence.widths) > 1:
        columns.append(width_column(evidence, drawn))
    columns += [parallel_axis(parameter, drawn) for parameter in ordered]
    low, high = 100 * rows["value"].min(), 100 * rows["value"].max()
    ticks = [(scaled_value(tick, low, high), number(tick)) for tick in even_ticks(low, high)]
    heights = scaled(100 * drawn["value"], low, high)
    columns.append(Column("robust\naccuracy (%)", heights, ticks))
    draw_parallel(axes, columns, drawn)
    legend(figure, loss_entries(), columns=5)
    label = "Parallel coordinates of all that was searched, tinted by the points lost"
    return {
        **said(evidence, rows),
        "left_undrawn": len(rows) - len(drawn),
        "more": more,
        "svg": svg(figure, "parallel", label),
    }


def rank_against_lam(evidence: Evidence) -> dict[str, Any]:
    """The rank at its width of each suggestion over lambda and every other parameter."""
    rows = finished_suggestions(evidence)
    rows = rows[rows["lam"] > 0]
    if rows.empty:
        raise LeftOutError("no trial with a positive lambda finished")
    chosen, more = shown(evidence)
    names = set(evidence.parameters.others)
    ordered = [parameter for parameter in chosen if parameter.name in names]
    figure, axes = small_panels(len(ordered))
    spots = []
    counts = rows.groupby("width")["rank"].transform("size")
    bands = np.floor((rows["rank"] - 1) * len(FIFTHS) / counts).astype(int)
    for panel, parameter in zip(axes, ordered, strict=True):
        ys = drawn_at(parameter, rows)
        drawn = thinned(rows, None, np.log(rows["lam"]), ys)
        for width in evidence.widths:
            marker = tone(evidence.widths, width).marker
            # The best lie on top.
            for band in reversed(range(len(FIFTHS))):
                here = drawn[(drawn["width"] == width) & (bands[drawn.index] == band)]
                if len(here):
                    tinted_marks(panel, here["lam"], ys[here.index], marker, tint_of(band))
        panel.set(xlabel=LAMBDA if len(ordered) < COLUMNS else "λ")
        label_axis(panel, parameter, "y")
        log_axis(panel, "x")
        spots += evidence.spots(panel, drawn, drawn["lam"], ys[drawn.index])
    tints = [
        (Patch(facecolor=to_rgba(ACCENT, shade)), name)
        for shade, name in zip(SHADES, FIFTHS, strict=True)
    ]
    marks = [
        (mark(tone(evidence.widths, width).marker, SOFT), f"width {name}")
        for width, name in evidence.names.items()
    ]
    legend(figure, [*tints, *marks], columns=8)
    label = "Rank of each suggestion at its width over lambda and every other parameter"
    return {**said(evidence, rows), "more": more, "svg": svg(figure, "rank", label, spots)}


def finished_suggestions(evidence: Evidence) -> DataFrame:
    """Those that have a value."""
    rows = evidence.parameters.suggestions
    if rows.empty:
        raise LeftOutError("no trial has finished")
    return rows


def shown(evidence: Evidence) -> tuple[list[Parameter], list[str]]:
    """The parameters that a figure has room for, most important first, and the names of the
    others."""
    ordered = evidence.parameters.most_important
    return ordered[:MOST_SLICES], [parameter.label for parameter in ordered[MOST_SLICES:]]


def said(evidence: Evidence, rows: DataFrame) -> dict[str, Any]:
    """What a caption says of the suggestions in its figure."""
    return {
        "count": len(rows),
        "seeded": bool((rows["n"] > 1).any()),
        "other_widths": len(evidence.widths) > 1,
    }


def small_panels(count: int, **shared: Any) -> tuple[Figure, list[Axes]]:
    """So many small axes in rows of ``COLUMNS``."""
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    height = PANEL_HEIGHT if columns > 1 else 3.6
    figure, axes = panels(0.6 + rows * height, rows, columns, **shared)
    for spare in axes[count:]:
        spare.remove()
    for panel in axes[max(count - columns, 0) : count]:
        # Axes that are shared are labelled in the last row, also above an empty place.
        panel.tick_params(labelbottom=True)
    return figure, axes[:count]


def drawn_at(parameter: Parameter, rows: DataFrame) -> Series[float]:
    """Where marks lie on a parameter's axis: those of one choice side by side, so that they do not
    cover each other."""
    positions = parameter.positions(rows)
    if not parameter.choices:
        return positions
    # The same at every drawing: the golden ratio spreads any number of them evenly.
    order = pd.Series(np.arange(len(rows)), rows.index)
    return positions + JITTER * (2 * (order * 0.6180339887 % 1) - 1)


def thinned(
    rows: DataFrame, across: Parameter | None, xs: Series[float], ys: Series[float]
) -> DataFrame:
    """The rows that a panel draws (see ``thinning``), the best of each width among them."""
    if across is not None and across.bounds.is_log:
        xs = logs(xs)
    chosen: DataFrame = rows[uncovered(rows, xs, ys, rows["rank"] == 1)]
    return chosen


def logs(values: Series[float]) -> Series[float]:
    """Their logarithms."""
    return values.map(math.log, na_action="ignore")


def label_axis(axes: Axes, parameter: Parameter, which: str) -> None:
    """The parameter's name, and its scale or its choices."""
    axes.set(**{f"{which}label": parameter.label})
    if parameter.choices:
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.set_major_locator(FixedLocator(range(len(parameter.choices))))
        axis.set_ticklabels([brief(choice) for choice in parameter.choices])
        axes.set(**{f"{which}lim": (-0.5, len(parameter.choices) - 0.5)})
        crowded = which == "x" and sum(map(len, map(brief, parameter.choices))) > 28
        if crowded:
            axes.tick_params(axis="x", labelrotation=30)
    elif parameter.bounds.is_log:
        log_axis(axes, which)
        low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
        # A small panel has no room for more than a tick for each decade, where there are several.
        if which == "x" and high > TWO_DECADES * low:
            axes.xaxis.set_major_locator(LogLocator(numticks=20))


def brief(choice: str) -> str:
    """A choice as a tick has room for it."""
    return choice if len(choice) <= LONGEST_CHOICE else f"{choice[: LONGEST_CHOICE - 1]}…"


def draw_tinted(
    axes: Axes, rows: DataFrame, xs: Series[float], ys: Series[float], marker: str
) -> None:
    """A mark for each suggestion, tinted by the points that it lost, the best on top."""
    bands = loss_bands(rows["lost"])
    for band in reversed(range(len(LOSSES))):
        here = rows.index[bands == band]
        if len(here):
            tinted_marks(axes, xs[here], ys[here], marker, tint_of(band))


def draw_ground(axes: Axes, across: Parameter, up: Parameter, rows: DataFrame) -> bool:
    """Tinted bands of the points lost between the suggestions, linear in each triangle of three of
    them; False where there are too few, or where words are an axis."""
    if across.choices or up.choices:
        return False
    xs, ys = unit_scaled(across, rows), unit_scaled(up, rows)
    points = DataFrame({"x": xs, "y": ys, "lost": rows["lost"]})
    points = points.groupby(["x", "y"], as_index=False).mean()
    centred = points[["x", "y"]].to_numpy() - points[["x", "y"]].to_numpy().mean(axis=0)
    if len(points) < LEAST_FOR_CONTOUR or np.linalg.matrix_rank(centred, tol=1e-6) < 2:
        return False
    triangles = Triangulation(points["x"], points["y"])
    between = LinearTriInterpolator(triangles, points["lost"])
    steps = np.linspace(0, 1, GRID_STEPS)
    lost = between(*np.meshgrid(steps, steps))
    axes.contourf(
        unscaled(across, steps, rows),
        unscaled(up, steps, rows),
        lost,
        levels=LOSSES,
        colors=[to_rgba(ACCENT, shade) for shade in SHADES],
        antialiased=False,
        zorder=0.5,
    )
    return True


def ends_of(parameter: Parameter, rows: DataFrame) -> tuple[float, float]:
    """The least and the greatest value among some rows, on the scale on which it is searched."""
    values = parameter.positions(rows)
    values = logs(values) if parameter.bounds.is_log else values
    return float(values.min()), float(values.max())


def unit_scaled(parameter: Parameter, rows: DataFrame) -> Series[float]:
    """From 0 to 1 over what was tried, on the scale on which it is searched."""
    values = parameter.positions(rows)
    low, high = ends_of(parameter, rows)
    return scaled(logs(values) if parameter.bounds.is_log else values, low, high)


def unscaled(parameter: Parameter, steps: np.ndarray, rows: DataFrame) -> np.ndarray:
    """The values at these shares of what was tried."""
    low, high = ends_of(parameter, rows)
    values = low + steps * (high - low)
    return np.exp(values) if parameter.bounds.is_log else values


def scaled(values: Series[float], low: float, high: float) -> Series[float]:
    """From 0 to 1 between two ends; in the middle where these are equal."""
    return (values - low) / (high - low) if high > low else values * 0 + 0.5


def scaled_value(value: float, low: float, high: float) -> float:
    """The same of one value."""
    return (value - low) / (high - low) if high > low else 0.5


def even_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends."""
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high] or [low]


def width_column(evidence: Evidence, rows: DataFrame) -> Column:
    """The widths on a log axis."""
    low, *_, high = [math.log(width) for width in evidence.widths]
    ticks = [
        (scaled_value(math.log(width), low, high), name) for width, name in evidence.names.items()
    ]
    return Column("width", scaled(rows["width"].map(math.log), low, high), ticks)


def parallel_axis(parameter: Parameter, rows: DataFrame) -> Column:
    """A parameter's title, the height of each row, and its ticks."""
    positions = parameter.positions(rows)
    if parameter.choices:
        last = len(parameter.choices) - 1
        ticks = [
            (scaled_value(place, 0, last), brief(choice))
            for place, choice in enumerate(parameter.choices)
        ]
        return Column(parameter.label, scaled(positions, 0, last), ticks)
    bounds = parameter.bounds
    if not bounds.is_log:
        ticks = [
            (scaled_value(tick, bounds.low, bounds.high), number(tick))
            for tick in even_ticks(bounds.low, bounds.high)
        ]
        return Column(parameter.label, scaled(positions, bounds.low, bounds.high), ticks)
    low, high = math.log(bounds.low), math.log(bounds.high)
    steps = np.linspace(low, high, 5) if high > low else [low]
    ticks = [(scaled_value(step, low, high), number(math.exp(step))) for step in steps]
    return Column(parameter.label, scaled(logs(positions), low, high), ticks)


def draw_parallel(
    axes: Axes,
    columns: Sequence[Column],
    rows: DataFrame,
) -> None:
    """The lines, and an axis with its ticks for each column; a line has a gap where a suggestion
    was not asked for a parameter."""
    heights = np.column_stack([heights for _, heights, _ in columns])
    positions = np.arange(len(columns))
    bands = np.minimum(loss_bands(rows["lost"]), len(SHADES) - 1)
    lines = [np.column_stack([positions, row]) for row in heights]
    colors = [to_rgba(ACCENT, SHADES[band]) for band in bands]
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=1.4))
    for place, (_, _, ticks) in enumerate(columns):
        axes.axvline(place, color=SOFT, linewidth=0.8, zorder=2.5)
        for height, text in ticks:
            axes.plot([place - 0.015, place + 0.015], [height] * 2, color=SOFT, linewidth=0.8)
            # Text over lines is read on a ground of paper.
            axes.annotate(
                text,
                (place, height),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL - 0.5,
                color=INK,
                zorder=4,
            )
    axes.set_xticks(positions, [title for title, _, _ in columns])
    axes.set(xlim=(-0.1, len(columns) - 0.65), ylim=(-0.04, 1.04), yticks=[])
    axes.grid(visible=False)
    axes.tick_params(axis="x", length=0, labelsize=SMALL + 0.5)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
