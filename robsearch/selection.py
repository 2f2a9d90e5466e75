"""Which trial is the best of a width: one definition, for tables, pages, MLflow, rungs and the disk budget.

The best is the one of highest value among those that meet all constraints, or among all where none does; a net that
has collapsed is never the best.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pandas as pd

COLLAPSED = 0.05
"""The share of the way from the commonest class's share to 1 below which natural accuracy is that of no classifier."""


class Order(NamedTuple):
    """Of two trials of a width the better one has the higher order; of equal ones the one that was suggested first."""

    sound: bool
    feasible: bool
    value: float
    early: tuple[int, ...] = ()


def has_collapsed(natural: float, commonest: float) -> bool:
    """Whether a net gives nearly all images one class; False where one of the two numbers is not known (NaN).

    Args:
        natural: its natural accuracy, as a share.
        commonest: the share of the commonest class among the images that it was judged on.
    """
    return natural < commonest + COLLAPSED * (1 - commonest)


def order(value: float, feasible: object = None, collapsed: object = None, trial: str = "") -> Order:
    """The order of one trial; what is not known of constraints (None, NaN) counts as met, of a collapse as none.

    Its name, such as ``w4-017-s1``, has the number of the suggestion and of the seed.
    """
    early = tuple(-int(number) for number in re.findall(r"\d+", trial))
    return Order(not _is(collapsed, True), not _is(feasible, False), float(value), early)


def sound(trials: pd.DataFrame) -> pd.DataFrame:
    """Without those that have collapsed."""
    return trials[~collapsed_among(trials)]


def collapsed_among(trials: pd.DataFrame) -> pd.Series:
    """Which of the trials have collapsed; none in a table that does not say it."""
    told = trials["collapsed"] if "collapsed" in trials else pd.Series(False, trials.index)
    return told.map(lambda cell: _is(cell, True)).astype(bool)


def candidates(trials: pd.DataFrame) -> pd.DataFrame:
    """Of finished trials those that may be the best of their width: the feasible ones, at a width that has none all."""
    trials = sound(trials)
    meets = ~trials["feasible"].map(lambda cell: _is(cell, False)).astype(bool)
    return trials[meets | ~meets.groupby(trials["width"]).transform("any")]


def best_of(trials: pd.DataFrame, width: float) -> pd.Series | None:
    """The best one of a width among finished trials; None if there is none. Of equal ones the first."""
    here = candidates(trials[(trials["width"] == width) & trials["value"].notna()])
    return None if here.empty else here.iloc[int(here["value"].argmax())]


def _is(cell: Any, truth: bool) -> bool:
    """Whether a cell of a table, which may be missing, says so."""
    return not pd.isna(cell) and bool(cell) == truth
