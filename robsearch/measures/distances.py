"""The distance to the nearest adversarial example, bounded from above by finding one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from robsearch.errors import count, refuse_unless
from robsearch.network.balls import (
    Norm,
    diameter,
    length,
    moved_inside,
    norm_condition,
    normalised,
    radius_condition,
    random_point,
    suffix,
)
from robsearch.network.modes import checked_logits, evaluating, logit_margin
from robsearch.protocols import About, Images, Labels, PerExample

STRIDE = 2.5
"""The steps of one round together, in radii: enough to cross the ball, whichever its start."""


@dataclass(frozen=True)
class AttackDistance:
    """``||x' - x||`` of the nearest ``x'`` in [0, 1] that was found with another prediction than
    the label.

    An upper bound of the true distance, the input margin of arXiv 1907.11780: each ``x'`` was
    there. It is found by ascent of ``max_{k != y} f_k - f_y`` inside balls whose radius is
    bisected, for each example on its own: the next lies half-way between the nearest ``x'`` so far
    and the largest radius at which a round failed. Rounds start at ``x`` and at a random point in
    turn. Each point on the way counts.

    It is 0 where ``x`` is wrong: the search never looks for the way back, and a sign would tell of
    one. Where no round finds an ``x'`` it is the box's diameter (1 for linf, sqrt(c h w) for l2),
    as far as any could be. More rounds never raise it, given the same random numbers; more steps
    may, for they are shorter.

    Attributes:
        norm: of the distance, ``linf`` or ``l2``.
        steps: gradient steps of one round, each ``2.5 / steps`` of its radius long.
        rounds: radii tried: in all ``rounds * steps`` backward passes.
        largest: the first radius, in pixel units, which no other exceeds; None for the box's
            diameter.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    norm: Norm = "linf"
    steps: int = 20
    rounds: int = 8
    largest: float | None = None

    def __post_init__(self) -> None:
        largest = 1.0 if self.largest is None else self.largest
        refuse_unless(
            norm_condition(self.norm),
            count("steps", self.steps, "20 is the default"),
            count("rounds", self.rounds, "8 is the default"),
            radius_condition("largest", largest, self.norm),
        )

    @property
    def name(self) -> str:
        """``margin/attack_distance``, followed by ``_l2`` for l2."""
        return "margin/attack_distance" + suffix(self.norm)

    @property
    def about(self) -> About:
        """An upper bound, in pixel units."""
        return About(
            "upper bound",
            "pixel units",
            "arXiv 1907.11780",
            self.norm,
            span=(-0.5, 0.5),
        )

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> PerExample:
        """The distance of each example, (n,), in pixel units, from 0 to the box's diameter.

        Raises:
            InputError: images outside [0, 1], labels out of range, logits not finite, fewer than
                two classes.
        """
        x = x.detach()
        most = diameter(x, self.norm)
        largest = most if self.largest is None else min(self.largest, most)
        best = x.new_full((len(x),), most)
        failed = x.new_zeros(len(x))
        radius = torch.full_like(best, largest)
        with evaluating(model):
            for turn in range(self.rounds):
                start = random_point(x, radius, self.norm) if turn % 2 else x
                distance = self._ascend(model, x, y, radius, start)
                # Where an adversarial example lies below a radius that failed, the failure told
                # nothing.
                informative = torch.where(failed < distance, failed, 0.0)
                failed = torch.where(distance.isinf(), radius, informative)
                best = torch.minimum(best, distance)
                radius = (failed + best.clamp_max(largest)) / 2
        return best

    def _ascend(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        radius: PerExample,
        near: Images,
    ) -> PerExample:
        """The distance of the nearest ``x'`` on the way up from ``near``, infinite where there is
        none."""
        stride = (radius * (STRIDE / self.steps)).view(-1, 1, 1, 1)
        best = torch.full_like(radius, math.inf)
        for steps_left in range(self.steps, -1, -1):
            with torch.enable_grad():
                near = near.detach().requires_grad_(steps_left > 0)
                logits = checked_logits(model, near, y)
                total = -logit_margin(logits, y).sum()
            move = near.detach() - x
            wrong = logits.argmax(dim=1) != y
            distance = length(move, self.norm)
            best = torch.where(wrong, torch.minimum(best, distance), best)
            if steps_left > 0:
                (gradient,) = torch.autograd.grad(total, near)
                direction = gradient.sign() if self.norm == "linf" else normalised(gradient)
                near = moved_inside(x, move + direction * stride, radius, self.norm)
        return best
