"""Penalties that add to the training loss: a larger average margin, weights near to orthogonal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robsearch.errors import number, refuse_unless
from robsearch.network.layers import trained
from robsearch.network.modes import logit_margin
from robsearch.network.operators import Layer, groups
from robsearch.protocols import Labels, Logits, Penalty, Scalar


@dataclass(frozen=True)
class AverageMargin(Penalty):
    """``mu * mean(clamp(tau - alpha, 0, tau))`` with ``alpha`` the logit margin (arXiv 1907.11780).

    ``alpha = f_y - max_{k != y} f_k`` on the clean images, in logits. It is the paper's truncated
    average margin: a gradient comes only from examples with ``0 < alpha < tau``, neither from wrong
    ones nor from ones that are far enough. (The paper's released code clamps ``-alpha`` instead,
    which acts on the wrong ones only.)

    Attributes:
        mu: the strength, at least 0, per logit; 0.1 in the paper.
        tau: the margin in logits beyond which no more is asked for; 5, 10 and 40 in the paper.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    mu: float = 0.1
    tau: float = 10.0

    def __post_init__(self) -> None:
        refuse_unless(
            number("mu", self.mu, "0.1 is the paper's", at_least=0),
            number("tau", self.tau, "the paper uses 5, 10 and 40", above=0),
        )

    def loss(
        self,
        model: nn.Module,
        clean_logits: Logits,
        y: Labels,
    ) -> Scalar:
        """The penalty, a batch mean from 0 to ``mu * tau``.

        Raises:
            InputError: fewer than two classes.
        """
        shortfall = (self.tau - logit_margin(clean_logits, y)).clamp(0, self.tau)
        return self.mu * shortfall.mean()


@dataclass(frozen=True)
class Orthogonality(Penalty):
    """``beta * sum ||W W^T - I||_F^2`` over convolutions and linear layers (arXiv 1907.11780).

    A convolution's ``W`` is its kernel as ``out x (in k k)``; with groups, one such block each.
    Where ``W`` has more rows than columns, ``W^T W`` takes the place of ``W W^T``, which cannot be
    the identity there: the two losses differ by the constant rows - columns, so their gradients are
    the same, and this one can reach 0. Frozen weights do not count.

    Attributes:
        beta: the strength, at least 0; 1e-3 in the paper.

    Raises:
        InputError: ``beta`` is negative or not finite.
    """

    beta: float = 1e-3

    def __post_init__(self) -> None:
        refuse_unless(number("beta", self.beta, "1e-3 is the paper's", at_least=0))

    def loss(
        self,
        model: nn.Module,
        clean_logits: Logits,
        y: Labels,
    ) -> Scalar | None:
        """The penalty, or None for a model without such layers."""
        distances = [_from_orthogonal(layer) for _, layer in trained(model)]
        if not distances:
            return None
        return self.beta * torch.stack(distances).sum()


def _from_orthogonal(layer: Layer) -> Scalar:
    by_group: Tensor = layer.weight.unflatten(0, (groups(layer), -1))
    blocks = by_group.flatten(2)
    if blocks.shape[1] > blocks.shape[2]:
        blocks = blocks.mT
    gram = blocks @ blocks.mT
    identity = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    return (gram - identity).square().sum()
