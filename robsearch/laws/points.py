"""Finished trials as columns, and least squares on them with an effect for each (width, seed)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from robsearch.errors import InputError, refusal
from robsearch.wording import counted

Array: TypeAlias = NDArray[Any]
Number: TypeAlias = float | int


class Point(NamedTuple):
    """A finished trial; ``value`` is its robust accuracy as a rate in [0, 1].

    Points of one (width, seed) share an effect: ``seed`` names a replicate under which several lambdas were
    tried. A number of its own for every trial leaves nothing to compare.
    """

    width: Number
    lam: Number
    value: Number
    seed: int = 0


class Fit(NamedTuple):
    """Least squares within groups: ``beta`` (k,), the curvature first, with its ``covariance`` (k, k)."""

    beta: Array
    covariance: Array
    df: int
    sd: float

    @property
    def crests(self) -> Array:
        """Where ``beta[0] u^2 + beta[i] u`` peaks, for each i > 0."""
        return np.asarray(-self.beta[1:] / (2 * self.beta[0]))

    @property
    def crest_errors(self) -> Array:
        """Standard errors of ``crests`` by the delta method."""
        slopes = np.column_stack([-self.crests / self.beta[0], -np.eye(len(self.beta) - 1) / (2 * self.beta[0])])
        return np.asarray(np.sqrt(np.diag(slopes @ self.covariance @ slopes.T)))

    def flat(self, confidence: float) -> str | None:
        """Why the curvature gives no peak, or None where it is clearly negative."""
        c, error = self.beta[0], math.sqrt(self.covariance[0, 0])
        if c + quantile(self.df, confidence) * error < 0:
            return None
        told = f"(curvature {c:.2g}, standard error {error:.2g})"
        if c >= 0:
            return f"robust accuracy has no peak in lambda {told}"
        return f"robust accuracy is too flat in lambda to place a peak {told}"


class Data(NamedTuple):
    """Points as columns (n,); ``u`` and ``v`` are log lambda and log width less their means, ``centre``."""

    u: Array
    v: Array
    value: Array
    group: Array
    width: Array
    lam: Array
    centre: tuple[float, float]

    @property
    def known(self) -> list[float]:
        """The widths, thin to wide."""
        return [float(width) for width in np.unique(self.width)]

    @property
    def by_width(self) -> list[Array]:
        """Log lambda at each known width, 0 elsewhere."""
        return [self.u * (self.width == width) for width in self.known]

    def fit(self, slopes: Sequence[Array]) -> Fit | str:
        """Values on group effects, u^2 and ``slopes`` (each (n,)); or why there is too little data for it."""
        columns = np.column_stack([self.u**2, *slopes])
        within = within_groups(columns, self.group)
        groups = len(np.unique(self.group))
        df = len(self.u) - groups - columns.shape[1]
        if (lams := len(np.unique(self.u))) < 3:
            return f"{counted(lams, 'lambda')} tried, and a peak takes at least 3"
        if df < 1:
            grouped = counted(groups, "(width, seed) group")
            return f"{counted(len(self.u), 'trial')} in {grouped} leave nothing to judge the noise by"
        scale = np.maximum(np.abs(columns).max(axis=0), 1e-6)
        if np.linalg.matrix_rank(within / scale, tol=1e-9) < columns.shape[1]:
            return "the lambdas tried within (width, seed) groups are too few to tell a peak from a slope"
        inverse = np.linalg.pinv(within)
        value = within_groups(self.value, self.group)
        beta = inverse @ value
        # Rounding alone makes a constant look significant; rates are not known to 1e-12.
        sd = max(float(np.linalg.norm(value - within @ beta)) / math.sqrt(df), 1e-12)
        return Fit(beta, sd**2 * inverse @ inverse.T, df, sd)


def read(points: Sequence[Point]) -> Data:
    """The points as columns. Raises InputError that names every malformed one."""
    table = np.array([tuple(point) for point in valid(points)], dtype=float).reshape(-1, 4)
    groups = np.unique(table[:, [0, 3]], axis=0, return_inverse=True)[1].reshape(-1)
    u, v = np.log(table[:, 1]), np.log(table[:, 0])
    centre = (float(u.mean()), float(v.mean())) if len(table) else (0.0, 0.0)
    return Data(u - centre[0], v - centre[1], table[:, 2], groups, table[:, 0], table[:, 1], centre)


def valid(points: Sequence[Point]) -> Sequence[Point]:
    """The same points. Raises InputError that names every malformed one."""
    bad = [
        refusal("a point with width and lambda positive, value in [0, 1], all finite", point, "leave it out")
        for point in points
        if not (0 < point.width < math.inf and 0 < point.lam < math.inf and 0 <= point.value <= 1)
    ]
    if bad:
        raise InputError(*bad)
    return points


def demand(data: Data, slopes: Sequence[Array]) -> Fit:
    """The fit, when it has a peak at 95 % confidence."""
    fit = data.fit(slopes)
    if isinstance(fit, str) or (problem := fit.flat(0.95)):
        raise undetermined(fit if isinstance(fit, str) else str(problem))
    return fit


def demand_widths(data: Data) -> None:
    """Raises InputError unless there are two widths."""
    if len(data.known) < 2:
        raise undetermined(f"{counted(len(data.known), 'width')} only")


def undetermined(got: str) -> InputError:
    """The refusal to fit a law."""
    return InputError(refusal("trials that determine the law", got, "run more, over a wider range of lambda"))


def within_groups(columns: Array, group: Array) -> Array:
    """Columns (n,) or (n, k) less their group's mean: regressing on these is fitting group effects."""
    member = np.equal.outer(np.unique(group), group).astype(float)
    means: Array = (member / member.sum(axis=1, keepdims=True)) @ columns
    return np.asarray(columns - member.T @ means)


def quantile(df: int, confidence: float) -> float:
    """Student's t that a two-sided test at ``confidence`` must exceed."""
    return float(stdtrit(df, (1 + confidence) / 2))


def bounded_exp(log: Number) -> float:
    """exp, held inside the floats: an interval's end may be astronomically far."""
    return math.exp(min(max(float(log), -700.0), 700.0))


def log_width(width: Number) -> float:
    """Log width. Raises InputError unless it is positive."""
    check({"width": width})
    return math.log(width)


def positive(lam: float, law: object, width: Number) -> float:
    """The same lambda. Raises InputError unless a law may answer with it."""
    check({f"lambda at width {width:g} of {law}": lam})
    return lam


def check(positive: Mapping[str, Number], finite: Mapping[str, Number] | None = None) -> None:
    """Raises InputError that names every number which is not finite, or not positive where it must be."""
    bad = [refusal(f"a finite {name} above 0", x, "correct it") for name, x in positive.items() if not 0 < x < math.inf]
    loose = (finite or {}).items()
    bad += [refusal(f"a finite {name}", x, "correct it") for name, x in loose if not math.isfinite(x)]
    if bad:
        raise InputError(*bad)
