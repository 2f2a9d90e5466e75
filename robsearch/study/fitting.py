"""Whether a trial from elsewhere is one that a space could have suggested, and how its table's text is read."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from robsearch.naming import alike
from robsearch.spaces import Space, Stage, contains

Distributions = Mapping[str, BaseDistribution]

DRAWS = 32
"""Suggestions that are drawn to learn which parameters a space asks for together."""
_MISSING = ("", "nan", "na", "n/a", "none", "null")


class Fit(NamedTuple):
    """What becomes of one trial from elsewhere.

    Attributes:
        params: those that the space asks for.
        label: of the study that it goes to, ``elsewhere`` for those at a width that is not searched; None if the space
            could not have suggested it.
        reason: why the samplers do not know it, in words that follow a count; empty if they do.
    """

    params: dict[str, Any]
    label: str | None
    reason: str


class Fitting:
    """Says of trials from elsewhere whether a space could have suggested them, and who learns from them.

    Args:
        space: of the new search.
        known: the distribution of each parameter of the space.
    """

    def __init__(self, space: Space, known: Distributions) -> None:
        self._space, self._known = space, known
        self._together: dict[float, list[frozenset[str]]] = {}

    def fit(self, width: float | None, params: Mapping[str, Any]) -> Fit:
        """Of a trial at this width; None for one at all widths of the space."""
        found = {name: _typed(self._known[name], value) for name, value in params.items() if name in self._known}
        outside = [
            f"{name} {range_of(self._known[name])}" for name, value in found.items() if not self._has(name, value)
        ]
        if outside:
            return Fit(found, None, f"outside {' and '.join(outside)}")
        if not found:
            return Fit(found, None, f"without {' or '.join(self._known) or 'a parameter'}")
        if width is not None and width not in self._space.widths:
            return Fit(found, "elsewhere", self._not_learned(found))
        if missing := self._missing(width, found):
            return Fit(found, None, f"without {' and '.join(missing)}")
        return Fit(found, Stage(width, exact=alike(self._space.widths)).label, "")

    def _has(self, name: str, value: Any) -> bool:
        return contains(self._known[name], value)

    def _not_learned(self, found: Mapping[str, Any]) -> str:
        """Why a trial at a width that is not searched tells a sampler nothing; empty if it tells something."""
        sampler = self._space.sampler
        if getattr(sampler, "with_siblings", None) is None:
            name = type(sampler).__name__ if sampler else "TPESampler"
            return f"at a width that is not searched ({name} learns at each width by itself)"
        modelled = getattr(sampler, "_parameter", None)
        return f"without {modelled}" if modelled is not None and modelled not in found else ""

    def _missing(self, width: float | None, found: Mapping[str, Any]) -> list[str]:
        """What a trial lacks to be whole. Samplers that model parameters together cannot use a part of them.

        A space may ask for some parameters only in some cases: a trial is whole if it has all that a suggestion has.
        """
        if found.keys() == self._known.keys():
            return []
        at = min(self._space.widths) if width is None else width
        if at not in self._together:
            self._together[at] = _asked_together(self._space, at)
        missing = [sorted(names - found.keys()) for names in self._together[at]]
        return min(missing, key=len, default=[])


def _asked_together(space: Space, width: float) -> list[frozenset[str]]:
    """The parameters of each of some suggestions."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = set()
    for _ in range(DRAWS):
        trial = study.ask()
        with contextlib.suppress(Exception):  # what a space cannot define, it says when it is searched
            space.define(trial, width)
            found.add(frozenset(trial.params))
    return list(found)


def range_of(distribution: BaseDistribution) -> str:
    """What can be suggested, in words: ``0.5 to 64``."""
    if isinstance(distribution, CategoricalDistribution):
        return " or ".join(map(repr, distribution.choices))
    low, high, step = (distribution._asdict()[name] for name in ("low", "high", "step"))
    whole = isinstance(distribution, IntDistribution)
    steps = f" in steps of {step:g}" if step and not (whole and step == 1) else ""
    return f"{'whole numbers ' if whole else ''}{low:g} to {high:g}{steps}"


def read_as(distribution: BaseDistribution, text: str) -> Any:
    """What a cell of a table means for a parameter; None for an empty cell.

    A choice is meant by its text or by its number: ``2.0`` means 2, and 1 means True where that is a choice.

    Raises:
        ValueError: it is not a number, and must be one.
    """
    text = text.strip()
    if isinstance(distribution, CategoricalDistribution):
        return _choice(distribution.choices, text)
    return None if text.lower() in _MISSING else _typed(distribution, number(text))


def number(text: str) -> float:
    """The number that a text means to everybody, not to Python alone. Raises ValueError if it is none."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _choice(choices: tuple[Any, ...], text: str) -> Any:
    for choice in choices:
        if text == str(choice) or (isinstance(choice, bool) and text.lower() == str(choice).lower()):
            return choice
    if text.lower() in _MISSING:
        return None
    try:
        value = number(text)
    except ValueError:
        return text
    return next((choice for choice in choices if not isinstance(choice, str | None) and choice == value), text)


def _typed(distribution: BaseDistribution, value: Any) -> Any:
    """A whole number as an int where the space asks for one: tables and other spaces may have it as a float."""
    whole = isinstance(distribution, IntDistribution) and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value
