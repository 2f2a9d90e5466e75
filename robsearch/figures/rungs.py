"""The ladder of attacks, cheap to dear: what robust accuracy each rung leaves, and what it costs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from robsearch.figures.sheet import COLORS, INK, SMALL, headed, noted, page, titled

Standing = Mapping[str, Any]
"""One rung: ``rung``, ``robust_accuracy`` and where known ``attacks``, ``n``, ``low``, ``high``, ``attacked``,
``broken``, ``seconds``."""


def ladder(standings: Sequence[Standing]) -> Figure | None:
    """Robust accuracy in % with its interval, rung below rung, and beside it the seconds of each.

    Returns:
        None where there is no rung with a robust accuracy.
    """
    known = [standing for standing in standings if standing.get("robust_accuracy") is not None]
    if not known:
        return None
    timed = any(standing.get("seconds") is not None for standing in known)
    height = 1.5 + 0.5 * len(known)
    figure, (left, *right) = page(height, columns=2, sharey=True, width_ratios=(3, 2)) if timed else page(height)
    _draw_accuracy(left, known)
    for axes in right:
        _draw_seconds(axes, known)
    sizes = sorted({f"{standing['n']:,}" for standing in known if standing.get("n") is not None})
    n = f"n = {' to '.join(sizes)} {'image' if sizes == ['1'] else 'images'}. " if sizes else ""
    bars = "Bars: 95 % intervals over images. " if all(standing.get("low") is not None for standing in known) else ""
    noted(figure, f"{n}{bars}Each rung attacks only what the rungs above left standing.")
    return figure


def _draw_accuracy(axes: Axes, known: Sequence[Standing]) -> None:
    at = np.arange(len(known), 0, -1) - 1.0
    rate = np.array([100 * standing["robust_accuracy"] for standing in known])
    ends = np.array(
        [[100 * _or(standing.get(key), standing["robust_accuracy"]) for standing in known] for key in ("low", "high")]
    )
    axes.errorbar(rate, at, xerr=np.abs(ends - rate), fmt="o", color=COLORS[0], markersize=5, elinewidth=1.2)
    for x, y in zip(rate, at, strict=True):
        axes.annotate(f"{x:.1f}", (x, y), (0, 5), textcoords="offset points", ha="center", fontsize=SMALL, color=INK)
    axes.yaxis.set_major_locator(FixedLocator(at.tolist()))
    axes.set_yticklabels(_words(known), fontsize=SMALL)
    axes.set_ylim(-0.5, len(known) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    titled(axes, "robust accuracy (%)", "")
    headed(axes, "Robust accuracy by rung")


def _words(known: Sequence[Standing]) -> list[str]:
    """Each rung's name over the attacks that it adds to the rung above."""
    before: list[str] = []
    found = []
    for standing in known:
        attacks = list(standing.get("attacks") or [])
        more = [attack for attack in attacks if attack not in before]
        plus = "+ " if before and set(before) < set(attacks) else ""
        found.append("\n".join([standing["rung"], *textwrap.wrap(plus + ", ".join(more if plus else attacks), 26)]))
        before = attacks
    return found


def _draw_seconds(axes: Axes, known: Sequence[Standing]) -> None:
    at = np.arange(len(known), 0, -1) - 1.0
    seconds = [float(_or(standing.get("seconds"), np.nan)) for standing in known]
    axes.barh(at, np.nan_to_num(seconds), height=0.3, color=COLORS[5])
    for y, time, standing in zip(at, seconds, known, strict=True):
        counts = [f"{standing[key]:,} {key}" for key in ("attacked", "broken") if standing.get(key) is not None]
        words = (
            ", ".join([f"{time:,.1f} s" if time < 100 else f"{time:,.0f} s", *counts]) if time == time else "not timed"
        )
        axes.annotate(words, (0, y + 0.17), (3, 0), textcoords="offset points", fontsize=SMALL, color=INK, va="bottom")
    titled(axes, "wall time of the rung's own attacks (s)", "")
    axes.tick_params(labelleft=False)
    headed(axes, "Cost")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
