"""PGD on the cross-entropy, then on the margin: what judges by default."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robsearch.network.balls import Norm
from robsearch.network.modes import evaluating
from robsearch.parts.attacks.pgd import PGD
from robsearch.protocols import Images, Labels, Logits, Loss

LENGTH = (6, 5)
"""Numerator and denominator of the most steps in all, as a multiple of ``steps``."""
WORTH = 7 / 8
"""At this share of standing images the others leave the batch: to gather it anew takes time,
too."""


@dataclass(frozen=True)
class TwoLosses:
    """The worst case of projected gradient ascent on the cross-entropy (arXiv 1706.06083) and on
    the margin (arXiv 1608.04644), for about the price of one of them.

    On the cross-entropy alone, a net whose logits are large, or that was trained under a large
    lambda, looks more robust than it is: the gradient vanishes, or leads to another place than the
    decision boundary. Here each image climbs the cross-entropy from a random start for half of
    ``steps``, and, if it withstands that, the margin from where it is, for seven tenths
    of ``steps`` (5 and 7 steps of 10).

    **Each iterate counts**, the start and the last one included, not the last alone: an image is
    robust if the prediction is ``y`` at all of them, of all restarts. One at which it is not is
    given back, and its image soon leaves the batch, which pays for the second loss: there are at
    most 1.2 times as many gradients as ``PGD(steps=steps)`` takes, and fewer the more images
    fall. What becomes of an image follows from its own start, whatever is attacked beside it.

    It brings its own losses: ``loss`` is not looked at.

    Attributes:
        eps: the ball's radius in pixel units, such as ``8 / 255``; 0 gives ``x`` back.
        step_size: the length of one step, in the same units and norm.
        steps: of the ``PGD`` that it takes the place of.
        norm: the ball, ``linf`` or ``l2`` (per image, over all its pixels).
        restarts: independent runs from uniform starts, each on the images that stand so far.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10
    norm: Norm = "linf"
    restarts: int = 1

    def __post_init__(self) -> None:
        _ = self.as_pgd  # it refuses what does not fit

    @classmethod
    def in_place_of(cls, pgd: PGD) -> TwoLosses:
        """The one of the same ball, steps and restarts."""
        return cls(pgd.eps, pgd.step_size, pgd.steps, pgd.norm, pgd.restarts)

    @property
    def as_pgd(self) -> PGD:
        """The ``PGD`` on one loss that it takes the place of."""
        return PGD(
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            norm=self.norm,
            restarts=self.restarts,
        )

    @property
    def steps_on_each(self) -> tuple[int, int]:
        """The steps on the cross-entropy and on the margin."""
        first = self.steps // 2
        numerator, denominator = LENGTH
        return first, numerator * self.steps // denominator - first

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Loss | None = None,
    ) -> Images:
        """Images of the shape of ``x``, inside the ball and [0, 1], detached: of an image that fell
        the first iterate at which it did, of another the last.

        Args:
            model: images in [0, 1] to logits; in eval mode meanwhile.
            x: images in [0, 1].
            y: the classes that the prediction shall leave.
            loss: unused, for the attack has its own.
        """
        x = x.detach()
        y = y.long()
        adv = x.clone()
        if self.eps == 0:
            return adv
        rows = torch.arange(len(x), device=x.device)
        with evaluating(model):
            for turn in range(self.restarts):
                # Starts of all images, so that no number depends on how many of them stand.
                start = self.as_pgd.start_in(x)
                if turn:
                    predicted = model(adv[rows]).argmax(dim=1)
                    rows = rows[predicted == y[rows]]
                if len(rows):
                    reached, left = self._ascend(model, x[rows], y[rows], start[rows])
                    adv[rows] = reached
                    rows = rows[left]
        return adv

    def _ascend(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        adv: Images,
    ) -> tuple[Images, Tensor]:
        """One run: what each image reached, and which (by their places) stood before the last step
        was made."""
        pgd = self.as_pgd
        first, second = self.steps_on_each
        inside = pgd.projection(x)
        adv = inside(adv)
        reached = adv
        attacked = torch.arange(len(x), device=x.device)
        stands = torch.ones_like(y, dtype=torch.bool)
        for slope in [_cross_entropy_slope] * first + [_margin_slope] * second:
            leaf = adv.detach().requires_grad_()
            with torch.enable_grad():
                logits = model(leaf)
                values = logits.detach()
                (gradient,) = torch.autograd.grad(logits, leaf, slope(values, y))
            stands = stands & (values.argmax(dim=1) == y)
            if int(stands.sum()) <= WORTH * len(y):
                reached = reached.index_copy(0, attacked, adv)
                rows = stands.nonzero()[:, 0]
                adv, gradient, x, y, attacked, stands = (
                    tensor[rows] for tensor in (adv, gradient, x, y, attacked, stands)
                )
                inside = pgd.projection(x)
                if not len(rows):
                    break
            # One that fell stays where it did, for it has no slope.
            slope_left = gradient * stands[:, None, None, None]
            adv = inside(adv.add_(pgd.direction(slope_left), alpha=self.step_size))
        reached = reached.index_copy(0, attacked, adv)
        return reached, attacked[stands]


def _cross_entropy_slope(logits: Logits, y: Labels) -> Logits:
    """The gradient of ``cross_entropy`` in the logits, in closed form: that costs next to
    nothing."""
    return logits.softmax(dim=1) - _one_hot(logits, y)


def _margin_slope(logits: Logits, y: Labels) -> Logits:
    """The same of ``margin``; of rivals that tie the first."""
    rival = logits.scatter(1, y[:, None], -math.inf).argmax(dim=1)
    return _one_hot(logits, rival) - _one_hot(logits, y)


def _one_hot(logits: Logits, y: Labels) -> Logits:
    return torch.zeros_like(logits).scatter_(1, y[:, None], 1.0)
