"""Laws as functions of width, and the law of one parabola for all widths."""

import math

import numpy as np
import pytest
from planted_laws import WIDTHS, planted

from robsearch.errors import InputError
from robsearch.laws import Constant, Point, PowerLaw
from robsearch.laws.points import columns_of


def dense(points):
    """The textbook fit: one dummy per (width, seed). Returns (c, b, d) and their covariance, in
    centred logs, and df."""
    u, v = np.log([p.lam for p in points]), np.log([p.width for p in points])
    u, v = u - u.mean(), v - v.mean()
    groups = sorted({(p.width, p.seed) for p in points})
    dummies = [[float((p.width, p.seed) == group) for group in groups] for p in points]
    x, y = np.column_stack([u**2, u, u * v, dummies]), np.array([p.value for p in points])
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    df = len(y) - x.shape[1]
    variance = ((y - x @ beta) ** 2).sum() / df
    return beta[:3], variance * np.linalg.inv(x.T @ x)[:3, :3], df


def test_the_fit_is_least_squares_with_a_dummy_per_group():
    points = planted(sd=0.01, rng=np.random.default_rng(2))
    points = [p for i, p in enumerate(points) if i % 5]  # unbalanced
    fit = columns_of(points).fit()
    beta, covariance, df = dense(points)
    assert fit.beta == pytest.approx(beta)
    assert fit.covariance == pytest.approx(covariance)
    assert fit.df == df


# --- what determines no law ---


def lacking(points):
    """Why these points determine no law of one parabola."""
    trials = columns_of(points)
    fit = trials.fit()
    return fit if isinstance(fit, str) else fit.lacks_peak(trials, 0.95)


def noisy(count, curvature, error):
    """Lambdas even in log from 0.5 to 16 at two widths, best at 2; errors alternate in sign."""
    points = []
    for width in (4, 16):
        for i, lam in enumerate(np.geomspace(0.5, 16, count)):
            value = 0.5 - curvature * math.log(lam / 2) ** 2 + error * (-1) ** i
            points.append(Point(width, float(lam), float(value)))
    return points


def test_a_peak_lost_in_noise_takes_so_many_more_trials():
    """Twelve trials leave the curvature -0.003 a standard error of 0.003016, which falls as
    1 / sqrt(n); Student's t is 2.0141 with 12 - 2 - 3 + 38 degrees of freedom, 2.0154 with 37."""
    told = lacking(noisy(6, 0.003, 0.01))
    assert told.startswith("too few trials: about 38 more, spread like these, would place a peak")
    assert 2.0141 * 0.003016 * math.sqrt(12 / 50) < 0.003
    assert 2.0154 * 0.003016 * math.sqrt(12 / 49) > 0.003


def test_enough_trials_on_a_flat_surface_are_too_flat():
    """Eighty trials: even at its most curved the surface loses 0.0012 log(5.7)^2 = 0.4 points."""
    assert "too flat in lambda" in lacking(noisy(40, 0.0002, 0.004))


def test_differences_in_the_last_bits_make_no_law():
    points = [p._replace(value=0.5 - 1e-15 * math.log(p.lam / 3) ** 2) for p in planted()]
    assert lacking(points) is not None


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (planted(lams=(1, 2)), "too few trials: at least 1 more (2 lambdas tried"),
        (
            planted(seeds=1, lams=(1, 2, 4), widths=(2,)),
            "too few trials: at least 1 more (3 trials in 1 (width, seed) group leave nothing",
        ),
        (
            [p._replace(seed=i) for i, p in enumerate(planted())],
            "too few trials: at least 4 more (36 trials in 36 (width, seed) groups leave nothing",
        ),
        (
            [Point(w, w * x, 0.5, s) for w in (1, 2) for x in (1, 3) for s in range(9)],
            "tell a peak from a slope",
        ),
    ],
)
def test_too_little_data_is_said(points, reason):
    assert reason in lacking(points)


# --- laws ---


def test_each_law_is_called_with_a_width():
    assert Constant(3)(100) == 3.0
    assert PowerLaw(2, 0.5)(16) == 8.0


def test_a_planted_law_is_fitted_exactly():
    law = PowerLaw(2.0, 0.25)
    fitted = PowerLaw.fit(planted(law))
    assert [fitted(width) for width in WIDTHS] == pytest.approx(
        [law(width) for width in WIDTHS], abs=1e-9
    )


def test_a_law_is_not_fitted_to_what_does_not_determine_it():
    with pytest.raises(InputError, match="no peak"):
        PowerLaw.fit(planted(c=0.02))
    with pytest.raises(InputError, match="trials that determine the law"):
        PowerLaw.fit([])


def test_one_width_gives_no_law_over_width():
    with pytest.raises(InputError, match="1 width only"):
        PowerLaw.fit(planted(widths=(4,)))


# --- refusals ---


def test_malformed_points_are_all_named():
    bad = [
        Point(0, 1, 0.5),
        Point(1, -1, 0.5),
        Point(1, 1, math.nan),
        Point(math.inf, 1, 0.5),
        Point(1, math.nan, 0.5),
        Point(1, 1, 56.2),
    ]
    with pytest.raises(InputError) as refused:
        PowerLaw.fit(planted() + bad)
    assert len(refused.value.problems) == 6
    assert "value=56.2" in refused.value.problems[5]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Constant(0), "finite lambda above 0"),
        (lambda: PowerLaw(-1, math.nan), "(?s)finite base above 0.*finite exponent"),
        (lambda: PowerLaw(2, 0.5)(-1), "finite width above 0"),
        (lambda: PowerLaw(2, 500)(1e10), "finite lambda at width 1e.10"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
