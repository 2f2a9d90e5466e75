"""What a study of margins would find, with planted effects."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.papers.margins.claims import (
    CONTROL,
    MARGIN,
    WITH,
    WITHOUT,
)
from robsearch.papers.margins.experiments import MarginsStudy
from robsearch.papers.recipes import digits

SEEDS = 5

LAMS = (1.0, 4.0, 16.0, 64.0)

STUDY = MarginsStudy(digits(), epochs=(10, 20, 40), lams=LAMS, seeds=SEEDS)

CURVE = np.array([[97.0, 60.0], [96.0, 64.0], [94.0, 66.0], [90.0, 67.0]])
"""Natural and robust accuracy along lambda: what a trade-off looks like."""


@cache
def without_noise(planted: tuple[tuple[str, float], ...]) -> pd.DataFrame:
    plan, rows = dict(planted), []
    for group in (WITHOUT, WITH, CONTROL):
        for lam, (natural, robust) in zip(LAMS, CURVE, strict=True):
            moved, with_it = plan.get("shift", 0.0), group == WITH
            row = {"experiment": "strengths", "width": 64.0, "arm": f"{group}, lambda {lam:g}"}
            row |= {"test/natural_accuracy": (natural - with_it * moved) / 100}
            row |= {"test/robust_accuracy": (robust + with_it * plan.get("robust", 0.0)) / 100}
            row |= {
                f"test/{MARGIN}/mean": 0.003 * robust * np.exp(with_it * plan.get("margin", 0.0))
            }
            rows.append(row)
    for doublings, epochs in enumerate(STUDY.epochs):
        row = {"experiment": "training", "width": 64.0, "arm": f"{epochs}"}
        row |= {f"train_set/{MARGIN}/min": 0.1 * (0.1 + doublings * plan.get("lowest", 0.0))}
        row |= {f"train_set/{MARGIN}/mean": 0.1 * (1 - doublings * plan.get("average", 0.0))}
        rows.append(row)
    return pd.DataFrame([row | {"seed": seed} for row in rows for seed in range(SEEDS)])


def evidence(random: np.random.Generator, noise: float = 0.1, **planted: float) -> Evidence:
    """What a study would find if neither time nor the regulariser did anything, but for what is
    planted.

    ``noise`` is the deviation over seeds in tens of points of accuracy and as a share of margins.
    Planted: points of robust accuracy (``robust``) and log ratios of margins (``margin``) with the
    regulariser, points of natural accuracy that it costs (``shift``), changes of the minimum margin
    (``lowest``) and falls of the average (``average``) per doubling of the epochs, as shares of the
    first average.
    """
    trials = without_noise(tuple(planted.items())).copy()
    for column, scale in {
        "test/natural_accuracy": 0.05,
        "test/robust_accuracy": 0.1,
        f"test/{MARGIN}/mean": 0.2,
        f"train_set/{MARGIN}/min": 0.1,
        f"train_set/{MARGIN}/mean": 0.1,
    }.items():
        trials[column] += random.normal(0, noise * scale, len(trials))
    return Evidence(trials, pd.DataFrame({"experiment": []}))
