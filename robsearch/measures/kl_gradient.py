"""The local Lipschitz constant of the KL divergence to the clean prediction, from below, by its
gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from robsearch.errors import count, refuse_unless
from robsearch.network.balls import box, radius_condition
from robsearch.network.draws import normal_like
from robsearch.network.modes import checked_logits, evaluating
from robsearch.protocols import About, Images, Labels, Logits, PerExample

START = 0.001
"""Standard deviation of the start around ``x``, in pixel units: at ``x`` itself the KL has no
gradient."""


@dataclass(frozen=True)
class KLGradient:
    """``max over x' of ||grad_x' KL(softmax f(x) || softmax f(x'))||_1``, over the points where an
    attack steps.

    The attack is KL ascent from ``x + 0.001 N(0, 1)`` by sign steps in the linf ball and [0, 1]
    (arXiv 2010.01279, its released code; there the sum over the batch, so that it grows with the
    batch, here each example's own). A lower bound of the linf Lipschitz constant of ``x' -> KL`` in
    the ball. It is never above that of the logits in l1 either: ``grad KL = J^T (q - p)``, and no
    entry of ``q - p`` is above 1.

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
        step = self.eps if self.step_size is None else self.step_size
        refuse_unless(
            radius_condition("eps", self.eps),
            radius_condition("step_size", step),
            count("steps", self.steps, "10 is the paper's"),
        )

    name: ClassVar[str] = "lipschitz/kl_gradient"
    about: ClassVar[About] = About(
        "lower bound",
        "nats per pixel unit",
        "arXiv 2010.01279",
        norm="linf",
    )

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The largest l1 norm of each example's gradient, (n,), in nats per pixel unit.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite.
        """
        step = self.eps / 4 if self.step_size is None else self.step_size
        with evaluating(model):
            with torch.no_grad():
                clean = checked_logits(model, x, y)
            low, high = box(x, self.eps)
            near = normal_like(x).mul_(START).add_(x).clamp_(low, high)
            best = torch.zeros_like(clean[:, 0])
            for _ in range(self.steps):
                gradient = _gradient(model, near, y, clean)
                length = gradient.abs().sum(dim=(1, 2, 3))
                best = torch.maximum(best, length)
                near = near.add(gradient.sign(), alpha=step).clamp_(low, high)
        return best


def _gradient(
    model: nn.Module,
    near: Images,
    y: Labels,
    clean: Logits,
) -> Images:
    with torch.enable_grad():
        near = near.detach().requires_grad_()
        logs = checked_logits(model, near, y).log_softmax(dim=1)
        # The sum over the batch: an example's own gradient, for in eval mode no example looks at
        # another.
        clean_logs = clean.log_softmax(dim=1)
        divergence = F.kl_div(logs, clean_logs, reduction="sum", log_target=True)
        (gradient,) = torch.autograd.grad(divergence, near)
    return gradient
