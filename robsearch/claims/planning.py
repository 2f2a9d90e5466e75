"""What a study would take, from a measured epoch and a measured attack."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from robsearch.attacks import AutoAttack
from robsearch.claims.experiment import Experiment, Study
from robsearch.data import load
from robsearch.evaluation import best_device, judge, sampled, to_device, to_float
from robsearch.modes import evaluating
from robsearch.protocols import Split
from robsearch.recipe import Recipe
from robsearch.trainer import Epoch, train

ATTACKED = 250
"""Images on which the final attack is timed."""
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

    What arms of a later experiment depend on is not known yet: at each width all arms are taken to cost what the
    first arm of the first experiment there does. The measures other than accuracy under attack are not counted.
    """
    costs: dict[float, Cost] = {}
    planned = []
    for experiment in study.experiments:
        for width in experiment.widths:
            if width not in costs:
                costs[width] = _measured(experiment.recipe(experiment.arms[0], width, {}))
        each = len(experiment.arms) * experiment.seeds
        own = [costs[width] for width in experiment.widths]
        whole = Cost(each * sum(cost.training for cost in own), each * sum(cost.judging for cost in own))
        planned.append(Planned(experiment, whole))
    return planned


def _measured(recipe: Recipe) -> Cost:
    """From the second epoch of a training: the first one also warms up."""
    load(recipe.data)
    *_, epoch = islice(train(recipe), 2)
    return Cost(float(epoch.metrics["time/epoch_seconds"]) * recipe.epochs, _judging_seconds(recipe, epoch))


def _judging_seconds(recipe: Recipe, epoch: Epoch) -> float:
    """All of ``test`` at the last epoch and at the measured one, and as many images of ``train`` at the latter."""
    splits, device, attack = load(recipe.data), best_device(), recipe.test_attack
    assert attack is not None, "Recipe fills it in"
    model = recipe.model.build(recipe.data.spec).to(device)
    model.load_state_dict(epoch.state["judged"])
    images = to_device(sampled(splits["test"], ATTACKED).split, device).images
    with evaluating(model):
        predicted = model(to_float(images)).argmax(1)
    if isinstance(attack, AutoAttack):
        attack = replace(attack, eps=HARMLESS)
    started = time.perf_counter()
    judge(model, Split(images, predicted), attack)
    seconds = time.perf_counter() - started
    test, training = len(splits["test"].labels), len(splits["train"].labels)
    return seconds * (2 * test + min(training, test)) / len(images)
