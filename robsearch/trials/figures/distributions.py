"""Distributions over images: margins as histograms, Lipschitz estimates as distribution
functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robsearch.drawing.formatting import number
from robsearch.drawing.style import COLORS, INK, log_axis, look, panels
from robsearch.trials.figures.labels import (
    SPLITS,
    UNKNOWN_KIND,
    footnote,
    heading,
    quantity,
)
from robsearch.trials.figures.tables import (
    Splits,
    Values,
    by_layer,
    by_split,
    some_ranks,
)

DASHES: dict[str, tuple[str, Any]] = {
    "lower bound": ("Solid", "-"),
    "upper bound": ("dashed", (0, (5, 2))),
    "estimate": ("dotted", (0, (1, 1.2))),
    "exact": ("dash-dotted", "-."),
}
"""By the kind of a measure: how its line is called in the footnote, and how it is drawn."""
POINTS = 400
"""So many points of a distribution function are drawn at most."""
CUT = 4
"""A bin of the histograms that is so many times as tall as any other is cut off."""
NEAR = 100.0
"""A bound for the whole model that is farther off than this factor would squeeze everything else
together."""


@look()
def margin_histograms(splits: Splits) -> Figure | None:
    """A panel per measure ``margin/...``: how many % of the images have which margin, train against
    test.

    Both splits of a panel are counted in the same bins. 0 is an edge, so that no bin mixes right
    with wrong.

    Returns:
        None where no split has such a column with a finite number in it.
    """
    rows = by_split(splits, "margin")
    if rows.empty:
        return None
    measures = rows.groupby("measure", sort=False)
    columns = min(len(measures), 3)
    lines = math.ceil(len(measures) / columns)
    figure, axes = panels(4.3 * lines, lines, columns)
    for panel, (_, measure) in zip(axes, measures, strict=False):
        draw_histogram(panel, measure)
    for first in axes[::columns]:
        first.set_ylabel("images (% per bin)")
    for spare in axes[len(measures) :]:
        spare.remove()
    reading = "Triangles: medians. Below 0: misclassified; an attack distance is then 0."
    footnote(figure, reading, sources=rows["source"])
    return figure


def shared_edges(samples: Sequence[Values]) -> Values:
    """Edges of equal bins for all samples, 0 among them: over their range, or without its ends
    where these are far.

    An end is far when the middle 99 % of all values span less than half of the range.
    """
    pooled = np.concatenate(samples)
    pooled = np.append(pooled[np.isfinite(pooled)], 0.0)
    middle = np.quantile(pooled, (0.005, 0.995))
    inner = np.append(middle, 0.0)
    if 0 < np.ptp(inner) < np.ptp(pooled) / 2:
        pooled = inner
    low = float(pooled.min())
    high = float(pooled.max())
    if low == high:
        low = -1.0
        high = 1.0
    largest = max(map(len, samples))
    # The number of bins grows with the cube root of the number of images (Rice's rule, and half).
    bins = math.ceil(3 * largest ** (1 / 3))
    bins = min(max(bins, 12), 60)
    step = (high - low) / bins
    # Whole multiples of the step, so that 0 is among them.
    first = math.floor(low / step)
    last = math.ceil(high / step)
    edges: Values = step * np.arange(first, last + 1.0)
    return edges


def draw_histogram(axes: Axes, measure: pd.DataFrame) -> None:
    """Both splits of one measure, with their medians."""
    edges = shared_edges(list(measure["values"]))
    shares = {}
    outside = 0
    for split, values in zip(measure["split"], measure["values"], strict=True):
        inside = values.clip(edges[0], edges[-1])
        outside += int((values != inside).sum())
        counts, _ = np.histogram(inside, edges)
        shares[split] = 100 / len(values) * counts
        median = float(np.median(values))
        label = f"{split}, n = {len(values):,}\nmedian {number(median)}"
        axes.stairs(shares[split], edges, label=label, **SPLITS[split])
        # On the upper edge: x in the data's units, y as a share of the panel's height.
        axes.plot(
            median,
            1.0,
            "v",
            color=SPLITS[split]["color"],
            markersize=5,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_ylim(bottom=0)
    first = measure.iloc[0]
    lines = [quantity("margin", first["unit"], first["norm"]), cut_off(axes, shares)]
    if outside:
        lines.append(f"end bins hold {outside:,} from beyond")
    axes.set_xlabel("\n".join(filter(None, lines)))
    heading(axes, "\n".join(filter(None, first[["measure", "kind"]])))


def cut_off(axes: Axes, shares: Mapping[str, Values]) -> str:
    """Cuts a bin that would flatten all others, such as the 0 of the misclassified, and says how
    tall it is."""
    heights = np.array(list(shares.values()))
    tallest = int(heights.max(axis=0).argmax())
    others = np.delete(heights, tallest, axis=1)
    rest = float(others.max(initial=0))
    if not 0 < CUT * rest < heights[:, tallest].max():
        return ""
    axes.set_ylim(top=1.3 * rest)
    tall = [f"{split} {values[tallest]:.1f} %" for split, values in shares.items()]
    return f"cut off: {', '.join(tall)}"


@look()
def lipschitz(splits: Splits, layers: pa.Table | None = None) -> Figure | None:
    """A panel per unit: the share of images whose measure ``lipschitz/...`` is at most x, on a log
    axis.

    Lower bounds are drawn through and upper bounds dashed, test thick and train thin. A bound for
    the whole model (from ``layers``) is a vertical line, or words where it is more than ``NEAR``
    times all else that is drawn.

    Returns:
        None where no split has such a column with a finite number in it.
    """
    rows = by_split(splits, "lipschitz")
    if rows.empty:
        return None
    bounds = by_layer(layers, "lipschitz", of_whole_model=True)
    names = list(rows["measure"].unique())
    # Measures that share unit and norm share a panel.
    scales = rows.groupby(["unit", "norm"], sort=False)
    figure, axes = panels(0.7 + 3.0 * len(scales) + 0.2 * len(names), len(scales))
    for panel, (_, measures) in zip(axes, scales, strict=True):
        unit, norm = measures[["unit", "norm"]].iloc[0]
        for name, measure in measures.groupby("measure", sort=False):
            draw_distribution(panel, measure, COLORS[names.index(name) % len(COLORS)])
        log_axis(panel, "x")
        farthest = NEAR * panel.dataLim.x1
        for _, bound in bounds[(bounds["unit"] == unit) & (bounds["norm"] == norm)].iterrows():
            draw_bound(panel, bound, farthest)
        panel.set_ylim(-2, 102)
        panel.set_xlabel(quantity("x", unit, norm))
        panel.set_ylabel("images at or below x (%)")
        heading(panel, f"Local Lipschitz constant in {unit or 'a unit not given'}")
    footnote(figure, reading_of(rows), sources=[*rows["source"], *bounds["source"]])
    return figure


def reading_of(rows: pd.DataFrame) -> str:
    """What thick, thin and dashed lines are."""
    thick = "Thick: test; thin: train." if rows["split"].nunique() == 2 else ""
    kinds = set(rows["kind"])
    dashes = "; ".join(f"{name}: {kind}" for kind, (name, _) in DASHES.items() if kind in kinds)
    return f"{thick} {dashes}.".strip() if dashes else thick


def draw_distribution(axes: Axes, measure: pd.DataFrame, color: str) -> None:
    """One measure, a line for each split; both have one entry in the legend."""
    counts = dict(zip(measure["split"], measure["values"].map(len), strict=True))
    pooled = np.concatenate(list(measure["values"]))
    counts["at 0"] = int((pooled == 0).sum())
    counts["infinite"] = int(np.isinf(pooled).sum())
    sizes = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    kind = measure["kind"].iloc[0]
    _, dashes = DASHES.get(kind, DASHES["lower bound"])
    for split, values in zip(measure["split"], measure["values"], strict=True):
        x, shares = distribution(values)
        (line,) = axes.plot(
            x,
            shares,
            drawstyle="steps-post",
            color=color,
            linestyle=dashes,
            linewidth=2.0 if split == "test" else 0.9,
        )
    line.set_label(f"{short(measure['measure'].iloc[0])}, {kind or UNKNOWN_KIND}, n = {sizes}")


def short(measure: str) -> str:
    """A measure's name without its family."""
    return measure.partition("/")[2]


def distribution(values: Values) -> tuple[Values, Values]:
    """x and the % of the values at or below it, of at most ``POINTS`` of the positive x, for a log
    axis.

    Zeros and less raise the curve from its first point on; it ends below 100 % where values are
    infinite. All x count where none is positive.
    """
    ordered = np.sort(values)
    step = 100 / len(values)
    shares = step * np.arange(1, len(values) + 1)
    drawn = np.isfinite(ordered)
    positive = drawn & (ordered > 0)
    if positive.any():
        drawn = positive
    x = ordered[drawn]
    y = shares[drawn]
    ranks = some_ranks(len(x), POINTS)
    # The first point once more, a step lower: there the curve begins to rise.
    x_drawn = np.append(x[:1], x[ranks])
    y_drawn = np.append(y[:1] - step, y[ranks])
    return x_drawn, y_drawn


def draw_bound(axes: Axes, bound: pd.Series, farthest: float) -> None:
    """A bound for the whole model, in words where it lies beyond ``farthest``."""
    mean = bound["mean"]
    label = f"{short(bound['measure'])}, {bound['kind']}, whole model: {number(mean)}"
    if mean > farthest:
        axes.plot([], [], " ", label=f"{label}, off the axis")
        return
    _, dashes = DASHES["upper bound"]
    axes.axvline(
        mean,
        color=INK,
        linewidth=1.2,
        linestyle=dashes,
        label=label,
    )
