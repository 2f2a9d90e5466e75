"""What the lambda* of one width loses at another."""

import math

import numpy as np
import pytest
from planted_laws import planted

from robsearch.laws import PowerLaw, fit_ridge
from robsearch.laws.regret import regret_map

LAMS = tuple(np.geomspace(0.5, 32, 10).tolist())


def test_a_loss_is_the_fall_of_the_planted_parabola():
    """Lambda* is 2 and 8; 0.02 log(4)^2 = 3.84 points."""
    points = planted(PowerLaw(2.0, 0.5), widths=(1, 16), lams=LAMS, sd=0.002, rng=rng())
    regret = fit_ridge(points).regret
    assert regret.widths == (1.0, 16.0)
    assert regret.placed == (True, True)
    for width, other in ((1, 16), (16, 1)):
        loss = regret.at(width, other)
        assert 100 * loss.lost == pytest.approx(100 * 0.02 * math.log(4) ** 2, abs=0.6)
        assert loss.low < 0.02 * math.log(4) ** 2 < loss.high
    for width in (1, 16):
        assert regret.at(width, width) == (0.0, 0.0, 0.0)


def rng():
    return np.random.default_rng(0)


def test_a_level_law_loses_nothing_between_widths():
    points = planted(PowerLaw(3.0, 0.0), widths=(1, 16), lams=LAMS, sd=0.004, rng=rng())
    for width, other in ((1, 16), (16, 1)):
        loss = fit_ridge(points).regret.at(width, other)
        assert loss.low <= 0 <= loss.high
        assert loss.high < 0.01


def test_intervals_hold_the_true_loss():
    """Of 60 surfaces, at the lambdas that each one names."""
    held = []
    for seed in range(60):
        law = PowerLaw(2.0, 0.5)
        random = np.random.default_rng(seed)
        points = planted(law, widths=(1, 16), seeds=1, lams=LAMS, c=-0.01, sd=0.006, rng=random)
        regret = fit_ridge(points).regret
        own, reused = (math.log(lam / law(16)) ** 2 for lam in reversed(regret.lams))
        loss = regret.at(16, 1)
        held.append(loss.low <= 0.01 * (reused - own) <= loss.high)
    assert np.mean(held) >= 0.85


def test_where_no_law_is_determined_the_map_is_still_there():
    """Four lambdas at each width are too few for a curve."""
    points = planted(PowerLaw(2.0, 0.5), widths=(1, 16), seeds=1, lams=(0.5, 2, 8, 32))
    surface = fit_ridge(points)
    assert surface.law is None
    assert surface.regret.placed == (False, False)
    assert surface.regret.at(16, 1).lost > 0


def test_fewer_trials_than_the_prior_needs_have_no_map():
    assert fit_ridge(planted(widths=(1, 16), seeds=1, lams=(1, 4))).regret is None
    assert regret_map([], {}, None, 0.95) is None
