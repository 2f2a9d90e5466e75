"""The ranges that a space may ask for: those that every Optuna storage gives back equal.

A storage keeps a range as JSON text and a value as one number: of a categorical parameter the place
among its choices. Whatever that changes, a tuple into a list or 1 into True, would train one recipe
and later be read as another.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from robsearch.errors import a, refused

Range = TypeVar("Range", bound=BaseDistribution)

PLAIN = (type(None), bool, int, float, str)
"""Types of choices that JSON gives back as they were."""
LONGEST_NAME = 512
"""Characters of a name: the width of the column that Optuna's databases keep it in."""
LONGEST_TEXT = 65_535
"""Bytes of JSON: what MySQL's TEXT holds, the shortest of the columns in Optuna's databases."""
LARGEST_WHOLE = 2**53
"""Up to here a float, which is what a storage keeps, holds every whole number."""

LOOK_UP = "suggest names (strings), and let the space look each of them up in a dict"


def plain(value: Any) -> Any:
    """A NumPy number as Python's own; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def checked_name(name: object) -> str:
    """The name of a parameter.

    Raises:
        InputError: it is no string, or one that a storage could not keep.
    """
    fits = (
        isinstance(name, str)
        and name.isprintable()
        and 0 < len(name.strip()) <= len(name) <= LONGEST_NAME
    )
    if not fits:
        expected = f"a parameter's name of 1 to {LONGEST_NAME} printable characters"
        raise refused(expected, reprlib.repr(name), "pass such as 'lam'")
    # An instance of a subclass would not be given back as such.
    return str.__str__(name)


def float_range(name: object, low: Any, high: Any, step: Any, log: Any) -> FloatDistribution:
    """The range of ``suggest_float``.

    Raises:
        InputError: bounds that are no finite numbers, or a range that Optuna does not take or does
            not give back.
    """
    bounds = {"low": low, "high": high}
    if step is not None:
        bounds["step"] = step
    expected = f"finite numbers as the range of {name!r}"
    numbers = _numbers(bounds, _finite, expected, "correct the range")
    return _given_back_equal(name, lambda: FloatDistribution(**numbers, log=bool(log)))


def int_range(name: object, low: Any, high: Any, step: Any, log: Any) -> IntDistribution:
    """The range of ``suggest_int``.

    Raises:
        InputError: bounds that are not whole, or a range that Optuna does not take.
    """
    bounds = {"low": low, "high": high, "step": step}
    expected = f"whole numbers between -2**53 and 2**53 as the range of {name!r}"
    numbers = _numbers(bounds, _whole, expected, "round them, or use suggest_float")
    return _given_back_equal(name, lambda: IntDistribution(**numbers, log=bool(log)))


def choice_range(name: object, choices: Iterable[Any]) -> CategoricalDistribution:
    """The range of ``suggest_categorical``.

    Raises:
        InputError: choices in no order, or that a storage does not give back equal, or does not
            tell apart.
    """
    if isinstance(choices, set | frozenset):
        do = "pass a list: in another process a set may have another order"
        raise refused(f"choices for {name!r} in an order", reprlib.repr(choices), do)
    try:
        values = [plain(choice) for choice in choices]
    except TypeError as error:
        expected = f"a list of choices for {name!r}"
        raise refused(expected, reprlib.repr(choices), "pass a list") from error
    strange = [
        f"{reprlib.repr(value)} ({a(type(value).__name__)})"
        for value in values
        if type(value) not in PLAIN or value != value
    ]
    if strange:
        expected = (
            f"choices for {name!r} that Optuna's storage gives back equal (None, bool, "
            "int, float or str)"
        )
        raise refused(expected, ", ".join(strange), LOOK_UP)
    equal = []
    for value in values:
        # 1, 1.0 and True are equal: this is the first of them.
        first = values[values.index(value)]
        if (type(first), repr(first)) != (type(value), repr(value)):
            equal.append(f"{first!r} and {value!r}")
    if equal:
        expected = f"choices for {name!r} that Optuna's storage tells apart"
        raise refused(expected, ", ".join(equal), LOOK_UP)
    return _given_back_equal(name, lambda: CategoricalDistribution(values))


def same_range(first: BaseDistribution, second: BaseDistribution) -> bool:
    """Whether two ranges are the same, also in the types of their choices: Optuna takes 1 for
    True."""
    return distribution_to_json(first) == distribution_to_json(second)


def given_back(distribution: BaseDistribution, value: Any) -> Any:
    """A value as a storage gives it back: a float of a float's range, the very choice among
    choices."""
    return distribution.to_external_repr(distribution.to_internal_repr(value))


def _numbers(
    bounds: dict[str, Any], convert: Callable[[Any], float], expected: str, do: str
) -> dict[str, Any]:
    """All bounds as Python's numbers.

    Raises:
        InputError: names those that ``convert`` does not take.
    """
    numbers: dict[str, Any] = {}
    strange: list[str] = []
    for key, value in bounds.items():
        try:
            numbers[key] = convert(value)
        except (TypeError, ValueError, OverflowError):
            strange.append(f"{key}={value!r}")
    if strange:
        raise refused(expected, ", ".join(strange), do)
    return numbers


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _whole(value: Any) -> int:
    number = int(value)
    if number != float(value) or abs(number) > LARGEST_WHOLE:
        raise ValueError(value)
    return number


def _given_back_equal(name: object, make: Callable[[], Range]) -> Range:
    """What ``make`` makes, if Optuna takes it and gives it back equal."""
    try:
        distribution = make()
        text = distribution_to_json(distribution)
        stored = json_to_distribution(text)
    except ValueError as error:
        expected = f"a range for {name!r} that Optuna takes"
        raise refused(expected, error, "correct the range") from error
    if len(text) > LONGEST_TEXT:
        expected = f"choices for {name!r} that a database holds, {LONGEST_TEXT} bytes of JSON"
        raise refused(expected, f"{len(text)} bytes", LOOK_UP)
    if not same_range(distribution, stored):
        expected = f"a range for {name!r} that Optuna's storage gives back equal"
        do = "choose low, high and step with few decimals"
        raise refused(expected, f"{distribution}, given back as {stored}", do)
    return distribution
