"""How the panels of a trial's figures are named: titles, units, layers, splits, notes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from robsearch.drawing.style import COLORS, SMALL, SOFT

NAMES = 36
"""So many layer names fit side by side on a page; of more, every second or third is written."""
LETTERS = 24
"""So many letters of a layer's name are written."""
SPLITS: dict[str, dict[str, Any]] = {
    "train": {
        "color": COLORS[1],
        "linestyle": (0, (4, 1.5)),
        "linewidth": 1.1,
    },
    "test": {
        "color": COLORS[0],
        "linestyle": "-",
        "linewidth": 1.5,
    },
}
"""The order in which splits are drawn, and their look."""
UNKNOWN_KIND = "kind not given"


def heading(axes: Axes, title: str, columns: int = 1) -> None:
    """The panel's title with its legend under it, both above the axes, where they cover no data."""
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.legend(
        handles,
        labels,
        title=title,
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.02),
        alignment="left",
        handlelength=2.6,
        borderaxespad=0.2,
    )
    legend.get_title().set_fontweight("bold")


def footnote(figure: Figure, *sentences: str, sources: Iterable[str] = ()) -> None:
    """A small note under the panels: how to read them, and whose formulas they are."""
    named = dict.fromkeys(filter(None, sources))
    source = f"Source: {', '.join(named)}." if named else ""
    figure.supxlabel(
        textwrap.fill(" ".join(filter(None, [*sentences, source])), 132),
        fontsize=SMALL,
        color=SOFT,
        x=0.012,
        ha="left",
        linespacing=1.35,
    )


def quantity(name: str, unit: str, norm: str = "") -> str:
    """An axis title: ``margin (pixel units, ℓ∞)``; a pure number says so."""
    if unit == "1":
        unit = "pure number"
    described = unit or "unit not given"
    if norm:
        symbols = norm.replace("linf", "ℓ∞").replace("l1", "ℓ₁").replace("l2", "ℓ₂")
        described += f", {symbols}"
    return f"{name} ({described})"


def layer_axis(axes: Axes, names: Sequence[str], most: int = NAMES) -> None:
    """Layers along x, first to last: at most ``most`` of their names, those of the first and the
    last among them."""
    last = len(names) - 1
    step = max(1, math.ceil(len(names) / most))
    # The last name is always written, and none so near to it that they would overlap.
    positions = [*range(0, last - step + 1, step), last]
    texts = [shortened(names[place]) for place in positions]
    turned = 90 if len("  ".join(texts)) > 2 * most else 0
    axes.xaxis.set_major_locator(FixedLocator(positions))
    axes.set_xticklabels(texts, rotation=turned, fontsize=SMALL - 0.5)
    axes.set_xlim(-0.6, last + 0.6)
    axes.set_xlabel(f"layer, first to last ({len(names)})")


def shortened(name: str) -> str:
    """A long dotted name with its middle left out."""
    if len(name) <= LETTERS:
        return name
    half = LETTERS // 2
    return f"{name[: half - 1]}…{name[-half:]}"
