"""Suggestions of several trainings, goals, grids, first points, and trials from elsewhere."""

import math
from dataclasses import replace

import optuna
import pytest
from small_spaces import recipe

from robsearch import AtLeast, Digits, InputError
from robsearch.data import content_digest
from robsearch.spaces import Space, Stage
from robsearch.study import (
    Observation,
    SearchRecord,
    Study,
    finished_observations,
    observations_of,
    observations_of_other_widths,
    open_storage,
    recorded_trials,
    trials_of,
    warm_start,
)

VALUE, NATURAL, STABILITY = "val/robust_accuracy", "val/natural_accuracy", "val/stability"
RECORD = SearchRecord("s", "m:n", (4, 8), 0, 4, "sqlite:///m.db", {})
LAM = optuna.distributions.FloatDistribution(0.5, 32.0, log=True)


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


@pytest.fixture
def storage(tmp_path):
    return open_storage(None, tmp_path)


def redrawn(trial, width):
    return replace(define(trial, width), data=Digits(train=100, draw="seed"))


def study(storage, stage=None, trials=8, define=define, **how):
    how.setdefault("sampler", optuna.samplers.RandomSampler(seed=1))
    return Study(
        storage,
        "s",
        Space(define, (8, 4), **how),
        stage or Stage(4),
        trials=trials,
        full=recipe(4),
        seed=0,
    )


def done(value, natural=0.9, stability=0.8, epoch=3):
    entry = {
        "epoch": epoch,
        "time": 0.0,
        VALUE: value,
        NATURAL: natural,
        STABILITY: stability,
        "train/lam": 2.0,
    }
    return entry, entry


def all_rows(storage):
    return {row["trial"]: row for row in recorded_trials(storage, RECORD)}


# --- replicates ---


def test_replicates_are_trained_in_turn_with_seeds_of_their_own_and_the_value_is_their_mean(
    storage,
):
    of_width = study(storage, replicates=3)
    first = of_width.ask()
    told = of_width.complete(first, *done(0.5))
    assert (told.state, told.value) == ("RUNNING", 0.5)
    told = of_width.complete(second := told.following, *done(0.6))
    told = of_width.complete(third := told.following, *done(0.7))
    assert (told.state, told.following) == ("COMPLETE", None)
    assert told.value == pytest.approx(0.6)
    assert of_width.trials()[0].value == pytest.approx(0.6)
    names = [each.trial for each in (first, second, third)]
    assert names == ["w4-000-r0", "w4-000-r1", "w4-000-r2"]
    assert len({each.recipe.seed for each in (first, second, third)}) == 3
    assert len({each.recipe.lam for each in (first, second, third)}) == 1
    assert [all_rows(storage)[name]["state"] for name in names] == ["COMPLETE"] * 3


def test_paired_replicates_share_a_draw_of_the_data(storage):
    of_width = study(storage, define=redrawn, replicates=2, paired=True)
    draws = []
    for _ in range(2):
        first = of_width.ask()
        second = of_width.complete(first, *done(0.7)).following
        of_width.complete(second, *done(0.7))
        draws.append([each.recipe.resolved_data for each in (first, second)])
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]
    recorded = [[each.data for each in trials_of(trial)] for trial in of_width.trials()]
    assert recorded == [[content_digest(data) for data in draws[0]]] * 2


def by_replicate(trial, width):
    changed = define(trial, width)
    return replace(changed, epochs=changed.epochs + trial.replicate)


def test_a_space_is_told_which_replicate_it_defines(storage):
    of_width = study(storage, define=by_replicate, replicates=2)
    first = of_width.ask()
    second = of_width.complete(first, *done(0.7)).following
    assert second.recipe.epochs == first.recipe.epochs + 1
    # Another driver, which takes the search over, defines the same recipe.
    (adopted,) = study(storage, define=by_replicate, replicates=2).adopt()
    assert adopted.recipe == second.recipe


def test_a_suggestion_is_given_up_between_seeds_when_it_cannot_come_near_the_best(storage):
    of_width = study(storage, replicates=2)
    for _ in range(2):
        told = of_width.complete(of_width.ask(), *done(0.7))
        of_width.complete(told.following, *done(0.7))
    assert (
        of_width.complete(of_width.ask(), *done(0.63)).state == "RUNNING"
    )  # 7 points less in one of two: 3.5
    assert of_width.complete(of_width.ask(), *done(0.61)).state == "PRUNED"  # 4.5 points
    assert [trial.state.name for trial in of_width.trials()] == [
        "COMPLETE",
        "COMPLETE",
        "RUNNING",
        "PRUNED",
    ]
    assert all_rows(storage)["w4-003-r0"]["state"] == "COMPLETE"
    assert all_rows(storage)["w4-003-r0"]["suggestion"] == "PRUNED"


@pytest.mark.parametrize("ended", [0, 1, 2])
def test_a_driver_that_takes_over_goes_on_with_the_training_that_was_left(storage, ended):
    of_width = study(storage, replicates=3)
    suggestion = of_width.ask()
    for _ in range(ended):
        suggestion = of_width.complete(suggestion, *done(0.5)).following
    (adopted,) = study(storage, replicates=3).adopt()
    assert adopted == suggestion
    assert adopted.trial == f"w4-000-r{ended}"


def test_what_was_noted_and_not_told_is_told_by_the_driver_that_takes_over(storage, monkeypatch):
    of_width = study(storage)
    ended, pruned, failed = (of_width.ask() for _ in range(3))
    monkeypatch.setattr(
        of_width._study, "tell", lambda *args, **options: None
    )  # dies before each tell
    of_width.complete(ended, *done(0.5))
    of_width.prune(pruned, *done(0.2))
    of_width.fail(failed, "loss became nan")
    heir = study(storage)
    assert heir.adopt() == []
    assert [trial.state.name for trial in heir.trials()] == ["COMPLETE", "PRUNED", "FAIL"]
    assert heir.trials()[0].value == 0.5


def test_a_failed_seed_fails_its_suggestion(storage):
    of_width = study(storage, replicates=2)
    told = of_width.complete(of_width.ask(), *done(0.5))
    of_width.fail(told.following, "loss became nan")
    assert of_width.trials()[0].state.name == "FAIL"
    assert [(row["state"], row["reason"]) for row in all_rows(storage).values()] == [
        ("COMPLETE", None),
        ("FAIL", "loss became nan"),
    ]


def test_where_seeds_are_paired_a_failed_one_leaves_the_others_of_its_suggestion(storage):
    paired = study(storage, replicates=3, paired=True)
    told = paired.fail(paired.ask(), "loss became nan")
    assert (told.state, told.following.trial) == ("RUNNING", "w4-000-r1")
    (adopted,) = study(storage, replicates=3, paired=True).adopt()
    assert adopted == told.following
    told = paired.complete(told.following, *done(0.5))
    assert (told.state, told.following.trial) == ("RUNNING", "w4-000-r2")
    assert paired.complete(told.following, *done(0.6)).state == "FAIL"
    assert [row["state"] for row in all_rows(storage).values()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert {row["suggestion"] for row in all_rows(storage).values()} == {"FAIL"}
    told = paired.complete(paired.ask(), *done(0.5))
    told = paired.complete(told.following, *done(0.5))
    told = paired.fail(told.following, "loss became nan")
    assert (told.state, math.isnan(told.value), told.following) == ("FAIL", True, None)


# --- trials of a suggestion at the same time ---


def unpruned(storage, **how):
    return study(storage, replicates=3, pruner=optuna.pruners.NopPruner(), **how)


def test_where_nothing_is_pruned_the_replicates_of_a_suggestion_may_run_side_by_side(storage):
    of_width = unpruned(storage)
    first = of_width.ask()
    assert of_width.has_following
    second, third = of_width.following(), of_width.following()
    assert (of_width.has_following, of_width.following()) == (False, None)
    assert [row["state"] for row in all_rows(storage).values()] == ["RUNNING"] * 3
    # They end in another order than they began.
    assert of_width.complete(third, *done(0.7))[:3] == ("RUNNING", 0.7, None)
    assert of_width.complete(first, *done(0.5)).state == "RUNNING"
    assert of_width.complete(second, *done(0.6)).state == "COMPLETE"
    assert of_width.trials()[0].value == pytest.approx(0.6)
    values = [trial.metrics[VALUE] for trial in trials_of(of_width.trials()[0])]
    assert values == [0.5, 0.6, 0.7]


def test_one_that_ends_is_followed_by_one_that_was_not_begun(storage):
    of_width = unpruned(storage)
    first, second = of_width.ask(), of_width.following()
    outcome = of_width.complete(first, *done(0.5))
    assert (outcome.state, outcome.following.trial) == ("RUNNING", "w4-000-r2")
    assert of_width.complete(second, *done(0.5)).following is None
    assert of_width.complete(outcome.following, *done(0.5)).state == "COMPLETE"


def test_where_a_pruner_decides_between_replicates_they_are_trained_one_after_another(storage):
    of_width = study(storage, replicates=3)
    of_width.ask()
    assert (of_width.has_following, of_width.following()) == (False, None)


def test_a_driver_that_takes_over_goes_on_with_all_that_were_running(storage):
    of_width = unpruned(storage)
    first, second = of_width.ask(), of_width.following()
    heir = unpruned(storage)
    assert heir.adopt() == [first, second]
    assert heir.following().trial == "w4-000-r2"
    of_width = unpruned(storage)
    of_width.adopt()
    of_width.complete(second, *done(0.5))
    assert [each.trial for each in unpruned(storage).adopt()] == ["w4-000-r0", "w4-000-r2"]


def test_a_pruner_that_came_later_finds_several_running(storage):
    of_width = unpruned(storage)
    of_width.ask()
    of_width.following()
    heir = study(storage, replicates=3)
    first, second = heir.adopt()
    outcome = heir.complete(second, *done(0.5))
    assert outcome.following.trial == "w4-000-r2"
    assert heir.complete(first, *done(0.5))[::2] == ("RUNNING", None)
    assert heir.complete(outcome.following, *done(0.5)).state == "COMPLETE"


@pytest.mark.parametrize("paired", [False, True])
def test_beside_others_a_failed_one_ends_its_suggestion_only_with_them(storage, paired):
    of_width = unpruned(storage, paired=paired)
    first, second = of_width.ask(), of_width.following()
    outcome = of_width.fail(first, "loss became nan")
    # Paired, the others are still compared with those of other suggestions.
    assert (outcome.following is not None) == paired
    assert outcome.state == "RUNNING"
    (*_, last) = unpruned(storage, paired=paired).adopt()
    assert last == (outcome.following or second)
    assert of_width.complete(second, *done(0.5)).state == ("RUNNING" if paired else "FAIL")
    if paired:
        assert of_width.complete(outcome.following, *done(0.5)).state == "FAIL"
    assert of_width.trials()[0].state.name == "FAIL"


def only_two(trial, width):
    if trial.replicate == 2:
        raise RuntimeError("no third")
    return define(trial, width)


def test_a_space_that_fails_beside_running_ones_fails_the_suggestion_when_they_have_ended(storage):
    of_width = unpruned(storage, define=only_two)
    first, second = of_width.ask(), of_width.following()
    assert of_width.following() is None
    assert of_width.complete(first, *done(0.5))[::2] == ("RUNNING", None)
    assert of_width.complete(second, *done(0.5)).state == "FAIL"
    (suggestion,) = of_width.trials()
    assert suggestion.user_attrs["reason"] == "the space failed: RuntimeError: no third"


# --- all widths ---


def test_with_all_widths_a_suggestion_is_trained_thin_to_wide_with_one_lambda(storage):
    everywhere = study(storage, Stage(None), per_trial="all")
    thin = everywhere.ask()
    wide = everywhere.complete(thin, *done(0.5)).following
    assert [(each.trial, each.width) for each in (thin, wide)] == [("w4-000", 4), ("w8-000", 8)]
    assert thin.recipe.lam == wide.recipe.lam
    assert everywhere.complete(wide, *done(0.7)).value == pytest.approx(0.6)
    assert everywhere.label == "all"


# --- goals ---


def test_several_metrics_make_a_front_and_prune_nothing(storage):
    of_width = study(storage, maximise=(VALUE, NATURAL))
    one = of_width.ask()
    assert not of_width.report(one, [done(0.1)[0]])
    assert of_width.complete(one, *done(0.5, natural=0.9)).state == "COMPLETE"
    of_width.complete(of_width.ask(), *done(0.4, natural=0.8))
    assert of_width.trials()[0].values == [0.5, 0.9]
    assert [trial.number for trial in of_width._study.best_trials] == [0]


def test_a_constraint_is_known_to_the_sampler_and_said_of_each_training(storage):
    of_width = study(storage, subject_to=(AtLeast(NATURAL, 0.84),))
    of_width.complete(of_width.ask(), *done(0.6, natural=0.80))
    of_width.complete(of_width.ask(), *done(0.5, natural=0.86))
    assert [row["feasible"] for row in all_rows(storage).values()] == [False, True]
    assert of_width._study.best_trial.number == 1
    assert [number for number, _ in of_width.best_first()] == [1, 0]


# --- samplers ---


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(),
        optuna.samplers.TPESampler(),
        optuna.samplers.GPSampler(),
        optuna.samplers.QMCSampler(seed=0),
        optuna.samplers.CmaEsSampler(),
        optuna.samplers.NSGAIISampler(),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_any_sampler_suggests_the_same_again_with_the_same_seed(tmp_path, sampler):
    tried = []
    for folder in ("one", "two"):
        of_width = study(
            open_storage(None, tmp_path / folder), sampler=sampler, start_with=({"lam": 3.0},)
        )
        for value in (0.5, 0.6, 0.55, 0.4):
            of_width.complete(of_width.ask(), *done(value))
        tried.append([trial.params["lam"] for trial in of_width.trials()])
    assert tried[0] == tried[1]
    assert len(set(tried[0])) == 4


def test_a_grid_is_handed_out_once_and_then_exhausted(storage):
    grid = optuna.samplers.GridSampler({"lam": [1.0, 2.0, 4.0]})
    of_width = study(storage, sampler=grid)
    asked = [of_width.ask() for _ in range(3)]
    assert of_width.exhausted
    for suggestion in asked:
        of_width.complete(suggestion, *done(0.5))
    assert sorted(trial.params["lam"] for trial in of_width.trials()) == [1.0, 2.0, 4.0]
    assert {trial.state.name for trial in of_width.trials()} == {"COMPLETE"}
    assert study(storage, sampler=grid).exhausted


# --- what is known from the start ---


def test_first_points_come_first_and_once(storage):
    of_width = study(storage)
    of_width.enqueue({"lam": 6.0})
    of_width.enqueue({"lam": 6.0})
    assert of_width.waiting == 1
    first, second = of_width.ask(), of_width.ask()
    assert first.recipe.lam.value == 6.0 != second.recipe.lam.value
    assert not of_width.waiting
    assert len(all_rows(storage)) == 2


def test_trials_from_elsewhere_are_known_to_samplers_and_nowhere_else(storage):
    found = [
        Observation(4, {"lam": 2.0, "other": 1.0}, (0.5,), "thin"),
        Observation(4, {"lam": 99.0}, (0.6,), "thin"),  # outside the range
        Observation(2, {"lam": 1.0}, (0.4,), "thin"),  # a width that is not searched
    ]
    space = Space(define, (4, 8))
    assert warm_start(storage, "s", space, found, {"lam": LAM}).added == 2
    thin, wide = (study(storage, Stage(width)) for width in (4, 8))
    elsewhere = observations_of_other_widths(storage, "s")
    assert [
        (seen.width, dict(seen.params), seen.values)
        for seen in observations_of([thin, wide], elsewhere)
    ] == [
        (2, {"lam": 1.0}, (0.4,)),
        (4, {"lam": 2.0}, (0.5,)),
    ]
    assert thin.trials() == []
    assert all_rows(storage) == {}
    assert thin.ask().trial == "w4-001"


def test_another_searchs_finished_trials_are_found_and_other_metrics_refused(storage):
    RECORD.create(storage)
    of_width = study(storage)
    of_width.complete(of_width.ask(), *done(0.5))
    of_width.ask()
    (found,) = finished_observations(storage, "s", (VALUE,))
    assert (found.width, found.values, found.source) == (4, (0.5,), "s")
    assert found.params == of_width.trials()[0].params
    with pytest.raises(
        InputError, match="expected a search for val/stability, got val/robust_accuracy"
    ):
        list(finished_observations(storage, "s", (STABILITY,)))


def test_a_running_sibling_is_seen_without_a_value(storage):
    of_width = study(storage)
    suggestion = of_width.ask()
    assert [(seen.width, seen.values) for seen in of_width.observations()] == [(4, ())]
    of_width.complete(suggestion, *done(0.5))
    assert [(seen.width, seen.values) for seen in of_width.observations()] == [(4, (0.5,))]


def test_a_rung_has_a_study_and_names_of_its_own(storage):
    scout = study(storage, Stage(4, rung="scout"), replicates=3)
    suggestion = scout.ask()
    assert suggestion.trial == "w4-scout-000"
    assert scout.complete(suggestion, *done(0.5)).state == "COMPLETE"
    assert all_rows(storage)["w4-scout-000"]["rung"] == "scout"
    assert not trials_of(scout.trials()[0])[0].reason
