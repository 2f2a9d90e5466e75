"""Pictures of the study of widths: accuracy by lambda, regret, and ratio and lambda over
training."""

from __future__ import annotations

import numpy as np
import pandas as pd

from robsearch.claims.claim import Part
from robsearch.claims.experiment import Findings
from robsearch.claims.figures import forest, means_by_arm
from robsearch.claims.images import accuracy_effect
from robsearch.drawing.style import Drawing, legend, log_axis, look, panels, svg, tone
from robsearch.papers.war.arms import Searched
from robsearch.papers.war.claims import (
    ARMS,
    GRID,
    MATCHED,
    ORACLE,
    ROBUST,
    SHORTFALL,
    THIN,
    WAR_LOG,
    WAR_PAPER,
    loss_ratio,
    search_cost,
)

TRACED = {WAR_PAPER: "--", WAR_LOG: "-.", MATCHED: ":", THIN: "-"}
"""The ways whose training is shown, each with the style of its line."""


def figures(
    findings: Findings,
    searched: Searched,
    thin_epochs: pd.DataFrame,
) -> list[Drawing]:
    """In the order of the page.

    Args:
        findings: of the study.
        searched: the ways of choosing lambda, with the widths that each of them searches.
        thin_epochs: have the ratio that WAR keeps.
    """
    columns = {"robust accuracy on test (%)": (ROBUST, 100.0)}
    title = "Robust accuracy on test at the best epoch, by lambda and width"
    return [
        means_by_arm(findings[GRID].trials, columns, title),
        regrets(findings, searched),
        traces(findings, thin_epochs),
    ]


def regrets(findings: Findings, searched: Searched) -> Drawing:
    """Points lost against a full search, one row per way, cheapest tuning at the bottom."""
    trials = findings[ARMS].trials
    grid = findings[GRID].trials
    costs = {way: search_cost(grid, widths, "operations") for way, widths in searched.items()}
    trained = [name for name in trials["arm"].unique() if name != ORACLE]
    parts = []
    for name in sorted(trained, key=lambda name: (-costs[name], name)):
        # Without a grid nothing is known of what the full search took.
        share = f" ({costs[name] / costs[ORACLE]:.1%})" if costs[ORACLE] else ""
        regret = accuracy_effect(name + share, trials, ROBUST, ORACLE, name, SHORTFALL)
        unit = "regret (points of robust accuracy below the full search)"
        parts.append(Part.of(regret._replace(unit=unit)))
    caption = (
        f"Robust accuracy below that of the full search at the widest net, paired over "
        f"{trials['seed'].nunique()} fresh seeds, with 95 % intervals. In brackets the operations "
        "of tuning, as a share of the full search's. Left of the line at 0 a way is better than "
        f"the full search; right of the dashes it loses more than {SHORTFALL:g} points."
    )
    return forest(parts, "Regret of each way of choosing lambda", caption)


def traces(findings: Findings, thin_epochs: pd.DataFrame) -> Drawing:
    """The ratio of the losses, and lambda, of the thin net and of WAR on the widest."""
    epochs = findings[ARMS].epochs
    widths = sorted(findings[GRID].trials["width"].unique())
    lines = [("thin net, found by search", thin_epochs, widths[0], "-")]
    for way, style in TRACED.items():
        of_way = epochs[epochs["arm"] == way]
        lines.append((way, of_way, widths[-1], style))
    with look():
        figure, (ratio, lam) = panels(4.8, rows=2, sharex=True, height_ratios=[3, 2])
        entries = []
        for label, rows, width, style in lines:
            color = tone(widths, width).color
            traced = ((ratio, loss_ratio(rows)), (lam, rows["train/lam"]))
            for axes, values in traced:
                mean = _geometric_mean(values, rows["progress"])
                (line,) = axes.plot(mean.index, mean, linestyle=style, color=color)
            entries.append((line, label))
        ratio.set(ylabel="natural loss / robust loss")
        lam.set(xlabel="progress of training", ylabel="λ")
        for axes in (ratio, lam):
            log_axis(axes, "y")
        legend(figure, entries, columns=3)
        drawn = svg(figure, "traces", "Ratio of the losses and lambda over training")
    caption = "Geometric means over seeds; WAR steers λ so that the ratio keeps the thin net's."
    return Drawing(drawn, caption)


def _geometric_mean(values: pd.Series, progress: pd.Series) -> pd.Series:
    logs = np.log(values.where(values > 0))
    means = np.exp(logs.groupby(progress).mean())
    return pd.Series(means).dropna()
