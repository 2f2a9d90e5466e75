"""Pictures of the studies at one width: margins, layers and rates over arms that have an order, and norms by arm.

Marks are means over the seeds that an arm has, with 95 % intervals; an arm without any leaves a gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from robsearch.claims.paired import Numbers, laid_out
from robsearch.claims.statistics import estimate
from robsearch.naming import names_of
from robsearch.report.canvas import ACCENT, INK, SOFT, Drawing, legend, log_axis, look, panels, svg, width_axis
from robsearch.wording import counted

SERIES: tuple[dict[str, Any], ...] = (
    {"color": ACCENT, "marker": "o"},
    {"color": INK, "marker": "s"},
    {"color": SOFT, "marker": "^"},
)
"""How up to three things look that share their axes."""
MARKS: dict[str, Any] = {"markersize": 5.5, "capsize": 2.5}
FAINT: dict[str, Any] = {"color": SOFT, "linewidth": 0.9}


def whiskers(values: Numbers) -> tuple[Numbers, Numbers]:
    """Means of values (seeds, n) that are finite, and how far their 95 % intervals reach to both sides (2, n).

    The mean is NaN where there is no value; an interval from fewer than two reaches nowhere.
    """
    found = [estimate([value for value in column if math.isfinite(value)]) for column in values.T.tolist()]
    mean = np.array([one.mean for one in found])
    ends = np.array([mean - [one.low for one in found], [one.high for one in found] - mean])
    return mean, np.where(np.isfinite(ends), ends, 0.0)


def of_ratios(logs: Numbers) -> tuple[Numbers, Numbers]:
    """The same of values given as their logs: geometric means, and intervals that were formed on the log scale."""
    mean, (low, high) = whiskers(logs)
    return np.exp(mean), np.exp(mean) * [1 - np.exp(-low), np.exp(high) - 1]


# -- regularisation (arXiv 2011.07478) --------------------------------------------------------------------------


def over_eps(
    trials: pd.DataFrame, eps: Sequence[float], margins: Sequence[str], layers: Mapping[str, Sequence[str]], gap: str
) -> Drawing:
    """What changes with training eps, panel by panel.

    Args:
        trials: of the experiment, whose arms are the eps.
        eps: from 0 up.
        margins: the 5 %, 50 % and 95 % quantile of the logit margin.
        layers: from a heading to the columns of a quantity, layer by layer.
        gap: the column of the error gap; natural accuracy is shown beside it.
    """
    arms = list(names_of(eps).values())
    rows = (len(layers) + 3) // 2
    with look():
        figure, axes = panels(3.0 * rows, rows=rows, columns=2, sharex=True)
        margin = laid_out(trials, arms, margins)
        _curve(axes[0], eps, margin[..., 1], SERIES[0], "median")
        _lines(axes[0], eps, margin[..., [0, 2]], "5 % and 95 %")
        for own, (heading, columns) in zip(axes[1:], layers.items(), strict=False):
            ratio = laid_out(trials, arms, columns)
            ratio = ratio / np.where(ratio[:, :1] > 0, ratio[:, :1], np.nan)
            _curve(own, eps, np.median(ratio, axis=2), SERIES[0], "median layer")
            _lines(own, eps, ratio, "each layer")
            own.set(ylabel=heading)
        rates = 100 * laid_out(trials, arms, ["test/natural_accuracy", gap])
        for place, label in enumerate(("natural accuracy", "error on test less on training images")):
            _curve(axes[len(layers) + 1], eps, (rates - rates[:, :1])[..., place], SERIES[place], label)
        axes[0].set(ylabel="logit margin on test")
        axes[len(layers) + 1].set(ylabel="change in points")
        for unused in axes[len(layers) + 2 :]:
            unused.set_visible(False)
        for own in axes[: len(layers) + 2]:
            own.legend()
        axes[0].set_xticks(eps, arms)
        for own in axes[-2:]:
            own.set(xlabel="training eps (pixel units)")
        drawn = svg(figure, "eps", "Margins, layers and rates against training eps")
    told = "What changes with training eps. Layers are relative to training without an attack."
    return Drawing(drawn, f"{told} Means of {counted(len(rates), 'seed')} with 95 % intervals.")


# -- margins (arXiv 1907.11780) ---------------------------------------------------------------------------------


def over_epochs(trials: pd.DataFrame, epochs: Sequence[int], metrics: Mapping[str, str]) -> Drawing:
    """Margins of training images by epochs of training: a panel per label, each from a column of the trials."""
    arms = [str(each) for each in epochs]
    with look():
        figure, axes = panels(2.9, columns=len(metrics))
        for own, (label, metric) in zip(axes, metrics.items(), strict=True):
            values = laid_out(trials, arms, [metric])[..., 0]
            _curve(own, epochs, values, SERIES[0])
            own.set(xlabel="epochs of standard training", ylabel=label)
            width_axis(own, epochs)
        drawn = svg(figure, "epochs", "Margins of training images against epochs")
    return Drawing(
        drawn,
        f"Margins of training images, to first order. Means of {counted(len(values), 'seed')} with 95 % intervals.",
    )


def matched(trials: pd.DataFrame, groups: Mapping[str, Sequence[str]], metrics: Mapping[str, str]) -> Drawing:
    """Each group's sweep as a curve over natural accuracy: where one lies above another, it is better at equal price.

    Args:
        trials: of the experiment.
        groups: the arms of each sweep, weak to strong.
        metrics: a panel per label, each from a column of the trials.
    """
    with look():
        figure, axes = panels(3.4, columns=len(metrics))
        for series, (group, arms) in zip(SERIES, groups.items(), strict=True):
            natural = whiskers(100 * laid_out(trials, arms, ["test/natural_accuracy"])[..., 0])
            for own, (label, metric) in zip(axes, metrics.items(), strict=True):
                factor = 100 if label.endswith("(%)") else 1
                mean, ends = whiskers(factor * laid_out(trials, arms, [metric])[..., 0])
                line = own.errorbar(natural[0], mean, ends, natural[1], **MARKS, **series)
                own.set(xlabel="natural accuracy on test (%)", ylabel=label)
            line.set_label(group)
        handles, labels = axes[-1].get_legend_handles_labels()
        legend(figure, list(zip(handles, labels, strict=True)))
        drawn = svg(figure, "matched", "Robust accuracy and margin against natural accuracy")
    told = "Each mark is one lambda, with 95 % intervals over seeds in both directions."
    return Drawing(drawn, f"{told} A curve above another has more at equal natural accuracy.")


# -- norms (arXiv 2009.08435) -----------------------------------------------------------------------------------


def norms_by_arm(trials: pd.DataFrame, reference: str, columns: Mapping[str, Sequence[str]], title: str) -> Drawing:
    """Layer norms of each arm relative to those of ``reference``, the geometric mean over layers, paired by seed."""
    arms = [arm for arm in dict.fromkeys(trials["arm"]) if arm != reference]
    with look():
        figure, (axes,) = panels(1.1 + 0.42 * len(arms))
        entries = []
        for shift, series, (label, layers) in zip((-0.2, 0, 0.2), SERIES, columns.items(), strict=True):
            logs = np.log(laid_out(trials, [reference, *arms], layers)).mean(axis=2)
            mean, ends = of_ratios(logs[:, 1:] - logs[:, :1])
            places = np.arange(len(arms)) + shift
            mark = axes.errorbar(mean, places, None, ends, linestyle="none", **MARKS, **series)
            entries.append((mark, label))
        axes.axvline(1, **FAINT)
        axes.set_yticks(range(len(arms)), arms)
        axes.invert_yaxis()
        axes.set(xlabel=f"norm relative to {reference}, geometric mean over layers")
        log_axis(axes, "x")
        legend(figure, entries)
        drawn = svg(figure, f"norms {title}", f"Layer norms by arm, {title}")
    return Drawing(drawn, f"{title}. Means of {counted(len(logs), 'seed')}, paired, with 95 % intervals.")


def bound_and_local(trials: pd.DataFrame, arms: Sequence[str], metrics: Mapping[str, str], title: str) -> Drawing:
    """The product of layer norms and the local Lipschitz estimate of each arm, on one axis."""
    with look():
        figure, (axes,) = panels(0.9 + 0.36 * len(arms))
        entries = []
        for series, (label, metric) in zip(SERIES, metrics.items(), strict=False):
            mean, ends = whiskers(laid_out(trials, arms, [metric])[..., 0])
            mark = axes.errorbar(mean, range(len(arms)), None, ends, linestyle="none", **MARKS, **series)
            entries.append((mark, label))
        axes.set_yticks(range(len(arms)), arms)
        axes.invert_yaxis()
        axes.set(xlabel="Lipschitz constant, linf to l1")
        log_axis(axes, "x")
        legend(figure, entries)
        drawn = svg(figure, f"bound {title}", f"Product of layer norms and local estimate, {title}")
    return Drawing(
        drawn, f"{title}. The product is an upper bound, the estimate a lower one; 95 % intervals over seeds."
    )


def _curve(
    axes: Axes, x: Sequence[float], values: Numbers, series: Mapping[str, Any], label: str | None = None
) -> None:
    mean, ends = whiskers(values)
    axes.errorbar(x, mean, ends, label=label, **MARKS, **series)


def _lines(axes: Axes, x: Sequence[float], values: Numbers, label: str) -> None:
    """One faint line for each of the last axis of (seeds, x, n), named once."""
    for place in range(values.shape[2]):
        axes.plot(x, whiskers(values[..., place])[0], label=None if place else label, **FAINT)
