"""Cheap trainings choose what is trained in full: a third of the epochs, a weak attack, a quarter of them goes on."""

from dataclasses import replace

import optuna

from robsearch import PGD, Recipe, Rung, space
from search_spaces.quickstart import recipe


def cheaper(full: Recipe) -> Recipe:
    """Twenty epochs instead of sixty, two attack steps instead of ten."""
    return replace(full, epochs=20, attack=PGD(eps=0.15, step_size=0.15, steps=2, start="gaussian"))


@space(widths=(16, 64), fidelity=(Rung("scout", cheaper, keep=0.25),))
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width; scouts are trials of their own and never enter the law."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))
