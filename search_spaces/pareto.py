"""What does robustness cost? The front of natural accuracy, robust accuracy and stability at each
width."""

import optuna

from robsearch import Recipe, space
from search_spaces.quickstart import recipe

GOALS = ("val/robust_accuracy", "val/natural_accuracy", "val/stability")


@space(widths=(16, 64), maximise=GOALS, sampler=optuna.samplers.TPESampler(n_startup_trials=4))
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width; no trial is pruned, and the report shows the front."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))
