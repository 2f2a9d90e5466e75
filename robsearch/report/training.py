"""The best trial of each width over its epochs: robust accuracy, the ratio of the two losses, and
lambda."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from matplotlib.lines import Line2D
from pandas import DataFrame

from robsearch.drawing.style import (
    PAPER,
    ROBUST,
    SOFT,
    legend,
    log_axis,
    mark,
    panels,
    svg,
    tone,
    width_entries,
)
from robsearch.metrics import LAM, VALUE
from robsearch.report.evidence import Evidence, LeftOutError

DASHES = ("--", ":", "-.")


def accuracy_over_epochs(evidence: Evidence) -> dict[str, Any]:
    """Validation robust accuracy of the best trials, best epoch marked, controls dashed."""
    bests = with_epochs(evidence, VALUE)
    figure, (axes,) = panels(4.0)
    for trial, width, epoch, value in rows_of(bests, "best_epoch", "value"):
        color, marker = tone(evidence.widths, width)
        curve = evidence.curve(trial)
        axes.plot(curve["epoch"], 100 * curve[VALUE], color=color)
        axes.plot(
            [epoch],
            [100 * value],
            marker,
            color=color,
            markersize=8,
            markeredgecolor=PAPER,
            zorder=4,
        )
    # A control at a width that is not searched would have no colour.
    controls = evidence.controls[evidence.controls["width"].isin(evidence.widths)]
    kinds = sorted(set(controls["control"]))
    dashes = dict(zip(kinds, cycle(DASHES), strict=False))
    for trial, width, kind in rows_of(controls, "control"):
        curve = evidence.curve(trial)
        color = tone(evidence.widths, width).color
        axes.plot(curve["epoch"], 100 * curve[VALUE], dashes[kind], color=color, linewidth=1.1)
    axes.set(xlabel="epoch", ylabel=f"validation {ROBUST}")
    lines = width_entries(evidence.widths, marked=False)
    entries = [*lines, (mark("o"), "best epoch")]
    for kind in kinds:
        sample = Line2D([], [], color=SOFT, linestyle=dashes[kind])
        entries.append((sample, f"control: {kind}"))
    legend(figure, entries)
    label = "Validation robust accuracy over epochs of the best trials"
    return {"bests": bests, "svg": svg(figure, "epochs", label)}


def ratio_over_epochs(evidence: Evidence) -> dict[str, Any]:
    """The ratio of the objective's two terms over training of the best trials, and the lambda they
    trained with."""
    bests = with_epochs(evidence, "ratio")
    figure, (above, below) = panels(4.8, rows=2, sharex=True, height_ratios=[3, 2])
    for trial, width in rows_of(bests):
        color = tone(evidence.widths, width).color
        curve = evidence.curve(trial)
        above.plot(curve["epoch"], curve["ratio"], color=color)
        below.plot(curve["epoch"], curve[LAM].where(curve[LAM] > 0), color=color)
    above.set(ylabel="first term / second term")
    below.set(xlabel="epoch", ylabel="λ")
    log_axis(above, "y")
    log_axis(below, "y")
    legend(figure, width_entries(evidence.widths, marked=False))
    label = "Ratio of the two terms of the objective, and lambda, over epochs"
    return {
        "bests": bests,
        "minimised": evidence.search.setting.get("minimised"),
        "svg": svg(figure, "ratio", label),
    }


def with_epochs(evidence: Evidence, column: str) -> DataFrame:
    """The best trials that have this column over epochs."""
    if evidence.finished.empty:
        raise LeftOutError("no trial finished")
    epochs = evidence.epochs.dropna(subset=[column])
    bests = evidence.bests
    bests = bests[bests["trial"].isin(epochs["trial"])]
    if bests.empty:
        raise LeftOutError("the best trials have no record over epochs")
    return bests


def rows_of(trials: DataFrame, *columns: str) -> Any:
    """Name and width of each trial, and these columns."""
    return trials[["trial", "width", *columns]].itertuples(index=False)
