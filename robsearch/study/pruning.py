"""When a trial is stopped: only if it is clearly worse, so that what is left still shows where the optimum lies."""

from __future__ import annotations

import math

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState


class MarginPruner(BasePruner):
    """Stops a trial that is worse than the best finished one by more than a margin, at the same epoch.

    Robust accuracy is flat around the best lambda and noisy between seeds, so pruning by rank (a median, a
    percentile) stops trials that are as good as the best and starves the estimate of lambda*. A margin well
    above the noise stops only what says nothing about the optimum.

    Args:
        margin: the difference in the value's unit; 0.04 is 4 points of accuracy.
        startup: finished trials before any is stopped.
        warmup: epochs before a trial is stopped; before the learning rate drops, ranks mislead.
    """

    def __init__(self, margin: float = 0.04, startup: int = 2, warmup: int = 0) -> None:
        self.margin, self.startup, self.warmup = margin, startup, warmup

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now."""
        step = trial.last_step
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if step is None or step < self.warmup or len(finished) < self.startup:
            return False
        return _best(trial, step) < max(_best(other, step) for other in finished) - self.margin


def _best(trial: FrozenTrial, step: int) -> float:
    return max((value for at, value in trial.intermediate_values.items() if at <= step), default=-math.inf)
