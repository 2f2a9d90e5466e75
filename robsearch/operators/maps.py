"""What one layer does as a linear map, its bias left out; zero padding throughout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robsearch.errors import InputError, refusal

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
Layer: TypeAlias = Conv | nn.Linear
Affine: TypeAlias = Layer | BatchNorm
Shape: TypeAlias = tuple[int, ...]
"""One input of a layer, without the batch: (channels, height, width) or (features,)."""
CONVOLUTIONS: dict[int, tuple[Any, Any, Any]] = {
    1: (nn.Conv1d, F.conv1d, F.conv_transpose1d),
    2: (nn.Conv2d, F.conv2d, F.conv_transpose2d),
    3: (nn.Conv3d, F.conv3d, F.conv_transpose3d),
}
"""By the number of dimensions: module, function and transposed function."""


def applied(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer on ``x``, (n, *shape), as a linear map: without bias, with this weight, padded by zeros."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    convolve: Callable[..., Tensor] = CONVOLUTIONS[len(layer.kernel_size)][1]
    return convolve(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def adjoint(layer: Layer, y: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """The transposed map of ``applied`` on outputs ``y``: (n, *shape), so that ``<A x, y> = <x, adjoint(y)>``.

    torch's transposed convolution alone would not do: it knows neither an input that the stride left a
    rest of, nor padding that is wider on one side.
    """
    if isinstance(layer, nn.Linear):
        return F.linear(y, weight.T)
    pads = margins(layer)
    transpose: Callable[..., Tensor] = CONVOLUTIONS[len(layer.kernel_size)][2]
    reached = transpose(y, weight, None, layer.stride, 0, 0, layer.groups, layer.dilation)
    sides = [low + side + high for side, (low, high) in zip(shape[1:], pads, strict=True)]
    padded = y.new_zeros(len(y), shape[0], *sides)
    reach: tuple[Any, ...] = (..., *(slice(side) for side in reached.shape[2:]))
    inner: tuple[Any, ...] = (..., *(slice(low, low + side) for side, (low, _) in zip(shape[1:], pads, strict=True)))
    padded[reach] = reached
    return padded[inner]


def convolution(layer: Transposed) -> Conv:
    """The convolution whose adjoint a transposed one is: from inputs shaped as its outputs to its inputs."""
    dims = len(layer.kernel_size)
    twin: Conv = CONVOLUTIONS[dims][0](
        layer.out_channels,
        layer.in_channels,
        tuple(layer.kernel_size),
        stride=tuple(layer.stride),
        padding=tuple(layer.padding),
        dilation=tuple(layer.dilation),
        groups=layer.groups,
        bias=False,
        device="meta",
    )
    twin.weight = nn.Parameter(layer.weight.detach(), False)
    return twin


def margins(layer: Conv) -> list[tuple[int, int]]:
    """Pixels of padding before and after, for each dimension: (above, below) and (left, right)."""
    if isinstance(layer.padding, str):
        both = [side - 1 if layer.padding == "same" else 0 for side in extent(layer)]
        return [(pad // 2, pad - pad // 2) for pad in both]
    return [(pad, pad) for pad in layer.padding]


def extent(layer: Conv) -> tuple[int, ...]:
    """Height and width of the kernel with its holes, in pixels."""
    return tuple(1 + d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))


def misfit(layer: Affine, shape: Shape, name: str = "the layer") -> list[str]:
    """The problem with a shape that is not that of an input of the layer; empty if it may be."""
    if isinstance(layer, Conv):
        fits = len(shape) == 1 + len(layer.kernel_size) and shape[0] == layer.in_channels
    elif isinstance(layer, nn.Linear):
        fits = shape[-1:] == (layer.in_features,)
    else:
        fits = shape[:1] == (layer.num_features,)
    do = "pass the shape of one input, without the batch"
    return [] if fits else [refusal(f"the shape of an input of {name}, {layer}", shape, do)]


def reshaped(layer: Layer) -> Float[Tensor, "o i"]:
    """The weight as a matrix, (out, in / groups * kernel height * kernel width); a convolution's own is larger."""
    return weight_of(layer).flatten(1)


def weight_of(layer: Layer) -> Tensor:
    """The weight, without gradient; one of 16 bits as float32."""
    weight = layer.weight.detach()
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def scales(batch_norm: BatchNorm) -> Float[Tensor, "c"]:
    """What BatchNorm multiplies each channel by in eval mode: ``gamma / sqrt(running variance + eps)``.

    Raises:
        InputError: it keeps no running statistics: what it does depends on the batch.
    """
    if batch_norm.running_var is None:
        raise InputError(*without_statistics(batch_norm, "the BatchNorm"))
    scale = (batch_norm.running_var + batch_norm.eps).rsqrt()
    return scale if batch_norm.weight is None else batch_norm.weight.detach() * scale


def without_statistics(batch_norm: BatchNorm, name: str) -> list[str]:
    """The problem with a BatchNorm that keeps no running statistics; empty if it keeps them."""
    if batch_norm.running_var is not None:
        return []
    do = "build it with track_running_stats=True: otherwise it is no linear map"
    return [refusal(f"running statistics in {name}", "none", do)]


def fold(layer: Layer, batch_norm: BatchNorm, adjoint: bool = False) -> Layer:
    """One layer, without bias, that does what ``layer`` and then ``batch_norm`` in eval mode do, as linear maps.

    A new module, without gradient; its weight is the layer's, each output channel times BatchNorm's factor. With
    ``adjoint`` the layer stands for its adjoint, as in ``convolution``, which the BatchNorm follows.

    Raises:
        InputError: the BatchNorm has another number of channels, or no running statistics.
    """
    weight = layer.weight.detach()
    groups = layer.groups if adjoint and isinstance(layer, Conv) else 1
    channels = weight.shape[1] * groups if adjoint else len(weight)
    if batch_norm.num_features != channels:
        expected = f"a BatchNorm of the layer's {channels} output channels"
        raise InputError(refusal(expected, batch_norm.num_features, "pass the one that the layer feeds"))
    twin, scale = _blank(layer), scales(batch_norm).to(weight)
    if adjoint:
        rows = scale.view(groups, 1, -1, *[1] * (weight.ndim - 2))
        folded = (weight.unflatten(0, (groups, -1)) * rows).flatten(0, 1)
    else:
        folded = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    twin.weight = nn.Parameter(folded, False)
    return twin


def _blank(layer: Layer) -> Layer:
    """The same layer without weights and bias, made from its arguments: a copy would bring its hooks along."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    blank: Conv = CONVOLUTIONS[len(layer.kernel_size)][0](
        layer.in_channels,
        layer.out_channels,
        tuple(layer.kernel_size),
        stride=tuple(layer.stride),
        padding=layer.padding if isinstance(layer.padding, str) else tuple(layer.padding),
        dilation=tuple(layer.dilation),
        groups=layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    return blank
