"""Adversarial weight perturbation: the gradient is taken where a small change of the weights hurts most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robsearch.errors import InputError, number, refusal
from robsearch.modes import frozen_statistics
from robsearch.protocols import Scalar


@dataclass(frozen=True)
class WeightPerturbation:
    """Adversarial weight perturbation, AWP, in one ascent step (arXiv 2004.05884).

    Each weight tensor ``w`` with more than one dimension moves by ``gamma ||w|| g / ||g||`` (Frobenius norms), ``g``
    the gradient there of the whole training loss at the adversarial examples: by ``gamma`` of its own size, whatever
    the loss's scale. Biases and BatchNorm's parameters stay.

    Attributes:
        gamma: the relative size of the step in each layer, in [0, 1); 5e-3 is the paper's for TRADES and PGD-AT.
        warmup: the share of training, in [0, 1], before which nothing is perturbed.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    gamma: float = 0.005
    warmup: float = 0.0

    def __post_init__(self) -> None:
        checks = [
            number("gamma", self.gamma, "in [0, 1)", "0.005 is the paper's"),
            number("warmup", self.warmup, "in [0, 1]", "give a share of training, not an epoch"),
        ]
        problems = [refusal(expected, got, do) for fits, expected, got, do in checks if not fits]
        if problems:
            raise InputError(*problems)

    @contextmanager
    def perturbed(self, model: nn.Module, loss: Callable[[], Scalar], progress: float | None = None) -> Iterator[None]:
        """The model with perturbed weights inside the block; afterwards its own, bit for bit, even on an error.

            with awp.perturbed(model, loss):
                loss().backward()

        Entering costs one more forward and backward of the loss, which leave no trace in gradients and buffers
        (BatchNorm's running statistics); a forward inside the block counts there as usual. A graph built before
        the block, or in it, cannot be run backward after the block's end: the weights have changed since.

        Args:
            model: in the mode in which it trains.
            loss: runs the forward passes at fixed adversarial examples and returns the scalar training loss,
                ``natural + lam * robust``.
            progress: the share of training done, in [0, 1]; needed where ``warmup`` is above 0.

        Raises:
            InputError: no progress although there is a warmup.
        """
        if self.warmup > 0 and progress is None:
            raise InputError(refusal("progress with a warmup", None, "pass the share of training done"))
        active = self.gamma > 0 and (progress is None or progress >= self.warmup)
        weights = [p for p in model.parameters() if active and p.requires_grad and p.ndim > 1]
        saved = [weight.detach().clone() for weight in weights]
        try:
            _move(weights, self._steps(weights, _gradients(model, loss, weights)))
            yield
        finally:
            with torch.no_grad():
                for weight, own in zip(weights, saved, strict=True):
                    weight.copy_(own)

    def _steps(self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Iterator[Tensor]:
        for weight, gradient in zip(weights, gradients, strict=True):
            direction = torch.zeros_like(weight) if gradient is None else gradient
            length = torch.linalg.vector_norm(direction)
            unit = torch.where(length > 0, direction / length, 0.0)
            yield self.gamma * torch.linalg.vector_norm(weight.detach()) * unit


def _gradients(model: nn.Module, loss: Callable[[], Scalar], weights: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not weights:
        return []
    with frozen_statistics(model), torch.enable_grad():
        return torch.autograd.grad(loss(), weights, allow_unused=True)


def _move(weights: Sequence[Tensor], steps: Iterator[Tensor]) -> None:
    with torch.no_grad():
        for weight, step in zip(weights, steps, strict=True):
            weight.add_(step)
