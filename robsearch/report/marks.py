"""Marks that several figures of the report share: trials, and lambda* with its interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame, Series

from robsearch.drawing.style import PAPER, Tone, filled, missed
from robsearch.laws import Optimum


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
