"""The figures' one look.

A figure is drawn in placeholder colours, each of which becomes a CSS variable in the inline SVG, so that one
drawing is right in the light and in the dark theme; its text is text in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from .markup import Html
from .numerals import plain

INK, SOFT, GRID, PAPER, ACCENT = "#010101", "#020202", "#030303", "#040404", "#060606"
VARIABLES = {INK: "ink", SOFT: "soft", GRID: "grid", PAPER: "paper", ACCENT: "accent"}
TICKS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (1e5, (1,)),
    (8, (1, 2, 5)),
    (2, (1, 1.5, 2, 3, 4, 5, 7)),
    (0, tuple(np.arange(1, 10, 0.5))),
)
MARKERS = "os^Dv<>h"
LAMBDA = "λ, strength of robust regularisation"
ROBUST = "robust accuracy (%)"
LIMIT: dict[str, Any] = {"color": SOFT, "linewidth": 1.1, "linestyle": (0, (4, 2))}
"""The style of the line that a constraint draws."""
RING: dict[str, Any] = {"color": INK, "markerfacecolor": "none", "markersize": 12, "markeredgewidth": 1.0}

LOOK: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.6,
}


class Drawing(NamedTuple):
    """A finished figure: its SVG and the caption that makes it readable alone."""

    svg: Html
    caption: str | Html


class Tone(NamedTuple):
    """How one width looks in every figure."""

    color: str
    marker: str


@contextmanager
def look() -> Iterator[None]:
    """The report's style, for the figures drawn inside."""
    with matplotlib.rc_context(LOOK):
        yield


def tone(widths: Sequence[float], width: float) -> Tone:
    """The colour and the mark of a width: two cues, so that neither colour vision nor print is needed."""
    place = list(widths).index(width)
    return Tone(f"#0500{place:02x}", MARKERS[place % len(MARKERS)])


def palette(count: int, dark: bool) -> list[str]:
    """One colour per width, thin to wide, from viridis: the part of it that reads on the theme's paper."""
    low, high = (0.36, 0.97) if dark else (0.08, 0.72)
    return [to_hex(rgba) for rgba in matplotlib.colormaps["viridis"](np.linspace(low, high, max(count, 1)))]


def variables(count: int, dark: bool) -> str:
    """The palette as CSS declarations ``--w0`` ... used by figures and tables alike."""
    return " ".join(f"--w{place}: {color};" for place, color in enumerate(palette(count, dark)))


def panels(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure of the report's width and its axes in reading order."""
    figure = Figure(figsize=(8.6, height), layout=ConstrainedLayoutEngine(wspace=0.06))
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, list(axes.flat)


def legend(figure: Figure, entries: Sequence[tuple[Any, str]], columns: int = 6) -> None:
    """One legend above the axes."""
    handles, labels = zip(*entries, strict=True)
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(columns, len(labels)),
    )


def mark(marker: str, color: str = SOFT, **options: Any) -> Line2D:
    """A legend's sample of a mark without a line."""
    return Line2D([], [], **{"linestyle": "none", "marker": marker, "color": color, "markersize": 6.5, **options})


def filled(color: str) -> dict[str, Any]:
    """The style of a trial's mark: set off by the paper from what lies under it."""
    return {"color": color, "markersize": 7.5, "markeredgecolor": PAPER, "markeredgewidth": 0.8}


def faint() -> dict[str, Any]:
    """The style of a trial in the background."""
    return {"markersize": 4.5, "markerfacecolor": PAPER, "markeredgewidth": 0.9, "alpha": 0.7}


def missed(color: str) -> dict[str, Any]:
    """The style of a trial that misses a constraint."""
    return {
        **filled(color),
        "markerfacecolor": PAPER,
        "markeredgecolor": color,
        "markersize": 6.5,
        "markeredgewidth": 1.2,
    }


def log_axis(axes: Axes, which: str) -> None:
    """A log axis labelled 1, 2, 5, 10 instead of in powers of ten."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    steps = next(steps for span, steps in TICKS if high / low > span)
    axis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def width_axis(axes: Axes, widths: Sequence[float]) -> None:
    """A log x-axis that has a tick at each width and nowhere else."""
    log_axis(axes, "x")
    axes.xaxis.set_major_locator(FixedLocator(list(widths)))


def svg(figure: Figure, name: str, label: str, over: Callable[[Figure], Html] | None = None) -> Html:
    """The figure as inline SVG that takes its colours from the page and shares no id with another figure.

    Args:
        figure: to be drawn.
        name: of the figure, from which its ids derive.
        label: for those who cannot see it.
        over: makes elements that lie above the drawing, once places are known.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r'(<svg[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{label}"', drawn, count=1)
    drawn = re.sub(r"#0500([0-9a-f]{2})", lambda found: f"var(--w{int(found[1], 16)})", drawn)
    for placeholder, variable in VARIABLES.items():
        drawn = drawn.replace(placeholder, f"var(--{variable})")
    return Html(drawn.replace("</svg>", f"{over(figure)}</svg>") if over else drawn)


def width_entries(widths: Sequence[float], line: bool = True) -> list[tuple[Any, str]]:
    """One legend entry per width."""
    return [(sample(tone(widths, width), line), f"width {plain(width)}") for width in widths]


def sample(own: Tone, line: bool) -> Line2D:
    """A legend's sample of a width."""
    return Line2D([], [], linestyle="-" if line else "none", marker=own.marker, color=own.color, markersize=6.5)
