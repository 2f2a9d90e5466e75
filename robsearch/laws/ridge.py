"""The ridge: lambda*(width) estimated from all trials, with intervals.

Robust accuracy is fitted as ``effect(width, seed) + b u + c u^2 + d u v`` with u = log lambda, v = log width:
a ridge whose crest, log lambda* = -(b + d v) / (2c), is a power law of exponent -d / (2c). Winners per width
are not used: with flat curves and noisy scores they hide the trend. The question is that of arXiv 2010.01279;
intervals are Fieller's (J. R. Stat. Soc. B 16, 1954), for independent residuals within (width, seed) groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtr

from robsearch.errors import InputError, refusal
from robsearch.laws.families import PowerLaw
from robsearch.laws.points import (
    Array,
    Data,
    Fit,
    Number,
    Point,
    bounded_exp,
    check,
    log_width,
    quantile,
    read,
    valid,
)
from robsearch.naming import names_of
from robsearch.wording import counted


@dataclass(frozen=True)
class Region:
    """Fieller's confidence set of a ratio: an ``interval``, all ``outside`` (low, high), or ``everything``.

    Only an interval determines the ratio; the others arise when the denominator may well be zero.
    """

    shape: Literal["interval", "outside", "everything"]
    low: float
    high: float

    def contains(self, ratio: Number) -> bool:
        """Whether the data do not reject this ratio."""
        if self.shape == "outside":
            return ratio <= self.low or ratio >= self.high
        return self.low <= ratio <= self.high


def fieller(numerator: float, denominator: float, covariance: Array, t: float) -> Region:
    """The ratios r for which ``numerator - r * denominator`` is within ``t`` standard errors of zero.

    ``covariance`` is (2, 2), of numerator and denominator. Source: Fieller 1954.
    """
    a = denominator**2 - t**2 * covariance[1, 1]
    half_b = t**2 * covariance[0, 1] - numerator * denominator
    discriminant = half_b**2 - a * (numerator**2 - t**2 * covariance[0, 0])
    if a == 0 or (a < 0 and discriminant <= 0):
        return Region("everything", -math.inf, math.inf)
    root = math.sqrt(max(discriminant, 0.0))
    low, high = sorted(((-half_b - root) / a, (-half_b + root) / a))
    return Region("interval" if a > 0 else "outside", float(low), float(high))


class Optimum(NamedTuple):
    """Lambda* at a width with its confidence interval: three numbers, or None each when not determined.

    ``censored`` is None, or says in words why not to build on it: lambda* is not determined, or lies outside
    the searched range, where the numbers extrapolate.
    """

    width: float
    lam: float | None
    low: float | None
    high: float | None
    censored: str | None


class Searched(NamedTuple):
    """The range of lambdas tried at a width, and the mean fitted effect of its groups (0 without a fit)."""

    width: float
    low: float
    high: float
    effect: float


@dataclass(frozen=True)
class Surface:
    """``b u + c u^2 + d u v``, natural logs, in rates. With one width, d and its variance are 0.

    ``covariance`` is (3, 3), of (b, c, d); ``sd`` is the residual standard deviation, ``df`` its degrees of
    freedom.
    """

    b: float
    c: float
    d: float
    covariance: tuple[tuple[float, ...], ...]
    df: int
    sd: float

    def height(self, u: Array, v: Array | float) -> Array:
        """The fitted value at log lambdas ``u`` (n,) and log width ``v``, less the group's effect."""
        return self.b * u + self.c * u**2 + self.d * u * v

    def region(self, weights: tuple[float, float, float], confidence: float) -> Region:
        """Fieller's region of ``weights . (b, c, d) / (2 c)``."""
        rows = np.array([weights, (0.0, 2.0, 0.0)])
        numerator, denominator = (float(x) for x in rows @ (self.b, self.c, self.d))
        return fieller(numerator, denominator, rows @ self.covariance @ rows.T, quantile(self.df, confidence))


@dataclass(frozen=True)
class Ridge:
    """What ``n`` trials say of lambda*(width), with intervals at ``confidence``. Made by ``fit_ridge``.

    ``problem`` is None, or says in words why lambda* is not determined; ``surface`` is None when the trials
    are too few to fit one; ``searched`` goes from thin to wide. A fit on one width says nothing of other
    widths. ``group`` says in words what the trials have in common, where ``others`` were left out.
    """

    n: int
    confidence: float
    searched: tuple[Searched, ...]
    surface: Surface | None
    problem: str | None
    group: str = ""
    others: int = 0

    @property
    def slope_region(self) -> Region | None:
        """Slopes of log lambda* that the data do not reject; None with one width or no surface."""
        if not self.surface or len(self.searched) < 2:
            return None
        return self.surface.region((0.0, 0.0, -1.0), self.confidence)

    def optimum_region(self, width: Number) -> Region | None:
        """Values of log lambda* at ``width`` that the data do not reject; None without a surface."""
        weights = (-1.0, 0.0, -log_width(width))
        return self.surface.region(weights, self.confidence) if self.surface else None

    @property
    def law(self) -> PowerLaw | None:
        """The crest; None with one width, or when c is not clearly negative (then the slope is unbounded)."""
        if self.problem or not self.surface or len(self.searched) < 2:
            return None
        return PowerLaw(bounded_exp(-self.surface.b / (2 * self.surface.c)), -self.surface.d / (2 * self.surface.c))

    @property
    def slope(self) -> float | None:
        """The law's exponent, -d / (2c); None without a law."""
        return float(self.law.exponent) if self.law else None

    @property
    def slope_interval(self) -> tuple[float, float] | None:
        """Fieller's interval of ``slope``; None without a law."""
        region = self.slope_region
        return (region.low, region.high) if self.law and region else None

    @property
    def p_value(self) -> float | None:
        """One-sided p of d <= 0 against d > 0, a rising lambda*; None with one width or no surface."""
        if not self.surface or len(self.searched) < 2:
            return None
        return float(stdtr(self.surface.df, -self.surface.d / math.sqrt(self.surface.covariance[2][2])))

    def optimum(self, width: Number) -> Optimum:
        """Lambda* at ``width``, searched or not. Raises InputError unless ``width`` is positive."""
        region, problem = self.optimum_region(width), self.problem or self._silence(width)
        if problem or not self.surface or not region:
            return Optimum(float(width), None, None, None, problem)
        crest = -(self.surface.b + self.surface.d * log_width(width)) / (2 * self.surface.c)
        lam, low, high = bounded_exp(crest), bounded_exp(region.low), bounded_exp(region.high)
        start, end = self._range(width)
        side = "below" if lam < start else "above" if lam > end else None
        where = f"{side} the searched range [{start:.3g}, {end:.3g}]"
        censored = f"lambda* at width {self._named(width)} lies {where}" if side else None
        return Optimum(float(width), lam, low, high, censored)

    def near_best(self, width: Number, tolerance: Number = 0.005) -> tuple[float, float] | None:
        """The lambdas (lowest, highest) fitted within ``tolerance``, a rate, of the best lambda searched.

        Read off 1,001 lambdas, even in log; an end equal to the searched range's is clipped there. None
        without a surface there. Raises InputError unless both numbers are positive.
        """
        check({"width": width, "tolerance": tolerance})
        if not self.surface or self._silence(width):
            return None
        lams = np.geomspace(*self._range(width), 1001)
        height = self.surface.height(np.log(lams), log_width(width))
        near = lams[height >= height.max() - tolerance]
        return float(near[0]), float(near[-1])

    def curve(self, width: Number, lams: Sequence[Number] | Array) -> Array:
        """Fitted robust accuracy (n,) at ``lams`` (n,), for the mean group of a searched width.

        Raises InputError at a width not searched, or without a surface.
        """
        effects = {row.width: row.effect for row in self.searched}
        if not self.surface or width not in effects:
            known = ", ".join(f"{one:g}" for one in effects) if self.surface else f"none: {self.problem}"
            raise InputError(refusal(f"a width with a fitted curve ({known})", width, "ask at one of these"))
        return effects[width] + self.surface.height(np.log(np.asarray(lams, dtype=float)), log_width(width))

    def sentence(self) -> str:
        """The answer in one or two sentences, for a terminal."""
        sample = f"{100 * self.confidence:g} %, n={counted(self.n, 'trial')} at {counted(len(self.searched), 'width')}"
        left_out = f", leaving out {self.others} with other choices" if self.others else ""
        sample = f"({sample} with {self.group}{left_out})" if self.group else f"({sample})"
        if self.problem:
            return f"lambda* is not determined {sample}: {self.problem}."
        left = ", ".join(self._named(row.width) for row in self.searched if self.optimum(row.width).censored)
        outside = f". At width {left} it lies outside the searched range: search further there" if left else ""
        if not self.law or not self.slope_interval:
            best = self.optimum(self.searched[0].width)
            found = f"lambda* = {best.lam:.3g} [{best.low:.3g}, {best.high:.3g}] at width {self._named(best.width)}"
            return f"{found}, the only one with trials to fit {sample}{outside}."
        low, high = self.slope_interval
        found = f"lambda* = {self.law.base:.3g} * width^{self.slope:.2f}, exponent {self.slope:.2f}"
        trend = ": no trend with width is shown" if low <= 0 <= high else ""
        return f"{found} [{low:.2f}, {high:.2f}] {sample}{trend}{outside}."

    def _silence(self, width: Number) -> str | None:
        """Why a fit on one width cannot answer for this one, or None."""
        only = self.searched[0].width if len(self.searched) == 1 else width
        return None if only == width else f"only width {self._named(only)} has trials to fit"

    def _named(self, width: Number) -> str:
        """A width in words, apart from the others."""
        return names_of([width, *(row.width for row in self.searched)])[width]

    def _range(self, width: Number) -> tuple[float, float]:
        """The lambdas searched at this width, or overall when it was not searched."""
        rows = [row for row in self.searched if row.width == width] or self.searched
        return min(row.low for row in rows), max(row.high for row in rows)


def fit_ridge(
    points: Sequence[Point], *, confidence: float = 0.95, window: tuple[Number, Number] | None = None
) -> Ridge:
    """Least squares of value on (width, seed) effects + b u + c u^2 + d u v, natural logs.

    ``window`` (low, high) keeps only the points with lambda inside, ends included. Too little data raises
    nothing: it is the ridge's ``problem``. Raises InputError for widths or lambdas not finite and positive,
    values outside [0, 1], a window that is not 0 <= low < high, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError(refusal("a confidence between 0 and 1", confidence, "pass one such as 0.95"))
    low, high = window or (0.0, math.inf)
    if not 0 <= low < high:
        raise InputError(refusal("a window of two lambdas, low < high", window, "correct it"))
    data = read([point for point in valid(points) if low <= point.lam <= high])
    if not len(data.u):
        return Ridge(0, confidence, (), None, "there are no trials" + (" inside the window" if window else ""))
    wide = len(data.known) > 1
    fit = data.fit([data.u, data.u * data.v] if wide else [data.u])
    surface = None if isinstance(fit, str) else _uncentred(fit, data.centre)
    problem = fit if isinstance(fit, str) else fit.flat(confidence)
    return Ridge(len(data.u), confidence, _searched(data, surface), surface, problem)


def _uncentred(fit: Fit, centre: tuple[float, float]) -> Surface:
    """The surface in original logs, from the fit of (c, b) or (c, b, d) in centred ones."""
    u, v = centre
    to_bcd = np.array([[-2 * u, 1, -v], [1, 0, 0], [0, 0, 1]])[:, : len(fit.beta)]
    b, c, d = (float(x) for x in to_bcd @ fit.beta)
    covariance = to_bcd @ fit.covariance @ to_bcd.T
    return Surface(b, c, d, tuple(tuple(map(float, row)) for row in covariance), fit.df, fit.sd)


def _searched(data: Data, surface: Surface | None) -> tuple[Searched, ...]:
    """What was tried at each width, thin to wide."""
    u, v = data.u + data.centre[0], data.v + data.centre[1]
    effect = data.value - surface.height(u, v) if surface else np.zeros(len(u))
    rows = []
    for width in data.known:
        here = data.width == width
        means = [effect[data.group == group].mean() for group in np.unique(data.group[here])]
        rows.append(Searched(width, float(data.lam[here].min()), float(data.lam[here].max()), float(np.mean(means))))
    return tuple(rows)
