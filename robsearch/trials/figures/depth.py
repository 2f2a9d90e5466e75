"""Layer by layer: operator norms, singular values, and how far an attack moves the features."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from robsearch.drawing.style import COLORS, MARKERS, SMALL, log_axis, look, panels
from robsearch.errors import counted
from robsearch.trials.figures.labels import (
    NAMES,
    UNKNOWN_KIND,
    footnote,
    heading,
    layer_axis,
    quantity,
)
from robsearch.trials.figures.tables import Values, by_layer, some_ranks

DEPTHS = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, 256)))
"""First layer to last: the part of viridis that reads on white."""
FOLDED = {"norms": "Each layer alone", "norms_folded": "With the BatchNorm that it feeds folded in"}
POINTS = 200
"""So many singular values of a layer are drawn at most."""


@look()
def norms(layers: pa.Table | None) -> Figure | None:
    """Operator norms by layer on a log axis: ``norms/...`` above, ``norms_folded/...`` (with
    BatchNorm) below.

    Both panels have the same axes, so that a layer stands under itself.

    Returns:
        None where neither was measured.
    """
    rows = by_layer(layers, *FOLDED)
    if rows.empty:
        return None
    rows[["family", "norm_of_map"]] = rows["measure"].str.split("/", n=1, expand=True)
    rows = rows.sort_values("family", kind="stable")
    names = in_order(rows)
    # A norm looks the same in both panels.
    looks = list(rows["norm_of_map"].unique())
    families = rows.groupby("family")
    figure, axes = panels(2.1 + 2.5 * len(families), len(families), sharex=True, sharey=True)
    for panel, (family, measured) in zip(axes, families, strict=True):
        for _, measure in measured.groupby("measure", sort=False):
            place = looks.index(measure["norm_of_map"].iloc[0])
            panel.plot(
                [names.index(layer) for layer in measure["layer"]],
                measure["mean"],
                color=COLORS[place % len(COLORS)],
                markersize=4,
                linestyle="none",
                marker=MARKERS[place % len(MARKERS)],
                label=named(measure),
            )
        log_axis(panel, "y")
        panel.set_ylabel(quantity("operator norm", rows["unit"].iloc[0]))
        heading(panel, FOLDED[str(family)], columns=3)
    layer_axis(axes[-1], names)
    footnote(figure, sources=rows["source"])
    return figure


def named(measure: pd.DataFrame) -> str:
    """A measure with its kind: ``norms/linf, exact``."""
    first = measure.iloc[0]
    return f"{first['measure']}, {first['kind'] or UNKNOWN_KIND}"


def in_order(rows: pd.DataFrame) -> list[str]:
    """The layers of all measures in the model's order: those of the longest, each other one after
    its predecessor."""
    measures = [list(layers) for _, layers in rows.groupby("measure", sort=False)["layer"]]
    names: list[str] = []
    for layers in sorted(measures, key=len, reverse=True):
        before = -1
        for layer in layers:
            if layer not in names:
                names.insert(before + 1, layer)
            before = names.index(layer)
    return names


@look()
def spectra(layers: pa.Table | None) -> Figure | None:
    """For each ``spectra/...``: the sorted singular values of each layer, and their mean +-
    deviation by layer.

    Layers have different numbers of singular values, so these stand over their rank in % of their
    number.

    Returns:
        None where no spectrum was measured.
    """
    rows = by_layer(layers, "spectra")
    if rows.empty:
        return None
    measures = [measure for _, measure in rows.groupby("measure", sort=False)]
    # Without the values themselves there are only their means to draw.
    columns = 2 if rows["values"].map(len).any() else 1
    figure, axes = panels(1.2 + 3.0 * len(measures), len(measures), columns, sharey="row")
    for panel, measure in zip(axes[::columns], measures, strict=True):
        if columns == 2:
            draw_spectrum(figure, panel, measure)
        panel.set_ylabel(quantity("singular value", measure["unit"].iloc[0]))
        heading(panel, named(measure))
    below: list[str] = []
    # From the lowest up: names that stand below are not said again.
    for panel, measure in zip(reversed(axes[columns - 1 :: columns]), measures[::-1], strict=True):
        draw_spread(panel, measure, NAMES // columns)
        title = "Mean" if columns == 2 else f"{measure['measure'].iloc[0]}: mean"
        heading(panel, f"{title} ± standard deviation by layer")
        names = list(measure["layer"])
        panel.tick_params(labelbottom=names != below)
        below = names
    footnote(figure, sources=rows["source"])
    return figure


def draw_spectrum(figure: Figure, axes: Axes, measure: pd.DataFrame) -> None:
    """A curve per layer, tinted by its depth."""
    curves = [sorted_values(values) for values in measure["values"]]
    colors = DEPTHS(np.linspace(0, 1, len(curves)))
    axes.add_collection(LineCollection(curves, colors=list(colors), linewidths=0.9))
    axes.set(xlim=(-2, 102), xlabel="rank (% of the layer's singular values)")
    last = max(len(curves), 2)
    scale = ScalarMappable(Normalize(1, last), DEPTHS)
    bar = figure.colorbar(
        scale,
        ax=axes,
        pad=0.02,
        fraction=0.05,
        aspect=30,
        ticks=[1, last],
    )
    bar.set_label("layer", fontsize=SMALL, labelpad=-6)
    bar.outline.set_visible(False)


def sorted_values(values: Values) -> Values:
    """(rank in %, value) of at most ``POINTS`` of a layer's singular values, largest first, as
    (points, 2)."""
    ordered = np.sort(values)[::-1]
    ranks = some_ranks(len(ordered), POINTS)
    percent = 100 * ranks / max(len(ordered) - 1, 1)
    return np.column_stack([percent, ordered[ranks]])


def draw_spread(axes: Axes, measure: pd.DataFrame, most_names: int) -> None:
    """Mean and standard deviation of each layer's values."""
    mean = measure["mean"].to_numpy()
    spread = measure["std"].fillna(0.0).to_numpy()
    axes.errorbar(
        range(len(mean)),
        mean,
        yerr=spread,
        fmt="o",
        color=COLORS[0],
        markersize=4,
        elinewidth=1.2,
    )
    # Bars may reach below 0, where no singular value lies.
    bottom = axes.get_ylim()[0] if (mean < spread).any() else 0.0
    axes.set_ylim(bottom=min(bottom, 0.0))
    layer_axis(axes, list(measure["layer"]), most_names)


@look()
def features(layers: pa.Table | None) -> Figure | None:
    """For each ``features/...``: the relative change between an image and its attacked copy, layer
    by layer.

    Drawn are the median over images and the band from 5 to 95 % of them, or the mean where no
    values were kept.

    Returns:
        None where it was not measured.
    """
    rows = by_layer(layers, "features")
    if rows.empty:
        return None
    measures = rows.groupby("measure", sort=False)
    figure, axes = panels(0.8 + 4.0 * len(measures), len(measures))
    for panel, (_, measure) in zip(axes, measures, strict=True):
        draw_change(panel, measure)
    footnote(figure, "Between x and x′ of the attack.", sources=rows["source"])
    return figure


def draw_change(axes: Axes, measure: pd.DataFrame) -> None:
    """One measure: a line over the layers, and a band where the values of all images are known."""
    first = measure.iloc[0]
    sizes = measure["values"].map(len)
    middle = measure["mean"].to_numpy()
    label = "mean"
    if sizes.all():
        quantiles = [np.quantile(values, (0.05, 0.5, 0.95)) for values in measure["values"]]
        low, middle, high = np.transpose(quantiles)
        label = "median"
        axes.fill_between(
            range(len(middle)),
            low,
            high,
            color=COLORS[0],
            alpha=0.18,
            linewidth=0,
            label="5 to 95 % of images",
        )
    axes.plot(
        middle,
        marker="o",
        markersize=4,
        linewidth=1.2,
        color=COLORS[0],
        label=label,
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel(quantity("relative change", first["unit"], first["norm"]))
    layer_axis(axes, list(measure["layer"]))
    images = int(sizes.max())
    n = f", n = {counted(images, 'image')}" if images else ""
    heading(axes, f"{named(measure)}{n}", columns=2)
