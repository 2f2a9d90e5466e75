import math

import numpy as np
import pytest
from scipy.stats import t as student

from robsearch.errors import InputError
from robsearch.laws import (
    Affine,
    Constant,
    PerWidth,
    Point,
    PowerLaw,
    compare_laws,
    fieller,
    fit_ridge,
    seed_bootstrap,
)

WIDTHS = (1, 4, 16)
LAMS = (0.5, 1, 2, 4, 8, 16)
TRUTH = PowerLaw(2.0, 0.25)


def planted(law=TRUTH, *, widths=WIDTHS, seeds=2, lams=LAMS, c=-0.02, sd=0.0, effects=None, rng=None):
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
        for lam, noise in zip(lams, rng.normal(0, sd, len(lams)) if rng else np.zeros(len(lams)), strict=True)
    ]


def dense(points):
    """The textbook fit: one dummy per (width, seed). Returns (b, c, d), covariance, df, sd."""
    u, v = np.log([p.lam for p in points]), np.log([p.width for p in points])
    groups = sorted({(p.width, p.seed) for p in points})
    dummies = [[float((p.width, p.seed) == group) for group in groups] for p in points]
    x, y = np.column_stack([u, u**2, u * v, dummies]), np.array([p.value for p in points])
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    df = len(y) - x.shape[1]
    variance = ((y - x @ beta) ** 2).sum() / df
    return beta[:3], variance * np.linalg.inv(x.T @ x)[:3, :3], df, math.sqrt(variance)


# -- the estimate


def test_a_noiseless_ridge_is_recovered_exactly():
    ridge = fit_ridge(planted())
    assert ridge.law.base == pytest.approx(2.0, abs=1e-9)
    assert ridge.law.exponent == ridge.slope == pytest.approx(0.25, abs=1e-9)
    assert ridge.slope_interval == pytest.approx((0.25, 0.25), abs=1e-6)
    assert ridge.surface.c == pytest.approx(-0.02, abs=1e-12)
    for width in (*WIDTHS, 64):  # 64 was never searched
        assert ridge.optimum(width).lam == pytest.approx(TRUTH(width), abs=1e-9)
        assert ridge.optimum(width).censored is None
    assert ridge.sentence() == ("lambda* = 2 * width^0.25, exponent 0.25 [0.25, 0.25] (95 %, n=36 trials at 3 widths).")


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
    surface = fit_ridge(points).surface
    beta, covariance, df, sd = dense(points)
    assert (surface.b, surface.c, surface.d) == pytest.approx(tuple(beta))
    assert np.array(surface.covariance) == pytest.approx(covariance)
    assert (surface.df, surface.sd) == (df, pytest.approx(sd))
    p_value = student.sf(beta[2] / math.sqrt(covariance[2, 2]), df)
    assert fit_ridge(points).p_value == pytest.approx(p_value)


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


# -- intervals


@pytest.mark.parametrize(
    ("c", "sd", "shape"), [(-0.02, 0.005, "interval"), (-0.003, 0.01, "outside"), (0.0, 0.05, "everything")]
)
def test_fiellers_region_is_what_the_t_test_does_not_reject(c, sd, shape):
    points = planted(PowerLaw(2.0, 0.6), c=c, sd=sd, rng=np.random.default_rng(0))
    ridge = fit_ridge(points)
    assert ridge.slope_region.shape == shape
    (_, c, d), covariance, df, _ = dense(points)
    slopes = np.linspace(-40, 40, 4001)
    error = np.sqrt(covariance[2, 2] + 4 * slopes * covariance[1, 2] + 4 * slopes**2 * covariance[1, 1])
    kept = np.abs(d + 2 * c * slopes) <= student.ppf(0.975, df) * error
    assert [ridge.slope_region.contains(s) for s in slopes.tolist()] == kept.tolist()
    assert (ridge.slope_interval is not None) == (shape == "interval")
    assert (ridge.law is None) == (ridge.optimum(4).lam is None) == (shape != "interval")


def test_fiellers_region_of_a_known_denominator_is_the_plain_interval():
    region = fieller(6.0, -2.0, np.array([[1.0, 0.0], [0.0, 0.0]]), 2.0)
    assert (region.shape, region.low, region.high) == ("interval", -4.0, -2.0)


def test_fiellers_region_of_two_zeros_is_everything():
    assert fieller(0.0, 0.0, np.zeros((2, 2)), 2.0).shape == "everything"


@pytest.mark.parametrize("c", [-0.02, -0.003])  # with the second, many regions are not intervals
def test_intervals_cover_the_truth_as_often_as_they_say(c):
    rng, repeats = np.random.default_rng(4), 1000
    inside = {"slope": 0, "searched width": 0, "unseen width": 0, "rising": 0}
    shapes = set()
    for _ in range(repeats):
        ridge = fit_ridge(planted(c=c, sd=0.008, rng=rng, lams=LAMS[1:]))
        shapes.add(ridge.slope_region.shape)
        inside["slope"] += ridge.slope_region.contains(0.25)
        inside["searched width"] += ridge.optimum_region(4).contains(math.log(TRUTH(4)))
        inside["unseen width"] += ridge.optimum_region(64).contains(math.log(TRUTH(64)))
        level = fit_ridge(planted(Constant(3.0), c=c, sd=0.008, rng=rng, lams=LAMS[1:]))
        inside["rising"] += level.p_value > 0.05  # the one-sided test errs once in 20
    # Four binomial standard deviations of 1,000 draws at 0.95.
    rates = {name: count / repeats for name, count in inside.items()}
    assert rates == pytest.approx(dict.fromkeys(rates, 0.95), abs=4 * math.sqrt(0.95 * 0.05 / repeats))
    assert ("outside" in shapes) == (c == -0.003)


def test_optimum_carries_its_region_as_lambdas():
    ridge = fit_ridge(planted(sd=0.005, rng=np.random.default_rng(5)))
    best, region = ridge.optimum(16), ridge.optimum_region(16)
    assert (best.low, best.high) == pytest.approx((math.exp(region.low), math.exp(region.high)))
    assert best.low < best.lam < best.high


def test_lambdas_stay_finite_however_far_the_question():
    assert 0 < fit_ridge(planted(PowerLaw(2.0, 1.5), c=-0.01)).optimum(1e300).lam < math.inf


def test_confidence_widens_the_interval():
    points = planted(sd=0.005, rng=np.random.default_rng(6))
    low, high = fit_ridge(points, confidence=0.5).slope_interval
    lower, higher = fit_ridge(points, confidence=0.99).slope_interval
    assert lower < low < high < higher


# -- what the data do not say


def test_a_crest_outside_the_searched_range_is_said():
    ridge = fit_ridge(planted(PowerLaw(4.0, 0.6)))  # 21 at width 16, searched up to 16
    assert ridge.optimum(4).censored is None
    best = ridge.optimum(16)
    assert best.lam == pytest.approx(4 * 16**0.6)
    assert best.censored == "lambda* at width 16 lies above the searched range [0.5, 16]"
    assert "below" in fit_ridge(planted(PowerLaw(0.3, 0.5))).optimum(1).censored
    assert "At width 16 it lies outside the searched range: search further there." in ridge.sentence()


def test_the_range_is_that_of_the_width_and_of_all_for_an_unseen_width():
    narrow = planted(widths=(1,), lams=(0.25, 0.5, 1.0)) + planted(widths=(4,))
    ridge = fit_ridge(narrow)
    assert "[0.25, 1]" in ridge.optimum(1).censored
    assert ridge.optimum(16).censored is None  # 4 lies inside [0.25, 16]


def test_a_valley_is_no_peak():
    ridge = fit_ridge(planted(c=0.02))
    assert ridge.law is None
    assert ridge.slope is None
    assert ridge.optimum(4)[1:4] == (None, None, None)
    assert "no peak" in ridge.optimum(4).censored
    assert "not determined" in ridge.sentence()
    assert "no peak" in ridge.sentence()


def test_a_noisy_flat_surface_is_not_determined_in_words():
    ridge = fit_ridge(planted(c=-5e-4, sd=0.01, rng=np.random.default_rng(8)))
    assert ridge.law is None
    assert ridge.surface.c < 0
    assert ridge.sentence().startswith("lambda* is not determined (95 %, n=36 trials at 3 widths): ")
    assert "too flat" in ridge.sentence()
    assert "too flat" in ridge.optimum(4).censored


def test_differences_in_the_last_bits_make_no_law():
    points = [p._replace(value=0.5 - 1e-15 * math.log(p.lam / 3) ** 2) for p in planted()]
    assert fit_ridge(points).law is None


def test_a_level_ridge_shows_no_trend():
    ridge = fit_ridge(planted(Constant(3.0), sd=0.003, rng=np.random.default_rng(8)))
    assert "no trend with width is shown" in ridge.sentence()


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([], "no trials"),
        (planted(lams=(1, 2)), "2 lambdas tried"),
        (planted(seeds=1, lams=(1, 2, 4), widths=(2,)), "3 trials in 1 (width, seed) group leave nothing"),
        ([p._replace(seed=i) for i, p in enumerate(planted())], "36 (width, seed) groups leave nothing"),
        (
            [Point(w, w * x, 0.5, s) for w in (1, 2) for x in (1, 3) for s in range(9)],
            "tell a peak from a slope",
        ),
    ],
)
def test_too_little_data_is_said_not_raised(points, reason):
    ridge = fit_ridge(points)
    assert ridge.surface is ridge.law is ridge.slope is ridge.slope_interval is ridge.p_value is None
    assert ridge.near_best(4) is None
    assert ridge.optimum(4)[1:4] == (None, None, None)
    assert reason in ridge.optimum(4).censored
    assert reason in ridge.sentence()
    with pytest.raises(InputError, match="fitted curve"):
        ridge.curve(4, [1.0])


def test_one_width_has_an_optimum_and_no_slope():
    ridge = fit_ridge(planted(widths=(4,)))
    assert ridge.optimum(4).lam == pytest.approx(TRUTH(4), abs=1e-9)
    assert ridge.slope is ridge.law is ridge.p_value is ridge.slope_region is None
    assert ridge.optimum(8).lam is ridge.near_best(8) is None
    assert ridge.optimum(8).censored == "only width 4 has trials to fit"
    assert ridge.sentence() == (
        "lambda* = 2.83 [2.83, 2.83] at width 4, the only one with trials to fit (95 %, n=12 trials at 1 width)."
    )


def test_a_window_keeps_what_lies_inside_ends_included():
    spoilt = [p._replace(value=0.0) if p.lam == 16 else p for p in planted()]
    ridge = fit_ridge(spoilt, window=(0.5, 8))
    assert ridge.n == 30
    assert ridge.law.exponent == pytest.approx(0.25, abs=1e-9)
    assert ridge.searched[0].high == 8
    assert fit_ridge(spoilt).law.exponent != pytest.approx(0.25, abs=1e-3)
    assert "inside the window" in fit_ridge(spoilt, window=(100, 200)).sentence()


# -- laws


def test_each_law_is_called_with_a_width():
    assert Constant(3)(100) == 3.0
    assert PowerLaw(2, 0.5)(16) == 8.0
    assert Affine(1, 2)(math.e) == 3.0
    assert PerWidth(((1, 2.0), (4, 3.5)))(4) == 3.5
    assert hash(PerWidth(((1, 2.0),))) == hash(PerWidth(((1, 2.0),)))


@pytest.mark.parametrize(
    "law", [Constant(3.0), PowerLaw(2.0, 0.25), Affine(2.0, 1.5), PerWidth(((1, 2.0), (4, 5.0), (16, 3.0)))]
)
def test_a_planted_law_is_fitted_exactly_and_predicts_best(law):
    points = planted(law)
    fitted = type(law).fit(points)
    assert [fitted(width) for width in WIDTHS] == pytest.approx([law(width) for width in WIDTHS], abs=1e-9)
    scores = dict(compare_laws(points))
    assert scores[type(law).__name__] < 1e-9
    assert scores["PerWidth"] < 1e-9  # holds every law on the searched widths
    if not isinstance(law, Constant):
        assert scores["Constant"] > 1e-3
    assert list(scores.values()) == sorted(scores.values())


def test_laws_and_ridge_agree():
    points = planted(sd=0.005, rng=np.random.default_rng(9))
    assert PowerLaw.fit(points).base == pytest.approx(fit_ridge(points).law.base)
    assert PowerLaw.fit(points).exponent == pytest.approx(fit_ridge(points).slope)
    one = planted(widths=(4,))
    assert Constant.fit(one)(4) == pytest.approx(fit_ridge(one).optimum(4).lam)


def test_affine_bends_to_the_widths_that_know_more():
    bent = PerWidth(((1, 2.0), (4, 5.0), (16, 3.0)))
    even, known = planted(bent), planted(bent) + planted(bent, widths=(4,), seeds=60)
    # Of 2, 5, 3 at even steps, the unweighted line misses the middle by 2/3 (5 - 2.5).
    assert abs(Affine.fit(known)(4) - 5) < 1.0 < 1.3 < abs(Affine.fit(even)(4) - 5)


@pytest.mark.parametrize("law", [Constant, PowerLaw, Affine, PerWidth])
def test_a_law_is_not_fitted_to_what_does_not_determine_it(law):
    with pytest.raises(InputError, match="no peak"):
        law.fit(planted(c=0.02))
    with pytest.raises(InputError, match="trials that determine the law"):
        law.fit([])


@pytest.mark.parametrize("law", [PowerLaw, Affine])
def test_one_width_gives_no_law_over_width(law):
    with pytest.raises(InputError, match="1 width only"):
        law.fit(planted(widths=(4,)))


def test_left_out_errors_are_those_of_refitting_without_the_trial():
    points = planted(Constant(3.0), widths=(1, 4), sd=0.004, rng=np.random.default_rng(10))
    errors = []
    for i, left in enumerate(points):
        rest = points[:i] + points[i + 1 :]
        crest = math.log(Constant.fit(rest)(1))
        x = np.array([[(math.log(p.lam) - crest) ** 2, *np.eye(4)[2 * (p.width == 4) + p.seed]] for p in points])
        y = np.array([p.value for p in rest])
        errors.append(left.value - x[i] @ np.linalg.lstsq(np.delete(x, i, axis=0), y, rcond=None)[0])
    rmse = np.sqrt(np.mean(np.square(errors)))
    assert dict(compare_laws(points))["Constant"] == pytest.approx(rmse)


def test_a_trial_alone_in_its_group_is_not_left_out():
    points = planted(sd=0.004, rng=np.random.default_rng(11))
    alone = Point(4, 3.0, 0.1, seed=99)
    assert compare_laws([*points, alone]) == [(name, pytest.approx(x)) for name, x in compare_laws(points)]
    assert compare_laws([]) == []


# -- seeds


def test_bootstrap_of_identical_seeds_is_the_slope():
    assert seed_bootstrap(planted(seeds=3), resamples=50) == pytest.approx((0.25, 0.25), abs=1e-9)


def test_bootstrap_sees_seeds_that_differ_in_slope():
    # Noiseless seeds whose own exponents are 0.05, 0.25 and 0.45: resampling them spreads the slope.
    parts = [(seed, planted(PowerLaw(2.0, 0.05 + 0.2 * seed), seeds=1)) for seed in range(3)]
    points = [p._replace(seed=seed) for seed, part in parts for p in part]
    low, high = seed_bootstrap(points, resamples=500)
    assert 0.05 <= low < 0.2 < 0.3 < high <= 0.45
    assert seed_bootstrap(points, resamples=500) == (low, high)  # its own generator, seeded
    lower, higher = seed_bootstrap(points, resamples=500, confidence=0.99)
    assert lower < low < high < higher


def test_bootstrap_gives_nothing_when_many_resamples_have_no_peak():
    # Two seeds with a peak and one with a valley: a peak together, a valley in some draws.
    lams = np.geomspace(0.5, 16, 24).tolist()
    parts = [planted(c=c, seeds=3, lams=lams) for c in (-0.02, -0.02, 0.02)]
    bends = [p for seed, part in enumerate(parts) for p in part if p.seed == seed]
    assert fit_ridge(bends).law is not None
    assert seed_bootstrap(bends) is None


@pytest.mark.parametrize("points", [planted(seeds=2), planted(seeds=3, widths=(4,)), planted(seeds=3, c=0.02), []])
def test_bootstrap_needs_three_seeds_two_widths_and_a_peak(points):
    assert seed_bootstrap(points) is None


# -- refusals


def test_malformed_points_are_all_named():
    bad = [
        Point(0, 1, 0.5),
        Point(1, -1, 0.5),
        Point(1, 1, math.nan),
        Point(math.inf, 1, 0.5),
        Point(1, math.nan, 0.5),
        Point(1, 1, 56.2),
    ]
    for call in (fit_ridge, compare_laws, PowerLaw.fit, Affine.fit, seed_bootstrap):
        with pytest.raises(InputError) as refused:
            call(planted() + bad)
        assert len(refused.value.problems) == 6
    assert "value=56.2" in refused.value.problems[5]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit_ridge(planted(), confidence=95.0), "confidence between 0 and 1"),
        (lambda: fit_ridge(planted(), window=(8, 2)), "low < high"),
        (lambda: fit_ridge(planted()).optimum(0), "finite width above 0"),
        (lambda: fit_ridge(planted()).near_best(4, -1), "finite tolerance above 0"),
        (lambda: fit_ridge(planted()).curve(5, [1.0]), "1, 4, 16"),
        (lambda: Constant(0), "finite lambda above 0"),
        (lambda: PowerLaw(-1, math.nan), "(?s)finite base above 0.*finite exponent"),
        (lambda: PowerLaw(2, 0.5)(-1), "finite width above 0"),
        (lambda: PowerLaw(2, 500)(1e10), "finite lambda at width 1e.10"),
        (lambda: Affine(math.inf, math.nan), "(?s)finite intercept.*finite slope"),
        (lambda: Affine(1, -1)(16), "finite lambda at width 16"),
        (lambda: PerWidth(()), "one .width, lambda. pair for each width"),
        (lambda: PerWidth(((1, 2), (1, 3))), "one .width, lambda. pair for each width"),
        (lambda: PerWidth(((1, 0), (-1, 3))), "row 1"),
        (lambda: PerWidth(((4, 3), (1, 2)))(2), "one of the widths 1, 4"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
