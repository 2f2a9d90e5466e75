"""What was searched beside lambda."""

import math

import numpy as np
import pytest

from robsearch.laws import Point, fit_ridge
from robsearch.laws.covariates import adjusted


def searched(effect, count=24, together=False):
    """Trials at two widths, lambda* = 3, and a learning rate whose decades move the value."""
    random = np.random.default_rng(0)
    points, rates = [], []
    for width in (1, 16):
        for u in np.linspace(math.log(0.5), math.log(16), count):
            rate = 0.01 * math.exp(u) if together else float(10 ** random.uniform(-3, -1))
            value = 0.6 - 0.01 * (u - math.log(3)) ** 2 + effect * math.log10(rate / 0.01)
            points.append(Point(width, math.exp(u), value))
            rates.append(rate)
    return points, rates


def test_a_linear_effect_is_taken_out_exactly():
    points, rates = searched(0.03)
    without = adjusted(points, {"lr": rates})
    u = np.log([p.lam for p in points])
    planted = 0.6 - 0.01 * (u - math.log(3)) ** 2
    best = max(zip([p.value for p in points], rates, strict=True))[1]
    expected = planted + 0.03 * math.log10(best / 0.01)
    assert [p.value for p in without] == pytest.approx(expected.tolist(), abs=1e-6)
    assert fit_ridge(without).optimum(1).lam == pytest.approx(3, rel=0.01)


def test_a_covariate_that_does_not_vary_changes_nothing():
    points, _ = searched(0.0)
    assert adjusted(points, {"lr": [0.1] * len(points)}) == points
    assert adjusted(points, {}) == points


def test_too_few_trials_are_told_how_many_lack():
    """Two cubics take 8 parameters, the learning rate 2, and 3 degrees of freedom are left."""
    points, rates = searched(0.03, count=5)
    told = adjusted(points, {"lr": rates})
    assert told == (
        "too few trials: at least 3 more (the effects of lr, which were searched too, cannot be "
        "told from lambda's)"
    )


def test_what_went_together_cannot_be_told_apart():
    points, rates = searched(0.03, together=True)
    assert "they went together" in adjusted(points, {"lr": rates})


def test_two_tried_values_have_one_effect():
    points, _ = searched(0.0)
    layers = [1 + i % 2 for i in range(len(points))]
    moved = [
        point._replace(value=point.value - 0.02 * (count == 1))
        for point, count in zip(points, layers, strict=True)
    ]
    without = adjusted(moved, {"layers": layers})
    assert [p.value for p in without] == pytest.approx([p.value for p in points], abs=1e-9)


def test_a_cliff_of_the_learning_rate_does_not_bend_the_effects():
    """Above 0.05 trainings fail: they keep their values, and the others are as without them."""
    points, rates = searched(0.03)
    failing = [rate > 0.05 for rate in rates]
    fallen = [
        point._replace(value=0.1) if fails else point
        for point, fails in zip(points, failing, strict=True)
    ]
    without = adjusted(fallen, {"lr": rates})
    assert [p.value for p, fails in zip(without, failing, strict=True) if fails] == [0.1] * sum(
        failing
    )
    assert fit_ridge(without).optimum(1).lam == pytest.approx(3, rel=0.05)
