"""What trials at several widths together say of lambda*(width), and which lambda to try next.

The model is ``gaussian_process``; its shapes are averaged by their evidence. Where the trials speak
against a law, widths are told apart; where lambda does not matter, no value is preferred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from robsearch.errors import Condition, refuse_unless
from robsearch.laws.curves import refined
from robsearch.laws.gaussian_process import (
    SHAPES,
    Inputs,
    PooledTrials,
    covariance,
    log_evidence,
    noise,
    pool,
)
from robsearch.laws.points import (
    Array,
    Number,
    Optimum,
    Point,
    bounded_exp,
    has_finite_place,
    log_width,
    positive,
)

GRID = np.linspace(-0.5, 0.5, 65)
"""Where the optimum is looked for, and trials are weighed against each other."""
LEAST = 3
"""Trials beyond each width's own height, and different lambdas: with fewer only the prior would
speak of a peak."""
LEVEL = 0.95
"""Of the interval of lambda*."""
_NODES, _WEIGHTS = hermegauss(9)
_IMPLAUSIBLE = 7.0
"""Shapes whose log evidence lies this far below the best are left out."""

RunningTrials = Sequence[tuple[Number, Number]]
"""Widths and lambdas of trials that have not told their values yet: they are taken to tell what is
expected."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """The mixture of the shapes that the trials leave plausible. Made by ``fit_posterior``.

    Attributes:
        span: lowest and highest lambda that may be tried.
        trials: pooled.
        shapes: (k, 3), of the grid; ``weights`` (k,) sum to 1.
        inverse_factor: (k, n, n), the inverse of the Cholesky factor of the values' covariance.
        dual_coefficients: (k, n), that covariance's inverse times the values.
    """

    span: tuple[float, float]
    trials: PooledTrials
    shapes: Array
    weights: Array
    inverse_factor: Array
    dual_coefficients: Array

    def value(self, width: Number, lams: Sequence[Number] | Array) -> tuple[Array, Array]:
        """Mean and standard deviation (n,) of the value that ``lams`` (n,) give at ``width``,
        without its noise.

        Raises InputError unless width and lambdas are positive.
        """
        lam_conditions = [positive(f"lambda ({lam})", float(lam)) for lam in lams]
        refuse_unless(positive("width", width), *lam_conditions)
        mean, joint = self.moments(width, [float(lam) for lam in lams])
        return mean, np.sqrt(np.maximum(joint.diagonal(), 0))

    def means(self, width: Number, lams: Sequence[Number] | Array) -> Array:
        """The same mean alone: of thousands of lambdas the covariance would take a second."""
        at = self._inputs([(width, float(lam)) for lam in lams])
        across = covariance(self.shapes, at, self.trials.inputs)
        falls = self.shapes[:, :1] * at.x**2
        means = np.einsum("kij,kj->ki", across, self.dual_coefficients) - falls
        return np.asarray(self.trials.middle + self.trials.unit * (self.weights @ means))

    def moments(self, width: Number, lams: Sequence[Number]) -> tuple[Array, Array]:
        """Mean (n,) and covariance (n, n) of the values that ``lams`` (n,) give at ``width``,
        without their noise."""
        mean, joint = self._moments(self._inputs([(width, lam) for lam in lams]))
        unit = self.trials.unit
        return self.trials.middle + unit * mean, unit**2 * joint

    def best(self, width: Number) -> float:
        """The lambda whose mean value at ``width`` is highest. Raises InputError unless it is
        positive."""
        mean, _ = self._moments(self._grid_inputs(width))
        return self._lam(GRID[mean.argmax()])

    def peak(self, width: Number) -> float:
        """The same between the places of the grid, by a parabola through three of them. Raises
        InputError unless ``width`` is positive."""
        mean, _ = self._moments(self._grid_inputs(width))
        return self._lam(float(refined(GRID, mean[:, None])[0]))

    def optimum(self, width: Number) -> Optimum:
        """Lambda* at ``width``: median and central 95 % interval of 1,000 draws, always the same
        ones.

        Raises InputError unless ``width`` is positive.
        """
        random = np.random.RandomState(0)
        counts = random.multinomial(1000, self.weights)
        means, joints = self._moments_by_shape(self._grid_inputs(width))
        draws = []
        for mean, joint, count in zip(means, joints, counts, strict=True):
            if count:
                draws.append(sample_optima(mean, joint, random, count))
        shares = [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]
        low, middle, high = np.quantile(np.concatenate(draws), shares)
        censored = None
        # It is the first or the last place of the grid.
        if abs(middle) == 0.5:
            side = "lowest" if middle < 0 else "highest"
            where = f"it is the {side} lambda searched"
            censored = f"lambda* at width {width:g} may lie outside: {where}"
        return Optimum(
            float(width),
            self._lam(middle),
            self._lam(low),
            self._lam(high),
            censored,
        )

    def thompson(
        self,
        width: Number,
        random: np.random.RandomState,
        running: RunningTrials = (),
    ) -> float:
        """Lambda* at ``width`` in one surface drawn from the posterior (Thompson 1933, Biometrika
        25).

        Raises InputError unless ``width`` is positive.
        """
        k = random.choice(len(self.weights), p=self.weights)
        inputs = self._grid_inputs(width, running)
        means, joints = self._moments_by_shape(inputs, slice(k, k + 1))
        noise = self.shapes[k][2] ** 2
        joint = conditioned(joints[0], len(GRID), noise)
        (optimum,) = sample_optima(means[0][: len(GRID)], joint, random, 1)
        step = GRID[1] - GRID[0]
        # The grid is coarse against narrow posteriors, so a draw may lie anywhere in its cell.
        jittered = optimum + step * (random.random_sample() - 0.5)
        return self._lam(min(max(jittered, -0.5), 0.5))

    def knowledge_gradient(self, width: Number, running: RunningTrials = ()) -> float:
        """The lambda whose trial is expected to raise the highest mean value at ``width`` most.

        Of the Gaussian with the mixture's moments (Frazier, Powell and Dayanik 2008, SIAM J.
        Control Optim. 47), by quadrature. Raises InputError unless ``width`` is positive.
        """
        mean, joint = self._moments(self._grid_inputs(width, running))
        noise = float(self.weights @ self.shapes[:, 2] ** 2)
        joint = conditioned(joint, len(GRID), noise)
        variance = np.maximum(joint.diagonal(), 0) + noise
        moves = joint / np.sqrt(variance)
        # Nodes of the quadrature over what the new trial may tell, (grid, lambda tried, node).
        on_grid = mean[: len(GRID)]
        means = on_grid[:, None, None] + moves[:, :, None] * _NODES
        expected = means.max(axis=0) @ _WEIGHTS
        return self._lam(GRID[expected.argmax()])

    def _lam(self, x: float) -> float:
        low, high = np.log(self.span)
        lam = bounded_exp(low + (high - low) * (x + 0.5))
        # exp and log may round past the ends.
        return min(max(lam, self.span[0]), self.span[1])

    def _grid_inputs(self, width: Number, running: RunningTrials = ()) -> Inputs:
        """The grid at this width, and then the running trials."""
        grid_t = np.full(len(GRID), log_width(width) - self.trials.centre)
        others = self._inputs(running)
        t = np.append(grid_t, others.t)
        x = np.append(GRID, others.x)
        return Inputs(t, x)

    def _inputs(self, trials: RunningTrials) -> Inputs:
        table = np.array(trials, dtype=float).reshape(-1, 2)
        logs = np.log(table)
        low, high = np.log(self.span)
        t = logs[:, 0] - self.trials.centre
        x = (logs[:, 1] - low) / (high - low) - 0.5
        return Inputs(t, x)

    def _moments_by_shape(
        self,
        at: Inputs,
        which: slice = slice(None),
    ) -> tuple[Array, Array]:
        """Means (k, n) and covariances (k, n, n) of the values under every shape, or some."""
        shapes = self.shapes[which]
        across = covariance(shapes, at, self.trials.inputs)
        whitened = self.inverse_factor[which] @ np.swapaxes(across, 1, 2)
        explained = np.swapaxes(whitened, 1, 2) @ whitened
        falls = shapes[:, :1] * at.x**2
        coefficients = self.dual_coefficients[which, :, None]
        means = (across @ coefficients)[:, :, 0] - falls
        prior = covariance(shapes, at, at)
        return means, prior - explained

    def _moments(self, at: Inputs) -> tuple[Array, Array]:
        """Mean (n,) and covariance (n, n) of the mixture's values."""
        means, joints = self._moments_by_shape(at)
        mean = self.weights @ means
        within = np.tensordot(self.weights, joints, axes=1)
        # The shapes' means differ: what they say of each other adds to the covariance.
        deviations = np.sqrt(self.weights)[:, None] * (means - mean)
        return mean, np.asarray(within + deviations.T @ deviations)


def fit_posterior(points: Sequence[Point], span: tuple[Number, Number]) -> Posterior:
    """The posterior after these trials, none or many; a point's value may have any unit, its seed
    does not matter.

    Raises InputError for a span that is not 0 < low < high, or for points whose width and lambda
    are not positive or whose value is not finite: all at once.
    """
    low, high = span
    rising = 0 < low < high < math.inf
    conditions = [Condition(rising, "a span of 0 < low < high", span, "correct it")]
    expected = "a point with width and lambda positive, all finite"
    for point in points:
        finite = has_finite_place(point) and math.isfinite(point.value)
        conditions.append(Condition(finite, expected, point, "leave it out"))
    refuse_unless(*conditions)
    trials = pool(points, math.log(low), math.log(high))
    covariances = covariance(SHAPES, trials.inputs, trials.inputs)
    diagonal = range(len(trials.value))
    covariances[:, diagonal, diagonal] += noise(trials)
    # Each shape knows its own fall -c x^2: without it the values are Gaussian.
    values = trials.value + SHAPES[:, :1] * trials.inputs.x**2
    plausible = np.full(len(SHAPES), True)
    weights = np.ones(len(SHAPES))
    # Without trials every shape is as plausible as any other.
    if len(points):
        evidence = log_evidence(covariances, values, trials)
        plausible = evidence > evidence.max() - _IMPLAUSIBLE
        weights = np.exp(evidence[plausible] - evidence.max())
    factor = np.linalg.cholesky(covariances[plausible])
    inverse_factor = np.linalg.inv(factor)
    dual_coefficients = np.einsum(
        "kji,kjl,kl->ki",
        inverse_factor,
        inverse_factor,
        values[plausible],
    )
    return Posterior(
        (float(low), float(high)),
        trials,
        SHAPES[plausible],
        weights / weights.sum(),
        inverse_factor,
        dual_coefficients,
    )


def conditioned(joint: Array, n: int, noise: float) -> Array:
    """The covariance (n, n) of the first n values, given noisy values of all others."""
    others = joint[n:, n:] + noise * np.eye(len(joint) - n)
    shares = np.linalg.solve(others, joint[n:, :n])
    explained = joint[:n, n:] @ shares
    return np.asarray(joint[:n, :n] - explained)


def sample_optima(
    mean: Array,
    joint: Array,
    random: np.random.RandomState,
    n: int,
) -> Array:
    """Where ``n`` draws of the Gaussian of this mean and covariance over the grid are highest."""
    values, vectors = np.linalg.eigh(joint)
    # Rounding makes some of the smallest eigenvalues negative.
    sds = np.sqrt(np.maximum(values, 0))
    draws = vectors @ (sds[:, None] * random.standard_normal((len(mean), n)))
    surfaces = mean[:, None] + draws
    return np.asarray(GRID[surfaces.argmax(axis=0)])
