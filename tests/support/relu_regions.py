"""The exact local Lipschitz constant of small ReLU networks, by all linear regions that a box
meets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

Map = tuple[np.ndarray, np.ndarray]
"""(a, b) of ``a x + b``."""


def linf_to_l1(matrix: Tensor) -> float:
    """``||W||_inf->1``, by all sign vectors t: max ||W^T t||_1."""
    signs = torch.tensor(
        list(itertools.product([1.0, -1.0], repeat=len(matrix))), dtype=matrix.dtype
    )
    return (signs @ matrix).abs().sum(1).max().item()


def local_constant(model: nn.Sequential, low: Tensor, high: Tensor) -> float:
    """The largest ``||J||_inf->1`` over the regions in the box of one image, of a Flatten, Linears
    and ReLUs."""
    box = np.stack([low.flatten().numpy(), high.flatten().numpy()], axis=1)
    identity = np.eye(len(box)), np.zeros(len(box))
    return max(linf_to_l1(torch.from_numpy(a)) for a in _jacobians(list(model), identity, [], box))


def _jacobians(
    layers: list[nn.Module], inner: Map, halves: list[Map], box: np.ndarray
) -> Iterator[np.ndarray]:
    if not layers:
        yield inner[0]
    elif isinstance(layers[0], nn.Linear):
        weight, bias = (p.detach().double().numpy() for p in layers[0].parameters())
        yield from _jacobians(
            layers[1:], (weight @ inner[0], weight @ inner[1] + bias), halves, box
        )
    elif isinstance(layers[0], nn.ReLU):
        for signs, found in _patterns(inner, (), halves, box):
            on = (np.array(signs) > 0)[:, None]
            yield from _jacobians(layers[1:], (inner[0] * on, inner[1] * on[:, 0]), found, box)
    else:
        assert isinstance(layers[0], nn.Flatten)
        yield from _jacobians(layers[1:], inner, halves, box)


def _patterns(
    inner: Map, signs: tuple[int, ...], halves: list[Map], box: np.ndarray
) -> Iterator[tuple[tuple[int, ...], list[Map]]]:
    """Signs of all units that occur together inside the box, unit by unit, with the half spaces
    that say so."""
    if len(signs) == len(inner[1]):
        yield signs, halves
        return
    a, b = inner[0][len(signs)], inner[1][len(signs)]
    for sign in (1, -1):
        more = [*halves, (sign * a, sign * b)]
        if _have_interior(more, box):
            yield from _patterns(inner, (*signs, sign), more, box)


def _have_interior(halves: list[Map], box: np.ndarray) -> bool:
    """Some point of the box lies inside all half spaces ``a x + b >= 0`` by more than rounding."""
    a, b = np.array([a for a, _ in halves]), np.array([b for _, b in halves])
    slack = np.ones((len(b), 1))
    bounds = [*map(tuple, box), (None, 1.0)]
    found = linprog([0.0] * len(box) + [-1.0], A_ub=np.hstack([-a, slack]), b_ub=b, bounds=bounds)
    return bool(found.status == 0 and -found.fun > 1e-9)
