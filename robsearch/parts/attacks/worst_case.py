"""The worst case over several attacks, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robsearch.errors import Condition, instance_of, refuse_unless, refused
from robsearch.network.modes import evaluating
from robsearch.parts.attacks.pgd import PGD, standing_pgd
from robsearch.protocols import Attack, Images, Labels, Loss, PerExample


@dataclass(frozen=True)
class WorstCase:
    """The per-example worst case over several attacks (arXiv 1902.06705).

    An image keeps its first successful perturbation, in the order of ``attacks``: the first after
    which the prediction is not ``y``. Where none succeeds it keeps the one of highest loss. So an
    image counts as robust only if it withstands every attack, and the accuracy is at most that
    under each attack alone, never an average of them. All attacks run on all images, for a loss
    knows its labels by their place in the batch.

    Attributes:
        attacks: tried in this order. The images lie in the union of their balls.

    Raises:
        InputError: no attacks, or something that is not one.
    """

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        do = "pass WorstCase((PGD(), ...))"
        if not isinstance(self.attacks, tuple | list):
            raise refused("WorstCase.attacks to be a tuple of attacks", repr(self.attacks), do)
        conditions = [Condition(bool(self.attacks), "at least one attack", "none", do)]
        for i, attack in enumerate(self.attacks):
            conditions.append(instance_of(f"WorstCase.attacks[{i}]", attack, Attack))
        refuse_unless(*conditions)

    @property
    def as_pgd(self) -> PGD | None:
        """The ``PGD`` of the first attack that has one (``standing_pgd``)."""
        return next(filter(None, map(standing_pgd, self.attacks)), None)

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Loss,
    ) -> Images:
        """Images of the shape of ``x``, inside [0, 1], detached.

        Args:
            model: images in [0, 1] to logits; in eval mode meanwhile.
            x: images in [0, 1].
            y: what the prediction must leave for an attack to have succeeded.
            loss: logits to one number per image, to be maximised.
        """
        with evaluating(model):
            first, *others = self.attacks
            adv = first(model, x, y, loss)
            fooled, value = _outcome(model, adv, y, loss)
            for attack in others:
                other = attack(model, x, y, loss)
                other_fooled, other_value = _outcome(model, other, y, loss)
                # An image that is fooled already keeps its first successful perturbation.
                better = ~fooled & (other_fooled | (other_value > value))
                adv = torch.where(better[:, None, None, None], other, adv)
                value = torch.where(better, other_value, value)
                fooled = fooled | other_fooled
        return adv


def _outcome(
    model: nn.Module,
    adv: Images,
    y: Labels,
    loss: Loss,
) -> tuple[Tensor, PerExample]:
    """(whether the prediction left ``y``, the loss) of each image; not under no_grad, as in
    ``PGD``."""
    logits = model(adv).detach()
    return logits.argmax(dim=1) != y, loss(logits)
