"""What a reader wants beside the verdicts on WAR: ways, regret and cost; the peak by width; the controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from robsearch.claims.experiment import Found
from robsearch.claims.form import NotDecidableError, contrast, points
from robsearch.claims.statistics import interval
from robsearch.claims.war_claims import (
    LAW,
    NATURAL,
    ORACLE,
    ROBUST,
    SIX,
    STABLE,
    peak_slopes,
)
from robsearch.selection import sound

LAST = "test_last/robust_accuracy"
RANGE = 0.5
"""Points below the best within which lambdas are as good, for a reader."""


def tables(found: Found, thin: float, wide: float, lams: Sequence[float]) -> Mapping[str, pd.DataFrame]:
    """By caption; accuracies in percent, differences in points, intervals at 95 % over seeds."""
    made = {
        f"Ways of choosing lambda at width {wide:g} (test, APGD; the cost of tuning, and as a share)": ways(
            found, thin, wide
        ),
        "The best lambda at each width": peaks(found),
        "Slope of log lambda* on log width, in windows of lambda": windows(found, "grid", lams),
        "Robust accuracy at the best and at the last epoch, averaged over lambdas": best_and_last(found),
    }
    if "constants" in found:
        made["WAR with other constants, and lambda held at WAR's final value"] = constants(found)
        made["The slope with the loss divided by 1 + lambda"] = windows(found, "normalised", lams)
        made["Robust accuracy with the learning rate and weight decay tuned again"] = retuned(found)
    return made


def ways(found: Found, thin: float, wide: float) -> pd.DataFrame:
    """One row per way: accuracies, regret against the full search, what tuning cost."""
    trials = found["arms"].trials
    rows = []
    for arm in dict.fromkeys(trials["arm"]):
        own = trials[trials["arm"] == arm]
        rows.append(
            {
                "way": arm,
                "lambda": f"{own['lam'].median():.3g}",
                "robust, best epoch": interval(points(own[ROBUST])),
                "robust, last epoch": interval(points(own[LAST])),
                "natural": interval(points(own[NATURAL])),
                "stability": interval(points(own[STABLE])),
                "regret": "" if arm == ORACLE else interval(points(contrast(trials, ROBUST, ORACLE, arm))),
                **tuning_costs(found, arm, thin, wide),
                "seeds": len(own),
            }
        )
    return pd.DataFrame(rows)


def tuning(found: Found, arm: str, thin: float, wide: float, unit: str) -> float:
    """What finding a way's lambda cost: one search (each lambda once) at each width that it looks at."""
    grid = found["grid"].trials
    looked_at = {SIX: grid["width"] < 0, LAW: grid["width"] < wide, ORACLE: grid["width"] == wide}
    rows = grid[looked_at.get(arm, grid["width"] == thin)]
    return float(rows.groupby("seed")[unit].sum().mean()) if len(rows) else 0.0


def tuning_costs(found: Found, arm: str, thin: float, wide: float) -> dict[str, str]:
    """Gradient evaluations, operations and seconds of training, and as shares."""
    costs = {}
    for unit in ("gradients", "operations", "seconds"):
        own, whole = (tuning(found, each, thin, wide, unit) for each in (arm, ORACLE))
        costs[unit] = f"{own:.3g} ({own / whole:.1%})" if whole else "not known"
    return costs


def peaks(found: Found) -> pd.DataFrame:
    """By width: the lambda that is best on val, and those within half a point of it; accuracy on test there."""
    rows = []
    for width, own in sound(found["grid"].trials).groupby("width"):
        means = own.groupby("lam")[["value", ROBUST, NATURAL, STABLE]].mean() * 100
        at = means.iloc[int(means["value"].argmax())]
        near = means.index[means["value"] >= means["value"].max() - RANGE]
        rows.append(
            {
                "width": f"{width:g}",
                "best lambda on val": f"{at.name:g}",
                f"within {RANGE:g} points": f"{near.min():g} to {near.max():g}",
                "robust there (test)": f"{at[ROBUST]:.2f}",
                "natural": f"{at[NATURAL]:.2f}",
                "stability": f"{at[STABLE]:.2f}",
                "trainings": len(own),
            }
        )
    return pd.DataFrame(rows)


def windows(found: Found, experiment: str, lams: Sequence[float]) -> pd.DataFrame:
    """The slope within all lambdas (the primary window), and without the lowest, the highest, or both."""
    trials = sound(found[experiment].trials)
    ordered = sorted(lams)
    rows = []
    for low, high in _ranges(ordered):
        inside = trials[trials["lam"].between(low * 0.999, high * 1.001)]
        try:
            told = interval(peak_slopes(inside, ROBUST))
        except NotDecidableError as reason:
            told = str(reason)
        rows.append({"lambda from": f"{low:g}", "to": f"{high:g}", "slope": told, "seeds": inside["seed"].nunique()})
    return pd.DataFrame(rows)


def _ranges(lams: Sequence[float]) -> Iterator[tuple[float, float]]:
    for low, high in ((0, -1), (1, -1), (0, -2), (1, -2)):
        if len(lams[low:]) - abs(high + 1) >= 3:
            yield lams[low], lams[high]


def best_and_last(found: Found) -> pd.DataFrame:
    """By width; contrary evidence says that they differ (see arXiv 2010.01279's premise and PGD-AT's public logs)."""
    rows = []
    for width, own in found["grid"].trials.groupby("width"):
        means = own.groupby("seed")[[ROBUST, LAST, NATURAL]].mean()
        told = {name: interval(points(means[name])) for name in means}
        row = {"width": f"{width:g}", "best epoch": told[ROBUST], "last epoch": told[LAST], "natural": told[NATURAL]}
        rows.append({**row, "trainings": len(own)})
    return pd.DataFrame(rows)


def constants(found: Found) -> pd.DataFrame:
    """Each against the epoch-matched WAR as it is, paired by seed."""
    trials = found["constants"].trials
    rows = [
        {
            "WAR": arm,
            "final lambda": f"{own['lam'].median():.3g}",
            "robust": interval(points(own[ROBUST])),
            "less WAR as it is": interval(points(contrast(trials, ROBUST, str(arm), "as it is"))),
            "seeds": len(own),
        }
        for arm, own in trials.groupby("arm", sort=False)
    ]
    return pd.DataFrame(rows)


def retuned(found: Found) -> pd.DataFrame:
    """By width and lambda: the learning rate and weight decay best on val, and what they reach on test."""
    trials = sound(found["retuned"].trials)
    lambdas = trials["arm"].str.partition(",")[0]
    rows = []
    for (width, lam), own in trials.groupby(["width", lambdas]):
        best = own.groupby("arm")["value"].mean().idxmax()
        at = own[own["arm"] == best]
        rows.append(
            {
                "width": f"{width:g}",
                "lambda": f"{lam} ({at['lam'].median():g})",
                "best": str(best).partition(", ")[2],
                "robust": interval(points(at[ROBUST])),
                "as it was": interval(points(own.loc[own["arm"].str.endswith("x 1, weight decay x 1"), ROBUST])),
                "seeds": len(at),
            }
        )
    return pd.DataFrame(rows)
