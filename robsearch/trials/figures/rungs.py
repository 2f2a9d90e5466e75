"""The ladder of attacks, cheap to dear: what robust accuracy each rung leaves, and what it
costs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robsearch.drawing.style import COLORS, SMALL, look, panels
from robsearch.trials.figures.labels import footnote, heading

FACTS = (
    "rung",
    "attacks",
    "n",
    "robust_accuracy",
    "low",
    "high",
    "attacked",
    "broken",
    "seconds",
)


@look()
def ladder(standings: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Robust accuracy in % with its interval, rung below rung, and beside it the seconds of each.

    Args:
        standings: of each rung ``rung``, ``robust_accuracy``, and what else of ``FACTS`` is known.

    Returns:
        None where there is no rung with a robust accuracy.
    """
    rungs = pd.DataFrame(standings, columns=FACTS).dropna(subset="robust_accuracy")
    if rungs.empty:
        return None
    # The first rung is drawn on top.
    rungs.index = pd.RangeIndex(len(rungs) - 1, -1, -1)
    columns = 2 if rungs["seconds"].notna().any() else 1
    height = 1.8 + 0.6 * len(rungs)
    ratios = (3, 2)[:columns]
    figure, axes = panels(height, columns=columns, sharey=True, width_ratios=ratios)
    draw_accuracy(axes[0], rungs)
    if columns == 2:
        draw_seconds(axes[1], rungs)
    sizes = sorted({f"{n:,.0f}" for n in rungs["n"].dropna()})
    images = "image" if sizes == ["1"] else "images"
    footnote(
        figure,
        f"n = {' to '.join(sizes)} {images}." if sizes else "",
        "Bars: 95 % intervals over images." if rungs["low"].notna().all() else "",
        "Each rung attacks only what the rungs above left standing.",
    )
    return figure


def draw_accuracy(axes: Axes, rungs: pd.DataFrame) -> None:
    """A mark for each rung."""
    shares = rungs["robust_accuracy"].astype(float)
    percent = 100 * shares
    # An end that is not known is drawn as none.
    ends = [rungs[end].astype(float).fillna(shares) for end in ("low", "high")]
    axes.errorbar(
        percent,
        rungs.index,
        xerr=np.abs(100 * np.array(ends) - percent.to_numpy()),
        fmt="o",
        color=COLORS[0],
        markersize=5,
        elinewidth=1.2,
    )
    for place, rate in percent.items():
        axes.annotate(
            f"{rate:.1f}",
            (rate, place),
            (0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=SMALL,
        )
    axes.set_yticks(rungs.index, rung_names(rungs))
    axes.set(ylim=(-0.5, len(rungs) - 0.4), xlabel="robust accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    heading(axes, "Robust accuracy by rung")


def rung_names(rungs: pd.DataFrame) -> list[str]:
    """Each rung's name over the attacks that it adds to the rung above."""
    names = []
    before: list[str] = []
    for rung, cell in zip(rungs["rung"], rungs["attacks"], strict=True):
        attacks = cell if isinstance(cell, list | tuple) else []
        text = ", ".join(attacks)
        if before and set(before) < set(attacks):
            text = "+ " + ", ".join(attack for attack in attacks if attack not in before)
        names.append("\n".join([rung, *textwrap.wrap(text, 26)]))
        before = list(attacks)
    return names


def draw_seconds(axes: Axes, rungs: pd.DataFrame) -> None:
    """A bar for each rung, with its counts above it."""
    heights = reversed(range(len(rungs)))
    for place, rung in zip(heights, rungs.to_dict("records"), strict=True):
        seconds = rung["seconds"]
        text = "not timed"
        if pd.isna(seconds):
            seconds = 0.0
        else:
            digits = 1 if seconds < 100 else 0
            counts = [
                f", {rung[count]:,.0f} {count}"
                for count in ("attacked", "broken")
                if pd.notna(rung[count])
            ]
            text = f"{seconds:,.{digits}f} s{''.join(counts)}"
        axes.barh(place, seconds, height=0.3, color=COLORS[5])
        axes.annotate(
            text,
            (0, place + 0.17),
            (3, 0),
            textcoords="offset points",
            fontsize=SMALL,
            va="bottom",
        )
    axes.set_xlabel("wall time of the rung's own attacks (s)")
    axes.tick_params(labelleft=False)
    heading(axes, "Cost")
