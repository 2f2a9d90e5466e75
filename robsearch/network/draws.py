"""Random numbers that belong to one image, so that neither the chunk nor the rank nor the other
images change them.

While a model is judged, the numbers of an image follow from the seed, from its pixels and from how
many draws came before in the same chunk. In training they come from torch's global generator.
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
"""The factors of ``lowbias32``, a hash of 32 bits that is free of bias to 0.17 in 1,000 (C.
Wellons, 2018)."""


@dataclass
class _Chunk:
    """One chunk of images that is judged."""

    seed: int
    at_once: int | None
    draws: int = 0


_CHUNK: ContextVar[_Chunk | None] = ContextVar("chunk that is judged", default=None)


@contextmanager
def own_draws(seed: int, at_once: int | None = None) -> Iterator[None]:
    """Inside the block ``uniform_like`` and ``normal_like`` give each image numbers of its own.

    Args:
        seed: of all images.
        at_once: how many images the memory has room for at once, for those who would take more of
            them together.
    """
    token = _CHUNK.set(_Chunk(seed, at_once))
    try:
        yield
    finally:
        _CHUNK.reset(token)


def at_once() -> int | None:
    """How many images the memory has room for at once; None if nobody has asked."""
    chunk = _CHUNK.get()
    if chunk is None:
        return None
    return chunk.at_once


def in_parts(x: Images, y: Labels, size: int) -> Iterator[tuple[Images, Labels]]:
    """At most ``size`` images at a time, whose numbers begin anew for each part."""
    parts = zip(x.split(size), y.split(size), strict=True)
    chunk = _CHUNK.get()
    if chunk is None:
        yield from parts
        return
    before = chunk.draws
    for part in parts:
        chunk.draws = before
        yield part


def uniform_like(x: Images, most: float = 1.0) -> Tensor:
    """Uniform numbers from ``-most`` to ``most`` in the shape of ``x``; copies of an image get the
    same in one call."""
    chunk = _CHUNK.get()
    if chunk is None:
        return torch.empty_like(x).uniform_(-most, most)
    chunk.draws += 1
    return uniform(x, chunk.seed, chunk.draws).mul_(most)


def shares_like(x: Images) -> Tensor:
    """A uniform number from 0 to 1 for each image, (n, 1, 1, 1)."""
    if _CHUNK.get() is None:
        return torch.rand_like(x[:, :1, :1, :1])
    first = uniform_like(x)[:, :1, :1, :1]
    return first.add(1).div_(2)


def normal_like(x: Images) -> Tensor:
    """As ``uniform_like``, of the standard normal distribution."""
    chunk = _CHUNK.get()
    if chunk is None:
        return torch.randn_like(x)
    chunk.draws += 1
    return normal(x, chunk.seed, chunk.draws)


def uniform(x: Images, seed: int, draw: int) -> Tensor:
    """Uniform numbers from -1 to 1 for each image: the same for the same pixels, seed and number of
    the draw."""
    start, place = _keys(x, seed, draw)
    # With their sign, the upper 24 bits: a float32 holds them exactly.
    bits = _hashed(start ^ place).bitwise_right_shift_(8)
    numbers = bits.to(_wide(x)).mul_(2**-23)
    return numbers.view_as(x).to(x.dtype)


def normal(x: Images, seed: int, draw: int) -> Tensor:
    """As ``uniform``, of the standard normal distribution (by Box and Muller)."""
    start, place = _keys(x, seed, draw)
    bits = _shifted(_hashed(start ^ place), 8)
    # From 2**-24 to 1: the logarithm of 0 would be infinite.
    share = bits.to(_wide(x)).add_(1).mul_(2**-24)
    other_bits = _hashed(start ^ _hashed(~place))
    angle = other_bits.to(_wide(x)).mul_(math.pi * 2**-31)
    radius = share.log_().mul_(-2).sqrt_()
    numbers = radius.mul_(angle.cos_())
    return numbers.view_as(x).to(x.dtype)


def _wide(x: Images) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _keys(x: Images, seed: int, draw: int) -> tuple[Tensor, Tensor]:
    """Random bits for each image, (n, 1), from its pixels, seed and draw; and others for each
    pixel's place, (d,)."""
    # Rounded to grey levels, so that the last bits of another device's floats change nothing.
    grey_levels = (x.detach() * 255).round_()
    pixels = grey_levels.int().flatten(1)
    positions = torch.arange(pixels.shape[1], dtype=torch.int32, device=x.device)
    place = _hashed(positions + 1)
    # Odd factors lose no bit of a pixel.
    total = (pixels * (place | 1)).sum(dim=1, keepdim=True)
    key = (seed * 1_000_003 + draw * 40_503) % 2**31
    start = _hashed(total.int()) ^ key
    return _hashed(start), place


def _hashed(z: Tensor) -> Tensor:
    """``lowbias32`` of whole numbers, in place."""
    z ^= _shifted(z, 16)
    z *= _FIRST
    z ^= _shifted(z, 15)
    z *= _SECOND
    z ^= _shifted(z, 16)
    return z


def _shifted(z: Tensor, by: int) -> Tensor:
    """To the right, as if the number had no sign."""
    shifted = z >> by
    shifted &= 2 ** (32 - by) - 1
    return shifted
