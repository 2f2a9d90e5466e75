"""All that was searched, as its importance and its shape are read of: one row per suggestion, and
what is known of each parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from robsearch.drawing.formatting import names_of
from robsearch.errors import counted
from robsearch.laws.covariates import DECADE
from robsearch.metrics import TEST_ROBUST
from robsearch.study import (
    COLUMN,
    LEAST,
    ParamRange,
    importances,
    is_number,
    range_tried,
    value_text,
)

LAM_NAME = "lam"
COLUMNS = ("trial", "width", "number", "n", "lam", "value", TEST_ROBUST, "lost", "rank")


class Parameter(NamedTuple):
    """A searched parameter.

    Attributes:
        name: as the space calls it.
        bounds: its range.
        choices: of words, as they are shown; empty for numbers.
    """

    name: str
    bounds: ParamRange
    choices: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """Its column among those of the suggestions."""
        return f"{COLUMN}{self.name}"

    @property
    def label(self) -> str:
        """As a figure calls it, which has no room for a long name."""
        name = "λ" if self.name == LAM_NAME else self.name
        return name if len(name) <= 24 else f"{name[:23]}…"

    def positions(self, rows: DataFrame) -> Series[float]:
        """Where the rows lie on its axis: the numbers, or of words the place among the choices."""
        values = rows[self.column]
        if self.choices:
            place_of = {choice: float(place) for place, choice in enumerate(self.choices)}
            return values.map(lambda value: place_of.get(text_of_choice(value), math.nan))
        return pd.to_numeric(values, errors="coerce").astype(float)


class Left(NamedTuple):
    """Why importance is not said: of a width (None: of all together), or of one parameter."""

    width: float | None
    parameter: str
    reason: str


@dataclass(frozen=True)
class Parameters:
    """What was searched, in the suggestions that have finished.

    Attributes:
        suggestions: one row for each width and suggestion: ``COLUMNS``, where ``lost`` are points
            below the best of its width and ``rank`` is 1 for that one, and a column
            ``param/NAME`` for each parameter. Of several seeds it has the means.
        each: the parameters, lambda first if it was suggested itself.
        others: the names of those that are not lambda, also where no trial has finished.
    """

    suggestions: DataFrame
    each: tuple[Parameter, ...]
    others: tuple[str, ...]

    @classmethod
    def of(
        cls, trials: DataFrame, finished: DataFrame, ranges: Mapping[str, ParamRange]
    ) -> Parameters:
        """From all searched trials, and the finished ones among them."""
        names = [
            str(column).removeprefix(COLUMN)
            for column in trials.columns
            if str(column).startswith(COLUMN) and not trials[column].map(is_absent).all()
        ]
        others = [name for name in names if not is_lam(name, trials)]
        in_order = [LAM_NAME] * (LAM_NAME in names)
        in_order += [name for name in names if name != LAM_NAME]
        suggestions = suggestions_with(finished, in_order)
        each = tuple(parameter_of(name, trials, ranges) for name in in_order)
        return cls(suggestions, each, tuple(others))

    @property
    def widths(self) -> list[float]:
        """Those with finished trials, thin to wide."""
        return sorted(self.suggestions["width"].unique())

    def groups(self) -> Iterator[tuple[float | None, DataFrame, Series[float]]]:
        """What importance is computed of: the suggestions of each width with their values, and
        first those of all widths together (None).

        Wider nets are better, so in all together a value is that above the mean of its width.
        """
        values = self.suggestions["value"]
        if len(self.widths) > 1:
            means = values.groupby(self.suggestions["width"]).transform("mean")
            yield None, self.suggestions, values - means
        for width in self.widths:
            here = self.suggestions["width"] == width
            yield width, self.suggestions[here], values[here]

    @cached_property
    def _computed(self) -> tuple[DataFrame, tuple[Left, ...]]:
        rows: list[dict[str, Any]] = []
        left: list[Left] = []
        for width, suggestions, values in self.groups():
            fitting = []
            for parameter in self.each:
                reason = unfit(suggestions[parameter.column])
                if reason:
                    left.append(Left(width, parameter.name, reason))
                else:
                    fitting.append(parameter)
            reason = too_little(fitting, values)
            if reason:
                left.append(Left(width, "", reason))
                continue
            params = {parameter.name: plain_values(parameter, suggestions) for parameter in fitting}
            ranges = {parameter.name: parameter.bounds for parameter in fitting}
            at = math.nan if width is None else width
            computed = importances(params, ranges, values.tolist())
            rows.extend({"width": at, **importance._asdict()} for importance in computed)
        columns = ["width", "evaluator", "parameter", "share", "low", "high", "n"]
        return DataFrame(rows, columns=columns), tuple(left)

    @property
    def importance(self) -> DataFrame:
        """One row per width (NaN: all together), evaluator and parameter: its ``share``, ``low``,
        ``high`` and ``n`` (``study.Importance``)."""
        return self._computed[0]

    @property
    def left_out(self) -> tuple[Left, ...]:
        """What ``importance`` does not say, and why."""
        return self._computed[1]

    def reasons(self) -> list[str]:
        """The same in words, that of all widths together alone where it holds for all."""
        names = names_of(self.widths)
        whole = [left.parameter for left in self.left_out if left.width is None]
        words = []
        for left in self.left_out:
            where = "" if left.width is None else f"width {names[left.width]}"
            if where and left.parameter and left.parameter in whole:
                continue
            if not where and len(names) > 1 and not left.parameter:
                where = "all widths together"
            about = " at ".join(filter(None, [left.parameter, where]))
            words.append(f"{about}: {left.reason}" if about else left.reason)
        return list(dict.fromkeys(words))

    @property
    def most_important(self) -> list[Parameter]:
        """The parameters, most important first by fANOVA of all widths together; where that is not
        known, in their own order."""
        rows = self.importance
        rows = rows[rows["evaluator"] == "fANOVA"]
        pooled = rows[rows["width"].isna()]
        rows = pooled if len(pooled) else rows
        shares = rows.groupby("parameter")["share"].mean().to_dict()
        # Sorting keeps the order of equal ones.
        return sorted(self.each, key=lambda parameter: -shares.get(parameter.name, 0.0))


def suggestions_with(finished: DataFrame, names: Sequence[str]) -> DataFrame:
    """One row per width and suggestion, with the means of its finished trials."""
    columns = [f"{COLUMN}{name}" for name in names]
    finished = finished[np.isfinite(finished["value"])]
    if finished.empty:
        return DataFrame(columns=[*COLUMNS, *columns])
    first = {"trial": ("trial", "first"), "n": ("value", "size"), "lam": ("lam", "mean")}
    means = {"value": ("value", "mean"), TEST_ROBUST: (TEST_ROBUST, "mean")}
    grouped = finished.groupby(["width", "number"], dropna=False, sort=True)
    rows = grouped.agg(**first, **means).reset_index()
    # Their parameters are those of its first trial: "first" of a group would pass over what is
    # absent there.
    heads = finished.drop_duplicates(["width", "number"]).set_index("trial")
    for column in columns:
        rows[column] = heads[column].loc[rows["trial"]].to_numpy()
    by_width = rows.groupby("width")["value"]
    rows["lost"] = 100 * (by_width.transform("max") - rows["value"])
    rows["rank"] = by_width.rank(ascending=False, method="min")
    return rows[[*COLUMNS, *columns]]


def parameter_of(name: str, trials: DataFrame, ranges: Mapping[str, ParamRange]) -> Parameter:
    """What is known of a parameter: the range of its space, else what was tried."""
    tried = [value for value in trials[f"{COLUMN}{name}"] if not is_absent(value)]
    bounds = ranges.get(name)
    if bounds is None or (bounds.choices and all(map(is_number, bounds.choices))):
        # Numbers among which one chooses lie on an axis, too.
        values = tried if bounds is None else list(bounds.choices)
        bounds = range_tried(values, spans_decade(values))
    words = tuple(dict.fromkeys(map(text_of_choice, bounds.choices)))
    return Parameter(name, bounds, words)


def spans_decade(values: Sequence[Any]) -> bool:
    """Whether these are numbers that count by their logarithm (see ``laws.covariates``)."""
    if not all(map(is_number, values)):
        return False
    low, high = float(min(values)), float(max(values))
    return low > 0 and high >= DECADE * low


def plain_values(parameter: Parameter, rows: DataFrame) -> list[Any]:
    """The values of some suggestions, as the evaluators take them: numbers, or the very choices."""
    if not parameter.choices:
        return parameter.positions(rows).tolist()
    choice_of = {text_of_choice(choice): choice for choice in parameter.bounds.choices}
    return [choice_of[text_of_choice(value)] for value in rows[parameter.column]]


def is_lam(name: str, trials: DataFrame) -> bool:
    """Whether a parameter is lambda itself, by its name or by its values: 4, or ``lam 4`` as an
    experiment calls it."""
    if name == LAM_NAME:
        return True
    texts = trials[f"{COLUMN}{name}"].map(lambda value: str(value).removeprefix("lam "))
    values = pd.to_numeric(texts, errors="coerce")
    known = trials["lam"].notna() & values.notna()
    return bool(known.any() and np.allclose(values[known], trials["lam"][known], rtol=1e-6))


def is_absent(value: object) -> bool:
    """Whether a suggestion was not asked for a parameter; None may be a choice."""
    return value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def text_of_choice(value: object) -> str:
    """A choice as it is shown."""
    return value_text(value)


def unfit(values: Series) -> str:
    """Why a parameter has no importance among these suggestions; empty where it has."""
    absent = int(values.map(is_absent).sum())
    if absent:
        return f"not asked for in {absent} of {counted(len(values), 'suggestion')}"
    if len(set(values.tolist())) < 2:
        return "one value only"
    return ""


def too_little(fitting: Sequence[Parameter], values: Series[float]) -> str:
    """Why no importance can be said of a group of suggestions; empty where it can."""
    if len(values) < LEAST:
        return f"{counted(len(values), 'finished suggestion')}, and it takes {LEAST}"
    if len(fitting) < 2:
        only = "".join(f" but {parameter.name}" for parameter in fitting)
        return f"nothing{only} has more than one value in every suggestion"
    if values.nunique() < 2:
        return "all values are equal"
    return ""
