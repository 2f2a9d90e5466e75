"""The effects that decide M1 to M3 on minimum and average margin (arXiv 1907.11780)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from robsearch.claims.fisher import Head, agreement
from robsearch.claims.form import Evidence, NotDecidableError
from robsearch.claims.matching import pseudo_values, resampled, widened
from robsearch.claims.paired import Numbers, by_arm, positive, slopes
from robsearch.claims.statistics import Effect, interval, share_above
from robsearch.naming import names_of
from robsearch.penalties import AverageMargin

TRAINING, STRENGTHS = "training", "strengths"
WITHOUT, WITH, CONTROL = "without", "with", "orthogonal only"
MARGIN = "margin/input_first_order"
NATURAL, ROBUST, AVERAGE = "test/natural_accuracy", "test/robust_accuracy", f"test/{MARGIN}/mean"
CHANGE = 0.01
"""M1: changes below 1 % of the first average margin, per doubling of the epochs, do not matter."""
GAIN, LARGER = 1.0, float(np.log(1.05))
"""M2: a point of robust accuracy, 5 % of average margin."""
AGREED = 0.99
"""M3: the share of posteriors above which agreement is to lie."""
POSTERIORS, CLASSES = 500, 4
"""At 99 % all 500 would agree once in 150 times: one disagreement, and M3 is open."""


# -- M1 ---------------------------------------------------------------------------------------------------------


def margins_move(evidence: Evidence, epochs: Sequence[int]) -> list[Effect]:
    """Slopes over log2 epochs, as shares of the seed's average margin at the fewest epochs, which must be above 0."""
    lengths = sorted(epochs)
    metrics = [f"train_set/{MARGIN}/min", f"train_set/{MARGIN}/mean"]
    values = by_arm(evidence.of(TRAINING).trials, [str(each) for each in lengths], metrics)
    base = positive(values[:, 0, 1:], "the first average margin")
    lowest, average = (slopes(np.log2(lengths).tolist(), values) / base).T
    unit = "of the first average margin, per doubling of the epochs"
    return [
        Effect("rise of the minimum margin", unit, tuple(lowest.tolist()), CHANGE),
        Effect("fall of the average margin", unit, tuple((-average).tolist()), CHANGE),
    ]


# -- M2 ---------------------------------------------------------------------------------------------------------


def sweep(group: str, lams: Sequence[float]) -> list[str]:
    """The arms of one group, weak to strong."""
    return [f"{group}, lambda {name}" for name in names_of(lams).values()]


def raises_margin(evidence: Evidence, lams: Sequence[float], other: str) -> list[Effect]:
    """``matched_gain`` of robust accuracy and of log average margin, as jackknife pseudo-values of the seeds.

    Their mean and t interval are the jackknife's. Where the interval from resampled seeds reaches further, they are
    drawn apart until theirs holds it, so that the verdict is one by the wider of the two.
    """
    values = sweeps(evidence, lams, other)
    what = f"at equal natural accuracy, over the sweep {other}"
    found = []
    for name, unit, delta, column in (("robust accuracy", "points", GAIN, 1), ("average margin", "log", LARGER, 2)):
        own = values[..., [0, column]]
        wide = widened(pseudo_values(own), resampled(own)) if len(own) else ()
        found.append(Effect(f"{name} gained {what}", unit, wide, delta))
    return found


def sweeps(evidence: Evidence, lams: Sequence[float], other: str) -> Numbers:
    """(seeds, 2, lambdas, 3): the sweep with and the other; natural and robust accuracy in percent, log margin."""
    arms = [*sweep(WITH, lams), *sweep(other, lams)]
    values = by_arm(evidence.of(STRENGTHS).trials, arms, [NATURAL, ROBUST, AVERAGE])
    percent, log = 100 * values[..., :2], np.log(positive(values[..., 2:], "an average margin"))
    return np.concatenate([percent, log], axis=2).reshape(len(values), 2, len(lams), 3)


def gains(evidence: Evidence, lams: Sequence[float]) -> pd.DataFrame:
    """One row per comparison and quantity."""
    rows: list[dict[str, object]] = []
    for other in (WITHOUT, CONTROL):
        try:
            values, effects = sweeps(evidence, lams, other), raises_margin(evidence, lams, other)
        except NotDecidableError as error:
            rows.append({"gain": f"over the sweep {other}", "interval": str(error)})
            continue
        for effect, column in zip(effects, (1, 2), strict=True):
            rows.append(_gain(effect, values[..., [0, column]]))
    return pd.DataFrame(rows)


def _gain(effect: Effect, values: Numbers) -> dict[str, object]:
    low, high = resampled(values)
    told = {"gain": effect.what, "unit": effect.unit, "interval": interval(pseudo_values(values), 3)}
    return {**told, "from resampled seeds": f"[{low:.3f}, {high:.3f}]", "seeds": len(values)}


# -- M3 ---------------------------------------------------------------------------------------------------------


def consistent(evidence: Evidence, penalty: AverageMargin, head: Head) -> list[Effect]:
    """The share of random posteriors whose least risk has the most probable class alone on top, above 99 %.

    Nothing is trained: the risk at one point is minimised as it is. The units are posteriors, not seeds, and the
    interval is that of a share.
    """
    agreed = agreement(POSTERIORS, CLASSES, penalty.mu, penalty.tau, head)
    what = f"share of {POSTERIORS} posteriors over {CLASSES} classes in agreement, less {AGREED:.0%}"
    return [Effect(what, "share", tuple(each - AGREED for each in agreed), 0.0, share_above(agreed, AGREED))]
