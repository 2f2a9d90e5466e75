"""The best trial of each width over its epochs: robust accuracy, the ratio of the two losses, and lambda."""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pandas import DataFrame, Series

from .canvas import (
    PAPER,
    ROBUST,
    SOFT,
    Drawing,
    legend,
    log_axis,
    look,
    mark,
    panels,
    svg,
    tone,
)
from .evidence import Evidence, LeftOutError, number, words
from .markup import Html, join, tag
from .numerals import plain

DASHES: tuple[Any, ...] = ("--", ":", "-.")
ACCURACY, LAM, RATIO = "val/robust_accuracy", "train/lam", "ratio"


def accuracy_over_epochs(evidence: Evidence) -> Drawing:
    """Validation robust accuracy of the best trials, best epoch marked, controls dashed."""
    bests = drawable(evidence, ACCURACY)
    controls = [row for _, row in evidence.controls.iterrows() if row["width"] in evidence.widths]
    names = sorted({words(row["control"]) for row in controls})
    dashes = dict(zip(names, cycle(DASHES), strict=False))
    with look():
        figure, (axes,) = panels(4.0)
        for best in bests:
            accuracy(axes, evidence, best, "-")
        for row in controls:
            accuracy(axes, evidence, row, dashes[words(row["control"])])
        axes.set(xlabel="epoch", ylabel=f"validation {ROBUST}")
        apart = [(Line2D([], [], color=SOFT, linestyle=dashes[name]), f"control: {name}") for name in names]
        legend(figure, [*lines(evidence), (mark("o"), "best epoch"), *apart])
        drawn = svg(figure, "epochs", "Validation robust accuracy over epochs of the best trials")
    told = [
        "Validation robust accuracy over training of ",
        named(bests),
        ". The marked epoch is the one kept. One net per width, so no spread over seeds is shown; ",
        f"{evidence.examples('validation')}.",
    ]
    return Drawing(drawn, join(told))


def ratio_over_epochs(evidence: Evidence) -> Drawing:
    """The ratio of the objective's two terms over training of the best trials, and the lambda they trained with."""
    bests = drawable(evidence, RATIO)
    with look():
        figure, (ratio, lam) = panels(4.8, rows=2, sharex=True, height_ratios=[3, 2])
        for best in bests:
            color, _ = tone(evidence.widths, best["width"])
            epochs = with_ratio(evidence.curve(best["trial"]))
            ratio.plot(epochs["epoch"], epochs[RATIO], color=color)
            lam.plot(epochs["epoch"], epochs[LAM].where(epochs[LAM] > 0), color=color)
        ratio.set(ylabel="first term / second term")
        lam.set(xlabel="epoch", ylabel="λ")
        for axes in (ratio, lam):
            if math.isfinite(axes.dataLim.minposy):
                log_axis(axes, "y")
        legend(figure, lines(evidence))
        drawn = svg(figure, "ratio", "Ratio of the two terms of the objective, and lambda, over epochs")
    minimised = evidence.search.setting.get("minimised")
    told = [
        "The ratio of the objective's two terms (above) and λ (below) over training of ",
        named(bests),
        f" (minimised was {minimised})" if minimised else "",
        ", on log axes. Width Adjusted Regularization steers λ so that this ratio keeps the value it had on ",
        "a thin net. One net per width, so no spread over seeds is shown; each point is an epoch's mean.",
    ]
    return Drawing(drawn, join(told))


def drawable(evidence: Evidence, column: str) -> list[Series]:
    """The best trials that have this column over epochs."""
    bests = evidence.bests()
    if not bests:
        raise LeftOutError("no trial finished")
    kept = [best for best in bests if with_ratio(evidence.curve(best["trial"]))[column].notna().any()]
    if not kept:
        raise LeftOutError("the best trials have no record over epochs")
    return kept


def with_ratio(epochs: DataFrame) -> DataFrame:
    """The epochs with the ratio of the two terms, absent where the second is zero."""
    natural, robust = epochs["train/natural_loss"], epochs["train/robust_loss"]
    return epochs.assign(**{RATIO: natural.where(natural > 0) / robust.where(robust > 0)})


def accuracy(axes: Axes, evidence: Evidence, row: Series, dashes: str) -> None:
    """One net's curve, with its best epoch marked when it is a trial."""
    color, marker = tone(evidence.widths, row["width"])
    epochs = evidence.curve(row["trial"])
    searched = dashes == "-"
    axes.plot(epochs["epoch"], 100 * epochs[ACCURACY], dashes, color=color, linewidth=1.6 if searched else 1.1)
    if searched:
        best = [number(row, "best_epoch")], [100 * number(row, "value")]
        axes.plot(*best, marker, color=color, markersize=8, markeredgecolor=PAPER, zorder=4)


def lines(evidence: Evidence) -> list[tuple[Line2D, str]]:
    """A legend entry per width, without marks."""
    return [
        (Line2D([], [], color=tone(evidence.widths, width).color), f"width {plain(width)}") for width in evidence.widths
    ]


def named(bests: list[Series]) -> Html:
    """The trials drawn: ``w4-017 (λ = 3.5), w8-002 (λ = 6)``."""
    lams = [f" (λ = {plain(best['lam'])})" if best["lam"] > 0 else "" for best in bests]
    names = [f"{best['trial']}{lam}" for best, lam in zip(bests, lams, strict=True)]
    return join((tag("span", name, class_="whole") for name in names), ", ")
