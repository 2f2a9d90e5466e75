"""The contract of the penalties, over a few optimiser steps of a small network."""

from __future__ import annotations

import io
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.protocols import Penalty, PenaltyState
from robsearch.testing.promises import CLASSES, SHAPE, N, contract, left_alone, promise

STEPS = 4
"""Optimiser steps of the check, numbered from 0: give a penalty that acts seldom a shorter period."""


@contract(Penalty)
def check_penalty(penalty: Penalty, /) -> None:
    """A state of named tensors; a finite loss with a gradient, or None; each method changes its own place only.

    ``before_step`` changes gradients of trained weights, ``after_step`` trained weights, in place; ``init`` and
    ``loss`` nothing; none the state it is given. Four steps of a small network with convolutions, BatchNorm and
    frozen parts end alike when they are repeated, and when half-way weights and state go through ``torch.save``
    (read with ``weights_only``) into a new network on which ``init`` is not called.
    """
    first, again, resumed = _trained(penalty), _trained(penalty), _trained(penalty, resumed_at=STEPS // 2)
    promise(_alike(first, again), penalty, "the same weights and state from the same start", "others")
    promise(_alike(first, resumed), penalty, "a resumed training to end like one that went on", "another end")


def _trained(penalty: Penalty, resumed_at: int | None = None) -> dict[str, Tensor]:
    network = _network()
    with left_alone(penalty, network):
        state = penalty.init(network)
    _check_state(penalty, "init", state)
    for step in range(STEPS):
        if step == resumed_at:
            weights, state = _reloaded((network.state_dict(), state))
            network = _network()
            network.load_state_dict(weights)
        state = _step(penalty, network, state, step)
    return network.state_dict() | {f"state {name}": value for name, value in state.items()}


def _network() -> nn.Module:
    """Convolutions with a stride and with groups, statistics that move and that are frozen, a frozen bias."""
    torch.manual_seed(0)
    last = nn.Linear(16 * 4, CLASSES)
    last.bias.requires_grad_(False)
    convolutions = (nn.Conv2d(SHAPE[0], 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2))
    first, second = (nn.Sequential(layer, nn.BatchNorm2d(4), nn.SiLU()) for layer in convolutions)
    second[1].eval()
    return nn.Sequential(first, second, nn.Flatten(), last)


def _step(penalty: Penalty, network: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
    torch.manual_seed(step)
    x, y = torch.rand(N, *SHAPE), torch.arange(N) % CLASSES
    network.zero_grad(set_to_none=True)
    logits = network(x)
    with left_alone(penalty, network):
        added, confident = (penalty.loss(network, scale * logits, y) for scale in (1, 1000))
    _check_loss(penalty, network, added)
    _check_loss(penalty, network, confident)
    total = F.cross_entropy(logits, y)
    (total if added is None else total + added).backward()
    state = _called(penalty, "before_step", "gradients", network, state, step)
    _descend(penalty, network)
    return _called(penalty, "after_step", "weights and statistics", network, state, step)


def _descend(penalty: Penalty, network: nn.Module) -> None:
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            finite = weight.grad is not None and bool(weight.grad.isfinite().all())
            promise(finite, penalty, f"a finite gradient from before_step in {name}", weight.grad)
            weight.data.sub_(cast(Tensor, weight.grad), alpha=0.1)


def _called(
    penalty: Penalty, method: str, changes: str, network: nn.Module, state: PenaltyState, step: int
) -> PenaltyState:
    before = {name: value.clone() for name, value in state.items()}
    with left_alone(penalty, network, but=changes):
        new: PenaltyState = getattr(penalty, method)(network, state, step)
    promise(_alike(before, state), penalty, f"{method} to leave its state alone", "a change in it")
    _check_state(penalty, method, new)
    return new


def _check_state(penalty: Penalty, method: str, state: Any) -> None:
    legal = type(state) is dict and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    promise(legal, penalty, f"{method} to give a dict of named tensors", state)
    attached = [name for name, value in state.items() if value.requires_grad]
    promise(not attached, penalty, f"{method} to give a state without gradient", f"one in {', '.join(attached)}")
    promise(_alike(state, _reloaded(state)), penalty, f"{method}'s state to survive torch.save", "another")


def _check_loss(penalty: Penalty, network: nn.Module, loss: Tensor | None) -> None:
    if loss is None:
        return
    legal = isinstance(loss, Tensor) and loss.shape == () and bool(loss.isfinite())
    promise(legal, penalty, "a finite scalar as loss, or None", loss)
    promise(loss.requires_grad, penalty, "a loss with a gradient", "none")
    weights = [p for p in network.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    finite = all(bool(slope.isfinite().all()) for slope in slopes if slope is not None)
    promise(finite, penalty, "a loss with a finite gradient", "NaN or infinity")


def _reloaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
