"""How important each searched parameter was, at each width and over all of them, with intervals."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from pandas import DataFrame

from robsearch.drawing.formatting import names_of
from robsearch.drawing.style import (
    GRID,
    INK,
    PAPER,
    SMALL,
    legend,
    mark,
    panels,
    svg,
    tone,
)
from robsearch.report.evidence import Evidence, LeftOutError
from robsearch.report.parameters import Parameter
from robsearch.study import EVALUATORS, RESAMPLES

MOST_SHOWN = 12
"""Parameters that the figure has room for; the data have all of them."""
SPREAD = 0.7
"""How much of a parameter's row its marks take."""


def importance(evidence: Evidence) -> dict[str, Any]:
    """Each parameter's share by fANOVA and by PED-ANOVA."""
    parameters = evidence.parameters
    rows = parameters.importance
    if rows.empty:
        raise LeftOutError("; ".join(parameters.reasons()) or "no trial has finished")
    names = set(rows["parameter"])
    ordered = [each for each in parameters.most_important if each.name in names]
    counts = rows.groupby("width", dropna=False)["n"].max()
    named = names_of(parameters.widths)
    return {
        "svg": importance_figure(evidence, rows, ordered[:MOST_SHOWN]),
        "more": [each.label for each in ordered[MOST_SHOWN:]],
        "resamples": RESAMPLES,
        "together": counts.get(float("nan")),
        "counts": [(named[width], n) for width, n in counts.items() if width in named],
        "reasons": parameters.reasons(),
    }


def importance_figure(evidence: Evidence, rows: DataFrame, ordered: list[Parameter]) -> Any:
    """A panel for each evaluator, a row for each parameter, a mark for each width."""
    widths = [None, *evidence.widths]
    present = rows["width"]
    groups = [
        width for width in widths if (present.isna() if width is None else present.eq(width)).any()
    ]
    height = 0.9 + len(ordered) * max(0.36, 0.13 * len(groups) + 0.12)
    figure, axes = panels(height, columns=len(EVALUATORS), sharey=True)
    for panel, evaluator in zip(axes, EVALUATORS, strict=True):
        of_evaluator = rows[rows["evaluator"] == evaluator]
        for place, width in enumerate(groups):
            shift = SPREAD * ((place + 0.5) / len(groups) - 0.5)
            draw_group(panel, evidence, of_evaluator, width, ordered, shift)
        panel.set(xlabel=f"importance by {evaluator} (%)", xlim=(-2, 102))
        panel.set_ylim(len(ordered) - 0.5, -0.5)
        panel.set_yticks(range(len(ordered)), [each.label for each in ordered])
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0, labelsize=SMALL + 1)
        for edge in range(1, len(ordered)):
            panel.axhline(edge - 0.5, color=GRID, linewidth=0.6, zorder=0.5)
    entries = []
    for width in groups:
        if width is None:
            entries.append((mark("D", INK), "all widths together"))
        else:
            color, marker = tone(evidence.widths, width)
            entries.append((mark(marker, color), f"width {evidence.names[width]}"))
    legend(figure, entries)
    label = "Importance of each searched parameter by fANOVA and by PED-ANOVA, with intervals"
    return svg(figure, "importance", label)


def draw_group(
    axes: Axes,
    evidence: Evidence,
    rows: DataFrame,
    width: float | None,
    ordered: list[Parameter],
    shift: float,
) -> None:
    """The shares at one width (None: at all together), ``shift`` below the middle of their rows."""
    here = rows[rows["width"].isna() if width is None else rows["width"].eq(width)]
    by_name = here.set_index("parameter")
    color, marker = (INK, "D") if width is None else tone(evidence.widths, width)
    for place, parameter in enumerate(ordered):
        if parameter.name not in by_name.index:
            continue
        row = by_name.loc[[parameter.name], ["share", "low", "high"]].to_numpy(dtype=float)
        share, low, high = (100 * row[0]).tolist()
        height = place + shift
        axes.plot([low, high], [height, height], color=color, linewidth=1.4, zorder=2.5)
        style: dict[str, Any] = {
            "markersize": 6,
            "markeredgecolor": PAPER,
            "markeredgewidth": 0.7,
        }
        axes.plot([share], [height], marker, color=color, zorder=3, clip_on=False, **style)
