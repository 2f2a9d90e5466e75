"""Margins: how far each example is from being classified otherwise. Negative where it already
is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robsearch.errors import Condition, count, refuse_unless
from robsearch.network.balls import (
    Norm,
    diameter,
    dual_length,
    norm_condition,
    radius_condition,
    random_point,
    suffix,
)
from robsearch.network.draws import at_once
from robsearch.network.modes import checked_logits, evaluating, logit_margin, two_classes
from robsearch.protocols import About, Images, Labels, PerExample

Rivals: TypeAlias = Int[Tensor, "n m"]
"""Other classes than the label, those of the largest logits first."""

PerRival: TypeAlias = Float[Tensor, "n m"]

POINTS_AT_ONCE = 1000
"""In one forward pass of ``SampledMargin``, or as many as memory has room for; at least one for
each example."""


@dataclass(frozen=True)
class LogitMargin:
    """``f_y(x) - max_{k != y} f_k(x)`` in logits (arXiv 1907.11780): exact, positive where
    right."""

    name: ClassVar[str] = "margin/logit"
    about: ClassVar[About] = About("exact", "logits", "arXiv 1907.11780", span=(-25.0, 25.0))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The margin of each example, (n,).

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite, fewer than
                two classes.
        """
        with evaluating(model), torch.no_grad():
            return logit_margin(checked_logits(model, x, y), y)


@dataclass(frozen=True)
class InputMargin:
    """The first-order distance to the boundary:
    ``min_{k != y} (f_y - f_k) / ||grad (f_y - f_k)||_q``.

    ``q`` is dual to ``norm``, so the result is in pixel units of that norm: exact for a linear
    model (arXiv 1907.11780, the linear margin), an estimate for others, neither bound. Where ``x``
    is wrong it is negative, and its size is the largest distance back over a class that overtook.
    The box [0, 1] is left out but for this: a margin beyond its diameter (1 for linf, sqrt(c h w)
    for l2) says only that the gradient vanished, and is clipped to it, sign kept.

    Attributes:
        norm: of the perturbation, ``linf`` or ``l2``.
        classes: how many other classes are looked at, those of the largest logits at ``x``; None
            for all. A minimum over fewer is never below the one over all.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    norm: Norm = "linf"
    classes: int | None = None

    def __post_init__(self) -> None:
        refuse_unless(norm_condition(self.norm), _classes_condition(self.classes))

    @property
    def name(self) -> str:
        """``margin/input_first_order``, followed by ``_l2`` for l2."""
        return "margin/input_first_order" + suffix(self.norm)

    @property
    def about(self) -> About:
        """An estimate, in pixel units."""
        return About(
            "estimate",
            "pixel units",
            "arXiv 1907.11780",
            self.norm,
            span=(-0.5, 0.5),
        )

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The margin of each example, (n,), in pixel units: one backward pass per other class.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite, fewer than
                two classes.
        """
        with evaluating(model):
            _, leads, slopes = _linearised(model, x, y, self.norm, self.classes)
        return _smallest(leads, slopes, diameter(x, self.norm))


@dataclass(frozen=True)
class SampledMargin:
    """``min_{k != y} (f_y - f_k)(x) / max_i ||grad (f_y - f_k)(x_i)||_q`` over points ``x_i``
    around ``x``.

    An **estimate** of the distance to the boundary in the manner of CLEVER (arXiv 1801.10578): with
    the true Lipschitz constant of ``f_y - f_k`` in the ball in place of the maximum, it would be a
    lower bound. A sampled maximum falls short of that constant, so this may exceed the true
    distance. CLEVER fits an extreme value distribution to the maxima of many batches and takes its
    right end for the constant; here is no fit, the maximum stands as it is. ``x`` itself is one of
    the points: for a linear model this is its linear margin, and where the prediction is right it
    is never above ``InputMargin``.

    As CLEVER it is clipped to ``radius``, for outside the ball no slope was looked at, and to the
    box's diameter: a mean over examples depends on ``radius``. Where ``x`` is wrong it is negative,
    as ``InputMargin``.

    Attributes:
        radius: of the ball in pixel units of ``norm``. Points are uniform in it, then clipped to
            [0, 1].
        samples: points per example besides ``x``.
        norm: of the perturbation, ``linf`` or ``l2``.
        classes: how many other classes are looked at, as in ``InputMargin``.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    radius: float
    samples: int = 64
    norm: Norm = "linf"
    classes: int | None = None

    def __post_init__(self) -> None:
        more = "64 is the default, and more find steeper slopes"
        refuse_unless(
            radius_condition("radius", self.radius, self.norm),
            count("samples", self.samples, more),
            norm_condition(self.norm),
            _classes_condition(self.classes),
        )

    @property
    def name(self) -> str:
        """``margin/input_sampled``, followed by ``_l2`` for l2."""
        return "margin/input_sampled" + suffix(self.norm)

    @property
    def about(self) -> About:
        """An estimate, in pixel units."""
        return About(
            "estimate",
            "pixel units",
            "arXiv 1801.10578",
            self.norm,
            span=(-0.5, 0.5),
        )

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The margin of each example, (n,), in pixel units: ``1 + samples`` backward passes per
        other class.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite, fewer than
                two classes.
        """
        with evaluating(model):
            rivals, leads, steepest = _linearised(model, x, y, self.norm, self.classes)
            for points, times in self._points(x):
                _, _, slopes = _linearised(
                    model,
                    points,
                    y.repeat(times),
                    self.norm,
                    rivals.repeat(times, 1),
                )
                by_point = slopes.unflatten(0, (times, len(x)))
                steepest = torch.maximum(steepest, by_point.amax(dim=0))
        most = min(self.radius, diameter(x, self.norm))
        return _smallest(leads, steepest, most)

    def _points(self, x: Images) -> Iterator[tuple[Tensor, int]]:
        """Points around all images, ``times`` for each, image by image in turn: (times n, c, h,
        w)."""
        x = x.detach()
        points_at_once = min(at_once() or POINTS_AT_ONCE, POINTS_AT_ONCE)
        most = max(points_at_once // len(x), 1)
        radius = x.new_full((len(x),), self.radius)
        # A point is drawn for all images at once, so that numbers do not depend on ``most``.
        for done in range(0, self.samples, most):
            times = min(most, self.samples - done)
            points = [random_point(x, radius, self.norm) for _ in range(times)]
            yield torch.cat(points), times


def _linearised(
    model: nn.Module,
    x: Images,
    y: Labels,
    norm: Norm,
    rivals: Rivals | int | None,
) -> tuple[Rivals, PerRival, PerRival]:
    """The rivals (or how many, None for all), the leads ``f_y - f_k`` over them, and these leads'
    slopes at ``x``."""
    true = y.long()[:, None]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = two_classes(checked_logits(model, x, y))
        if not isinstance(rivals, Tensor):
            count = logits.shape[1] - 1
            if rivals is not None:
                count = min(rivals, count)
            others = logits.detach().scatter(1, true, -math.inf)
            rivals = others.topk(count, dim=1).indices
        leads = logits.gather(1, true) - logits.gather(1, rivals)
        slopes = []
        # In eval mode no example looks at another: the sum's gradient is each example's own.
        for lead in leads.unbind(dim=1):
            (gradient,) = torch.autograd.grad(lead.sum(), x, retain_graph=True)
            slopes.append(dual_length(gradient, norm))
    return rivals, leads.detach(), torch.stack(slopes, dim=1)


def _smallest(leads: PerRival, slopes: PerRival, most: float) -> PerExample:
    # 0 / 0 is on a boundary without gradient, which is no distance away.
    distances = (leads / slopes).nan_to_num(nan=0.0)
    return distances.clamp(-most, most).amin(dim=1)


def _classes_condition(classes: int | None) -> Condition:
    fits = classes is None or classes >= 1
    return Condition(fits, "classes >= 1 or None", classes, "leave it at None for all classes")
