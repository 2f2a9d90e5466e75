"""Optimisers, and learning rates as factors on their base rate over progress in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robsearch.errors import number, refuse_unless


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, over all parameters.

    Weight decay is critical for robust accuracy and interacts with lambda: search or pin them together.

    Attributes:
        lr: the base learning rate; a learning rate over training multiplies it.
        momentum: in [0, 1).
        weight_decay: the l2 penalty's factor, added to the gradient before momentum.
        nesterov: Nesterov's momentum instead of Polyak's.
        decay_norms: weight decay for all parameters alike; False spares those with one dimension, which are
            BatchNorm's and the biases.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    decay_norms: bool = True

    def __post_init__(self) -> None:
        refuse_unless(
            number("lr", self.lr, "> 0", "0.1 is usual"),
            number("momentum", self.momentum, "in [0, 1)", "0.9 is usual"),
            number("weight_decay", self.weight_decay, ">= 0", "5e-4 is usual"),
            (
                not self.nesterov or self.momentum > 0,
                "momentum > 0 with nesterov",
                self.momentum,
                "0.9 is usual",
            ),
        )

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of this model's parameters, without state."""
        parameters = list(model.parameters())
        decayed = [p for p in parameters if self.decay_norms or p.ndim > 1]
        spared = [p for p in parameters if not (self.decay_norms or p.ndim > 1)]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
        return torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True)
class Piecewise:
    """Constant, multiplied by ``factor`` at each of ``drops``: ``factor ** (drops reached)``.

    TRADES' own schedule (arXiv 1901.08573) is ``drops=(0.75, 0.9)``.

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
        refuse_unless(
            (rising, "drops rising in [0, 1]", self.drops, "give shares of training, not epochs"),
            number("factor", self.factor, "in (0, 1]", "0.1 is usual"),
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
        refuse_unless(number("final", self.final, "in [0, 1]", "it is a factor on the base rate"))

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class OneCycle:
    """Up and down once (arXiv 1708.07120): linear from ``start`` to 1 at ``peak`` of training, then to ``final``.

    The optimiser's base rate is the highest one.

    Raises:
        InputError: ``peak`` outside (0, 1), ``start`` or ``final`` outside [0, 1].
    """

    peak: float = 0.4
    start: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        refuse_unless(
            number("peak", self.peak, "in (0, 1)", "give a share of training, not an epoch"),
            number("start", self.start, "in [0, 1]", "it is a factor on the base rate"),
            number("final", self.final, "in [0, 1]", "it is a factor on the base rate"),
        )

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        if progress < self.peak:
            return self.start + (1 - self.start) * progress / self.peak
        return 1 - (1 - self.final) * (progress - self.peak) / (1 - self.peak)


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
        refuse_unless(
            number("start", self.start, "in [0, 1]", "give a share of training, not an epoch"),
            number("every", self.every, "in (0, 1]", "one epoch of 100 is 0.01"),
        )

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        if progress < self.start:
            return 1.0
        # (0.82 - 0.75) / 0.01 is 6.99...: without the margin the halving would come one step late.
        return float(0.5 ** (1 + math.floor((progress - self.start) / self.every + 1e-6)))
