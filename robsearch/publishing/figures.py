"""Figures for one column of a paper, as PDF with its fonts inside."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from robsearch.claims.claim import Part, named_parts
from robsearch.claims.figures import whiskers
from robsearch.claims.page import Validation
from robsearch.drawing.formatting import names_of, number
from robsearch.drawing.style import (
    COLORS,
    GRID,
    INK,
    LOOK,
    MARKERS,
    PAPER,
    SOFT,
    log_axis,
    look,
    width_axis,
)
from robsearch.laws import ResponseSurface
from robsearch.laws.regret import RegretMap
from robsearch.search import Search

COLUMN_WIDTH = 3.3
"""Inches: one of two columns on a page."""
LETTERS = {
    **LOOK,
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    # TrueType, which publishers take; Type 3 they refuse.
    "pdf.fonttype": 42,
}
LETTERS_OF_A_LINE = 30
"""Of an effect's name."""
BORDER = 2.0
"""Points of accuracy from which on the darkest colour of the regret map is used at least."""


def search_figures(search: Search, folder: Path) -> list[Path]:
    """Lambda* over width with the law where there is one, and the regret map; what the trials do
    not determine has no figure."""
    files = []
    if any(search.ridge.optimum(width).lam is not None for width in search.widths):
        files.append(_save(_law_figure(search.ridge), folder / "lambda-by-width.pdf"))
    regret = search.ridge.regret
    if regret is not None:
        files.append(_save(_regret_figure(regret), folder / "regret.pdf"))
    return files


def validation_figures(validation: Validation, folder: Path) -> list[Path]:
    """The effects of all claims with their intervals; none where nothing was measured."""
    parts = named_parts(validation.verdicts)
    if not parts:
        return []
    return [_save(_effects_figure(parts), folder / "effects.pdf")]


def _save(figure: Figure, file: Path) -> Path:
    # Without a date, so that the same numbers make the same file.
    with look(**LETTERS):
        figure.savefig(file, metadata={"CreationDate": None})
    return file


def _blank(height: float) -> Figure:
    return Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")


def _law_figure(ridge: ResponseSurface) -> Figure:
    """A mark with its interval for each width that places lambda*; a line where there is a law."""
    with look(**LETTERS):
        figure = _blank(2.2)
        axes = figure.subplots()
        widths = [curve.width for curve in ridge.curves]
        for place, width in enumerate(widths):
            optimum = ridge.optimum(width)
            if optimum.lam is None or optimum.low is None or optimum.high is None:
                continue
            color = COLORS[place % len(COLORS)]
            marker = MARKERS[place % len(MARKERS)]
            axes.plot([width] * 2, [optimum.low, optimum.high], color=color)
            axes.plot([width], [optimum.lam], marker=marker, color=color, markersize=5)
        if ridge.law is not None:
            ends = np.geomspace(min(widths), max(widths), 50)
            axes.plot(ends, [ridge.law(width) for width in ends], color=SOFT, linewidth=1.0)
        axes.set(xlabel="width", ylabel="λ*")
        width_axis(axes, widths)
        log_axis(axes, "y")
    return figure


def _regret_figure(regret: RegretMap) -> Figure:
    """Points lost in each cell, as a number and as a shade."""
    names = names_of(regret.widths)
    count = len(regret.widths)
    points = np.array(
        [[100 * regret.at(width, other).lost for other in regret.widths] for width in regret.widths]
    )
    darkest = max(float(np.abs(points).max()), BORDER)
    with look(**{**LETTERS, "axes.grid": False}):
        figure = _blank(0.9 + 0.4 * count)
        axes = figure.subplots()
        axes.imshow(points, cmap="Blues", vmin=0, vmax=darkest, aspect="auto")
        for row in range(count):
            for column in range(count):
                color = PAPER if points[row, column] > 0.6 * darkest else INK
                text = f"{points[row, column]:.1f}"
                axes.text(column, row, text, ha="center", va="center", color=color)
        labels = [
            f"{names[width]}\nλ* {number(lam) if is_placed else f'({number(lam)})'}"
            for width, lam, is_placed in zip(regret.widths, regret.lams, regret.placed, strict=True)
        ]
        axes.set_xticks(range(count), labels)
        axes.set_yticks(range(count), list(names.values()))
        axes.set(xlabel="λ* of width", ylabel="points lost at width")
    return figure


def _effects_figure(parts: list[Part]) -> Figure:
    """A row for each effect; effects of one unit share a panel."""
    units = list(dict.fromkeys(part.effect.unit for part in parts))
    by_unit = [[part for part in parts if part.effect.unit == unit] for unit in units]
    with look(**LETTERS):
        figure = _blank(0.4 + 0.35 * len(units) + 0.45 * len(parts))
        all_axes = figure.subplots(
            len(units), squeeze=False, height_ratios=[len(rows) for rows in by_unit]
        )
        for axes, unit, rows in zip(all_axes.flat, units, by_unit, strict=True):
            heights = np.arange(len(rows))[::-1]
            mean, reach = whiskers([part.estimate for part in rows])
            axes.errorbar(mean, heights, xerr=reach, fmt="o", color=COLORS[0], markersize=3.5)
            deltas = [part.effect.delta for part in rows]
            axes.plot(deltas, heights, "|", color=SOFT, markersize=7)
            axes.axvline(0, color=GRID, linewidth=0.8)
            axes.set_yticks(heights, [fill(part.effect.what, LETTERS_OF_A_LINE) for part in rows])
            axes.set(xlabel=unit or "no unit", ylim=(-0.6, len(rows) - 0.4))
    return figure
