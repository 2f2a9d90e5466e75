"""Robust accuracy against lambda at one width: two families of curves, and where each peaks.

A cubic in log lambda, and a parabola with a curvature of its own on either side of its peak. Curves
of adversarial training are skewed: thin nets fall steeply at high lambda, wide ones at low. A
parabola with one curvature for all widths then invents a trend of the peak with width. In simulated
studies (``benchmarks/laws.py``) the cubic errs to one side of a skewed peak and the asymmetric
parabola to the other, so the truth lies between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robsearch.laws.points import Array

BEND = 0.05
"""Lambdas that lose more than this, a rate, do not bend the curve: what happens there says nothing
of the peak."""
COLLAPSED = 0.5
"""A training below this share of its width's best has collapsed."""
GRID = 81
"""Places at which a peak is looked for."""
LEAST = 5
"""Lambdas that a curve takes: it has four parameters."""
RESAMPLES = 400
FAMILIES = ("cubic", "asymmetric parabola")


class Cells(NamedTuple):
    """The lambdas of one width that bend its curve, from low to high.

    Attributes:
        u: (n,), log lambda.
        values: (n, 1 + k), mean robust accuracy of the trainings at each, seed effects taken out;
            the first column has all seeds, each other one is without one seed.
        counts: (n,), trainings at each.
        kept: (trainings,), which of the trainings given are in it.
        edges: log of the lowest and the highest lambda tried, whether it bends the curve or not.
    """

    u: Array
    values: Array
    counts: Array
    kept: Array
    edges: tuple[float, float]

    @property
    def grid(self) -> Array:
        """(GRID,) places of log lambda between the first cell and the last."""
        return np.linspace(self.u[0], self.u[-1], GRID)


def cells_of(u: Array, value: Array, seed: Array, jackknife: bool) -> Cells:
    """The cells of one width's trainings, (m,) each; ``jackknife`` adds the columns without one
    seed."""
    alive = np.flatnonzero(~collapsed(value))
    tried, cell = np.unique(u[alive], return_inverse=True)
    means = np.bincount(cell, value[alive]) / np.bincount(cell)
    bends = near_peak(means)
    kept = alive[bends[cell]]
    _, cell = np.unique(u[kept], return_inverse=True)
    columns = [cell_means(cell, value[kept], seed[kept])]
    for left_out in np.unique(seed[kept]) if jackknife else ():
        others = seed[kept] != left_out
        columns.append(cell_means(cell, value[kept], seed[kept], others))
    values = np.column_stack(columns)
    # A lambda that one seed alone was trained at has no value without that seed.
    whole = ~np.isnan(values).any(axis=1)
    mask = np.zeros(len(u), dtype=bool)
    mask[kept[whole[cell]]] = True
    counts = np.bincount(cell)[whole].astype(float)
    edges = (float(u.min()), float(u.max()))
    return Cells(tried[bends][whole], values[whole], counts, mask, edges)


def collapsed(value: Array) -> Array:
    """(m,), which trainings of a width have collapsed: their value is below half of its three best
    ones' mean."""
    best = np.sort(value)[-3:].mean()
    return np.asarray(value < COLLAPSED * best)


def near_peak(means: Array) -> Array:
    """Which of the cells (n,), in the order of lambda, bend the curve.

    A cell does that is within ``BEND`` of the best one, by itself or by the median of it and its
    neighbours, so that noise alone puts none out. There are always ``LEAST``, as far as there are
    that many cells.
    """
    smoothed = means.copy()
    for i in range(1, len(means) - 1):
        smoothed[i] = np.median(means[i - 1 : i + 2])
    near = np.maximum(means, smoothed) >= smoothed.max() - BEND
    if near.sum() < LEAST:
        near[np.argsort(-smoothed, kind="stable")[:LEAST]] = True
    return np.asarray(near)


def cell_means(cell: Array, value: Array, seed: Array, which: Array | None = None) -> Array:
    """(cells,), the mean of each cell less the effects of its seeds, by least squares on some of
    the trainings.

    In a complete table these are the plain means. A cell without any of them gets NaN.
    """
    which = np.ones(len(cell), dtype=bool) if which is None else which
    count = cell.max() + 1
    seeds, group = np.unique(seed[which], return_inverse=True)
    trained = np.bincount(cell[which], minlength=count)
    # One seed has no effect to be told from the cells. Least squares over thousands of cells,
    # one for each trial of a search, would take minutes to say so.
    if len(seeds) == 1:
        sums = np.bincount(cell[which], value[which], minlength=count)
        return np.asarray(np.where(trained > 0, sums / np.maximum(trained, 1), np.nan))
    rows = np.arange(which.sum())
    design = np.zeros((len(rows), count + len(seeds)))
    design[rows, cell[which]] = 1
    design[rows, count + group] = 1
    # The smallest solution of several: effects of seeds are told from the cells up to a constant.
    solution = np.linalg.lstsq(design, value[which], rcond=None)[0]
    means = solution[:count] + solution[count:].mean()
    return np.asarray(np.where(trained > 0, means, np.nan))


@dataclass(frozen=True)
class Peaks:
    """One family of curves through the cells of one width.

    Attributes:
        u: (1 + k,), log lambda of the peak of each column of values.
        heights: (GRID,), the first column's curve on ``Cells.grid``.
        df: degrees of freedom of the residuals.
    """

    u: Array
    heights: Array
    df: int


Family = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
"""``(u, values, counts, grid) -> (peaks (k,), heights (grid, k))``."""


def cubic(u: Array, values: Array, counts: Array, grid: Array) -> tuple[Array, Array]:
    """The highest point of each column's cubic between the first and the last place of ``grid``.

    Args:
        u: (n,), log lambda of the cells.
        values: (n, k), means of the cells.
        counts: (n,), trainings in each.
        grid: (g,), places.

    Returns:
        Peaks (k,) and heights (g, k).
    """
    centre = u.mean()
    weight = np.sqrt(counts)[:, None]
    powers = np.vander(u - centre, 4)
    coefficients = np.linalg.lstsq(powers * weight, values * weight, rcond=None)[0]
    heights = np.vander(grid - centre, 4) @ coefficients
    return refined(grid, heights), heights


def asymmetric(u: Array, values: Array, counts: Array, grid: Array) -> tuple[Array, Array]:
    """The peak of each column's best parabola whose curvature differs left and right of it.

    Neither curvature is positive; the peak is one of the places of ``grid``, refined. Arguments and
    result are those of ``cubic``.
    """
    distance = u - grid[:, None]
    # (grid, 2, n): squared distances to the left and to the right, less their means.
    sides = np.stack([np.minimum(distance, 0) ** 2, np.maximum(distance, 0) ** 2], axis=1)
    shares = counts / counts.sum()
    means = shares @ values
    centred = sides - (sides @ shares)[:, :, None]
    explained, curvatures = concave_fits(centred, values - means, counts)
    best = explained.argmax(axis=0)
    columns = np.arange(values.shape[1])
    left, right = curvatures[best, :, columns].T
    peak = grid[best]
    heights = parabolas(grid, peak, left, right)
    heights += means - shares @ parabolas(u, peak, left, right)
    return refined(grid, explained), heights


def concave_fits(sides: Array, values: Array, counts: Array) -> tuple[Array, Array]:
    """Weighted least squares of each column of ``values`` (n, k) on each pair of ``sides``
    (g, 2, n), neither coefficient above 0.

    Returns what each pair explains of the sum of squares (g, k), and its coefficients (g, 2, k).
    """
    weighted = sides * counts
    squares = weighted @ np.swapaxes(sides, 1, 2)
    products = weighted @ values
    # One side alone: a place at the end of the cells has no other.
    squared = np.einsum("gii->gi", squares)[:, :, None]
    single = np.minimum(
        np.divide(products, squared, out=np.zeros_like(products), where=squared > 1e-12), 0
    )
    gains = single * products
    gain = gains.max(axis=1)
    coefficients = np.where(gains == gain[:, None], single, 0.0)
    determinant = squared[:, 0] * squared[:, 1] - squares[:, 0, 1, None] ** 2
    tell_apart = np.greater(determinant, 1e-9 * squared[:, 0] * squared[:, 1])
    sure = np.nonzero(tell_apart)[0]
    both = np.linalg.solve(squares[sure], products[sure])
    allowed = np.all(both <= 0, axis=1, keepdims=True)
    gain[sure] = np.where(allowed[:, 0], (both * products[sure]).sum(axis=1), gain[sure])
    coefficients[sure] = np.where(allowed, both, coefficients[sure])
    return gain, coefficients


def parabolas(u: Array, peak: Array, left: Array, right: Array) -> Array:
    """(n, k), of curvatures (k,) left and right of peaks (k,), 0 at the peak."""
    distance = u[:, None] - peak
    return np.asarray(np.where(distance < 0, left, right) * distance**2)


def refined(grid: Array, scores: Array) -> Array:
    """(k,), where each column of ``scores`` (g, k) is highest, between the places by a parabola
    through three."""
    best = scores.argmax(axis=0)
    inner = (best > 0) & (best < len(grid) - 1)
    middle = np.clip(best, 1, len(grid) - 2)
    columns = np.arange(scores.shape[1])
    before, at, after = (scores[middle + step, columns] for step in (-1, 0, 1))
    bend = before - 2 * at + after
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(inner & (bend < 0), (before - after) / (2 * bend), 0.0)
    step = grid[1] - grid[0]
    return np.asarray(grid[best] + step * np.clip(shift, -0.5, 0.5))


def peaks_of(cells: Cells, family: Family, resample: bool, random_seed: int) -> Peaks:
    """A family's peaks: of all seeds, and of each column without one.

    With ``resample`` instead of those columns ``RESAMPLES`` are made by the wild bootstrap over
    cells: each residual, divided by what the fit took of it, keeps or changes its sign (Liu 1988,
    Ann. Stat. 16). Lambdas stay where they are, for a curve through few of them lives on each.
    """
    grid = cells.grid
    df = len(cells.u) - 4
    values = cells.values
    peaks, heights = family(cells.u, values, cells.counts, grid)
    if resample:
        fitted = np.interp(cells.u, grid, heights[:, 0])
        residuals = (values[:, 0] - fitted) / np.sqrt(np.maximum(1 - leverage(cells), 0.1))
        random = np.random.RandomState(random_seed)
        signs = random.choice([-1.0, 1.0], (len(fitted), RESAMPLES))
        made = fitted[:, None] + residuals[:, None] * signs
        resampled, _ = family(cells.u, made, cells.counts, grid)
        peaks = np.append(peaks[:1], resampled)
    return Peaks(peaks, heights[:, 0], df)


def leverage(cells: Cells) -> Array:
    """(n,), of a cubic: the share of each residual that the fit takes."""
    weight = np.sqrt(cells.counts)[:, None]
    powers = np.vander(cells.u - cells.u.mean(), 4) * weight
    basis, _ = np.linalg.qr(powers)
    return np.asarray((basis**2).sum(axis=1))
