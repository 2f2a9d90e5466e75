"""Pictures of the study of widths: accuracy along lambda, regret against cost, ratio and lambda over training."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from robsearch.claims.experiment import Found
from robsearch.claims.form import contrast, points
from robsearch.claims.statistics import estimate
from robsearch.claims.war_claims import MATCHED, ORACLE, ROBUST, SHORTFALL, WAR_LOG, WAR_PAPER
from robsearch.claims.war_tables import tuning
from robsearch.report.canvas import (
    ACCENT,
    LAMBDA,
    SOFT,
    Drawing,
    legend,
    log_axis,
    look,
    panels,
    svg,
    tone,
    width_entries,
)
from robsearch.wording import counted

WARS = (WAR_PAPER, WAR_LOG, MATCHED)


def figures(found: Found, thin: float, wide: float, thin_arm: str) -> Iterator[Drawing]:
    """In the order of the page; ``thin_arm`` is the one whose ratio WAR keeps."""
    yield accuracy_by_lam(found)
    yield regret_by_cost(found, thin, wide)
    yield traces(found, thin, thin_arm)


def widths_of(found: Found) -> list[float]:
    """Thin to wide, in the order of their colours."""
    return sorted(map(float, found["grid"].trials["width"].unique()))


def accuracy_by_lam(found: Found) -> Drawing:
    """Mean over seeds at each width, with the standard error."""
    trials, widths = found["grid"].trials, widths_of(found)
    with look():
        figure, (axes,) = panels(3.6)
        for width in widths:
            own = 100 * trials[trials["width"] == width].groupby("lam")[ROBUST].agg(["mean", "sem"])
            color, marker = tone(widths, width)
            axes.errorbar(own.index, own["mean"], own["sem"], color=color, marker=marker, markersize=5, capsize=2)
        axes.set(xlabel=LAMBDA, ylabel="robust accuracy on test (%)")
        log_axis(axes, "x")
        legend(figure, width_entries(widths))
        drawn = svg(figure, "grid", "Robust accuracy against lambda at each width")
    n = trials["seed"].nunique()
    return Drawing(
        drawn, f"Robust accuracy on test at the best epoch, mean of {counted(n, 'seed')} with its standard error."
    )


def regret_by_cost(found: Found, thin: float, wide: float) -> Drawing:
    """Points lost against a full search, one row per way, cheapest tuning at the bottom."""
    trials = found["arms"].trials
    whole = tuning(found, ORACLE, thin, wide, "operations")
    arms = dict.fromkeys(trials["arm"])
    shares = {arm: tuning(found, arm, thin, wide, "operations") / whole if whole else math.nan for arm in arms}
    ways = sorted((arm for arm in shares if arm != ORACLE), key=lambda arm: (shares[arm], arm))
    with look():
        figure, (axes,) = panels(0.9 + 0.38 * len(ways))
        for place, arm in enumerate(ways):
            regret = estimate(points(contrast(trials, ROBUST, ORACLE, arm)))
            spread = [[regret.mean - regret.low], [regret.high - regret.mean]] if math.isfinite(regret.low) else None
            axes.errorbar([regret.mean], [place], xerr=spread, color=ACCENT, marker="o", markersize=7, capsize=3)
        axes.axvline(0, color=SOFT, linewidth=0.9)
        axes.axvline(SHORTFALL, color=SOFT, linewidth=0.9, linestyle="--")
        axes.set_yticks(range(len(ways)), [f"{arm} ({shares[arm]:.1%})" for arm in ways])
        axes.set(xlabel="regret (points of robust accuracy below the full search)")
        drawn = svg(figure, "regret", "Regret of each way of choosing lambda, by the cost of tuning")
    n = trials["seed"].nunique()
    caption = (
        f"Robust accuracy at width {wide:g} below that of the full search, paired over {n} fresh seeds, with 95 % "
        "intervals. In brackets the operations of tuning, as a share of the full search's. Left of the line at 0 a way "
        f"is better than the full search; right of the dashed one it loses more than {SHORTFALL:g} points."
    )
    return Drawing(drawn, caption)


def traces(found: Found, thin: float, thin_arm: str) -> Drawing:
    """The ratio of the losses, and lambda, of the thin net and of WAR on the widest."""
    grid, arms = found["grid"].epochs, found["arms"].epochs
    shown = [("thin net, found by search", grid[(grid["width"] == thin) & (grid["arm"] == thin_arm)])]
    shown += [(arm, arms[arms["arm"] == arm]) for arm in (*WARS, "thin lambda")]
    widths = widths_of(found)
    styles = ["-", "--", "-.", ":", "-"]
    with look():
        figure, (ratio, lam) = panels(4.8, rows=2, sharex=True, height_ratios=[3, 2])
        entries = []
        for (label, epochs), style in zip(shown, styles, strict=True):
            color = tone(widths, thin if epochs is shown[0][1] else widths[-1]).color
            for axes, values in ((ratio, _ratio(epochs)), (lam, epochs["train/lam"])):
                mean = _geometric_mean(values, epochs["progress"])
                axes.plot(mean.index, mean, linestyle=style, color=color)
            entries.append((ratio.lines[-1], label))
        ratio.set(ylabel="natural loss / robust loss")
        lam.set(xlabel="progress of training", ylabel="λ")
        for axes in (ratio, lam):
            log_axis(axes, "y")
        legend(figure, entries, columns=3)
        drawn = svg(figure, "traces", "Ratio of the losses and lambda over training")
    return Drawing(drawn, "Geometric means over seeds; WAR steers λ so that the ratio keeps the thin net's.")


def _ratio(epochs: pd.DataFrame) -> pd.Series:
    return epochs["train/natural_loss"] / epochs["train/robust_loss"].clip(lower=1e-8)


def _geometric_mean(values: pd.Series, progress: pd.Series) -> pd.Series:
    positive = values.where(values > 0)
    return pd.Series(np.exp(np.log(positive).groupby(progress).mean())).dropna()
