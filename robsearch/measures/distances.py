"""The distance to the nearest adversarial example, bounded from above by finding one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from robsearch.errors import number, refuse_unless
from robsearch.measures.balls import Norm, diameter, drawn, inside, length, norm_check, radius_check, suffix, unit
from robsearch.measures.margins import logit_margin
from robsearch.modes import evaluating
from robsearch.protocols import About, Images, Labels, PerExample

STRIDE = 2.5
"""The steps of one round together, in radii: enough to cross the ball, whichever its start."""


@dataclass(frozen=True)
class AttackDistance:
    """``||x' - x||`` of the nearest ``x'`` in [0, 1] that was found with another prediction than the label.

    An upper bound of the true distance, the input margin of arXiv 1907.11780: each ``x'`` was there. It is found
    by ascent of ``max_{k != y} f_k - f_y`` inside balls whose radius is bisected, for each example on its own: the
    next lies half-way between the nearest ``x'`` so far and the largest radius at which a round failed. Rounds
    start at ``x`` and at a random point in turn. Each point on the way counts.

    It is 0 where ``x`` is wrong: the search never looks for the way back, and a sign would tell of one. Where no
    round finds an ``x'`` it is the box's diameter (1 for linf, sqrt(c h w) for l2), as far as any could be. More
    rounds never raise it, given the same random numbers; more steps may, for they are shorter.

    Attributes:
        norm: of the distance, ``linf`` or ``l2``.
        steps: gradient steps of one round, each ``2.5 / steps`` of its radius long.
        rounds: radii tried: in all ``rounds * steps`` backward passes.
        largest: the first radius, in pixel units, which no other exceeds; None for the box's diameter.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    norm: Norm = "linf"
    steps: int = 20
    rounds: int = 8
    largest: float | None = None

    def __post_init__(self) -> None:
        refuse_unless(
            norm_check(self.norm),
            number("steps", self.steps, ">= 1", "20 is the default", whole=True),
            number("rounds", self.rounds, ">= 1", "8 is the default", whole=True),
            radius_check("largest", 1.0 if self.largest is None else self.largest, self.norm),
        )

    @property
    def name(self) -> str:
        """``margin/attack_distance``, followed by ``_l2`` for l2."""
        return "margin/attack_distance" + suffix(self.norm)

    @property
    def about(self) -> About:
        """An upper bound, in pixel units."""
        return About("upper bound", "pixel units", "arXiv 1907.11780", norm=self.norm, span=(-0.5, 0.5))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The distance of each example, (n,), in pixel units, from 0 to the box's diameter.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite, fewer than two classes.
        """
        x, most = x.detach(), diameter(x, self.norm)
        largest = most if self.largest is None else min(self.largest, most)
        best, failed = x.new_full((len(x),), most), x.new_zeros(len(x))
        radius = torch.full_like(best, largest)
        with evaluating(model):
            for turn in range(self.rounds):
                start = drawn(x, radius, self.norm) if turn % 2 else x
                found = self._climb(model, x, y, radius, start)
                # A find below a radius that had failed: the failure told nothing.
                failed = torch.where(found.isinf(), radius, torch.where(failed < found, failed, 0.0))
                best = torch.minimum(best, found)
                radius = (failed + best.clamp_max(largest)) / 2
        return best

    def _climb(self, model: nn.Module, x: Images, y: Labels, radius: PerExample, near: Images) -> PerExample:
        """The distance of the nearest ``x'`` on the way up from ``near``, infinite where there is none."""
        stride = (radius * (STRIDE / self.steps)).view(-1, 1, 1, 1)
        best = torch.full_like(radius, math.inf)
        for left in range(self.steps, -1, -1):
            with torch.enable_grad():
                near = near.detach().requires_grad_(left > 0)
                margin, logits = logit_margin(model, near, y)
                total = -margin.sum()
            move = near.detach() - x
            wrong = logits.argmax(dim=1) != y
            best = torch.where(wrong, torch.minimum(best, length(move, self.norm)), best)
            if left > 0:
                (gradient,) = torch.autograd.grad(total, near)
                direction = gradient.sign() if self.norm == "linf" else unit(gradient)
                near = inside(x, move + direction * stride, radius, self.norm)
        return best
