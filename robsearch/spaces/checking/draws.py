"""Suggestions that ``check`` draws at random: nothing is trained."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from robsearch.errors import InputError, a, described_error, refuse, refused
from robsearch.recipe import Recipe
from robsearch.spaces.checking.problems import Problem, merged
from robsearch.spaces.definition import Space
from robsearch.spaces.space_trial import recipe_of

DRAWS = 3
"""Suggestions that ``check`` draws at each width."""
MORE = 8
"""With those of ``check`` eleven: both of two choices are among them in all but one of a thousand
spaces."""


@dataclass(frozen=True)
class Draw:
    """One suggestion drawn by ``check``."""

    width: float
    params: dict[str, object]
    distributions: dict[str, BaseDistribution]
    recipe: Recipe


def draw_one(
    space: Space, width: float, seed: int, fixed: Mapping[str, object] | None = None
) -> Draw:
    """One suggestion.

    Args:
        space: that suggests.
        width: of the net.
        seed: of the random numbers.
        fixed: parameters that are not drawn.

    Raises:
        InputError: the space fails, or gives no recipe.
    """
    study = scratch_study(RandomSampler(seed=seed), metrics=len(space.maximise))
    if fixed:
        study.enqueue_trial(dict(fixed))
    # Numbers of suggestions differ, too: a range must not depend on them.
    trial = [study.ask() for _ in range(seed + 1)][-1]
    recipe = called(lambda: recipe_of(space.define, trial, width), space.title)
    suggested = study.get_trials()[-1]
    return Draw(width, suggested.params, suggested.distributions, recipe)


def draw_all(space: Space, draws: int, problems: list[Problem]) -> list[Draw]:
    """So many suggestions at each width, without those that fail: their problems are appended."""
    drawn: list[Draw] = []
    for width in space.widths:
        for seed in range(draws):
            with collecting(problems, width, draw=seed):
                drawn.append(draw_one(space, width, seed))
    return drawn


def suggestions(space: Space) -> list[Draw]:
    """Those that ``check`` draws, where it has passed before.

    Raises:
        InputError: recipes that cannot be made.
    """
    problems: list[Problem] = []
    drawn = draw_all(space, DRAWS, problems)
    refuse(merged(problems))
    return drawn


def more_draws(space: Space, width: float) -> Iterator[Draw]:
    """Suggestions at one width beside those of ``check``, the same every time; without those that
    the space refuses."""
    for seed in range(DRAWS, DRAWS + MORE):
        # ``check`` has passed: such a one will fail as a trial, with its reason.
        with contextlib.suppress(InputError):
            yield draw_one(space, width, seed)


def distributions(draws: Sequence[Draw]) -> dict[str, BaseDistribution]:
    """Of every parameter that the space asked for."""
    by_name: dict[str, BaseDistribution] = {}
    for draw in draws:
        by_name |= draw.distributions
    return by_name


def called(make: Callable[[], object], what: str) -> Recipe:
    """The recipe that a user's function makes.

    Raises:
        InputError: it fails, or makes something else.
    """
    try:
        recipe = make()
    except InputError:
        raise
    except Exception as error:
        got = described_error(error)
        raise refused(f"a Recipe from {what}", got, "correct the function") from error
    if not isinstance(recipe, Recipe):
        got = a(type(recipe).__name__)
        raise refused(f"a Recipe from {what}", got, "return Recipe(...)")
    return recipe


@contextlib.contextmanager
def collecting(
    problems: list[Problem], width: float | None = None, origin: str = "", draw: int = 0
) -> Iterator[None]:
    """What is refused inside is appended to the problems, and does not end the check."""
    try:
        yield
    except InputError as error:
        problems += [Problem(text, width, origin, draw) for text in error.problems]


def scratch_study(sampler: BaseSampler, *, metrics: int) -> optuna.Study:
    """A study in memory, whose storage keeps JSON as a search's own does: it refuses what that
    could not keep, and gives back what that would.

    Args:
        sampler: that suggests.
        metrics: how many are maximised.
    """
    # Otherwise Optuna tells the user of each study that is made here.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(_JournalInMemory())
    return optuna.create_study(storage=storage, sampler=sampler, directions=["maximize"] * metrics)


class _JournalInMemory(BaseJournalBackend):
    def __init__(self) -> None:
        self._lines: list[str] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of them, or nothing."""
        self._lines += [json.dumps(log) for log in logs]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Those from a number on."""
        return [json.loads(line) for line in self._lines[log_number_from:]]
