"""The line through the peaks of several widths: lambda* as a power of width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robsearch.laws.curves import FAMILIES
from robsearch.laws.points import Array, quantile
from robsearch.laws.width_curve import WidthCurve, spread

KNOWN = 0.17
"""The standard deviation of log lambda* is never taken to be smaller: few seeds often agree by
chance."""


class Prediction(NamedTuple):
    """Log lambda* at a width by the law alone, with its interval; None for both ends where two
    widths do not say how far others scatter."""

    log_lam: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PeakLine:
    """The line through the peaks of two or more widths.

    Attributes:
        v: (widths,), log width.
        u: (widths,), log lambda*.
        weights: (widths,), one over the variances, which have a floor (``KNOWN``).
        slopes: of each family.
        intervals: of each family's slope.
        pseudo_slopes: of each family the jackknife's pseudo-values, none after the bootstrap.
    """

    v: Array
    u: Array
    weights: Array
    slopes: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    pseudo_slopes: tuple[tuple[float, ...], ...]

    @classmethod
    def through(cls, curves: Sequence[WidthCurve], confidence: float) -> PeakLine:
        """The line through the peaks of these widths, weighted by how well each is known."""
        v = np.log([curve.width for curve in curves])
        weights = 1 / (np.array([curve.variance for curve in curves]) + KNOWN**2)
        seeds = curves[0].seeds
        # Student's t has the seeds' degrees of freedom, or those of all widths' residuals.
        df = seeds - 1 if seeds else sum(min(p.df for p in curve.peaks) for curve in curves)
        t = quantile(df, confidence)
        shares = slope_shares(v, weights)
        slopes, intervals, pseudo = [], [], []
        for family in range(len(FAMILIES)):
            resampled = shares @ np.array([curve.peaks[family].u for curve in curves])
            slope = float(resampled[0])
            margin = t * spread(resampled, seeds)
            slopes.append(slope)
            intervals.append((slope - margin, slope + margin))
            if seeds:
                pseudo.append(tuple((seeds * slope - (seeds - 1) * resampled[1:]).tolist()))
        u = np.array([curve.log_lam for curve in curves])
        return cls(v, u, weights, tuple(slopes), tuple(intervals), tuple(pseudo))

    @property
    def slope(self) -> float:
        """Midway between the families."""
        return float(np.mean(self.slopes))

    @property
    def slope_of_optima(self) -> float:
        """That of the weighted line through the lambda* themselves."""
        return float(slope_shares(self.v, self.weights) @ self.u)

    @property
    def intercept(self) -> float:
        """Log lambda* at width 1."""
        shares = self.weights / self.weights.sum()
        return float(shares @ self.u) - self.slope * float(shares @ self.v)

    @property
    def noisiest(self) -> float:
        """The width whose peak adds most to the variance of the slope."""
        shares = slope_shares(self.v, self.weights)
        return float(np.exp(self.v[(shares**2 / self.weights).argmax()]).round(9))

    def predict(self, v: float, confidence: float) -> Prediction:
        """At log width ``v``."""
        predicted = self.intercept + self.slope * v
        df = len(self.v) - 2
        if df < 1:
            return Prediction(predicted, None, None)
        tau2 = between_widths(self.v, self.u, 1 / self.weights)
        weights = 1 / (1 / self.weights + tau2)
        centre = weights @ self.v / weights.sum()
        left = self.u - self.intercept - self.slope * self.v
        # Never below what the widths' own errors say (Roever, Knapp, Friede 2015).
        scale = max(float(weights @ left**2) / df, 1.0)
        inertia = float(weights @ (self.v - centre) ** 2)
        variance = scale * (1 / weights.sum() + (v - centre) ** 2 / inertia) + tau2
        margin = quantile(df, confidence) * math.sqrt(variance)
        return Prediction(predicted, predicted - margin, predicted + margin)


def slope_shares(v: Array, weights: Array) -> Array:
    """(widths,), what each peak counts for in the slope of the weighted line."""
    distance = v - weights @ v / weights.sum()
    return np.asarray(weights * distance / (weights @ distance**2))


def between_widths(v: Array, u: Array, variances: Array) -> float:
    """The variance of widths about a line beyond their own variances, by the method of moments
    (DerSimonian and Laird 1986)."""
    design = np.column_stack([np.ones_like(v), v])
    weighted = design / variances[:, None]
    inverse = np.linalg.inv(design.T @ weighted)
    left = u - design @ (inverse @ (weighted.T @ u))
    q = float((left**2 / variances).sum())
    trace = float(np.trace(inverse @ (weighted.T @ weighted)))
    excess = q - (len(v) - 2)
    return max(0.0, excess / float((1 / variances).sum() - trace))
