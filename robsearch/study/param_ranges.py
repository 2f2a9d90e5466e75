"""The range of each parameter that a search asks for, as the report and importance read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage

from robsearch.study.params import is_number
from robsearch.study.recorded import recorded_studies


class ParamRange(NamedTuple):
    """The range that a space asks for a parameter in.

    Attributes:
        low: the least number, NaN where there are choices.
        high: the greatest.
        is_log: whether it is searched by its logarithm.
        choices: of a categorical parameter; empty for numbers.
    """

    low: float
    high: float
    is_log: bool = False
    choices: tuple[Any, ...] = ()


def recorded_ranges(storage: BaseStorage, search: str) -> dict[str, ParamRange]:
    """By name the range of each parameter that a search has asked for; nothing is written."""
    ranges: dict[str, ParamRange] = {}
    for recorded in recorded_studies(storage, search):
        for suggestion in recorded.suggestions:
            for name, distribution in suggestion.distributions.items():
                # One name has one range in a search.
                if name not in ranges:
                    ranges[name] = range_of(distribution)
    return ranges


def range_of(distribution: BaseDistribution) -> ParamRange:
    """Optuna's range in the words of this module."""
    if isinstance(distribution, CategoricalDistribution):
        return ParamRange(math.nan, math.nan, choices=tuple(distribution.choices))
    bounds: Any = distribution  # a float's or an integer's range
    return ParamRange(float(bounds.low), float(bounds.high), bool(bounds.log))


def range_tried(values: Sequence[Any], is_log: bool) -> ParamRange:
    """The range of a parameter whose own is not recorded: what was tried."""
    if all(map(is_number, values)):
        return ParamRange(float(min(values)), float(max(values)), is_log)
    return ParamRange(math.nan, math.nan, choices=tuple(dict.fromkeys(values)))
