"""Projected gradient ascent, and the fast gradient sign method that it generalises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robsearch.errors import count, one_of, refuse_unless
from robsearch.network.balls import Norm, box, norm_condition, radius_condition
from robsearch.network.draws import normal_like, shares_like, uniform_like
from robsearch.network.modes import evaluating
from robsearch.protocols import Images, Labels, Loss, PerExample

GAUSSIAN_START = 0.001
"""Standard deviation of TRADES' start, in pixel units (arXiv 1901.08573, algorithm 1)."""


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent (arXiv 1706.06083):
    ``x' <- project(x' + step_size * direction(gradient))``.

    The direction is the gradient's sign (linf), or the gradient over its l2 norm per image (l2).
    The last iterate counts, not the best one on the way; with ``restarts > 1`` each image keeps the
    last iterate of highest loss.

    Attributes:
        eps: the ball's radius in pixel units, such as ``8 / 255``; 0 gives ``x`` back.
        step_size: the length of one step, in the same units and norm.
        steps: gradient steps; 0 gives the start.
        norm: the ball, ``linf`` or ``l2`` (per image, over all its pixels).
        start: ``uniform`` in the ball; ``gaussian`` is ``x + 0.001 N(0, 1)``, projected (TRADES,
            arXiv 1901.08573); ``none`` is ``x``, where the KL to the clean prediction has no
            gradient.
        restarts: independent runs from random starts.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10
    norm: Norm = "linf"
    start: Literal["uniform", "gaussian", "none"] = "uniform"
    restarts: int = 1

    def __post_init__(self) -> None:
        # 0 is refused by the condition on restarts itself.
        runs_fit = self.start != "none" or self.restarts in (0, 1)
        do = "leave it at 1" if self.start == "none" else "pass 1 or more"
        refuse_unless(
            radius_condition("eps", self.eps, self.norm, or_zero=True),
            radius_condition("step_size", self.step_size, self.norm),
            count("steps", self.steps, "pass 0 for the start alone", least=0),
            norm_condition(self.norm),
            one_of("start", self.start, "uniform", "gaussian", "none"),
            count("restarts", self.restarts, do),
            (runs_fit, "a random start for restarts", "'none'", do),
        )

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Loss,
    ) -> Images:
        """Images of the shape of ``x``, inside the ball and [0, 1], detached.

        Args:
            model: images in [0, 1] to logits; in eval mode meanwhile.
            x: images in [0, 1].
            y: unused, for the loss knows its labels.
            loss: logits to one number per image, to be maximised.
        """
        x = x.detach()
        if self.eps == 0:
            return x.clone()
        with evaluating(model):
            adv = self._run(model, x, loss)
            if self.restarts == 1:
                return adv
            highest = _values(model, adv, loss)
            for _ in range(1, self.restarts):
                other = self._run(model, x, loss)
                values = _values(model, other, loss)
                is_higher = values > highest
                adv = torch.where(is_higher[:, None, None, None], other, adv)
                highest = torch.where(is_higher, values, highest)
        return adv

    def _run(
        self,
        model: nn.Module,
        x: Images,
        loss: Loss,
    ) -> Images:
        inside = self.projection(x)
        adv = inside(self.start_in(x))
        for _ in range(self.steps):
            step = self.direction(_gradient(model, adv, loss))
            adv = inside(adv.add_(step, alpha=self.step_size))
        return adv

    @property
    def as_pgd(self) -> PGD:
        """The attack itself: see ``standing_pgd``."""
        return self

    def direction(self, gradient: Images) -> Images:
        """Where a step goes: of length 1 in the attack's norm, or 0 where there is no slope."""
        return gradient.sign() if self.norm == "linf" else _unit(gradient)

    def projection(self, x: Images) -> Callable[[Images], Images]:
        """What puts images back into the balls around ``x`` and into [0, 1], in place."""
        if self.norm == "linf":
            low, high = box(x, self.eps)
            return lambda adv: adv.clamp_(low, high)
        return lambda adv: self._project_l2(adv, x)

    def _project_l2(self, adv: Images, x: Images) -> Images:
        move = adv.sub_(x).renorm_(p=2, dim=0, maxnorm=self.eps)
        # The box last: it only moves pixels towards x, so the ball still holds.
        return move.add_(x).clamp_(0, 1)

    def start_in(self, x: Images) -> Images:
        """A start for each image, a fresh tensor, before projection: it is changed in place from
        here on."""
        if self.start == "none":
            return x.clone()
        if self.start == "gaussian":
            return normal_like(x).mul_(GAUSSIAN_START).add_(x)
        if self.norm == "linf":
            return uniform_like(x, self.eps).add_(x)
        # Uniform in a ball of d dimensions: a uniform direction at radius eps * u^(1/d).
        dimensions = max(x[0:1].numel(), 1)
        radius = shares_like(x).pow_(1 / dimensions).mul_(self.eps)
        direction = _unit(normal_like(x))
        return direction.mul_(radius).add_(x)


@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method (arXiv 1412.6572): one linf step of length ``eps`` from ``x``.

    Attributes:
        eps: the step and the ball's radius, in pixel units; 0 gives ``x`` back.

    Raises:
        InputError: ``eps`` is not in [0, 1].
    """

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        refuse_unless(radius_condition("eps", self.eps, or_zero=True))

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Loss,
    ) -> Images:
        """As ``PGD``."""
        one_step = PGD(
            eps=self.eps,
            step_size=self.eps or 1.0,  # above 0, as it must be; at eps 0 no step is taken
            steps=1,
            start="none",
        )
        return one_step(model, x, y, loss)


def standing_pgd(attack: object) -> PGD | None:
    """The ``PGD`` that stands for an attack where a measure or a ladder needs one, with its eps and
    norm: what the attack has as ``as_pgd``; None where it has none."""
    pgd = getattr(attack, "as_pgd", None)
    return pgd if isinstance(pgd, PGD) else None


def _gradient(model: nn.Module, adv: Images, loss: Loss) -> Images:
    """The gradient in the images alone: autograd skips what only the parameters would need."""
    with torch.enable_grad():
        leaf = adv.detach().requires_grad_()
        total = loss(model(leaf)).sum()
        return torch.autograd.grad(total, leaf)[0]


def _values(model: nn.Module, adv: Images, loss: Loss) -> PerExample:
    # Not under no_grad: autocast would cache weights without their graph and starve the training
    # step.
    return loss(model(adv)).detach()


def _unit(direction: Tensor) -> Tensor:
    """Each image over its l2 norm, first over its largest entry so that no tiny gradient
    underflows."""
    tiny = torch.finfo(direction.dtype).tiny
    largest = direction.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = direction / largest.clamp_min(tiny)
    norm = torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)
    # A non-zero row now has a norm of at least 1, so this bound touches zero rows only.
    return scaled.div_(norm.clamp_min(1))
