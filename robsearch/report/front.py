"""The front of a search for several metrics: no trial of the same width is as good in all and
better in one."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from markupsafe import Markup
from pandas import DataFrame

from robsearch.drawing.style import (
    FAINT,
    filled,
    legend,
    mark,
    panels,
    svg,
    width_entries,
)
from robsearch.report.answer import column, title
from robsearch.report.evidence import Evidence, LeftOutError, meets
from robsearch.report.marks import plot_rates
from robsearch.report.thinning import uncovered

COLUMNS = 3
FARTHEST = 2.0
"""Points below the front at which an axis begins, at least."""


def front_of_metrics(evidence: Evidence) -> dict[str, Any]:
    """The metrics in pairs, and the front as a table."""
    columns = [column(metric) for metric in evidence.search.maximise]
    titles = [title(metric) for metric in evidence.search.maximise]
    front = evidence.search.front
    if not front.empty:
        front = evidence.finished[evidence.finished["trial"].isin(front["trial"])]
    if front.empty:
        raise LeftOutError("no trial has finished")
    lowest = front[columns].min()
    spans = front[columns].max() - lowest
    floors = lowest - spans.clip(lower=FARTHEST / 100)
    named = dict(zip(columns, titles, strict=True))
    is_outside = (evidence.finished[columns] < floors).any(axis=1)
    return {
        "front": front.sort_values(columns[0], ascending=False),
        "columns": columns,
        "titles": titles,
        "outside": int(is_outside.sum()),
        "svg": front_figure(evidence, front, named, floors),
    }


def front_figure(
    evidence: Evidence,
    front: DataFrame,
    titles: dict[str, str],
    floors: Any,
) -> Markup:
    """One panel for each pair of metrics: the front filled and joined, other trials small and
    faint."""
    pairs = list(combinations(titles, 2))
    columns = min(len(pairs), COLUMNS)
    rows = math.ceil(len(pairs) / columns)
    height = 4.0 if columns == 1 else 3.2
    figure, axes = panels(0.4 + rows * height, rows, columns)
    for spare in axes[len(pairs) :]:
        spare.remove()
    finished = evidence.finished
    is_ahead = finished["trial"].isin(front["trial"])
    spots = []
    for panel, (y, x) in zip(axes, pairs, strict=False):
        drawn = finished[uncovered(finished, finished[x], finished[y], is_ahead)]
        beaten = drawn[~drawn["trial"].isin(front["trial"])]
        for width, (color, marker), rows_ahead in evidence.by_width(front):
            # The line that joins the front runs from left to right.
            ahead = rows_ahead.sort_values([x, y])
            behind = beaten[beaten["width"] == width]
            plot_rates(
                panel,
                behind,
                x,
                y,
                marker,
                color=color,
                **FAINT,
            )
            plot_rates(
                panel,
                ahead,
                x,
                y,
                color=color,
                linewidth=0.9,
                alpha=0.6,
            )
            plot_rates(
                panel,
                ahead,
                x,
                y,
                marker,
                zorder=3,
                **filled(color),
            )
        panel.set(xlabel=f"{titles[x]} (%)", ylabel=f"{titles[y]} (%)")
        panel.set_xlim(left=100 * floors[x])
        panel.set_ylim(bottom=100 * floors[y])
        spots += evidence.spots(panel, drawn, 100 * drawn[x], 100 * drawn[y])
    all_meet = meets(finished).all()
    text = "beaten by another trial" if all_meet else "beaten, or misses a constraint"
    others = (mark("o", **FAINT), text)
    legend(figure, [*width_entries(evidence.widths), others])
    label = "Pairs of the metrics that are maximised, with the front of each width"
    return svg(figure, "front", label, spots)
