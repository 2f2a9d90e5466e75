"""Which trial is the best of a width: one definition, for tables, pages, MLflow, rungs and the disk
budget.

The best is the one of highest value among those that meet all constraints, or among all where none
does; a net that has collapsed is never the best.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pandas as pd

COLLAPSED = 0.05
"""The share of the way from the commonest class's share to 1 below which natural accuracy is that
of no classifier."""


class Order(NamedTuple):
    """Of two trials of a width the better one has the higher order; of equal ones the one that was
    suggested first."""

    sound: bool
    feasible: bool
    value: float
    early: tuple[int, ...] = ()


def has_collapsed(natural: float, commonest: float) -> bool:
    """Whether a net gives nearly all images one class; False where one of the two numbers is not
    known (NaN).

    Args:
        natural: its natural accuracy, as a share.
        commonest: the share of the commonest class among the images that it was judged on.
    """
    return natural < commonest + COLLAPSED * (1 - commonest)


def order(
    value: float,
    feasible: bool | None = None,
    collapsed: bool | None = None,
    trial: str = "",
) -> Order:
    """The order of one trial; what is not known of constraints (None) counts as met, of a collapse
    as none.

    Its name, such as ``w4-017-s1``, has the number of the suggestion and of the seed.
    """
    numbers = re.findall(r"\d+", trial)
    early = tuple(-int(number) for number in numbers)
    return Order(not collapsed, feasible is not False, float(value), early)


def sound(trials: pd.DataFrame) -> pd.DataFrame:
    """Without those that have collapsed."""
    return trials[~collapsed_among(trials)]


def collapsed_among(trials: pd.DataFrame) -> pd.Series:
    """Which of the trials have collapsed; none in a table that does not say it."""
    if "collapsed" not in trials:
        return pd.Series(False, trials.index)
    return trials["collapsed"].eq(True)


def candidates(trials: pd.DataFrame) -> pd.DataFrame:
    """Of finished trials those that may be the best of their width: the feasible ones, at a width
    that has none all."""
    trials = sound(trials)
    # A cell may be missing; then the constraints count as met.
    meets = trials["feasible"].ne(False)
    some_meet = meets.groupby(trials["width"]).transform("any")
    return trials[meets | ~some_meet]


def best_of(trials: pd.DataFrame, width: float) -> pd.Series | None:
    """The best one of a width among finished trials; None if there is none. Of equal ones the
    first."""
    at_width = trials[(trials["width"] == width) & trials["value"].notna()]
    at_width = candidates(at_width)
    if at_width.empty:
        return None
    place = int(at_width["value"].argmax())
    return at_width.iloc[place]
