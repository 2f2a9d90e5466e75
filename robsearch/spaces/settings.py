"""How a space is searched: constraints, rungs of fidelity, how trials are shared out over the
widths, samplers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler, TPESampler

from robsearch.errors import refuse_unless

if TYPE_CHECKING:
    from robsearch.recipe import Recipe

LONGEST_NAME = 40
"""Letters of a rung's name, which is a part of trials' names, and so of folders'."""
LEAST = 3
"""Trials that every width gets, if the total allows: a peak in lambda takes three points."""


@dataclass(frozen=True)
class AtLeast:
    """A constraint: a metric of the best epoch on ``val`` is at least so high.

    Attributes:
        metric: one that the trainer reports after each epoch, such as ``val/natural_accuracy``.
        value: in the metric's unit: rates are shares, so 84 % is 0.84.

    Raises:
        InputError: a value that is not finite.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        expected = f"a finite least value of {self.metric}"
        refuse_unless((math.isfinite(self.value), expected, self.value, "such as 0.84"))

    def __str__(self) -> str:
        """With all digits: it is what a search records, and what ``resume`` compares."""
        return f"{self.metric} >= {float(self.value)!r}"

    @classmethod
    def parse(cls, text: str) -> AtLeast:
        """The constraint that a search recorded."""
        metric, _, value = text.rpartition(" >= ")
        return cls(metric, float(value))

    def shortfall(self, value: float) -> float:
        """How much is missing; 0 or less where the constraint is met (Optuna's sign)."""
        return self.value - value


@dataclass(frozen=True)
class Rung:
    """One rung of a fidelity ladder, below the full recipe (successive halving, arXiv 1502.07943).

    Each width has a study of its own for each rung, so values of different fidelity never meet in a
    sampler, a pruner or the law. When all trials of a rung have ended, the best of them are trained
    again one rung higher, from scratch, with the same parameters.

    Attributes:
        name: such as ``scout``; trials are called ``w4-scout-003``.
        change: from the full recipe to the cheap one: fewer attack steps, images or epochs. An
            importable function.
        keep: the share of this rung's trials that go on to the next, such as 0.25.

    Raises:
        InputError: a share outside (0, 1), or a name that could not be a folder's.
    """

    name: str
    change: Callable[[Recipe], Recipe]
    keep: float

    def __post_init__(self) -> None:
        letters = self.name.replace("_", "")
        refuse_unless(
            (
                letters.isalnum() and len(self.name) <= LONGEST_NAME,
                f"a rung's name of at most {LONGEST_NAME} letters, digits and '_'",
                repr(self.name),
                "such as 'scout'",
            ),
            (
                0 < self.keep < 1,
                f"a share in (0, 1) to keep of rung {self.name!r}",
                self.keep,
                "such as keep=0.25",
            ),
        )


@runtime_checkable
class Allocation(Protocol):
    """How many trials a width gets beside the others: ``Equal``, ``Weighted``, ``ByCost``."""

    @property
    def thin_first(self) -> bool:
        """Whether a width begins when the thinner ones have all that they get; else the widths take
        turns."""
        ...

    def weights(self, seconds: Mapping[float, float | None]) -> Mapping[float, float]:
        """A positive weight for each width; trials are shared out in proportion.

        Args:
            seconds: by width, thin to wide, what one training took there so far; None where none
                has ended.
        """
        ...


@dataclass(frozen=True)
class Equal:
    """As many trials at each width, in turn."""

    thin_first: bool = False

    def weights(self, seconds: Mapping[float, float | None]) -> Mapping[float, float]:
        """1 for each."""
        return dict.fromkeys(seconds, 1.0)


@dataclass(frozen=True)
class Weighted:
    """Trials in proportion to a weight.

    Attributes:
        weight: a function from a width to a positive number, such as ``lambda width: 1 / width``.
        thin_first: whether a width begins when the thinner ones have all that they get.
    """

    weight: Callable[[float], float]
    thin_first: bool = False

    def weights(self, seconds: Mapping[float, float | None]) -> Mapping[float, float]:
        """``weight`` at each width.

        Raises:
            InputError: one is not positive and finite.
        """
        weights = {width: float(self.weight(width)) for width in seconds}
        do = "correct the function"
        refuse_unless(
            *(
                (0 < weight < math.inf, f"a positive weight at width {width:g}", weight, do)
                for width, weight in weights.items()
            )
        )
        return weights


@dataclass(frozen=True)
class ByCost:
    """As many seconds of training at each width, thin widths first: wide trials are few, and chosen
    last.

    A sampler that learns across widths (``WidthSampler``) then knows every thin trial when the wide
    ones begin. Seconds are those measured in this search; before a width has any they are taken to
    grow as the measured ones do, or in proportion to width.
    """

    thin_first: bool = True

    def weights(self, seconds: Mapping[float, float | None]) -> Mapping[float, float]:
        """One over the seconds of a training."""
        measured = {width: cost for width, cost in seconds.items() if cost}
        log_width = np.log(list(measured) or [1.0])
        log_cost = np.log(list(measured.values()) or [1.0])
        growth = float(np.polyfit(log_width, log_cost, 1)[0]) if len(measured) > 1 else 1.0
        level = float(np.mean(log_cost - growth * log_width))
        weights = {}
        for width in seconds:
            cost = measured.get(width) or math.exp(level + growth * math.log(width))
            weights[width] = 1 / cost
        return weights


def apportion(total: int, weights: Mapping[float, float]) -> dict[float, int]:
    """``total`` shared out in proportion to weights, by largest remainders; each gets ``LEAST`` if
    that is possible.

    The counts add up to ``total``.
    """
    least = min(LEAST, total // len(weights))
    rest = total - least * len(weights)
    per_weight = total / sum(weights.values())
    # A width whose share is below the least gets nothing beyond it.
    beyond = {key: max(0.0, weight * per_weight - least) for key, weight in weights.items()}
    scale = sum(beyond.values())
    shares = {
        key: rest * value / scale if scale else rest / len(weights) for key, value in beyond.items()
    }
    counts = {key: least + int(share) for key, share in shares.items()}
    # int() rounded down: what is left over goes to the largest remainders.
    by_remainder = sorted(shares, key=lambda key: int(shares[key]) - shares[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def grid_size(sampler: BaseSampler | None) -> int | None:
    """How many points a grid has; None for other samplers."""
    # Optuna tells it by no public name.
    return sampler._n_min_trials if isinstance(sampler, GridSampler) else None


def fresh_sampler(sampler: BaseSampler, seed: int) -> BaseSampler:
    """A copy of a sampler whose random numbers derive from ``seed``, whatever was drawn from the
    original.

    Those of Optuna keep them in attributes of one type, also in the samplers that they fall back
    on. What a sampler seeds in another way (QMC's scrambling) it keeps.
    """
    copied = copy.deepcopy(sampler)
    for name, value in vars(copied).items():
        if isinstance(value, BaseSampler):
            setattr(copied, name, fresh_sampler(value, seed + 1))
        elif isinstance(rng := getattr(value, "rng", value), np.random.RandomState):
            rng.seed(seed)
    return copied


def contains(distribution: BaseDistribution, value: object) -> bool:
    """Whether a suggestion could have this value."""
    try:
        # Optuna has no public way to ask.
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False


def default_sampler(trials: int, seed: int) -> BaseSampler:
    """TPE that begins to model after half of the trials planned at this width, ten at most
    (Optuna's default)."""
    return TPESampler(n_startup_trials=min(10, max(3, trials // 2)), seed=seed)
