"""What the final measurement on the test split found: the trade-off, and the measures against lambda."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from robsearch.trainer import VALUE

from .canvas import (
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

NATURAL_COLUMN, ROBUST_COLUMN = "test/natural_accuracy", "test/robust_accuracy"
RATIO = "‖f(x) − f(x′)‖₁ / ‖x − x′‖∞".replace(" ", "\u00a0")
CONTROL_MARKERS = "XP*"
MEASURES = {
    "test/lipschitz/logit_ratio/mean": "local Lipschitz, lower bound\n(logits per unit of pixel)",
    "test/margin/logit/mean": "logit margin (logits)",
}


def natural_against_robust(evidence: Evidence) -> Drawing:
    """Natural against robust accuracy on the test split: all nets, and beside them the trials alone."""
    trials, controls = both_rates(evidence.trials), both_rates(evidence.controls)
    if trials.empty and controls.empty:
        raise LeftOutError("no net has been measured on the test split yet")
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
        legend(figure, [*width_entries(evidence.widths, line=False), *net_entries(evidence, trials, controls)])
        drawn = svg(figure, "tradeoff", "Natural against robust accuracy on the test split")
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
    return [(mark("o", **RING), "best trial"), *marks]


def tradeoff_caption(evidence: Evidence, trials: DataFrame, controls: DataFrame) -> str:
    """Which nets, at which epoch."""
    beside = f"{evidence.sample(controls, 'control')}; " if len(controls) else ""
    limit = " Constraints were judged on validation, so a test rate may differ." if constraints(evidence) else ""
    return (
        "Natural against robust accuracy on the test split, each net at its best validation epoch. Rings "
        f"mark the trial with the best validation score at each width.{limit} {evidence.sample(trials)}; "
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


def measures_against_lam(evidence: Evidence) -> Drawing:
    """Lipschitz and margin against lambda, side by side."""
    positive = evidence.trials[evidence.trials["lam"] > 0]
    present = [name for name in MEASURES if name in positive.columns and positive[name].notna().any()]
    if not present:
        raise LeftOutError("no trial was measured for its Lipschitz ratio or its margin")
    measured = positive.dropna(subset=present, how="all")
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
        legend(figure, width_entries(evidence.widths))
        drawn = svg(figure, "measures", "Local Lipschitz ratio and logit margin against lambda")
    return Drawing(drawn, measures_caption(evidence, measured))


def measures_caption(evidence: Evidence, measured: DataFrame) -> str:
    """What the two measures are."""
    return (
        "Means over test examples at the best validation epoch. The Lipschitz ratio is the largest found "
        f"{RATIO} near each example: an ascent finds it, so it is a lower bound. "
        f"Thin lines only join trials in order of λ. {evidence.sample(measured)}; "
        f"{evidence.examples('test')}."
    )
