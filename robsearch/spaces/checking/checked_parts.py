"""Wrappers of a recipe's parts that check, while training calls them, that what they give is what
their contract says."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from robsearch.errors import refused
from robsearch.protocols import (
    Images,
    Labels,
    Logits,
    Loss,
    PenaltyState,
    Scalar,
    looks_at_logits,
    natural_first,
)
from robsearch.spaces.checking.part_finder import CheckedPart
from robsearch.testing.contracts import check_images
from robsearch.testing.promises import described, left_alone


class CheckedAttack(CheckedPart):
    """An attack whose images are in [0, 1] and in its ball, and that leaves the model as it was."""

    def __call__(self, model: nn.Module, x: Images, y: Labels, loss: Loss) -> Images:
        """As the attack."""
        with left_alone(self.leaf, model):
            adv: Images = self.leaf(model, x, y, loss)
            check_images(self.leaf, adv, x)
        return adv


class CheckedObjective(CheckedPart):
    """An objective that gives two finite scalars."""

    @property
    def natural_first(self) -> bool:
        """As the objective's."""
        return natural_first(self.leaf)

    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """As the objective's, from the logits that a trial would give it."""
        logits = clean_logits if looks_at_logits(self.leaf) else clean_logits[:, :0]
        loss: Loss | None = self.leaf.inner(logits, y)
        if loss is not None and not callable(loss):
            do = "return lambda logits: F.cross_entropy(logits, y, reduction='none')"
            expected = "inner to give a function of the logits, or None"
            raise refused(expected, described(loss), do)
        return loss

    def terms(self, clean_logits: Logits, adv_logits: Logits, y: Labels) -> tuple[Scalar, Scalar]:
        """As the objective's."""
        terms = self.leaf.terms(clean_logits, adv_logits, y)
        if not isinstance(terms, tuple | list) or len(terms) != 2:
            do = "return both, not their sum"
            raise refused("two terms, (natural, robust)", described(terms), do)
        natural, robust = terms
        for name, term in {"natural": natural, "robust": robust}.items():
            _refuse_unless_finite_scalar(f"the {name} term", term)
            if term.item() != 0 and not term.requires_grad:
                do = "leave out detach(), item() and no_grad()"
                raise refused(f"the {name} term to have a gradient", "none", do)
        if not (natural.requires_grad or robust.requires_grad):
            raise refused("terms with a gradient", "none", "compute them from the logits")
        return natural, robust


class CheckedPenalty(CheckedPart):
    """A penalty that adds a finite scalar, or nothing, and keeps its state."""

    def init(self, model: nn.Module) -> PenaltyState:
        """As the penalty's."""
        return self._state("init", self.leaf.init(model))

    def loss(self, model: nn.Module, clean_logits: Logits, y: Labels) -> Scalar | None:
        """As the penalty's."""
        loss: Scalar | None = self.leaf.loss(model, clean_logits, y)
        if loss is not None:
            _refuse_unless_finite_scalar("its loss", loss)
        return loss

    def before_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """As the penalty's."""
        return self._state("before_step", self.leaf.before_step(model, state, step))

    def after_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """As the penalty's."""
        new = self._state("after_step", self.leaf.after_step(model, state, step))
        refuse_weights(model)
        return new

    def _state(self, method: str, state: Any) -> PenaltyState:
        if not isinstance(state, dict):
            raise refused(
                f"{method} to give a dict of named tensors", repr(state), "return the state"
            )
        return state


class CheckedAugment(CheckedPart):
    """An augmentation that gives as many images of the same shape, in [0, 1]."""

    def __call__(self, x: Images) -> Images:
        """As the augmentation."""
        new: Images = self.leaf(x.clone())
        expected = f"{described(x)} on {x.device}"
        got = f"{described(new)} on {getattr(new, 'device', 'no device')}"
        if got != expected:
            raise refused(f"images of {expected}", got, "keep shape, type and device")
        if not bool(((new >= 0) & (new <= 1)).all()):
            got = f"{new.min().item():g} to {new.max().item():g}"
            raise refused(
                "images in [0, 1]", got, "end with clamp(0, 1), and normalise in the model"
            )
        return new


def refuse_weights(model: nn.Module) -> None:
    """Refuses weights and statistics that are not finite."""
    broken = []
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            broken.append(name)
    if broken:
        got = f"NaN or infinity in {', '.join(broken[:3])}"
        raise refused("finite weights", got, "look at how they are made")


def _refuse_unless_finite_scalar(what: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise refused(f"{what} to be a tensor", repr(value), "return what torch computes")
    got = ""
    if value.shape:
        got = f"shape {tuple(value.shape)}"
    elif not bool(value.isfinite()):
        got = f"{value.item():g}"
    if got:
        raise refused(f"{what} to be a finite scalar", got, "return the mean over the batch")
