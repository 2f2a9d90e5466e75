"""How often the network is right: the rates on both splits, and class by class."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from robsearch.figures.sheet import COLORS, SMALL, SPLITS, headed, noted, number, page, titled
from robsearch.figures.tables import Splits, Values, column
from robsearch.measures import wilson
from robsearch.wording import counted

RATES = {
    "natural_accuracy": "natural accuracy",
    "robust_accuracy": "robust accuracy",
    "stability": "stability",
    "wrong_to_right": "wrong to right",
}
BY_CLASS = {"natural_accuracy": ("natural", COLORS[2], "o", -0.14), "robust_accuracy": ("robust", COLORS[3], "s", 0.14)}
"""Label, colour, mark and shift to the side."""
Interval: TypeAlias = tuple[float, float]


def accuracy(splits: Splits) -> Figure | None:
    """Natural and robust accuracy, stability and wrong-to-right flips in %, with intervals, and by class on test.

    Args:
        splits: ``train``, ``test`` or both, with any of these columns (1 or 0 per image) and ``label``.

    Returns:
        None where no split has such a column.
    """
    rates = {split: _rates(splits[split]) for split in SPLITS if split in splits}
    if not any(rates.values()):
        return None
    classes = _classes(splits["test"]) if "test" in splits else {}
    figure, (left, *right) = page(3.3, columns=2, width_ratios=(5, 6)) if classes else page(3.3)
    _draw_rates(left, rates, splits)
    for axes in right:
        _draw_classes(axes, classes)
    noted(figure, "Bars: 95 % intervals (Wilson) over images.", _asides(splits), "Source: arXiv 2010.01279.")
    return figure


def _rates(table: pa.Table) -> dict[str, Values]:
    found = {name: column(table, name) for name in RATES}
    return {name: values[np.isfinite(values)] for name, values in found.items() if values is not None}


def _draw_rates(axes: Axes, rates: dict[str, dict[str, Values]], splits: Splits) -> None:
    present = [name for name in RATES if any(name in own for own in rates.values())]
    for shift, (split, own) in zip((0.13, -0.13) if len(rates) == 2 else (0.0,), rates.items(), strict=True):
        if own:
            at = [len(present) - 1 - present.index(name) + shift for name in own]
            shares = {name: (float(values.mean()), len(values)) for name, values in own.items()}
            label = f"{split}, n = {len(splits[split]):,}"
            style = {"color": SPLITS[split]["color"], "mfc": None if split == "test" else "white"}
            dots(axes, "x", at, list(shares.values()), marker="o", label=label, **style)
    words = [
        RATES[name]
        + "\n"
        + ", ".join(f"{split} {100 * own[name].mean():.1f}" for split, own in rates.items() if name in own)
        for name in present
    ]
    axes.yaxis.set_major_locator(FixedLocator([float(place) for place in reversed(range(len(present)))]))
    axes.set_yticklabels(words, fontsize=SMALL)
    axes.set(xlim=(-2, 102), ylim=(-0.5, len(present) - 0.5))
    titled(axes, "images (%)", "")
    headed(axes, "Rates under the same attack", columns=2)


def dots(axes: Axes, along: str, at: list[float], shares: list[tuple[float, int]], **style: Any) -> None:
    """Shares in % as dots with their intervals, ``along`` an axis, at places of the other."""
    value = np.array([100 * share for share, _ in shares])
    ends = 100 * np.array([wilson(*share) for share in shares]).T
    bars = np.abs(ends - value)
    look: dict[str, Any] = {"linestyle": "none", "markersize": 5, "elinewidth": 1.2, **style}
    if along == "x":
        axes.errorbar(value, at, xerr=bars, **look)
    else:
        axes.errorbar(at, value, yerr=bars, **look)


def _classes(test: pa.Table) -> dict[str, dict[int, tuple[float, int]]]:
    """By rate and class, its share and how many images it is over."""
    labels, found = column(test, "label"), {}
    for name in BY_CLASS if labels is not None else ():
        values = column(test, name)
        if values is not None and labels is not None:
            known = np.isfinite(values) & np.isfinite(labels)
            own, rights = labels[known].astype(int), values[known]
            found[name] = {int(k): (float(rights[own == k].mean()), int((own == k).sum())) for k in np.unique(own)}
    return found


def _draw_classes(axes: Axes, classes: dict[str, dict[int, tuple[float, int]]]) -> None:
    for name, own in classes.items():
        label, color, marker, shift = BY_CLASS[name]
        style = {"color": color, "marker": marker, "markersize": 5 if len(own) <= 20 else 2.5, "label": label}
        dots(axes, "y", [k + shift for k in own], list(own.values()), **style)
    sizes = [n for own in classes.values() for _, n in own.values()]
    span = counted(max(sizes), "image") if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,} images"
    every = sorted({k for own in classes.values() for k in own})
    axes.xaxis.set_major_locator(FixedLocator(every) if len(every) <= 20 else MaxNLocator(10, integer=True))
    axes.set_ylim(-2, 102)
    titled(axes, f"class ({span} each)", "test images (%)")
    headed(axes, "By class, test", columns=2)


def _asides(splits: Splits) -> str:
    """Mean confidence and loss, which have no panel."""
    found = []
    for name, unit in {"confidence": "", "loss": " nats"}.items():
        means = {split: column(splits[split], name) for split in SPLITS if split in splits}
        parts = [f"{split} {number(float(np.nanmean(v)))}{unit}" for split, v in means.items() if v is not None]
        found += [f"Mean {name}: {', '.join(parts)}."] if parts else []
    return " ".join(found)
