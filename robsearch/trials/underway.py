"""Trainings that have not ended: how far each has come, and how long it will take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple, cast

import pandas as pd

from robsearch.metrics import EPOCH_SECONDS, IMAGES_PER_SECOND, VALUE, Metrics


class Underway(NamedTuple):
    """A training that has begun and not ended.

    Attributes:
        trial: its name.
        width: of its net.
        lam: that it was suggested.
        epoch: the last one that is saved; 0 where none is.
        epochs: of its recipe; NaN where an older robsearch did not record them.
        value: robust accuracy on ``val`` in that epoch, a share; NaN before the first.
        best: the highest so far.
        images_per_second: in training, the median over its epochs.
        seconds_to_go: until its last epoch, at the median of its epochs so far.
    """

    trial: str
    width: float
    lam: float
    epoch: int
    epochs: float
    value: float
    best: float
    images_per_second: float
    seconds_to_go: float


def underway(
    trial: str,
    width: float,
    lam: float,
    epochs: float,
    history: Sequence[Metrics],
) -> Underway:
    """How far one training is.

    Args:
        trial: its name.
        width: of its net.
        lam: lambda, as far as it is known.
        epochs: of its recipe.
        history: its epochs so far, in order.
    """
    if not history:
        return Underway(trial, width, lam, 0, epochs, *[math.nan] * 4)
    epoch = int(history[-1]["epoch"])
    values = [entry[VALUE] for entry in history]
    speed = _median(history, IMAGES_PER_SECOND)
    seconds = _median(history, EPOCH_SECONDS) * max(epochs - epoch, 0)
    return Underway(trial, width, lam, epoch, epochs, values[-1], max(values), speed, seconds)


def _median(history: Sequence[Metrics], metric: str) -> float:
    return median(entry.get(metric, math.nan) for entry in history)


def _number(value: float | None) -> float:
    # A robsearch before 0.2 recorded neither.
    return math.nan if value is None else float(value)


def trainings_underway(trials: pd.DataFrame, epochs: pd.DataFrame) -> list[Underway]:
    """Those of a search, in the order of its trials.

    Args:
        trials: ``Search.trials``; those count whose state is RUNNING.
        epochs: ``Search.epochs``; an epoch that was done again counts once.
    """
    running = trials[trials["state"] == "RUNNING"]
    of_trial = epochs.drop_duplicates(["trial", "epoch"], keep="last").groupby("trial")
    trainings = []
    for _, trial in running.iterrows():
        name = str(trial["trial"])
        history: list[Metrics] = []
        if name in of_trial.groups:
            rows = of_trial.get_group(name).sort_values("epoch").to_dict("records")
            history = cast(list[Metrics], rows)
        asked = _number(trial.get("recipe_epochs"))
        lam = _number(trial["lam"])
        trainings.append(underway(name, float(trial["width"]), lam, asked, history))
    return trainings
