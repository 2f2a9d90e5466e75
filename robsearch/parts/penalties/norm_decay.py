"""Norm decay: the layers' exact operator norms, pulled down through the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robsearch.errors import number, one_of, refusal, refuse, refuse_unless
from robsearch.network.layers import input_sizes, layers, sized
from robsearch.network.operators import Layer, Shape, applied, pads
from robsearch.protocols import Penalty, PenaltyState


@dataclass(frozen=True)
class NormDecay(Penalty):
    """Norm decay of convolutions and linear layers (arXiv 2009.08435).

    Before each optimiser step, for each layer's weight ``W`` with a direction ``G`` of its shape,
    from 0: ``G <- mu G``; ``G[S] <- sign(W[S])``; ``gradient += beta G``. ``S`` are the entries of
    ``W`` that enter the row (``linf``) or column (``l1``) of largest absolute sum of the layer's
    whole matrix, on the layer's own input size with its own stride, zero padding, dilation and
    groups: the sum is the exact operator norm ``max(conv(ones_in, |W|))`` (l1:
    ``max(conv_transpose(ones_out, |W|))``), and at ``mu = 0`` ``G`` is its subgradient. Of several
    maximal sets the first counts. Biases and BatchNorm are left alone.

    The state holds ``direction/<layer>`` (``G``) and ``input/<layer>``, a convolution's input size:
    zeros until the first forward after ``init`` writes it there through a hook that then removes
    itself.

    Attributes:
        beta: the strength, at least 0; 1e-5 to 1e-1 in the paper. The optimiser's learning rate
            multiplies it.
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
            number("beta", self.beta, "the paper uses 1e-5 to 1e-1", at_least=0),
            number("mu", self.mu, "0.5 is the paper's", at_least=0, below=1),
            one_of("norm", self.norm, "l1", "linf"),
        )

    def init(self, model: nn.Module) -> PenaltyState:
        """Directions of zeros, and input sizes for the model's next forward to fill in.

        Raises:
            InputError: convolutions that do not pad with zeros, whose norm is another; names them
                all.
        """
        do = "build it with padding_mode='zeros': the norm is exact for no other"
        problems = []
        directions = {}
        for name, layer in layers(model):
            directions[f"direction/{name}"] = torch.zeros_like(layer.weight.detach())
            if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros" and pads(layer):
                expected = f"zero padding in {name or 'the model'}"
                problems.append(refusal(expected, repr(layer.padding_mode), do))
        refuse(problems)
        return directions | input_sizes(model)

    def before_step(
        self,
        model: nn.Module,
        state: PenaltyState,
        step: int,
    ) -> PenaltyState:
        """Adds ``beta G`` to the gradient of each weight that has one; the state with the new
        ``G``.

        Raises:
            InputError: the state is not the one that ``init`` gave before the model's first
                forward.
        """
        new = dict(state)
        for name, layer, shape in sized(model, state):
            if layer.weight.grad is None:
                continue
            weight = layer.weight.detach()
            key = f"direction/{name}"
            faded = self.mu * state[key].to(weight.device)
            is_largest = largest_set(layer, shape, self.norm)
            new[key] = torch.where(is_largest, weight.sign(), faded)
            layer.weight.grad.add_(new[key], alpha=self.beta)
        return new


def largest_set(
    layer: Layer,
    shape: Shape,
    norm: Literal["l1", "linf"],
) -> Tensor:
    """True for the entries of the weight in the layer's row (linf) or column (l1) of largest
    absolute sum.

    Args:
        layer: with a weight of any shape; the result has the same.
        shape: of one input, (channels, height, width) or (features,).
        norm: which operator norm the sum is.
    """
    # The gradient of the largest sum is 1 at each entry that is in it, and 0 elsewhere.
    with torch.enable_grad():
        size = layer.weight.detach().abs().requires_grad_()
        ones = size.new_ones(1, *shape).requires_grad_()
        sums = applied(layer, ones, size)
        if norm == "l1":
            # The adjoint of the rows' ones: columns' sums, exact where the stride skips inputs.
            (sums,) = torch.autograd.grad(sums.sum(), ones, create_graph=True)
        # max over a dimension picks one maximal set; max over all would share the gradient out.
        largest = sums.flatten().max(dim=0).values
        (counts,) = torch.autograd.grad(largest, size)
    return counts > 0.5  # 0 or 1, up to the rounding of a fast convolution
