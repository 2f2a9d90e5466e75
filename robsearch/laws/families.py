"""The laws: lambda as a function of width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robsearch.errors import counted, refuse_unless, refused
from robsearch.laws.points import (
    Number,
    Point,
    bounded_exp,
    columns_of,
    positive,
)


@dataclass(frozen=True)
class Constant:
    """One lambda at every width. Raises InputError unless it is positive and finite."""

    value: Number

    def __post_init__(self) -> None:
        refuse_unless(positive("lambda", self.value))

    def __call__(self, width: Number) -> float:
        """Lambda. Raises InputError unless ``width`` is positive."""
        refuse_unless(positive("width", width))
        return float(self.value)


@dataclass(frozen=True)
class PowerLaw:
    """``base * width**exponent``. Raises InputError unless ``base`` is positive and both are
    finite."""

    base: Number
    exponent: Number

    def __post_init__(self) -> None:
        refuse_unless(
            positive("base", self.base),
            (math.isfinite(self.exponent), "a finite exponent", self.exponent, "correct it"),
        )

    def __call__(self, width: Number) -> float:
        """Lambda. Raises InputError unless ``width`` is positive and lambda is representable."""
        refuse_unless(positive("width", width))
        with np.errstate(over="ignore", under="ignore"):
            lam = float(self.base * np.power(float(width), self.exponent))
        refuse_unless(positive(f"lambda at width {width:g} of {self}", lam))
        return lam

    @classmethod
    def fit(cls, points: Sequence[Point]) -> PowerLaw:
        """The law of one parabola in log lambda with one curvature for all widths.

        It is what ``fit_ridge`` was before 0.2, kept because recipes hold what it gives: it calls a
        skew a trend (see ``laws.response_surface``). Raises InputError when the points determine
        none.
        """
        trials = columns_of(points)
        widths = len(trials.widths)
        fit = trials.fit() if widths > 1 else f"{counted(widths, 'width')} only"
        problem = fit if isinstance(fit, str) else fit.lacks_peak(trials, 0.95)
        if isinstance(fit, str) or problem:
            do = "run more, over a wider range of lambda"
            raise refused("trials that determine the law", problem, do)
        # From the centred fit, and not as ``ResponseSurface.law`` does it: the last bit differs,
        # and digests of recipes that were trained at this lambda hold it.
        mean_log_lam, mean_log_width = trials.centre
        peak, exponent = fit.peaks
        base = bounded_exp(mean_log_lam + peak - exponent * mean_log_width)
        return cls(base, float(exponent))
