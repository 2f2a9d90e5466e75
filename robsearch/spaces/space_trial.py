"""The trial that a space is handed: it suggests only what the storage gives back equal, and guards
the record."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial, FixedTrial

from robsearch.errors import InputError, a, refusal, refused
from robsearch.metrics import RATES
from robsearch.spaces.ranges import (
    LONGEST_NAME,
    LONGEST_TEXT,
    checked_name,
    choice_range,
    float_range,
    given_back,
    int_range,
    plain,
    same_range,
)

if TYPE_CHECKING:
    from robsearch.recipe import Recipe

OURS = ("trainings", "reason", "imported from", "risen_from")
"""Attributes of a trial in which robsearch remembers what became of it (``study.recorded``)."""
METRICS = tuple(f"val/{name}" for name in RATES)
"""What can be maximised or constrained: of the best epoch, on ``val``."""


def recipe_of(
    define: Callable[[optuna.Trial, float], Recipe],
    trial: BaseTrial,
    width: float,
    replicate: int = 0,
) -> Recipe:
    """What a space makes of a trial at a width, for one of its replicates.

    Raises:
        InputError: all that it asked for and a storage would not give back equal, and all that it
            wrote over. What was recorded before is read all the same if it can be: its digest says
            whether it is the recipe it was.
    """
    guarded = SpaceTrial(trial, replicate)
    try:
        recipe = define(guarded, width)
    except Exception as error:
        guarded.refuse_problems(error)
        raise
    if not guarded.recorded:
        guarded.refuse_problems()
    return recipe


def _of_trial(name: str) -> Any:
    """A property that is the guarded trial's."""
    return property(lambda self: getattr(self._trial, name), doc="As Optuna's.")


def _not_kept(name: str) -> Any:
    """A property that is refused, because ``resume`` and ``evaluate``, which replay a suggestion,
    could not give it to a space again."""

    def refuse(self: SpaceTrial) -> None:
        do = (
            "use the width, the suggested parameters, trial.number and attributes that the space "
            "set itself"
        )
        expected = "a space that depends on its suggestion only"
        raise refused(expected, f"trial.{name}", do)

    return property(refuse, doc="Refused: a suggestion that is replayed has none.")


class SpaceTrial(optuna.Trial):
    """An Optuna trial, or one with fixed parameters, as a space sees it.

    A problem does not interrupt the space, so that all are told at once: it is handed one of the
    values it named. Values are those that the storage will give back: 6 from the range of a float
    is 6.0.

    Args:
        trial: which suggests and remembers.
        replicate: which of its trainings the space is asked for.
    """

    def __init__(self, trial: BaseTrial, replicate: int = 0) -> None:
        # Optuna's own constructor would have the sampler begin once more: what it sets is read from
        # ``trial``.
        self._trial = trial
        self.replicate = replicate
        self._ranges: dict[str, BaseDistribution] = {}
        self._problems: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name == "_trial":  # not there yet, in a copy that is being made
            raise AttributeError(name)
        return getattr(self._trial, name)

    @property
    def recorded(self) -> bool:
        """Whether its parameters were suggested and kept before, and are only read again."""
        return isinstance(self._trial, FixedTrial)

    def refuse_problems(self, cause: Exception | None = None) -> None:
        """Raises what was found.

        Raises:
            InputError: all problems, if there are any.
        """
        if self._problems:
            raise InputError(*dict.fromkeys(self._problems)) from cause

    # --- suggestions ---

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        """As Optuna's; bounds may be NumPy numbers."""
        suggest = self._trial.suggest_float
        return self._suggested(name, float_range, suggest, low=low, high=high, step=step, log=log)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        """As Optuna's; bounds may be NumPy numbers."""
        suggest = self._trial.suggest_int
        return self._suggested(name, int_range, suggest, low=low, high=high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As Optuna's; choices may be NumPy numbers, and are given back as Python's."""
        suggest = self._trial.suggest_categorical
        return self._suggested(name, choice_range, suggest, choices=choices)

    def _suggested(
        self,
        name: str,
        range_of: Callable[..., BaseDistribution],
        suggest: Callable[..., Any],
        **bounds: Any,
    ) -> Any:
        """What the trial suggests from a range that it can keep."""
        try:
            name = checked_name(name)
            distribution = range_of(name, **bounds)
        except InputError as error:
            self._problems += error.problems
            return suggest(name, **bounds) if self.recorded else _any_of(**bounds)
        first = self._ranges.get(name, distribution)
        if not same_range(first, distribution):
            expected = f"one range for {name!r} in a suggestion"
            do = "give each of them a name of its own"
            self._problems.append(refusal(expected, f"{first} and {distribution}", do))
            return self.params[name]
        try:
            value = given_back(distribution, suggest(name, **vars(distribution)))
        except InputError:
            raise
        except ValueError as error:
            # other choices than in an earlier suggestion, or a value that was never suggested
            do = "ask for the same names and ranges in every suggestion of a search"
            raise refused(f"a value of {name!r} from {distribution}", error, do) from error
        self._ranges[name] = distribution
        return value

    # --- what else a space may look at ---

    @property
    def params(self) -> dict[str, Any]:
        """What was suggested, as the storage gives it back."""
        ranges = self._trial.distributions
        return {name: given_back(ranges[name], value) for name, value in self._trial.params.items()}

    distributions = _of_trial("distributions")
    user_attrs = _of_trial("user_attrs")
    datetime_start = _of_trial("datetime_start")
    number = _of_trial("number")
    constraints = _of_trial("constraints")
    relative_params = _not_kept("relative_params")
    study = _not_kept("study")
    storage = _not_kept("storage")

    # --- what a space may write ---

    def set_user_attr(self, key: str, value: Any) -> None:
        """As Optuna's; the value is kept as JSON gives it back."""
        try:
            stored = _stored_attribute(key, value)
        except InputError as error:
            self._problems += error.problems
            return
        self._trial.set_user_attr(key, stored)

    def set_constraint(self, key: str, value: float) -> None:
        """As Optuna's, except for the metrics of ``subject_to``."""
        if key in METRICS:
            do = "leave it to subject_to=(AtLeast(...),), or choose another name"
            self._problems.append(
                refusal("a constraint that robsearch does not set itself", repr(key), do)
            )
            return
        self._trial.set_constraint(key, value)

    def report(self, value: float, step: int) -> None:
        """Refused: what is trained is reported, not what is suggested."""
        do = "leave it out: robsearch reports each epoch"
        self._problems.append(
            refusal("a space that only suggests", f"report({value!r}, {step!r})", do)
        )

    def should_prune(self) -> bool:
        """As Optuna's."""
        return self._trial.should_prune()


def _any_of(low: Any = None, choices: object = (), **_: object) -> Any:
    """One of the values that a space named, so that it goes on and shows its other problems."""
    if low is None and isinstance(choices, Iterable):
        return next(iter(choices), None)
    return low


def _stored_attribute(key: object, value: object) -> Any:
    """The value as JSON gives it back.

    Raises:
        InputError: what a storage could not keep, or one of the attributes that robsearch sets
            itself.
    """
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_NAME:
        expected = f"an attribute's name of 1 to {LONGEST_NAME} characters"
        raise refused(expected, reprlib.repr(key), "pass such as 'note'")
    if key in OURS:
        expected = f"a user attribute other than {', '.join(OURS)}, which robsearch sets itself"
        raise refused(expected, repr(key), "choose another name")
    try:
        text = json.dumps(value, default=_plain_or_error)
    except (TypeError, ValueError) as error:
        do = "pass numbers, strings, and lists or dicts of these"
        raise refused(f"a value of the attribute {key!r} that JSON can hold", error, do) from error
    if len(text) > LONGEST_TEXT:
        expected = (
            f"a value of the attribute {key!r} that a database holds, {LONGEST_TEXT} bytes of JSON"
        )
        raise refused(expected, f"{len(text)} bytes", "write it to a file, and keep the path")
    return json.loads(text)


def _plain_or_error(value: object) -> Any:
    number = plain(value)
    if number is value:
        raise TypeError(f"{reprlib.repr(value)} is {a(type(value).__name__)}")
    return number
