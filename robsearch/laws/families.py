"""The laws: lambda as a function of width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robsearch.errors import InputError, refusal
from robsearch.laws.points import Number, Point, bounded_exp, check, demand, demand_widths, positive, read


@dataclass(frozen=True)
class Constant:
    """One lambda at every width. Raises InputError unless it is positive and finite."""

    value: Number

    def __post_init__(self) -> None:
        check({"lambda": self.value})

    def __call__(self, width: Number) -> float:
        """Lambda. Raises InputError unless ``width`` is positive."""
        check({"width": width})
        return float(self.value)

    @classmethod
    def fit(cls, points: Sequence[Point]) -> Constant:
        """The crest of a ridge that is level in width. Raises InputError when the points determine none."""
        data = read(points)
        return cls(bounded_exp(data.centre[0] + demand(data, [data.u]).crests[0]))


@dataclass(frozen=True)
class PowerLaw:
    """``base * width**exponent``. Raises InputError unless ``base`` is positive and both are finite."""

    base: Number
    exponent: Number

    def __post_init__(self) -> None:
        check({"base": self.base}, {"exponent": self.exponent})

    def __call__(self, width: Number) -> float:
        """Lambda. Raises InputError unless ``width`` is positive and lambda is representable."""
        check({"width": width})
        with np.errstate(over="ignore", under="ignore"):
            return positive(float(self.base * np.power(float(width), self.exponent)), self, width)

    @classmethod
    def fit(cls, points: Sequence[Point]) -> PowerLaw:
        """The crest of ``fit_ridge(points)``. Raises InputError when the points determine none."""
        data = read(points)
        demand_widths(data)
        (u, v), (middle, exponent) = data.centre, demand(data, [data.u, data.u * data.v]).crests
        return cls(bounded_exp(u + middle - exponent * v), float(exponent))


@dataclass(frozen=True)
class Affine:
    """``intercept + slope * log(width)``, natural log. Raises InputError unless both are finite."""

    intercept: Number
    slope: Number

    def __post_init__(self) -> None:
        check({}, {"intercept": self.intercept, "slope": self.slope})

    def __call__(self, width: Number) -> float:
        """Lambda. Raises InputError unless ``width`` and lambda there are positive."""
        check({"width": width})
        return positive(self.intercept + self.slope * math.log(width), self, width)

    @classmethod
    def fit(cls, points: Sequence[Point]) -> Affine:
        """The line through the crests of ``PerWidth.fit``, each weighted by its precision (delta method).

        Raises InputError when the points determine no crests, or are all at one width.
        """
        data = read(points)
        demand_widths(data)
        fit = demand(data, data.by_width)
        lams = np.array([bounded_exp(data.centre[0] + crest) for crest in fit.crests])
        slope, intercept = np.polyfit(np.log(data.known), lams, 1, w=1 / (lams * fit.crest_errors))
        return cls(float(intercept), float(slope))


@dataclass(frozen=True)
class PerWidth:
    """A lambda of its own at each width: ``table`` holds (width, lambda) pairs.

    Raises InputError when it is empty, names a width twice, or holds a number that is not positive.
    """

    table: tuple[tuple[Number, Number], ...]

    def __post_init__(self) -> None:
        if not self.table or len(dict(self.table)) < len(self.table):
            raise InputError(refusal("one (width, lambda) pair for each width", self.table, "correct the table"))
        check({f"width in row {row}": width for row, (width, _) in enumerate(self.table)})
        check({f"lambda in row {row}": lam for row, (_, lam) in enumerate(self.table)})

    def __call__(self, width: Number) -> float:
        """Lambda. Raises InputError at a width that the table lacks; it lists those known."""
        known = dict(self.table)
        if width not in known:
            widths = ", ".join(f"{one:g}" for one in sorted(known))
            raise InputError(refusal(f"one of the widths {widths}", width, "search it, or fit a PowerLaw"))
        return float(known[width])

    @classmethod
    def fit(cls, points: Sequence[Point]) -> PerWidth:
        """The crest at each width, of one common curvature. Raises InputError when points determine none."""
        data = read(points)
        crests = demand(data, data.by_width).crests
        pairs = zip(data.known, crests, strict=True)
        return cls(tuple((width, bounded_exp(data.centre[0] + crest)) for width, crest in pairs))
