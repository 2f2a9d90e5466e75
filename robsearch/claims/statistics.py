"""What seeds say of an effect: estimates, p-values, Holm's correction, and the number of seeds that
would decide."""

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
"""Of every test, one-sided: a claim is supported where the lower end of the interval lies above
0."""
POWER = 0.8
LEAST_SEEDS = 3
MOST_SEEDS = 1000
LEAST_ERROR = 1e-12
"""Seeds that agree to the last bit must not divide by 0."""


class Effect(NamedTuple):
    """What one part of a claim says is positive, measured once by each seed.

    Attributes:
        what: the quantity, in words, so signed that the claim says it is above 0.
        unit: such as ``points``.
        per_seed: one number per seed; seeds that lack a training it needs are left out.
        delta: the smallest effect that matters, at least 0, fixed before the data was seen. A part
            whose interval lies wholly between it and its negative is negligible.
        exact: the estimate, where it is not Student's over ``per_seed``.
        expected: what a plan must be able to see, where that is not ``delta``: of what is held
            against a border that was added to it, its distance from that border.
    """

    what: str
    unit: str
    per_seed: tuple[float, ...]
    delta: float
    exact: Estimate | None = None
    expected: float | None = None


class Estimate(NamedTuple):
    """Mean over seeds, with Student's t interval at 95 %.

    ``p`` is the one-sided p-value of its being at most 0, ``p_below`` that of its being at least 0.
    """

    mean: float
    low: float
    high: float
    p: float
    sd: float
    n: int
    p_below: float = 1.0

    def text(self, digits: str = ".2f") -> str:
        """``1.20 [0.80, 1.60]``; the mean alone where seeds are too few for an interval."""
        # What is left of a difference that is none is no digit that a person wants to read.
        values = (self.mean, self.low, self.high)
        mean, low, high = (f"{0.0 if abs(each) < 1e-9 else each:z{digits}}" for each in values)
        return f"{mean} [{low}, {high}]" if math.isfinite(self.low) else mean


def estimate(per_seed: ArrayLike) -> Estimate:
    """What the seeds with a finite number say together; below ``LEAST_SEEDS`` the interval is
    everything, p is 1."""
    values = np.asarray(per_seed, dtype=float)
    values = values[np.isfinite(values)]
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    sd = float(values.std(ddof=1)) if n > 1 else math.nan
    if n < LEAST_SEEDS:
        return Estimate(mean, -math.inf, math.inf, 1.0, sd, n)
    error = max(sd / math.sqrt(n), LEAST_ERROR)
    reach = float(stats.t.ppf(1 - ALPHA, n - 1)) * error
    p = float(stats.t.sf(mean / error, n - 1))
    p_below = float(stats.t.cdf(mean / error, n - 1))
    return Estimate(mean, mean - reach, mean + reach, p, sd, n, p_below)


def crossed_estimate(values: ArrayLike) -> Estimate:
    """The mean of numbers of which each is one seed's on one image, for other seeds and other
    images.

    Seeds and images are crossed: all seeds saw the same images. The variance of the mean is that
    over seeds plus that over images, less what both count twice, but not below that over seeds; its
    degrees of freedom are Satterthwaite's (1946). Below ``LEAST_SEEDS`` the interval is everything.

    Args:
        values: (seeds, images), finite.
    """
    table = np.asarray(values, dtype=float)
    seeds, images = table.shape
    by_seed = table.mean(axis=1)
    of_seeds = estimate(by_seed)
    if seeds < LEAST_SEEDS or images < 2:
        return of_seeds
    by_image = table.mean(axis=0)
    rest = table - by_seed[:, None] - by_image + table.mean()
    rest_df = (seeds - 1) * (images - 1)
    variances = np.array(
        [
            by_seed.var(ddof=1) / seeds,
            by_image.var(ddof=1) / images,
            (rest**2).sum() / rest_df / (seeds * images),
        ]
    )
    over_seeds, over_images, twice = variances
    variance = over_seeds + over_images - twice
    if variance <= over_seeds:
        return of_seeds
    df = variance**2 / float((variances**2 / [seeds - 1, images - 1, rest_df]).sum())
    error = max(math.sqrt(variance), LEAST_ERROR)
    reach = float(stats.t.ppf(1 - ALPHA, df)) * error
    mean = of_seeds.mean
    return Estimate(
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        p=float(stats.t.sf(mean / error, df)),
        sd=error * math.sqrt(seeds),
        n=seeds,
        p_below=float(stats.t.cdf(mean / error, df)),
    )


def share_above(agreed: Sequence[float], least: float) -> Estimate:
    """Of the share of ones, less ``least``: the interval of Clopper and Pearson (1934), and the
    exact p-value."""
    n = len(agreed)
    ones = sum(map(bool, agreed))
    share = ones / n
    test = stats.binomtest(ones, n, least, alternative="greater")
    test_below = stats.binomtest(ones, n, least, alternative="less")
    low, high = stats.binomtest(ones, n).proportion_ci(LEVEL, method="exact")
    return Estimate(
        mean=share - least,
        low=float(low) - least,
        high=float(high) - least,
        p=float(test.pvalue),
        sd=math.sqrt(share * (1 - share)),
        n=n,
        p_below=float(test_below.pvalue),
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (Holm 1979): the least level at which each would still be
    rejected."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    remaining = len(p_values)
    for name, p in sorted(p_values.items(), key=lambda item: item[1]):
        # Never below a smaller p-value's: the first that is not rejected ends the rejections.
        largest = max(largest, min(1.0, remaining * p))
        adjusted[name] = largest
        remaining -= 1
    return adjusted


def seeds_needed(
    seen: Estimate,
    delta: float,
    alpha: float = ALPHA,
) -> int | None:
    """The seeds at which an effect like this one would be decided, with a power of 80 %.

    The mean and the spread are taken to be what was seen. An effect on either side of 0 can be told
    from 0 at ``alpha``, one nearer to 0 than ``delta`` from ``delta`` by its 95 % interval; the
    cheaper of the two counts.

    Returns:
        The number, or None where nothing is known of the spread, or above ``MOST_SEEDS``.
    """
    from_zero = seeds_for(abs(seen.mean), seen.sd, alpha)
    from_delta = seeds_for(delta - abs(seen.mean), seen.sd, ALPHA)
    counts = [count for count in (from_zero, from_delta) if count is not None]
    return min(counts, default=None)


def seeds_range(seen: Estimate, delta: float, alpha: float = ALPHA) -> tuple[int, int | None]:
    """The same at either end of the 80 % interval of the spread (chi-square), which few seeds know
    badly; None above ``MOST_SEEDS``."""
    if seen.n < 2 or not math.isfinite(seen.sd):
        return LEAST_SEEDS, None
    df = seen.n - 1
    ends = [seen.sd * math.sqrt(df / stats.chi2.ppf(share, df)) for share in (0.9, 0.1)]
    least, most = (seeds_needed(seen._replace(sd=float(sd)), delta, alpha) for sd in ends)
    return least or LEAST_SEEDS, most


def seeds_for(effect: float, sd: float, alpha: float = ALPHA) -> int | None:
    """The fewest seeds whose ``power`` is 80 %; None for no effect, and above ``MOST_SEEDS``."""
    if not (effect > 0 and math.isfinite(sd)):
        return None

    # More seeds never have less power, so the first that suffice are found by bisection.
    counts = range(LEAST_SEEDS, MOST_SEEDS + 1)
    place = bisect_left(counts, True, key=lambda n: power(effect, sd, n, alpha) >= POWER)
    return counts[place] if place < len(counts) else None


def power(effect: float, sd: float, n: int, alpha: float = ALPHA) -> float:
    """The probability that ``n`` seeds tell an effect above 0 from 0, by Student's one-sided test
    at ``alpha``.

    Args:
        effect: the true mean.
        sd: over seeds.
        n: seeds, at least 2.
        alpha: the level.
    """
    shift = min(effect * math.sqrt(n) / max(sd, LEAST_ERROR), 1e3)
    critical = stats.t.ppf(1 - alpha, n - 1)
    value = float(stats.nct.sf(critical, n - 1, shift))
    # The distribution's series gives no number where the shift is too large for it.
    return 1.0 if math.isnan(value) else value
