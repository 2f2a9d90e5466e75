"""The Gaussian process behind ``posterior``: a surface over (log width, log lambda), with
everything that may blur it.

With x = log lambda from the middle of its range, in ranges (-1/2 to 1/2), and t = log width less
its mean, the value is

    height(w) - c (x - optimum(w))^2 + rest(w, x),    optimum(w) = a + s t + deviation(w),

where heights, a, s and deviations are Gaussian, and the rest is a smooth Gaussian process at each
width. Given a *shape*, which is c, the spread of the deviations and the noise, all of this is one
Gaussian process in closed form (Rasmussen and Williams 2006, eq. 2.25 to 2.30), for c x optimum is
linear and c optimum^2 is part of the height. The shapes form a grid: a large spread says that there
is no law, c = 0 that lambda does not matter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robsearch.laws.points import Array, Point

CURVATURES = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
SPREADS = (0.02, 0.1, 0.4)
NOISES = (0.03, 0.15, 0.4, 1.0)
SHAPES = np.array(list(itertools.product(CURVATURES, SPREADS, NOISES)))
"""(g, 3): c, spread (in ranges) and noise. c and noise are in units of the values' deviation at a
width."""
OPTIMUM_SD = 0.35
"""In ranges: the standard deviation of a."""
SLOPE_SD = 0.15
"""In ranges: the standard deviation of s."""
HEIGHT_SD = 30.0
"""Standard deviation of the mean height, in the same units as c and noise."""
WIDTH_HEIGHT_SD = 10.0
"""Standard deviation of each width's height about the mean height, in the same units."""
REST_SD = 0.2
"""Standard deviation of the rest, in the same units."""
REST_LENGTH = 0.25
"""The length on which the rest changes, in ranges."""
MISFIT = 0.25
"""What the model misses far from the optimum: a share of the fall below the best value at the
width."""
CELLS = 80
"""Trials of a width whose lambdas lie close are pooled: this many cells for all widths, at least 8
for each."""


class Inputs(NamedTuple):
    """Where the value is asked for: t (n,) and x (n,), as above."""

    t: Array
    x: Array


class PooledTrials(NamedTuple):
    """Cells as columns (n,): mean input and value, number of trials, squares about the mean, fall
    from the best.

    Values are ``(value - middle) / unit``; ``centre`` is the mean log width.
    """

    inputs: Inputs
    value: Array
    repeats: Array
    squares: Array
    fall: Array
    middle: float
    unit: float
    centre: float


def pool(points: Sequence[Point], low: float, high: float) -> PooledTrials:
    """Trials of one width whose lambdas lie in one cell become their mean; ``low`` and ``high`` are
    logs."""
    table = np.array(points, dtype=float).reshape(-1, 4)
    rates = table[:, 2]
    t = np.log(table[:, 0])
    x = (np.log(table[:, 1]) - low) / (high - low) - 0.5
    widths, width_of = np.unique(t, return_inverse=True)
    width_means = np.bincount(width_of, rates) / np.bincount(width_of)
    deviations = rates - width_means[width_of]
    df = len(t) - len(widths)
    # With one trial at each width no deviation can be measured, and 2 points stand in for it.
    unit = 0.02
    if df > 0:
        sd = math.sqrt((deviations**2).sum() / df)
        unit = max(sd, 1e-9)
    middle = 0.0
    centre = 0.0
    if len(t):
        middle = float(rates.mean())
        centre = float(widths.mean())
    value = (rates - middle) / unit
    cells = max(8, CELLS // max(len(widths), 1))
    cell_keys = np.stack([width_of, np.floor(x * cells)])
    keys, cell = np.unique(cell_keys, axis=1, return_inverse=True)
    # The shape of the inverse differs between versions of numpy.
    cell = cell.reshape(-1)
    width = keys[0].astype(int)
    repeats = np.bincount(cell)
    means = np.bincount(cell, value) / repeats
    best = np.full(len(widths), -math.inf)
    np.maximum.at(best, width, means)
    inputs = Inputs(widths[width] - centre, np.bincount(cell, x) / repeats)
    # What trials of one cell say of the noise would be lost with their mean alone.
    squares = np.bincount(cell, (value - means[cell]) ** 2)
    fall = best[width] - means
    return PooledTrials(inputs, means, repeats, squares, fall, middle, unit, centre)


def covariance(shapes: Array, at: Inputs, other: Inputs) -> Array:
    """Prior covariance (..., n, m) of values at two lists of inputs, for shapes (..., 3)."""
    c, spread, _ = np.moveaxis(shapes, -1, 0)
    same = np.isclose(at.t[:, None], other.t, rtol=0, atol=1e-9).astype(float)
    product = np.outer(at.x, other.x)
    distance = (at.x[:, None] - other.x) / REST_LENGTH
    terms = [
        np.ones_like(same),
        same,
        product,
        product * np.outer(at.t, other.t),
        product * same,
        same * np.exp(-0.5 * distance**2),
    ]
    sizes = np.stack(
        np.broadcast_arrays(
            HEIGHT_SD,
            WIDTH_HEIGHT_SD,
            2 * c * OPTIMUM_SD,
            2 * c * SLOPE_SD,
            2 * c * spread,
            REST_SD,
        ),
        axis=-1,
    )
    return np.asarray(np.tensordot(sizes**2, np.stack(terms), axes=1))


def noise(trials: PooledTrials) -> Array:
    """Variance (g, n) of each cell's mean about the surface, for every shape of the grid."""
    of_means = SHAPES[:, 2:] ** 2 / trials.repeats
    misfit = (MISFIT * trials.fall) ** 2
    return np.asarray(of_means + misfit)


def log_evidence(covariances: Array, values: Array, trials: PooledTrials) -> Array:
    """Log marginal likelihood (g,) of the trials under every shape, up to a constant (eq. 2.30).

    The factor of the covariance with the values as one more row has the whitened values as its last
    row. Trials of one cell add what they say of the noise.
    """
    g, n = values.shape
    bordered = np.empty((g, n + 1, n + 1))
    bordered[:, :n, :n] = covariances
    bordered[:, n, :n] = values
    bordered[:, :n, n] = values
    # Large enough to keep the bordered matrix positive definite; the last entry is not read.
    bordered[:, n, n] = 1e15
    factor = np.linalg.cholesky(bordered)
    diagonals = np.einsum("gii->gi", factor)
    log_root = np.log(diagonals[:, :n]).sum(axis=1)
    whitened = factor[:, n, :n]
    fit = -0.5 * (whitened**2).sum(axis=1)
    sd = SHAPES[:, 2]
    repeated = (trials.repeats - 1).sum()
    pure = repeated * np.log(sd) + trials.squares.sum() / (2 * sd**2)
    return np.asarray(fit - log_root - pure)
