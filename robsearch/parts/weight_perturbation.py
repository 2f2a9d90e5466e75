"""Adversarial weight perturbation: the gradient is taken where a small change of the weights hurts
most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robsearch.errors import number, refuse_unless, refused, share
from robsearch.network.modes import frozen_statistics
from robsearch.protocols import Scalar


@dataclass(frozen=True)
class WeightPerturbation:
    """Adversarial weight perturbation, AWP, in one ascent step (arXiv 2004.05884).

    Each weight tensor ``w`` with more than one dimension moves by ``gamma ||w|| g / ||g||``
    (Frobenius norms), ``g`` the gradient there of the whole training loss at the adversarial
    examples: by ``gamma`` of its own size, whatever the loss's scale. Biases and BatchNorm's
    parameters stay.

    Attributes:
        gamma: the relative size of the step in each layer, in [0, 1); 5e-3 is the paper's for
            TRADES and PGD-AT.
        warmup: the share of training, in [0, 1], before which nothing is perturbed.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    gamma: float = 0.005
    warmup: float = 0.0

    def __post_init__(self) -> None:
        refuse_unless(
            number("gamma", self.gamma, "0.005 is the paper's", at_least=0, below=1),
            share("warmup", self.warmup, "give a share of training, not an epoch"),
        )

    @contextmanager
    def perturbed_weights(
        self,
        model: nn.Module,
        loss: Callable[[], Scalar],
        progress: float | None = None,
    ) -> Iterator[None]:
        """The model with perturbed weights inside the block; afterwards its own, bit for bit, even
        on an error.

            with awp.perturbed_weights(model, loss):
                loss().backward()

        Entering costs one more forward and backward of the loss, which leave no trace in gradients
        and buffers (BatchNorm's running statistics); a forward inside the block counts there as
        usual. A graph built before the block, or in it, cannot be run backward after the block's
        end: the weights have changed since.

        Args:
            model: in the mode in which it trains.
            loss: runs the forward passes at fixed adversarial examples and returns the scalar
                training loss, ``natural + lam * robust``.
            progress: the share of training done, in [0, 1]; needed where ``warmup`` is above 0.

        Raises:
            InputError: no progress although there is a warmup.
        """
        if self.warmup > 0 and progress is None:
            do = "pass the share of training done"
            raise refused("progress with a warmup", None, do)
        weights = []
        if self.gamma > 0 and (progress is None or progress >= self.warmup):
            weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        # Copies, for adding the step and taking it back would leave rounding errors.
        originals = [weight.detach().clone() for weight in weights]
        try:
            self._move(weights, _gradients(model, loss, weights))
            yield
        finally:
            with torch.no_grad():
                for weight, original in zip(weights, originals, strict=True):
                    weight.copy_(original)

    @torch.no_grad()
    def _move(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
    ) -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                length = torch.linalg.vector_norm(gradient)
                # A gradient of 0 has no direction: 0 / 0 is NaN, and becomes 0.
                unit = torch.where(length > 0, gradient / length, 0.0)
                step = self.gamma * torch.linalg.vector_norm(weight)
                weight.add_(step * unit)


def _gradients(
    model: nn.Module,
    loss: Callable[[], Scalar],
    weights: Sequence[Tensor],
) -> Sequence[Tensor | None]:
    if not weights:
        return []
    with frozen_statistics(model), torch.enable_grad():
        return torch.autograd.grad(loss(), weights, allow_unused=True)
