"""How the study under wrong labels chooses lambda: from what one replicate found, on ``val`` after
the last epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.claims.experiment import Findings
from robsearch.errors import InputError, refused
from robsearch.papers.war.claims import GRID, best_of_complete, lam_by_law, loss_ratio
from robsearch.papers.war.transfer import Probe, Ratios, lam_at, window_mean
from robsearch.trials.selection import sound

SECOND = 3.0
"""The second lambda that is tried at a wide net, as a factor on the thin net's."""
VAL = "val/robust_accuracy"
ON_VAL = "on_val"
TRAINING = ["experiment", "trial"]
"""What names a training among those of several experiments: their trials have the same names."""


def with_val(evidence: Evidence) -> pd.DataFrame:
    """The trials with ``on_val``, their robust accuracy on ``val`` after the last epoch."""
    trials, epochs = evidence
    last = epochs.sort_values("epoch").groupby(TRAINING).tail(1)
    on_val = last.set_index(TRAINING)[VAL].astype(float).rename(ON_VAL)
    return trials.join(on_val, on=TRAINING)


def best_on_val(findings: Findings, width: float) -> float:
    """The lambda of the grid that is best on ``val`` after the last epoch, mean over the seeds
    there are: what a search of that width returns. Trainings that collapsed are left out.

    Raises:
        InputError: all trainings of the width collapsed.
    """
    trials = sound(with_val(findings[GRID]))
    trials = trials[(trials["width"] == width) & trials[ON_VAL].notna()]
    if trials.empty:
        expected = f"a training of width {width:g} that has not collapsed"
        raise refused(expected, "none", "pass smaller lambdas, or a recipe that trains")
    return float(best_of_complete(trials, "lam", ON_VAL))


def chosen_on_val(trials: pd.DataFrame, cell: Sequence[str], by: str) -> pd.DataFrame:
    """Of each cell of a grid the trainings of the setting that is best on ``val``, mean over seeds.

    Args:
        trials: with ``ON_VAL``; those that collapsed are out.
        cell: the columns that name a cell, such as width and lambda.
        by: the column that names the setting.
    """
    chosen: list[pd.DataFrame] = []
    for _, of_cell in trials.groupby(list(cell)):
        best = best_of_complete(of_cell, by, ON_VAL)
        chosen.append(of_cell[of_cell[by] == best])
    return pd.concat(chosen) if chosen else trials


def second_lam(lam: float, lams: Sequence[float]) -> float:
    """The lambda of the grid nearest to ``SECOND`` times another, on a log scale."""
    wanted = math.log(SECOND * lam)
    return min(lams, key=lambda each: abs(math.log(each) - wanted))


def ratios_of(findings: Findings, width: float, lam: float) -> Ratios:
    """(progress, ratio) of the losses of a net of the grid, geometric mean over the seeds there
    are."""
    epochs = findings[GRID].epochs
    epochs = epochs[(epochs["width"] == width) & np.isclose(epochs["train/lam"], lam)]
    logs = np.log(loss_ratio(epochs))
    means = np.exp(logs.groupby(epochs["progress"]).mean())
    return tuple((float(progress), float(ratio)) for progress, ratio in means.items())


def static_lam(
    findings: Findings,
    thin: float,
    wide: float,
    lams: Sequence[float],
) -> float:
    """Static WAR: the constant lambda at which the wide net has the thin net's ratio.

    It is on the line through two probes of the wide net, at the thin net's lambda and at about
    three times that. A probe is the first half of a training; those of the grid are the same
    trainings. Where two probes do not show a ratio that rises with lambda, or it is reached far
    beyond them, it is the larger of the two lambdas.
    """
    lam = best_on_val(findings, thin)
    target = window_mean(ratios_of(findings, thin, lam))
    probed = lam, second_lam(lam, lams)
    probes = [Probe(each, window_mean(ratios_of(findings, wide, each))) for each in probed]
    try:
        return lam_at(probes, target)
    except InputError:  # such as a ratio that falls
        return max(probed)


def law_lam(
    findings: Findings,
    experiments: Sequence[str],
    wide: float,
    lams: Sequence[float],
) -> float:
    """A power law's lambda at the wide net, from all trainings of thinner nets in these
    experiments, within the grid's range."""
    trials = sound(pd.concat([with_val(findings[experiment]) for experiment in experiments]))
    thinner = trials[(trials["width"] < wide) & trials[ON_VAL].notna()]
    return lam_by_law(thinner, ON_VAL, wide, lams)
