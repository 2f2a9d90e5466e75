"""What a law is fitted from and what it answers: finished trials, also as columns with an effect
for each (width, seed), and optima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from robsearch.drawing.formatting import ABSENT
from robsearch.errors import Condition, counted, refuse_unless

Array: TypeAlias = NDArray[Any]
Number: TypeAlias = float | int

MATTERS = 0.005
"""A loss of robust accuracy, as a share, below which one lambda is as good as another."""
MOST_TRIALS = 10_000
"""More than a person would wait for."""


class Point(NamedTuple):
    """A finished trial; ``value`` is its robust accuracy as a rate in [0, 1].

    Points of one (width, seed) share an effect: ``seed`` names a replicate under which several
    lambdas were tried. A number of its own for every trial leaves nothing to compare.
    """

    width: Number
    lam: Number
    value: Number
    seed: int = 0


class Optimum(NamedTuple):
    """Lambda* at a width with its confidence interval: three numbers, or None each when not
    determined.

    ``censored`` is None, or says in words why not to build on it: lambda* is not determined, or
    lies at the end of the lambdas searched or beyond. An interval ends where the search did; it is
    None where two widths alone answer for a third.
    """

    width: float
    lam: float | None
    low: float | None
    high: float | None
    censored: str | None

    @property
    def text(self) -> str:
        """``lambda* = 2.3 [1.1, 4.2]``, or the plain words that it is not determined."""
        if self.lam is None:
            return "lambda* not determined"
        return f"lambda* = {self.estimate}" + (f" ({self.censored})" if self.censored else "")

    @property
    def estimate(self) -> str:
        """The number and its interval, ``2.3 [1.1, 4.2]``; a dash where it is not determined."""
        if self.lam is None:
            return ABSENT
        # The law of two widths has no interval for a third, where no trial has finished.
        if self.low is None or self.high is None:
            return f"{self.lam:.3g}"
        return f"{self.lam:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Fit(NamedTuple):
    """Least squares within groups: ``beta`` (k,), the curvature first, with its ``covariance`` (k,
    k)."""

    beta: Array
    covariance: Array
    df: int

    @property
    def peaks(self) -> Array:
        """Where ``beta[0] u^2 + beta[i] u`` peaks, for each i > 0."""
        return np.asarray(-self.beta[1:] / (2 * self.beta[0]))

    def lacks_peak(self, trials: TrialColumns, confidence: float) -> str | None:
        """Why the curvature c gives no peak, or None where it is clearly negative.

        With standard error s and Student's t, a peak of this curvature takes the least N more
        trials with t(df + N) s sqrt(n / (n + N)) < |c|, if these are spread over lambda as those
        tried, for then s shrinks as 1 / sqrt(n). It is too flat, however many trials there are, if
        even the most curved surface that the data allow loses little from the middle to the ends
        of the range tried: (|c| + t s) (log(high / low) / 2)^2 < ``MATTERS``.
        """
        curvature = self.beta[0]
        error = math.sqrt(self.covariance[0, 0])
        margin = quantile(self.df, confidence) * error
        if curvature + margin < 0:
            return None
        estimate = f"(curvature {curvature:.2g}, standard error {error:.2g})"
        if curvature >= 0:
            return f"robust accuracy has no peak in lambda {estimate}"
        n = len(trials.u)
        if (margin - curvature) * trials.reach**2 >= MATTERS:
            for more in range(1, MOST_TRIALS):
                shrunk = error * math.sqrt(n / (n + more))
                if quantile(self.df + more, confidence) * shrunk < -curvature:
                    lacking = f"too few trials: about {more} more"
                    return f"{lacking}, spread like these, would place a peak {estimate}"
        return f"robust accuracy is too flat in lambda to place a peak {estimate}"


class TrialColumns(NamedTuple):
    """Points as columns (n,); ``u`` and ``v`` are log lambda and log width less their means,
    ``centre``."""

    u: Array
    v: Array
    value: Array
    group: Array
    width: Array
    lam: Array
    centre: tuple[float, float]

    @property
    def widths(self) -> list[float]:
        """The widths, thin to wide."""
        return [float(width) for width in np.unique(self.width)]

    @property
    def reach(self) -> float:
        """Half the widest range of log lambda that was tried at one width."""
        return max(float(np.ptp(self.u[self.width == width])) / 2 for width in self.widths)

    def fit(self) -> Fit | str:
        """Values on group effects, u^2, u and, of several widths, u v; or why there is too little
        data for it."""
        terms = [self.u**2, self.u]
        if len(self.widths) > 1:
            terms.append(self.u * self.v)
        columns = np.column_stack(terms)
        within = within_groups(columns, self.group)
        groups = len(np.unique(self.group))
        lams = len(np.unique(self.u))
        # The effect of each group is fitted too, and takes one degree of freedom.
        df = len(self.u) - groups - columns.shape[1]
        # Three lambdas make a peak, and one residual at least has to be left.
        lacking = f"too few trials: at least {max(3 - lams, 1 - df)} more"
        if lams < 3:
            return f"{lacking} ({counted(lams, 'lambda')} tried, and a peak takes at least 3)"
        if df < 1:
            trials = counted(len(self.u), "trial")
            grouped = counted(groups, "(width, seed) group")
            return f"{lacking} ({trials} in {grouped} leave nothing to judge the noise by)"
        # Each column is scaled by its own size, so that the tolerance means the same for all.
        scale = np.maximum(np.abs(columns).max(axis=0), 1e-6)
        if np.linalg.matrix_rank(within / scale, tol=1e-9) < columns.shape[1]:
            lams_tried = "the lambdas tried within (width, seed) groups"
            return f"{lams_tried} are too few to tell a peak from a slope"
        inverse = np.linalg.pinv(within)
        value = within_groups(self.value, self.group)
        beta = inverse @ value
        misfit = float(np.linalg.norm(value - within @ beta))
        # Rounding alone makes a constant look significant; rates are not known to 1e-12.
        sd = max(misfit / math.sqrt(df), 1e-12)
        return Fit(beta, sd**2 * inverse @ inverse.T, df)


def columns_of(points: Sequence[Point]) -> TrialColumns:
    """The points as columns. Raises InputError that names every malformed one."""
    expected = "a point with width and lambda positive, value in [0, 1], all finite"
    conditions = []
    for point in points:
        fits = has_finite_place(point) and 0 <= point.value <= 1
        conditions.append(Condition(fits, expected, point, "leave it out"))
    refuse_unless(*conditions)
    table = np.array(points, dtype=float).reshape(-1, 4)
    width, lam, value, _ = table.T
    _, group = np.unique(table[:, [0, 3]], axis=0, return_inverse=True)
    group = group.reshape(-1)
    u = np.log(lam)
    v = np.log(width)
    centre = (0.0, 0.0)
    if len(points):
        centre = (float(u.mean()), float(v.mean()))
    return TrialColumns(u - centre[0], v - centre[1], value, group, width, lam, centre)


def has_finite_place(point: Point) -> bool:
    """Whether width and lambda have logarithms."""
    return 0 < point.width < math.inf and 0 < point.lam < math.inf


def within_groups(columns: Array, group: Array) -> Array:
    """Columns (n,) or (n, k) less their group's mean: regressing on these is fitting group
    effects."""
    member = np.equal.outer(np.unique(group), group).astype(float)
    averaging = member / member.sum(axis=1, keepdims=True)
    means: Array = averaging @ columns
    return np.asarray(columns - member.T @ means)


def quantile(df: int, confidence: float) -> float:
    """Student's t that a two-sided test at ``confidence`` must exceed."""
    return float(stdtrit(df, (1 + confidence) / 2))


def bounded_exp(log: Number) -> float:
    """exp, held inside the floats: an interval's end may be astronomically far."""
    return math.exp(min(max(float(log), -700.0), 700.0))


def log_width(width: Number) -> float:
    """Log width. Raises InputError unless it is positive."""
    refuse_unless(positive("width", width))
    return math.log(width)


def positive(name: str, value: Number) -> Condition:
    """A condition on a number that is finite and above 0."""
    return Condition(0 < value < math.inf, f"a finite {name} above 0", value, "correct it")
