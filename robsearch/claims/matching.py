"""Comparing two sweeps at matched natural accuracy: the gain between their curves, and what seeds say of it."""

from __future__ import annotations

import numpy as np

from robsearch.claims.form import NotDecidableError
from robsearch.claims.paired import Numbers
from robsearch.claims.statistics import estimate

NARROWEST = 0.5
"""Points of natural accuracy that two curves must have in common."""
GRID = 41
"""At how many natural accuracies of the common range curves are compared."""
RESAMPLES = 500


def matched_gain(curves: Numbers) -> float:
    """How much higher the first of two curves lies than the second, over the natural accuracies both have.

    A curve is the best that is to be had at a natural accuracy or more: straight lines between those of its arms that
    no other beats in both, and level below the last of them.

    Args:
        curves: (2, arms, 2): natural accuracy in percent, and what is compared.

    Raises:
        NotDecidableError: less than ``NARROWEST`` points of natural accuracy in common.
    """
    low, high = curves[..., 0].min(axis=1).max(), curves[..., 0].max(axis=1).min()
    if not high - low >= NARROWEST:
        told = f"natural accuracies of the two sweeps have {max(high - low, 0):.2f} points in common"
        raise NotDecidableError(f"{told}, and matching them takes {NARROWEST:g}")
    at = np.linspace(low, high, GRID)
    first, second = (_attainable(curve, at) for curve in curves)
    return float((first - second).mean())


def _attainable(curve: Numbers, at: Numbers) -> Numbers:
    falling = curve[np.lexsort((-curve[:, 1], -curve[:, 0]))]
    best = np.maximum.accumulate(falling[:, 1])
    front = falling[np.append(True, falling[1:, 1] > best[:-1])][::-1]
    return np.asarray(np.interp(at, front[:, 0], front[:, 1]))


def pseudo_values(values: Numbers) -> tuple[float, ...]:
    """``n theta - (n - 1) theta_without_one`` of the gain between the curves averaged over seeds (Tukey's jackknife).

    Args:
        values: (seeds, 2, arms, 2).

    Raises:
        NotDecidableError: as ``matched_gain``, with all seeds or without one.
    """
    n = len(values)
    if n < 2:
        return (matched_gain(values.mean(axis=0)),) if n else ()
    whole, total = matched_gain(values.mean(axis=0)), values.sum(axis=0)
    return tuple(n * whole - (n - 1) * matched_gain((total - own) / (n - 1)) for own in values)


def widened(per_seed: tuple[float, ...], interval: tuple[float, float]) -> tuple[float, ...]:
    """The numbers drawn apart, around the same mean, until their t interval holds another interval; never together."""
    found = estimate(per_seed)
    outside = max(interval[1] - found.mean, found.mean - interval[0])
    if not outside > (reach := found.high - found.mean):
        return per_seed
    return tuple(found.mean + (each - found.mean) * outside / reach for each in per_seed)


def resampled(values: Numbers, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the gain over seeds drawn with replacement; draws without a match left out."""
    random, found = np.random.default_rng(seed), []
    for rows in random.integers(len(values), size=(RESAMPLES, len(values))):
        try:
            found.append(matched_gain(values[rows].mean(axis=0)))
        except NotDecidableError:
            continue
    low, high = np.quantile(found, [0.025, 0.975]) if found else (np.nan, np.nan)
    return float(low), float(high)
