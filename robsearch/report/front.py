"""The front of a search for several metrics: no trial of the same width is as good in all and better in one."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any

from matplotlib.axes import Axes
from pandas import DataFrame

from robsearch.wording import counted

from .answer import swatch
from .canvas import Drawing, faint, filled, legend, look, mark, panels, svg, tone, width_entries
from .evidence import Evidence, LeftOutError, meets, number
from .goals import column, named
from .hover import Spot, layer, spots
from .markup import Html, row, table
from .numerals import percent, plain

COLUMNS = 3


def several_metrics(evidence: Evidence) -> bool:
    """Whether there is a front: with one metric the best trial says it all."""
    return len(evidence.search.maximise) > 1


def front_of_metrics(evidence: Evidence) -> list[Html | Drawing]:
    """The metrics in pairs, and the front as a table."""
    metrics = list(evidence.search.maximise)
    found = on_front(evidence)
    if found.empty:
        raise LeftOutError("no trial has finished")
    return [pairs_of_metrics(evidence, metrics, found), front_table(evidence, metrics, found)]


def on_front(evidence: Evidence) -> DataFrame:
    """The finished trials that are on their width's front."""
    front = evidence.search.front
    return (
        evidence.finished.iloc[:0]
        if front.empty
        else evidence.finished[evidence.finished["trial"].isin(front["trial"])]
    )


def pairs_of_metrics(evidence: Evidence, metrics: list[str], found: DataFrame) -> Drawing:
    """One panel for each pair of metrics: the front filled and joined, other trials small and faint."""
    pairs = list(combinations(metrics, 2))
    columns = min(len(pairs), COLUMNS)
    rows = -(-len(pairs) // columns)
    told: list[Spot] = []
    with look():
        figure, axes = panels(0.4 + rows * (4.0 if columns == 1 else 3.2), rows=rows, columns=columns)
        for own, pair in zip(axes, pairs, strict=False):
            for width in evidence.widths:
                pair_at_width(own, evidence, width, pair, found)
            y, x = (f"{named(metric)} (%)" for metric in pair)
            own.set(xlabel=x, ylabel=y)
            own.set_xlim(left=least(found, pair[1]))
            own.set_ylim(bottom=least(found, pair[0]))
            across, up = (100 * evidence.finished[column(metric)] for metric in reversed(pair))
            told += spots(own, evidence, evidence.finished, across, up)
        for spare in axes[len(pairs) :]:
            spare.remove()
        behind = "beaten by another trial" if meets(evidence.finished).all() else "beaten, or misses a constraint"
        legend(figure, [*width_entries(evidence.widths), (mark("o", **faint()), behind)])
        label = "Pairs of the metrics that are maximised, with the front of each width"
        drawn = svg(figure, "front", label, partial(layer, found=told))
    return Drawing(drawn, front_caption(evidence, metrics, found))


def least(found: DataFrame, metric: str) -> float:
    """Where an axis begins, in percent: trials far behind the front would squeeze it."""
    rates = 100 * found[column(metric)]
    return float(rates.min() - max(rates.max() - rates.min(), 2.0))


def pair_at_width(axes: Axes, evidence: Evidence, width: float, pair: tuple[str, str], found: DataFrame) -> None:
    """The trials of one width in one panel."""
    color, marker = tone(evidence.widths, width)
    y, x = (column(metric) for metric in pair)
    finished = evidence.finished[evidence.finished["width"] == width]
    beaten = finished[~finished["trial"].isin(found["trial"])]
    ahead = found[found["width"] == width].sort_values([x, y])
    rates(axes, beaten, x, y, marker=marker, linestyle="none", **{**faint(), "color": color})
    rates(axes, ahead, x, y, color=color, linewidth=0.9, alpha=0.6)
    rates(axes, ahead, x, y, marker=marker, linestyle="none", zorder=3, **filled(color))


def rates(axes: Axes, rows: DataFrame, x: str, y: str, **style: Any) -> None:
    """Two metrics of some trials, in percent."""
    axes.plot(100 * rows[x], 100 * rows[y], **style)


def front_caption(evidence: Evidence, metrics: list[str], found: DataFrame) -> str:
    """What is on the front, and how little a small lead means."""
    beside = " A trial on the front that looks beaten in one panel is ahead in another." if len(metrics) > 2 else ""
    floors = [least(found, metric) / 100 for metric in metrics]
    behind = (evidence.finished[[column(metric) for metric in metrics]] < floors).any(axis=1)
    outside = f" Trials far behind the front lie outside the panels ({int(behind.sum())})." if behind.any() else ""
    return (
        f"Validation {', '.join(named(metric) for metric in metrics)} at the epoch of highest robust accuracy. Filled "
        "and joined: the front of each width, trials that no other of that width equals in every metric and beats in "
        f"one.{beside}{outside} One net per trial: two seeds of one λ may swap places. {counted(len(found), 'trial')} "
        f"on the front; {evidence.sample(evidence.finished, 'finished trial')}; {evidence.examples('validation')}."
    )


def front_table(evidence: Evidence, metrics: list[str], found: DataFrame) -> Html:
    """The trials on the front by width, in order of the first metric."""
    head = ["Width", "Trial", "λ", *(named(metric).capitalize() for metric in metrics)]
    bodies = []
    for place, width in enumerate(evidence.widths):
        own = found[found["width"] == width].sort_values(column(metrics[0]), ascending=False)
        shown = [
            [trial["trial"], plain(number(trial, "lam")), *(percent(number(trial, column(m))) for m in metrics)]
            for _, trial in own.iterrows()
        ]
        bodies.append([row(swatch(place, plain(width)), cells) for cells in shown])
    return table("The front: choose the trade-off, then the trial. Validation rates in percent.", head, bodies)
