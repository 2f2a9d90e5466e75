"""Layers as dense matrices, made by running them on all inputs of which one entry is 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def units(shape: tuple[int, ...]) -> Tensor:
    """All inputs of this shape of which one entry is 1 and the others are 0, in float64."""
    return torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)


def dense(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The matrix of what the layer does, less what it does to 0: (outputs, inputs)."""
    with torch.no_grad():
        return (
            (layer(units(shape)) - layer(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1).T
        )
