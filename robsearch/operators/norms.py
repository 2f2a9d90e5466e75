"""Operator norms of one layer: exact for l1 and linf, and for l2 what a Krylov space finds."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from robsearch.errors import InputError, refusal
from robsearch.operators.maps import (
    Affine,
    BatchNorm,
    Conv,
    Shape,
    adjoint,
    applied,
    extent,
    margins,
    misfit,
    scales,
    weight_of,
    without_statistics,
)
from robsearch.protocols import Scalar

CHECKED_EVERY = 10
"""Steps between two looks at how much the l2 norm still grows: on a GPU each look waits for it."""


def norm(layer: Affine, shape: Shape, kind: Literal["l1", "linf"]) -> Scalar:
    """The layer's exact operator norm on inputs of this shape, from linf to linf or from l1 to l1.

    ``linf`` is the largest row sum of the absolute values of the layer's whole matrix, ``l1`` the largest column sum.
    For a convolution with kernel ``K`` that is the largest entry of ``conv(ones, |K|)``, and of its adjoint on ones:
    exact for any stride, zero padding, dilation, groups, kernel and input size (arXiv 2009.08435, whose closed form
    knows fewer). On ones the channels sum up first, so it costs little more than one sum over ``|K|``. A BatchNorm
    counts as in eval mode: the largest ``|gamma| / sqrt(running variance + eps)``.

    Args:
        layer: the layer; its bias does not matter.
        shape: of one input, (channels, height, width) or (features,).
        kind: ``linf`` or ``l1``.

    Raises:
        InputError: it pads, but not by zeros; the shape is not the layer's; a BatchNorm without running statistics.
    """
    found = problems(layer, shape)
    if kind not in ("l1", "linf"):
        found.append(refusal("kind 'l1' or 'linf'", repr(kind), "for l2 there is spectral_norm"))
    _refuse(found)
    if isinstance(layer, BatchNorm):
        return scales(layer).abs().max()
    sizes, rows = weight_of(layer).abs(), kind == "linf"
    if isinstance(layer, nn.Linear):
        return sizes.sum(dim=1 if rows else 0).max()
    taps = sizes.sum(dim=1) if rows else sizes.unflatten(0, (layer.groups, -1)).sum(dim=1).flatten(0, 1)
    sums = taps.double()
    for axis in range(len(layer.kernel_size)):  # each takes the kernel's next dimension and adds one of sets at the end
        sums = torch.tensordot(sums, _met(layer, shape, axis, rows).to(taps.device).double(), dims=([1], [0]))
    return sums.max().to(taps.dtype)


def _met(layer: Conv, shape: Shape, axis: int, rows: bool) -> Bool[Tensor, "k p"]:
    """Which taps meet the image at an output (rows), or reach an input from any output: each set of taps once."""
    positions = torch.arange(outputs(layer, shape)[axis]) * layer.stride[axis] - margins(layer)[axis][0]
    taps = torch.arange(layer.kernel_size[axis])[:, None] * layer.dilation[axis]
    reached = (taps + positions)[..., None] == torch.arange(shape[1 + axis])
    sets: Tensor = reached.any(dim=2 if rows else 1).unique(dim=1)
    return sets


def spectral_norm(layer: Affine, shape: Shape, steps: int = 200, tolerance: float = 1e-4) -> Scalar:
    """The layer's operator norm from l2 to l2, its largest singular value, on inputs of this shape.

    Exact for a linear layer, by its SVD, and for a BatchNorm. For a convolution, with its own stride and zero
    padding, a **lower bound** that converges: power iteration on ``A^T A`` that keeps the whole Krylov space
    (Golub and Kahan's bidiagonalisation), always from the same start. The largest ``||A x||`` over the space's unit
    vectors only grows; it ends where that grew by less than ``tolerance`` over the last ten steps.

    Args:
        layer: the layer; its bias does not matter.
        shape: of one input, (channels, height, width) or (features,).
        steps: at most so many products with ``A`` and with ``A^T``.
        tolerance: relative.

    Raises:
        InputError: as for ``norm``; ``steps`` below 1 or a ``tolerance`` that is not a number >= 0.
    """
    found = problems(layer, shape)
    found += [] if steps >= 1 else [refusal("steps >= 1", steps, "200 is the default")]
    found += (
        []
        if 0 <= tolerance < math.inf
        else [refusal("tolerance >= 0, a finite number", tolerance, "1e-4 is the default")]
    )
    _refuse(found)
    if isinstance(layer, BatchNorm):
        return scales(layer).abs().max()
    if isinstance(layer, nn.Linear):
        largest: Tensor = torch.linalg.svdvals(weight_of(layer))[0]
        return largest
    weight = weight_of(layer)
    # A GPU's convolutions of float32 round to TF32, and what they find could be above the norm.
    return _krylov(layer, shape, weight.double() if weight.is_cuda else weight, steps, tolerance).to(weight.dtype)


def _krylov(layer: Conv, shape: Shape, weight: Tensor, steps: int, tolerance: float) -> Scalar:
    start = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(weight)
    right, left = _unit(start)[0], weight.new_zeros(())
    diagonal: list[Tensor] = []
    above: list[Tensor] = []
    beta = last = best = weight.new_zeros(())
    for step in range(1, steps + 1):
        left, alpha = _unit(applied(layer, right, weight) - beta * left)
        diagonal.append(alpha)
        if step % CHECKED_EVERY == 0 or step == steps:
            matrix = torch.diag(torch.stack(diagonal))
            if above:
                matrix += torch.diag(torch.stack(above), 1)
            best = torch.linalg.svdvals(matrix)[0]
            if bool(best - last <= tolerance * best):
                break
            last = best
        right, beta = _unit(adjoint(layer, left, weight, shape) - alpha * right)
        above.append(beta)
    return best


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` over its l2 norm, or 0 for 0; and the norm."""
    length: Tensor = torch.linalg.vector_norm(x)
    return x / length.clamp_min(torch.finfo(x.dtype).tiny), length


def outputs(layer: Conv, shape: Shape) -> tuple[int, ...]:
    """Height and width of the output; below 1 where the kernel does not fit."""
    rest = [side + sum(pair) - size for side, pair, size in zip(shape[1:], margins(layer), extent(layer), strict=True)]
    return tuple(left // stride + 1 for left, stride in zip(rest, layer.stride, strict=True))


def problems(layer: Affine, shape: Shape, name: str = "the layer") -> list[str]:
    """Why the layer has no norm on inputs of this shape, one sentence each; empty if it has one."""
    found = misfit(layer, shape, name)
    if layer.weight is not None and layer.weight.is_complex():
        found.append(refusal(f"real weights in {name}", layer.weight.dtype, "leave it out: norms are of real maps"))
    if isinstance(layer, BatchNorm):
        return found + without_statistics(layer, name)
    if isinstance(layer, nn.Linear):
        return found
    if not found and min(outputs(layer, shape)) < 1:
        found.append(refusal(f"an input as large as the kernel of {name}", shape, "pass larger images"))
    if layer.padding_mode != "zeros" and pads(layer):
        do = "build it with padding_mode='zeros': the norm is exact for no other"
        found.append(refusal(f"zero padding in {name}", repr(layer.padding_mode), do))
    return found


def pads(layer: Conv) -> bool:
    """Whether it pads its inputs at all; where it does not, its ``padding_mode`` means nothing."""
    return any(max(pair) > 0 for pair in margins(layer))


def _refuse(found: list[str]) -> None:
    if found:
        raise InputError(*found)
