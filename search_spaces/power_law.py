"""Which law joins lambda to width? The law itself is searched: each suggestion is trained at every
width."""

import optuna

from robsearch import PowerLaw, Recipe, space
from search_spaces.quickstart import recipe


@space(widths=(16, 32, 64), per_trial="all")
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """``lam = base * (width / 16) ** exponent``; the value of (base, exponent) is the mean over the
    widths."""
    base = trial.suggest_float("base", 1.0, 16.0, log=True)
    law = PowerLaw(base, trial.suggest_float("exponent", -0.5, 1.0))
    return recipe(width, lam=law(width / 16))
