"""What the final measurement on the test split found: the trade-off, and rates and measures against
lambda and width."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, concat

from robsearch.drawing.style import (
    FAINT,
    INK,
    JOINED,
    LAMBDA,
    LIMIT,
    RING,
    ROBUST,
    SOFT,
    filled,
    legend,
    log_axis,
    mark,
    missed,
    panels,
    svg,
    width_axis,
    width_entries,
)
from robsearch.metrics import TEST_NATURAL, TEST_ROBUST, VAL_NATURAL, VALUE
from robsearch.report.evidence import MEASURES, RATES, Evidence, LeftOutError, meets
from robsearch.report.marks import mark_trials, plot_rates

CONTROL_MARKERS = "XP*"
FRONT: dict[str, Any] = {
    "color": INK,
    "linewidth": 0.9,
    "zorder": 1.8,
    "drawstyle": "steps-post",
}
RATE_TITLES = {f"test/{rate}": f"test {rate.replace('_', ' ')} (%)" for rate in RATES}


def natural_against_robust(evidence: Evidence) -> dict[str, Any]:
    """Natural against robust accuracy on the test split: all nets, and beside them the trials
    alone."""
    trials = evidence.trials.dropna(subset=[TEST_NATURAL, TEST_ROBUST])
    controls = evidence.controls.dropna(subset=[TEST_NATURAL, TEST_ROBUST])
    if trials.empty and controls.empty:
        raise LeftOutError("no net has been measured on the test split yet")
    return {
        "trials": trials,
        "controls": controls,
        "constrained": bool(evidence.search.subject_to),
        "svg": tradeoff_figure(evidence, trials, controls),
    }


def tradeoff_figure(evidence: Evidence, trials: DataFrame, controls: DataFrame) -> Markup:
    """One panel, or two where there are trials and controls: these squeeze the trials."""
    if trials.empty or controls.empty:
        figure, axes = panels(4.0)
    else:
        figure, axes = panels(4.0, columns=2, width_ratios=[2, 3])
        axes[0].set_title("with the controls", loc="left")
        axes[1].set_title("the trials alone", loc="left")
    kinds = sorted(set(controls["control"]))
    markers = dict(zip(kinds, cycle(CONTROL_MARKERS), strict=False))
    draw_controls(axes[0], evidence, controls, markers)
    spots = []
    shown = (concat([trials, controls]), trials)
    # With one panel, only the first of these is shown.
    for panel, all_nets in zip(axes, shown, strict=False):
        nets = evidence.drawn(all_nets, all_nets[TEST_NATURAL], all_nets[TEST_ROBUST])
        draw_trials(panel, evidence, nets[nets["trial"].isin(trials["trial"])])
        panel.set(xlabel="test natural accuracy (%)", ylabel=f"test {ROBUST}")
        panel.margins(0.08)
        panel.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        naturals = 100 * nets[TEST_NATURAL]
        robusts = 100 * nets[TEST_ROBUST]
        spots += evidence.spots(panel, nets, naturals, robusts)
    draw_front(axes[-1], trials)
    entries = [*width_entries(evidence.widths, line=False), (mark("o", **RING), "best trial")]
    if len(trials):
        entries.append((Line2D([], [], **FRONT), "front"))
    if not meets(trials).all():
        entries.append((mark("o", **missed(SOFT)), "misses a constraint on validation"))
    if evidence.search.subject_to:
        entries.append((Line2D([], [], **LIMIT), "constraint (on validation)"))
    for kind, marker in markers.items():
        entries.append((mark(marker, markersize=9), f"control: {kind}"))
    legend(figure, entries)
    return svg(figure, "tradeoff", "Natural against robust accuracy on the test split", spots)


def draw_trials(axes: Axes, evidence: Evidence, trials: DataFrame) -> None:
    """One mark per trial, the best one of each width ringed, and a line at each constraint."""
    for _, tone, rows in evidence.by_width(trials):
        naturals = 100 * rows[TEST_NATURAL]
        robusts = 100 * rows[TEST_ROBUST]
        mark_trials(axes, tone, naturals, robusts, meets(rows))
    bests = trials[trials["trial"].isin(evidence.bests["trial"])]
    plot_rates(
        axes,
        bests,
        TEST_NATURAL,
        TEST_ROBUST,
        "o",
        **RING,
    )
    # A constraint on another metric has no axis here.
    for goal in evidence.search.subject_to:
        if goal.metric == VAL_NATURAL:
            axes.axvline(100 * goal.value, **LIMIT)
        elif goal.metric == VALUE:
            axes.axhline(100 * goal.value, **LIMIT)


def draw_controls(
    axes: Axes,
    evidence: Evidence,
    controls: DataFrame,
    markers: Mapping[str, str],
) -> None:
    """One mark per control, in its width's colour and its own shape."""
    for _, (color, _), rows in evidence.by_width(controls):
        style = {**filled(color), "markersize": 9}
        for kind, marker in markers.items():
            of_kind = rows[rows["control"] == kind]
            plot_rates(
                axes,
                of_kind,
                TEST_NATURAL,
                TEST_ROBUST,
                marker,
                **style,
            )


def draw_front(axes: Axes, trials: DataFrame) -> None:
    """A step line through the trials, of all widths, that no other equals in both rates and beats
    in one."""
    # From the most natural net down, one is on the front if it is more robust than all before it.
    ahead = trials.sort_values([TEST_NATURAL, TEST_ROBUST], ascending=False)
    before = ahead[TEST_ROBUST].cummax().shift(fill_value=-1.0)
    front = ahead[ahead[TEST_ROBUST] > before]
    plot_rates(axes, front, TEST_NATURAL, TEST_ROBUST, **FRONT)


def rates_against_width(evidence: Evidence) -> dict[str, Any]:
    """Natural accuracy, stability and robust accuracy on test against width, a panel each."""
    return against_width(evidence, RATE_TITLES, "decomposition", 100)


def measures_against_width(evidence: Evidence) -> dict[str, Any]:
    """Lipschitz and margin against width."""
    return against_width(evidence, measured(evidence), "measures-width", 1)


def measures_against_lam(evidence: Evidence) -> dict[str, Any]:
    """Lipschitz and margin against lambda, side by side."""
    titles = measured(evidence)
    trials = evidence.trials[evidence.trials["lam"] > 0]
    trials = trials.dropna(subset=list(titles), how="all")
    figure, axes = panels(3.5, columns=len(titles))
    spots = []
    for panel, (column, text) in zip(axes, titles.items(), strict=True):
        nets = trials.dropna(subset=[column])
        drawn = evidence.drawn(nets, np.log(nets["lam"]), nets[column])
        for _, (color, marker), rows in evidence.by_width(drawn):
            in_order = rows.sort_values("lam")
            points = in_order["lam"], in_order[column]
            panel.plot(*points, color=color, linewidth=0.8, alpha=0.5)
            panel.plot(*points, marker, **filled(color))
        panel.set(xlabel=LAMBDA, ylabel=text)
        panel.margins(y=0.08)
        log_axis(panel, "x")
        spots += evidence.spots(panel, drawn, drawn["lam"], drawn[column])
    legend(figure, width_entries(evidence.widths))
    label = "Local Lipschitz ratio and logit margin against lambda"
    return {"trials": trials, "svg": svg(figure, "measures", label, spots)}


def measured(evidence: Evidence) -> dict[str, str]:
    """The measures that some trial has, with their titles."""
    trials = evidence.trials[evidence.trials["lam"] > 0]
    titles = {name: text for name, text in MEASURES.items() if trials[name].notna().any()}
    if not titles:
        raise LeftOutError("no trial was measured for its Lipschitz ratio or its margin")
    return titles


def against_width(
    evidence: Evidence,
    titles: Mapping[str, str],
    name: str,
    scale: float,
) -> dict[str, Any]:
    """A panel for each column, which is shown times ``scale``, and the trials in them."""
    if len(evidence.widths) < 2:
        raise LeftOutError("the search has one width")
    trials = evidence.finished.dropna(subset=list(titles), how="all")
    if trials.empty:
        raise LeftOutError("no trial has been measured on the test split yet")
    figure, axes = panels(3.3, columns=len(titles))
    spots = []
    for panel, (column, text) in zip(axes, titles.items(), strict=True):
        drawn = evidence.drawn(trials, np.log(trials["width"]), trials[column])
        draw_against_width(panel, evidence, drawn, column, scale)
        panel.set(xlabel="width", ylabel=text)
        panel.margins(x=0.12, y=0.1)
        width_axis(panel, evidence.widths)
        spots += evidence.spots(panel, drawn, drawn["width"], scale * drawn[column])
    samples = (
        (mark("o", INK), "best trial of each width"),
        (mark("o", **FAINT), "other finished trials"),
    )
    legend(figure, samples)
    label = f"{', '.join(titles)} against width"
    return {"trials": trials, "svg": svg(figure, name, label, spots)}


def draw_against_width(
    axes: Axes,
    evidence: Evidence,
    trials: DataFrame,
    column: str,
    scale: float,
) -> None:
    """One column of all trials, faint but for the best of each width, which are joined, with their
    standard errors."""
    is_best = trials["trial"].isin(evidence.bests["trial"])
    bests = trials[is_best].sort_values("width").dropna(subset=[column])
    axes.plot(bests["width"], scale * bests[column], **JOINED)
    errors = bests.get(error_column(column))
    for _, (color, marker), others in evidence.by_width(trials[~is_best]):
        axes.plot(others["width"], scale * others[column], marker, color=color, **FAINT)
    for _, (color, marker), best in evidence.by_width(bests):
        axes.plot(best["width"], scale * best[column], marker, zorder=3, **filled(color))
        if errors is not None and errors[best.index].gt(0).any():
            axes.errorbar(
                best["width"],
                scale * best[column],
                scale * errors[best.index],
                fmt="none",
                color=color,
                elinewidth=1.2,
                capsize=2.5,
                zorder=2.8,
            )


def error_column(column: str) -> str:
    """The column of a mean's or a rate's standard error."""
    return f"{column.removesuffix('mean')}se" if column.endswith("/mean") else f"{column}_se"
