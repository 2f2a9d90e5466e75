"""What the final measurement on the test split found: the trade-off, and the measures against lambda and width."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, concat

from robsearch.trainer import VALUE

from .against_width import measures_against_width
from .canvas import (
    INK,
    LAMBDA,
    LIMIT,
    RING,
    ROBUST,
    SOFT,
    Drawing,
    filled,
    legend,
    log_axis,
    look,
    mark,
    missed,
    panels,
    svg,
    tone,
    width_entries,
)
from .evidence import Evidence, LeftOutError, meets, words
from .goals import constraints
from .hover import Spot, layer, spots
from .markup import Html, left_out

NATURAL_COLUMN, ROBUST_COLUMN = "test/natural_accuracy", "test/robust_accuracy"
RATIO = "‖f(x) − f(x′)‖₁ / ‖x − x′‖∞".replace(" ", "\u00a0")
CONTROL_MARKERS = "XP*"
FRONT: dict[str, Any] = {"color": INK, "linewidth": 0.9, "zorder": 1.8, "drawstyle": "steps-post"}
MEASURES = {
    "test/lipschitz/logit_ratio/mean": "local Lipschitz, lower bound\n(logits per unit of pixel)",
    "test/margin/logit/mean": "logit margin (logits)",
}


def natural_against_robust(evidence: Evidence) -> Drawing:
    """Natural against robust accuracy on the test split: all nets, and beside them the trials alone."""
    trials, controls = both_rates(evidence.trials), both_rates(evidence.controls)
    if trials.empty and controls.empty:
        raise LeftOutError("no net has been measured on the test split yet")
    found: list[Spot] = []
    with look():
        both = not trials.empty and not controls.empty
        figure, (every, *zoom) = panels(4.0, columns=2, width_ratios=[2, 3]) if both else panels(4.0)
        plot_trials(every, evidence, trials)
        plot_controls(every, evidence, controls)
        for alone in zoom:
            plot_trials(alone, evidence, trials)
            every.set_title("with the controls", loc="left")
            alone.set_title("the trials alone", loc="left")
        for axes in (every, *zoom):
            axes.set(xlabel="test natural accuracy (%)", ylabel=f"test {ROBUST}")
            axes.margins(0.08)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            limits(axes, evidence)
            shown = trials if axes in zoom else concat([trials, controls])
            found += spots(axes, evidence, shown, 100 * shown[NATURAL_COLUMN], 100 * shown[ROBUST_COLUMN])
        pareto(zoom[0] if zoom else every, trials)
        legend(figure, [*width_entries(evidence.widths, line=False), *net_entries(evidence, trials, controls)])
        label = "Natural against robust accuracy on the test split"
        drawn = svg(figure, "tradeoff", label, partial(layer, found=found))
    return Drawing(drawn, tradeoff_caption(evidence, trials, controls))


def plot_trials(axes: Axes, evidence: Evidence, trials: DataFrame) -> None:
    """One mark per trial, the best one of each width ringed."""
    for width in evidence.widths:
        color, marker = tone(evidence.widths, width)
        own = trials[trials["width"] == width]
        rates(axes, own[meets(own)], marker, **filled(color))
        rates(axes, own[~meets(own)], marker, **missed(color))
        best = evidence.best(width)
        if best is not None:
            rates(axes, trials[trials["trial"] == best["trial"]], "o", **RING)


def pareto(axes: Axes, trials: DataFrame) -> None:
    """A step line through the trials, of all widths, that no other equals in both rates and beats in one."""
    ahead = trials.sort_values([NATURAL_COLUMN, ROBUST_COLUMN], ascending=False)
    ahead = ahead[ahead[ROBUST_COLUMN] > ahead[ROBUST_COLUMN].cummax().shift(fill_value=-1.0)]
    axes.plot(100 * ahead[NATURAL_COLUMN], 100 * ahead[ROBUST_COLUMN], **FRONT)


def plot_controls(axes: Axes, evidence: Evidence, controls: DataFrame) -> None:
    """One mark per control, in its width's colour and its own shape."""
    for name, marker in control_marks(controls):
        for width in evidence.widths:
            own = controls[(controls["width"] == width) & (controls["control"] == name)]
            rates(axes, own, marker, **{**filled(tone(evidence.widths, width).color), "markersize": 9})


def limits(axes: Axes, evidence: Evidence) -> None:
    """A line at each constraint on one of the two rates."""
    for wanted in constraints(evidence):
        if wanted.metric == "val/natural_accuracy":
            axes.axvline(100 * wanted.least, **LIMIT)
        elif wanted.metric == VALUE:
            axes.axhline(100 * wanted.least, **LIMIT)


def net_entries(evidence: Evidence, trials: DataFrame, controls: DataFrame) -> list[tuple[Any, str]]:
    """The legend's samples of the best trial, of those that miss a constraint, and of the controls."""
    marks = [] if meets(trials).all() else [(mark("o", **missed(SOFT)), "misses a constraint on validation")]
    marks += [(Line2D([], [], **LIMIT), "constraint (on validation)")] if constraints(evidence) else []
    marks += [(mark(shape, markersize=9), f"control: {name}") for name, shape in control_marks(controls)]
    front = [(Line2D([], [], **FRONT), "front")] if len(trials) else []
    return [(mark("o", **RING), "best trial"), *front, *marks]


def tradeoff_caption(evidence: Evidence, trials: DataFrame, controls: DataFrame) -> str:
    """Which nets, at which epoch."""
    beside = f"{evidence.sample(controls, 'control')}; " if len(controls) else ""
    limit = " Constraints were judged on validation, so a test rate may differ." if constraints(evidence) else ""
    return (
        "Natural against robust accuracy on the test split, each net at its best validation epoch. Rings "
        f"mark the trial with the best validation score at each width. Front: trials of any width that no other equals "
        f"in both rates and beats in one.{limit} {evidence.sample(trials)}; "
        f"{beside}{evidence.examples('test')}."
    )


def both_rates(rows: DataFrame) -> DataFrame:
    """The rows measured on the test split."""
    if not {NATURAL_COLUMN, ROBUST_COLUMN} <= set(rows.columns):
        return rows.iloc[:0]
    return rows.dropna(subset=[NATURAL_COLUMN, ROBUST_COLUMN])


def rates(axes: Axes, rows: DataFrame, marker: str, **style: Any) -> None:
    """One mark per net."""
    axes.plot(100 * rows[NATURAL_COLUMN], 100 * rows[ROBUST_COLUMN], marker, **style)


def control_marks(controls: DataFrame) -> list[tuple[str, str]]:
    """A mark for each kind of control, none of them a width's."""
    names = sorted({words(name) for name in controls["control"]})
    return [(name, CONTROL_MARKERS[place % len(CONTROL_MARKERS)]) for place, name in enumerate(names)]


def lipschitz_and_margin(evidence: Evidence) -> list[Html | Drawing]:
    """The measures against lambda, and against width."""
    made: list[Html | Drawing] = [measures_against_lam(evidence)]
    try:
        return [*made, measures_against_width(evidence, MEASURES)]
    except LeftOutError as reason:
        return [*made, left_out(f"the same against width, because {reason}")]


def measures_against_lam(evidence: Evidence) -> Drawing:
    """Lipschitz and margin against lambda, side by side."""
    positive = evidence.trials[evidence.trials["lam"] > 0]
    present = [name for name in MEASURES if name in positive.columns and positive[name].notna().any()]
    if not present:
        raise LeftOutError("no trial was measured for its Lipschitz ratio or its margin")
    measured = positive.dropna(subset=present, how="all")
    found: list[Spot] = []
    with look():
        figure, axes = panels(3.5, columns=len(present))
        for own, column in zip(axes, present, strict=True):
            for width in evidence.widths:
                color, marker = tone(evidence.widths, width)
                rows = measured[measured["width"] == width].sort_values("lam").dropna(subset=[column])
                own.plot(rows["lam"], rows[column], color=color, linewidth=0.8, alpha=0.5)
                own.plot(rows["lam"], rows[column], marker, **filled(color))
            own.set(xlabel=LAMBDA, ylabel=MEASURES[column])
            own.margins(y=0.08)
            log_axis(own, "x")
            found += spots(own, evidence, measured, measured["lam"], measured[column])
        legend(figure, width_entries(evidence.widths))
        label = "Local Lipschitz ratio and logit margin against lambda"
        drawn = svg(figure, "measures", label, partial(layer, found=found))
    return Drawing(drawn, measures_caption(evidence, measured))


def measures_caption(evidence: Evidence, measured: DataFrame) -> str:
    """What the two measures are."""
    return (
        "Means over test examples at the best validation epoch. The Lipschitz ratio is the largest found "
        f"{RATIO} near each example: an ascent finds it, so it is a lower bound. "
        f"Thin lines only join trials in order of λ. {evidence.sample(measured)}; "
        f"{evidence.examples('test')}."
    )
