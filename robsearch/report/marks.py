"""Marks that several figures of the report share: trials, and lambda* with its interval."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch
from pandas import DataFrame, Series

from robsearch.drawing.formatting import number
from robsearch.drawing.style import ACCENT, INK, PAPER, Tone, filled, missed
from robsearch.laws import Optimum

LOSSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
SHADES = (0.72, 0.5, 0.33, 0.2, 0.1)
"""Points below the best at a width, and how strongly the bands between them are tinted."""


def loss_bands(lost: Series[float] | np.ndarray) -> np.ndarray:
    """The place among ``SHADES`` of each of some points lost; what lost more than the last has the
    place after it."""
    return np.searchsorted(LOSSES, np.clip(lost, 0.0, None), side="right") - 1


def tint_of(band: int) -> tuple[float, ...]:
    """The colour of a band, without any for what lost most."""
    return to_rgba(ACCENT, [*SHADES, 0.0][band])


def tinted_marks(axes: Axes, xs: Any, ys: Any, marker: str, tint: Any) -> None:
    """Marks of one tint on a ground of paper, so that no other tint shows through."""
    axes.plot(xs, ys, marker, color=PAPER, markersize=9.5)
    axes.plot(xs, ys, marker, markersize=7, markerfacecolor=tint, markeredgecolor=INK)


def loss_entries() -> list[tuple[Any, str]]:
    """The legend's samples of the bands."""
    entries: list[tuple[Any, str]] = []
    for shade, (low, high) in zip(SHADES, pairwise(LOSSES), strict=True):
        tint = Patch(facecolor=to_rgba(ACCENT, shade))
        entries.append((tint, f"{number(low)} to {number(high)} points lost"))
    return entries


def plot_rates(axes: Axes, rows: DataFrame, x: str, y: str, marker: str = "", **style: Any) -> None:
    """Two rates of some trials against each other, in percent."""
    axes.plot(100 * rows[x], 100 * rows[y], marker, **style)


def mark_trials(
    axes: Axes,
    tone: Tone,
    xs: Series[float],
    ys: Series[float],
    meeting: Series[bool],
    **style: Any,
) -> None:
    """Trials of one width: filled where they meet the constraints, hollow where they miss one."""
    for chosen, look in ((meeting, filled(tone.color)), (~meeting, missed(tone.color))):
        axes.plot(xs[chosen], ys[chosen], tone.marker, **look, **style)


def mark_optimum(
    plot: Callable[..., object],
    optimum: Optimum,
    ends: tuple[float, float],
    arrows: str,
    color: str,
    **style: Any,
) -> None:
    """Lambda* and its interval; hollow where lambda* lies outside the lambdas tried.

    Args:
        plot: draws at some lambdas, with a marker.
        optimum: determined.
        ends: the lambdas at which the axis ends; beyond them nothing is drawn.
        arrows: the markers at the lower and the upper end that say that the interval goes on.
        color: of all.
        style: of the mark.
    """
    assert optimum.lam is not None, "there is nothing to draw otherwise"
    interval = np.array([optimum.low, optimum.high], dtype=float)
    start, end = ends
    plot(interval.clip(start, end), color=color, linewidth=2.2)
    if start < optimum.lam < end:
        face = PAPER if optimum.censored else color
        plot([optimum.lam], "D", color=color, markerfacecolor=face, **style)
    low, high = interval
    if low < start:
        plot([start], arrows[0], color=color, clip_on=False)
    if high > end:
        plot([end], arrows[1], color=color, clip_on=False)
