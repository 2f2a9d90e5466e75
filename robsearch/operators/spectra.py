"""Singular values of one layer: a convolution's as if it wrapped around the image."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from robsearch.errors import InputError
from robsearch.operators.maps import Conv, Layer, Shape, extent, misfit, weight_of
from robsearch.protocols import PerLayer


def singular_values(layer: Layer, shape: Shape) -> PerLayer:
    """All singular values of the layer on inputs of this shape, with their multiplicity, the largest first.

    Exact for a convolution that wraps around (circular padding; Sedghi et al. 2019, arXiv 1805.10408): one small
    SVD for each frequency and group. With stride ``(s, t)`` the output's frequency sees the input's ``s t`` aliases
    of it: its block is theirs side by side, over ``sqrt(s t)``. There are as many as the smaller side of the whole
    matrix has entries, so that mean and deviation are those of the whole matrix.

    An input smaller than the kernel counts as large as the kernel; one that the stride does not divide, as large as
    the next multiple. With zero padding, as most layers have, these are not the layer's own values.

    Args:
        layer: the layer; how it pads does not matter.
        shape: of one input, (channels, height, width) or (features,).

    Raises:
        InputError: the shape is not the layer's.
    """
    if found := misfit(layer, shape):
        raise InputError(*found)
    if isinstance(layer, nn.Linear):
        return spectrum(layer, shape)
    columns, half = _strided(layer, shape)
    values: Tensor = torch.linalg.svdvals(half)
    last = len(layer.kernel_size)
    twice = [1 if 2 * q in (0, columns) else 2 for q in range(half.shape[last])]
    repeated = values.repeat_interleave(torch.tensor(twice, device=values.device), dim=last)
    return repeated.flatten().sort(descending=True).values


def _strided(layer: Conv, shape: Shape) -> tuple[int, Complex[Tensor, "g *frequencies o i"]]:
    """The output's columns of frequencies; and the blocks, by group and frequency, of the half of them that differ."""
    dims = len(layer.kernel_size)
    counts = [math.ceil(side / step) for side, step in zip(grid(layer, shape), layer.stride, strict=True)]
    sides = [count * step for count, step in zip(counts, layer.stride, strict=True)]
    waves = torch.fft.fftn(_spaced(layer), s=sides, dim=tuple(range(2, 2 + dims))) / math.sqrt(math.prod(layer.stride))
    split = [size for pair in zip(layer.stride, counts, strict=True) for size in pair]
    aliases = waves.view(layer.groups, -1, waves.shape[1], *split)
    half = aliases[..., : counts[-1] // 2 + 1]
    frequencies, repeats = range(4, 4 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return counts[-1], half.permute(0, *frequencies, 1, 2, *repeats).flatten(dims + 2)


def spectrum(layer: Layer, shape: Shape) -> Float[Tensor, "*blocks r"]:
    """Singular values of the layer at stride 1 on inputs of this shape; a convolution's by group and by frequency.

    Of the frequencies, only those of the real FFT's half plane: the others repeat them. ``r`` is the smaller of a
    block's inputs and outputs.
    """
    values: Tensor = torch.linalg.svdvals(blocks(layer, shape))
    return values


def blocks(layer: Layer, shape: Shape) -> Float[Tensor, "o i"] | Complex[Tensor, "g *frequencies o i"]:
    """The layer's matrix at stride 1; a convolution's by group and frequency, as if it wrapped around.

    Shifts and reflections of the kernel only turn their phases.
    """
    if isinstance(layer, nn.Linear):
        return weight_of(layer)
    dims = tuple(range(2, 2 + len(layer.kernel_size)))
    transformed: Tensor = torch.fft.rfftn(_spaced(layer), s=grid(layer, shape), dim=dims)
    return transformed.view(layer.groups, -1, *transformed.shape[1:]).permute(0, *(dim + 1 for dim in dims), 1, 2)


def kernel_of(layer: Layer, whole: Tensor) -> Tensor:
    """The taps that the layer's kernel has of a filter as large as its input; a linear layer's is whole."""
    if isinstance(layer, nn.Linear):
        return whole
    taps = (slice(0, side, step) for side, step in zip(extent(layer), layer.dilation, strict=True))
    place: tuple[Any, ...] = (..., *taps)
    return whole[place]


def _spaced(layer: Conv) -> Float[Tensor, "o i *sides"]:
    """The kernel with its holes."""
    weight = weight_of(layer)
    spaced = weight.new_zeros(*weight.shape[:2], *extent(layer))
    kernel_of(layer, spaced).copy_(weight)
    return spaced


def grid(layer: Layer, shape: Shape) -> tuple[int, ...]:
    """Height and width of the plane that a convolution wraps around; () for a linear layer."""
    if isinstance(layer, nn.Linear):
        return ()
    return tuple(max(sides) for sides in zip(shape[1:], extent(layer), strict=True))
