"""The one look of all figures: inline SVG in a page, and PNG files that MLflow shows.

A figure is drawn in the colours of the light theme. In SVG each of them becomes a CSS variable, so
that one drawing is right in the light and in the dark theme; its text is text in the page's font.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from PIL import Image

from robsearch.drawing.formatting import names_of, number
from robsearch.drawing.tooltips import Spot, overlay

WIDTH, DPI = 9.0, 100
"""Of all figures, in inches and dots per inch."""
LIGHT = {
    "ink": "#1d2127",
    "soft": "#6b7480",
    "grid": "#e4e7eb",
    "paper": "#ffffff",
    "accent": "#1f5fa8",
}
DARK = {
    "ink": "#e3e6ea",
    "soft": "#949da8",
    "grid": "#2b3138",
    "paper": "#14171b",
    "accent": "#82b4ee",
}
INK, SOFT, GRID, PAPER, ACCENT = LIGHT.values()
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
"""Okabe and Ito's, which most colour-blind readers tell apart; marks and dashes differ as well."""
MARKERS = "os^Dv<>h"
SMALL = 9.0
TICKS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (1e5, (1,)),
    (8, (1, 2, 5)),
    (2, (1, 1.5, 2, 3, 4, 5, 7)),
    (0, tuple(np.arange(1, 10, 0.5))),
)
LAMBDA = "λ, strength of robust regularisation"
ROBUST = "robust accuracy (%)"
LIMIT: dict[str, Any] = {
    "color": SOFT,
    "linewidth": 1.1,
    "linestyle": (0, (4, 2)),
}
"""The style of the line that a constraint draws."""
JOINED: dict[str, Any] = {
    "color": SOFT,
    "linewidth": 1.0,
    "zorder": 1.5,
}
"""The style of a line that joins one mark of each width."""
RING: dict[str, Any] = {
    "color": INK,
    "markerfacecolor": "none",
    "markersize": 12,
    "markeredgewidth": 1.0,
}
FAINT: dict[str, Any] = {
    "markersize": 4.5,
    "markerfacecolor": PAPER,
    "markeredgewidth": 0.9,
    "alpha": 0.7,
}
"""The style of a trial in the background."""

LOOK: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
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
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.6,
}


class Drawing(NamedTuple):
    """A finished figure: its SVG and the caption that makes it readable alone."""

    svg: Markup
    caption: str


class FigureMarkup(Markup):
    """The SVG of a figure, which keeps the figure itself for who wants it as a file."""

    figure: Figure


class Tone(NamedTuple):
    """How one width looks in every figure."""

    color: str
    marker: str


_FOR_FILES: ContextVar[bool] = ContextVar("_FOR_FILES", default=False)


@contextmanager
def for_files() -> Iterator[None]:
    """Gives widths the colours of the light theme itself: a file, other than a page, has no
    variables."""
    before = _FOR_FILES.set(True)
    try:
        yield
    finally:
        _FOR_FILES.reset(before)


@contextmanager
def look(**more: Any) -> Iterator[None]:
    """The style, for the figures drawn inside; also a decorator."""
    style: Any = {**LOOK, **more}
    with matplotlib.rc_context(style):
        yield


def tone(widths: Sequence[float], width: float) -> Tone:
    """The colour and the mark of a width: two cues, so that neither colour vision nor print is
    needed.

    The colour is a placeholder for the CSS variable ``--w0`` ..., which depends on the theme, or
    the light theme's (``for_files``).
    """
    place = list(widths).index(width)
    color = palette(len(widths), dark=False)[place] if _FOR_FILES.get() else f"#0500{place:02x}"
    return Tone(color, MARKERS[place % len(MARKERS)])


def palette(count: int, dark: bool) -> list[str]:
    """One colour per width, thin to wide, from viridis: the part of it that reads on the theme's
    paper."""
    ends = (0.36, 0.97) if dark else (0.08, 0.72)
    colors = matplotlib.colormaps["viridis"](np.linspace(*ends, max(count, 1)))
    return [to_hex(color) for color in colors]


def theme(widths: int, dark: bool) -> dict[str, str]:
    """The colours of a page by the name of their CSS variable; figures and tables use the same."""
    colors = {f"w{place}": color for place, color in enumerate(palette(widths, dark))}
    return {**(DARK if dark else LIGHT), **colors}


def blank(height: float) -> Figure:
    """A figure of ``height`` inches without axes."""
    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06, wspace=0.03)
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout=layout)


def panels(
    height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """An empty figure of ``height`` inches and its axes in reading order."""
    figure = blank(height)
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, list(axes.flat)


def legend(figure: Figure, entries: Sequence[tuple[Any, str]], columns: int = 6) -> None:
    """One legend above the axes."""
    handles, labels = zip(*entries, strict=True)
    columns = min(columns, len(labels))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def mark(marker: str, color: str = SOFT, **options: Any) -> Line2D:
    """A legend's sample of a mark without a line."""
    style = {
        "linestyle": "none",
        "marker": marker,
        "color": color,
        "markersize": 6.5,
        **options,
    }
    return Line2D([], [], **style)


def filled(color: str) -> dict[str, Any]:
    """The style of a trial's mark: set off by the paper from what lies under it."""
    return {
        "color": color,
        "markersize": 7.5,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.8,
    }


def missed(color: str) -> dict[str, Any]:
    """The style of a trial that misses a constraint."""
    return {
        "color": color,
        "markerfacecolor": PAPER,
        "markeredgecolor": color,
        "markersize": 6.5,
        "markeredgewidth": 1.2,
    }


def log_axis(axes: Axes, which: str) -> None:
    """A log axis labelled 1, 2, 5, 10 instead of in powers of ten; it stays linear where no drawn
    value is positive."""
    is_x = which == "x"
    # The least positive value is infinite where there is none.
    if not math.isfinite(axes.dataLim.minposx if is_x else axes.dataLim.minposy):
        return
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if is_x else axes.yaxis
    low, high = sorted(axes.get_xlim() if is_x else axes.get_ylim())
    steps = next(steps for span, steps in TICKS if high / low > span)
    # numticks is a bound that is never reached, or ticks would be left out.
    axis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def width_axis(axes: Axes, widths: Sequence[float]) -> None:
    """A log x-axis that has a tick at each width and nowhere else."""
    log_axis(axes, "x")
    axes.xaxis.set_major_locator(FixedLocator(list(widths)))


def width_entries(
    widths: Sequence[float], line: bool = True, marked: bool = True
) -> list[tuple[Any, str]]:
    """One legend entry per width, with a line, a mark or both."""
    entries = []
    for width, name in names_of(widths).items():
        color, marker = tone(widths, width)
        sample = mark(marker if marked else "", color, linestyle="-" if line else "none")
        entries.append((sample, f"width {name}"))
    return entries


def svg(figure: Figure, name: str, label: str, spots: Sequence[Spot] = ()) -> FigureMarkup:
    """The figure as inline SVG that takes its colours from the page and shares no id with another
    figure.

    Args:
        figure: to be drawn.
        name: of the figure, from which its ids derive.
        label: for those who cannot see it.
        spots: points that answer the pointer.
    """
    # Ids that derive from the name are the same at every drawing, and no other figure's.
    with look(**{"svg.hashsalt": name}):
        text = _printed(figure)
    # The head of an XML file has no place inside a page.
    text = text[text.index("<svg") :]
    # Groups are called alike in every figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    # The page decides how wide it is; the height follows from the view box.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    described = f' role="img" aria-label="{escape(label)}"'
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', lambda match: match[1] + described, text, count=1)
    text = re.sub(r"#0500([0-9a-f]{2})", lambda place: f"var(--w{int(place[1], 16)})", text)
    for variable, color in LIGHT.items():
        text = text.replace(color, f"var(--{variable})")
    drawn = FigureMarkup(text.replace("</svg>", f"{overlay(figure, spots)}</svg>"))
    drawn.figure = figure
    return drawn


def _printed(figure: Figure) -> str:
    """What ``savefig`` gives, as SVG without a background.

    That would draw the figure twice, the first time for nothing but its layout.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(
        (
            "Creator",
            "Date",
            "Format",
            "Type",
        )
    )
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set(facecolor="none", edgecolor="none")
    backend = FigureCanvasSVG(figure)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine("none")
    backend.print_svg(stream, metadata=nothing)  # type: ignore[no-untyped-call]
    # SVG counts in points, and leaves the figure so.
    figure.set_dpi(DPI)
    return stream.getvalue()


def save(figure: Figure, file: Path) -> None:
    """Writes a PNG of at most 256 colours: a third of the size of one in true colours."""
    agg = FigureCanvasAgg(figure)
    with look():
        agg.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(agg.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels).convert("RGB")
    # Dithering would put dots into areas of one colour.
    image = image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    image.save(file, dpi=(DPI, DPI))
