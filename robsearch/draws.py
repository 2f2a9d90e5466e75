"""Random numbers that belong to one image, so that neither the chunk nor the rank nor the other images change them.

While a model is judged, the numbers of an image follow from the seed, from its pixels and from how many draws came
before in the same chunk. In training they come from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from robsearch.protocols import Images, Labels

_FIRST = 0x7FEB352D
_SECOND = 0x846CA68B - 2**32
"""The factors of ``lowbias32``, a hash of 32 bits that is free of bias to 0.17 in 1,000 (C. Wellons, 2018)."""


@dataclass
class _Judged:
    """One chunk of images that is judged."""

    seed: int
    at_once: int | None
    draws: int = 0


_JUDGED: ContextVar[_Judged | None] = ContextVar("judged", default=None)


@contextmanager
def own_draws(seed: int, at_once: int | None = None) -> Iterator[None]:
    """Inside the block ``uniform_like`` and ``normal_like`` give each image numbers of its own.

    Args:
        seed: of all images.
        at_once: how many images the memory has room for at once, for those who would take more of them together.
    """
    token = _JUDGED.set(_Judged(seed, at_once))
    try:
        yield
    finally:
        _JUDGED.reset(token)


def at_once() -> int | None:
    """How many images the memory has room for at once; None if nobody has asked."""
    judged = _JUDGED.get()
    return judged.at_once if judged else None


def in_parts(x: Images, y: Labels, size: int) -> Iterator[tuple[Images, Labels]]:
    """At most ``size`` images at a time, whose numbers begin anew for each part."""
    judged = _JUDGED.get()
    before = judged.draws if judged else 0
    for part, labels in zip(x.split(size), y.split(size), strict=True):
        if judged is not None:
            judged.draws = before
        yield part, labels


def uniform_like(x: Images, most: float = 1.0) -> Tensor:
    """Uniform numbers from ``-most`` to ``most`` in the shape of ``x``; copies of an image get the same in one call."""
    judged = _JUDGED.get()
    if judged is None:
        return torch.empty_like(x).uniform_(-most, most)
    judged.draws += 1
    return uniform(x, judged.seed, judged.draws).mul_(most)


def shares_like(x: Images) -> Tensor:
    """A uniform number from 0 to 1 for each image, (n, 1, 1, 1)."""
    if _JUDGED.get() is None:
        return torch.rand_like(x[:, :1, :1, :1])
    return uniform_like(x)[:, :1, :1, :1].add(1).div_(2)


def normal_like(x: Images) -> Tensor:
    """As ``uniform_like``, of the standard normal distribution."""
    judged = _JUDGED.get()
    if judged is None:
        return torch.randn_like(x)
    judged.draws += 1
    return normal(x, judged.seed, judged.draws)


def uniform(x: Images, seed: int, draw: int) -> Tensor:
    """Uniform numbers from -1 to 1 for each image: the same for the same pixels, seed and number of the draw."""
    start, place = _keys(x, seed, draw)
    return _hashed(start ^ place).bitwise_right_shift_(8).to(_wide(x)).mul_(2**-23).view_as(x).to(x.dtype)


def normal(x: Images, seed: int, draw: int) -> Tensor:
    """As ``uniform``, of the standard normal distribution (by Box and Muller)."""
    start, place = _keys(x, seed, draw)
    share = _shifted(_hashed(start ^ place), 8).to(_wide(x)).add_(1).mul_(2**-24)
    angle = _hashed(start ^ _hashed(~place)).to(_wide(x)).mul_(math.pi * 2**-31)
    return share.log_().mul_(-2).sqrt_().mul_(angle.cos_()).view_as(x).to(x.dtype)


def _wide(x: Images) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _keys(x: Images, seed: int, draw: int) -> tuple[Tensor, Tensor]:
    """Random bits for each image, (n, 1), from its pixels, seed and draw; and others for each pixel's place, (d,)."""
    pixels = (x.detach() * 255).round_().int().flatten(1)
    place = _hashed(torch.arange(1, pixels.shape[1] + 1, dtype=torch.int32, device=x.device))
    total = (pixels * (place | 1)).sum(dim=1, keepdim=True)
    mixed = _hashed(total.int()) ^ (seed * 1_000_003 + draw * 40_503) % 2**31
    return _hashed(mixed), place


def _hashed(z: Tensor) -> Tensor:
    """``lowbias32`` of whole numbers, in place."""
    z.bitwise_xor_(_shifted(z, 16)).mul_(_FIRST)
    z.bitwise_xor_(_shifted(z, 15)).mul_(_SECOND)
    return z.bitwise_xor_(_shifted(z, 16))


def _shifted(z: Tensor, by: int) -> Tensor:
    """To the right, as if the number had no sign."""
    return (z >> by).bitwise_and_((1 << (32 - by)) - 1)
