"""What a training takes on one device like this one, from a measured epoch and a measured
attack."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import islice
from typing import Any, NamedTuple

import torch

from robsearch.data import Mixed, load
from robsearch.data.mixed import members
from robsearch.metrics import EPOCH_SECONDS, TRAIN_SECONDS
from robsearch.network.modes import evaluating
from robsearch.parts.attacks import PGD, AutoAttack, OwnLoss, TwoLosses, WorstCase
from robsearch.protocols import Dataset, ImageSpec, Model, Split
from robsearch.recipe import Recipe
from robsearch.training.batching import batch_sizes
from robsearch.training.evaluation import best_device, judge, sampled, to_device, to_float
from robsearch.training.trainer import Epoch, train

PASSES = 3
"""A forward and a backward pass take about three times the operations of the forward one."""
AFFORDED: dict[str, float] = {"cpu": 6e11, "cuda": 1e14}
"""Floating-point operations that one measurement may take: seconds."""
LEAST = 16
"""Images of an epoch, at least, however large the net."""
ATTACKED, ITERATIONS = 250, 1000
"""Images on which the final attack is timed at most, and about how many gradients it takes of
each."""
HARMLESS = 1e-6
"""At this eps AutoAttack turns no image, and goes on to its last step on all of them."""


class TrainingCost(NamedTuple):
    """Seconds on one device.

    Attributes:
        training: an epoch, with its judging on ``val``.
        judging: all that follows the last epoch, at most: as if every image withstood the final
            attack.
        step: an optimiser step.
    """

    training: float
    judging: float
    step: float = 0.0


def measure_cost(recipe: Recipe) -> TrainingCost:
    """What an epoch and the final judging take: measured in the second epoch (the first warms up),
    on as many images as can be afforded."""
    splits = load(recipe.resolved_data)
    few = _fewer(recipe)
    *_, epoch = islice(train(replace(recipe, data=few)), 2)
    # How many times as many images the whole split has.
    times = {
        name: len(splits[name].labels) / len(split.labels) for name, split in load(few).items()
    }
    few_trained = epoch.metrics[TRAIN_SECONDS]
    few_judged = epoch.metrics[EPOCH_SECONDS] - few_trained
    training = few_trained * times["train"]
    judging = few_judged * times["val"]
    steps = len(batch_sizes(len(splits["train"].labels), recipe.batch_size))
    return TrainingCost(
        training + judging,
        _judging_seconds(recipe, splits, epoch),
        training / steps,
    )


def _fewer(recipe: Recipe) -> Dataset:
    """The recipe's data, with as many images as can be afforded where the data set lets one
    choose."""
    whole = recipe.resolved_data
    data: Any
    data, *_ = members(whole)
    splits = load(data)
    affordable = _affordable(recipe, gradients_per_image(recipe))
    n = max(affordable, LEAST, data.spec.num_classes)
    changes = {}
    # A data set of the user's own need not have such fields.
    for name in {"train", "val"} & {field.name for field in fields(data)}:
        if isinstance(getattr(data, name), int | None) and n < len(splits[name].labels):
            changes[name] = n
    fewer: Dataset = replace(data, **changes)
    return replace(whole, real=fewer) if isinstance(whole, Mixed) else fewer


def _affordable(recipe: Recipe, gradients: int) -> int:
    """How many images may be measured on this device, at a number of gradients of each."""
    per_image = operations(recipe.model, recipe.data.spec) * gradients
    return int(AFFORDED[best_device().type] / per_image)


def _judging_seconds(recipe: Recipe, splits: Mapping[str, Split], epoch: Epoch) -> float:
    """All of ``test`` at the last epoch and at the measured one, and as many images of ``train`` at
    the latter."""
    device = best_device()
    attack = recipe.resolved_test_attack
    model = recipe.model.build(recipe.data.spec).to(device)
    model.load_state_dict(epoch.state["judged"])
    n = min(ATTACKED, max(1, _affordable(recipe, ITERATIONS)))
    images = to_device(sampled(splits["test"], n).split, device).images
    with evaluating(model):
        predicted = model(to_float(images)).argmax(1)
    # An image that a cheap attack turns would not show what the dear ones cost.
    if isinstance(attack, AutoAttack):
        attack = replace(attack, eps=HARMLESS)
    started = time.perf_counter()
    judge(model, Split(images, predicted), attack)
    seconds = time.perf_counter() - started
    test = len(splits["test"].labels)
    in_all = 2 * test + min(len(splits["train"].labels), test)
    return seconds * in_all / len(images)


def attack_gradients(attack: object) -> int:
    """Gradient evaluations of one image, at most, under an attack made of ``PGD``s; 0 for
    others."""
    if isinstance(attack, TwoLosses):
        return sum(attack.steps_on_each) * attack.restarts
    if isinstance(attack, WorstCase):
        return sum(map(attack_gradients, attack.attacks))
    if isinstance(attack, OwnLoss):
        return attack_gradients(attack.attack)
    return attack.steps * attack.restarts if isinstance(attack, PGD) else 0


def gradients_per_image(recipe: Recipe) -> int:
    """Gradient evaluations of one training image in one epoch: the attack's, and one for each term
    of the loss."""
    logits = torch.zeros(1, recipe.data.spec.num_classes)
    y = torch.zeros(1, dtype=torch.long)
    if recipe.objective.inner(logits, y) is None:
        return 1
    return 2 + attack_gradients(recipe.attack)


def operations(model: Model, images: ImageSpec) -> float:
    """Floating-point operations of one gradient evaluation of one image."""
    from torch.utils.flop_counter import FlopCounterMode

    def counted(device: str) -> float:
        with torch.device(device), FlopCounterMode(display=False) as counter, torch.no_grad():
            model.build(images).eval()(torch.zeros(1, *images.shape))
        return float(PASSES * counter.get_total_flops())

    try:
        return counted("meta")
    except (RuntimeError, NotImplementedError, TypeError):
        # This net looks at a value, and on the meta device there is none.
        return counted("cpu")
