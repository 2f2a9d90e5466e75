"""When a trial is stopped: only if it is clearly worse, so that what is left still shows where the optimum lies."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from weakref import WeakKeyDictionary

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from robsearch.recipe import Recipe
from robsearch.spaces import Space
from robsearch.study.trainings import trainings_of


class MarginPruner(BasePruner):
    """Stops a trial that is worse than the best finished one by more than a margin, at the same share of training.

    In a search that share is of the epochs of each trial's own recipe, which may be searched: a training of 60 epochs
    is not behind one of 6 because it has not come to its last learning rates yet. In any other Optuna study, and where
    steps are not epochs, trials are compared at the same step.

    Robust accuracy is flat around the best lambda and noisy between seeds, so pruning by rank (a median, a
    percentile) stops trials that are as good as the best and starves the estimate of lambda*. A margin well
    above the noise stops only what says nothing about the optimum.

    Args:
        margin: the difference in the value's unit; 0.04 is 4 points of accuracy.
        startup: finished trials before any is stopped.
        warmup: epochs before a trial is stopped; before the learning rate drops, ranks mislead.
        after: the same as a share of the epochs of the trial's recipe, where these are known.
    """

    def __init__(self, margin: float = 0.04, startup: int = 2, warmup: int = 0, after: float = 0.0) -> None:
        self.margin, self.startup, self.warmup, self.after = margin, startup, warmup, after
        self._finished: WeakKeyDictionary[optuna.Study, _Finished] = WeakKeyDictionary()
        self._steps_of: Callable[[FrozenTrial], int | None] = _one

    def with_steps(self, steps_of: Callable[[FrozenTrial], int | None]) -> MarginPruner:
        """The same pruner for trials that may differ in how many steps they have in all.

        Args:
            steps_of: gives that number of a trial; None where it is not known, and such a trial is left alone.
        """
        bound = copy.copy(self)
        bound._steps_of = steps_of
        return bound

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now."""
        step, steps = trial.last_step, self._steps_of(trial)
        if step is None or steps is None or step < self.warmup or step / steps < self.after:
            return False
        finished = self._finished.setdefault(study, _Finished())
        finished.see(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), self._steps_of)
        if len(finished.seen) < self.startup:
            return False
        return max(trial.intermediate_values.values()) < finished.best(step / steps) - self.margin


def _one(trial: FrozenTrial) -> int | None:
    """Of trials that are compared at the same step."""
    return 1


class _Finished:
    """The upper envelope of all finished curves: they do not change any more, so each is looked at once."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.highest: defaultdict[float, float] = defaultdict(lambda: -math.inf)
        """By share of training."""

    def see(self, trials: list[FrozenTrial], steps_of: Callable[[FrozenTrial], int | None]) -> None:
        for trial in trials:
            steps = steps_of(trial) if trial._trial_id not in self.seen and trial.intermediate_values else None
            if steps is not None:
                self.seen.add(trial._trial_id)
                for step, value in trial.intermediate_values.items():
                    self.highest[step / steps] = max(self.highest[step / steps], value)

    def best(self, share: float) -> float:
        return max((value for at, value in self.highest.items() if at <= share), default=-math.inf)


def pruner_of(space: Space, full: Recipe, by_training: bool) -> BasePruner:
    """The pruner of a width's study: the space's, or the default.

    Args:
        space: that is searched.
        full: one of its recipes.
        by_training: whether the pruner's steps are trainings of a suggestion, of which all have equally many.
    """
    pruner = space.pruner or (MarginPruner() if by_training else default_pruner(full))
    steps_of = trainings_seen if by_training else epochs_of
    return pruner.with_steps(steps_of) if isinstance(pruner, MarginPruner) else pruner


def trainings_seen(trial: FrozenTrial) -> int | None:
    """Where steps are trainings: as they are, but no measure for others where one has collapsed."""
    return None if _collapsed(trial) else 1


def epochs_of(trial: FrozenTrial) -> int | None:
    """The epochs of the recipe of a suggestion that is one training; None where they are not known.

    None too of one that has ended as a net that has collapsed: with a commonest class it has a high value, by which
    nothing sound may be judged.
    A finished trial of an older robsearch, which did not record them, counts as trained to its end.
    """
    if _collapsed(trial):
        return None
    for training in trainings_of(trial):
        if "recipe_epochs" in training.facts:
            return int(training.facts["recipe_epochs"])
    return trial.last_step if trial.state == TrialState.COMPLETE else None


def _collapsed(trial: FrozenTrial) -> bool:
    ended = trial.state == TrialState.COMPLETE
    return ended and any(training.facts.get("collapsed") for training in trainings_of(trial))


def default_pruner(recipe: Recipe) -> MarginPruner:
    """Stops what is 4 points worse than the best, in the last third of training, once the learning rate has dropped.

    Args:
        recipe: whose learning rate counts.
    """
    return MarginPruner(margin=0.04, startup=2, after=max(2 / 3, (first_drop(recipe) + 1) / recipe.epochs))


def first_drop(recipe: Recipe) -> int:
    """How many epochs end before the learning rate first drops abruptly, to half or less between two epochs; else 0."""
    factors = [recipe.learning_rate(epoch / recipe.epochs) for epoch in range(recipe.epochs)]
    drops = (epoch for epoch in range(1, recipe.epochs) if factors[epoch] <= factors[epoch - 1] / 2)
    return next(drops, 0)
