"""Intervals that hold for other images too, from whether single images are right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from robsearch.claims.images import (
    IMAGES,
    NUMBER,
    accuracy_effect,
    as_bits,
    from_bits,
    image_differences,
    points_apart,
    with_images,
)
from robsearch.claims.statistics import crossed_estimate, estimate

RIGHT = "test/robust_accuracy"


def trials(rights: dict[tuple[int, str], list[int]], width: float = 1.0) -> pd.DataFrame:
    """Of each seed and arm, which images are right."""
    rows = []
    for (seed, arm), images in rights.items():
        bits = as_bits(np.array(images))
        facts = {"seed": seed, "arm": arm, "width": width, RIGHT: np.mean(images)}
        rows.append({**facts, f"{IMAGES}{RIGHT}": bits, NUMBER: len(images)})
    return pd.DataFrame(rows)


def test_bits_are_the_images_whatever_their_number() -> None:
    images = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 1], dtype=float)
    assert len(as_bits(images)) == 2
    assert from_bits(as_bits(images), 10).tolist() == images.tolist()


def test_differences_are_of_each_seed_and_image() -> None:
    table = trials(
        {
            (0, "a"): [1, 1, 0],
            (0, "b"): [1, 0, 0],
            (1, "a"): [0, 1, 1],
            (1, "b"): [1, 1, 1],
            (2, "a"): [1, 1, 1],  # without a partner
        }
    )
    assert image_differences(table, RIGHT, "a", "b").tolist() == [[0, 1, 0], [-1, 0, 0]]
    assert image_differences(table, RIGHT, "a", "a").tolist() == [[0, 0, 0]] * 3
    both = pd.concat([table, trials({(0, "a"): [1, 1, 1], (0, "b"): [0, 0, 0]}, width=2.0)])
    assert image_differences(both, RIGHT, "a", "b")[0].tolist() == [0.5, 1, 0.5]
    assert image_differences(table.drop(columns=f"{IMAGES}{RIGHT}"), RIGHT, "a", "b") is None


def test_an_effect_has_an_interval_over_images_where_all_of_them_are_known() -> None:
    rng = np.random.default_rng(0)
    rights = {(seed, arm): rng.integers(0, 2, 40).tolist() for seed in range(4) for arm in "ab"}
    table = trials(rights)
    effect = accuracy_effect("a less b", table, RIGHT, "a", "b", 0.25, more=0.5)
    assert effect.exact.mean == pytest.approx(np.mean(effect.per_seed))
    assert effect.exact == crossed_estimate(100 * image_differences(table, RIGHT, "a", "b") + 0.5)
    without = table.assign(**{f"{IMAGES}{RIGHT}": [None, *table[f"{IMAGES}{RIGHT}"][1:]]})
    assert accuracy_effect("a less b", without, RIGHT, "a", "b", 0.25).exact is None
    assert points_apart(without, RIGHT, "a", "b") == estimate(
        [100 * difference for difference in np.array(effect.per_seed) / 100 - 0.005]
    )


def test_seeds_that_agree_leave_the_spread_of_the_images() -> None:
    """Ten images of 0 and 1 by turns, the same with each of four seeds: sd 0.527, over 10 images
    0.1667, with 9 degrees of freedom."""
    found = crossed_estimate(np.tile([0.0, 1.0], (4, 5)))
    reach = stats.t.ppf(0.975, 9) * np.std([0, 1] * 5, ddof=1) / np.sqrt(10)
    assert (found.mean, found.high - found.mean) == (0.5, pytest.approx(reach))


def test_images_that_agree_leave_the_spread_of_the_seeds() -> None:
    values = np.tile([[1.0], [2.0], [4.0]], (1, 50))
    assert crossed_estimate(values) == estimate([1.0, 2.0, 4.0])


def test_below_three_seeds_nothing_is_known() -> None:
    assert crossed_estimate(np.ones((2, 10))).low == -np.inf


@pytest.mark.parametrize(("of_images", "of_seeds"), [(2.0, 0.1), (1.0, 0.3), (0.0, 0.3)])
def test_the_interval_covers_the_truth_where_that_over_seeds_does_not(
    of_images: float, of_seeds: float
) -> None:
    """300 studies of six seeds and 60 images, whose mean is 0."""
    rng = np.random.default_rng(1)
    studies = 300
    covered = np.zeros(2)
    for _ in range(studies):
        seeds = of_seeds * rng.normal(size=(6, 1))
        images = of_images * rng.normal(size=60)
        values = seeds + images + rng.normal(size=(6, 60))
        for place, found in enumerate((crossed_estimate(values), estimate(values.mean(axis=1)))):
            covered[place] += found.low <= 0 <= found.high
    crossed, over_seeds = covered / studies
    # The standard error of a share of 0.95 is 0.013 here.
    assert crossed > 0.91
    if of_images:
        assert over_seeds < 0.9


def test_a_trials_table_gives_its_images_in_order(tmp_path) -> None:
    folder = tmp_path / "w1-000"
    folder.mkdir()
    table = pa.table(
        {
            "index": [1, 0, 2],
            "natural_accuracy": [1.0, 0.0, 1.0],
            "robust_accuracy": [0.0, 0.0, 1.0],
        }
    )
    pq.write_table(table, folder / "test.parquet")
    found = with_images(pd.DataFrame({"trial": ["w1-000", "gone"]}), tmp_path)
    assert from_bits(found[f"{IMAGES}test/natural_accuracy"][0], 3).tolist() == [0, 1, 1]
    assert found[NUMBER].tolist() == [3, None]
    # An earlier version did not keep those of the last epoch.
    assert f"{IMAGES}test_last/robust_accuracy" not in found
