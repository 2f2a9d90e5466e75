"""The grid, and WAR, at other learning rates than the usual one: what a search of lambda alone may
have missed (arXiv 2010.01279 has one learning rate)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.claims.experiment import Findings, pooled
from robsearch.claims.images import points_apart
from robsearch.papers.war.choices import ON_VAL, chosen_on_val, with_val
from robsearch.papers.war.claims import GRID, LAST, ORACLE, THIN
from robsearch.papers.war.tables import percent
from robsearch.papers.war.ways import DYNAMIC, WAYS
from robsearch.trials.selection import sound

RATES = "rates"
FASTER = "faster"
RATE_FACTORS = {RATES: (0.25, 0.5, 2.0), FASTER: (4.0,)}
"""On the base's learning rate, by experiment; the grid itself has 1."""
WAR_RATES = "WAR-rates"
WAR_AT_RATE = {
    f"{DYNAMIC}, lr x {factor:g}": factor for factors in RATE_FACTORS.values() for factor in factors
}
"""The factor on the learning rate at which each of these arms searches the thin net and trains by
WAR."""
THIN_RATE = "thin lambda and learning rate"
WIDE_RATE = "thin lambda, learning rate searched"
WAR_THIN_RATE = f"{DYNAMIC}, thin learning rate"
WAR_WIDE_RATE = f"{DYNAMIC}, learning rate searched"
BOTH = "full search of lambda and learning rate"


def at_best_rate(
    evidence: Evidence,
    widths: Sequence[float],
    rates: Mapping[str, float],
) -> pd.DataFrame:
    """The training at the learning rate that is best on the replicate's own ``val`` at each width
    and lambda, with that factor as ``rate``, in the replicates that have all rates."""
    trials = sound(at_all_rates(evidence, widths, rates))
    return chosen_on_val(trials, ("seed", "width", "lam"), "rate")


def at_all_rates(
    evidence: Evidence,
    widths: Sequence[float],
    rates: Mapping[str, float],
) -> pd.DataFrame:
    """The trainings of the replicates that have all learning rates, with ``on_val`` and the factor
    on the usual rate as ``rate``."""
    trials = with_val(evidence).dropna(subset=[LAST, ON_VAL])
    of_grid = trials["experiment"].isin((GRID, *RATE_FACTORS))
    trials = trials[of_grid & trials["width"].isin(widths)]
    trials = trials.assign(rate=trials["arm"].map(rates).fillna(1.0))
    return _with_all_rates(trials, {1.0, *rates.values()})


def _with_all_rates(trials: pd.DataFrame, rates: set[float]) -> pd.DataFrame:
    """Those of the replicates that were trained at all rates."""
    counts = trials.groupby("seed")["rate"].nunique()
    shared = counts.index[counts == len(rates)]
    return trials[trials["seed"].isin(shared)]


def grid_at_rate(findings: Findings, factor: float, rates: Mapping[str, float]) -> Findings:
    """The trainings at a factor on the learning rate, as if they were the grid."""
    arms = [name for name, rate in rates.items() if math.isclose(rate, factor)]
    trials, epochs = pooled({name: findings[name] for name in RATE_FACTORS if name in findings})
    return {GRID: Evidence(trials[trials["arm"].isin(arms)], epochs[epochs["arm"].isin(arms)])}


def war_at_rates(findings: Findings) -> pd.DataFrame:
    """The trainings by WAR with ``on_val`` and ``rate``, in the replicates that have all learning
    rates; empty where other rates were not trained."""
    if WAR_RATES not in findings:
        return pd.DataFrame(columns=["seed", "rate", ON_VAL])
    usual = with_val(findings[WAYS])
    usual = usual[usual["arm"] == DYNAMIC].assign(rate=1.0)
    others = with_val(findings[WAR_RATES])
    others = others.assign(rate=others["arm"].map(WAR_AT_RATE))
    trials = pd.concat([usual, others]).dropna(subset=[LAST, ON_VAL])
    return _with_all_rates(trials, {1.0, *others["rate"]})


def rates_table(at_best_rate: pd.DataFrame) -> pd.DataFrame:
    """One row per width and lambda: the factors on the learning rate that replicates chose, how
    often each, and what they reach."""
    return pd.DataFrame(
        {
            "width": f"{width:g}",
            "lambda": f"{lam:g}",
            "learning rate": ", ".join(
                f"{rate:g} ({count})"
                for rate, count in cell["rate"].value_counts().sort_index().items()
            ),
            "robust": percent(cell[LAST]),
            "natural": percent(cell["test_last/natural_accuracy"]),
            "seeds": len(cell),
        }
        for (width, lam), cell in at_best_rate.groupby(["width", "lam"])
    )


def rate_grid_table(at_all_rates: pd.DataFrame) -> pd.DataFrame:
    """One row per width and learning rate, a column per lambda: mean robust accuracy in percent."""
    rows = []
    for (width, rate), of_rate in at_all_rates.groupby(["width", "rate"]):
        means = 100 * of_rate.groupby("lam")[LAST].mean()
        cells = {f"lam {lam:g}": f"{mean:.2f}" for lam, mean in means.items()}
        rows.append({"width": f"{width:g}", "learning rate": f"{rate:g}", **cells})
    # A lambda may be missing at a rate, where none of its trainings ended.
    return pd.DataFrame(rows).fillna("")


def rate_ways_table(
    at_all_rates: pd.DataFrame,
    war: pd.DataFrame,
    ways: pd.DataFrame,
    thin: float,
    wide: float,
) -> pd.DataFrame:
    """What the wide net reaches where the learning rate is searched, too, and where it is not.

    Each replicate chooses on its own ``val``, after the last epoch, and differences are paired.

    Args:
        at_all_rates: as ``at_all_rates`` has them.
        war: as ``war_at_rates`` has them.
        ways: as ``ways_frame`` has them, at the usual rate; those of the same replicates count.
        thin: the thinnest width.
        wide: the widest.
    """
    rows = []
    for seed, trials in at_all_rates.groupby("seed"):
        of_war = war[war["seed"] == seed]
        for way, net in _nets(trials, of_war, thin, wide).items():
            of_net = {name: net[name] for name in ("lam", "rate")}
            rows.append({"seed": seed, "arm": way, "robust": net[LAST], **of_net})
    searched = pd.DataFrame(rows)
    usual = ways[ways["arm"].isin((THIN, DYNAMIC, ORACLE)) & ways["seed"].isin(searched["seed"])]
    usual = usual[["seed", "arm", "robust", "lam"]].assign(rate=1.0)
    every = pd.concat([usual, searched]).assign(width=wide)
    table = []
    for arm, of_way in every.groupby("arm", sort=False):
        way = str(arm)
        less = "" if way == BOTH else points_apart(every, "robust", way, BOTH).text()
        table.append(
            {
                "way": way,
                "lambda": ", ".join(f"{lam:.3g}" for lam in of_way["lam"]),
                "learning rate": ", ".join(f"{rate:g}" for rate in of_way["rate"]),
                "robust": percent(of_way["robust"]),
                f"less {BOTH}": less,
                "seeds": len(of_way),
            }
        )
    return pd.DataFrame(table)


def _nets(
    trials: pd.DataFrame,
    war: pd.DataFrame,
    thin: float,
    wide: float,
) -> Mapping[str, pd.Series]:
    """By way, the wide net that one replicate returns; without a way whose training failed."""
    at_wide = trials[trials["width"] == wide]
    of_thin = _best_on_val(trials[trials["width"] == thin])
    same_lam = at_wide[at_wide["lam"] == of_thin["lam"]]
    among = {
        THIN_RATE: same_lam[same_lam["rate"] == of_thin["rate"]],
        WIDE_RATE: same_lam,
        WAR_THIN_RATE: war[war["rate"] == of_thin["rate"]],
        WAR_WIDE_RATE: war,
        BOTH: at_wide,
    }
    return {way: _best_on_val(nets) for way, nets in among.items() if len(nets)}


def _best_on_val(trials: pd.DataFrame) -> pd.Series:
    return trials.sort_values(ON_VAL, ascending=False, kind="stable").iloc[0]
