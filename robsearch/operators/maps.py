"""What one layer does as a linear map, its bias left out; zero padding throughout."""

from __future__ import annotations

from typing import TypeAlias

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robsearch.errors import InputError, refusal

Layer: TypeAlias = nn.Conv2d | nn.Linear
Affine: TypeAlias = nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d
Shape: TypeAlias = tuple[int, ...]
"""One input of a layer, without the batch: (channels, height, width) or (features,)."""


def applied(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer on ``x``, (n, *shape), as a linear map: without bias, with this weight, padded by zeros."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def adjoint(layer: Layer, y: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """The transposed map of ``applied`` on outputs ``y``: (n, *shape), so that ``<A x, y> = <x, adjoint(y)>``.

    ``conv_transpose2d`` alone would not do: it knows neither an input that the stride left a rest of, nor padding
    that is wider on one side.
    """
    if isinstance(layer, nn.Linear):
        return F.linear(y, weight.T)
    (top, bottom), (left, right) = margins(layer)
    height, width = shape[1:]
    reached = F.conv_transpose2d(y, weight, None, layer.stride, 0, 0, layer.groups, layer.dilation)
    padded = y.new_zeros(len(y), shape[0], top + height + bottom, left + width + right)
    padded[..., : reached.shape[2], : reached.shape[3]] = reached
    return padded[..., top : top + height, left : left + width]


def margins(layer: nn.Conv2d) -> list[tuple[int, int]]:
    """Pixels of padding (above, below) and (left, right)."""
    if isinstance(layer.padding, str):
        both = [side - 1 if layer.padding == "same" else 0 for side in extent(layer)]
        return [(pad // 2, pad - pad // 2) for pad in both]
    return [(pad, pad) for pad in layer.padding]


def extent(layer: nn.Conv2d) -> tuple[int, int]:
    """Height and width of the kernel with its holes, in pixels."""
    down, right = (1 + d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return down, right


def misfit(layer: Affine, shape: Shape, name: str = "the layer") -> list[str]:
    """The problem with a shape that is not that of an input of the layer; empty if it may be."""
    if isinstance(layer, nn.Conv2d):
        fits = len(shape) == 3 and shape[0] == layer.in_channels
    elif isinstance(layer, nn.Linear):
        fits = shape[-1:] == (layer.in_features,)
    else:
        fits = shape[:1] == (layer.num_features,)
    do = "pass the shape of one input, without the batch"
    return [] if fits else [refusal(f"the shape of an input of {name}, {layer}", shape, do)]


def reshaped(layer: Layer) -> Float[Tensor, "o i"]:
    """The weight as a matrix, (out, in / groups * kernel height * kernel width); a convolution's own is larger."""
    return layer.weight.detach().flatten(1)


def scales(batch_norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Float[Tensor, "c"]:
    """What BatchNorm multiplies each channel by in eval mode: ``gamma / sqrt(running variance + eps)``.

    Raises:
        InputError: it keeps no running statistics: what it does depends on the batch.
    """
    if batch_norm.running_var is None:
        raise InputError(*without_statistics(batch_norm, "the BatchNorm"))
    scale = (batch_norm.running_var + batch_norm.eps).rsqrt()
    return scale if batch_norm.weight is None else batch_norm.weight.detach() * scale


def without_statistics(batch_norm: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> list[str]:
    """The problem with a BatchNorm that keeps no running statistics; empty if it keeps them."""
    if batch_norm.running_var is not None:
        return []
    do = "build it with track_running_stats=True: otherwise it is no linear map"
    return [refusal(f"running statistics in {name}", "none", do)]


def fold(layer: Layer, batch_norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Layer:
    """One layer, without bias, that does what ``layer`` and then ``batch_norm`` in eval mode do, as linear maps.

    A new module, without gradient; its weight is the layer's, each output channel times BatchNorm's factor.

    Raises:
        InputError: the BatchNorm has another number of channels, or no running statistics.
    """
    weight = layer.weight.detach()
    if batch_norm.num_features != len(weight):
        expected = f"a BatchNorm of the layer's {len(weight)} output channels"
        raise InputError(refusal(expected, batch_norm.num_features, "pass the one that the layer feeds"))
    twin = _blank(layer)
    twin.weight = nn.Parameter(weight * scales(batch_norm).to(weight).view(-1, *[1] * (weight.ndim - 1)), False)
    return twin


def _blank(layer: Layer) -> Layer:
    """The same layer without weights and bias, made from its arguments: a copy would bring its hooks along."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size[0], layer.kernel_size[1]),
        stride=(layer.stride[0], layer.stride[1]),
        padding=layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1]),
        dilation=(layer.dilation[0], layer.dilation[1]),
        groups=layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
        device="meta",
    )
