"""What seeds say of an effect: estimates, p-values, Holm's correction, and the number of seeds that would decide."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
"""Of every interval, two-sided."""
ALPHA = (1 - LEVEL) / 2
"""Of every test, one-sided: a claim is supported where the lower end of the interval lies above 0."""
POWER = 0.8
LEAST_SEEDS = 3
MOST_SEEDS = 1000


class Effect(NamedTuple):
    """What one part of a claim says is positive, measured once by each seed.

    Attributes:
        what: the quantity, in words, so signed that the claim says it is above 0.
        unit: such as ``points``.
        per_seed: one number per seed; seeds that lack a training it needs are left out.
        delta: the smallest effect that matters, at least 0, fixed before the data was seen. A part whose interval
            lies wholly below it is refuted.
        exact: the estimate, where it is not Student's.
    """

    what: str
    unit: str
    per_seed: tuple[float, ...]
    delta: float
    exact: Estimate | None = None


class Estimate(NamedTuple):
    """Mean over seeds, with Student's t interval at 95 %, and the one-sided p-value of its being at most 0."""

    mean: float
    low: float
    high: float
    p: float
    sd: float
    n: int


def estimate(per_seed: Sequence[float]) -> Estimate:
    """What the seeds with a finite number say together; below ``LEAST_SEEDS`` the interval is everything, p is 1."""
    values = np.asarray(per_seed, dtype=float)
    values = values[np.isfinite(values)]
    n = len(values)
    mean, sd = (float(values.mean()) if n else math.nan), (float(values.std(ddof=1)) if n > 1 else math.nan)
    if n < LEAST_SEEDS:
        return Estimate(mean, -math.inf, math.inf, 1.0, sd, n)
    error = max(sd / math.sqrt(n), 1e-12)  # seeds that agree to the last bit must not divide by 0
    reach = float(stats.t.ppf(1 - ALPHA, n - 1)) * error
    return Estimate(mean, mean - reach, mean + reach, float(stats.t.sf(mean / error, n - 1)), sd, n)


def share_above(agreed: Sequence[float], least: float) -> Estimate:
    """Of the share of ones, less ``least``: the interval of Clopper and Pearson (1934), and the exact p-value."""
    n, k = len(agreed), sum(map(bool, agreed))
    found = stats.binomtest(k, n, least, alternative="greater")
    low, high = stats.binomtest(k, n).proportion_ci(LEVEL, method="exact")
    share = k / n
    deviation = math.sqrt(share * (1 - share))
    return Estimate(share - least, float(low) - least, float(high) - least, float(found.pvalue), deviation, n)


def interval(per_seed: Sequence[float], digits: int = 2) -> str:
    """``1.20 [0.80, 1.60]``; without the interval where seeds are too few."""
    found = estimate(per_seed)
    if not math.isfinite(found.low):
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (Holm 1979): the least level at which each would still be rejected."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return adjusted


def seeds_needed(found: Estimate, delta: float, alpha: float = ALPHA) -> int | None:
    """The seeds at which an effect like this one would be decided, with a power of 80 %.

    The mean and the spread are taken to be what was found. An effect above 0 can be told from 0 at ``alpha``, one below
    ``delta`` from ``delta`` by its 95 % interval; the cheaper of the two counts.

    Returns:
        The number, or None where nothing is known of the spread, or above ``MOST_SEEDS``.
    """
    if not math.isfinite(found.mean) or not math.isfinite(found.sd):
        return None
    gaps = [(gap, level) for gap, level in ((found.mean, alpha), (delta - found.mean, ALPHA)) if gap > 0]
    counts = [n for gap, level in gaps if (n := _count(gap, found.sd, level)) is not None]
    return min(counts, default=None)


def _count(gap: float, sd: float, alpha: float) -> int | None:
    def enough(n: int) -> bool:
        shift = gap * math.sqrt(n) / max(sd, 1e-12)
        power = stats.nct.sf(stats.t.ppf(1 - alpha, n - 1), n - 1, min(shift, 1e3))
        return not power < POWER  # NaN, where the shift is too large for the distribution's series

    counts = range(LEAST_SEEDS, MOST_SEEDS + 1)
    place = bisect_left(counts, True, key=enough)
    return counts[place] if place < len(counts) else None


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Of the least-squares line; NaN where all x are the same."""
    u = np.asarray(x, dtype=float)
    u = u - u.mean()
    return float(u @ np.asarray(y, dtype=float) / (u @ u)) if u @ u > 0 else math.nan
