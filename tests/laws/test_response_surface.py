"""Lambda* of each width, the law through them, and what the trials do not say."""

import math
import re

import numpy as np
import pytest
from planted_laws import TRUTH, WIDTHS, planted

from robsearch.errors import InputError
from robsearch.laws import Constant, Point, PowerLaw, fit_ridge
from robsearch.laws.peak_line import between_widths, slope_shares
from robsearch.laws.points import columns_of
from robsearch.laws.width_curve import spread

MANY = tuple(np.geomspace(0.5, 16, 9).tolist())


def noisy(seed, **planting):
    return planted(sd=0.005, rng=np.random.default_rng(seed), lams=MANY, **planting)


# --- the estimate ---


def test_a_noiseless_law_is_recovered():
    surface = fit_ridge(planted())
    assert surface.law.base == pytest.approx(2.0, rel=1e-3)
    assert surface.law.exponent == surface.slope == pytest.approx(0.25, abs=1e-3)
    assert surface.slope_interval == pytest.approx((0.25, 0.25), abs=2e-3)
    for width in WIDTHS:
        assert surface.optimum(width).lam == pytest.approx(TRUTH(width), rel=1e-3)
        assert surface.optimum(width).censored is None
    assert surface.optimum(64).lam == pytest.approx(TRUTH(64), rel=0.01)
    assert surface.sentence() == (
        "lambda* = 2 * width^0.25, exponent 0.25 [0.25, 0.25] (95 %, n=36 trials at 3 widths). "
        "Curves of one shape fit all widths (p = 1)."
    )


def test_effects_of_width_and_seed_move_nothing():
    points = noisy(1, seeds=3)
    effects = {(width, seed): 0.02 * seed - 0.01 * width for width in WIDTHS for seed in range(3)}
    moved = [p._replace(value=p.value + effects[p.width, p.seed]) for p in points]
    before, after = fit_ridge(points), fit_ridge(moved)
    assert after.slope == pytest.approx(before.slope, abs=1e-9)
    assert after.slope_interval == pytest.approx(before.slope_interval, abs=1e-9)
    # The curve moves by the mean effect of the width's seeds.
    lams = (1.0, 2.0, 4.0)
    assert after.curve(4, lams) - before.curve(4, lams) == pytest.approx(0.02 - 0.04)


def test_lambda_star_is_where_all_trials_together_are_highest():
    surface = fit_ridge(noisy(2, seeds=3))
    assert surface.optimum(4).lam == pytest.approx(surface.posterior.peak(4))
    cubic, asymmetric = (slope for slope, _, _ in surface.slopes.values())
    assert surface.slope == pytest.approx((cubic + asymmetric) / 2)


def test_the_interval_of_lambda_star_holds_it_and_both_families():
    surface = fit_ridge(noisy(2, seeds=3))
    for curve in surface.curves:
        best = surface.optimum(curve.width)
        assert best.low <= best.lam <= best.high
        for peaks in curve.peaks:
            assert best.low <= math.exp(peaks.u[0]) <= best.high


def test_the_law_goes_through_the_lambda_stars():
    """Through their weighted mean, in logs."""
    surface = fit_ridge(noisy(2, seeds=3))
    optima = [surface.optimum(width).lam for width in WIDTHS]
    residuals = np.log(optima) - np.log([surface.law(width) for width in WIDTHS])
    assert residuals.min() < 0 < residuals.max()


def test_a_skew_that_turns_with_width_is_no_law():
    """Lambda* is 3 at each width; thin nets fall steeply above it, wide ones below it. One parabola
    for all widths says that it rises."""
    points = []
    for width, below, above in ((1, 0.005, 0.02), (4, 0.01, 0.01), (16, 0.02, 0.005)):
        for lam in np.geomspace(0.4, 22, 11).tolist():
            u = math.log(lam / 3)
            points.append(Point(width, lam, 0.6 - (below if u < 0 else above) * u**2))
    common = columns_of(points).fit()
    assert -common.beta[2] / (2 * common.beta[0]) > 0.15
    surface = fit_ridge(points)
    assert abs(surface.slope) < 0.1
    assert surface.slope_interval[0] < 0 < surface.slope_interval[1]
    assert "no trend with width is shown" in surface.sentence()
    assert "Curves of one shape do not fit all widths (p < 0.0001), so each width has its own." in (
        surface.sentence()
    )


def test_near_best_is_where_the_parabola_lost_the_tolerance():
    """c u^2 = -0.005 at |u| = 1/2."""
    low, high = fit_ridge(planted()).near_best(4)
    assert math.log(low / TRUTH(4)) == pytest.approx(-0.5, abs=0.02)
    assert math.log(high / TRUTH(4)) == pytest.approx(0.5, abs=0.02)
    assert fit_ridge(planted()).near_best(4, 0.5) == pytest.approx((0.5, 16))  # clipped


def test_a_curve_goes_as_far_as_lambdas_lose_five_points():
    """c u^2 = -0.05 at |u| = 1.58: of 0.5 to 16 around 2.83, 1 to 8 bend it, and 0.5 is the fifth
    as the next best."""
    surface = fit_ridge(planted(widths=(4,)))
    assert surface.fitted_range(4) == pytest.approx((0.5, 8))
    inside = surface.curve(4, [TRUTH(4), TRUTH(4) * math.e])
    assert inside == pytest.approx([0.5, 0.48], abs=1e-3)
    assert np.isnan(surface.curve(4, [16.0])[0])
    assert surface.fitted_range(5) is None


# --- intervals ---


def test_the_jackknifes_error_of_a_mean_is_the_standard_error():
    """Leaving out one of the values 1, 2, 6 gives the means 4, 3.5, 1.5; the standard error of the
    mean is sqrt(7 / 3)."""
    assert spread(np.array([3.0, 4.0, 3.5, 1.5]), 3) == pytest.approx(math.sqrt(7 / 3))
    assert spread(np.array([3.0, 1.0, 5.0]), 0) == pytest.approx(2.0)


def test_shared_seeds_are_left_out_one_by_one_and_others_resampled():
    paired = noisy(3, seeds=4)
    assert {curve.seeds for curve in fit_ridge(paired).curves} == {4}
    unequal = [p for p in paired if not (p.width == 4 and p.seed == 3)]
    assert {curve.seeds for curve in fit_ridge(unequal).curves} == {0}
    assert {curve.seeds for curve in fit_ridge(noisy(3, seeds=2)).curves} == {0}


def test_the_mean_of_the_pseudo_values_has_the_interval_of_the_jackknife():
    """Tukey: their standard error over seeds is the jackknife's."""
    surface = fit_ridge(noisy(4, seeds=5))
    for family, (slope, low, high) in surface.slopes.items():
        values = np.array(surface.pseudo_slopes[family])
        error = values.std(ddof=1) / math.sqrt(5)
        assert (high - low) / 2 == pytest.approx(2.7764 * error, rel=1e-4)  # t of 4
        assert values.mean() == pytest.approx(slope, abs=0.1)


def test_the_interval_holds_those_of_both_families():
    surface = fit_ridge(noisy(5, seeds=5))
    ends = [(low, high) for _, low, high in surface.slopes.values()]
    lows, highs = zip(*ends, strict=True)
    assert surface.slope_interval == (min(lows), max(highs))


def test_an_answer_is_always_the_same():
    points = noisy(6, seeds=1)
    assert fit_ridge(points).slope_interval == fit_ridge(points).slope_interval


def test_confidence_widens_the_interval():
    points = noisy(6)
    low, high = fit_ridge(points, confidence=0.5).slope_interval
    lower, higher = fit_ridge(points, confidence=0.99).slope_interval
    assert lower < low < high < higher


def test_the_line_is_weighted_least_squares():
    v, u = np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.4, 1.9])
    weights = np.array([1.0, 4.0, 2.0])
    slope, _ = np.polyfit(v, u, 1, w=np.sqrt(weights))
    assert slope_shares(v, weights) @ u == pytest.approx(slope)


def test_widths_that_scatter_no_more_than_their_errors_have_no_variance_between():
    v = np.array([0.0, 1.0, 2.0, 3.0])
    assert between_widths(v, v, np.full(4, 0.1)) == 0.0
    # Residuals 1, -1, -1, 1 of equal weight: q = 4 / 0.1, less 2, over 40 less 20.
    u = v + np.array([1.0, -1.0, -1.0, 1.0])
    assert between_widths(v, u, np.full(4, 0.1)) == pytest.approx((40 - 2) / 20)


def test_a_width_that_was_not_searched_is_told_with_the_scatter_of_the_others():
    """Optima at e^0, e^2, e^0: the line through the first three widths says little of the next."""
    optima = {1.0: 1.0, 4.0: math.exp(1.2), 16.0: 1.0}
    points = planted(lambda width: optima[width], widths=tuple(optima), lams=MANY)
    beside = fit_ridge(points).optimum(64)
    straight = fit_ridge(planted(lams=MANY)).optimum(64)
    assert math.log(beside.high / beside.low) > 10
    assert math.log(straight.high / straight.low) < math.log(beside.high / beside.low) / 2


def test_two_widths_do_not_say_how_others_scatter():
    surface = fit_ridge(planted(widths=(1, 4)))
    beyond = surface.optimum(16)
    assert beyond.lam == pytest.approx(TRUTH(16), rel=0.01)
    assert beyond.low is beyond.high is beyond.censored is None


def test_the_law_answers_also_where_it_was_searched():
    surface = fit_ridge(noisy(7, seeds=3))
    by_law = surface.by_law(4)
    assert by_law.lam == pytest.approx(surface.law(4))
    assert by_law.low < by_law.lam < by_law.high
    assert fit_ridge(planted(lams=(1, 2))).by_law(4) is None


def test_lambdas_stay_finite_however_far_the_question():
    surface = fit_ridge(planted(PowerLaw(2.0, 0.6), c=-0.01))
    assert 0 < surface.optimum(1e300).lam < math.inf


# --- what the data do not say ---


def test_a_peak_at_the_end_of_what_was_searched_is_said():
    surface = fit_ridge(planted(PowerLaw(4.0, 0.6)))  # 21 at width 16, searched up to 16
    assert surface.optimum(4).censored is None
    best = surface.optimum(16)
    assert best.lam == pytest.approx(16)
    assert best.censored == "lambda* at width 16 lies at or above the highest lambda searched, 16"
    assert "At width 16 it lies at the highest lambda searched or above: search further there." in (
        surface.sentence()
    )
    assert "at or below the lowest" in fit_ridge(planted(PowerLaw(0.3, 0.5))).optimum(1).censored


def test_a_width_that_was_searched_beside_its_peak_does_not_bend_the_law():
    """Lambda* is 3 at each width; at 16 only lambdas from 4 up were tried, with some noise."""
    called = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        points = planted(Constant(3.0), widths=(1, 4), c=-0.03, sd=0.01, rng=random, lams=MANY)
        beside = np.geomspace(4, 30, 10).tolist()
        points += planted(Constant(3.0), widths=(16,), c=-0.03, sd=0.01, rng=random, lams=beside)
        surface = fit_ridge(points)
        called += bool(surface.slope_interval and surface.slope_interval[0] > 0)
        if surface.optimum(16).lam is not None:
            assert surface.optimum(16).censored or surface.optimum(16).lam > 4
    assert called <= 2


@pytest.mark.parametrize(("slope", "side"), [(0.05, "highest"), (-0.05, "lowest")])
def test_what_only_rises_or_falls_has_its_peak_outside(slope, side):
    points = [Point(width, lam, 0.4 + slope * math.log(lam)) for width in WIDTHS for lam in MANY]
    said = fit_ridge(points).sentence()
    assert said.startswith("lambda* lies at an end of the lambdas searched (95 %, n=27 trials at 3")
    assert f"At width 1, 4, 16 it lies at the {side} lambda searched or" in said


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_equal_values_are_flat_whatever_they_are(value):
    surface = fit_ridge([Point(width, lam, value) for width in (4, 16) for lam in MANY])
    assert surface.problem == (
        "at each width robust accuracy is too flat in lambda to place a peak"
    )


def test_the_order_of_the_trials_does_not_matter():
    points = noisy(9, seeds=1)
    turned = fit_ridge(points[::-1])
    assert turned.sentence() == fit_ridge(points).sentence()
    assert turned.optimum(4) == fit_ridge(points).optimum(4)


def test_a_censored_width_does_not_bend_the_law():
    surface = fit_ridge(planted(PowerLaw(4.0, 0.6)))
    assert surface.slope == pytest.approx(0.6, abs=0.01)


def test_where_only_one_width_places_it_there_is_no_law():
    beyond = planted(Constant(100.0), widths=(4, 16), c=-0.01, lams=MANY)
    points = planted(widths=(1,), lams=MANY) + beyond
    surface = fit_ridge(points)
    assert surface.law is surface.slope is surface.slope_interval is None
    assert surface.optimum(1).lam == pytest.approx(2, rel=0.01)
    told = surface.sentence()
    assert told.startswith("lambda* = 2.01 [1.96, 2.04] at width 1, which alone places it")
    assert "At width 4, 16 it lies at the highest lambda searched or above" in told
    assert surface.optimum(8).censored == "only width 1 places it inside the lambdas searched"


def test_two_widths_make_no_law_where_a_third_does_not_place_it():
    flat = planted(widths=(16,), c=0, sd=0.004, rng=np.random.default_rng(1), lams=MANY)
    surface = fit_ridge(planted(widths=(1, 4), lams=MANY) + flat)
    assert surface.optimum(16).lam is None
    assert surface.law is None
    said = surface.sentence()
    assert re.match(
        r"lambda\* = [\d.]+ \[.*\] at width 1, [\d.]+ \[.*\] at width 4; the other", said
    )
    assert "the other widths do not place it, so there is no law (95 %, n=54 trials at 3" in said
    assert ". At width 16: robust accuracy is too flat in lambda" in said
    assert surface.optimum(8).censored == "fewer than three widths place it, and others do not"


def test_noise_is_not_a_peak():
    """Twenty surfaces of noise alone: each interval holds 0, or there is no law, and why."""
    reasons = 0
    for seed in range(20):
        surface = fit_ridge(planted(c=0, sd=0.01, rng=np.random.default_rng(seed), lams=MANY))
        if surface.law is not None:
            assert surface.slope_interval[0] < 0 < surface.slope_interval[1]
            continue
        reasons += bool(re.search(r"too few trials: about \d+ more|too flat", surface.sentence()))
    assert reasons > 3


def test_how_many_more_trials_would_show_the_exponent_is_said_and_where():
    points = planted(PowerLaw(2.0, 0.1), sd=0.006, rng=np.random.default_rng(3), lams=MANY)
    sentence = fit_ridge(points).sentence()
    assert "no trend with width is shown" in sentence
    told = re.search(r"About (\d+) more trials, first at width (\d+), would show", sentence)
    low, high = fit_ridge(points).slope_interval
    slope = fit_ridge(points).slope
    assert int(told[1]) == math.ceil(54 * (((high - low) / 2 / slope) ** 2 - 1))
    assert int(told[2]) in WIDTHS


def test_a_level_surface_shows_no_trend():
    surface = fit_ridge(noisy(8, law=Constant(3.0)))
    assert "no trend with width is shown" in surface.sentence()


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([], "there are no trials"),
        (
            planted(lams=(1, 2)),
            "too few trials: at least 3 more (2 lambdas to fit, and a curve takes 5)",
        ),
    ],
)
def test_too_little_data_is_said_not_raised(points, reason):
    surface = fit_ridge(points)
    assert surface.law is surface.slope is surface.slope_interval is None
    assert surface.near_best(4) is surface.fitted_range(4) is None
    assert surface.optimum(4)[1:4] == (None, None, None)
    assert reason in surface.optimum(4).censored
    assert reason in surface.sentence()
    with pytest.raises(InputError, match="fitted curve"):
        surface.curve(4, [1.0])


def test_seeds_of_their_own_are_no_groups():
    """What a search passes: every trial has the same number, or one of its own that is not told."""
    points = planted(seeds=1)
    assert fit_ridge(points).slope == pytest.approx(0.25, abs=1e-3)


def test_one_width_has_an_optimum_and_no_slope():
    surface = fit_ridge(planted(widths=(4,)))
    assert surface.optimum(4).lam == pytest.approx(TRUTH(4), rel=1e-3)
    assert surface.slope is surface.law is None
    assert surface.optimum(8).lam is surface.near_best(8) is None
    assert surface.optimum(8).censored == "only width 4 has trials to fit"
    assert surface.sentence() == (
        "lambda* = 2.83 [2.83, 2.83] at width 4, the only one with trials to fit (95 %, n=12 "
        "trials at 1 width)."
    )


# --- refusals ---


def test_malformed_points_are_all_named():
    bad = [Point(0, 1, 0.5), Point(1, -1, 0.5), Point(1, 1, math.nan), Point(1, 1, 56.2)]
    with pytest.raises(InputError) as refused:
        fit_ridge(planted() + bad)
    assert len(refused.value.problems) == 4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit_ridge(planted(), confidence=95.0), "confidence between 0 and 1"),
        (lambda: fit_ridge(planted()).optimum(0), "finite width above 0"),
        (lambda: fit_ridge(planted()).near_best(4, -1), "finite tolerance above 0"),
        (lambda: fit_ridge(planted()).curve(5, [1.0]), "1, 4, 16"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
