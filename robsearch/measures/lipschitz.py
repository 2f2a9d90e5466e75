"""Local Lipschitz constants, estimated from below: three estimators of the literature, three names."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from robsearch.errors import refuse_unless
from robsearch.modes import checked_logits, evaluating
from robsearch.protocols import About, Images, Labels, Logits, PerExample

NEAREST = 1e-3
"""Points nearer to ``x`` than this share of ``eps`` do not count: rounding would outweigh the quotient."""


@dataclass(frozen=True)
class LogitRatio:
    """``max_{x' : ||x - x'||_inf <= eps} ||f(x) - f(x')||_1 / ||x - x'||_inf`` (arXiv 2003.02460).

    Found by sign **ascent** from random starts; the best ratio seen counts, over all steps and starts. Each
    ratio is attained inside the ball and [0, 1], so the measure is a lower bound of the local Lipschitz
    constant. (The paper's released code descends.) Each step climbs with the distance held fixed: where
    several pixels share the largest distance, its subgradient only pulls steep ones back, and on small random
    nets the bound then came out 1 to 6 % lower.

    Attributes:
        eps: the ball's radius in pixel units.
        step_size: of one sign step, ``eps / 4`` by default.
        steps: sign steps from each start.
        starts: random starts, uniform in the ball.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    eps: float
    step_size: float | None = None
    steps: int = 10
    starts: int = 4

    def __post_init__(self) -> None:
        step = self.eps / 4 if self.step_size is None else self.step_size
        units = "give it in pixel units, 8/255 and not 8"
        refuse_unless(
            (0 < self.eps <= 1, "eps from above 0 to 1", self.eps, units),
            (self.step_size is None or 0 < step <= 1, "step_size from above 0 to 1", step, units),
            (self.steps >= 0, "steps >= 0", self.steps, "10 is the paper's"),
            (self.starts >= 1, "starts >= 1", self.starts, "4 is the default"),
        )

    @property
    def name(self) -> str:
        """``lipschitz/logit_ratio``."""
        return "lipschitz/logit_ratio"

    @property
    def about(self) -> About:
        """A lower bound, in logits per pixel unit."""
        return About("lower bound", "logits per pixel unit", "arXiv 2003.02460", norm="linf to l1")

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The best ratio of each example, (n,), in logits per pixel unit.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite.
        """
        with evaluating(model):
            with torch.no_grad():
                clean = checked_logits(model, x, y)
            best = torch.zeros_like(clean[:, 0])
            for _ in range(self.starts):
                best = torch.maximum(best, self._ascend(model, x, y, clean))
        return best

    def _ascend(self, model: nn.Module, x: Images, y: Labels, clean: Logits) -> PerExample:
        step = self.eps / 4 if self.step_size is None else self.step_size
        low, high = (x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1)
        near = torch.empty_like(x).uniform_(-self.eps, self.eps).add_(x).clamp_(low, high)
        best = torch.zeros_like(clean[:, 0])
        for left in range(self.steps, -1, -1):
            with torch.enable_grad():
                near = near.detach().requires_grad_(left > 0)
                ratio = self._ratio(checked_logits(model, near, y) - clean, near - x)
                total = ratio.sum()
            best = torch.maximum(best, ratio.detach())
            if left > 0:
                (gradient,) = torch.autograd.grad(total, near)
                near = near.detach().add(gradient.sign(), alpha=step).clamp_(low, high)
        return best

    def _ratio(self, change: Logits, move: Images) -> PerExample:
        distance = torch.linalg.vector_norm(move.detach(), ord=math.inf, dim=(1, 2, 3))
        counts = distance >= NEAREST * self.eps
        return torch.where(counts, change.abs().sum(dim=1) / distance.clamp_min(NEAREST * self.eps), 0.0)
