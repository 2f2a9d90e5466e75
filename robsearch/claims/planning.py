"""What a study would take, from a measured epoch and a measured attack."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import islice
from typing import Any, NamedTuple

from robsearch.attacks import AutoAttack
from robsearch.claims.experiment import Experiment, Study, gradients_per_image, operations
from robsearch.data import load
from robsearch.evaluation import best_device, judge, sampled, to_device, to_float
from robsearch.modes import evaluating
from robsearch.protocols import Dataset, Split
from robsearch.recipe import Recipe
from robsearch.trainer import Epoch, train

AFFORDED: dict[str, float] = {"cpu": 6e11, "cuda": 1e14}
"""Floating-point operations that one measurement may take: seconds."""
LEAST = 16
"""Images of an epoch, at least, however large the net."""
ATTACKED, ITERATIONS = 250, 1000
"""Images on which the final attack is timed at most, and about how many gradients it takes of each."""
HARMLESS = 1e-6
"""At this eps AutoAttack turns no image, and goes on to its last step on all of them."""


class Cost(NamedTuple):
    """Seconds on one device: of training, and at most of judging, as if every image withstood the final attack."""

    training: float
    judging: float


class Planned(NamedTuple):
    """One experiment of a dry run, with what all its trainings take together."""

    experiment: Experiment
    cost: Cost


def plan(study: Study) -> list[Planned]:
    """What ``validate`` would train, with the time of it on one device like this one.

    What arms of a later experiment depend on is not known yet: at each width an epoch and the judging of all arms are
    taken to cost what they do in the first arm of the first experiment there. Measures are not counted, but for
    accuracy under attack.
    """
    costs: dict[float, Cost] = {}
    planned = []
    for experiment in study.experiments:
        training = judging = 0.0
        for width in experiment.widths:
            if width not in costs:
                costs[width] = _measured(experiment.recipe(experiment.arms[0], width, {}))
            epochs = sum(experiment.recipe(arm, width, {}).epochs for arm in experiment.arms)
            training += experiment.seeds * epochs * costs[width].training
            judging += experiment.seeds * len(experiment.arms) * costs[width].judging
        planned.append(Planned(experiment, Cost(training, judging)))
    return planned


def _measured(recipe: Recipe) -> Cost:
    """Of an epoch and of judging: from the second epoch, on as many images as can be afforded; the first warms up."""
    splits, few = load(recipe.data), _fewer(recipe)
    *_, epoch = islice(train(replace(recipe, data=few)), 2)
    training, whole = (float(epoch.metrics[f"time/{what}_seconds"]) for what in ("train", "epoch"))
    train_share, val_share = (len(load(few)[name].labels) / len(splits[name].labels) for name in ("train", "val"))
    seconds = training / train_share + (whole - training) / val_share
    return Cost(seconds, _judging_seconds(recipe, splits, epoch))


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
