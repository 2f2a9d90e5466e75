"""What the storage remembers of each training: a suggestion is one, or several at other widths or with other seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from robsearch.recipe import Recipe
from robsearch.selection import Order, order
from robsearch.spaces import Space, Stage, training_name
from robsearch.study.params import COLUMN
from robsearch.study.storage import SearchRecord
from robsearch.study.width_sampler import choices_of
from robsearch.trainer import VALUE

TRAININGS = "trainings"
"""The Optuna trial's attribute: a list of facts, one for each training that was begun."""
IMPORTED = "imported from"
"""The attribute of a trial that another search, or a table, brought in."""


class Training(NamedTuple):
    """One training that was begun.

    ``state`` is its own: a suggestion that was given up after two good trainings has two COMPLETE ones. ``facts`` has
    ``recipe`` (digest), ``data`` (digest of its contents), ``seed``, ``recipe_epochs`` (the recipe's) and ``commonest``
    (the share of the commonest class of ``val``); once it has ended ``lam``, ``best_epoch``, ``epochs`` (trained),
    ``seconds``, the metrics of its best epoch, ``feasible`` and ``collapsed``, or the ``reason`` of its failure. Of
    what it took also ``gpu_seconds`` (see ``robsearch.costs``), ``wall_seconds`` from handing it out to its end, and
    after a failure ``lost_seconds`` and ``lost_gpu_seconds`` since its last epoch.
    """

    trial: str
    width: float
    number: int
    replicate: int | None
    state: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Suggestion:
    """One recipe to train, under the name it has everywhere: ``w4-017``; ``params`` are what Optuna suggested."""

    trial: str
    width: float
    number: int
    replicate: int | None
    stage: Stage
    recipe: Recipe
    params: Mapping[str, Any] = field(default_factory=dict, compare=False)


class Told(NamedTuple):
    """What the end of a training means for its suggestion.

    ``state`` is RUNNING while trainings of it are left, ``following`` the next of them; ``value`` is the mean of the
    first metric over those that have ended, NaN after a failure; ``facts`` are those of the training (``Training``).
    """

    state: str
    value: float
    following: Suggestion | None = None
    facts: Mapping[str, Any] = MappingProxyType({})


def own(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Without those that were brought in, or wait to be asked for."""
    return [trial for trial in trials if trial.state != TrialState.WAITING and IMPORTED not in trial.user_attrs]


def trainings_of(trial: FrozenTrial) -> list[Training]:
    """The trainings of one suggestion, in their order; none if the space failed to define the first."""
    return [
        Training(each["trial"], each["width"], trial.number, each["replicate"], each["state"], each)
        for each in trial.user_attrs.get(TRAININGS, [])
    ]


def order_of(facts: Mapping[str, Any]) -> Order:
    """Where a finished training with these facts stands among those of its width."""
    return order(facts[VALUE], facts.get("feasible"), facts.get("collapsed"), facts["trial"])


def best_first(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The finished suggestions by their value; those that miss a constraint come later, those that collapsed last.

    A suggestion of several trainings collapsed, or misses a constraint, if one of them did.
    """

    def place(trial: FrozenTrial) -> tuple[bool, bool, float]:
        orders = [order_of(training.facts) for training in trainings_of(trial)]
        return all(each.sound for each in orders), all(each.feasible for each in orders), trial.values[0]

    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(done, key=place, reverse=True)


def define(
    space: Space, search_seed: int, stage: Stage, trial: Any, number: int, width: float, replicate: int | None
) -> Suggestion:
    """What a space makes of a suggestion: the recipe of one of its trainings, with that training's own seed.

    Args:
        space: that is searched.
        search_seed: from which every training's seed derives.
        stage: of the study.
        trial: Optuna's, or one that gives recorded parameters back.
        number: of the suggestion in its study.
        width: of the training.
        replicate: of the training, or None if a suggestion has one seed.
    """
    own_label = replace(stage, width=width).label
    own = () if space.paired else (own_label, number)
    seed = derived_seed(search_seed, *own, *([replicate] if replicate else []))
    recipe = replace(space.recipe(stage, trial, width), seed=seed)
    name = training_name(stage, width, number, replicate)
    return Suggestion(name, width, number, replicate, stage, recipe, dict(trial.params))


def recorded_studies(storage: BaseStorage, search: str) -> Iterator[tuple[Stage, list[FrozenTrial]]]:
    """The studies of a search with their own suggestions; nothing is written."""
    for study in storage.get_all_studies():
        place = study.user_attrs.get("place")
        if place and place["search"] == search:
            stage = Stage(place["width"], place["control"], place.get("rung"), place.get("exact", False))
            yield stage, own(storage.get_all_trials(study._study_id, deepcopy=False))


def recorded_trials(storage: BaseStorage, record: SearchRecord) -> Iterator[dict[str, Any]]:
    """The facts the storage knows of each training of a search: name, width, number, state, reason, seed and more."""
    for stage, trials in recorded_studies(storage, record.name):
        for trial in trials:
            for training in trainings_of(trial) or [_never_begun(stage, trial, record)]:
                yield {
                    "trial": training.trial,
                    "width": training.width,
                    "number": training.number,
                    "replicate": training.replicate,
                    "control": stage.control,
                    "rung": stage.rung,
                    "state": training.state,
                    "suggestion": trial.state.name,
                    "feasible": training.facts.get("feasible"),
                    "reason": training.facts.get("reason") or trial.user_attrs.get("reason"),
                    "seed": training.facts.get("seed"),
                    "recipe": training.facts.get("recipe"),
                    "facts": training.facts,
                    "choices": choices_of(trial),
                    **{f"{COLUMN}{name}": value for name, value in trial.params.items()},
                }


def _never_begun(stage: Stage, trial: FrozenTrial, record: SearchRecord) -> Training:
    width = min(record.widths) if stage.width is None else stage.width
    name = training_name(stage, width, trial.number, None)
    return Training(name, width, trial.number, None, trial.state.name, {})


def derived_seed(*parts: object) -> int:
    """A seed below 2**31 that any change of a part changes: (search seed, label, number, replicate)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31
