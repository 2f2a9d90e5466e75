"""How often the network is right: the rates on both splits, and class by class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from robsearch.drawing.formatting import number
from robsearch.drawing.style import COLORS, look, panels
from robsearch.errors import counted
from robsearch.metrics import RATES, wilson
from robsearch.trials.figures.labels import SPLITS, footnote, heading
from robsearch.trials.figures.tables import Splits, column

CLASS_STYLES: dict[str, dict[str, Any]] = {
    "natural_accuracy": {
        "label": "natural",
        "color": COLORS[2],
        "marker": "o",
    },
    "robust_accuracy": {
        "label": "robust",
        "color": COLORS[3],
        "marker": "s",
    },
}
ASIDE = 0.14
"""How far the marks of one row or class are drawn apart."""
MANY = 20
"""With more classes not every one is named."""


@look()
def accuracy(splits: Splits) -> Figure | None:
    """Natural and robust accuracy, stability and wrong-to-right flips in %, with intervals, and by
    class on test.

    Args:
        splits: ``train``, ``test`` or both, with any of these columns (1 or 0 per image) and
            ``label``.

    Returns:
        None where no split has such a column.
    """
    rates = measured_rates(splits)
    if rates.empty:
        return None
    classes = class_rates(splits)
    columns = 2 if classes else 1
    figure, axes = panels(3.9, columns=columns, width_ratios=(5, 6)[:columns])
    draw_rates(axes[0], rates, {split: len(table) for split, table in splits.items()})
    if classes:
        draw_classes(axes[1], classes)
    intervals = "Bars: 95 % intervals (Wilson) over images."
    footnote(figure, intervals, averages(splits), sources=["arXiv 2010.01279"])
    return figure


def measured_rates(splits: Splits) -> pd.DataFrame:
    """A row per ``split`` and ``rate``: its ``share``, and over how many images it is (``n``)."""
    rows = []
    for split, table in splits.items():
        for rate in RATES:
            rights = column(table, rate)
            if rights is not None:
                row = {
                    "split": split,
                    "rate": rate,
                    "share": float(np.nanmean(rights)),
                    "n": int(np.isfinite(rights).sum()),
                }
                rows.append(row)
    return pd.DataFrame(rows)


def draw_rates(axes: Axes, rates: pd.DataFrame, sizes: dict[str, int]) -> None:
    """One row for each rate, with a mark for each split; ``sizes`` are all images of each."""
    lowest_first = [rate for rate in reversed(RATES) if rate in set(rates["rate"])]
    for split, measured in rates.groupby("split", sort=False):
        shift = 0.0
        if len(sizes) == 2:
            shift = ASIDE if split == "train" else -ASIDE
        draw_shares(
            axes,
            [lowest_first.index(rate) + shift for rate in measured["rate"]],
            measured,
            flat=True,
            label=f"{split}, n = {sizes[str(split)]:,}",
            color=SPLITS[str(split)]["color"],
            mfc=None if split == "test" else "white",
        )
    texts = []
    for rate in lowest_first:
        measured = rates[rates["rate"] == rate]
        pairs = zip(measured["split"], measured["share"], strict=True)
        shares = ", ".join(f"{split} {100 * share:.1f}" for split, share in pairs)
        texts.append(f"{rate.replace('_', ' ')}\n{shares}")
    axes.set_yticks(range(len(texts)), texts)
    axes.set(xlim=(-2, 102), ylim=(-0.5, len(texts) - 0.5), xlabel="images (%)")
    heading(axes, "Rates under the same attack", columns=2)


def draw_shares(
    axes: Axes,
    positions: Any,
    rows: pd.DataFrame,
    *,
    flat: bool,
    **style: Any,
) -> None:
    """Shares (columns ``share``, ``n``) in % as marks with their intervals; ``flat`` ones lie along
    x."""
    percent = 100 * rows["share"].to_numpy()
    ends = [wilson(share, n) for share, n in zip(rows["share"], rows["n"], strict=True)]
    bars = np.abs(100 * np.array(ends).T - percent)
    style = {
        "linestyle": "none",
        "marker": "o",
        "markersize": 5,
        "elinewidth": 1.2,
        **style,
    }
    if flat:
        axes.errorbar(percent, positions, xerr=bars, **style)
    else:
        axes.errorbar(positions, percent, yerr=bars, **style)


def class_rates(splits: Splits) -> dict[str, pd.DataFrame]:
    """By rate, the ``share`` and the number ``n`` of test images of each class."""
    labels = column(splits["test"], "label") if "test" in splits else None
    if labels is None:
        return {}
    classes = {}
    for rate in CLASS_STYLES:
        rights = column(splits["test"], rate)
        if rights is not None:
            by_class = pd.Series(rights).groupby(labels).agg(share="mean", n="count")
            classes[rate] = by_class[by_class["n"] > 0]
    return classes


def draw_classes(axes: Axes, classes: dict[str, pd.DataFrame]) -> None:
    """A mark for each class and rate."""
    for shift, (rate, shares) in zip((-ASIDE, ASIDE), classes.items(), strict=False):
        draw_shares(
            axes,
            shares.index + shift,
            shares,
            flat=False,
            markersize=5 if len(shares) <= MANY else 2.5,
            **CLASS_STYLES[rate],
        )
    of_both = pd.concat(classes.values())
    least = int(of_both["n"].min())
    most = int(of_both["n"].max())
    span = counted(most, "image")
    if least < most:
        span = f"{least:,} to {span}"
    labels = sorted(set(of_both.index))
    few = len(labels) <= MANY
    axes.xaxis.set_major_locator(FixedLocator(labels) if few else MaxNLocator(10, integer=True))
    axes.set(ylim=(-2, 102), xlabel=f"class ({span} each)", ylabel="test images (%)")
    heading(axes, "By class, test", columns=2)


def averages(splits: Splits) -> str:
    """Mean confidence and loss, which have no panel."""
    sentences = []
    for name, unit in {"confidence": "", "loss": " nats"}.items():
        columns = {split: column(table, name) for split, table in splits.items()}
        parts = [
            f"{split} {number(float(np.nanmean(values)))}{unit}"
            for split, values in columns.items()
            if values is not None
        ]
        if parts:
            sentences.append(f"Mean {name}: {', '.join(parts)}.")
    return " ".join(sentences)
