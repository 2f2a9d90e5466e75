"""WAR under wrong labels with one constant at a time another: which of them its result hangs on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from robsearch.claims.experiment import Findings, of_replicate
from robsearch.claims.images import points_apart
from robsearch.papers.war.choices import TRAINING, best_on_val, ratios_of
from robsearch.papers.war.claims import LAST, loss_ratio
from robsearch.papers.war.tables import percent
from robsearch.papers.war.transfer import Ratios, window_mean
from robsearch.papers.war.ways import DYNAMIC, WAYS
from robsearch.parts.schedules import WAR

VARIANTS = "variants"
PAPER = "paper's form"
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "held for 15 %": {"hold": 0.15},
    "gain of 8 per training": {"alpha": 8.0, "alpha_per": "progress"},
    "held, gain of 8": {"hold": 0.15, "alpha": 8.0, "alpha_per": "progress"},
    "target in logs": {"interpolation": "log"},
    "no averaging": {"ema": 0.0},
    "not frozen": {"freeze_at": 1.0},
}
"""What each differs in from WAR as it is: a gain of 0.1 per step, averages over ten steps, frozen
at the learning rate's first drop."""
ARMS = (*CHANGES, PAPER)
TRACKED = (0.1, 0.75)
"""The share of training in which the ratio is compared with its target: in the first tenth no
lambda brings it there, and at the learning rate's drop lambda is frozen."""


def war(target: Ratios, lam: float, variant: str = "") -> WAR:
    """WAR as it is compared with other ways, or one of its variants.

    Args:
        target: the thin net's ratio over training.
        lam: the thin net's lambda.
        variant: out of ``ARMS``. The paper's form keeps the thin net's mean ratio in ``WINDOW``, at
            a gain of 0.01, from lambda 0.
    """
    if variant == PAPER:
        constant = math.exp(window_mean(target))
        return WAR(target=constant, form="paper", alpha=0.01, freeze_at="first_drop")
    settings: dict[str, Any] = {"freeze_at": "first_drop", **CHANGES.get(variant, {})}
    return WAR(target=target, lam_init=lam, **settings)


def variants_table(findings: Findings, thin: float) -> pd.DataFrame:
    """One row per variant: what it reached less WAR as it is, paired by replicate, and how far the
    ratio was from its target."""
    of_war = findings[WAYS].trials
    variants = findings[VARIANTS].trials
    # Replicates differ by more than variants do, so all rows are of the same ones.
    shared = of_war["seed"].isin(variants["seed"])
    as_it_is = of_war[(of_war["arm"] == DYNAMIC) & shared]
    trials = pd.concat([as_it_is, variants])
    epochs = pd.concat([findings[WAYS].epochs, findings[VARIANTS].epochs])
    distances = distances_to_target(findings, epochs, thin)
    rows = []
    for arm, of_arm in trials.groupby("arm", sort=False):
        difference = ""
        if arm != DYNAMIC:
            difference = points_apart(trials, LAST, str(arm), DYNAMIC).text()
        distance = distances.reindex(pd.MultiIndex.from_frame(of_arm[TRAINING])).mean()
        rows.append(
            {
                "WAR": "as it is" if arm == DYNAMIC else arm,
                "final lambda": f"{of_arm['lam'].median():.3g}",
                "robust": percent(of_arm[LAST]),
                "less WAR as it is": difference,
                "distance to target (in logs)": f"{distance:.3g}",
                "seeds": len(of_arm),
            }
        )
    return pd.DataFrame(rows)


def distances_to_target(findings: Findings, epochs: pd.DataFrame, thin: float) -> pd.Series:
    """By training, the mean over ``TRACKED`` of the distance in logs between its ratio and the thin
    net's in the same replicate."""
    distances = {}
    start, end = TRACKED
    epochs = epochs[(epochs["progress"] > start) & (epochs["progress"] <= end)]
    for (replicate, *training), of_trial in epochs.groupby(["seed", *TRAINING]):
        found_there = of_replicate(findings, int(str(replicate)))
        target = ratios_of(found_there, thin, best_on_val(found_there, thin))
        progress, ratio = np.array(target).T
        wanted = np.interp(of_trial["progress"], progress, np.log(ratio))
        distances[tuple(training)] = float(np.abs(np.log(loss_ratio(of_trial)) - wanted).mean())
    return pd.Series(distances)
