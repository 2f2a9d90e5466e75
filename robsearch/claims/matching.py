"""Comparing two sweeps at matched natural accuracy: the gain between their curves, and what seeds
say of it."""

from __future__ import annotations

import numpy as np

from robsearch.claims.claim import NotDecidableError
from robsearch.claims.seeds import Numbers
from robsearch.claims.statistics import estimate

NARROWEST = 0.5
"""Points of natural accuracy that two curves must have in common."""
GRID = 41
"""At how many natural accuracies of the common range curves are compared."""
RESAMPLES = 500


def matched_gain(curves: Numbers) -> float:
    """How much higher the first of two curves lies than the second, over the natural accuracies
    both have.

    A curve is the best that is to be had at a natural accuracy or more: straight lines between
    those of its arms that no other beats in both, and level below the last of them.

    Args:
        curves: (2, arms, 2): natural accuracy in percent, and what is compared.

    Raises:
        NotDecidableError: less than ``NARROWEST`` points of natural accuracy in common.
    """
    gain = float(_gains(curves))
    if np.isnan(gain):
        low, high = _common_range(curves)
        raise NotDecidableError(
            f"natural accuracies of the two sweeps have {max(high - low, 0):.2f} points in common, "
            f"and matching them takes {NARROWEST:g}"
        )
    return gain


def _gains(curves: Numbers) -> Numbers:
    """``matched_gain`` of many pairs of curves at once, NaN where they cannot be matched.

    Args:
        curves: (..., 2, arms, 2).

    Returns:
        (...)
    """
    low, high = _common_range(curves)
    common = np.linspace(low, high, GRID, axis=-1)
    first = _attainable(curves[..., 0, :, :], common)
    second = _attainable(curves[..., 1, :, :], common)
    gains = (first - second).mean(axis=-1)
    return np.where(high - low >= NARROWEST, gains, np.nan)


def _common_range(curves: Numbers) -> tuple[Numbers, Numbers]:
    """The lowest and the highest natural accuracy that both curves of each pair have."""
    natural = curves[..., 0]
    low = natural.min(axis=-1).max(axis=-1)
    high = natural.max(axis=-1).min(axis=-1)
    return low, high


def _attainable(curves: Numbers, natural: Numbers) -> Numbers:
    """The best to be had at these natural accuracies or more.

    Args:
        curves: (..., arms, 2).
        natural: (..., points).

    Returns:
        (..., points)
    """
    x, y = _fronts(curves)
    # Each natural accuracy lies between the last arm above it and the next; beyond both ends the
    # curve is level.
    above = (x[..., np.newaxis, :] > natural[..., np.newaxis]).sum(axis=-1)
    right = np.maximum(above - 1, 0)
    left = np.minimum(above, x.shape[-1] - 1)
    x_left = np.take_along_axis(x, left, axis=-1)
    y_left = np.take_along_axis(y, left, axis=-1)
    run = np.take_along_axis(x, right, axis=-1) - x_left
    rise = np.take_along_axis(y, right, axis=-1) - y_left
    slope = np.divide(rise, run, out=np.zeros_like(run), where=run > 0)
    return np.asarray(slope * (natural - x_left) + y_left)


def _fronts(curves: Numbers) -> tuple[Numbers, Numbers]:
    """Both numbers of each arm, from high to low natural accuracy. The place of an arm that
    another beats in both is taken by the last before it that none beats."""
    x, y = np.moveaxis(curves, -1, 0)
    # lexsort takes its first key last: by natural accuracy, and among equals the best first.
    order = np.lexsort((-y, -x))
    x = np.take_along_axis(x, order, axis=-1)
    y = np.take_along_axis(y, order, axis=-1)
    best = np.maximum.accumulate(y, axis=-1)
    on_front = np.ones(y.shape, dtype=bool)
    on_front[..., 1:] = y[..., 1:] > best[..., :-1]
    arms = np.arange(y.shape[-1])
    front = np.maximum.accumulate(np.where(on_front, arms, 0), axis=-1)
    return np.take_along_axis(x, front, axis=-1), np.take_along_axis(y, front, axis=-1)


def pseudo_values(values: Numbers) -> tuple[float, ...]:
    """``n theta - (n - 1) theta_without_one`` of the gain between the curves averaged over seeds
    (Tukey's jackknife).

    Args:
        values: (seeds, 2, arms, 2).

    Raises:
        NotDecidableError: as ``matched_gain``, with all seeds or without one.
    """
    n = len(values)
    if n == 0:
        return ()
    gain = matched_gain(values.mean(axis=0))
    if n == 1:
        return (gain,)
    total = values.sum(axis=0)
    pseudo = []
    for of_seed in values:
        gain_without = matched_gain((total - of_seed) / (n - 1))
        pseudo.append(n * gain - (n - 1) * gain_without)
    return tuple(pseudo)


def widened(
    per_seed: tuple[float, ...],
    interval: tuple[float, float],
) -> tuple[float, ...]:
    """The numbers drawn apart, around the same mean, until their t interval holds another interval;
    never together."""
    student = estimate(per_seed)
    low, high = interval
    outside = max(high - student.mean, student.mean - low)
    reach = student.high - student.mean
    if not outside > reach:
        return per_seed
    stretch = outside / reach
    return tuple(student.mean + (value - student.mean) * stretch for value in per_seed)


def resampled(values: Numbers) -> tuple[float, float]:
    """The 95 % percentile interval of the gain over seeds drawn with replacement; draws without a
    match left out."""
    random = np.random.default_rng(0)  # the same draws at every call
    draws = random.integers(len(values), size=(RESAMPLES, len(values)))
    gains = _gains(values[draws].mean(axis=1))
    matched = gains[~np.isnan(gains)]
    if matched.size == 0:
        return np.nan, np.nan
    low, high = np.quantile(matched, [0.025, 0.975])
    return float(low), float(high)
