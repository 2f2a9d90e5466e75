"""Whether curves of one shape fit all widths: nested F tests.

A parabola in log lambda with one curvature, whose peak moves with log width, is compared with
curves of each width's own: a cubic, and a parabola with a curvature of its own on either side of
its peak. Where one shape does not fit, a law that takes it for granted says what is not so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import fdtrc

from robsearch.laws.curves import Cells, asymmetric
from robsearch.laws.points import Array, TrialColumns, within_groups

LEVEL = 0.05
"""Below it, one shape does not fit."""


class ShapeTest(NamedTuple):
    """How well one shape fits the curves of all widths.

    Attributes:
        p: of the better one of two nested F tests, times two (Bonferroni), at most 1.
        family: what fits better than one shape, if that is below ``LEVEL``.
        df: degrees of freedom of the F tests: parameters that each width's own curves have more,
            and those of the residuals.
    """

    p: float
    family: str
    df: tuple[int, int]

    @property
    def one_shape_fits(self) -> bool:
        """Whether the data do not speak against it."""
        return self.p >= LEVEL

    def sentence(self) -> str:
        """In words, for a terminal."""
        p = f"p = {self.p:.2g}" if self.p >= 1e-4 else "p < 0.0001"
        if self.one_shape_fits:
            return f"Curves of one shape fit all widths ({p})"
        return f"Curves of one shape do not fit all widths ({p}), so each width has its own"


def shape_test(trials: TrialColumns, cells: Sequence[Cells]) -> ShapeTest | None:
    """The test on the trainings of some widths, with their cells in the order of
    ``trials.widths``.

    None where too few trainings are left to judge the noise by.
    """
    parameters = 3 * len(cells)
    common = 3 if len(cells) > 1 else 2
    groups = len(np.unique(trials.group))
    df = parameters - common, len(trials.u) - groups - parameters
    if df[1] < 1:
        return None
    one_shape = np.column_stack([trials.u**2, trials.u, trials.u * trials.v][:common])
    by_family = {"cubic": cubic_columns, "asymmetric parabola": asymmetric_columns}
    nested = misfit(trials, one_shape)
    p_values = {}
    for family, columns_of_width in by_family.items():
        columns = []
        for width, of_width in zip(trials.widths, cells, strict=True):
            here = (trials.width == width)[:, None]
            u = trials.u + trials.centre[0]
            columns.append(np.where(here, columns_of_width(u, of_width), 0.0))
        full = misfit(trials, np.column_stack(columns))
        # The asymmetric parabolas do not hold the common parabola where its peak is outside.
        gained = max(nested - full, 0.0) / df[0]
        noise = full / df[1]
        # Rates are not known to 1e-12: of noiseless curves nothing is left to compare.
        exact = full <= 1e-20
        f = 0.0 if nested <= 1e-20 else (np.inf if exact else gained / noise)
        p_values[family] = float(fdtrc(df[0], df[1], f)) if np.isfinite(f) else 0.0
    family = min(p_values, key=lambda name: p_values[name])
    return ShapeTest(min(1.0, 2 * p_values[family]), family, df)


def cubic_columns(u: Array, cells: Cells) -> Array:
    """(n, 3), of a cubic about the middle of a width's cells."""
    distance = u - cells.u.mean()
    return np.column_stack([distance, distance**2, distance**3])


def asymmetric_columns(u: Array, cells: Cells) -> Array:
    """(n, 2), left and right of the peak; where it lies is the third parameter."""
    (peak,), _ = asymmetric(cells.u, cells.values[:, :1], cells.counts, cells.grid)
    distance = u - peak
    return np.column_stack([np.minimum(distance, 0) ** 2, np.maximum(distance, 0) ** 2])


def misfit(trials: TrialColumns, columns: Array) -> float:
    """What least squares leave of the values, with an effect for each (width, seed)."""
    within = within_groups(columns, trials.group)
    value = within_groups(trials.value, trials.group)
    coefficients = np.linalg.lstsq(within, value, rcond=None)[0]
    return float(((value - within @ coefficients) ** 2).sum())
