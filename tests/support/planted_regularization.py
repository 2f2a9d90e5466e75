"""What a study of regularisation would find, with planted effects."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from robsearch import PGDAT
from robsearch.claims.claim import Evidence
from robsearch.papers.recipes import digits
from robsearch.papers.regularization.experiments import RegularizationStudy

SEEDS = 5

EPS = (0.0, 0.05, 0.1, 0.15)

STUDY = RegularizationStudy(replace(digits(), objective=PGDAT()), EPS, seeds=SEEDS)

LAYERS = {"2": 0.4, "4": 0.8, "6": 1.6}
"""The linear layers of an MLP with two hidden layers, and by how much the features of each
change."""


@cache
def without_noise(planted: tuple[tuple[str, float], ...]) -> pd.DataFrame:
    plan, rows = dict(planted), []
    for eps in EPS:
        part = eps / max(EPS)
        kept = {
            name: 1 - part * plan.get(name, 0.0)
            for name in ("margin", "confidence", "deviation", "change")
        }
        row = {"experiment": "eps", "width": 64.0, "arm": f"{eps:g}"}
        row["test/confidence"] = 0.9 * kept["confidence"]
        row |= {
            f"test/margin/logit/{q}": 4 * lead * kept["margin"]
            for q, lead in (("q05", 0.2), ("q50", 1), ("q95", 2))
        }
        row["test/natural_accuracy"] = 0.97 - part * plan.get("natural", 0.0) / 100
        row["gap/error"] = 0.04 - part * plan.get("gap", 0.0) / 100
        for layer, change in LAYERS.items():
            row[f"layer/spectra/reshaped/{layer}/std"] = 0.7 * kept["deviation"]
            nearer = 0.8 * (change / 0.8) ** (1 - part * plan.get("nearer", 0.0))
            row[f"layer/features/change/{layer}/mean"] = nearer * kept["change"]
        rows += [row | {"seed": seed} for seed in range(SEEDS)]
    return pd.DataFrame(rows)


def evidence(random: np.random.Generator, noise: float = 0.1, **planted: float) -> Evidence:
    """What a study would find if training eps changed nothing, but for what is planted.

    ``noise`` is the deviation over seeds as a share, and in tens of points of accuracy. Planted,
    each over all eps: the share by which margins (``margin``), ``confidence``, singular values'
    deviations (``deviation``) and feature ``change`` fall, the share by which layers' logs of
    feature change come ``nearer``, and the points by which ``natural`` accuracy and the error
    ``gap`` fall.
    """
    trials = without_noise(tuple(planted.items())).copy()
    rates = ["test/natural_accuracy", "gap/error"]
    sizes = [
        column for column in trials if column not in (*rates, "experiment", "width", "arm", "seed")
    ]
    trials[rates] += random.normal(0, noise / 10, (len(trials), len(rates)))
    trials[sizes] *= 1 + random.normal(0, noise, (len(trials), len(sizes)))
    return Evidence(trials, pd.DataFrame({"experiment": []}))
