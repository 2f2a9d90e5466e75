"""Norm decay: the layers' exact operator norms, pulled down through the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robsearch.errors import InputError, number, refusal, refuse_unless
from robsearch.layers import input_sizes, layers, sized
from robsearch.operators import Layer, Shape, applied, pads
from robsearch.protocols import Labels, Logits, PenaltyState, Scalar


@dataclass(frozen=True)
class NormDecay:
    """Norm decay of convolutions and linear layers (arXiv 2009.08435).

    Before each optimiser step, for each layer's weight ``W`` with a direction ``G`` of its shape, from 0:
    ``G <- mu G``; ``G[S] <- sign(W[S])``; ``gradient += beta G``. ``S`` are the entries of ``W`` that enter the
    row (``linf``) or column (``l1``) of largest absolute sum of the layer's whole matrix, on the layer's own input
    size with its own stride, zero padding, dilation and groups: the sum is the exact operator norm
    ``max(conv(ones_in, |W|))`` (l1: ``max(conv_transpose(ones_out, |W|))``), and at ``mu = 0`` ``G`` is its
    subgradient. Of several maximal sets the first counts. Biases and BatchNorm are left alone.

    The state holds ``direction/<layer>`` (``G``) and ``input/<layer>``, a convolution's input size: zeros until
    the first forward after ``init`` writes it there through a hook that then removes itself.

    Attributes:
        beta: the strength, at least 0; 1e-5 to 1e-1 in the paper. The optimiser's learning rate multiplies it.
        mu: what stays of ``G`` from step to step, in [0, 1).
        norm: ``linf`` (the largest row sum) or ``l1`` (the largest column sum).

    Raises:
        InputError: all fields that do not fit, at once.
    """

    beta: float = 1e-3
    mu: float = 0.5
    norm: Literal["l1", "linf"] = "linf"

    def __post_init__(self) -> None:
        refuse_unless(
            number("beta", self.beta, ">= 0", "the paper uses 1e-5 to 1e-1"),
            number("mu", self.mu, "in [0, 1)", "0.5 is the paper's"),
            (self.norm in ("l1", "linf"), "norm 'l1' or 'linf'", repr(self.norm), "pass one of these"),
        )

    def init(self, model: nn.Module) -> PenaltyState:
        """Directions of zeros, and input sizes for the model's next forward to fill in.

        Raises:
            InputError: convolutions that do not pad with zeros, whose norm is another; names them all.
        """
        do = "build it with padding_mode='zeros': the norm is exact for no other"
        padded = [
            refusal(f"zero padding in {name or 'the model'}", repr(layer.padding_mode), do)
            for name, layer in layers(model)
            if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros" and pads(layer)
        ]
        if padded:
            raise InputError(*padded)
        directions = {f"direction/{name}": torch.zeros_like(layer.weight.detach()) for name, layer in layers(model)}
        return directions | input_sizes(model)

    def loss(self, model: nn.Module, clean_logits: Logits, y: Labels) -> Scalar | None:
        """None."""
        return None

    def before_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """Adds ``beta G`` to the gradient of each weight that has one; the state with the new ``G``.

        Raises:
            InputError: the state is not the one that ``init`` gave before the model's first forward.
        """
        new = dict(state)
        for name, layer, shape in sized(model, state):
            weight, key = layer.weight.detach(), f"direction/{name}"
            if layer.weight.grad is not None:
                faded = self.mu * state[key].to(weight.device)
                new[key] = torch.where(largest_set(layer, shape, self.norm), weight.sign(), faded)
                layer.weight.grad.add_(new[key], alpha=self.beta)
        return new

    def after_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """Nothing: the same state."""
        return state


def largest_set(layer: Layer, shape: Shape, norm: Literal["l1", "linf"]) -> Tensor:
    """True for the entries of the weight in the layer's row (linf) or column (l1) of largest absolute sum.

    Args:
        layer: with a weight of any shape; the result has the same.
        shape: of one input, (channels, height, width) or (features,).
        norm: which operator norm the sum is.
    """
    with torch.enable_grad():
        size = layer.weight.detach().abs().requires_grad_()
        ones = size.new_ones(1, *shape).requires_grad_()
        sums = applied(layer, ones, size)
        if norm == "l1":  # the adjoint of the rows' ones: columns' sums, exact where the stride skips inputs
            (sums,) = torch.autograd.grad(sums.sum(), ones, create_graph=True)
        (counts,) = torch.autograd.grad(sums.flatten().max(dim=0).values, size)
    return counts > 0.5  # 0 or 1, up to the rounding of a fast convolution
