import math

import numpy as np
import pytest
from scipy.stats import t as student

from robsearch.errors import InputError
from robsearch.laws import Constant, Point, PowerLaw, fieller, fit_ridge

WIDTHS = (1, 4, 16)
LAMS = (0.5, 1, 2, 4, 8, 16)
TRUTH = PowerLaw(2.0, 0.25)


def planted(
    law=TRUTH, *, widths=WIDTHS, seeds=2, lams=LAMS, c=-0.02, sd=0.0, effects=None, rng=None
):
    """A quadratic in log lambda around ``law``, every lambda at every (width, seed)."""
    effects = effects or {}
    return [
        Point(
            width,
            lam,
            0.5 + effects.get((width, seed), 0.0) + c * math.log(lam / law(width)) ** 2 + noise,
            seed,
        )
        for width in widths
        for seed in range(seeds)
        for lam, noise in zip(
            lams, rng.normal(0, sd, len(lams)) if rng else np.zeros(len(lams)), strict=True
        )
    ]


def dense(points):
    """The textbook fit: one dummy per (width, seed). Returns (b, c, d), covariance, df."""
    u, v = np.log([p.lam for p in points]), np.log([p.width for p in points])
    groups = sorted({(p.width, p.seed) for p in points})
    dummies = [[float((p.width, p.seed) == group) for group in groups] for p in points]
    x, y = np.column_stack([u, u**2, u * v, dummies]), np.array([p.value for p in points])
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    df = len(y) - x.shape[1]
    variance = ((y - x @ beta) ** 2).sum() / df
    return beta[:3], variance * np.linalg.inv(x.T @ x)[:3, :3], df


def contains(region, ratio):
    """Whether the data do not reject this ratio."""
    if region.shape == "outside":
        return ratio <= region.low or ratio >= region.high
    return region.low <= ratio <= region.high


# --- the estimate ---


def test_a_noiseless_surface_is_recovered_exactly():
    surface = fit_ridge(planted())
    assert surface.law.base == pytest.approx(2.0, abs=1e-9)
    assert surface.law.exponent == surface.slope == pytest.approx(0.25, abs=1e-9)
    assert surface.slope_interval == pytest.approx((0.25, 0.25), abs=1e-6)
    assert surface.quadratic.c == pytest.approx(-0.02, abs=1e-12)
    for width in (*WIDTHS, 64):  # 64 was never searched
        assert surface.optimum(width).lam == pytest.approx(TRUTH(width), abs=1e-9)
        assert surface.optimum(width).censored is None
    assert surface.sentence() == (
        "lambda* = 2 * width^0.25, exponent 0.25 [0.25, 0.25] (95 %, n=36 trials at 3 widths)."
    )


def test_effects_of_width_and_seed_move_nothing():
    points = planted(sd=0.003, rng=np.random.default_rng(1))
    effects = {(width, seed): 0.07 * seed - 0.01 * width for width in WIDTHS for seed in range(2)}
    moved = [p._replace(value=p.value + effects[p.width, p.seed]) for p in points]
    before, after = fit_ridge(points), fit_ridge(moved)
    assert after.slope == pytest.approx(before.slope, abs=1e-10)
    assert after.slope_interval == pytest.approx(before.slope_interval, abs=1e-10)
    # The curve moves by the mean effect of the width's two seeds.
    assert after.curve(4, LAMS) - before.curve(4, LAMS) == pytest.approx(0.035 - 0.04)


def test_the_fit_is_least_squares_with_a_dummy_per_group():
    points = planted(sd=0.01, rng=np.random.default_rng(2))
    points = [p for i, p in enumerate(points) if i % 5]  # unbalanced
    quadratic = fit_ridge(points).quadratic
    beta, covariance, df = dense(points)
    assert (quadratic.b, quadratic.c, quadratic.d) == pytest.approx(tuple(beta))
    assert np.array(quadratic.covariance) == pytest.approx(covariance)
    assert quadratic.df == df


def test_curve_is_the_planted_curve():
    effects = {(4, 0): 0.10, (4, 1): 0.20}
    curve = fit_ridge(planted(effects=effects)).curve(4, [TRUTH(4), TRUTH(4) * math.e])
    assert curve == pytest.approx([0.65, 0.63])


def test_near_best_is_where_the_parabola_lost_the_tolerance():
    # c u^2 = -0.005 at |u| = 1/2, with 1/1000 of log 32 between neighbours of the grid.
    low, high = fit_ridge(planted()).near_best(4)
    assert math.log(low / TRUTH(4)) == pytest.approx(-0.5, abs=0.004)
    assert math.log(high / TRUTH(4)) == pytest.approx(0.5, abs=0.004)
    assert fit_ridge(planted()).near_best(4, 0.5) == (0.5, 16)  # clipped, exactly
    outside = fit_ridge(planted(PowerLaw(32.0, 0.1)))
    assert outside.near_best(4)[1] == 16  # the best lambda searched is the last one
    assert outside.near_best(4)[0] > 8


# --- intervals ---


@pytest.mark.parametrize(
    ("c", "sd", "shape"),
    [(-0.02, 0.005, "interval"), (-0.003, 0.01, "outside"), (0.0, 0.05, "everything")],
)
def test_fiellers_region_is_what_the_t_test_does_not_reject(c, sd, shape):
    points = planted(PowerLaw(2.0, 0.6), c=c, sd=sd, rng=np.random.default_rng(0))
    surface = fit_ridge(points)
    assert surface.slope_region.shape == shape
    (_, c, d), covariance, df = dense(points)
    slopes = np.linspace(-40, 40, 4001)
    error = np.sqrt(
        covariance[2, 2] + 4 * slopes * covariance[1, 2] + 4 * slopes**2 * covariance[1, 1]
    )
    kept = np.abs(d + 2 * c * slopes) <= student.ppf(0.975, df) * error
    assert [contains(surface.slope_region, s) for s in slopes.tolist()] == kept.tolist()
    assert (surface.slope_interval is not None) == (shape == "interval")
    assert (surface.law is None) == (surface.optimum(4).lam is None) == (shape != "interval")


def test_fiellers_region_of_a_known_denominator_is_the_plain_interval():
    region = fieller(6.0, -2.0, np.array([[1.0, 0.0], [0.0, 0.0]]), 2.0)
    assert (region.shape, region.low, region.high) == ("interval", -4.0, -2.0)


def test_fiellers_region_of_two_zeros_is_everything():
    assert fieller(0.0, 0.0, np.zeros((2, 2)), 2.0).shape == "everything"


@pytest.mark.parametrize("c", [-0.02, -0.003])  # with the second, many regions are not intervals
def test_intervals_cover_the_truth_as_often_as_they_say(c):
    rng, repeats = np.random.default_rng(4), 1000
    inside = {"slope": 0, "searched width": 0, "unseen width": 0}
    shapes = set()
    for _ in range(repeats):
        surface = fit_ridge(planted(c=c, sd=0.008, rng=rng, lams=LAMS[1:]))
        shapes.add(surface.slope_region.shape)
        inside["slope"] += contains(surface.slope_region, 0.25)
        inside["searched width"] += contains(surface.optimum_region(4), math.log(TRUTH(4)))
        inside["unseen width"] += contains(surface.optimum_region(64), math.log(TRUTH(64)))
    # Four binomial standard deviations of 1,000 draws at 0.95.
    rates = {name: count / repeats for name, count in inside.items()}
    assert rates == pytest.approx(
        dict.fromkeys(rates, 0.95), abs=4 * math.sqrt(0.95 * 0.05 / repeats)
    )
    assert ("outside" in shapes) == (c == -0.003)


def test_optimum_carries_its_region_as_lambdas():
    surface = fit_ridge(planted(sd=0.005, rng=np.random.default_rng(5)))
    best, region = surface.optimum(16), surface.optimum_region(16)
    assert (best.low, best.high) == pytest.approx((math.exp(region.low), math.exp(region.high)))
    assert best.low < best.lam < best.high


def test_lambdas_stay_finite_however_far_the_question():
    assert 0 < fit_ridge(planted(PowerLaw(2.0, 1.5), c=-0.01)).optimum(1e300).lam < math.inf


def test_confidence_widens_the_interval():
    points = planted(sd=0.005, rng=np.random.default_rng(6))
    low, high = fit_ridge(points, confidence=0.5).slope_interval
    lower, higher = fit_ridge(points, confidence=0.99).slope_interval
    assert lower < low < high < higher


# --- what the data do not say ---


def test_an_optimum_outside_the_searched_range_is_said():
    surface = fit_ridge(planted(PowerLaw(4.0, 0.6)))  # 21 at width 16, searched up to 16
    assert surface.optimum(4).censored is None
    best = surface.optimum(16)
    assert best.lam == pytest.approx(4 * 16**0.6)
    assert best.censored == "lambda* at width 16 lies above the searched range [0.5, 16]"
    assert "below" in fit_ridge(planted(PowerLaw(0.3, 0.5))).optimum(1).censored
    assert (
        "At width 16 it lies outside the searched range: search further there."
        in surface.sentence()
    )


def test_the_range_is_that_of_the_width_and_of_all_for_an_unseen_width():
    narrow = planted(widths=(1,), lams=(0.25, 0.5, 1.0)) + planted(widths=(4,))
    surface = fit_ridge(narrow)
    assert "[0.25, 1]" in surface.optimum(1).censored
    assert surface.optimum(16).censored is None  # 4 lies inside [0.25, 16]


def test_a_valley_is_no_peak():
    surface = fit_ridge(planted(c=0.02))
    assert surface.law is None
    assert surface.slope is None
    assert surface.optimum(4)[1:4] == (None, None, None)
    assert "no peak" in surface.optimum(4).censored
    assert "not determined" in surface.sentence()
    assert "no peak" in surface.sentence()


def test_a_noisy_flat_surface_is_not_determined_in_words():
    surface = fit_ridge(planted(c=-5e-4, sd=0.01, rng=np.random.default_rng(8)))
    assert surface.law is None
    assert surface.quadratic.c < 0
    assert surface.sentence().startswith(
        "lambda* is not determined (95 %, n=36 trials at 3 widths): "
    )
    assert "too few trials: about" in surface.sentence()
    assert "too few trials: about" in surface.optimum(4).censored


def noisy(count, curvature, error):
    """Lambdas even in log from 0.5 to 16 at two widths, best at 2; errors alternate in sign."""
    points = []
    for width in (4, 16):
        for i, lam in enumerate(np.geomspace(0.5, 16, count)):
            value = 0.5 - curvature * math.log(lam / 2) ** 2 + error * (-1) ** i
            points.append(Point(width, float(lam), float(value)))
    return fit_ridge(points)


def test_a_peak_lost_in_noise_takes_so_many_more_trials():
    """Twelve trials leave the curvature -0.003 a standard error of 0.003016, which falls as
    1 / sqrt(n); Student's t is 2.0141 with 12 - 2 - 3 + 38 degrees of freedom, 2.0154 with 37."""
    told = noisy(6, 0.003, 0.01).problem
    assert told.startswith("too few trials: about 38 more, spread like these, would place a peak")
    assert 2.0141 * 0.003016 * math.sqrt(12 / 50) < 0.003
    assert 2.0154 * 0.003016 * math.sqrt(12 / 49) > 0.003


def test_enough_trials_on_a_flat_surface_are_too_flat():
    """Eighty trials: even at its most curved the surface loses 0.0012 log(5.7)^2 = 0.4 points."""
    assert "too flat in lambda" in noisy(40, 0.0002, 0.004).problem


def test_differences_in_the_last_bits_make_no_law():
    points = [p._replace(value=0.5 - 1e-15 * math.log(p.lam / 3) ** 2) for p in planted()]
    assert fit_ridge(points).law is None


def test_a_level_surface_shows_no_trend():
    surface = fit_ridge(planted(Constant(3.0), sd=0.003, rng=np.random.default_rng(8)))
    assert "no trend with width is shown" in surface.sentence()


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([], "no trials"),
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
def test_too_little_data_is_said_not_raised(points, reason):
    surface = fit_ridge(points)
    assert surface.quadratic is surface.law is surface.slope is surface.slope_interval is None
    assert surface.near_best(4) is None
    assert surface.optimum(4)[1:4] == (None, None, None)
    assert reason in surface.optimum(4).censored
    assert reason in surface.sentence()
    with pytest.raises(InputError, match="fitted curve"):
        surface.curve(4, [1.0])


def test_one_width_has_an_optimum_and_no_slope():
    surface = fit_ridge(planted(widths=(4,)))
    assert surface.optimum(4).lam == pytest.approx(TRUTH(4), abs=1e-9)
    assert surface.slope is surface.law is surface.slope_region is None
    assert surface.optimum(8).lam is surface.near_best(8) is None
    assert surface.optimum(8).censored == "only width 4 has trials to fit"
    assert surface.sentence() == (
        "lambda* = 2.83 [2.83, 2.83] at width 4, the only one with trials to fit (95 %, n=12 "
        "trials at 1 width)."
    )


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


def test_laws_and_surface_agree():
    points = planted(sd=0.005, rng=np.random.default_rng(9))
    assert PowerLaw.fit(points).base == pytest.approx(fit_ridge(points).law.base)
    assert PowerLaw.fit(points).exponent == pytest.approx(fit_ridge(points).slope)


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
    for call in (fit_ridge, PowerLaw.fit):
        with pytest.raises(InputError) as refused:
            call(planted() + bad)
        assert len(refused.value.problems) == 6
    assert "value=56.2" in refused.value.problems[5]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit_ridge(planted(), confidence=95.0), "confidence between 0 and 1"),
        (lambda: fit_ridge(planted()).optimum(0), "finite width above 0"),
        (lambda: fit_ridge(planted()).near_best(4, -1), "finite tolerance above 0"),
        (lambda: fit_ridge(planted()).curve(5, [1.0]), "1, 4, 16"),
        (lambda: Constant(0), "finite lambda above 0"),
        (lambda: PowerLaw(-1, math.nan), "(?s)finite base above 0.*finite exponent"),
        (lambda: PowerLaw(2, 0.5)(-1), "finite width above 0"),
        (lambda: PowerLaw(2, 500)(1e10), "finite lambda at width 1e.10"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
