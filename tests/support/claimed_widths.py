"""Evidence of a study of widths as if nature were known: accuracies, ratios and costs from
formulas, plus noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.papers.war import WidthStudy, digits_recipe
from robsearch.papers.war.claims import (
    GLOBAL,
    LAW,
    LOCAL,
    MARGIN,
    MATCHED,
    NATURAL,
    ORACLE,
    ROBUST,
    SIX,
    STABLE,
    THIN,
    WAR_LOG,
    WAR_PAPER,
)

WIDTHS = (16.0, 32.0, 64.0, 128.0, 256.0)
LAMS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
STUDY = WidthStudy(WIDTHS, LAMS, digits_recipe(100, 0.0, 10), control_seeds=1)
WAYS = (THIN, SIX, LAW, WAR_PAPER, WAR_LOG, MATCHED, ORACLE)
"""The ways of choosing lambda, as they are stored."""


def grid(
    rng: np.random.Generator,
    seeds: int = 5,
    *,
    ratio: float = -0.27,
    natural: float = 1.0,
    stability: float = -1.0,
    peak: float = 0.3,
    noise: float = 1.0,
    own: float = 0.0,
) -> Evidence:
    """The experiment ``grid``.

    Args:
        rng: of the noise.
        seeds: how many.
        ratio: slope of log ratio on log width.
        natural: points per doubling.
        stability: points per doubling.
        peak: slope of log lambda* on log width; lambda* is 4 at width 64, and 1.1 points are lost
            per squared log.
        noise: standard deviation of each training's accuracies in points; a tenth of it for the log
            ratio.
        own: standard deviation over seeds of a seed's own slopes, of the ratio and of accuracies in
            their units.
    """
    cells = [(seed, width, lam) for seed in range(seeds) for width in WIDTHS for lam in LAMS]
    seed, width, lam = (np.array(column) for column in zip(*cells, strict=True))
    v, u = np.log(width / 64), np.log(lam / 4)
    doublings, n = v / np.log(2), len(cells)
    mine = rng.normal(0, 1, (4, seeds))[:, seed.astype(int)] * own
    drawn = rng.normal(0, noise / 100, (3, n))
    robust = 0.6 - 0.011 * (u - (peak + mine[3]) * v) ** 2 + drawn[0]
    stable = 0.7 + (stability + mine[1]) / 100 * doublings + 0.02 * u + drawn[1]
    trials = pd.DataFrame(
        {"experiment": "grid", "seed": seed.astype(int), "width": width, "lam": lam}
    )
    trials["arm"] = [f"lam {each:g}" for each in lam]
    trials[ROBUST], trials["value"] = robust, robust
    trials[NATURAL] = 0.9 + (natural + mine[2]) / 100 * doublings + drawn[2]
    trials[STABLE] = stable
    trials[LOCAL] = np.exp((0.9 - stable) * 10 + rng.normal(0, 0.1, n))
    trials[GLOBAL] = np.exp(5 + rng.normal(0, 1.0, n))
    # Margins grow with width; what is divided by them says what it said.
    trials[MARGIN] = 2 + width / 64
    trials[[LOCAL, GLOBAL]] = trials[[LOCAL, GLOBAL]].mul(trials[MARGIN], axis=0)
    trials["operations"] = width**2
    trials["best_epoch"], trials["test_last/robust_accuracy"] = 3, robust - 0.02
    trials["gradients"], trials["seconds"] = 1000.0, 1.0
    return Evidence(trials, _epochs(trials, (ratio + mine[0]) * v + rng.normal(0, noise / 10, n)))


def _epochs(trials: pd.DataFrame, log_ratio: np.ndarray) -> pd.DataFrame:
    """Ten epochs of each training, the ratio the same in all."""
    keys = trials[["experiment", "arm", "width", "seed"]]
    each = [keys.assign(epoch=k + 1, progress=(k + 0.5) / 10) for k in range(10)]
    found = pd.concat(each)
    return found.assign(
        **{
            "train/natural_loss": np.tile(np.exp(log_ratio), 10),
            "train/robust_loss": 1.0,
            "train/lam": 1.0,
        }
    )


def arms(
    rng: np.random.Generator,
    seeds: int = 10,
    *,
    war: float = 0.0,
    thin: float = -2.0,
    noise: float = 0.3,
) -> Evidence:
    """The experiment ``arms``: robust accuracy in points relative to the full search's, paired by
    seed."""
    rows = []
    for seed in range(seeds):
        for arm in WAYS:
            mean = {MATCHED: war, THIN: thin, ORACLE: 0.0}.get(arm, -1.0)
            robust = 0.6 + (mean + rng.normal(0, noise)) / 100
            rows.append(
                {
                    "experiment": "arms",
                    "seed": seed,
                    "width": 256.0,
                    "arm": arm,
                    "lam": 6.0,
                    ROBUST: robust,
                }
            )
    trials = pd.DataFrame(rows).assign(
        **{NATURAL: 0.9, STABLE: 0.6, "test_last/robust_accuracy": 0.5}
    )
    return Evidence(trials, _epochs(trials, np.zeros(len(trials))))


def both(grid: Evidence, arms: Evidence) -> Evidence:
    """As one."""
    return Evidence(*(pd.concat(frames) for frames in zip(grid, arms, strict=True)))
