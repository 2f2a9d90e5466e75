"""Few wide trainings, well chosen: each width's sampler borrows what the others found, and thin
ones go first."""

import optuna

from robsearch import ByCost, Recipe, WidthSampler, space
from search_spaces.quickstart import recipe


@space(widths=(16, 32, 64, 128), sampler=WidthSampler(), allocation=ByCost())
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width, as many seconds of training at each."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))
