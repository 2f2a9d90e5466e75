"""Recorded suggestions, replayed through a space: does it still define what was trained?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial

from robsearch.data import content_digests
from robsearch.errors import InputError
from robsearch.identity import mismatch
from robsearch.recipe import Recipe
from robsearch.spaces import Space, Stage
from robsearch.study.storage import SearchRecord
from robsearch.study.trainings import Training, define, recorded_studies, trainings_of

ANOTHER = "another recipe"
"""What ``identity.mismatch`` says of a recipe that is not the recorded one."""


class Replayed(NamedTuple):
    """One recorded training beside what the space makes of its suggestion now.

    Attributes:
        training: as it was recorded.
        recipe: that the space defines now; None if it defines none.
        why: in words, why this is not what was trained; None if it is.
        ranges: by parameter, what was asked and what is asked now, where these differ.
    """

    training: Training
    recipe: Recipe | None
    why: str | None
    ranges: Mapping[str, tuple[str, str]]


def replay(storage: BaseStorage, record: SearchRecord, space: Space) -> Iterator[Replayed]:
    """Every training of a search that was begun, replayed with its stored parameters; nothing is written.

    Trainings of a control or a rung that the space does not have any more are left out: see ``recorded_labels``.
    """
    known = {(stage.control, stage.rung) for stage in space.stages()}
    for stage, trials in recorded_studies(storage, record.name):
        if (stage.control, stage.rung) not in known:
            continue
        for trial in trials:
            for training in trainings_of(trial):
                yield _replayed(space, record.seed, stage, trial, training)


def recorded_controls(storage: BaseStorage, search: str) -> set[str]:
    """The controls of which a search has trained something."""
    return {stage.control for stage, trials in recorded_studies(storage, search) if stage.control and trials}


def differs(begun: Mapping[str, Any], recipe: Recipe) -> str | None:
    """Why a recipe is not the one that a training was begun with, in words; None if it is.

    Args:
        begun: the facts that were recorded of the training.
        recipe: that the space defines now.
    """
    why = mismatch(begun["recipe"], recipe.resolved)
    if why is not None or "data" not in begun:
        return why
    now = content_digests(recipe.data)["all"]
    if now == begun["data"]:
        return None
    return f"other images or labels in {type(recipe.data).__name__} (contents {now}, not {begun['data']})"


def _replayed(space: Space, seed: int, stage: Stage, trial: FrozenTrial, training: Training) -> Replayed:
    fixed = FixedTrial(trial.params, number=trial.number)
    recipe, why = None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a value outside a changed range: the ranges are compared below
            found = define(space, seed, stage, fixed, trial.number, training.width, training.replicate)
        recipe = found.recipe
        why = differs(training.facts, recipe)
    except InputError as error:
        why = "; ".join(error.problems)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    asked = fixed.distributions if recipe is not None else trial.distributions
    return Replayed(training, recipe, why, dict(_range_changes(trial.distributions, asked, stage)))


def _range_changes(
    recorded: Mapping[str, BaseDistribution], asked: Mapping[str, BaseDistribution], stage: Stage
) -> Iterator[tuple[str, tuple[str, str]]]:
    for name in sorted({*recorded, *asked}):
        was, now = recorded.get(name), asked.get(name)
        partial = stage.width is None and now is None  # one of the widths need not ask for what another does
        if was != now and not partial:
            yield name, (range_text(was), range_text(now))


def range_text(distribution: BaseDistribution | None) -> str:
    """A range in few words: ``0.5 to 64, log``, ``one of 'a', 'b'``, ``not asked``."""
    if distribution is None:
        return "not asked"
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(repr, distribution.choices))}"
    facts = distribution._asdict()
    text = f"{facts['low']:g} to {facts['high']:g}"
    if facts.get("log"):
        text += ", log"
    if (step := facts.get("step")) not in (None, 1):
        text += f", in steps of {step:g}"
    return text
