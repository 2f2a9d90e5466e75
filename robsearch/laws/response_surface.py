"""The response surface: lambda*(width) estimated from all trials, with intervals.

Robust accuracy is fitted as ``effect(width, seed) + b u + c u^2 + d u v`` with u = log lambda, v =
log width. Its optimum, log lambda* = -(b + d v) / (2c), is a power law of exponent -d / (2c).
Winners per width are not used: with flat curves and noisy scores they hide the trend. The question
is that of arXiv 2010.01279; intervals are Fieller's (J. R. Stat. Soc. B 16, 1954), for independent
residuals within (width, seed) groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from robsearch.drawing.formatting import names_of
from robsearch.errors import counted, refuse_unless, refused
from robsearch.laws.families import PowerLaw
from robsearch.laws.points import (
    Array,
    Fit,
    Number,
    Point,
    TrialColumns,
    bounded_exp,
    columns_of,
    log_width,
    positive,
    quantile,
)


@dataclass(frozen=True)
class Region:
    """Fieller's confidence set of a ratio: an ``interval``, all ``outside`` (low, high), or
    ``everything``.

    Only an interval determines the ratio; the others arise when the denominator may well be zero.
    """

    shape: Literal["interval", "outside", "everything"]
    low: float
    high: float


def fieller(
    numerator: float,
    denominator: float,
    covariance: Array,
    t: float,
) -> Region:
    """The ratios r for which ``numerator - r * denominator`` is within ``t`` standard errors of
    zero.

    ``covariance`` is (2, 2), of numerator and denominator. Source: Fieller 1954.
    """
    a = denominator**2 - t**2 * covariance[1, 1]
    half_b = t**2 * covariance[0, 1] - numerator * denominator
    discriminant = half_b**2 - a * (numerator**2 - t**2 * covariance[0, 0])
    if a == 0 or (a < 0 and discriminant <= 0):
        return Region("everything", -math.inf, math.inf)
    # The ratios where a quadratic form is at most 0: between its roots, or outside of them.
    root = math.sqrt(max(discriminant, 0.0))
    # For a < 0 the first of them is the higher one.
    ends = ((-half_b - root) / a, (-half_b + root) / a)
    shape: Literal["interval", "outside"] = "interval" if a > 0 else "outside"
    return Region(shape, float(min(ends)), float(max(ends)))


class Optimum(NamedTuple):
    """Lambda* at a width with its confidence interval: three numbers, or None each when not
    determined.

    ``censored`` is None, or says in words why not to build on it: lambda* is not determined, or
    lies outside the searched range, where the numbers extrapolate.
    """

    width: float
    lam: float | None
    low: float | None
    high: float | None
    censored: str | None


class SearchedRange(NamedTuple):
    """The range of lambdas tried at a width, and the mean fitted effect of its groups (0 without a
    fit)."""

    width: float
    low: float
    high: float
    effect: float


@dataclass(frozen=True)
class Quadratic:
    """``b u + c u^2 + d u v``, natural logs, in rates. With one width, d and its variance are 0.

    ``covariance`` is (3, 3), of (b, c, d), and ``df`` the residuals' degrees of freedom.
    """

    b: float
    c: float
    d: float
    covariance: tuple[tuple[float, ...], ...]
    df: int

    def height(self, u: Array, v: Array | float) -> Array:
        """The fitted value at log lambdas ``u`` (n,) and log width ``v``, less the group's
        effect."""
        return self.b * u + self.c * u**2 + self.d * u * v

    def region(self, weights: tuple[float, float, float], confidence: float) -> Region:
        """Fieller's region of ``weights . (b, c, d) / (2 c)``."""
        rows = np.array([weights, (0.0, 2.0, 0.0)])
        numerator, denominator = (rows @ (self.b, self.c, self.d)).tolist()
        t = quantile(self.df, confidence)
        return fieller(numerator, denominator, rows @ self.covariance @ rows.T, t)


@dataclass(frozen=True)
class ResponseSurface:
    """What ``n`` trials say of lambda*(width), with intervals at ``confidence``. Made by
    ``fit_ridge``.

    ``problem`` is None, or says in words why lambda* is not determined; ``quadratic`` is None when
    the trials are too few to fit one; ``searched`` goes from thin to wide. A fit on one width says
    nothing of other widths. ``group`` says in words what the trials have in common, where
    ``others`` were left out.
    """

    n: int
    confidence: float
    searched: tuple[SearchedRange, ...]
    quadratic: Quadratic | None
    problem: str | None
    group: str = ""
    others: int = 0

    @property
    def slope_region(self) -> Region | None:
        """Slopes of log lambda* that the data do not reject; None with one width or no fit."""
        if not self.quadratic or len(self.searched) < 2:
            return None
        return self.quadratic.region((0.0, 0.0, -1.0), self.confidence)

    def optimum_region(self, width: Number) -> Region | None:
        """Values of log lambda* at ``width`` that the data do not reject; None without a fit."""
        weights = (-1.0, 0.0, -log_width(width))
        if not self.quadratic:
            return None
        return self.quadratic.region(weights, self.confidence)

    @property
    def law(self) -> PowerLaw | None:
        """Lambda* over width; None with one width, or when c is not clearly negative (then the
        slope is unbounded)."""
        if self.problem or not self.quadratic or len(self.searched) < 2:
            return None
        curvature = 2 * self.quadratic.c
        base = bounded_exp(-self.quadratic.b / curvature)
        return PowerLaw(base, -self.quadratic.d / curvature)

    @property
    def slope(self) -> float | None:
        """The law's exponent, -d / (2c); None without a law."""
        return float(self.law.exponent) if self.law else None

    @property
    def slope_interval(self) -> tuple[float, float] | None:
        """Fieller's interval of ``slope``; None without a law."""
        region = self.slope_region
        return (region.low, region.high) if self.law and region else None

    def optimum(self, width: Number) -> Optimum:
        """Lambda* at ``width``, searched or not. Raises InputError unless ``width`` is positive."""
        region = self.optimum_region(width)
        problem = self.problem or self._not_searched(width)
        if problem or not self.quadratic or not region:
            return Optimum(float(width), None, None, None, problem)
        slope = self.quadratic.b + self.quadratic.d * log_width(width)
        lam = bounded_exp(-slope / (2 * self.quadratic.c))
        start, end = self._range(width)
        censored = None
        if not start <= lam <= end:
            side = "below" if lam < start else "above"
            where = f"{side} the searched range [{start:.3g}, {end:.3g}]"
            censored = f"lambda* at width {self._name_of(width)} lies {where}"
        low = bounded_exp(region.low)
        high = bounded_exp(region.high)
        return Optimum(float(width), lam, low, high, censored)

    def near_best(self, width: Number, tolerance: Number = 0.005) -> tuple[float, float] | None:
        """The lambdas (lowest, highest) fitted within ``tolerance``, a rate, of the best lambda
        searched.

        Read off 1,001 lambdas, even in log; an end equal to the searched range's is clipped there.
        None without a fit there. Raises InputError unless both numbers are positive.
        """
        refuse_unless(positive("width", width), positive("tolerance", tolerance))
        if not self.quadratic or self._not_searched(width):
            return None
        lams = np.geomspace(*self._range(width), 1001)
        height = self.quadratic.height(np.log(lams), log_width(width))
        near = lams[height >= height.max() - tolerance]
        return float(near[0]), float(near[-1])

    def curve(self, width: Number, lams: Sequence[Number] | Array) -> Array:
        """Fitted robust accuracy (n,) at ``lams`` (n,), for the mean group of a searched width.

        Raises InputError at a width not searched, or without a fit.
        """
        effects = {row.width: row.effect for row in self.searched}
        if not self.quadratic or width not in effects:
            fitted = f"none: {self.problem}"
            if self.quadratic:
                fitted = ", ".join(f"{searched:g}" for searched in effects)
            expected = f"a width with a fitted curve ({fitted})"
            raise refused(expected, width, "ask at one of these")
        u = np.log(np.asarray(lams, dtype=float))
        return effects[width] + self.quadratic.height(u, log_width(width))

    def sentence(self) -> str:
        """The answer in one or two sentences, for a terminal."""
        sample = self._sample()
        if self.problem:
            return f"lambda* is not determined {sample}: {self.problem}."
        widths = [row.width for row in self.searched if self.optimum(row.width).censored]
        outside = ""
        if widths:
            censored = ", ".join(map(self._name_of, widths))
            where = "outside the searched range: search further there"
            outside = f". At width {censored} it lies {where}"
        if not self.law or not self.slope_interval:
            best = self.optimum(self.searched[0].width)
            optimum = f"lambda* = {best.lam:.3g} [{best.low:.3g}, {best.high:.3g}]"
            width = self._name_of(best.width)
            return f"{optimum} at width {width}, the only one with trials to fit {sample}{outside}."
        low, high = self.slope_interval
        law = f"lambda* = {self.law.base:.3g} * width^{self.slope:.2f}, exponent {self.slope:.2f}"
        trend = ": no trend with width is shown" if low <= 0 <= high else ""
        return f"{law} [{low:.2f}, {high:.2f}] {sample}{trend}{outside}."

    def _sample(self) -> str:
        trials = counted(self.n, "trial")
        widths = counted(len(self.searched), "width")
        sample = f"{100 * self.confidence:g} %, n={trials} at {widths}"
        if self.group:
            sample += f" with {self.group}"
            if self.others:
                sample += f", leaving out {self.others} with other choices"
        return f"({sample})"

    def _not_searched(self, width: Number) -> str | None:
        """Why a fit on one width cannot answer for this one, or None."""
        if len(self.searched) != 1 or self.searched[0].width == width:
            return None
        only = self._name_of(self.searched[0].width)
        return f"only width {only} has trials to fit"

    def _name_of(self, width: Number) -> str:
        """A width in words, apart from the others."""
        searched = [row.width for row in self.searched]
        return names_of([width, *searched])[width]

    def _range(self, width: Number) -> tuple[float, float]:
        """The lambdas searched at this width, or overall when it was not searched."""
        rows = [row for row in self.searched if row.width == width]
        low = min(row.low for row in rows or self.searched)
        high = max(row.high for row in rows or self.searched)
        return low, high


def fit_ridge(points: Sequence[Point], *, confidence: float = 0.95) -> ResponseSurface:
    """Least squares of value on (width, seed) effects + b u + c u^2 + d u v, natural logs.

    Too little data raises nothing: it is the surface's ``problem``. Raises InputError for widths or
    lambdas not finite and positive, values outside [0, 1], or a confidence outside (0, 1).
    """
    expected = "a confidence between 0 and 1"
    refuse_unless((0 < confidence < 1, expected, confidence, "pass one such as 0.95"))
    trials = columns_of(points)
    n = len(points)
    if n == 0:
        return ResponseSurface(0, confidence, (), None, "there are no trials")
    fit = trials.fit()
    if isinstance(fit, str):
        return ResponseSurface(n, confidence, _ranges(trials, None), None, fit)
    quadratic = _uncentred(fit, trials.centre)
    searched = _ranges(trials, quadratic)
    problem = fit.lacks_peak(trials, confidence)
    return ResponseSurface(n, confidence, searched, quadratic, problem)


def _uncentred(fit: Fit, centre: tuple[float, float]) -> Quadratic:
    """The surface in original logs, from the fit of (c, b) or (c, b, d) in centred ones."""
    u, v = centre
    # Each row writes b, c or d in terms of the centred c, b and d.
    to_bcd = np.array(
        [
            [-2 * u, 1, -v],
            [1, 0, 0],
            [0, 0, 1],
        ]
    )
    # On one width there is no d.
    to_bcd = to_bcd[:, : len(fit.beta)]
    b, c, d = (to_bcd @ fit.beta).tolist()
    covariance = to_bcd @ fit.covariance @ to_bcd.T
    rows = tuple(map(tuple, covariance.tolist()))
    return Quadratic(b, c, d, rows, fit.df)


def _ranges(trials: TrialColumns, quadratic: Quadratic | None) -> tuple[SearchedRange, ...]:
    """What was tried at each width, thin to wide."""
    effect = np.zeros(len(trials.u))
    if quadratic:
        u = trials.u + trials.centre[0]
        v = trials.v + trials.centre[1]
        effect = trials.value - quadratic.height(u, v)
    ranges = []
    for width in trials.widths:
        here = trials.width == width
        lams = trials.lam[here]
        groups = np.unique(trials.group[here])
        effects = [effect[trials.group == group].mean() for group in groups]
        low = float(lams.min())
        high = float(lams.max())
        ranges.append(SearchedRange(width, low, high, float(np.mean(effects))))
    return tuple(ranges)
