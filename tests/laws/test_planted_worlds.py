"""Studies of worlds whose exponent is known, of those where an estimator errs most: see
``benchmarks/laws.py``, which has all worlds and 400 studies of each."""

import runpy
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

LAWS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "laws.py"))
STUDIES = 40


def judged(shape, slope, kind, size):
    rows = [LAWS["job"]((shape, slope, kind, size), repetition) for repetition in range(STUDIES)]
    return LAWS["Judged"](*np.array(rows).T)


@pytest.mark.parametrize(
    ("shape", "kind", "size"),
    [
        ("collapsing", "study", 5),
        ("skewed", "study", 3),
        ("symmetric", "study", 10),
        ("collapsing", "launch", 10),
    ],
)
def test_no_trend_is_seldom_called_one(shape, kind, size):
    """At most 7.5 %, and two standard errors of 40 studies: 6 of them."""
    told = judged(shape, 0.0, kind, size)
    assert told.supported.sum() <= 6
    assert np.nanmean(told.covers) >= 0.85
    if shape != "symmetric":
        assert np.nanmean(told.one_shape_supported) > 0.5  # what one curvature says of the same


def test_a_trend_is_found_with_ten_seeds():
    """0.7, less two standard errors of 40 studies."""
    assert judged("skewed", 0.4, "study", 10).supported.mean() >= 0.55


def test_the_regret_map_holds_the_true_loss():
    told = judged("skewed", 0.4, "launch", 20)
    assert np.nanmean(told.regret_covers) >= 0.8
