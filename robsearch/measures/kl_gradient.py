"""The local Lipschitz constant of the KL divergence to the clean prediction, from below, by its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from robsearch.draws import normal_like
from robsearch.errors import number, refuse_unless
from robsearch.modes import checked_logits, evaluating
from robsearch.protocols import About, Images, Labels, Logits, PerExample

START = 0.001
"""Standard deviation of the start around ``x``, in pixel units: at ``x`` itself the KL has no gradient."""


@dataclass(frozen=True)
class KLGradient:
    """``max over x' of ||grad_x' KL(softmax f(x) || softmax f(x'))||_1``, over the points where an attack steps.

    The attack is KL ascent from ``x + 0.001 N(0, 1)`` by sign steps in the linf ball and [0, 1] (arXiv 2010.01279,
    its released code; there the sum over the batch, so that it grows with the batch, here each example's own).
    A lower bound of the linf Lipschitz constant of ``x' -> KL`` in the ball. It is never above that of the logits
    in l1 either: ``grad KL = J^T (q - p)``, and no entry of ``q - p`` is above 1.

    Attributes:
        eps: the ball's radius in pixel units.
        step_size: of one sign step, ``eps / 4`` by default.
        steps: points at which the gradient is taken.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    eps: float
    step_size: float | None = None
    steps: int = 10

    def __post_init__(self) -> None:
        units = "give it in pixel units, 8/255 and not 8"
        refuse_unless(
            (0 < self.eps <= 1, "eps from above 0 to 1", self.eps, units),
            (self.step_size is None or 0 < self.step_size <= 1, "step_size from above 0 to 1", self.step_size, units),
            number("steps", self.steps, ">= 1", "10 is the paper's", whole=True),
        )

    @property
    def name(self) -> str:
        """``lipschitz/kl_gradient``."""
        return "lipschitz/kl_gradient"

    @property
    def about(self) -> About:
        """A lower bound, in nats per pixel unit."""
        return About("lower bound", "nats per pixel unit", "arXiv 2010.01279", norm="linf")

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The largest l1 norm of each example's gradient, (n,), in nats per pixel unit.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite.
        """
        step = self.eps / 4 if self.step_size is None else self.step_size
        with evaluating(model):
            with torch.no_grad():
                clean = checked_logits(model, x, y)
            low, high = (x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1)
            near = normal_like(x).mul_(START).add_(x).clamp_(low, high)
            best = torch.zeros_like(clean[:, 0])
            for _ in range(self.steps):
                gradient = _gradient(model, near, y, clean)
                best = torch.maximum(best, gradient.abs().sum(dim=(1, 2, 3)))
                near = near.add(gradient.sign(), alpha=step).clamp_(low, high)
        return best


def _gradient(model: nn.Module, near: Images, y: Labels, clean: Logits) -> Images:
    with torch.enable_grad():
        near = near.detach().requires_grad_()
        logs = checked_logits(model, near, y).log_softmax(dim=1)
        # The sum over the batch: an example's own gradient, for in eval mode no example looks at another.
        divergence = F.kl_div(logs, clean.log_softmax(dim=1), reduction="sum", log_target=True)
        return torch.autograd.grad(divergence, near)[0]
