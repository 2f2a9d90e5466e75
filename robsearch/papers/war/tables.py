"""What a reader wants beside the verdicts on WAR: ways, regret and cost; the peak by width; the
controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from robsearch.claims.claim import NotDecidableError
from robsearch.claims.experiment import Findings
from robsearch.claims.images import points_apart
from robsearch.claims.seeds import in_points
from robsearch.claims.statistics import estimate
from robsearch.laws.curves import FAMILIES, LEAST
from robsearch.papers.war.claims import (
    ARMS,
    CONSTANTS,
    GRID,
    LAST,
    NATURAL,
    NORMALISED,
    ORACLE,
    RETUNED,
    ROBUST,
    STABLE,
    peak_slopes,
    search_cost,
)
from robsearch.trials.selection import sound

if TYPE_CHECKING:
    from robsearch.papers.war.arms import Retuning, Searched

RANGE = 0.5
"""Points below the best within which lambdas are as good, for a reader."""


def tables(
    findings: Findings,
    searched: Searched,
    lams: Sequence[float],
    retunings: Sequence[Retuning],
) -> Mapping[str, pd.DataFrame]:
    """By caption; accuracies in percent, differences in points, intervals at 95 % over seeds.

    Args:
        findings: of the study; of its controls, if it has any, all three.
        searched: the ways of choosing lambda, with the widths that each of them searches.
        lams: of the grid.
        retunings: arms of the last control.
    """
    trials = {name: evidence.trials for name, evidence in findings.items()}
    grid = trials[GRID]
    (wide,) = searched[ORACLE]
    title = f"Ways of choosing lambda at width {wide:g}"
    main = {
        f"{title} (test, APGD; the cost of tuning, and as a share)": ways_table(findings, searched),
        "The best lambda at each width": peaks(grid),
        "Slope of log lambda* on log width, in windows of lambda": windows(grid, lams),
        "Robust accuracy at the best and at the last epoch, averaged over lambdas": best_and_last(
            grid
        ),
    }
    if CONSTANTS not in findings:
        return main
    return {
        **main,
        "WAR with other constants, and lambda held at WAR's final value": constants(
            trials[CONSTANTS]
        ),
        "The slope with the loss divided by 1 + lambda": windows(trials[NORMALISED], lams),
        "Robust accuracy with the learning rate and weight decay tuned again": retuned(
            trials[RETUNED], retunings
        ),
    }


def ways_table(findings: Findings, searched: Searched) -> pd.DataFrame:
    """One row per way: accuracies, regret against the full search, what tuning cost."""
    arms = findings[ARMS].trials
    grid = findings[GRID].trials
    rows = []
    for arm in arms["arm"].unique().tolist():
        trials = arms[arms["arm"] == arm]
        row: dict[str, object] = {
            "way": arm,
            "lambda": f"{trials['lam'].median():.3g}",
            "robust, best epoch": percent(trials[ROBUST]),
            "robust, last epoch": percent(trials[LAST]),
            "natural": percent(trials[NATURAL]),
            "stability": percent(trials[STABLE]),
            "regret": "" if arm == ORACLE else points_apart(arms, ROBUST, ORACLE, arm).text(),
        }
        for unit in ("gradients", "operations", "seconds"):
            cost = search_cost(grid, searched[arm], unit)
            whole = search_cost(grid, searched[ORACLE], unit)
            row[unit] = f"{cost:.3g} ({cost / whole:.1%})" if whole else "not known"
        row["seeds"] = len(trials)
        rows.append(row)
    return pd.DataFrame(rows)


def percent(shares: Iterable[float]) -> str:
    """The mean over seeds in percent, with its interval."""
    return estimate(in_points(shares)).text()


def peaks(grid: pd.DataFrame) -> pd.DataFrame:
    """By width: the lambda that is best on val, and those within half a point of it; accuracy on
    test there."""
    rows = []
    for width, trials in sound(grid).groupby("width"):
        means = trials.groupby("lam")[["value", ROBUST, NATURAL, STABLE]].mean() * 100
        best = means.iloc[int(means["value"].argmax())]
        near = means.index[means["value"] >= means["value"].max() - RANGE]
        rows.append(
            {
                "width": f"{width:g}",
                "best lambda on val": f"{best.name:g}",
                f"within {RANGE:g} points": f"{near.min():g} to {near.max():g}",
                "robust there (test)": f"{best[ROBUST]:.2f}",
                "natural": f"{best[NATURAL]:.2f}",
                "stability": f"{best[STABLE]:.2f}",
                "trainings": len(trials),
            }
        )
    return pd.DataFrame(rows)


def windows(trials: pd.DataFrame, lams: Sequence[float]) -> pd.DataFrame:
    """The slope within all lambdas (the primary window), and without the lowest, the highest, or
    both."""
    trials = sound(trials)
    rows = []
    for low, high in _windows(sorted(lams)):
        # A lambda that was read back may differ in its last digit.
        inside = trials[trials["lam"].between(low * 0.999, high * 1.001)]
        try:
            slopes = {
                family: estimate(seeds).text() for family, seeds in peak_slopes(inside).items()
            }
        except NotDecidableError as reason:
            slopes = dict.fromkeys(FAMILIES, str(reason))
        rows.append(
            {
                "lambda from": f"{low:g}",
                "to": f"{high:g}",
                **{f"slope, {family}": text for family, text in slopes.items()},
                "seeds": inside["seed"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def _windows(lams: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Those that have as many lambdas as a curve takes, and all lambdas."""
    for window in (lams, lams[1:], lams[:-1], lams[1:-1]):
        if len(window) >= LEAST or window is lams:
            yield window[0], window[-1]


def best_and_last(grid: pd.DataFrame) -> pd.DataFrame:
    """By width; contrary evidence says that they differ (see arXiv 2010.01279's premise and
    PGD-AT's public logs)."""
    rows = []
    for width, trials in grid.groupby("width"):
        # A seed is the unit, so its lambdas are averaged before the interval is taken.
        of_seeds = trials.groupby("seed")[[ROBUST, LAST, NATURAL]].mean()
        rows.append(
            {
                "width": f"{width:g}",
                "best epoch": percent(of_seeds[ROBUST]),
                "last epoch": percent(of_seeds[LAST]),
                "natural": percent(of_seeds[NATURAL]),
                "trainings": len(trials),
            }
        )
    return pd.DataFrame(rows)


def constants(trials: pd.DataFrame) -> pd.DataFrame:
    """Each against the epoch-matched WAR as it is, paired by seed."""
    return pd.DataFrame(
        {
            "WAR": arm,
            "final lambda": f"{of_arm['lam'].median():.3g}",
            "robust": percent(of_arm[ROBUST]),
            "less WAR as it is": points_apart(trials, ROBUST, str(arm), "as it is").text(),
            "seeds": len(of_arm),
        }
        for arm, of_arm in trials.groupby("arm", sort=False)
    )


def retuned(trials: pd.DataFrame, retunings: Sequence[Retuning]) -> pd.DataFrame:
    """By width and lambda: the learning rate and weight decay best on val, and what they reach on
    test."""
    arms = {arm.name: arm for arm in retunings}
    # Of each lambda the arm with its learning rate and weight decay as they were.
    unchanged = [arm.name for arm in retunings if (arm.lr, arm.decay) == (1, 1)]
    trials = sound(trials)
    lambdas = trials["arm"].map(lambda name: arms[name].of)
    rows = []
    for (width, lam), of_lam in trials.groupby(["width", lambdas]):
        on_val = of_lam.groupby("arm")["value"].mean()
        best = str(on_val.idxmax())
        at_best = of_lam[of_lam["arm"] == best]
        as_it_was = of_lam[of_lam["arm"].isin(unchanged)]
        rows.append(
            {
                "width": f"{width:g}",
                "lambda": f"{lam} ({at_best['lam'].median():g})",
                "best": arms[best].factors,
                "robust": percent(at_best[ROBUST]),
                "as it was": percent(as_it_was[ROBUST]),
                "seeds": len(at_best),
            }
        )
    return pd.DataFrame(rows)
