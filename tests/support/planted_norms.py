"""What a study of norms would find, with planted effects."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.papers.norms.experiments import NormsStudy
from robsearch.papers.recipes import digits

SEEDS = 5

LAYERS = ("2", "4", "6")
"""The linear layers of an MLP with two hidden layers."""

STUDY = NormsStudy(digits(), small_eps=0.05, seeds=SEEDS)

REGULARISERS = {"l1": "norms/l1", "linf": "norms/linf", "clip": "norms/l2"}


@cache
def without_noise(seeds: int, planted: tuple[tuple[str, float], ...]) -> pd.DataFrame:
    plan, rows = dict(planted), []
    for experiment in STUDY.experiments:
        for arm in experiment.arm_names:
            regularised = arm.split()[0] in REGULARISERS
            adversarial = experiment.name != "regularised" and arm != "Standard"
            natural = 0.9 + plan.get("natural", 0.0) * regularised / 100
            row: dict[str, object] = {"experiment": experiment.name, "width": 64.0, "arm": arm}
            row["test/epoch"] = 60.0
            row |= {"test/natural_accuracy": natural, "val/natural_accuracy": natural}
            row |= {"test/robust_accuracy": 0.5 + plan.get("robust", 0.0) * regularised / 100}
            row |= {"test/lipschitz/logit_ratio/mean": 100.0}
            row |= {"lipschitz/global_bound_by_layer": 100 * 10 ** plan.get("product", 1.0)}
            for norm in REGULARISERS.values():
                targeted = regularised and REGULARISERS[arm.split()[0]] == norm
                log = plan.get("norm", 0.0) * targeted + plan.get("grown", 0.0) * adversarial
                row |= {f"layer/{norm}/{layer}/mean": 5 * math.exp(log) for layer in LAYERS}
            rows += [row | {"seed": seed, "trial": f"{arm}-{seed}"} for seed in range(seeds)]
    return pd.DataFrame(rows)


def evidence(
    random: np.random.Generator, noise: float = 0.1, seeds: int = SEEDS, **planted: float
) -> Evidence:
    """What a study would find if nothing depended on anything, but for what is planted.

    ``noise`` is the deviation over seeds: of logs of norms and Lipschitz figures; for accuracies,
    in tens of points. Planted are log ratios of the targeted norms (``norm``) and points of
    accuracy (``natural``, ``robust``) with a regulariser, log ratios of all norms with adversarial
    training (``grown``), log10 of product over local estimate (``product``).
    """
    trials = without_noise(seeds, tuple(planted.items())).copy()
    rates = [column for column in trials if "accuracy" in column]
    sizes = [column for column in trials if "/norms/" in column or "lipschitz" in column]
    trials[rates] += random.normal(0, noise / 10, (len(trials), len(rates)))
    trials[sizes] *= np.exp(random.normal(0, noise, (len(trials), len(sizes))))
    return Evidence(
        trials, trials[["experiment", "trial", "val/natural_accuracy"]].assign(epoch=60.0)
    )
