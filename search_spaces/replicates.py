"""How much of a difference is luck? Every lambda of a grid is trained with three seeds."""

import optuna

from robsearch import Recipe, space
from search_spaces.quickstart import recipe

LAMS = [1.0, 2.0, 4.0, 8.0, 16.0]


@space(widths=(16, 64), replicates=3, sampler=optuna.samplers.GridSampler({"lam": LAMS}))
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """A suggestion's value is the mean of its seeds; a poor one is given up after its first."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))
