"""Pages of large searches: what is drawn and listed of thousands of trials, and what stays."""

import numpy as np
import pandas as pd
from planted_searches import bare, cells, piece, searched, trial

from robsearch.report.evidence import Evidence
from robsearch.report.response import accuracy_against_lam
from robsearch.report.thinning import MOST_DRAWN, uncovered
from robsearch.report.trials import MOST_LISTED, all_trials


def large(count):
    """A search of so many trials at each of two widths, over the same lambdas."""
    lams = np.geomspace(0.5, 32.0, count)
    return searched([trial(w, n, float(lam)) for w in (4.0, 16.0) for n, lam in enumerate(lams)])


def rows_at(x, y):
    return pd.DataFrame({"width": 1.0, "x": x, "y": y})


def drawn_of(rows, always=False):
    return uncovered(rows, rows["x"], rows["y"], pd.Series(always, rows.index))


def test_all_of_few_trials_are_drawn_also_where_they_cover_each_other():
    assert drawn_of(rows_at(np.zeros(MOST_DRAWN), 0.0)).all()


def test_of_trials_at_two_places_the_last_of_each_is_drawn():
    rows = rows_at(np.repeat([0.0, 1.0], MOST_DRAWN), 0.5)
    assert list(rows.index[drawn_of(rows)]) == [MOST_DRAWN - 1, 2 * MOST_DRAWN - 1]


def test_what_is_drawn_of_a_cloud_spans_it_and_leaves_out_none_that_must_be_drawn():
    random = np.random.default_rng(0)
    rows = rows_at(random.uniform(size=10_000), random.uniform(size=10_000))
    drawn = rows[drawn_of(rows)]
    assert MOST_DRAWN / 2 < len(drawn) <= MOST_DRAWN
    assert drawn[["x", "y"]].min().max() < 0.1
    assert drawn[["x", "y"]].max().min() > 0.9
    always = pd.Series(rows.index == 5_000, rows.index)
    assert uncovered(rows, rows["x"], rows["y"], always)[5_000]


def test_a_piece_of_a_search_of_a_thousand_trials_is_no_larger_than_one_of_three_hundred():
    few, many = large(150), large(500)
    for make in (accuracy_against_lam, all_trials):
        assert len(piece(make, many)) < 1.3 * len(piece(make, few))


def test_the_table_of_a_large_search_lists_the_best_of_each_width_and_says_what_it_leaves_out():
    search = large(500)
    page = piece(all_trials, search)
    table = bare(page)
    assert [cells(page, name)[0] for name in Evidence.of(search).bests["trial"]] == ["best"] * 2
    assert f"{1000 - MOST_LISTED:,} other trials would make the page too long" in table
    assert "width 4: 500 trials" in table
    assert "would make the page too long" not in bare(piece(all_trials, large(150)))
