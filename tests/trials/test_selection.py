"""Which trial is best: a net that has collapsed never is, and constraints are met width by width;
one definition."""

import math
import re

import pandas as pd
import pytest
from small_spaces import recipe

from robsearch import MART, TRADES, InputError, compare, load_search
from robsearch.drawing.formatting import exactly, names_of
from robsearch.laws import fit_ridge
from robsearch.report import write as write_report
from robsearch.search.commands.compare import comparison_parts
from robsearch.search.commands.promote import promote
from robsearch.search.commands.status import status_json, status_lines, status_rows
from robsearch.search.commands.targets import Target, finalists
from robsearch.search.grid import Grid
from robsearch.search.options import RunOptions
from robsearch.search.results_store import claim_folder
from robsearch.search.scheduling import scheduler_of
from robsearch.search.summary import answer_lines
from robsearch.search.tables import fitted, points
from robsearch.spaces import AtLeast, Space, Stage
from robsearch.study import SearchRecord, Study, open_storage
from robsearch.trials.selection import has_collapsed, order

VALUE, NATURAL = "val/robust_accuracy", "val/natural_accuracy"


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


def trained(folder, how, outcomes, define=define, maximise=(VALUE,)):
    """A search whose trainings had these outcomes, by width: (robust, natural, parameters), and its
    driver's turns."""
    space = Space(define, tuple(outcomes), maximise=maximise, **how)
    record = SearchRecord("s", "m:n", space.widths, 0, 9, "", {}, maximise, identity="0" * 32)
    claim_folder(folder / "s", record)
    storage = open_storage(None, folder / "s")
    record.create(storage)
    scheduler = scheduler_of(space, record, storage, recipe(4))
    for study, counts in scheduler.counts_of.items():
        for robust, natural, params in outcomes[study.stage.width]:
            study.enqueue(params)
            suggestion = study.ask()
            entry = {
                "epoch": 4,
                VALUE: robust,
                NATURAL: natural,
                "train/lam": suggestion.recipe.lam.value,
            }
            told = study.complete(suggestion, entry, entry)
            counts.states["COMPLETE"] += 1
            counts.finished(told.trial.order, told.trial.lam, suggestion.params)
            attempt = folder / "s" / "trials" / suggestion.trial / "a1" / "epoch-0004"
            attempt.mkdir(parents=True)
    return load_search("s", folder), scheduler, space


def lam(value):
    return {"lam": value}


def test_a_collapse_is_less_than_a_twentieth_of_the_way_from_the_commonest_class_to_1():
    assert has_collapsed(0.1449, 0.1)  # 0.1 + 0.05 * 0.9
    assert not has_collapsed(0.1451, 0.1)
    assert has_collapsed(0.90, 0.90)
    assert not has_collapsed(0.91, 0.90)
    assert not has_collapsed(math.nan, 0.1)
    assert not has_collapsed(0.1, math.nan)


def test_the_order_is_soundness_then_constraints_then_the_value():
    orders = [order(0.6), order(0.5, True, False), order(0.9, True, True), order(0.8, False, False)]
    assert [each.value for each in sorted(orders)] == [0.9, 0.8, 0.5, 0.6]


def test_of_equal_trials_the_first_suggested_is_the_best_however_late_it_ends():
    assert order(0.6, trial="w4-002") > order(0.6, trial="w4-010") > order(0.59, trial="w4-001")
    assert order(0.6, trial="w4-002-s0") > order(0.6, trial="w4-002-s1")


def test_a_collapsed_net_is_never_best_is_not_in_the_law_and_is_said(tmp_path):
    """The commonest class of val has 10.1 % of the digits: 11 % natural accuracy is a collapse, 30
    % is not."""
    outcomes = {
        4: [(0.10, 0.11, lam(10.6)), (0.09, 0.101, lam(20.0))],
        8: [
            (0.20, 0.30, lam(1.0)),
            (0.25, 0.31, lam(2.0)),
            (0.21, 0.32, lam(4.0)),
            (0.26, 0.11, lam(8.0)),
        ],
    }
    search, _, space = trained(tmp_path, {}, outcomes)
    assert list(search.trials["collapsed"]) == [True, True, False, False, False, True]
    assert search.best(4) is None
    assert search.best(8)["trial"] == "w8-001"  # not w8-003, which has the highest value
    assert set(search.front["trial"]) == {"w8-001"}
    assert [point.lam for point in points(fitted(search.trials))] == [1.0, 2.0, 4.0]
    assert search.ridge.n == 3
    thin, wide = answer_lines(search)
    assert thin.endswith("; all 2 finished trials have collapsed, so none is best")
    assert "best trial w8-001" in wide
    told = status_json(search)
    assert told["collapsed"] == ["w4-000", "w4-001", "w8-003"]
    assert told["best"][0] == {
        "width": 4,
        "why_none": "all 2 finished trials have collapsed, so none is best",
    }
    said = "\n".join(map(str, status_lines(search)))
    assert (
        "collapsed: w4-000 (natural 11.0%), w4-001 (natural 10.1%), w8-003 (natural 11.0%)" in said
    )
    assert (
        "s, width 4: all 2 finished trials have collapsed, so none is best" in compare(search).notes
    )
    options = RunOptions(results=tmp_path)
    assert [one.trial for one in finalists(search, Target("s"), options, 3, space)] == [
        "w8-001",
        "w8-002",
        "w8-000",
    ]
    page = write_report(search, tmp_path / "page.html").read_text()
    assert "3 nets collapsed" in page
    assert "could not be made" not in page


def test_where_all_nets_collapsed_nothing_is_chosen_for_evaluate_and_promote(tmp_path):
    search, _, space = trained(tmp_path, {}, {4: [(0.10, 0.11, lam(10.6))]})
    with pytest.raises(InputError, match="a finished trial that has not collapsed"):
        finalists(search, Target("s"), RunOptions(results=tmp_path), 1, space)
    with pytest.raises(InputError, match="a finished trial that has not collapsed"):
        promote("s", options=RunOptions(results=tmp_path), space=space)


def test_what_is_left_beside_collapsed_or_infeasible_nets_is_not_called_the_only_finished(
    tmp_path,
):
    outcomes = {4: [(0.3, 0.11, lam(1.0)), (0.4, 0.45, lam(2.0)), (0.2, 0.9, lam(4.0))]}
    search, _, _ = trained(tmp_path, {"subject_to": (AtLeast(NATURAL, 0.8),)}, outcomes)
    assert search.best(4)["trial"] == "w4-002"
    assert search.selection(4).text == "the only trial of its width to choose from"


def test_constraints_are_met_width_by_width_for_everybody_who_asks_for_the_best(tmp_path):
    """No trial of width 4 meets the constraint: its best is the best of all there, beside a width
    where one does."""
    outcomes = {
        4: [(0.30, 0.50, lam(1.0)), (0.40, 0.45, lam(2.0))],
        8: [(0.50, 0.60, lam(1.0)), (0.45, 0.85, lam(2.0)), (0.44, 0.90, lam(4.0))],
    }
    search, scheduler, space = trained(tmp_path, {"subject_to": (AtLeast(NATURAL, 0.8),)}, outcomes)
    assert [search.best(width)["trial"] for width in (4, 8)] == ["w4-001", "w8-001"]
    assert set(search.finished["trial"]) == {"w4-000", "w4-001", "w8-001", "w8-002"}
    assert set(search.front["trial"]) == {"w4-001", "w8-001"}
    assert list(compare(search).rows["trial"]) == ["w4-001", "w8-001"]
    assert [
        one.trial for one in finalists(search, Target("s"), RunOptions(results=tmp_path), 1, space)
    ] == [
        "w4-001",
        "w8-001",
    ]
    live = {
        study.label: (counts.best[1], counts.best[0].value)
        for study, counts in scheduler.counts_of.items()
    }
    assert live == {"w4": (2.0, 0.40), "w8": (2.0, 0.45)}  # as status has it
    assert [(row.lam, row.value) for row in status_rows(search)] == list(live.values())
    assert "w4-001" in write_report(search, tmp_path / "page.html").read_text()


def test_a_rung_passes_on_what_meets_the_constraints_and_what_collapsed_last(tmp_path):
    space = Space(define, (4,), subject_to=(AtLeast(NATURAL, 0.3),))
    scouts = Study(
        open_storage(None, tmp_path), "s", space, Stage(4), trials=3, full=recipe(4), seed=0
    )
    for robust, natural in ((0.3, 0.11), (0.2, 0.25), (0.1, 0.35)):
        entry = {"epoch": 4, VALUE: robust, NATURAL: natural, "train/lam": 1.0}
        scouts.complete(scouts.ask(), entry, entry)
    assert [number for number, _ in scouts.best_first()] == [2, 1, 0]


# --- names ---


def test_numbers_are_named_in_six_digits_unless_these_are_shared():
    assert names_of((4, 0.5, 1 / 3)) == {4: "4", 0.5: "0.5", 1 / 3: "0.333333"}
    assert names_of((1 / 3, 0.333333, 4)) == {
        1 / 3: "0.3333333333333333",
        0.333333: "0.333333",
        4: "4",
    }
    assert (exactly(1000001), exactly(8 / 255)) == ("1000001.0", "0.03137254901960784")


def test_widths_that_are_equal_to_six_digits_have_studies_trials_and_rows_of_their_own(tmp_path):
    outcomes = {
        1.0000001: [(0.2, 0.3, lam(1.0))],
        1.0000002: [(0.3, 0.4, lam(2.0)), (0.25, 0.4, lam(3.0))],
    }
    search, scheduler, _ = trained(tmp_path, {}, outcomes)
    assert list(search.trials["trial"]) == ["w1.0000001-000", "w1.0000002-000", "w1.0000002-001"]
    assert [search.best(width)["trial"] for width in outcomes] == [
        "w1.0000001-000",
        "w1.0000002-000",
    ]
    assert [row.label for row in status_rows(search)] == ["1.0000001", "1.0000002"]
    assert [study.label for study in scheduler.counts_of] == ["w1.0000001", "w1.0000002"]


def test_every_line_names_widths_so_that_they_can_be_told_apart(tmp_path):
    outcomes = {1000000: [(0.2, 0.3, lam(1.0))], 1000001: [(0.3, 0.4, lam(2.0))]}
    search, _, _ = trained(tmp_path, {"subject_to": (AtLeast(NATURAL, 0.8),)}, outcomes)
    texts = {
        "answer": list(answer_lines(search)),
        "status": [str(line) for line in status_lines(search) if str(line).startswith("width")],
        "notes": [note for note in compare(search).notes if "width" in note],
        "search": [repr(search)],
        "table": [
            str(each.rows) for each in comparison_parts(compare(search)) if isinstance(each, Grid)
        ],
    }
    for of, lines in texts.items():
        told = "\n".join(lines)
        assert "1e+06" in told, of
        assert "1000001.0" in told, of


def test_widths_that_six_digits_tell_apart_keep_their_names():
    assert [stage.label for stage in Space(define, (1 / 3, 4)).stages()] == ["w0.333333", "w4"]


# --- the law within categorical choices ---


def either(trial, width):
    objective = {"TRADES": TRADES(), "MART": MART()}[
        trial.suggest_categorical("objective", ["TRADES", "MART"])
    ]
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True), objective=objective)


def parabola(star, objective, height):
    """Robust accuracy over lambda with its peak at ``star``."""
    lams = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    return [
        (
            height - 0.02 * math.log(value / star) ** 2 + 1e-3 * (i % 2),
            0.9,
            {"lam": value, "objective": objective},
        )
        for i, value in enumerate(lams)
    ]


def test_a_law_is_that_of_the_trials_which_share_the_categorical_choices_of_the_best(tmp_path):
    outcomes = {
        width: parabola(star, "TRADES", 0.6) + parabola(16.0, "MART", 0.55)
        for width, star in ((4, 2.0), (8, 4.0))
    }
    search, _, _ = trained(tmp_path, {}, outcomes, define=either)
    assert search.ridge.group == "objective TRADES"
    assert search.ridge.n == 12
    assert search.ridge.optimum(4).lam == pytest.approx(2.0, rel=0.1)
    pooled = fit_ridge(
        [
            type(points(search.trials)[0])(*row)
            for row in zip(
                search.trials["width"], search.trials["lam"], search.trials["value"], strict=True
            )
        ]
    )
    assert pooled.optimum(4).lam != pytest.approx(2.0, rel=0.1)  # what was said before
    assert "n=12 trials at 2 widths with objective TRADES" in search.ridge.sentence()
    assert status_json(search)["law"]["group"] == "objective TRADES"
    page = write_report(search, tmp_path / "page.html").read_text()
    assert "the finished trials with objective TRADES" in page
    assert "could not be made" not in page


def test_a_law_of_one_width_does_not_say_that_no_other_was_searched(tmp_path):
    """A choice that only wide nets have, and thin nets of which all collapsed."""

    def wide_only(trial, width):
        return either(trial, width) if width == 8 else define(trial, width)

    thin = [(0.5, 0.9, lam(value)) for value in (0.5, 1.0, 2.0)]
    outcomes = {4: thin, 8: parabola(4.0, "TRADES", 0.6)}
    search, _, _ = trained(tmp_path / "a", {}, outcomes, define=wide_only)
    told = (
        "at width 8, the only one with trials to fit (95 %, n=6 trials at 1 width with "
        "objective TRADES, "
    )
    assert f"{told}leaving out 3 with other choices)" in search.ridge.sentence()
    assert search.ridge.optimum(4).censored == "only width 8 has trials to fit"
    outcomes = {
        4: [(0.1, 0.11, lam(1.0))],
        8: [(value, 0.9, each) for value, _, each in parabola(4.0, "TRADES", 0.6)],
    }
    search, _, _ = trained(tmp_path / "b", {}, outcomes)
    assert "at width 8, the only one with trials to fit" in search.ridge.sentence()


def test_where_all_nets_collapsed_the_law_says_so(tmp_path):
    search, _, _ = trained(tmp_path, {}, {4: [(0.1, 0.11, lam(1.0))], 8: [(0.1, 0.11, lam(1.0))]})
    assert search.ridge.sentence().endswith(": 2 finished trials collapsed, and no other finished.")
    said = "\n".join(map(str, status_lines(search)))
    assert "collapsed: w4-000 (natural 11.0%), w8-000 (natural 11.0%) give" in said


def test_a_lambda_that_is_itself_a_choice_divides_nothing(tmp_path):
    def grid(trial, width):
        return recipe(width, float(trial.suggest_categorical("lam", [1, 2, 4, 8, 16])))

    outcomes = {
        4: [(0.5 - 0.02 * math.log(value / 4) ** 2, 0.9, lam(value)) for value in (1, 2, 4, 8, 16)]
    }
    search, _, _ = trained(tmp_path, {}, outcomes, define=grid)
    assert (search.ridge.group, search.ridge.n) == ("", 5)
    assert search.ridge.optimum(4).lam == pytest.approx(4.0)


# --- the ratio of the losses ---


def test_progress_is_the_share_of_the_recipes_epochs_not_of_those_trained(tmp_path):
    """A training of 4 epochs that was stopped after 2: its second epoch's middle is at 1.5 / 4."""
    search, _, _ = trained(tmp_path, {}, {4: [(0.2, 0.3, lam(1.0))]})
    epochs = pd.DataFrame(
        {
            "trial": "w4-000",
            "epoch": [1, 2],
            "train/natural_loss": [2.0, 1.0],
            "train/robust_loss": [1.0, 1.0],
        }
    )
    object.__setattr__(search, "epochs", epochs)
    assert search.loss_ratio("w4-000") == ((0.125, 2.0), (0.375, 1.0))
    search.trials["recipe_epochs"] = math.nan  # a robsearch before 0.2 did not record them
    with pytest.raises(InputError, match=re.escape("loss_ratio('w4-000', epochs=...)")):
        search.loss_ratio("w4-000")
    assert search.loss_ratio("w4-000", epochs=4) == ((0.125, 2.0), (0.375, 1.0))
