"""The two pictures of any study: effects with their intervals, and each arm's mean over seeds with
its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from robsearch.claims.claim import Part
from robsearch.claims.seeds import Columns, Numbers, arm_values
from robsearch.claims.statistics import Estimate, estimate
from robsearch.drawing.style import (
    ACCENT,
    SOFT,
    Drawing,
    legend,
    log_axis,
    look,
    panels,
    svg,
    tone,
    width_entries,
)
from robsearch.errors import counted

LABEL = 46
"""Letters in a line of an effect's name."""
DECADE = 10
"""Numbers above 0 of which the largest is this many times the smallest stand on a log axis."""


def whiskers(estimates: Sequence[Estimate]) -> tuple[Numbers, Numbers]:
    """Means, and how far their 95 % intervals reach to both sides (2, n).

    The mean is NaN where there is no value; an interval from too few seeds reaches nowhere.
    """
    ends = [(estimate.mean, estimate.low, estimate.high) for estimate in estimates]
    mean, low, high = np.array(ends).reshape(-1, 3).T
    reach = np.array([mean - low, high - mean])
    return mean, np.where(np.isfinite(reach), reach, 0.0)


def forest(parts: Sequence[Part], title: str, caption: str) -> Drawing:
    """Effects with their 95 % intervals, a panel for each unit; a dash marks the smallest effect
    that matters."""
    # Effects in different units have no common axis.
    by_unit: dict[str, list[Part]] = {}
    for part in parts:
        by_unit.setdefault(part.effect.unit, []).append(part)
    counts = [len(rows) for rows in by_unit.values()]
    with look():
        figure, all_axes = panels(
            0.3 + 0.7 * len(counts) + 0.42 * len(parts),
            rows=max(len(counts), 1),
            height_ratios=counts or None,
        )
        # Without effects there is one panel all the same, and it stays empty.
        for axes, (unit, rows) in zip(all_axes, by_unit.items(), strict=False):
            heights = np.arange(len(rows))
            estimates = [part.estimate for part in rows]
            _intervals(axes, heights, estimates, color=ACCENT, marker="o")
            deltas = [part.effect.delta for part in rows]
            axes.plot(deltas, heights, "|", color=SOFT, markersize=14)
            axes.axvline(0, color=SOFT, linewidth=0.9)
            _name_rows(axes, [fill(part.effect.what, LABEL) for part in rows])
            axes.set(xlabel=unit or "no unit")
        drawn = svg(figure, title, title)
    return Drawing(drawn, caption)


def means_by_arm(trials: pd.DataFrame, columns: Columns, title: str) -> Drawing:
    """The mean over seeds of each arm with its 95 % interval: a panel for each metric, a colour for
    each width.

    Args:
        trials: of one experiment.
        columns: as of ``table_by_arm``.
        title: of the figure.
    """
    arms = list(dict.fromkeys(trials["arm"]))
    widths = sorted(trials["width"].unique())
    columns = {
        heading: (metric, factor)
        for heading, (metric, factor) in columns.items()
        if metric in trials
    }
    across = 2 if len(columns) > 1 else 1
    down = max(math.ceil(len(columns) / across), 1)
    with look():
        height = down * (0.8 + 0.24 * len(arms))
        figure, all_axes = panels(height, rows=down, columns=across, sharey=True)
        for axes, (heading, column) in zip(all_axes, columns.items(), strict=False):
            metric, factor = column
            for width in widths:
                of_width = trials[trials["width"] == width]
                values = factor * arm_values(of_width, arms, [metric])
                # Widths lie a little apart, so that no mark hides another.
                heights = np.arange(len(arms)) + 0.1 * widths.index(width)
                color, marker = tone(widths, width)
                estimates = [estimate(per_seed) for per_seed in values[..., 0].T]
                _intervals(axes, heights, estimates, color=color, marker=marker)
            axes.set(xlabel=heading)
            # Numbers over decades, such as Lipschitz bounds, would lie on one another otherwise.
            low = factor * trials[metric].min()
            high = factor * trials[metric].max()
            if 0 < DECADE * low < high:
                log_axis(axes, "x")
        for unused in all_axes[len(columns) :]:
            unused.set_visible(False)
        _name_rows(all_axes[0], arms)
        if len(widths) > 1:
            legend(figure, width_entries(widths, line=False))
        drawn = svg(figure, title, title)
    seeds = counted(trials["seed"].nunique(), "seed")
    return Drawing(drawn, f"{title}. Means of {seeds} with 95 % intervals.")


def _intervals(
    axes: Axes,
    heights: ArrayLike,
    estimates: Sequence[Estimate],
    **style: Any,
) -> None:
    mean, reach = whiskers(estimates)
    axes.errorbar(
        mean,
        heights,
        xerr=reach,
        linestyle="none",
        markersize=5.5,
        capsize=2.5,
        **style,
    )


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """From the top down."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
