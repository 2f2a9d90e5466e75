"""A network's layers as linear maps: which there are, how large their inputs are, and what they do to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.errors import InputError, refusal
from robsearch.protocols import PenaltyState

Layer: TypeAlias = nn.Conv2d | nn.Linear
Shape: TypeAlias = tuple[int, ...]
"""One input of a layer, without the batch: (channels, height, width) or (features,)."""


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Name and module of each ``Conv2d`` and ``Linear``, in the model's order.

    Others are left alone, and so is a weight that is computed from others (``nn.utils.parametrizations``).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and isinstance(module.weight, nn.Parameter):
            yield name, module


def trained(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Those of ``layers`` whose weight is not frozen."""
    return ((name, layer) for name, layer in layers(model) if layer.weight.requires_grad)


def input_sizes(model: nn.Module) -> PenaltyState:
    """``input/<layer>`` for each convolution: (height, width) of its input in pixels, whole numbers on the CPU.

    They are zeros until the model's next forward fills them in, in place, by a hook on each convolution that then
    removes itself (from a deep copy of the model too, at the copy's first forward). A convolution that is run on
    several sizes counts with its first.
    """
    sizes = {name: torch.zeros(2, dtype=torch.int64) for name, layer in layers(model) if isinstance(layer, nn.Conv2d)}
    for name, size in sizes.items():
        _Once(model.get_submodule(name), size)
    return {f"input/{name}": size for name, size in sizes.items()}


class _Once:
    """A hook that writes a layer's input size down and goes; a class, so that copies and pickles carry it along."""

    def __init__(self, layer: nn.Module, size: Tensor) -> None:
        self.size = size
        self.handle = layer.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        self.size.copy_(torch.tensor(x.shape[-2:]))
        self.handle.remove()


def sized(model: nn.Module, state: PenaltyState) -> list[tuple[str, Layer, Shape]]:
    """The trained layers that the model has run, each with its input's shape.

    Raises:
        InputError: the state knows no convolution's size: it is not the one that ``init`` gave before a forward.
    """
    found = [(name, layer, _shape(layer, state.get(f"input/{name}"))) for name, layer in trained(model)]
    run = [item for item in found if 0 not in item[2]]
    if any(isinstance(layer, nn.Conv2d) for _, layer, _ in found) and all(len(shape) == 1 for _, _, shape in run):
        do = "call init before the model's first forward and hand on the state it returned"
        raise InputError(refusal("a state with the input size of each convolution", "none", do))
    return run


def _shape(layer: Layer, size: Tensor | None) -> Shape:
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    return (layer.in_channels, *([0, 0] if size is None else size.tolist()))


def applied(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer on ``x``, (n, *shape), as a linear map: without bias, with this weight, padded by zeros."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
