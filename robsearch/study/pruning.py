"""When a trial is stopped: only if it is clearly worse, so that what is left still shows where the
optimum lies."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from weakref import WeakKeyDictionary

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from robsearch.recipe import Recipe
from robsearch.spaces import Space
from robsearch.study.recorded import trials_of

StepsOf = Callable[[FrozenTrial], int | None]
"""How many steps a trial has in all; None where that is not known."""


class MarginPruner(BasePruner):
    """Stops a trial that is worse than the best finished one by more than a margin, at the same
    share of training.

    In a search that share is of the epochs of each trial's own recipe, which may be searched: a
    training of 60 epochs is not behind one of 6 because it has not come to its last learning rates
    yet. In any other Optuna study, and where steps are not epochs, trials are compared at the same
    step.

    Robust accuracy is flat around the best lambda and noisy between seeds, so pruning by rank (a
    median, a percentile) stops trials that are as good as the best and starves the estimate of
    lambda*. A margin well above the noise stops only what says nothing about the optimum.

    Args:
        margin: the difference in the value's unit; 0.04 is 4 points of accuracy.
        startup: finished trials before any is stopped.
        warmup: epochs before a trial is stopped; before the learning rate drops, ranks mislead.
        after: the same as a share of the epochs of the trial's recipe, where these are known.
    """

    def __init__(
        self, margin: float = 0.04, startup: int = 2, warmup: int = 0, after: float = 0.0
    ) -> None:
        self.margin = margin
        self.startup = startup
        self.warmup = warmup
        self.after = after
        self._steps_of: StepsOf = _same_step
        self._hears_of_ends = False
        self._finished: WeakKeyDictionary[optuna.Study, _FinishedCurves] = WeakKeyDictionary()

    def with_steps(self, steps_of: StepsOf) -> MarginPruner:
        """The same pruner for trials that may differ in how many steps they have in all.

        Args:
            steps_of: gives that number of a trial; None where it is not known, and such a trial is
                left alone.
        """
        # The user's own object may serve several studies, so it is left as it is.
        bound = copy.copy(self)
        bound._steps_of = steps_of
        bound._finished = WeakKeyDictionary()
        return bound

    def hearing_of_ends(self) -> MarginPruner:
        """The same pruner for a study whose only writer calls ``note_end`` for each trial that is
        told. It asks the study for its finished trials once, and not at each report."""
        bound = copy.copy(self)
        bound._hears_of_ends = True
        bound._finished = WeakKeyDictionary()
        return bound

    def note_end(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """A trial of a study has ended, in whatever state."""
        finished = self._finished.get(study)
        # Before the first look there is nothing to add to: that look reads all.
        if finished is not None and trial.state == TrialState.COMPLETE:
            finished.add(trial, self._steps_of)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now."""
        step = trial.last_step
        steps = self._steps_of(trial)
        if step is None or steps is None or step < self.warmup or step / steps < self.after:
            return False
        finished = self._curves(study)
        if finished.count < self.startup:
            return False
        reached = max(trial.intermediate_values.values())
        return reached < finished.best(step / steps) - self.margin

    def _curves(self, study: optuna.Study) -> _FinishedCurves:
        """Those of all trials of a study that have finished by now."""
        finished = self._finished.get(study)
        if finished is None or not self._hears_of_ends:
            finished = self._finished.setdefault(study, _FinishedCurves())
            for ended in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                finished.add(ended, self._steps_of)
        return finished


class _FinishedCurves:
    """The highest value of a study's finished trials at each share of training.

    Optuna lets nobody change a finished trial, so each curve is read once.
    """

    def __init__(self) -> None:
        self.count = 0
        self._read: set[int] = set()
        self._highest: dict[float, float] = {}

    def add(self, trial: FrozenTrial, steps_of: StepsOf) -> None:
        if trial.number in self._read:
            return
        self._read.add(trial.number)
        steps = steps_of(trial)
        if steps is None or not trial.intermediate_values:
            return
        self.count += 1
        for step, value in trial.intermediate_values.items():
            share = step / steps
            self._highest[share] = max(self._highest.get(share, -math.inf), value)

    def best(self, share: float) -> float:
        """Of what was reached up to a share of training."""
        reached = [value for at, value in self._highest.items() if at <= share]
        return max(reached, default=-math.inf)


def _same_step(trial: FrozenTrial) -> int | None:
    """Of trials that are compared at the same step."""
    return 1


def pruner_of(space: Space, full: Recipe, by_trial: bool) -> BasePruner:
    """The pruner of a width's study: the space's, or the default.

    Args:
        space: that is searched.
        full: one of its recipes.
        by_trial: whether the pruner's steps are trials of a suggestion, of which all have equally
            many, and not the epochs of one.
    """
    pruner = space.pruner
    if pruner is None:
        pruner = MarginPruner() if by_trial else default_pruner(full)
    if not isinstance(pruner, MarginPruner):
        return pruner
    return pruner.with_steps(unless_collapsed if by_trial else epochs_of).hearing_of_ends()


def unless_collapsed(trial: FrozenTrial) -> int | None:
    """Where steps are trials: as they are, but no measure for others where one has collapsed."""
    ended = trial.state == TrialState.COMPLETE
    if ended and any(recorded.collapsed for recorded in trials_of(trial)):
        return None
    return 1


def epochs_of(trial: FrozenTrial) -> int | None:
    """The epochs of the recipe of a suggestion that is one trial; None where they are not known.

    None too of one that has ended as a net that has collapsed: with a commonest class it has a high
    value, by which nothing sound may be judged.
    A finished trial of an older robsearch, which did not record them, counts as trained to its end.
    """
    if unless_collapsed(trial) is None:
        return None
    for recorded in trials_of(trial):
        if recorded.recipe_epochs:
            return recorded.recipe_epochs
    return trial.last_step if trial.state == TrialState.COMPLETE else None


def default_pruner(recipe: Recipe) -> MarginPruner:
    """Stops what is 4 points worse than the best, in the last third of training, once the learning
    rate has dropped.

    Args:
        recipe: whose learning rate counts.
    """
    after_drop = (first_drop(recipe) + 1) / recipe.epochs
    return MarginPruner(margin=0.04, startup=2, after=max(2 / 3, after_drop))


def first_drop(recipe: Recipe) -> int:
    """How many epochs end before the learning rate first drops abruptly, to half or less between
    two epochs; else 0.

    Of a loop of a user's own that does not use the recipe's learning rate nothing is known: 0.
    """
    if not recipe.trains_with("learning_rate"):
        return 0
    factors = [recipe.learning_rate(epoch / recipe.epochs) for epoch in range(recipe.epochs)]
    for epoch, (before, factor) in enumerate(pairwise(factors), start=1):
        if factor <= before / 2:
            return epoch
    return 0
