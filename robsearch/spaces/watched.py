"""Parts of a recipe, watched while training calls them: what they give is what their contract says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from robsearch.errors import refusal
from robsearch.protocols import Attack, Augment, Images, Labels, Logits, Loss, Objective, Penalty, PenaltyState, Scalar
from robsearch.spaces.blame import BrokenPartError
from robsearch.testing.contracts import check_images
from robsearch.testing.promises import left_alone


@contextmanager
def promised(part: str) -> Iterator[None]:
    """A broken promise (``robsearch.testing``) is the part's fault."""
    try:
        yield
    except AssertionError as error:
        if "expected" not in str(error):
            raise  # one of the user's own
        raise BrokenPartError(part, f"{error}: mend it") from error


class WatchedAttack:
    """An attack whose images are in [0, 1] and in its ball, and that leaves the model as it was."""

    def __init__(self, attack: Attack, part: str) -> None:
        self.attack, self.part = attack, part

    def __call__(self, model: nn.Module, x: Images, y: Labels, loss: Loss) -> Images:
        """As the attack."""
        with promised(self.part), left_alone(self.attack, model):
            adv = self.attack(model, x, y, loss)
            check_images(self.attack, adv, x)
        return adv


class WatchedObjective:
    """An objective that gives two finite scalars."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.natural_first = getattr(objective, "natural_first", True)

    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """As the objective's."""
        return self.objective.inner(clean_logits, y)

    def terms(self, clean_logits: Logits, adv_logits: Logits, y: Labels) -> tuple[Scalar, Scalar]:
        """As the objective's."""
        terms = self.objective.terms(clean_logits, adv_logits, y)
        if not isinstance(terms, tuple | list) or len(terms) != 2:
            raise _broken("objective", "two terms, (natural, robust)", terms, "return both, not their sum")
        for name, term in zip(("natural", "robust"), terms, strict=True):
            _finite_scalar("objective", f"the {name} term", term)
            if term.item() != 0 and not term.requires_grad:
                expected = f"the {name} term to have a gradient"
                raise _broken("objective", expected, "none", "leave out detach(), item() and no_grad()")
        natural, robust = terms
        if not (natural.requires_grad or robust.requires_grad):
            raise _broken("objective", "terms with a gradient", "none", "compute them from the logits")
        return natural, robust


class WatchedPenalty:
    """A penalty that adds a finite scalar, or nothing, and keeps its state."""

    def __init__(self, penalty: Penalty, part: str) -> None:
        self.penalty, self.part = penalty, part

    def init(self, model: nn.Module) -> PenaltyState:
        """As the penalty's."""
        return self._kept("init", self.penalty.init(model))

    def loss(self, model: nn.Module, clean_logits: Logits, y: Labels) -> Scalar | None:
        """As the penalty's."""
        loss = self.penalty.loss(model, clean_logits, y)
        if loss is not None:
            _finite_scalar(self.part, "its loss", loss)
        return loss

    def before_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """As the penalty's."""
        return self._kept("before_step", self.penalty.before_step(model, state, step))

    def after_step(self, model: nn.Module, state: PenaltyState, step: int) -> PenaltyState:
        """As the penalty's."""
        new = self._kept("after_step", self.penalty.after_step(model, state, step))
        refuse_weights(self.part, model)
        return new

    def _kept(self, method: str, state: Any) -> PenaltyState:
        if not isinstance(state, dict):
            raise _broken(self.part, f"{method} to give a dict of named tensors", repr(state), "return the state")
        return state


class WatchedAugment:
    """An augmentation that gives as many images of the same shape, in [0, 1]."""

    def __init__(self, augment: Augment) -> None:
        self.augment = augment

    def __call__(self, x: Images) -> Images:
        """As the augmentation."""
        new = self.augment(x.clone())
        asked = f"{x.dtype} {tuple(x.shape)} on {x.device}"
        got = f"{new.dtype} {tuple(new.shape)} on {new.device}" if isinstance(new, Tensor) else repr(new)
        if got != asked:
            raise _broken("augment", f"images of {asked}", got, "keep shape, type and device")
        if not bool(((new >= 0) & (new <= 1)).all()):
            span = f"{new.min().item():g} to {new.max().item():g}"
            raise _broken("augment", "images in [0, 1]", span, "end with clamp(0, 1), and normalise in the model")
        return new


def refuse_weights(part: str, model: nn.Module) -> None:
    """Refuses weights and statistics that are not finite."""
    held = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    bad = [name for name, value in held.items() if not bool(value.isfinite().all())]
    if bad:
        raise _broken(part, "finite weights", f"NaN or infinity in {', '.join(bad[:3])}", "look at how they are made")


def _finite_scalar(part: str, what: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise _broken(part, f"{what} to be a tensor", repr(value), "return what torch computes")
    if value.shape != () or not bool(value.isfinite()):
        got = f"{value.item():g}" if value.numel() == 1 and value.shape == () else f"shape {tuple(value.shape)}"
        raise _broken(part, f"{what} to be a finite scalar", got, "return the mean over the batch")


def _broken(part: str, expected: str, got: object, do: str) -> BrokenPartError:
    return BrokenPartError(part, refusal(expected, got, do))
