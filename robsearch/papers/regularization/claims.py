"""The effects that decide R1 to R4 on what adversarial training regularises (arXiv 2011.07478).

Each compares the nets trained at the largest eps with those trained at eps 0, seed by seed. Curves
between them need not be monotone, so no line is drawn through them; ``against_none`` shows each
eps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.claims.seeds import (
    Columns,
    Numbers,
    complete_arm_values,
    contrast,
    require_positive,
)
from robsearch.claims.statistics import Effect, estimate
from robsearch.drawing.formatting import names_of

STRENGTHS = "eps"
NATURAL = "test/natural_accuracy"
ROBUST = "test/robust_accuracy"
GAP = "gap/error"
CONFIDENCE = "test/confidence"
MEDIAN = "test/margin/logit/q50"
LOW = "test/margin/logit/q05"
HIGH = "test/margin/logit/q95"
CHANGE = "features/change"
LESS = 0.05
"""R1: falls below 5 % of the value at eps 0, at the largest eps, do not matter."""
NARROWER = 0.01
"""R2: the same, of the deviation of singular values in the median layer: 1 %."""
SMALLER = float(np.log(1.05))
"""R3: feature change smaller by 5 %, or layers 5 % nearer to each other."""
POINTS = 1.0
"""R4: points of natural accuracy."""
GAP_POINTS = 0.5
"""R4: points of the error gap."""
SHARE = "of the value at eps 0, at the largest eps"


def concentrate(evidence: Evidence, eps: Sequence[float]) -> Iterator[Effect]:
    """R1: falls as shares of the value at eps 0: of the median margin, of its 5 to 95 % spread, of
    confidence."""
    values = _values(evidence.of(STRENGTHS).trials, eps, [MEDIAN, LOW, HIGH, CONFIDENCE])
    median, low, high, confidence = np.moveaxis(values, 2, 0)
    quantities = {
        "the median logit margin": median,
        "the spread of logit margins": high - low,
        "confidence": confidence,
    }
    for name, values in quantities.items():
        base = require_positive(values[:, 0], f"{name} at eps 0")
        falls = _falls(eps, values) / base
        yield Effect(f"fall of {name}", SHARE, tuple(falls), LESS)


def narrow(
    evidence: Evidence,
    eps: Sequence[float],
    columns: Mapping[str, Sequence[str]],
) -> Iterator[Effect]:
    """R2: the fall in the median layer, as a share of its value at eps 0: above 0 where it shrinks
    in most layers."""
    for name, layers in columns.items():
        values = _values(evidence.of(STRENGTHS).trials, eps, layers)
        what = f"the standard deviation of {name} in"
        base = require_positive(values[:, 0], f"{what} a layer at eps 0")
        falls = _falls(eps, values) / base
        in_median = tuple(np.median(falls, axis=1))
        yield Effect(f"fall of {what} the median layer", SHARE, in_median, NARROWER)


def smooth(
    evidence: Evidence,
    eps: Sequence[float],
    columns: Sequence[str],
) -> Iterator[Effect]:
    """R3: falls of the mean over layers of log relative change, and of its standard deviation over
    layers."""
    changes = _values(evidence.of(STRENGTHS).trials, eps, columns)
    logs = np.log(require_positive(changes, "the feature change of a layer"))
    quantities = {
        "the feature change, mean over layers": logs.mean(axis=2),
        "its deviation over layers": logs.std(axis=2),
    }
    for name, values in quantities.items():
        falls = tuple(_falls(eps, values))
        yield Effect(f"fall of {name}", "log, at the largest eps", falls, SMALLER)


def trade(evidence: Evidence, eps: Sequence[float]) -> Iterator[Effect]:
    """R4: falls of natural accuracy and of the error on test less that on training images."""
    values = _values(evidence.of(STRENGTHS).trials, eps, [NATURAL, GAP])
    natural, gap = 100 * _falls(eps, values).T
    unit = "points, at the largest eps"
    yield Effect("fall of natural accuracy", unit, tuple(natural), POINTS)
    yield Effect("fall of the error gap", unit, tuple(gap), GAP_POINTS)


def by_layer(
    trials: pd.DataFrame,
    eps: Sequence[float],
    layers: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """One row per layer and quantity: seeds' mean at eps 0, and the mean change at the largest eps
    with its deviation."""
    rows = []
    for heading, columns in layers.items():
        values = _values(trials, eps, columns)
        if len(values) < 2:
            continue
        first = values[:, 0].mean(axis=0)
        changes = -_falls(eps, values)
        for column, start, change in zip(columns, first, changes.T, strict=True):
            layer = column.split("/")[-2]
            rows.append(
                {
                    "layer": f"{heading}, {layer}",
                    "at eps 0": f"{start:.4g}",
                    "change": f"{change.mean():+.3g} ± {change.std(ddof=1):.2g}",
                }
            )
    return pd.DataFrame(rows)


def against_none(trials: pd.DataFrame, eps: Sequence[float], columns: Columns) -> pd.DataFrame:
    """One row per eps above 0: what each number is there less what it is at eps 0, paired by seed,
    with 95 % intervals."""
    names = names_of(eps)
    rows = []
    for strength in sorted(eps)[1:]:
        cells: dict[str, object] = {"eps": names[strength]}
        for heading, (metric, factor) in columns.items():
            if metric in trials:
                change = contrast(trials, metric, names[strength], names[min(eps)])
                cells[heading] = estimate([factor * each for each in change]).text(".3g")
        rows.append(cells)
    return pd.DataFrame(rows)


def _values(
    trials: pd.DataFrame,
    eps: Sequence[float],
    metrics: Sequence[str],
) -> Numbers:
    """(seeds, eps, metrics)."""
    return complete_arm_values(trials, list(names_of(eps).values()), metrics)


def _falls(eps: Sequence[float], values: Numbers) -> Numbers:
    """By how much each seed's values at the largest eps lie below those at eps 0."""
    return np.asarray(values[:, np.argmin(eps)] - values[:, np.argmax(eps)])
