"""Optimisers, and learning rates as factors on their base rate over progress in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn

from robsearch.errors import number, refuse_unless, share
from robsearch.identity import LATER, sparse_repr

LR_FACTOR = "lr_factor"
"""In a parameter group of a torch optimiser: the factor on the learning rate of its weights."""


class LrFactors(NamedTuple):
    """Factors on the learning rate of one parameter.

    A network may have an attribute ``lr_factors`` that maps the names of its parameters, as
    ``named_parameters`` gives them, to these; a parameter that it leaves out has 1.

    Attributes:
        sgd: for SGD, whose steps grow with the gradient.
        adam: for Adam and AdamW, whose steps do not.
    """

    sgd: float = 1.0
    adam: float = 1.0


def parameter_groups(
    model: nn.Module,
    rule: Literal["sgd", "adam"],
    lr: float,
    weight_decay: float,
    decay_norms: bool,
) -> list[dict[str, Any]]:
    """Groups of a network's parameters for a torch optimiser, by weight decay and by the learning
    rate's factor (``LrFactors``).

    A group with a factor f has the rate ``lr * f``, and weight decay over f, so that a step of SGD
    or AdamW takes the same share of every weight whatever the factor is, as the package ``mup``
    does.

    Args:
        model: whose parameters; all of them are in one of the groups.
        rule: which of the factors holds.
        lr: the base learning rate.
        weight_decay: of a group whose factor is 1.
        decay_norms: whether parameters with one dimension, BatchNorm's and the biases, decay too.
    """
    factors: Mapping[str, LrFactors] = getattr(model, "lr_factors", {})
    decayed: dict[float, list[nn.Parameter]] = {}
    spared: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        by_factor = decayed if decay_norms or parameter.ndim > 1 else spared
        factor = getattr(factors.get(name, LrFactors()), rule)
        by_factor.setdefault(factor, []).append(parameter)
    groups = []
    for by_factor, decay in ((decayed, weight_decay), (spared, 0.0)):
        for factor, parameters in by_factor.items():
            group = {"params": parameters, "lr": lr * factor, "weight_decay": decay / factor}
            if factor != 1:
                group[LR_FACTOR] = factor
            groups.append(group)
    return groups


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, over all parameters.

    Weight decay is critical for robust accuracy and interacts with lambda: search or pin them
    together.

    Attributes:
        lr: the base learning rate; a learning rate over training multiplies it.
        momentum: in [0, 1).
        weight_decay: the l2 penalty's factor, added to the gradient before momentum.
        nesterov: Nesterov's momentum instead of Polyak's.
        decay_norms: weight decay for all parameters alike; False spares those with one dimension,
            which are BatchNorm's and the biases.

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
            number("lr", self.lr, "0.1 is usual", above=0),
            number("momentum", self.momentum, "0.9 is usual", at_least=0, below=1),
            number("weight_decay", self.weight_decay, "5e-4 is usual", at_least=0),
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
            parameter_groups(model, "sgd", self.lr, self.weight_decay, self.decay_norms),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True)
class _Adaptive:
    """What Adam and AdamW share: torch's class is all that differs in how they are made."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_norms: bool = True

    TORCH: ClassVar[type[torch.optim.Adam | torch.optim.AdamW]]

    def __post_init__(self) -> None:
        pair = isinstance(self.betas, tuple) and len(self.betas) == 2
        fits = pair and all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in self.betas)
        refuse_unless(
            number("lr", self.lr, "1e-3 is usual", above=0),
            (fits, "betas as two numbers in [0, 1)", self.betas, "(0.9, 0.999) is usual"),
            number("eps", self.eps, "1e-8 is usual", above=0),
            number("weight_decay", self.weight_decay, "0.01 is usual", at_least=0),
        )

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of this model's parameters, without state."""
        return self.TORCH(
            parameter_groups(model, "adam", self.lr, self.weight_decay, self.decay_norms),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class Adam(_Adaptive):
    """Adam (arXiv 1412.6980, algorithm 1), over all parameters.

    Its steps do not grow with the loss, so lambda changes their direction and not their length.

    Attributes:
        lr: the base learning rate; a learning rate over training multiplies it.
        betas: the weights of the past in the averages of the gradient and of its square, each in
            [0, 1).
        eps: added to the root of the second average.
        weight_decay: the l2 penalty's factor, added to the gradient before both averages.
        decay_norms: weight decay for all parameters alike; False spares those with one dimension,
            which are BatchNorm's and the biases.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    TORCH: ClassVar[type[torch.optim.Adam | torch.optim.AdamW]] = torch.optim.Adam


@dataclass(frozen=True)
class AdamW(_Adaptive):
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2), over all parameters.

    Attributes:
        lr, betas, eps, decay_norms: as of ``Adam``.
        weight_decay: each step takes ``learning rate * weight_decay`` of every weight, as torch has
            it; the gradient does not see it.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    weight_decay: float = 0.01

    TORCH: ClassVar[type[torch.optim.Adam | torch.optim.AdamW]] = torch.optim.AdamW


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
        rising = sorted(set(self.drops)) == list(self.drops)
        fits = rising and all(0 <= drop <= 1 for drop in self.drops)
        refuse_unless(
            (fits, "drops rising in [0, 1]", self.drops, "give shares of training, not epochs"),
            number("factor", self.factor, "0.1 is usual", above=0, at_most=1),
        )

    @property
    def first_drop(self) -> float | None:
        """The share of training of the first drop, or None without one."""
        return min(self.drops, default=None) if self.factor < 1 else None

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        reached = sum(drop <= progress for drop in self.drops)
        return float(self.factor**reached)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to ``final`` (arXiv 1608.03983, eq. 5, without restarts), after a linear
    rise from 0 over the share ``warmup`` of training, as transformers need it (arXiv 1706.03762).

    Raises:
        InputError: ``final`` is not in [0, 1], or ``warmup`` not in [0, 1).
    """

    final: float = 0.0
    warmup: float = field(default=0.0, metadata=LATER)

    __repr__ = sparse_repr

    def __post_init__(self) -> None:
        do = "give a share of training, such as 0.05, not an epoch"
        refuse_unless(
            share("final", self.final, "it is a factor on the base rate"),
            number("warmup", self.warmup, do, at_least=0, below=1),
        )

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        if progress < self.warmup:
            return progress / self.warmup
        progress = (progress - self.warmup) / (1 - self.warmup)
        wave = 1 + math.cos(math.pi * progress)
        return self.final + (1 - self.final) * wave / 2


@dataclass(frozen=True)
class OneCycle:
    """Up and down once (arXiv 1708.07120): linear from ``start`` to 1 at ``peak`` of training, then
    to ``final``.

    The optimiser's base rate is the highest one.

    Raises:
        InputError: ``peak`` outside (0, 1), ``start`` or ``final`` outside [0, 1].
    """

    peak: float = 0.4
    start: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        refuse_unless(
            number("peak", self.peak, "give a share of training, not an epoch", above=0, below=1),
            share("start", self.start, "it is a factor on the base rate"),
            share("final", self.final, "it is a factor on the base rate"),
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
            share("start", self.start, "give a share of training, not an epoch"),
            number("every", self.every, "one epoch of 100 is 0.01", above=0, at_most=1),
        )

    @property
    def first_drop(self) -> float:
        """The share of training of the first halving."""
        return self.start

    def __call__(self, progress: float) -> float:
        """The factor on the base rate."""
        if progress < self.start:
            return 1.0
        # (0.82 - 0.75) / 0.01 is 6.99...: without the margin the halving would come one step late.
        whole_steps = math.floor((progress - self.start) / self.every + 1e-6)
        return float(0.5 ** (1 + whole_steps))
