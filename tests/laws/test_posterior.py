import math

import numpy as np
import pytest

from robsearch.errors import InputError
from robsearch.laws import Point
from robsearch.laws.gaussian_process import CELLS, SHAPES, covariance, log_evidence, noise, pool
from robsearch.laws.posterior import GRID, fit_posterior

SPAN = (0.5, 32.0)
LAMS = np.geomspace(0.5, 32, 13)
STEP = 64 ** (1 / 64)
"""The factor between two neighbours of the grid on which a lambda is looked for."""


def planted(optimum, widths=(1, 2, 4), lams=LAMS, c=0.02, sd=0.0, seed=0):
    """0.7 - c (log lambda - log optimum(width))^2 and noise, at every lambda and width."""
    random = np.random.default_rng(seed)
    return [
        Point(
            w, float(lam), 0.7 - c * math.log(lam / optimum(w)) ** 2 + sd * random.standard_normal()
        )
        for w in widths
        for lam in lams
    ]


def rising(width):
    return 2 * width**0.5


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_quadratic_without_noise_is_recovered(width):
    """Closely near the optimum, and to a tenth of the fall from it far away."""
    posterior = fit_posterior(planted(rising), SPAN)
    assert posterior.best(width) == pytest.approx(rising(width), rel=STEP - 1)
    truth = np.array([point.value for point in planted(rising, widths=(width,))])
    mean, sd = posterior.value(width, LAMS)
    assert (np.abs(mean - truth) < 5e-4 + 0.1 * (0.7 - truth)).all()
    assert (sd < 1e-3 + 0.15 * (0.7 - truth)).all()


@pytest.mark.parametrize("optimum", [rising, lambda width: 6 / width**0.5, lambda width: 4.0])
def test_a_law_is_carried_to_a_width_without_trials(optimum):
    posterior = fit_posterior(planted(optimum, sd=0.002), SPAN)
    assert posterior.best(8) == pytest.approx(optimum(8), rel=0.35)
    found = posterior.optimum(8)
    assert found.low < optimum(8) < found.high < 32
    assert found.censored is None


def test_without_a_law_a_new_width_is_open_and_a_known_one_keeps_its_own_optimum():
    optima = {1: 2.0, 2: 20.0, 4: 1.5, 8: 15.0}
    posterior = fit_posterior(planted(optima.get, widths=tuple(optima), sd=0.002), SPAN)
    for width, optimum in optima.items():
        assert posterior.best(width) == pytest.approx(optimum, rel=0.15)
    new = posterior.optimum(16)
    assert new.high / new.low > 8


def test_trials_of_other_widths_narrow_lambda_star():
    few = planted(rising, widths=(4,), lams=LAMS[::4], sd=0.004)
    alone, helped = (
        fit_posterior(few, SPAN).optimum(4),
        fit_posterior(few + planted(rising, (1, 2), sd=0.004), SPAN).optimum(4),
    )
    assert helped.high / helped.low < 0.7 * alone.high / alone.low
    assert helped.low < rising(4) < helped.high


def test_without_trials_it_is_the_prior_in_which_all_widths_are_alike_and_the_middle_is_best():
    posterior = fit_posterior([], SPAN)
    assert (
        posterior.best(1) == posterior.best(64) == pytest.approx(4.0)
    )  # the geometric mean of 0.5 and 32
    assert posterior.weights == pytest.approx(np.full(len(SHAPES), 1 / len(SHAPES)))
    found = posterior.optimum(4)
    assert (found.low, found.high) == pytest.approx(SPAN)


@pytest.mark.parametrize(
    "points", [[], [Point(2, 3.0, 0.6)], [Point(2, 3.0, 0.6)] * 5, planted(rising, (2,))]
)
def test_few_trials_one_width_and_repeated_trials_give_numbers(points):
    posterior = fit_posterior(points, SPAN)
    mean, sd = posterior.value(8, [0.5, 4.0, 32.0])
    assert np.isfinite([*mean, *sd]).all()
    assert all(0.5 <= lam <= 32 for lam in posterior.optimum(8)[1:4])


def test_where_lambda_does_not_matter_the_value_is_flat_and_lambda_star_stays_open():
    posterior = fit_posterior(planted(rising, c=0.0, sd=0.005), SPAN)
    mean, _ = posterior.value(2, LAMS)
    assert np.ptp(mean) < 0.005
    found = posterior.optimum(2)
    assert found.high / found.low > 8


def test_a_cliff_far_from_the_optimum_hardly_moves_it():
    points = planted(rising, sd=0.002)
    fallen = [point._replace(value=0.2) if point.lam > 20 else point for point in points]
    assert fit_posterior(fallen, SPAN).best(4) == pytest.approx(rising(4), rel=0.2)


def test_units_of_the_value_and_of_lambda_do_not_matter():
    points = planted(rising, sd=0.004)
    other = [Point(10 * p.width, 100 * p.lam, 1000 * p.value - 7) for p in points]
    plain, scaled = fit_posterior(points, SPAN), fit_posterior(other, (50.0, 3200.0))
    assert scaled.best(20) == pytest.approx(100 * plain.best(2))
    assert scaled.value(20, [300.0])[0] == pytest.approx(1000 * plain.value(2, [3.0])[0] - 7)
    assert scaled.value(20, [300.0])[1] == pytest.approx(1000 * plain.value(2, [3.0])[1])


def test_thousands_of_trials_fill_no_more_cells_than_one_matrix_can_hold():
    """What a suggestion costs grows with the cube of the number of cells, not of trials."""
    lams = np.geomspace(*SPAN, 1000)
    points = [Point(width, lam, 0.5) for width in (16, 32, 64, 128, 256) for lam in lams]
    trials = pool(points, *np.log(SPAN))
    assert trials.repeats.sum() == 5000
    assert len(trials.value) <= CELLS + 5  # each width's highest lambda lies in a cell of its own


def test_replicates_are_pooled_and_tell_the_noise():
    random = np.random.default_rng(0)
    points = [
        Point(2, float(lam), 0.6 + 0.01 * random.standard_normal())
        for lam in LAMS[::6]
        for _ in range(40)
    ]
    trials = pool(points, *np.log(SPAN))
    assert trials.repeats.tolist() == [40, 40, 40]
    posterior = fit_posterior(points, SPAN)
    assert (posterior.weights[:, None] * posterior.shapes).sum(axis=0)[
        2
    ] * trials.unit == pytest.approx(0.01, rel=0.2)
    assert posterior.value(2, LAMS[[6]])[1] == pytest.approx(0.01 / math.sqrt(40), rel=0.3)


def test_evidence_is_the_log_density_of_a_gaussian():
    trials = pool(planted(rising, sd=0.004, lams=LAMS[::3]), *np.log(SPAN))
    whole = covariance(SHAPES, trials.inputs, trials.inputs) + noise(trials)[:, :, None] * np.eye(
        len(trials.value)
    )
    residual = trials.value + SHAPES[:, :1] * trials.inputs.x**2
    found = log_evidence(whole, residual, trials)
    for k in (0, 20, 83):
        quadratic = residual[k] @ np.linalg.solve(whole[k], residual[k])
        assert found[k] == pytest.approx(
            -0.5 * (quadratic + np.linalg.slogdet(whole[k])[1]), rel=1e-6
        )


def test_the_prior_covariance_is_that_of_the_written_model():
    """Drawn from its definition: heights, optimum, deviations and rest, at two places of two
    widths."""
    from robsearch.laws import gaussian_process as model

    random, n = np.random.default_rng(0), 200_000
    at = model.Inputs(np.array([-0.7, 0.7]), np.array([-0.4, 0.3]))
    c, spread = 4.0, 0.1
    height = model.HEIGHT_SD * random.standard_normal(
        (n, 1)
    ) + model.WIDTH_HEIGHT_SD * random.standard_normal((n, 2))
    optimum = (
        model.OPTIMUM_SD * random.standard_normal((n, 1))
        + model.SLOPE_SD * random.standard_normal((n, 1)) * at.t
    )
    optimum = optimum + spread * random.standard_normal((n, 2))
    values = height + 2 * c * at.x * optimum + model.REST_SD * random.standard_normal((n, 2))
    expected = model.covariance(np.array([c, spread, 1.0]), at, at)
    assert np.cov(values.T) == pytest.approx(expected, rel=0.02)


# --- where to try next ---


def test_thompson_draws_scatter_with_what_is_unknown():
    random = np.random.RandomState(0)
    unsure, sure = (
        fit_posterior(planted(rising, (1,)), SPAN),
        fit_posterior(planted(rising, (1, 2, 4, 8)), SPAN),
    )
    wide, narrow = (
        np.std([math.log(b.thompson(8, random)) for _ in range(50)]) for b in (unsure, sure)
    )
    assert narrow < 0.15 < wide


def test_the_knowledge_gradient_asks_where_nothing_is_known():
    """With the left half of the range told, the right half is asked for, and then not the same
    place again."""
    posterior = fit_posterior(
        planted(lambda width: 8.0, (2,), lams=np.geomspace(0.5, 3, 12), sd=0.001), SPAN
    )
    first = posterior.knowledge_gradient(2)
    assert first > 4
    second = posterior.knowledge_gradient(2, running=[(2, first)])
    assert abs(math.log(second / first)) > 0.2


def test_suggestions_stay_in_the_span():
    posterior = fit_posterior(planted(lambda width: 200.0, (2,)), SPAN)
    random = np.random.RandomState(0)
    drawn = [posterior.thompson(2, random) for _ in range(20)]
    drawn += [posterior.best(2), posterior.knowledge_gradient(2)]
    assert all(0.5 <= lam <= 32 for lam in drawn)
    assert posterior.best(2) == pytest.approx(32)
    assert "highest lambda searched" in posterior.optimum(2).censored


def test_the_grid_covers_the_range_in_equal_steps():
    assert (GRID[0], GRID[-1]) == (-0.5, 0.5)
    assert np.diff(GRID) == pytest.approx(1 / 64)


def test_refusals_name_every_problem():
    with pytest.raises(InputError) as refused:
        fit_posterior([Point(0, 1.0, 0.5), Point(2, 1.0, math.nan), Point(2, 1.0, 0.5)], (3.0, 2.0))
    assert len(str(refused.value).splitlines()) >= 3
    assert "0 < low < high" in str(refused.value)
    with pytest.raises(InputError, match="width"):
        fit_posterior([], SPAN).best(0)
    with pytest.raises(InputError, match="lambda"):
        fit_posterior([], SPAN).value(2, [-1.0])
