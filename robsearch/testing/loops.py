"""The contract of a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from robsearch.data import Digits
from robsearch.errors import InputError, counted
from robsearch.parts.attacks import PGD
from robsearch.parts.models import MLP
from robsearch.parts.schedules import Fixed
from robsearch.protocols import Split, TrainingLoop
from robsearch.recipe import Recipe
from robsearch.testing.promises import contract, promise
from robsearch.training.learner import reloaded
from robsearch.training.own_loop import LoopLearner
from robsearch.training.trainer import passes

IMAGES = 24
"""Of the made-up ``train``."""
EPOCHS = 3


class _Trained:
    """What a training has come to: weights, also the judged ones, and metrics by epoch."""

    def __init__(self, learner: LoopLearner, epochs: list[Mapping[str, float]]) -> None:
        self.weights = _tensors(learner.state["model"])
        self.eval_weights = _tensors(learner.state["judged"])
        self.epochs = epochs

    def is_like(self, other: _Trained) -> bool:
        """Whether both have the same weights, and metrics in the last epoch."""
        mine = self.weights | {f"judged {name}": value for name, value in self.eval_weights.items()}
        others = other.weights | {
            f"judged {name}": value for name, value in other.eval_weights.items()
        }
        same = all(torch.equal(value, others[name]) for name, value in mine.items())
        return same and repr(self.epochs[-1]) == repr(other.epochs[-1])


@contract(TrainingLoop)
def check_loop(loop: TrainingLoop, /, recipe: Recipe | None = None) -> None:
    """Three epochs that move weights, with metrics that are numbers and a state that a checkpoint
    can hold; they end alike when they are repeated, and when weights and state go through
    ``torch.save`` (read with ``weights_only``) after the first and after the second.

    It trains on 24 made-up images on the CPU.

    Args:
        loop: to check.
        recipe: whose network, fields and shape of images the loop needs; its data is not read. By
            default a small MLP on the images of ``Digits``.
    """
    try:
        _check(loop, _recipe(loop, recipe))
    except InputError as error:
        raise AssertionError(f"{loop!r}: {'; '.join(error.problems)}") from error


def _recipe(loop: TrainingLoop, recipe: Recipe | None) -> Recipe:
    changes: dict[str, Any] = {"loop": loop, "epochs": EPOCHS, "stopper": None}
    if recipe is None:
        attack = PGD(eps=0.1, step_size=0.1, steps=1)
        recipe = Recipe(model=MLP(width=8, depth=1), data=Digits(), attack=attack, lam=Fixed(2.0))
    named = getattr(loop, "uses", ())
    if isinstance(named, tuple) and "batch_size" in named:
        changes["batch_size"] = min(recipe.batch_size, IMAGES // 2)
    fields = {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}
    return Recipe(**(fields | changes))


def _check(loop: TrainingLoop, recipe: Recipe) -> None:
    first = _trained(recipe)
    promise(len(first.epochs) == EPOCHS, loop, counted(EPOCHS, "epoch"), len(first.epochs))
    at_first = _tensors(LoopLearner.of(recipe, torch.device("cpu")).state["model"])
    moved = any(not torch.equal(value, at_first[name]) for name, value in first.weights.items())
    promise(moved, loop, "epochs that move the weights of training.model", "none", TRAINED)
    finite = all(bool(value.isfinite().all()) for value in first.eval_weights.values())
    promise(finite, loop, "finite weights after a few steps", "NaN or infinity")
    promise(
        first.is_like(_trained(recipe)), loop, "the same end from the same start", "another", SEEDED
    )
    for epoch in range(1, EPOCHS):
        resumed = _trained(recipe, resumed_at=epoch)
        expected = "a resumed training to end like one that went on"
        promise(first.is_like(resumed), loop, expected, "another end", KEPT)


TRAINED = "train that network, not a copy of it or one of your own"
SEEDED = "draw random numbers from random, numpy.random or torch, without generators of your own"
KEPT = (
    "yield all that the loop goes on with (optimiser, scheduler, averages), load it from "
    "training.state, and iterate over training.epochs, which seeds each epoch"
)
"""What to do where a promise is broken."""


def _trained(recipe: Recipe, resumed_at: int | None = None) -> _Trained:
    """Trained to the end, through a checkpoint after an epoch."""
    metrics: list[Mapping[str, float]] = []
    learner = LoopLearner.of(recipe, torch.device("cpu"))
    if resumed_at is not None:
        _train(learner, resumed_at, metrics)
        state = reloaded(learner.state)
        learner = LoopLearner.of(recipe, torch.device("cpu"))
        learner.load(state)
    _train(learner, EPOCHS, metrics)
    return _Trained(learner, metrics)


def _train(learner: LoopLearner, until: int, metrics: list[Mapping[str, float]]) -> None:
    with closing(passes(learner, _images(learner.recipe))) as epochs:
        while learner.epoch < until:
            of_epoch = next(epochs, None)
            if of_epoch is None:
                return
            metrics.append(of_epoch)
            # Judging would not move it either.
            learner.remember_best(0.0)


def _images(recipe: Recipe) -> Split:
    spec = recipe.data.spec
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, *spec.shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(IMAGES) % spec.num_classes)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
