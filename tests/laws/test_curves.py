"""Curves of one width, by hand."""

import numpy as np
import pytest

from robsearch.laws.curves import (
    asymmetric,
    cell_means,
    cells_of,
    collapsed,
    cubic,
    near_peak,
    parabolas,
)

U = np.linspace(-2.0, 3.0, 11)
GRID = np.linspace(-2.0, 3.0, 81)
ONES = np.ones(len(U))


def both(values, counts=ONES):
    """The peaks of both families through values at ``U``."""
    return [family(U, values[:, None], counts, GRID)[0][0] for family in (cubic, asymmetric)]


def test_a_parabolas_peak_is_found_by_both_families():
    assert both(0.5 - 0.02 * (U - 0.4) ** 2) == pytest.approx([0.4, 0.4], abs=1e-3)


def test_a_skewed_parabolas_peak_is_found_by_the_family_that_has_two_curvatures():
    values = 0.5 + parabolas(U, np.array([0.5]), np.array([-0.002]), np.array([-0.03]))[:, 0]
    of_cubic, of_asymmetric = both(values)
    assert of_asymmetric == pytest.approx(0.5, abs=0.02)
    # The cubic is drawn to the shallow side.
    assert of_cubic < 0.4


def test_a_cubics_peak_is_where_its_derivative_is_zero():
    """x - x^3 / 3 has the derivative 1 - x^2: its peak is at 1. Below -2 it is higher again."""
    values = 0.5 + 0.01 * (U - U**3 / 3)
    grid = GRID[1:]
    peaks, heights = cubic(U, values[:, None], ONES, grid)
    assert peaks[0] == pytest.approx(1.0, abs=1e-2)
    assert heights[:, 0] == pytest.approx(0.5 + 0.01 * (grid - grid**3 / 3))


def test_the_asymmetric_curve_goes_through_what_it_fits():
    truth = 0.5 + parabolas(GRID, np.array([0.5]), np.array([-0.002]), np.array([-0.03]))[:, 0]
    values = np.interp(U, GRID, truth)
    _, heights = asymmetric(U, values[:, None], ONES, GRID)
    assert heights[:, 0] == pytest.approx(truth, abs=5e-4)


@pytest.mark.parametrize(("slope", "edge"), [(0.01, 3.0), (-0.01, -2.0)])
def test_what_only_rises_or_falls_peaks_at_an_edge(slope, edge):
    assert both(0.5 + slope * U) == pytest.approx([edge, edge])


def test_more_trainings_of_a_cell_draw_the_curve():
    values = 0.5 - 0.02 * U**2
    values[U == 1.0] += 0.02
    light = both(values)
    heavy = both(values, np.where(U == 1.0, 20.0, 1.0))
    assert (np.array(heavy) > light).all()


# --- cells ---


def test_effects_of_seeds_are_taken_out_of_an_incomplete_table():
    """Cells 0.1, 0.2, 0.3; the second seed is 0.06 better and missed the first cell."""
    cell = np.array([0, 1, 2, 1, 2])
    seed = np.array([0, 0, 0, 1, 1])
    value = np.array([0.1, 0.2, 0.3, 0.26, 0.36])
    assert cell_means(cell, value, seed) == pytest.approx([0.13, 0.23, 0.33])


def test_cells_of_one_seed_have_their_plain_means_however_many_there_are():
    """Least squares would solve for 20,001 unknowns, in a table of 3 GB."""
    cell = np.repeat(np.arange(20_000), 2)
    value = np.tile([0.2, 0.4], 20_000)
    assert cell_means(cell, value, np.zeros(40_000)) == pytest.approx(np.full(20_000, 0.3))


def test_a_cell_without_trainings_has_no_mean():
    means = cell_means(np.array([0, 1]), np.array([0.1, 0.2]), np.zeros(2), np.array([True, False]))
    assert np.isnan(means).tolist() == [False, True]


def test_the_jackknife_leaves_out_one_seed_at_a_time():
    u = np.tile(U[:5], 3)
    seed = np.repeat([0, 1, 2], 5)
    value = 0.5 + np.arange(15) / 1000
    cells = cells_of(u, value, seed, jackknife=True)
    table = value.reshape(3, 5)
    without = [np.delete(table, left, axis=0) for left in range(3)]
    expected = [seeds.mean(axis=0) for seeds in (table, *without)]
    assert cells.values == pytest.approx(np.column_stack(expected))
    assert cells.counts.tolist() == [3.0] * 5


def test_lambdas_that_lose_more_than_five_points_do_not_bend_the_curve():
    means = np.array([0.40, 0.56, 0.58, 0.60, 0.59, 0.57, 0.53, 0.30])
    assert near_peak(means).tolist() == [False, True, True, True, True, True, False, False]


def test_one_unlucky_training_among_good_ones_stays():
    means = np.array([0.57, 0.58, 0.53, 0.60, 0.59, 0.58])
    assert near_peak(means).all()


def test_there_are_always_five_lambdas_as_far_as_there_are_so_many():
    assert near_peak(np.array([0.1, 0.3, 0.6, 0.3, 0.1, 0.05])).sum() == 5
    assert near_peak(np.array([0.1, 0.6, 0.3])).all()


def test_a_training_below_half_of_the_best_has_collapsed():
    assert collapsed(np.array([0.6, 0.6, 0.6, 0.31, 0.29])).tolist() == [False] * 4 + [True]


def test_a_collapsed_training_moves_nothing():
    u = np.tile(U, 2)
    seed = np.repeat([0, 1], len(U))
    value = np.tile(0.5 - 0.005 * U**2, 2)
    spoiled = value.copy()
    spoiled[-2] = 0.1
    before, after = (cells_of(u, values, seed, jackknife=False) for values in (value, spoiled))
    assert after.values == pytest.approx(before.values)
    assert after.counts.tolist() == [2.0] * 9 + [1.0, 2.0]
    assert not after.kept[-2]
