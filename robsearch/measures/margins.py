"""Margins: how far each example is from being classified otherwise. Negative where it already is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robsearch.errors import InputError, refusal
from robsearch.modes import checked_logits, evaluating
from robsearch.protocols import About, Images, Labels, Logits, PerExample, Scalar


@dataclass(frozen=True)
class LogitMargin:
    """``f_y(x) - max_{k != y} f_k(x)`` in logits (arXiv 1907.11780): exact, positive where right."""

    @property
    def name(self) -> str:
        """``margin/logit``."""
        return "margin/logit"

    @property
    def about(self) -> About:
        """Exact, in logits."""
        return About("exact", "logits", "arXiv 1907.11780", span=(-25.0, 25.0))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The margin of each example, (n,).

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite, fewer than two classes.
        """
        with evaluating(model), torch.no_grad():
            logits = _logits(model, x, y)
            true = y.long()[:, None]
            others = logits.scatter(1, true, -math.inf)
            return logits.gather(1, true)[:, 0] - others.amax(dim=1)


@dataclass(frozen=True)
class InputMargin:
    """The first-order distance to the boundary: ``min_{k != y} (f_y - f_k) / ||grad (f_y - f_k)||_q``.

    ``q`` is dual to ``norm``, so the result is in pixel units of that norm: exact for a linear model
    (arXiv 1907.11780, the linear margin), an estimate for others, neither bound. Where ``x`` is wrong it is
    negative, and its size is the largest distance back over a class that overtook. The box [0, 1] is left out
    but for this: a margin beyond its diameter (1 for linf, sqrt(c h w) for l2) says only that the gradient
    vanished, and is clipped to it, sign kept.

    Attributes:
        norm: of the perturbation, ``linf`` or ``l2``.

    Raises:
        InputError: ``norm`` is another.
    """

    norm: Literal["linf", "l2"] = "linf"

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise InputError(refusal("norm 'linf' or 'l2'", repr(self.norm), "pass one of these"))

    @property
    def name(self) -> str:
        """``margin/input_first_order``, followed by ``_l2`` for l2."""
        return "margin/input_first_order" + ("_l2" if self.norm == "l2" else "")

    @property
    def about(self) -> About:
        """An estimate, in pixel units."""
        return About("estimate", "pixel units", "arXiv 1907.11780", norm=self.norm, span=(-0.5, 0.5))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The margin of each example, (n,), in pixel units: one backward pass per class.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite, fewer than two classes.
        """
        dual, diameter = (1, 1.0) if self.norm == "linf" else (2, math.sqrt(x[:1].numel()))
        with evaluating(model), torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = _logits(model, x, y)
            differences = logits.gather(1, y.long()[:, None]) - logits
            slopes = torch.stack([_slope(d.sum(), x, dual) for d in differences.unbind(dim=1)], dim=1)
        # 0 / 0 at k = y, which is masked next, and on a boundary without gradient, which is no distance away.
        margins = (differences.detach() / slopes).nan_to_num(nan=0.0).clamp(-diameter, diameter)
        return margins.scatter(1, y.long()[:, None], math.inf).amin(dim=1)


def _slope(difference: Scalar, x: Images, dual: int) -> PerExample:
    gradient: Images = torch.autograd.grad(difference, x, retain_graph=True)[0]
    slope: PerExample = torch.linalg.vector_norm(gradient, ord=dual, dim=(1, 2, 3))
    return slope


def _logits(model: nn.Module, x: Images, y: Labels) -> Logits:
    logits = checked_logits(model, x, y)
    if logits.shape[1] < 2:
        raise InputError(refusal("at least 2 classes", logits.shape[1], "a margin needs another class"))
    return logits
