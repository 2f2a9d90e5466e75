"""Recorded suggestions, replayed through a space: does it still define what was trained?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial

from robsearch.data import digest
from robsearch.errors import InputError
from robsearch.identity import NUMERICS, numerics_of, numerics_since
from robsearch.protocols import Dataset
from robsearch.recipe import Recipe
from robsearch.spaces import Space, Stage
from robsearch.study.record import SearchRecord
from robsearch.study.recorded import RecordedTrial, recorded_studies, trials_of
from robsearch.study.suggestions import content_of, define, difference
from robsearch.trials.provenance import read_attempts

ANOTHER = "another recipe"
"""What ``identity.mismatch`` says of a recipe that is not the recorded one."""
MOVED = (
    "another one with the same numbers: a class has moved (`digest_name = "
    "'its_old_module:Name'` in the class keeps "
    "its name), or an object has another state"
)
OBJECT = re.compile(r"<(?:\w+\.)*(\w+) object>")
"""A plain object as text. In a worker, a class of a script has another module than in its
driver."""


class Change(NamedTuple):
    """One row of the table: what is no longer as it was, and the trials that it concerns (none: the
    whole search)."""

    what: str
    was: str
    now: str
    trials: tuple[str, ...] = ()


def replay(
    storage: BaseStorage, record: SearchRecord, space: Space, trials: Path
) -> Iterator[tuple[str, Change]]:
    """What a space defines otherwise than a search recorded it, with the name of the trial.

    Every trial that was begun is replayed with its stored parameters; nothing is written. Those of
    a control or a rung that the space does not have any more are left out: see
    ``recorded_controls``.

    Args:
        storage: of the search.
        record: of the search.
        space: that the search would go on with.
        trials: the folder of the trials' folders, where attempts wrote down their recipes.
    """
    searched = {(stage.control, stage.rung) for stage in space.stages()}
    # By digest: a data set may have a field that is a dictionary, and so no hash.
    known: dict[tuple[type, str], str] = {}

    def contents(dataset: Dataset) -> str:
        """From memory: nearly all trials have the data of the one before."""
        key = (type(dataset), digest(dataset))
        if key not in known:
            known[key] = content_of(dataset)
        return known[key]

    for stage, _, suggestions in recorded_studies(storage, record.name):
        if (stage.control, stage.rung) not in searched:
            continue
        for suggestion in suggestions:
            for trial in trials_of(suggestion):
                folder = trials / trial.trial
                member = _Member(stage, suggestion, trial)
                for change in _changes(space, record.seed, member, folder, contents):
                    yield trial.trial, change


def recorded_controls(storage: BaseStorage, search: str) -> set[str]:
    """The controls of which a search has trained something."""
    return {
        stage.control
        for stage, _, suggestions in recorded_studies(storage, search)
        if stage.control and suggestions
    }


class _Member(NamedTuple):
    """A trial, the suggestion that it belongs to, and that one's study."""

    stage: Stage
    suggestion: FrozenTrial
    trial: RecordedTrial


def _changes(
    space: Space,
    seed: int,
    member: _Member,
    folder: Path,
    contents: Callable[[Dataset], str],
) -> Iterator[Change]:
    stage, suggestion, trial = member
    fixed = FixedTrial(suggestion.params, number=trial.number)
    asked = suggestion.distributions
    recipe = None
    try:
        with warnings.catch_warnings():
            # A value may be outside a changed range: the ranges are compared below.
            warnings.simplefilter("ignore")
            recipe = define(space, seed, stage, fixed, trial.width, trial.replicate).recipe
        asked = fixed.distributions
        why = difference(trial, recipe, contents)
    except InputError as error:
        why = "; ".join(error.problems)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    yield from _range_changes(suggestion.distributions, asked, stage)
    # A digest names the version of the numerics that it was made by.
    version = numerics_of(trial.recipe)
    changed = numerics_since(version)
    if changed:
        yield Change("numerics", f"version {version}", f"version {NUMERICS}: {changed}")
    if why is None:
        return
    if recipe is None:
        yield Change("recipe", "one", why)
        return
    attempts = read_attempts(folder) if why == ANOTHER else []
    if not attempts:
        yield Change("recipe", trial.recipe, why)
        return
    changes = list(recipe_changes(attempts[-1]["recipe"], recipe))
    yield from changes or [Change("recipe", trial.recipe, MOVED)]


def recipe_changes(recorded: Mapping[str, Any], recipe: Recipe) -> Iterator[Change]:
    """The fields in which a recipe's flat view differs from the one that an attempt wrote down."""
    now = recipe.flat()
    for name in dict.fromkeys([*recorded, *now]):
        was = recorded.get(name, "nothing")
        text = now.get(name, "nothing")
        if was != text and OBJECT.sub(r"\1", str(was)) != OBJECT.sub(r"\1", str(text)):
            yield Change(name, str(was), str(text))


def _range_changes(
    recorded: Mapping[str, BaseDistribution], asked: Mapping[str, BaseDistribution], stage: Stage
) -> Iterator[Change]:
    for name in sorted({*recorded, *asked}):
        was = recorded.get(name)
        now = asked.get(name)
        # One of the widths need not ask for what another does.
        never_widened = stage.width is None and now is None
        if was != now and not never_widened:
            yield Change(f"range of {name}", range_text(was), range_text(now))


def range_text(distribution: BaseDistribution | None) -> str:
    """A range in few words: ``0.5 to 64, log``, ``one of 'a', 'b'``, ``not asked``."""
    if distribution is None:
        return "not asked"
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(repr, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    log = ", log" if distribution.log else ""
    stepped = distribution.step not in (None, 1)
    steps = f", in steps of {distribution.step:g}" if stepped else ""
    return f"{distribution.low:g} to {distribution.high:g}{log}{steps}"
