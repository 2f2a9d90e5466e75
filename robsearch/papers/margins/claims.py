"""The effects that decide M1 to M3 on minimum and average margin (arXiv 1907.11780)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence, NotDecidableError
from robsearch.claims.matching import pseudo_values, resampled, widened
from robsearch.claims.seeds import Numbers, complete_arm_values, require_positive, slopes
from robsearch.claims.statistics import Effect, estimate, share_above
from robsearch.drawing.formatting import names_of
from robsearch.papers.margins.fisher import Penalised, agreement
from robsearch.parts.penalties import AverageMargin

TRAINING = "training"
STRENGTHS = "strengths"
WITHOUT = "without"
WITH = "with"
CONTROL = "orthogonal only"
MARGIN = "margin/input_first_order"
NATURAL = "test/natural_accuracy"
ROBUST = "test/robust_accuracy"
AVERAGE = f"test/{MARGIN}/mean"
CHANGE = 0.01
"""M1: changes below 1 % of the first average margin, per doubling of the epochs, do not matter."""
GAINS = {
    "robust accuracy": ("points", 1.0),
    "average margin": ("log", float(np.log(1.05))),
}
"""M2: the smallest that matter are a point of robust accuracy, and 5 % of average margin."""
AGREED = 0.99
"""M3: the share of posteriors above which agreement is to lie."""
POSTERIORS = 500
"""At 99 % all 500 would agree once in 150 times: one disagreement, and M3 is open."""
CLASSES = 4


def margins_move(evidence: Evidence, epochs: Sequence[int]) -> Iterator[Effect]:
    """M1: slopes over log2 epochs, as shares of the seed's average margin at the fewest epochs,
    which must be above 0."""
    lengths = sorted(epochs)
    metrics = [f"train_set/{MARGIN}/min", f"train_set/{MARGIN}/mean"]
    trials = evidence.of(TRAINING).trials
    values = complete_arm_values(trials, list(map(str, lengths)), metrics)
    first_average = require_positive(values[:, 0, 1:], "the first average margin")
    rises = slopes(np.log2(lengths).tolist(), values) / first_average
    minimum, average = rises.T
    unit = "of the first average margin, per doubling of the epochs"
    yield Effect("rise of the minimum margin", unit, tuple(minimum), CHANGE)
    yield Effect("fall of the average margin", unit, tuple(-average), CHANGE)


def sweep(group: str, lams: Sequence[float]) -> dict[str, float]:
    """The arms of one group with their lambdas, weak to strong."""
    return {f"{group}, lambda {name}": lam for lam, name in names_of(lams).items()}


def raises_margin(
    evidence: Evidence,
    lams: Sequence[float],
    other: str,
) -> Iterator[Effect]:
    """M2: ``matched_gain`` of robust accuracy and of log average margin, as jackknife pseudo-values
    of the seeds.

    Their mean and t interval are the jackknife's. Where the interval from resampled seeds reaches
    further, they are drawn apart until theirs holds it, so that the verdict is one by the wider of
    the two.
    """
    for quantity, curves in sweeps(evidence, lams, other).items():
        unit, delta = GAINS[quantity]
        gains = pseudo_values(curves)
        # Without seeds nothing can be drawn again.
        if gains:
            gains = widened(gains, resampled(curves))
        yield Effect(_gained(quantity, other), unit, gains, delta)


def _gained(quantity: str, other: str) -> str:
    return f"{quantity} gained at equal natural accuracy, over the sweep {other}"


def sweeps(
    evidence: Evidence,
    lams: Sequence[float],
    other: str,
) -> dict[str, Numbers]:
    """The sweep with the regulariser and the other, as ``matched_gain`` compares them.

    By quantity (seeds, 2, lambdas, 2): natural accuracy in percent, and robust accuracy in percent
    or the log of the average margin.
    """
    arms = [*sweep(WITH, lams), *sweep(other, lams)]
    trials = evidence.of(STRENGTHS).trials
    values = complete_arm_values(trials, arms, [NATURAL, ROBUST, AVERAGE])
    natural = 100 * values[..., 0]
    robust = 100 * values[..., 1]
    average = np.log(require_positive(values[..., 2], "an average margin"))
    # The arms come as one row: first all of one sweep, then all of the other.
    shape = (len(values), 2, len(lams), 2)
    return {
        "robust accuracy": np.stack([natural, robust], axis=2).reshape(shape),
        "average margin": np.stack([natural, average], axis=2).reshape(shape),
    }


def gains(evidence: Evidence, lams: Sequence[float]) -> pd.DataFrame:
    """One row per comparison and quantity."""
    rows: list[dict[str, object]] = []
    for other in (WITHOUT, CONTROL):
        try:
            rows += list(_gains_over(evidence, lams, other))
        except NotDecidableError as error:
            rows.append({"gain": f"over the sweep {other}", "interval": str(error)})
    return pd.DataFrame(rows)


def _gains_over(
    evidence: Evidence,
    lams: Sequence[float],
    other: str,
) -> Iterator[dict[str, object]]:
    for quantity, curves in sweeps(evidence, lams, other).items():
        # Where an arm failed with every seed there is nothing to draw from.
        if len(curves) == 0:
            continue
        low, high = resampled(curves)
        unit, _ = GAINS[quantity]
        yield {
            "gain": _gained(quantity, other),
            "unit": unit,
            "interval": estimate(pseudo_values(curves)).text(".3f"),
            "from resampled seeds": f"[{low:.3f}, {high:.3f}]",
            "seeds": len(curves),
        }


def consistent(evidence: Evidence, penalty: AverageMargin, form: Penalised) -> list[Effect]:
    """M3: the share of random posteriors whose least risk has the most probable class alone on top,
    above 99 %.

    Nothing is trained: the risk at one point is minimised as it is. The units are posteriors, not
    seeds, and the interval is that of a share.
    """
    agreed = agreement(POSTERIORS, CLASSES, penalty.mu, penalty.tau, form)
    posteriors = f"{POSTERIORS} posteriors over {CLASSES} classes"
    what = f"share of {posteriors} in agreement, less {AGREED:.0%}"
    per_posterior = tuple(agrees - AGREED for agrees in agreed)
    return [Effect(what, "share", per_posterior, 0.0, share_above(agreed, AGREED))]
