"""When a trial is stopped: only if it is clearly worse, so that what is left still shows where the optimum lies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from robsearch.recipe import Recipe


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
        self._finished: WeakKeyDictionary[optuna.Study, _Finished] = WeakKeyDictionary()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now."""
        step = trial.last_step
        if step is None or step < self.warmup:
            return False
        finished = self._finished.setdefault(study, _Finished())
        finished.see(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if len(finished.seen) < self.startup:
            return False
        return _best(trial.intermediate_values, step) < _best(finished.highest, step) - self.margin


class _Finished:
    """The upper envelope of all finished curves: they do not change any more, so each is looked at once."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.highest: defaultdict[int, float] = defaultdict(lambda: -math.inf)

    def see(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            if trial._trial_id not in self.seen and trial.intermediate_values:
                self.seen.add(trial._trial_id)
                for step, value in trial.intermediate_values.items():
                    self.highest[step] = max(self.highest[step], value)


def _best(values: Mapping[int, float], step: int) -> float:
    return max((value for at, value in values.items() if at <= step), default=-math.inf)


def default_pruner(recipe: Recipe, by_training: bool = False) -> BasePruner:
    """Stops what is 4 points worse than the best, in the last third of training, once the learning rate has dropped.

    Args:
        recipe: whose epochs and learning rate count.
        by_training: whether the pruner's steps are trainings of a suggestion, not epochs; then it may act after each.
    """
    warmup = 0 if by_training else max(math.ceil(2 * recipe.epochs / 3), first_drop(recipe) + 1)
    return MarginPruner(margin=0.04, startup=2, warmup=warmup)


def first_drop(recipe: Recipe) -> int:
    """How many epochs end before the learning rate first drops abruptly, to half or less between two epochs; else 0."""
    factors = [recipe.learning_rate(epoch / recipe.epochs) for epoch in range(recipe.epochs)]
    drops = (epoch for epoch in range(1, recipe.epochs) if factors[epoch] <= factors[epoch - 1] / 2)
    return next(drops, 0)
