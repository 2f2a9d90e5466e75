"""What a training takes on one device like this one, from a measured epoch and a measured attack."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import islice
from typing import Any, NamedTuple

import torch

from robsearch.attacks import PGD, AutoAttack, OwnLoss, WorstCase
from robsearch.data import load
from robsearch.evaluation import best_device, judge, sampled, to_device, to_float
from robsearch.modes import evaluating
from robsearch.protocols import Dataset, ImageSpec, Model, Split
from robsearch.recipe import Recipe
from robsearch.trainer import Epoch, train

PASSES = 3
"""A forward and a backward pass take about three times the operations of the forward one."""
AFFORDED: dict[str, float] = {"cpu": 6e11, "cuda": 1e14}
"""Floating-point operations that one measurement may take: seconds."""
LEAST = 16
"""Images of an epoch, at least, however large the net."""
ATTACKED, ITERATIONS = 250, 1000
"""Images on which the final attack is timed at most, and about how many gradients it takes of each."""
HARMLESS = 1e-6
"""At this eps AutoAttack turns no image, and goes on to its last step on all of them."""


class Cost(NamedTuple):
    """Seconds on one device.

    Attributes:
        training: an epoch, with its judging on ``val``.
        judging: all that follows the last epoch, at most: as if every image withstood the final attack.
        step: an optimiser step.
    """

    training: float
    judging: float
    step: float = 0.0


def measured(recipe: Recipe) -> Cost:
    """Of an epoch and of judging: from the second epoch, on as many images as can be afforded; the first warms up."""
    splits, few = load(recipe.data), _fewer(recipe)
    *_, epoch = islice(train(replace(recipe, data=few)), 2)
    training, whole = (float(epoch.metrics[f"time/{what}_seconds"]) for what in ("train", "epoch"))
    train_share, val_share = (len(load(few)[name].labels) / len(splits[name].labels) for name in ("train", "val"))
    seconds = training / train_share + (whole - training) / val_share
    steps = math.ceil(len(splits["train"].labels) / recipe.batch_size)
    return Cost(seconds, _judging_seconds(recipe, splits, epoch), training / train_share / steps)


def _fewer(recipe: Recipe) -> Dataset:
    """The recipe's data, with as many images as can be afforded where the data set lets one choose."""
    data: Any = recipe.data
    splits, n = load(recipe.data), _affordable(recipe, gradients_per_image(recipe))
    n = max(n, LEAST, recipe.data.spec.num_classes)
    counts = {each.name for each in fields(data) if isinstance(getattr(data, each.name), int | None)}
    chosen = {name: n for name in ("train", "val") if name in counts and n < len(splits[name].labels)}
    return replace(data, **chosen) if chosen else recipe.data


def _affordable(recipe: Recipe, gradients: int) -> int:
    """How many images may be measured on this device, at a number of gradients of each."""
    return int(AFFORDED[best_device().type] / (operations(recipe.model, recipe.data.spec) * gradients))


def _judging_seconds(recipe: Recipe, splits: Mapping[str, Split], epoch: Epoch) -> float:
    """All of ``test`` at the last epoch and at the measured one, and as many images of ``train`` at the latter."""
    device, attack = best_device(), recipe.resolved_test_attack
    model = recipe.model.build(recipe.data.spec).to(device)
    model.load_state_dict(epoch.state["judged"])
    n = min(ATTACKED, max(1, _affordable(recipe, ITERATIONS)))
    images = to_device(sampled(splits["test"], n).split, device).images
    with evaluating(model):
        predicted = model(to_float(images)).argmax(1)
    if isinstance(attack, AutoAttack):
        attack = replace(attack, eps=HARMLESS)
    started = time.perf_counter()
    judge(model, Split(images, predicted), attack)
    seconds = time.perf_counter() - started
    test, training = len(splits["test"].labels), len(splits["train"].labels)
    return seconds * (2 * test + min(training, test)) / len(images)


def attack_gradients(attack: object) -> int:
    """Gradient evaluations of one image under an attack made of ``PGD``s; 0 for others."""
    if isinstance(attack, WorstCase):
        return sum(map(attack_gradients, attack.attacks))
    if isinstance(attack, OwnLoss):
        return attack_gradients(attack.attack)
    return attack.steps * attack.restarts if isinstance(attack, PGD) else 0


def gradients_per_image(recipe: Recipe) -> int:
    """Gradient evaluations of one training image in one epoch: the attack's, and one for each term of the loss."""
    logits, y = torch.zeros(1, recipe.data.spec.num_classes), torch.zeros(1, dtype=torch.long)
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
    except (RuntimeError, NotImplementedError, TypeError):  # a net that looks at a value
        return counted("cpu")
