"""When a trial is stopped: only if it is clearly worse, so that what is left still shows where the optimum lies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from weakref import WeakKeyDictionary

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
            if trial._trial_id not in self.seen:
                self.seen.add(trial._trial_id)
                for step, value in trial.intermediate_values.items():
                    self.highest[step] = max(self.highest[step], value)


def _best(values: Mapping[int, float], step: int) -> float:
    return max((value for at, value in values.items() if at <= step), default=-math.inf)
