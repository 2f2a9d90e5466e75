"""What trials at several widths together say of lambda*(width), and which lambda to try next.

The model is ``ridge_process``; its shapes are averaged by their evidence. Where the trials speak against a law, widths
are told apart; where lambda does not matter, no value is preferred.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from robsearch.errors import InputError, refusal
from robsearch.laws.points import Array, Number, Point, bounded_exp, check, log_width
from robsearch.laws.ridge import Optimum
from robsearch.laws.ridge_process import SHAPES, Places, Pooled, covariance, log_evidence, noise, pooled

LATTICE = np.linspace(-0.5, 0.5, 65)
"""Where the crest is looked for, and trials are weighed against each other."""
_NORMAL = hermegauss(9)
_BY_SHAPE = ("shapes", "weights", "root", "pull")
_IMPLAUSIBLE = 7.0
"""Shapes whose log evidence lies this far below the best are left out."""

Running = Sequence[tuple[Number, Number]]
"""Widths and lambdas of trials that have not told their values yet: they are taken to tell what is expected."""


@dataclass(frozen=True, eq=False)
class Belief:
    """The posterior, as the mixture of the shapes that the trials leave plausible. Made by ``believe``.

    Attributes:
        span: lowest and highest lambda that may be tried.
        trials: pooled.
        shapes: (k, 3), of the grid; ``weights`` (k,) sum to 1.
        root: (k, n, n), the inverse of the Cholesky factor of the values' covariance.
        pull: (k, n), that covariance's inverse times the values.
    """

    span: tuple[float, float]
    trials: Pooled
    shapes: Array
    weights: Array
    root: Array
    pull: Array

    def value(self, width: Number, lams: Sequence[Number] | Array) -> tuple[Array, Array]:
        """Mean and standard deviation (n,) of the value that ``lams`` (n,) give at ``width``, without its noise.

        Raises InputError unless width and lambdas are positive.
        """
        check({"width": width, **{f"lambda ({lam})": float(lam) for lam in lams}})
        mean, joint = self._mixed(self._places([(width, float(lam)) for lam in lams]))
        spread = np.sqrt(np.maximum(joint.diagonal(), 0))
        return self.trials.middle + self.trials.unit * mean, self.trials.unit * spread

    def best(self, width: Number) -> float:
        """The lambda whose mean value at ``width`` is highest. Raises InputError unless it is positive."""
        return self._lam(LATTICE[self._mixed(self._lattice(width))[0].argmax()])

    def optimum(self, width: Number, confidence: float = 0.95) -> Optimum:
        """Lambda* at ``width``: median and central interval of 1,000 draws, always the same ones.

        Raises InputError unless ``width`` is positive.
        """
        random = np.random.RandomState(0)
        counts = random.multinomial(1000, self.weights)
        means, joints = self._joints(self._lattice(width))
        peaks = np.concatenate([peaks_of(means[k], joints[k], random, n) for k, n in enumerate(counts) if n])
        low, middle, high = np.quantile(peaks, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
        side = {-0.5: "lowest", 0.5: "highest"}.get(float(middle))
        censored = f"lambda* at width {width:g} may lie outside: it is the {side} lambda searched" if side else None
        return Optimum(float(width), self._lam(middle), self._lam(low), self._lam(high), censored)

    def thompson(self, width: Number, random: np.random.RandomState, running: Running = ()) -> float:
        """Lambda* at ``width`` in one surface drawn from the belief (Thompson 1933, Biometrika 25).

        Raises InputError unless ``width`` is positive.
        """
        k = random.choice(len(self.weights), p=self.weights)
        one = dataclasses.replace(self, **{name: getattr(self, name)[k : k + 1] for name in _BY_SHAPE})
        (mean,), (joint,) = one._joints(joined(self._lattice(width), self._places(running)))
        joint = after(joint, len(LATTICE), self.shapes[k][2] ** 2)
        step = LATTICE[1] - LATTICE[0]
        peak = peaks_of(mean[: len(LATTICE)], joint, random, 1)[0] + step * (random.random_sample() - 0.5)
        return self._lam(min(max(peak, -0.5), 0.5))

    def knowledge_gradient(self, width: Number, running: Running = ()) -> float:
        """The lambda whose trial is expected to raise the highest mean value at ``width`` most.

        Of the Gaussian with the mixture's moments (Frazier, Powell and Dayanik 2008, SIAM J. Control Optim. 47), by
        quadrature. Raises InputError unless ``width`` is positive.
        """
        mean, joint = self._mixed(joined(self._lattice(width), self._places(running)))
        noise = float(self.weights @ self.shapes[:, 2] ** 2)
        mean, joint = mean[: len(LATTICE)], after(joint, len(LATTICE), noise)
        moves = joint / np.sqrt(np.maximum(joint.diagonal(), 0) + noise)
        outcomes = (mean[:, None, None] + moves[:, :, None] * _NORMAL[0]).max(axis=0)
        return self._lam(LATTICE[(outcomes @ _NORMAL[1]).argmax()])

    def _lam(self, x: float) -> float:
        low, high = np.log(self.span)
        return min(max(bounded_exp(low + (high - low) * (x + 0.5)), self.span[0]), self.span[1])

    def _lattice(self, width: Number) -> Places:
        return Places(np.full(len(LATTICE), log_width(width) - self.trials.centre), LATTICE)

    def _places(self, trials: Running) -> Places:
        logs, (low, high) = np.log(np.array(trials, dtype=float).reshape(-1, 2)), np.log(self.span)
        return Places(logs[:, 0] - self.trials.centre, (logs[:, 1] - low) / (high - low) - 0.5)

    def _joints(self, at: Places) -> tuple[Array, Array]:
        """Means (k, n) and covariances (k, n, n) of the values under every shape."""
        across = covariance(self.shapes, at, self.trials.at)
        explained = self.root @ np.swapaxes(across, 1, 2)
        means = (across @ self.pull[:, :, None])[:, :, 0] - self.shapes[:, :1] * at.x**2
        return means, covariance(self.shapes, at, at) - np.swapaxes(explained, 1, 2) @ explained

    def _mixed(self, at: Places) -> tuple[Array, Array]:
        """Mean (n,) and covariance (n, n) of the mixture's values."""
        means, joints = self._joints(at)
        mean = self.weights @ means
        about = np.sqrt(self.weights)[:, None] * (means - mean)
        return mean, np.asarray(np.tensordot(self.weights, joints, axes=1) + about.T @ about)


def believe(points: Sequence[Point], span: tuple[Number, Number]) -> Belief:
    """The belief after these trials, none or many; a point's value may have any unit, its seed does not matter.

    Raises InputError for a span that is not 0 < low < high, or for points whose width and lambda are not positive or
    whose value is not finite: all at once.
    """
    low, high = span
    bad = [] if 0 < low < high < math.inf else [refusal("a span of 0 < low < high", span, "correct it")]
    bad += [
        refusal("a point with width and lambda positive, all finite", point, "leave it out")
        for point in points
        if not (0 < point.width < math.inf and 0 < point.lam < math.inf and math.isfinite(point.value))
    ]
    if bad:
        raise InputError(*bad)
    trials = pooled(points, math.log(low), math.log(high))
    covariances = covariance(SHAPES, trials.at, trials.at)
    covariances[:, range(len(trials.value)), range(len(trials.value))] += noise(trials)
    values = trials.value + SHAPES[:, :1] * trials.at.x**2
    evidence = log_evidence(covariances, values, trials)
    kept = evidence > evidence.max() - _IMPLAUSIBLE if len(points) else np.full(len(SHAPES), True)
    weights = np.exp(evidence[kept] - evidence.max()) if len(points) else np.ones(len(SHAPES))
    root = np.linalg.inv(np.linalg.cholesky(covariances[kept]))
    pull = np.einsum("kji,kjl,kl->ki", root, root, values[kept])
    return Belief((float(low), float(high)), trials, SHAPES[kept], weights / weights.sum(), root, pull)


def joined(places: Places, others: Places) -> Places:
    """One list of both."""
    return Places(np.append(places.t, others.t), np.append(places.x, others.x))


def after(joint: Array, n: int, noise: float) -> Array:
    """The covariance (n, n) of the first n values, given noisy values of all others."""
    others = joint[n:, n:] + noise * np.eye(len(joint) - n)
    return np.asarray(joint[:n, :n] - joint[:n, n:] @ np.linalg.solve(others, joint[n:, :n]))


def peaks_of(mean: Array, joint: Array, random: np.random.RandomState, n: int) -> Array:
    """The highest places (n,) of draws of the Gaussian of this mean and covariance over the lattice."""
    values, vectors = np.linalg.eigh(joint)
    draws = vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * random.standard_normal((len(mean), n)))
    return np.asarray(LATTICE[(mean[:, None] + draws).argmax(axis=0)])
