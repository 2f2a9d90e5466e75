"""Projected gradient ascent, and the fast gradient sign method that it generalises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robsearch.draws import normal_like, shares_like, uniform_like
from robsearch.errors import number, refuse_unless
from robsearch.modes import evaluating
from robsearch.protocols import Images, Labels, Loss, PerExample

GAUSSIAN_START = 0.001
"""Standard deviation of TRADES' start, in pixel units (arXiv 1901.08573, algorithm 1)."""


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent (arXiv 1706.06083): ``x' <- project(x' + step_size * direction(gradient))``.

    The direction is the gradient's sign (linf), or the gradient over its l2 norm per image (l2). The last
    iterate counts, not the best one on the way; with ``restarts > 1`` each image keeps the last iterate of
    highest loss.

    Attributes:
        eps: the ball's radius in pixel units, such as ``8 / 255``; 0 gives ``x`` back.
        step_size: the length of one step, in the same units and norm.
        steps: gradient steps; 0 gives the start.
        norm: the ball, ``linf`` or ``l2`` (per image, over all its pixels).
        start: ``uniform`` in the ball; ``gaussian`` is ``x + 0.001 N(0, 1)``, projected (TRADES,
            arXiv 1901.08573); ``none`` is ``x``, where the KL to the clean prediction has no gradient.
        restarts: independent runs from random starts.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10
    norm: Literal["linf", "l2"] = "linf"
    start: Literal["uniform", "gaussian", "none"] = "uniform"
    restarts: int = 1

    def __post_init__(self) -> None:
        linf = self.norm == "linf"
        units = "give it in pixel units, 8/255 and not 8"
        again = "leave it at 1" if self.start == "none" else "pass 1 or more"
        refuse_unless(
            number("eps", self.eps, "in [0, 1]" if linf else ">= 0", units),
            number("step_size", self.step_size, "in (0, 1]" if linf else "> 0", units),
            number("steps", self.steps, ">= 0", "pass 0 for the start alone", whole=True),
            (self.norm in ("linf", "l2"), "norm 'linf' or 'l2'", repr(self.norm), "pass one of these"),
            (
                self.start in ("uniform", "gaussian", "none"),
                "start 'uniform', 'gaussian' or 'none'",
                repr(self.start),
                "pass one of these",
            ),
            number("restarts", self.restarts, ">= 1", again, whole=True),
            (self.start != "none" or self.restarts in (0, 1), "a random start for restarts", "'none'", again),
        )

    def __call__(self, model: nn.Module, x: Images, y: Labels, loss: Loss) -> Images:
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
                value = _values(model, other, loss)
                higher = value > highest
                adv = torch.where(higher[:, None, None, None], other, adv)
                highest = torch.where(higher, value, highest)
        return adv

    def _run(self, model: nn.Module, x: Images, loss: Loss) -> Images:
        climb = _climb_linf if self.norm == "linf" else _climb_l2
        return climb(self, model, x, loss)

    def _first(self, x: Images) -> Images:
        """A fresh tensor, before projection: it is changed in place from here on."""
        if self.start == "none":
            return x.clone()
        if self.start == "gaussian":
            return normal_like(x).mul_(GAUSSIAN_START).add_(x)
        if self.norm == "linf":
            return uniform_like(x, self.eps).add_(x)
        # Uniform in a ball of d dimensions: a uniform direction at radius eps * u^(1/d).
        radius = shares_like(x).pow_(1 / max(x[0:1].numel(), 1)).mul_(self.eps)
        return _unit(normal_like(x)).mul_(radius).add_(x)


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
        refuse_unless(number("eps", self.eps, "in [0, 1]", "give it in pixel units, 8/255 and not 8"))

    def __call__(self, model: nn.Module, x: Images, y: Labels, loss: Loss) -> Images:
        """As ``PGD``."""
        return PGD(eps=self.eps, step_size=self.eps or 1.0, steps=1, start="none")(model, x, y, loss)


def _climb_linf(pgd: PGD, model: nn.Module, x: Images, loss: Loss) -> Images:
    low, high = (x - pgd.eps).clamp_(min=0), (x + pgd.eps).clamp_(max=1)
    adv = pgd._first(x).clamp_(low, high)
    for _ in range(pgd.steps):
        adv.add_(_gradient(model, adv, loss).sign(), alpha=pgd.step_size).clamp_(low, high)
    return adv


def _climb_l2(pgd: PGD, model: nn.Module, x: Images, loss: Loss) -> Images:
    def project(adv: Images) -> Images:
        # The box last: it only moves pixels towards x, so the ball still holds.
        return adv.sub_(x).renorm_(p=2, dim=0, maxnorm=pgd.eps).add_(x).clamp_(0, 1)

    adv = project(pgd._first(x))
    for _ in range(pgd.steps):
        adv = project(adv.add_(_unit(_gradient(model, adv, loss)), alpha=pgd.step_size))
    return adv


def _gradient(model: nn.Module, adv: Images, loss: Loss) -> Images:
    """The gradient in the images alone: autograd skips what only the parameters would need."""
    with torch.enable_grad():
        leaf = adv.detach().requires_grad_()
        return torch.autograd.grad(loss(model(leaf)).sum(), leaf)[0]


def _values(model: nn.Module, adv: Images, loss: Loss) -> PerExample:
    # Not under no_grad: autocast would cache weights without their graph and starve the training step.
    return loss(model(adv)).detach()


def _unit(direction: Tensor) -> Tensor:
    """Each image over its l2 norm, first over its largest entry so that no tiny gradient underflows."""
    tiny = torch.finfo(direction.dtype).tiny
    scaled = direction / direction.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(tiny)
    # A non-zero row now has a norm of at least 1, so this bound touches zero rows only.
    return scaled.div_(torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True).clamp_min(1))
