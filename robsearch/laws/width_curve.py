"""What the trials of one width say of lambda there: lambda* with its interval, or why they do not
place it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robsearch.errors import counted
from robsearch.laws.curves import LEAST, Cells, Peaks
from robsearch.laws.points import MATTERS, Array, quantile

MOST_MORE = 10
"""Times the trials there are: more than these nobody is advised to run."""


@dataclass(frozen=True)
class WidthCurve:
    """What the trials of one width say of lambda there.

    Attributes:
        searched: lowest and highest lambda tried.
        peaks: of each family, the cubic first; empty where the trials are too few.
        seeds: that the jackknife left out one by one; 0 where the bootstrap was used.
        confidence: of the interval.
        shared_peak: log lambda of the highest mean that all trials of all widths together give
            this one (``laws.posterior``).
    """

    width: float
    searched: tuple[float, float]
    cells: Cells
    peaks: tuple[Peaks, ...]
    seeds: int
    confidence: float
    shared_peak: float

    @property
    def log_lam(self) -> float:
        """Log lambda*: what all widths together say of this one. It errs half as much as the peaks
        of its own curves, which give its interval; where these lie at the end of the lambdas
        searched, so does it."""
        if self.side:
            low, high = self.cells.edges
            return low if self.side == "lowest" else high
        return self.shared_peak

    @property
    def t(self) -> float:
        """Student's t of the interval."""
        df = self.seeds - 1 if self.seeds else min(peaks.df for peaks in self.peaks)
        return quantile(df, self.confidence)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The interval of log lambda* that holds both families' intervals and lambda*, not cut at
        the range searched."""
        half_widths = [self.t * spread(peaks.u, self.seeds) for peaks in self.peaks]
        # Lambda* is known no better than the peak of the better family.
        least = min(half_widths)
        lows, highs = [self.log_lam - least], [self.log_lam + least]
        for peaks, half in zip(self.peaks, half_widths, strict=True):
            lows.append(peaks.u[0] - half)
            highs.append(peaks.u[0] + half)
        return float(min(lows)), float(max(highs))

    @property
    def variance(self) -> float:
        """Of log lambda*: the geometric mean of the families'."""
        variances = [spread(peaks.u, self.seeds) ** 2 for peaks in self.peaks]
        return math.sqrt(math.prod(variances))

    @property
    def side(self) -> str:
        """``lowest`` or ``highest`` where all trials together, or both families, peak at that
        lambda searched, else empty."""
        firsts = np.array([peaks.u[0] for peaks in self.peaks])
        for name, edge in zip(("lowest", "highest"), self.cells.edges, strict=True):
            if abs(self.shared_peak - edge) < 1e-9 or np.all(np.abs(firsts - edge) < 1e-9):
                return name
        return ""

    @cached_property
    def heights(self) -> Array:
        """Fitted robust accuracy on ``cells.grid``, midway between the families."""
        return np.asarray(np.mean([peaks.heights for peaks in self.peaks], axis=0))

    @cached_property
    def problem(self) -> str | None:
        """Why the trials of this width do not place its lambda*, or None."""
        if not self.peaks:
            lams = counted(len(self.cells.u), "lambda")
            lacking = f"too few trials: at least {LEAST - len(self.cells.u)} more"
            return f"{lacking} ({lams} to fit, and a curve takes {LEAST})"
        low, high = self.cells.edges
        reach = (high - low) / 2
        fall = np.ptp(self.heights)
        if fall < MATTERS and self.cells.u[-1] - self.cells.u[0] > reach:
            return "robust accuracy is too flat in lambda to place a peak"
        if self.ends[0] > low or self.ends[1] < high or (self.side and fall >= 2 * MATTERS):
            return None
        trials = int(self.cells.counts.sum())
        # The interval shrinks as 1 / sqrt(n); one of half the range would place the peak.
        margin = (self.ends[1] - self.ends[0]) / 2
        more = math.ceil(trials * ((margin / (reach / 2)) ** 2 - 1))
        if more > MOST_MORE * trials:
            return "robust accuracy is too flat in lambda, for its noise, to place a peak"
        return f"too few trials: about {more} more, spread like these, would place a peak"


def spread(resampled: Array, seeds: int) -> float:
    """The standard error of the first of ``resampled`` (1 + k,) from the others: jackknife over
    ``seeds``, or bootstrap."""
    others = resampled[1:]
    if seeds:
        return math.sqrt((seeds - 1) * float(others.var()))
    return float(others.std())
