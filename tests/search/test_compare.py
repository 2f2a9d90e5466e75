"""Searches side by side: rows by width, intervals one can check by hand, and what may not be
compared."""

import io
import json
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compared_searches import MEASURES, SETTING, search, trial
from made_ladders import made
from rich.console import Console
from typer.testing import CliRunner

import robsearch
from robsearch import InputError, cli, compare
from robsearch.metrics import wilson
from robsearch.report import write as write_report
from robsearch.search.commands.compare import comparison_parts
from robsearch.study import SearchRecord, open_storage
from robsearch.trials.ladder.files import write


@pytest.fixture
def two(tmp_path):
    """One search of two widths, and one of the wider width alone with three seeds."""
    first = [trial(4, 0, 0.3), trial(4, 1, 0.4), trial(8, 0, 0.6)]
    seeds = [
        trial(8, 0, value, trial=f"w8-000-r{r}", replicate=r, **{"test/robust_accuracy": rate})
        for r, (value, rate) in enumerate([(0.6, 0.5), (0.7, 0.6), (0.65, 0.7)])
    ]
    return search(tmp_path, "one", first), search(
        tmp_path, "two", seeds, widths=(8,), objective="MART()"
    )


def test_a_row_for_each_width_and_search_thin_to_wide_with_the_best_trial(two):
    rows = compare(*two).rows
    assert list(zip(rows["width"], rows["search"], rows["trial"], strict=True)) == [
        (4, "one", "w4-001"),
        (8, "one", "w8-000"),
        (8, "two", "w8-000-r1"),
    ]
    assert list(rows["lam"]) == [2.0, 1.0, 1.0]
    assert list(rows["trials"]) == [2, 1, 3]


def test_rates_have_wilsons_interval_over_the_test_images(two):
    row = compare(*two).rows.iloc[0]
    assert row["test/robust_accuracy"] == 0.5
    assert (row["test/robust_accuracy_low"], row["test/robust_accuracy_high"]) == wilson(0.5, 100)
    assert row["test/robust_accuracy_low"] == pytest.approx(0.4038, abs=1e-4)


def test_measures_have_the_normal_interval_over_the_images_measured(two):
    row = compare(*two).rows.iloc[0]
    assert row["test/lipschitz/logit_ratio/mean_low"] == pytest.approx(10 - 1.959964 * 0.5)
    assert row["test/margin/logit/mean_high"] == pytest.approx(2 + 1.959964 * 0.1)


def test_seeds_have_students_interval(two):
    rows = compare(*two).rows
    assert list(rows["seeds"]) == [1, 1, 3]
    column = "over_seeds/test/robust_accuracy"
    assert rows[column].isna().tolist() == [True, True, False]
    assert rows[column][2] == pytest.approx(0.6)
    assert rows[f"{column}_high"][2] - 0.6 == pytest.approx(
        4.302653 * 0.1 / math.sqrt(3)
    )  # t of 2 degrees of freedom


def test_the_cost_of_a_width_counts_all_that_was_searched_there_but_no_control(tmp_path):
    trials = [
        trial(4, 0, 0.3),
        trial(4, 1, 0.1, state="PRUNED", suggestion="PRUNED", seconds=5.0),
        trial(4, 0, 0.2, trial="w4-scout-000", rung="scout", seconds=1.0),
        trial(4, 0, 0.2, trial="w4-standard-000", control="standard", seconds=100.0),
    ]
    row = compare(search(tmp_path, "s", trials, widths=(4,))).rows.iloc[0]
    assert (row["trial_seconds"], row["width_seconds"]) == (10.0, 16.0)


def test_lambda_star_is_the_ridges(tmp_path):
    peaks = {4: 1.0, 8: 2.0}
    trials = [
        trial(width, n, 0.6 - 0.05 * (n - 3 - peaks[width]) ** 2 + 0.001 * (-1) ** n)
        for width in (4, 8)
        for n in range(8)
    ]
    one = search(tmp_path, "s", [each for each in trials if each["value"] > 0])
    for _, row in compare(one).rows.iterrows():
        optimum = one.ridge.optimum(row["width"])
        assert (row["lam_star"], row["lam_star_low"], row["lam_star_high"]) == optimum[1:4]
        assert optimum.low < 2 ** (3 + peaks[row["width"]]) < optimum.high


def test_a_width_in_which_nothing_has_finished_is_a_row_of_gaps(tmp_path):
    one = search(
        tmp_path, "s", [trial(4, 0, 0.3), trial(8, 0, 0.1, state="RUNNING", suggestion="RUNNING")]
    )
    comparison = compare(one)
    row = comparison.rows.iloc[1]
    assert "nan" not in text(comparison, 120)
    assert row[["trial", "lam", "test/robust_accuracy", "test/margin/logit/mean"]].isna().all()
    assert comparison.notes == ("s: 1 of 2 trials ended",)


def test_what_differs_between_the_searches_is_said(two):
    assert compare(*two).differences == {"objective": {"one": "TRADES()", "two": "MART()"}}


def test_a_seed_that_collapsed_is_one_of_the_seeds(tmp_path):
    """Without it the mean over seeds would be too good; with it the mean is that of
    `Search.suggestions`."""
    rates = (0.50, 0.52, 0.10)
    seeds = [
        trial(
            4,
            0,
            rate,
            trial=f"w4-000-r{seed}",
            replicate=seed,
            collapsed=rate < 0.2,
            feasible=rate != 0.50,
        )
        for seed, rate in enumerate(rates)
    ]
    one = search(
        tmp_path,
        "s",
        [{**each, "test/robust_accuracy": each["value"]} for each in seeds],
        widths=(4,),
    )
    comparison = compare(one)
    row = comparison.rows.iloc[0]
    assert (row["trial"], row["seeds"]) == ("w4-000-r1", 3)
    assert row["over_seeds/test/robust_accuracy"] == pytest.approx(sum(rates) / 3)
    assert "s, width 4: 1 seed of w4-000-r1's suggestion collapsed" in comparison.notes
    assert (
        "37.3"
        in write_report(one, tmp_path / "page.html")
        .read_text()
        .split("Mean over its seeds")[1][:2000]
    )


def test_notes_on_several_metrics_and_missed_constraints(tmp_path):
    front = search(
        tmp_path,
        "front",
        [trial(4, 0, 0.3)],
        widths=(4,),
        maximise=("val/robust_accuracy", "val/stability"),
    )
    bound = search(tmp_path, "bound", [trial(4, 0, 0.3, feasible=False)], widths=(4,))
    assert compare(front, bound).notes == (
        "front seeks several metrics: the trial shown is the best in val/robust_accuracy",
        "bound, width 4: no trial meets the constraints",
    )


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"test attack": "PGD(eps=0.3)"},
            "the same test attack in all searches, got PGD(eps=0.15) in a, PGD(eps=0.3) in b",
        ),
        (
            {"data": "CIFAR10(root=None)"},
            "the same data set in all searches, got Digits in a, CIFAR10 in b",
        ),
        ({"test examples": "99"}, "the same test examples in all searches"),
        ({"labels": (0, 2, 1)}, "the same test labels in all searches"),
    ],
)
def test_searches_that_were_judged_otherwise_are_refused(tmp_path, other, said):
    a, b = (
        search(tmp_path, "a", [trial(4, 0, 0.3)]),
        search(tmp_path, "b", [trial(4, 0, 0.3)], **other),
    )
    with pytest.raises(InputError) as error:
        compare(a, b)
    assert said in str(error.value)


def judged_by(tmp_path, name, attack, *ladders):
    """A search of one trial at each width, of which the first have a ladder."""
    trials = [trial(4, 0, 0.3), trial(8, 0, 0.4)]
    made_search = search(tmp_path, name, trials, **{"test attack": attack})
    for each, ladder in zip(trials, ladders, strict=False):
        write(made_search.folder / "trials" / each["trial"] / "ladder.parquet", ladder)
    return made_search


def test_other_test_attacks_are_compared_by_the_ladder_that_all_best_trials_climbed(tmp_path):
    thin = made(["wrong", "pgd", "apgd-t", None])
    wide = made(["wrong", None, None, None])
    old = judged_by(tmp_path, "old", "PGD(eps=0.15)", thin, wide)
    new = judged_by(tmp_path, "new", "TwoLosses(eps=0.15)", wide, made([None] * 4, rungs=("pgd",)))
    comparison = compare(old, new)
    rows = comparison.rows.set_index(["search", "width"])
    assert "the ladder's rung pgd" in comparison.notes[0]
    assert "under its own attack" in comparison.notes[0]
    assert rows.loc[("old", 4.0), "test/natural_accuracy"] == 0.75
    assert rows.loc[("old", 4.0), "test/robust_accuracy"] == 0.5
    assert rows.loc[("old", 8.0), "test/robust_accuracy"] == 0.75
    assert rows.loc[("new", 8.0), "test/robust_accuracy"] == 1.0
    low, high = (rows.loc[("old", 4.0), f"test/robust_accuracy_{end}"] for end in ("low", "high"))
    assert (low, high) == wilson(0.5, 4)
    assert rows["test/stability"].isna().all()
    assert rows["over_seeds/test/robust_accuracy"].isna().all()


def test_other_test_attacks_without_a_common_ladder_are_refused_with_the_way_out(tmp_path):
    whole = [made([None]), made([None])]
    old = judged_by(tmp_path, "old", "PGD(eps=0.15)", *whole)
    half = judged_by(tmp_path, "half", "TwoLosses(eps=0.15)", made([None]))
    with pytest.raises(InputError, match="`robsearch evaluate NAME --rung two-losses`"):
        compare(old, half)
    other = judged_by(tmp_path, "other", "TwoLosses(eps=0.3)", *[made([None], eps=0.3)] * 2)
    with pytest.raises(InputError, match="the images and the attack of old/w4-000 for other/w4"):
        compare(old, other)
    elsewhere = search(
        tmp_path, "elsewhere", [trial(4, 0, 0.3)], data="CIFAR10()", **{"test attack": "FGSM()"}
    )
    with pytest.raises(InputError) as error:
        compare(old, elsewhere)
    assert len(error.value.problems) == 2


def test_searches_trained_on_other_images_but_judged_on_the_same_are_marked(tmp_path):
    noisy = search(tmp_path, "b", [trial(4, 0, 0.3)], data="Digits(train=500, label_noise=0.3)")
    assert list(compare(search(tmp_path, "a", [trial(4, 0, 0.3)]), noisy).differences) == ["data"]


def test_no_search_and_one_twice_are_refused(two):
    with pytest.raises(InputError, match="searches of different names, got none"):
        compare()
    with pytest.raises(InputError, match="got one, one"):
        compare(two[0], two[0])


def test_csv_and_parquet_hold_the_same(two, tmp_path):
    comparison = compare(*two)
    csv, parquet = comparison.write(tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_csv(csv), comparison.rows, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), comparison.rows, check_dtype=False)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"to write in .*--out"):
        comparison.write(tmp_path / "file")


def text(comparison, width):
    console = Console(width=width, record=True, file=io.StringIO())
    for part in comparison_parts(comparison):
        console.print(part, highlight=False, markup=False)
    return console.export_text()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_table_cuts_no_number_off(two, tmp_path, width):
    long = search(
        tmp_path, "a-name-that-is-longer-than-most-names", [trial(8, 0, 0.6)], widths=(8,)
    )
    said = text(compare(*two, long), width)
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= width
    for number in ("w8-000-r1", "40.4..59.6", "9.02..11", "1.8..2.2", "TRADES()"):
        assert number in said


SPACE = {
    "lambda": "Fixed(value=searched)",
    "objective": "TRADES() or MART()",
    "optimiser": "SGD(lr=searched)",
}
TRIED = {"param/lam": 2.0, "param/lr": 0.125, "param/objective": "mart"}


def test_every_searched_parameter_of_the_best_trial_is_shown(tmp_path):
    comparison = compare(search(tmp_path, "a", [trial(4, 0, 0.3, **TRIED)], widths=(4,), **SPACE))
    assert comparison.rows.iloc[0][list(TRIED)].to_dict() == TRIED
    assert "w4-000 of a: lam 2, lr 0.125, objective mart\n" in text(comparison, 80)


def test_spaces_differ_by_their_ranges_and_an_old_search_that_kept_its_first_suggestion_by_nothing(
    tmp_path,
):
    one, other = ({**SPACE, "range of lr": text} for text in ("0.01 to 1, log", "0.1 to 1, log"))
    new = search(tmp_path, "a", [trial(4, 0, 0.3, **TRIED)], **one)
    assert compare(
        new, search(tmp_path, "b", [trial(4, 0, 0.3, **TRIED)], **other)
    ).differences == {"range of lr": {"a": "0.01 to 1, log", "b": "0.1 to 1, log"}}
    old = search(
        tmp_path, "c", [trial(4, 0, 0.3, **TRIED)], objective="MART()", optimiser="SGD(lr=0.21)"
    )
    older = search(
        tmp_path, "d", [trial(4, 0, 0.3, **TRIED)], objective="TRADES()", optimiser="SGD(lr=0.12)"
    )
    comparison = compare(new, old, older)
    assert comparison.differences == {}
    assert comparison.notes[0].startswith("c recorded its first suggestion")


def test_a_searched_test_attack_may_be_that_of_one_suggestion(tmp_path):
    new = search(tmp_path, "a", [trial(4, 0, 0.3)], **SPACE, **{"test attack": "PGD(eps=searched)"})
    assert compare(new, search(tmp_path, "b", [trial(4, 0, 0.3, **TRIED)])).differences == {}


def test_the_measures_are_named_and_missing_ones_are_dashes(two, tmp_path):
    bare = [{k: v for k, v in trial(8, 0, 0.5).items() if k not in MEASURES}]
    comparison = compare(two[1], search(tmp_path, "bare", bare, widths=(8,)))
    assert comparison.measures == ["test/lipschitz/logit_ratio/mean", "test/margin/logit/mean"]
    said = text(comparison, 200)
    assert "lipschitz logit_ratio" in said
    last = said.partition("The same trials on test")[2].splitlines()
    assert next(line for line in last if "bare" in line).split()[-2:] == ["-", "-"]


def test_the_searchs_own_frames_are_tables_too(two):
    one = two[0]
    assert one.table("trials").to_pandas()["trial"].tolist() == one.trials["trial"].tolist()
    assert one.table("epochs", "w8-000").num_rows == 1
    assert repr(one).startswith("Search('one': 3 of 3 trials ended, widths 4, 8, ")


def test_compare_on_the_command_line(tmp_path):
    record = SearchRecord("s", "m:n", (4,), 0, 1, "sqlite:///m.db", SETTING)
    record.create(open_storage(None, tmp_path / "s"))
    options = ["compare", "s", "--results", str(tmp_path)]
    said = CliRunner().invoke(cli.app, options)
    assert said.exit_code == 0
    assert f"written: {tmp_path / 'comparison.csv'}" in said.output
    told = json.loads(
        CliRunner().invoke(cli.app, [*options, "--json", "--out", str(tmp_path / "o")]).output
    )
    assert told["rows"][0]["search"] == "s"
    assert told["rows"][0]["lam"] is None
    assert told["files"] == [
        str(tmp_path / "o" / f"comparison.{end}") for end in ("csv", "parquet")
    ]
    assert robsearch.load_search("s", tmp_path).trials.empty


def test_a_choice_of_numbers_and_words_is_words_in_a_table(tmp_path):
    rows = [
        trial(4, n, 0.3, **{"param/depth": depth, "param/x": x})
        for n, (depth, x) in enumerate([(2, 1), ("deep", 2)])
    ]
    table = search(tmp_path, "one", rows, widths=(4,)).table("trials")
    assert table["param/depth"].to_pylist() == ["2", "deep"]
    assert table["param/x"].to_pylist() == [1, 2]
    assert table["control"].to_pylist() == [None, None]


def test_the_layers_are_those_of_the_best_trial_of_each_width(two):
    one, _ = two
    assert one.layers.empty
    for name, mean in (("w4-000", 9.0), ("w4-001", 1.0)):
        table = pa.table(
            {
                "measure": ["norms/linf"],
                "layer": ["a"],
                "position": [0],
                "values": [[mean]],
                "mean": [mean],
            }
        )
        pq.write_table(table, one.folder / "trials" / name / "layers.parquet")
    assert one.layers.to_dict("records") == [
        {
            "trial": "w4-001",
            "measure": "norms/linf",
            "layer": "a",
            "position": 0,
            "mean": 1.0,
            "width": 4,
        }
    ]
