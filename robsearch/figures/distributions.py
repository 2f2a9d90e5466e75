"""Distributions over images: margins as histograms, Lipschitz estimates as distribution functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robsearch.figures.sheet import (
    COLORS,
    INK,
    SPLITS,
    headed,
    log_axis,
    noted,
    number,
    page,
    quantity,
    sources,
    titled,
)
from robsearch.figures.tables import Column, LayerRow, Splits, Values, columns, whole_model

DASHES: dict[str, Any] = {"lower bound": "-", "upper bound": (0, (5, 2)), "estimate": (0, (1, 1.2)), "exact": "-."}
WORDS = {"lower bound": "Solid", "upper bound": "dashed", "estimate": "dotted", "exact": "dash-dotted"}
POINTS = 400
"""So many points of a distribution function are drawn at most."""
CUT = 4
"""A bin of the histograms that is so many times as tall as any other is cut off."""
NEAR = 100.0
"""A bound for the whole model that is farther off than this factor would squeeze everything else together."""


def margins(splits: Splits) -> Figure | None:
    """A panel per measure ``margin/...``: how many % of the images have which margin, train against test.

    Both splits of a panel are counted in the same bins. 0 is an edge, so that no bin mixes right with wrong.

    Returns:
        None where no split has such a column with a finite number in it.
    """
    found = columns(splits, "margin")
    if not found:
        return None
    wide = min(len(found), 3)
    rows = math.ceil(len(found) / wide)
    figure, panels = page(3.7 * rows, rows, wide)
    for axes, (name, own) in zip(panels, found.items(), strict=False):
        _histogram(axes, name, own)
    for axes in panels[len(found) :]:
        axes.remove()
    used = [column.about.source for own in found.values() for column in own.values()]
    noted(figure, "Triangles: medians. Below 0: misclassified; an attack distance is then 0.", sources(used))
    return figure


def shared_edges(samples: Sequence[Values]) -> Values:
    """Edges of equal bins for all samples, 0 among them: over their range, or without its ends where these are far.

    An end is far when the middle 99 % of all values span less than half of the range.
    """
    pooled = np.concatenate(samples)
    pooled = np.append(pooled[np.isfinite(pooled)], 0.0)
    inner = np.append(np.quantile(pooled, (0.005, 0.995)), 0.0)
    far = 0 < np.ptp(inner) < np.ptp(pooled) / 2
    low, high = (float(end) for end in ((inner if far else pooled).min(), (inner if far else pooled).max()))
    if low == high:
        low, high = -1.0, 1.0
    bins = min(60, max(12, math.ceil(3 * max(map(len, samples)) ** (1 / 3))))
    step = (high - low) / bins
    edges: Values = step * np.arange(math.floor(low / step), math.ceil(high / step) + 1, dtype=np.float64)
    return edges


def _histogram(axes: Axes, name: str, own: Mapping[str, Column]) -> None:
    edges = shared_edges([column.values for column in own.values()])
    shares = {}
    for split in (split for split in SPLITS if split in own):
        values = own[split].values
        shares[split] = 100 / len(values) * np.histogram(values.clip(edges[0], edges[-1]), edges)[0]
        median = float(np.median(values))
        label = f"{split}, n = {len(values):,}\nmedian {number(median)}"
        axes.stairs(shares[split], edges, label=label, **SPLITS[split])
        top: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot([median], [1.0], "v", color=SPLITS[split]["color"], markersize=5, **top)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_ylim(bottom=0)
    notes = [_cut(axes, shares), _beyond(own, edges)]
    about = next(iter(own.values())).about
    place = axes.get_subplotspec()
    first = place is None or place.is_first_col()
    x = "\n".join(filter(None, [quantity("margin", about.unit, about.norm), *notes]))
    titled(axes, x, "images (% per bin)" if first else "")
    headed(axes, f"{name}\n{about.kind}" if about.kind else name)


def _cut(axes: Axes, shares: Mapping[str, Values]) -> str:
    """Cuts a bin that would flatten all others, such as the 0 of the misclassified, and says how tall it is."""
    tallest = int(np.argmax(np.max(list(shares.values()), axis=0)))
    rest = max(float(np.delete(own, tallest).max(initial=0)) for own in shares.values())
    if not 0 < CUT * rest < max(float(own[tallest]) for own in shares.values()):
        return ""
    axes.set_ylim(top=1.3 * rest)
    return f"cut off: {', '.join(f'{split} {own[tallest]:.1f} %' for split, own in shares.items())}"


def _beyond(own: Mapping[str, Column], edges: Values) -> str:
    outside = [(column.values < edges[0]) | (column.values > edges[-1]) for column in own.values()]
    count = sum(int(out.sum()) for out in outside)
    return f"end bins hold {count:,} from beyond" if count else ""


def lipschitz(splits: Splits, layers: pa.Table | None = None) -> Figure | None:
    """A panel per unit: the share of images whose measure ``lipschitz/...`` is at most x, on a log axis.

    Lower bounds are drawn through and upper bounds dashed, test thick and train thin. A bound for the whole model
    (from ``layers``) is a vertical line, or words where it is more than ``NEAR`` times all else that is drawn.

    Returns:
        None where no split has such a column with a finite number in it.
    """
    found = columns(splits, "lipschitz")
    if not found:
        return None
    scales = list(dict.fromkeys(map(_scale, found.values())))
    figure, panels = page(0.6 + 2.5 * len(scales) + 0.17 * len(found), len(scales))
    tones = {name: COLORS[i % len(COLORS)] for i, name in enumerate(found)}
    bounds = whole_model(layers, "lipschitz")
    for axes, scale in zip(panels, scales, strict=True):
        for name, own in found.items():
            if _scale(own) == scale:
                _distribution(axes, own, tones[name])
        log_axis(axes, "x")
        _whole(axes, [row for row in bounds if (row.about.unit, row.about.norm) == scale])
        axes.set_ylim(-2, 102)
        titled(axes, quantity("x", *scale), "images at or below x (%)")
        headed(axes, f"Local Lipschitz constant in {scale[0] or 'a unit not given'}")
    used = [column.about.source for own in found.values() for column in own.values()]
    noted(figure, _reading(found), sources([*used, *(row.about.source for row in bounds)]))
    return figure


def _scale(own: Mapping[str, Column]) -> tuple[str, str]:
    about = next(iter(own.values())).about
    return about.unit, about.norm


def _reading(found: Mapping[str, Mapping[str, Column]]) -> str:
    every = [own for measure in found.values() for own in measure.items()]
    both = "Thick: test; thin: train. " if len({split for split, _ in every}) == 2 else ""
    kinds = [f"{WORDS[kind]}: {kind}" for kind in WORDS if any(column.about.kind == kind for _, column in every)]
    return f"{both}{'; '.join(kinds)}." if kinds else both


def _distribution(axes: Axes, own: Mapping[str, Column], color: str) -> None:
    present = [split for split in SPLITS if split in own]
    pooled = np.concatenate([column.values for column in own.values()])
    counts = {split: len(own[split].values) for split in present}
    counts |= {"at 0": int((pooled == 0).sum()), "infinite": int(np.isinf(pooled).sum())}
    sizes = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    for split in present:
        name, about, values = own[split]
        label = (
            f"{name.split('/', 1)[1]}, {about.kind or 'kind not given'}, n = {sizes}" if split == present[-1] else None
        )
        style = {"color": color, "linestyle": DASHES.get(about.kind, "-")}
        thick = 2.0 if split == "test" else 0.9
        axes.plot(*distribution(values), drawstyle="steps-post", linewidth=thick, label=label, **style)


def distribution(values: Values) -> tuple[Values, Values]:
    """x and the % of the values at or below it, of at most ``POINTS`` of the positive x, for a log axis.

    Zeros and less raise the curve from its first point on; it ends below 100 % where values are infinite.
    All x count where none is positive.
    """
    ordered = np.sort(values)
    share = 100 / len(values) * np.arange(1, len(values) + 1)
    drawn = np.isfinite(ordered) & ((ordered > 0) | (not (np.isfinite(ordered) & (ordered > 0)).any()))
    x, y = ordered[drawn], share[drawn]
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return np.append(x[:1], x[kept]), np.append(y[:1] - 100 / len(values), y[kept])


def _whole(axes: Axes, bounds: Sequence[LayerRow]) -> None:
    high = max(float(line.get_xdata()[-1]) for line in axes.lines)  # type: ignore[index, arg-type]
    for row in bounds:
        label = f"{row.measure.split('/', 1)[1]}, {row.about.kind}, whole model: {number(row.mean)}"
        if row.mean > NEAR * high:
            axes.plot([], [], " ", label=f"{label}, off the axis")
        else:
            axes.axvline(row.mean, color=INK, linewidth=1.2, linestyle=DASHES["upper bound"], label=label)
