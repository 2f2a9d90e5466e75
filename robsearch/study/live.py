"""A suggestion that has not been told yet, and what is noted of its trainings as they begin and end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from robsearch.protocols import Metrics
from robsearch.selection import has_collapsed
from robsearch.spaces import AtLeast
from robsearch.study.trainings import TRAININGS
from robsearch.trainer import VALUE

NATURAL = "val/natural_accuracy"


@dataclass
class Live:
    """Every change is in the storage at once: a driver that takes over reads it there.

    Attributes:
        trial: Optuna's.
        trainings: the facts of those begun, in their order (see ``trainings.Training``).
        epochs: whose values the storage has.
    """

    trial: optuna.Trial
    trainings: list[dict[str, Any]]
    epochs: set[int]

    @classmethod
    def of(cls, trial: optuna.Trial, left: FrozenTrial | None = None) -> Live:
        """A new suggestion, or one that a dead driver left."""
        if left is None:
            return cls(trial, [], set())
        return cls(trial, list(left.user_attrs.get(TRAININGS, [])), set(left.intermediate_values))

    @property
    def begun(self) -> dict[str, Any] | None:
        """The training that was begun and has not ended."""
        return self.trainings[-1] if self.trainings and self.trainings[-1]["state"] == "RUNNING" else None

    def begin(self, **facts: Any) -> None:
        """Notes a training that begins."""
        self.trainings.append({**facts, "state": "RUNNING"})
        self._remember()

    def know(self, **facts: Any) -> None:
        """Facts of the training that was begun, where an older robsearch had not noted them."""
        self.trainings[-1] |= facts
        self._remember()

    def end(
        self,
        state: str,
        best: Metrics,
        last: Metrics,
        metrics: Sequence[str],
        goals: Sequence[AtLeast],
        spent: Mapping[str, float],
    ) -> None:
        """Notes how the training ended and what it took, with ``metrics`` and those of the goals at its best epoch."""
        facts: dict[str, Any] = {"state": state, "best_epoch": int(best["epoch"]), "epochs": int(last["epoch"])}
        facts |= {"lam": last["train/lam"], "seconds": 0.0, **spent}
        facts |= {name: best[name] for name in {VALUE, *metrics, *(goal.metric for goal in goals)}}
        facts["feasible"] = all(goal.shortfall(best[goal.metric]) <= 0 for goal in goals)
        if NATURAL in best:
            facts[NATURAL] = best[NATURAL]
        facts["collapsed"] = has_collapsed(best.get(NATURAL, math.nan), self.trainings[-1]["commonest"])
        self.trainings[-1] |= facts
        self._remember()

    def fail(self, reason: str, spent: Mapping[str, float]) -> None:
        """Notes that the training failed, and what it took."""
        self.trainings[-1] |= {"state": "FAIL", "reason": reason, **spent}
        self._remember()

    def mean(self, metric: str) -> float:
        """Of a metric over the trainings that are complete."""
        done = [each[metric] for each in self.trainings if each["state"] == "COMPLETE"]
        return float(sum(done) / len(done))

    def constrain(self, goals: Sequence[AtLeast]) -> None:
        """Tells the sampler by how much each constraint is missed, on average."""
        for goal in goals:
            self.trial.set_constraint(goal.metric, goal.shortfall(self.mean(goal.metric)))

    def _remember(self) -> None:
        self.trial.set_user_attr(TRAININGS, [dict(each) for each in self.trainings])
