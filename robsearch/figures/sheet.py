"""The look of a trial's figures: one page width, small type, colours told apart without colour vision.

Everything is set on the artists themselves, so that drawing neither needs nor changes matplotlib's global settings.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from PIL import Image

WIDTH, DPI = 7.5, 120
"""Inches and dots per inch: 900 pixels."""
INK, SOFT, GRID = "#1d2127", "#6b7480", "#e4e7eb"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which most colour-blind readers tell apart; marks and dashes differ as well."""
MARKERS = "os^Dv<"
TEXT, SMALL = 8.5, 7.5
NAMES = 36
"""So many layer names fit side by side on a page; of more, every second or third is written."""
SPLITS: dict[str, dict[str, Any]] = {
    "train": {"color": COLORS[1], "linestyle": (0, (4, 1.5)), "linewidth": 1.1},
    "test": {"color": COLORS[0], "linestyle": "-", "linewidth": 1.5},
}
"""The order in which splits are drawn, and their look."""


def page(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A page of ``height`` inches and its panels, row by row."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06))
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, **grid).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(SOFT)
        axes.tick_params(labelsize=SMALL, color=SOFT, labelcolor=INK)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def titled(axes: Axes, x: str, y: str) -> None:
    """Names what the axes show, with units."""
    axes.set_xlabel(x, fontsize=TEXT, color=INK)
    axes.set_ylabel(y, fontsize=TEXT, color=INK)


def headed(axes: Axes, title: str, columns: int = 1) -> None:
    """The panel's title with its legend under it, both above the axes, where they cover no data."""
    handles, labels = axes.get_legend_handles_labels()
    options: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "ncols": columns, "alignment": "left"}
    options |= {"handlelength": 2.6, "borderaxespad": 0.2}
    legend = axes.legend(handles, labels, title=title, loc="lower left", bbox_to_anchor=(-0.02, 1.02), **options)
    legend.get_title().set(fontsize=TEXT, fontweight="bold", color=INK)


def noted(figure: Figure, *sentences: str) -> None:
    """A small note under the panels: how to read them, and whose formulas they are."""
    text = textwrap.fill(" ".join(filter(None, sentences)), 132)
    figure.supxlabel(text, fontsize=SMALL, color=SOFT, x=0.012, ha="left", linespacing=1.35)


def sources(found: Iterable[str]) -> str:
    """``Source: arXiv ...``, each once, or nothing."""
    names = list(dict.fromkeys(filter(None, found)))
    return f"Source: {', '.join(names)}." if names else ""


def quantity(name: str, unit: str, norm: str = "") -> str:
    """An axis title: ``margin (pixel units, ℓ∞)``; a pure number says so."""
    parts = ["pure number" if unit == "1" else unit or "unit not given", symbols(norm)]
    return f"{name} ({', '.join(filter(None, parts))})"


def symbols(norm: str) -> str:
    """``linf to l1`` as ``ℓ∞ to ℓ₁``."""
    return norm.replace("linf", "ℓ∞").replace("l1", "ℓ₁").replace("l2", "ℓ₂")


def number(value: float) -> str:
    """Three significant digits with a true minus, exponents only where they save digits."""
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "−")


def log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """A log axis with plain numbers, or a linear one where no drawn value is positive."""
    least = axes.dataLim.minposx if which == "x" else axes.dataLim.minposy
    if not math.isfinite(least):
        return
    axes.set(**{f"{which}scale": "log"})
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 150 * low else (1.0,), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_locator(NullLocator())


def layer_axis(axes: Axes, names: Sequence[str], room: int = NAMES) -> None:
    """Layers along x, first to last: at most ``room`` of their names, those of the first and the last among them."""
    apart = max(1, math.ceil(len(names) / room))
    places = [place for place in range(0, len(names) - 1, apart) if place <= len(names) - 1 - apart]
    places += [len(names) - 1]
    shown = [shortened(names[place]) for place in places]
    turned = 90 if len("  ".join(shown)) > 2 * room else 0
    axes.xaxis.set_major_locator(FixedLocator([float(place) for place in places]))
    axes.set_xticklabels(shown, rotation=turned, fontsize=SMALL - 0.5)
    axes.set_xlim(-0.6, max(len(names) - 0.4, 0.6))


def shortened(name: str, most: int = 24) -> str:
    """A long dotted name with its middle left out."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def save(figure: Figure, file: Path) -> None:
    """Writes a PNG of at most 256 colours: a third of the size of one in true colours."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    drawn = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(drawn).convert("RGB")
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, dpi=(DPI, DPI))
