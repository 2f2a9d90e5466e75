"""An attack with a loss of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from robsearch.errors import instance_of, one_of, refuse_unless
from robsearch.parts.attacks.losses import cross_entropy, dlr, margin
from robsearch.parts.attacks.pgd import PGD, standing_pgd
from robsearch.protocols import Attack, Images, Labels, Loss

LOSSES = {"cross_entropy": cross_entropy, "dlr": dlr, "margin": margin}


@dataclass(frozen=True)
class OwnLoss:
    """An attack that maximises this loss, whatever loss it is handed.

    ``WorstCase((PGD(...), OwnLoss(PGD(...), "margin")))`` judges at twice the price of PGD and
    comes much nearer to APGD, on nets whose cross-entropy leads the attack astray above all. Where
    PGD alone selects, the strength that is chosen can be the one that hides most from it.

    Attributes:
        attack: such as ``PGD``; it must climb the loss that it is handed.
        loss: ``margin`` (arXiv 1608.04644), ``dlr`` (arXiv 2003.01690) or ``cross_entropy``,
            against the labels.

    Raises:
        InputError: something that is no attack, or another loss.
    """

    attack: Attack
    loss: Literal["cross_entropy", "dlr", "margin"] = "margin"

    def __post_init__(self) -> None:
        refuse_unless(
            instance_of("OwnLoss.attack", self.attack, Attack),
            one_of("loss", self.loss, *LOSSES),
        )

    @property
    def as_pgd(self) -> PGD | None:
        """The ``PGD`` that the attack is, or has as its own (``standing_pgd``)."""
        return standing_pgd(self.attack)

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Loss | None = None,
    ) -> Images:
        """Images of the shape of ``x``, inside the attack's ball and [0, 1], detached; ``loss`` is
        not looked at."""
        return self.attack(model, x, y, LOSSES[self.loss](y))
