"""Balls around images, in linf or l2, inside [0, 1]: what the margins in pixel units share."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch

from robsearch.draws import normal_like, shares_like, uniform_like
from robsearch.protocols import Images, PerExample

Norm: TypeAlias = Literal["linf", "l2"]
Check: TypeAlias = tuple[bool, str, object, str]
"""(fits, expected, got, do), as ``refuse_unless`` takes it."""


def length(move: Images, norm: Norm) -> PerExample:
    """The norm of each image over all its pixels, (n,)."""
    size: PerExample = torch.linalg.vector_norm(move, ord=math.inf if norm == "linf" else 2, dim=(1, 2, 3))
    return size


def dual_length(gradient: Images, norm: Norm) -> PerExample:
    """The dual norm of each image, (n,): l1 for linf, l2 for l2."""
    size: PerExample = torch.linalg.vector_norm(gradient, ord=1 if norm == "linf" else 2, dim=(1, 2, 3))
    return size


def diameter(x: Images, norm: Norm) -> float:
    """Of the box [0, 1] in which the images lie, in pixel units: 1 for linf, sqrt(c h w) for l2."""
    return 1.0 if norm == "linf" else math.sqrt(math.prod(x.shape[1:]))


def inside(x: Images, move: Images, radius: PerExample, norm: Norm) -> Images:
    """``x`` moved, by no more than its ``radius`` and not out of [0, 1]; ``x`` itself lies there."""
    reach = radius.view(-1, 1, 1, 1)
    if norm == "linf":
        return (x + move.clamp(-reach, reach)).clamp_(0, 1)
    tiny = torch.finfo(move.dtype).tiny
    share = (radius / length(move, norm).clamp_min(tiny)).clamp_(max=1).view_as(reach)
    # The box last: it only moves pixels towards x, so the ball still holds.
    return (x + move * share).clamp_(0, 1)


def drawn(x: Images, radius: PerExample, norm: Norm) -> Images:
    """A point for each image, uniform in its ball and then clipped to [0, 1]; drawn as ``robsearch.draws`` says."""
    reach = radius.view(-1, 1, 1, 1)
    if norm == "linf":
        return (x + uniform_like(x) * reach).clamp_(0, 1)
    # Uniform in a ball of d dimensions: a uniform direction at radius * u^(1/d).
    away = shares_like(x).pow_(1 / max(x[:1].numel(), 1)).mul_(reach)
    return inside(x, unit(normal_like(x)) * away, radius, norm)


def unit(direction: Images) -> Images:
    """Each image over its l2 norm; zero stays zero."""
    tiny = torch.finfo(direction.dtype).tiny
    return direction / length(direction, "l2").clamp_min(tiny).view(-1, 1, 1, 1)


def norm_check(norm: object) -> Check:
    """What refuses another norm than these two."""
    return (norm in ("linf", "l2"), "norm 'linf' or 'l2'", repr(norm), "pass one of these")


def radius_check(name: str, radius: float, norm: object) -> Check:
    """What refuses a radius outside (0, 1] for linf and (0, inf) for l2."""
    most = 1.0 if norm == "linf" else math.inf
    units = "give it in pixel units, 8/255 and not 8"
    return (0 < radius <= most and radius < math.inf, f"{name} from above 0 to {most:g}", radius, units)


def suffix(norm: Norm) -> str:
    """What a measure's name ends with: linf goes without saying."""
    return "_l2" if norm == "l2" else ""
