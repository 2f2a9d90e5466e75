"""Spaces that are searched in other than the default way, for tests. Workers import this module."""

import dataclasses

import optuna
from small_spaces import learning, standard

from robsearch import AtLeast, Recipe, Rung, space


def cheap(full: Recipe) -> Recipe:
    return dataclasses.replace(full, epochs=1)


@space(
    widths=(4, 8),
    controls=(standard,),
    replicates=2,
    subject_to=(AtLeast("val/natural_accuracy", 0.05),),
    fidelity=(Rung("scout", cheap, keep=0.5),),
    start_with=({"lam": 6.0},),
)
def at_once(trial: optuna.Trial, width: float) -> Recipe:
    """Rungs, seeds, a constraint and a first point in one search."""
    return learning(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


@space(widths=(4, 8), per_trial="all", maximise=("val/robust_accuracy", "val/natural_accuracy"))
def front(trial: optuna.Trial, width: float) -> Recipe:
    """Two metrics, every suggestion at both widths."""
    return learning(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


@space(widths=(4, 8), learn_from=("first", "table.csv"))
def taught(trial: optuna.Trial, width: float) -> Recipe:
    """Knows another search and a table from the start."""
    return learning(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


@space(widths=(4, 8), replicates=2, fidelity=(Rung("scout", cheap, keep=0.5),))
def slow_seeds(trial: optuna.Trial, width: float) -> Recipe:
    """Long enough to be killed between two seeds of a suggestion."""
    return learning(width, trial.suggest_float("lam", 0.5, 32.0, log=True), epochs=250)
