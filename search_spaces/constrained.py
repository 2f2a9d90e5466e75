"""As robust as possible, as long as natural accuracy does not fall below 90 %."""

import optuna

from robsearch import AtLeast, Recipe, space
from search_spaces.quickstart import recipe


@space(widths=(16, 64), subject_to=(AtLeast("val/natural_accuracy", 0.90),))
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width; the best trial is the most robust of those that meet the
    constraint."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))
