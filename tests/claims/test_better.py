"""Whether one search is better than another: by images and by seeds, on numbers done by hand."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compared_searches import search, trial
from scipy import stats

from robsearch.claims.better import better, difference_lines

IMAGES = 400


def with_rights(made, rights):
    """The search, with which images each of its trials has right under attack."""
    for name, robust in rights.items():
        robust = np.asarray(robust, dtype=float)
        table = pa.table(
            {
                "index": list(range(len(robust))),
                "label": [0] * len(robust),
                "robust_accuracy": robust,
                "natural_accuracy": np.ones(len(robust)),
            }
        )
        pq.write_table(table, made.folder / "trials" / name / "test.parquet")
    return made


def first(count, of=IMAGES):
    return np.arange(of) < count


def seeded(folder, name, counts, seeds):
    """One suggestion with several seeds, of which each has so many images right."""
    trials = [
        trial(4, 0, 0.5, trial=f"w4-000-r{i}", replicate=i, seed=seed)
        for i, seed in enumerate(seeds)
    ]
    made = search(folder, name, trials, widths=(4,))
    rights = {f"w4-000-r{i}": first(count) for i, count in enumerate(counts)}
    return with_rights(made, rights)


def single(folder, name, count, seconds=10.0):
    made = search(folder, name, [trial(4, 0, 0.5, seconds=seconds)], widths=(4,))
    return with_rights(made, {"w4-000": first(count)})


def robust(differences):
    return next(each for each in differences if each.metric == "test/robust_accuracy")


def test_two_networks_are_paired_over_the_images(tmp_path):
    difference = robust(better(single(tmp_path, "a", 240, 20.0), single(tmp_path, "b", 200)))
    # 40 images of 400 differ, all in favour of a. Agresti and Min: half an image more in each of
    # the four cells, so 40.5 and 0.5 of 402.
    larger = IMAGES + 2
    error = math.sqrt(41 - 40**2 / larger) / larger
    assert difference.points == pytest.approx(10)
    assert difference.low == pytest.approx(100 * (40 / larger - 1.959964 * error), abs=1e-3)
    assert (difference.over, difference.seeds, difference.images) == ("images", (1, 1), IMAGES)
    assert difference.answer == "a is better"
    assert difference.times_as_long == 2
    # Unpaired, two shares of 0.6 and 0.5 have three times the variance.
    unpaired = math.sqrt(0.6 * 0.4 / IMAGES + 0.5 * 0.5 / IMAGES)
    assert difference.points - difference.low < 100 * 1.96 * unpaired / 1.5


def test_natural_accuracies_that_are_equal_show_no_difference(tmp_path):
    differences = better(single(tmp_path, "a", 240), single(tmp_path, "b", 200))
    (natural,) = [each for each in differences if each.metric == "test/natural_accuracy"]
    assert natural.points == 0
    assert natural.low == -natural.high < 0
    assert natural.answer == "no difference is shown"


def test_four_images_of_400_do_not_tell_which_is_better(tmp_path):
    # The exact test of McNemar has p = 0.125 for 4 of 4.
    difference = robust(better(single(tmp_path, "a", 204), single(tmp_path, "b", 200)))
    assert difference.points == pytest.approx(1)
    assert difference.answer == "no difference is shown"


def test_seeds_that_all_agree_are_no_certainty(tmp_path):
    a = seeded(tmp_path, "a", (201, 201, 201), (1, 2, 3))
    b = seeded(tmp_path, "b", (200, 200, 200), (4, 5, 6))
    difference = robust(better(a, b))
    assert difference.over == "images"
    assert difference.low < 0 < difference.high
    (line, _) = difference_lines(better(a, b))
    assert "means over 3 and over 3 seeds, 400 images" in line


def test_the_seeds_that_are_counted_are_those_that_both_have(tmp_path):
    a = seeded(tmp_path, "a", (208, 210, 212, 300), (1, 2, 3, 4))
    b = seeded(tmp_path, "b", (200, 200, 200, 200), (1, 2, 3, 9))
    difference = robust(better(a, b))
    assert (difference.over, difference.seeds) == ("seeds and images", (3, 3))
    assert difference.points == pytest.approx(2.5)


def test_seeds_that_both_have_are_paired(tmp_path):
    # Seeds differ by 100 images, the searches by 8, 10 and 12: only paired is that seen.
    a = seeded(tmp_path, "a", (108, 210, 312), (1, 2, 3))
    b = seeded(tmp_path, "b", (100, 200, 300), (1, 2, 3))
    difference = robust(better(a, b))
    assert difference.over == "seeds and images"
    assert difference.points == pytest.approx(2.5)
    assert difference.answer == "a is better"
    unpaired = robust(better(a, seeded(tmp_path, "c", (100, 200, 300), (4, 5, 6))))
    assert unpaired.over == "seeds"
    assert unpaired.points == pytest.approx(2.5)
    assert unpaired.answer == "no difference is shown"
    welch = stats.ttest_ind([0.27, 0.525, 0.78], [0.25, 0.5, 0.75], equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert (unpaired.low, unpaired.high) == pytest.approx((100 * low, 100 * high))


def test_the_other_way_round_is_the_same_with_the_other_sign(tmp_path):
    a, b = single(tmp_path, "a", 240), single(tmp_path, "b", 200)
    forward, backward = robust(better(a, b)), robust(better(b, a))
    assert backward.points == -forward.points
    assert (backward.low, backward.high) == (-forward.high, -forward.low)
    assert backward.answer == forward.answer == "a is better"


def test_where_images_are_not_known_nothing_is_said(tmp_path):
    plain = search(tmp_path, "plain", [trial(4, 0, 0.5)], widths=(4,))
    assert better(plain, single(tmp_path, "a", 240)) == []
    other_width = search(tmp_path, "wide", [trial(8, 0, 0.5)], widths=(8,))
    assert better(single(tmp_path, "b", 240), other_width) == []


def test_what_is_printed_names_both_and_says_what_the_interval_is_over(tmp_path):
    lines = list(difference_lines(better(single(tmp_path, "a", 240), single(tmp_path, "b", 200))))
    assert lines[0].startswith("width 4: a is better: a less b +10.0 [+7.0, +12.9] points robust")
    assert "one network each, 400 images: other seeds may differ more" in lines[0]
    assert lines[0].endswith("in 1 times the training time")
