"""What a study would take, from a measured epoch and a measured attack."""

from __future__ import annotations

from typing import Any, NamedTuple

from robsearch.claims.experiment import Experiment, PaperStudy
from robsearch.trials.pricing import TrainingCost, measure_cost


class Planned(NamedTuple):
    """One experiment of a dry run, with what all its trainings take together."""

    experiment: Experiment[Any]
    cost: TrainingCost


def plan(study: PaperStudy) -> list[Planned]:
    """What ``validate`` would train, with the time of it on one device like this one.

    What arms of a later experiment depend on is not known yet: at each width an epoch and the
    judging of all arms are taken to cost what they do in the first arm of the first experiment
    there. Measures are not counted, but for accuracy under attack.
    """
    costs: dict[float, TrainingCost] = {}
    planned = []
    for experiment in study.experiments:
        training = 0.0
        judging = 0.0
        for width in experiment.widths:
            # Nothing has been found yet.
            recipes = [experiment.recipe(arm, width, {}) for arm in experiment.arms]
            # The epoch is measured once for each width, which takes seconds to minutes.
            if width not in costs:
                costs[width] = measure_cost(recipes[0])
            epochs = sum(recipe.epochs for recipe in recipes)
            training += experiment.seeds * epochs * costs[width].training
            judging += experiment.seeds * len(recipes) * costs[width].judging
        planned.append(Planned(experiment, TrainingCost(training, judging)))
    return planned
