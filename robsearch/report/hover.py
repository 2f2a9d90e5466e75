"""What a point says when the pointer rests on it, in the browser's own tooltip, and the link to its trial's run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from .evidence import Evidence, number, words
from .markup import ABSENT, Html, join, tag
from .numerals import percent, plain

RADIUS, POINTS_PER_INCH = 6.0, 72.0


class Spot(NamedTuple):
    """A point of a figure that answers the pointer."""

    axes: Axes
    x: float
    y: float
    text: str
    page: str


def spots(axes: Axes, evidence: Evidence, rows: DataFrame, xs: Series[float], ys: Series[float]) -> list[Spot]:
    """One for each of some trials, where it is drawn."""
    return [
        Spot(axes, x, y, said(row), evidence.pages.get(str(row["trial"]), ""))
        for x, y, (_, row) in zip(xs, ys, rows.iterrows(), strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]


def said(row: Series) -> str:
    """``w4-017: λ 6.31, robust 56.2 % on validation, 55.0 % on test``."""
    value, test = percent(number(row, "value")), percent(number(row, "test/robust_accuracy"))
    told = f"{words(row['trial'])}: λ {plain(number(row, 'lam'))}, robust {value} % on validation"
    return told if test == ABSENT else f"{told}, {test} % on test"


def layer(figure: Figure, found: Sequence[Spot]) -> Html:
    """The spots as transparent discs over a figure that has been drawn, in the coordinates of its SVG."""
    width, height = (POINTS_PER_INCH * side for side in figure.get_size_inches())
    return tag("g", *discs(figure, found, float(width), float(height)), class_="spots") if found else Html()


def discs(figure: Figure, found: Sequence[Spot], width: float, height: float) -> Iterator[Html]:
    """Those within their axes."""
    for spot in found:
        left, bottom = figure.transFigure.inverted().transform(spot.axes.transData.transform((spot.x, spot.y)))
        inside = spot.axes.get_position().padded(0.01)
        if inside.contains(left, bottom):
            at = {"cx": f"{width * left:.1f}", "cy": f"{height * (1 - bottom):.1f}", "r": f"{RADIUS:g}"}
            disc = tag("circle", tag("title", spot.text), **at)
            yield tag("a", disc, href=spot.page, target="_blank") if spot.page else disc


def linked(evidence: Evidence, trial: str) -> Html:
    """A trial's name, as a link to its run where that is known."""
    page = evidence.pages.get(trial, "")
    return tag("a", trial, href=page) if page else join([trial])
