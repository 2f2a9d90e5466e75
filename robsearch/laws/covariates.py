"""What else was searched beside lambda: its effects are taken out before curves are fitted.

A learning rate that was searched with lambda moves robust accuracy as well. Where it happens to go
with lambda it would bend the curve, and everywhere else it is noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from robsearch.laws.curves import BEND, collapsed
from robsearch.laws.points import Array, Point

FAR = 3 * BEND
"""Trials that lie further than this below the best of their width keep their values."""
SPARE = 3
"""Degrees of freedom that must be left."""
DECADE = 10
"""A parameter above 0 that was tried over this factor or more counts by its logarithm."""


def adjusted(
    points: Sequence[Point],
    covariates: Mapping[str, Sequence[float]],
) -> list[Point] | str:
    """The trials as if all had the covariates of the best one; or why that cannot be said.

    Least squares of the values on a cubic in log lambda at each width and, for all widths together,
    a parabola in each covariate. Covariates that do not vary are no covariates.

    Args:
        points: the trials.
        covariates: by name the value of each trial.
    """
    usable = _usable(points)
    columns = []
    for values in covariates.values():
        columns += _parabola(np.asarray(values, dtype=float)[usable])
    if not columns:
        return list(points)
    effects = np.column_stack(columns)
    kept = list(itertools.compress(points, usable))
    curves = _curves(kept)
    needed = np.linalg.matrix_rank(curves) + effects.shape[1] + SPARE
    names = ", ".join(covariates)
    reason = f"the effects of {names}, which were searched too, cannot be told from lambda's"
    if len(kept) < needed:
        lacking = f"too few trials: at least {needed - len(kept)} more"
        return f"{lacking} ({reason})"
    design = np.column_stack([curves, effects])
    if np.linalg.matrix_rank(design) < np.linalg.matrix_rank(curves) + effects.shape[1]:
        return f"{reason}: they went together"
    value = np.array([point.value for point in kept])
    coefficients = np.linalg.lstsq(design, value, rcond=None)[0][curves.shape[1] :]
    moved = effects @ coefficients
    moved -= moved[value.argmax()]
    rates = np.array([point.value for point in points], dtype=float)
    rates[usable] = np.clip(value - moved, 0, 1)
    return [point._replace(value=rate) for point, rate in zip(points, rates.tolist(), strict=True)]


def _usable(points: Sequence[Point]) -> Array:
    """Which trials the effects are taken from: a parabola in a learning rate does not follow it
    over the cliff where trainings fail."""
    width = np.array([point.width for point in points], dtype=float)
    value = np.array([point.value for point in points], dtype=float)
    usable = np.ones(len(points), dtype=bool)
    for each in np.unique(width):
        here = width == each
        best = np.sort(value[here])[-3:].mean()
        usable[here] = ~collapsed(value[here]) & (value[here] >= best - FAR)
    return usable


def _parabola(values: Array) -> list[Array]:
    """Two columns, or one where only two values were tried, or none where all are alike."""
    tried = len(np.unique(values))
    if tried < 2:
        return []
    if values.min() > 0 and values.max() >= DECADE * values.min():
        values = np.log(values)
    scaled = (values - values.mean()) / values.std()
    return [scaled, scaled**2] if tried > 2 else [scaled]


def _curves(points: Sequence[Point]) -> Array:
    """A cubic in log lambda for each width, of lower degree where fewer lambdas were tried."""
    width = np.array([point.width for point in points], dtype=float)
    u = np.log([point.lam for point in points])
    columns = []
    for each in np.unique(width):
        here = width == each
        degree = min(3, len(np.unique(u[here])) - 1)
        centred = u - u[here].mean()
        columns += [np.where(here, centred**power, 0.0) for power in range(degree + 1)]
    return np.column_stack(columns)
