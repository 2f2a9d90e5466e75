"""What was measured on the test split against width: the decomposition of robust accuracy, Lipschitz and margin."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.axes import Axes
from pandas import DataFrame

from .canvas import INK, SOFT, Drawing, faint, filled, legend, look, mark, panels, svg, tone, width_axis
from .evidence import Evidence, LeftOutError, number
from .hover import layer, spots

RATES = {"natural_accuracy": "natural accuracy", "stability": "stability", "robust_accuracy": "robust accuracy"}
JOINED: dict[str, Any] = {"color": SOFT, "linewidth": 1.0, "zorder": 1.5}


def rates_against_width(evidence: Evidence) -> Drawing:
    """Natural accuracy, stability and robust accuracy on test against width, a panel each."""
    columns = {f"test/{name}": f"test {label} (%)" for name, label in RATES.items()}
    drawn, rows = drawn_against_width(evidence, columns, "decomposition", 100)
    return Drawing(
        drawn,
        "Natural accuracy, stability and robust accuracy on the test split against width, each net at its best "
        "validation epoch: a net can lose robust accuracy by missing more images or by giving way on more of them. "
        "An image counts as robust if it is classified correctly and the attack does not move it, as stable if the "
        "attack does not move it, right or wrong. Large and joined: the trial of each width that was best on "
        "validation, ± one standard error over test examples where it is known; small: all other finished trials. "
        f"{evidence.sample(rows)}; {evidence.examples('test')}.",
    )


def measures_against_width(evidence: Evidence, titles: dict[str, str]) -> Drawing:
    """Lipschitz and margin against width.

    Args:
        evidence: of the search.
        titles: the axis title of each measure's column.
    """
    present = {name: title for name, title in titles.items() if name in evidence.finished}
    drawn, rows = drawn_against_width(evidence, present, "measures-width", 1)
    return Drawing(
        drawn,
        "The same measures against width. Large and joined: the trial of each width that was best on validation, ± "
        "one standard error over the images measured; small: all other finished trials, so the spread at a width is "
        f"mostly that of λ. {evidence.sample(rows)}; {evidence.examples('test')}.",
    )


def drawn_against_width(evidence: Evidence, columns: dict[str, str], name: str, scale: float) -> Any:
    """The panels and the trials in them."""
    if len(evidence.widths) < 2:
        raise LeftOutError("the search has one width")
    rows = evidence.finished.reindex(columns=[*evidence.finished.columns, *(set(columns) - set(evidence.finished))])
    rows = rows.dropna(subset=list(columns), how="all")
    if rows.empty:
        raise LeftOutError("no trial has been measured on the test split yet")
    found = []
    with look():
        figure, axes = panels(3.3, columns=len(columns))
        for own, (column, title) in zip(axes, columns.items(), strict=True):
            panel(own, evidence, rows, column, scale)
            own.set(xlabel="width", ylabel=title)
            own.margins(x=0.12, y=0.1)
            width_axis(own, evidence.widths)
            found += spots(own, evidence, rows, rows["width"], scale * rows[column])
        legend(figure, [(mark("o", INK), "best trial of each width"), (mark("o", **faint()), "other finished trials")])
        label = f"{', '.join(columns)} against width"
        return svg(figure, name, label, partial(layer, found=found)), rows


def panel(axes: Axes, evidence: Evidence, rows: DataFrame, column: str, scale: float) -> None:
    """One column of all trials, the best of each width joined, with its standard error."""
    best = {str(each["trial"]) for each in evidence.bests()}
    chosen = rows[rows["trial"].isin(best)].sort_values("width").dropna(subset=[column])
    axes.plot(chosen["width"], scale * chosen[column], **JOINED)
    for width in evidence.widths:
        color, marker = tone(evidence.widths, width)
        others = rows[(rows["width"] == width) & ~rows["trial"].isin(best)]
        axes.plot(others["width"], scale * others[column], marker, color=color, **faint())
    for _, row in chosen.iterrows():
        color, marker = tone(evidence.widths, row["width"])
        error = scale * number(row, error_of(column))
        place = [row["width"]], [scale * row[column]]
        if error > 0:
            axes.errorbar(*place, [error], color=color, elinewidth=1.2, capsize=2.5, fmt="none", zorder=2.8)
        axes.plot(*place, marker, zorder=3, **filled(color))


def error_of(column: str) -> str:
    """The column of a mean's or a rate's standard error."""
    return f"{column.removesuffix('mean')}se" if column.endswith("/mean") else f"{column}_se"
