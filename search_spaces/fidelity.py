"""Cheap trainings choose what is trained in full: a third of the epochs, a weak attack, a quarter
of them goes on."""

from dataclasses import replace

import optuna

from robsearch import PGD, Recipe, Rung, space
from search_spaces.quickstart import recipe


def cheaper(full: Recipe) -> Recipe:
    """Twenty epochs instead of sixty, trained with two attack steps instead of ten; judged as the
    full recipe is."""
    attack = PGD(eps=0.15, step_size=0.15, steps=2, start="gaussian")
    judge, last_judge = full.resolved_eval_attack, full.resolved_test_attack
    return replace(full, epochs=20, attack=attack, eval_attack=judge, test_attack=last_judge)


@space(widths=(16, 64), fidelity=(Rung("scout", cheaper, keep=0.25),))
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width; scouts are trials of their own and never enter the law."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))
