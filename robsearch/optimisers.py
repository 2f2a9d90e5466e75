"""Optimisers, and learning rates as factors on their base rate over progress in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from robsearch.errors import InputError, refusal


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, over all parameters alike (BatchNorm and biases included).

    Weight decay is critical for robust accuracy and interacts with lambda: search or pin them together.

    Attributes:
        lr: the base learning rate; a learning rate over training multiplies it.
        momentum: in [0, 1).
        weight_decay: the l2 penalty's factor, added to the gradient before momentum.
        nesterov: Nesterov's momentum instead of Polyak's.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        _refuse_unless(
            (0 < self.lr < math.inf, "lr > 0", self.lr, "0.1 is usual"),
            (0 <= self.momentum < 1, "momentum in [0, 1)", self.momentum, "0.9 is usual"),
            (0 <= self.weight_decay < math.inf, "weight_decay >= 0", self.weight_decay, "5e-4 is usual"),
            (
                not self.nesterov or self.momentum > 0,
                "momentum > 0 with nesterov",
                self.momentum,
                "0.9 is usual",
            ),
        )

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of this model's parameters, without state."""
        return torch.optim.SGD(
            model.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True)
class Piecewise:
    """Constant, multiplied by ``factor`` at each of ``drops``: ``factor ** (drops reached)``.

    Attributes:
        drops: rising shares of training in [0, 1].
        factor: in (0, 1].

    Raises:
        InputError: all fields that do not fit, at once.
    """

    drops: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        rising = sorted(set(self.drops)) == list(self.drops) and all(0 <= drop <= 1 for drop in self.drops)
        _refuse_unless(
            (rising, "drops rising in [0, 1]", self.drops, "give shares of training, not epochs"),
            (0 < self.factor <= 1, "factor in (0, 1]", self.factor, "0.1 is usual"),
        )

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        return float(self.factor ** sum(drop <= progress for drop in self.drops))


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to ``final`` (arXiv 1608.03983, eq. 5, without restarts).

    Raises:
        InputError: ``final`` is not in [0, 1].
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        _refuse_unless((0 <= self.final <= 1, "final in [0, 1]", self.final, "it is a factor on the base rate"))

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Halving:
    """1 before ``start``, 1/2 from there, halved again after each ``every`` (arXiv 2010.01279).

    The defaults are the paper's: halved each epoch from the 75th of 100.

    Attributes:
        start: the share of training, in [0, 1], of the first halving.
        every: the share between halvings, in (0, 1].

    Raises:
        InputError: all fields that do not fit, at once.
    """

    start: float = 0.75
    every: float = 0.01

    def __post_init__(self) -> None:
        _refuse_unless(
            (0 <= self.start <= 1, "start in [0, 1]", self.start, "give a share of training, not an epoch"),
            (0 < self.every <= 1, "every in (0, 1]", self.every, "one epoch of 100 is 0.01"),
        )

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        if progress < self.start:
            return 1.0
        # (0.82 - 0.75) / 0.01 is 6.99...: without the margin the halving would come one step late.
        return float(0.5 ** (1 + math.floor((progress - self.start) / self.every + 1e-6)))


def _refuse_unless(*checks: tuple[bool, str, object, str]) -> None:
    problems = [refusal(expected, got, do) for fits, expected, got, do in checks if not fits]
    if problems:
        raise InputError(*problems)
