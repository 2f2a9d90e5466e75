"""The Gaussian process behind ``belief``: a ridge over (log width, log lambda), with everything that may blur it.

With x = log lambda from the middle of its range, in ranges (-1/2 to 1/2), and t = log width less its mean, the value is

    height(w) - c (x - crest(w))^2 + rest(w, x),    crest(w) = a + s t + deviation(w),

where heights, a, s and deviations are Gaussian, and the rest is a smooth Gaussian process at each width. Given a
*shape*, which is c, the spread of the deviations and the noise, all of this is one Gaussian
process in closed form (Rasmussen and Williams 2006, eq. 2.25 to 2.30), for c x crest is linear and c crest^2 is part of
the height. The shapes form a grid: a large spread says that there is no law, c = 0 that lambda does not matter.
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
"""(g, 3): c, spread (in ranges) and noise. c and noise are in units of the values' deviation at a width."""
CREST, SLOPE = 0.35, 0.15
"""In ranges: the standard deviations of a and of s."""
HEIGHT, HEIGHTS = 30.0, 10.0
"""Standard deviations of the mean height, and of each width's about it, in the same units."""
REST, LENGTH = 0.2, 0.25
"""Standard deviation of the rest in the same units, and the length on which it changes, in ranges."""
MISFIT = 0.25
"""What the model misses far from the crest: a share of the fall below the best value at the width."""
CELLS = 80
"""Trials of a width whose lambdas lie close are pooled: this many cells for all widths, at least 8 for each."""


class Places(NamedTuple):
    """Where the value is asked for: t (n,) and x (n,), as above."""

    t: Array
    x: Array


class Pooled(NamedTuple):
    """Cells as columns (n,): mean place and value, number of trials, squares about the mean, fall from the best.

    Values are ``(value - middle) / unit``; ``centre`` is the mean log width.
    """

    at: Places
    value: Array
    repeats: Array
    squares: Array
    fall: Array
    middle: float
    unit: float
    centre: float


def pooled(points: Sequence[Point], low: float, high: float) -> Pooled:
    """Trials of one width whose lambdas lie in one cell become their mean; ``low`` and ``high`` are logs."""
    table = np.array([tuple(point)[:3] for point in points], dtype=float).reshape(-1, 3)
    t, x = np.log(table[:, 0]), (np.log(table[:, 1]) - low) / (high - low) - 0.5
    widths, of = np.unique(t, return_inverse=True)
    deviations = table[:, 2] - (np.bincount(of, table[:, 2]) / np.bincount(of))[of]
    df = len(t) - len(widths)
    unit = max(math.sqrt((deviations**2).sum() / df), 1e-9) if df > 0 else 0.02
    middle, centre = (float(table[:, 2].mean()), float(widths.mean())) if len(t) else (0.0, 0.0)
    value = (table[:, 2] - middle) / unit
    cells = max(8, CELLS // max(len(widths), 1))
    keys, cell = np.unique(np.stack([of, np.floor(x * cells)]), axis=1, return_inverse=True)
    cell, width = cell.reshape(-1), keys[0].astype(int)
    repeats = np.bincount(cell)
    means = np.bincount(cell, value) / repeats
    best = np.array([means[width == k].max() for k in range(len(widths))])
    at = Places(widths[width] - centre, np.bincount(cell, x) / repeats)
    squares = np.bincount(cell, (value - means[cell]) ** 2)
    return Pooled(at, means, repeats, squares, best[width] - means, middle, unit, centre)


def covariance(shapes: Array, at: Places, other: Places) -> Array:
    """Prior covariance (..., n, m) of values at two lists of places, for shapes (..., 3)."""
    c, spread, _ = np.moveaxis(shapes, -1, 0)
    same = np.isclose(at.t[:, None], other.t, rtol=0, atol=1e-9).astype(float)
    product, far = np.outer(at.x, other.x), at.x[:, None] - other.x
    fixed = [np.ones_like(same), same, product, product * np.outer(at.t, other.t), product * same]
    terms = np.stack([*fixed, same * np.exp(-0.5 * (far / LENGTH) ** 2)])
    sizes = [HEIGHT + 0 * c, HEIGHTS + 0 * c, 2 * c * CREST, 2 * c * SLOPE, 2 * c * spread, REST + 0 * c]
    return np.asarray(np.tensordot(np.stack(sizes, axis=-1) ** 2, terms, axes=1))


def noise(trials: Pooled) -> Array:
    """Variance (g, n) of each cell's mean about the surface, for every shape of the grid."""
    return np.asarray(SHAPES[:, 2:] ** 2 / trials.repeats + (MISFIT * trials.fall) ** 2)


def log_evidence(covariances: Array, values: Array, trials: Pooled) -> Array:
    """Log marginal likelihood (g,) of the trials under every shape, up to a constant (eq. 2.30).

    The factor of the covariance with the values as one more row has the whitened values as its last row. Trials of one
    cell add what they say of the noise.
    """
    g, n = values.shape
    bordered = np.empty((g, n + 1, n + 1))
    bordered[:, :n, :n], bordered[:, n, :n], bordered[:, :n, n], bordered[:, n, n] = covariances, values, values, 1e15
    factor = np.linalg.cholesky(bordered)
    inner = np.log(np.einsum("gii->gi", factor)[:, :n]).sum(axis=1)
    sd = SHAPES[:, 2]
    pure = (trials.repeats - 1).sum() * np.log(sd) + trials.squares.sum() / (2 * sd**2)
    return np.asarray(-0.5 * (factor[:, n, :n] ** 2).sum(axis=1) - inner - pure)
