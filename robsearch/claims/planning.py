"""What a study would take, from a measured epoch and a measured attack."""

from __future__ import annotations

from typing import NamedTuple

from robsearch.claims.experiment import Experiment, Study
from robsearch.pricing import Cost, measured


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
                costs[width] = measured(experiment.recipe(experiment.arms[0], width, {}))
            epochs = sum(experiment.recipe(arm, width, {}).epochs for arm in experiment.arms)
            training += experiment.seeds * epochs * costs[width].training
            judging += experiment.seeds * len(experiment.arms) * costs[width].judging
        planned.append(Planned(experiment, Cost(training, judging)))
    return planned
