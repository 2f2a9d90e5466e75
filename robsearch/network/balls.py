"""Balls around images, in linf or l2, inside [0, 1]: what attacks and measures share."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch

from robsearch.errors import PIXEL_UNITS, Condition, number, one_of
from robsearch.network.draws import normal_like, shares_like, uniform_like
from robsearch.protocols import Images, PerExample

Norm: TypeAlias = Literal["linf", "l2"]


def length(move: Images, norm: Norm) -> PerExample:
    """The norm of each image over all its pixels, (n,)."""
    order = math.inf if norm == "linf" else 2
    size: PerExample = torch.linalg.vector_norm(move, order, dim=(1, 2, 3))
    return size


def dual_length(gradient: Images, norm: Norm) -> PerExample:
    """The dual norm of each image, (n,): l1 for linf, l2 for l2."""
    order = 1 if norm == "linf" else 2
    size: PerExample = torch.linalg.vector_norm(gradient, order, dim=(1, 2, 3))
    return size


def diameter(x: Images, norm: Norm) -> float:
    """Of the box [0, 1] in which the images lie, in pixel units: 1 for linf, sqrt(c h w) for l2."""
    if norm == "linf":
        return 1.0
    pixels = math.prod(x.shape[1:])
    return math.sqrt(pixels)


def box(x: Images, eps: float) -> tuple[Images, Images]:
    """Lowest and highest pixels of the linf ball within [0, 1], which is a box as well."""
    return (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)


def moved_inside(
    x: Images,
    move: Images,
    radius: PerExample,
    norm: Norm,
) -> Images:
    """``x`` moved, by no more than its ``radius`` and not out of [0, 1]; ``x`` itself lies
    there."""
    reach = radius.view(-1, 1, 1, 1)
    if norm == "linf":
        move = move.clamp(-reach, reach)
    else:
        tiny = torch.finfo(move.dtype).tiny
        distance = length(move, norm).clamp_min(tiny)
        share = (radius / distance).clamp_(max=1)
        move = move * share.view_as(reach)
    # The box last: it only moves pixels towards x, so the ball still holds.
    return (x + move).clamp_(0, 1)


def random_point(x: Images, radius: PerExample, norm: Norm) -> Images:
    """A point for each image, uniform in its ball and then clipped to [0, 1]; drawn as
    ``robsearch.network.draws`` says."""
    reach = radius.view(-1, 1, 1, 1)
    if norm == "linf":
        return (x + uniform_like(x) * reach).clamp_(0, 1)
    # Uniform in a ball of d dimensions: a uniform direction at radius * u^(1/d).
    dimensions = math.prod(x.shape[1:])
    distance = shares_like(x).pow_(1 / dimensions).mul_(reach)
    direction = normalised(normal_like(x))
    return moved_inside(x, direction * distance, radius, norm)


def normalised(direction: Images) -> Images:
    """Each image over its l2 norm; zero stays zero."""
    tiny = torch.finfo(direction.dtype).tiny
    size = length(direction, "l2").clamp_min(tiny)
    return direction / size.view(-1, 1, 1, 1)


def norm_condition(norm: str) -> Condition:
    """Refuses another norm than these two."""
    return one_of("norm", norm, "linf", "l2")


def radius_condition(
    name: str,
    radius: float,
    norm: str = "linf",
    *,
    or_zero: bool = False,
) -> Condition:
    """Refuses a radius outside (0, 1] for linf and (0, inf) for l2, or with 0 outside [0, ..."""
    most = 1 if norm == "linf" else None
    if or_zero:
        return number(name, radius, PIXEL_UNITS, at_least=0, at_most=most)
    return number(name, radius, PIXEL_UNITS, above=0, at_most=most)


def suffix(norm: Norm) -> str:
    """What a measure's name ends with: linf goes without saying."""
    return "_l2" if norm == "l2" else ""
