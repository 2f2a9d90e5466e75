"""Layer by layer: operator norms, singular values, and how far an attack moves the features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from robsearch.figures.sheet import (
    COLORS,
    INK,
    MARKERS,
    NAMES,
    SMALL,
    TEXT,
    headed,
    layer_axis,
    log_axis,
    noted,
    page,
    quantity,
    sources,
    titled,
)
from robsearch.figures.tables import LayerRow, Values, by_layer
from robsearch.wording import counted

DEPTHS = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, 256)))
"""First layer to last: the part of viridis that reads on white."""
FOLDED = {"norms": "Each layer alone", "norms_folded": "With the BatchNorm that it feeds folded in"}
POINTS = 200
"""So many singular values of a layer are drawn at most."""


def norms(layers: pa.Table | None) -> Figure | None:
    """Operator norms by layer on a log axis: ``norms/...`` above, ``norms_folded/...`` (with BatchNorm) below.

    Both panels have the same axes, so that a layer stands under itself.

    Returns:
        None where neither was measured.
    """
    families = {family: by_layer(layers, family) for family in FOLDED}
    found = {family: measures for family, measures in families.items() if measures}
    if not found:
        return None
    every = [rows for measures in found.values() for rows in measures.values()]
    names = in_order(every)
    kinds = list(dict.fromkeys(_norm_of(measure) for measures in found.values() for measure in measures))
    figure, panels = page(1.8 + 2.1 * len(found), len(found), sharex=True, sharey=True)
    for axes, (family, measures) in zip(panels, found.items(), strict=True):
        for measure, rows in measures.items():
            _norm(axes, names, rows, kinds.index(_norm_of(measure)))
        log_axis(axes, "y")
        titled(axes, "", quantity("operator norm", every[0][0].about.unit))
        headed(axes, FOLDED[family], columns=3)
    layer_axis(panels[-1], names)
    titled(panels[-1], f"layer, first to last ({len(names)})", panels[-1].get_ylabel())
    noted(figure, sources(row.about.source for rows in every for row in rows))
    return figure


def _norm_of(measure: str) -> str:
    return measure.split("/", 1)[1]


def _norm(axes: Axes, names: Sequence[str], rows: Sequence[LayerRow], place: int) -> None:
    look: dict[str, Any] = {"color": COLORS[place % len(COLORS)], "markersize": 4, "linestyle": "none"}
    label = f"{rows[0].measure}, {rows[0].about.kind or 'kind not given'}"
    at = [names.index(row.layer) for row in rows]
    axes.plot(at, [row.mean for row in rows], MARKERS[place % len(MARKERS)], label=label, **look)


def in_order(measures: Iterable[Sequence[LayerRow]]) -> list[str]:
    """The layers of all measures in the model's order: those of the longest, each other one after its predecessor."""
    names: list[str] = []
    for rows in sorted(measures, key=len, reverse=True):
        before = -1
        for row in rows:
            if row.layer not in names:
                names.insert(before + 1, row.layer)
            before = names.index(row.layer)
    return names


def spectra(layers: pa.Table | None) -> Figure | None:
    """For each ``spectra/...``: the sorted singular values of each layer, and their mean +- deviation by layer.

    Layers have different numbers of singular values, so these stand over their rank in % of their number.

    Returns:
        None where no spectrum was measured.
    """
    found = by_layer(layers, "spectra")
    if not found:
        return None
    whole = any(len(row.values) for rows in found.values() for row in rows)
    figure, panels = page(1.0 + 2.5 * len(found), len(found), 2 if whole else 1, sharey="row")
    for axes, (measure, rows) in zip(panels[:: 2 if whole else 1], found.items(), strict=True):
        if whole:
            _spectrum(figure, axes, rows)
        titled(axes, axes.get_xlabel(), quantity("singular value", rows[0].about.unit))
        headed(axes, f"{measure}, {rows[0].about.kind or 'kind not given'}")
    named: list[str] = []
    for axes, rows in reversed(list(zip(panels[1 if whole else 0 :: 2 if whole else 1], found.values(), strict=True))):
        _spread(axes, rows, NAMES // 2 if whole else NAMES, "Mean" if whole else f"{rows[0].measure}: mean")
        names = [row.layer for row in rows]
        axes.tick_params(labelbottom=names != named)
        named = names
    noted(figure, sources(row.about.source for rows in found.values() for row in rows))
    return figure


def _spectrum(figure: Figure, axes: Axes, rows: Sequence[LayerRow]) -> None:
    colors = DEPTHS(np.linspace(0, 1, len(rows)) if len(rows) > 1 else [0.0])
    curves = [sorted_values(row.values) for row in rows]
    axes.add_collection(LineCollection(curves, colors=list(colors), linewidths=0.9))
    axes.set_xlim(-2, 102)
    axes.set_xlabel("rank (% of the layer's singular values)", fontsize=TEXT, color=INK)
    scale = ScalarMappable(Normalize(1, max(len(rows), 2)), DEPTHS)
    bar = figure.colorbar(scale, ax=axes, pad=0.02, fraction=0.05, aspect=30, ticks=[1, max(len(rows), 2)])
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label("layer", fontsize=SMALL, labelpad=-6)
    bar.outline.set_visible(False)


def sorted_values(values: Values) -> Values:
    """(rank in %, value) of at most ``POINTS`` of a layer's singular values, largest first, as (points, 2)."""
    ordered = values if (values[:-1] >= values[1:]).all() else np.sort(values)[::-1]
    kept = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), POINTS)).round().astype(int))
    return np.column_stack([100 * kept / max(len(ordered) - 1, 1), ordered[kept]])


def _spread(axes: Axes, rows: Sequence[LayerRow], room: int, mean_of: str) -> None:
    at, mean = np.arange(len(rows)), [row.mean for row in rows]
    deviation = np.nan_to_num([row.std for row in rows])
    axes.errorbar(at, mean, yerr=deviation, fmt="o", color=COLORS[0], markersize=4, elinewidth=1.2)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if min(mean - deviation) < 0 else 0.0)
    layer_axis(axes, [row.layer for row in rows], room)
    titled(axes, f"layer, first to last ({len(rows)})", axes.get_ylabel())
    headed(axes, f"{mean_of} ± standard deviation by layer")


def features(layers: pa.Table | None) -> Figure | None:
    """For each ``features/...``: the relative change between an image and its attacked copy, layer by layer.

    Drawn are the median over images and the band from 5 to 95 % of them, or the mean where no values were kept.

    Returns:
        None where it was not measured.
    """
    found = by_layer(layers, "features")
    if not found:
        return None
    figure, panels = page(0.6 + 3.2 * len(found), len(found))
    for axes, (measure, rows) in zip(panels, found.items(), strict=True):
        _change(axes, measure, rows)
    used = [row.about.source for rows in found.values() for row in rows]
    noted(figure, "Between x and x′ of the attack.", sources(used))
    return figure


def _change(axes: Axes, measure: str, rows: Sequence[LayerRow]) -> None:
    about = rows[0].about
    middle, label = np.array([row.mean for row in rows]), "mean"
    if all(len(row.values) for row in rows):
        low, middle, high = np.array([np.quantile(row.values, (0.05, 0.5, 0.95)) for row in rows]).T
        label = "median"
        band: dict[str, Any] = {"color": COLORS[0], "alpha": 0.18, "linewidth": 0, "label": "5 to 95 % of images"}
        axes.fill_between(range(len(rows)), low, high, **band)
    axes.plot(middle, marker="o", markersize=4, linewidth=1.2, color=COLORS[0], label=label)
    axes.set_ylim(bottom=0)
    layer_axis(axes, [row.layer for row in rows])
    titled(axes, f"layer, first to last ({len(rows)})", quantity("relative change", about.unit, about.norm))
    sizes = {len(row.values) for row in rows} - {0}
    n = f", n = {counted(max(sizes), 'image')}" if sizes else ""
    headed(axes, f"{measure}, {about.kind or 'kind not given'}{n}", columns=2)
