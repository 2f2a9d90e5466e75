"""Which study is asked next: shares of the widths, rungs of fidelity, grids, controls."""

from collections import Counter

import optuna
import pytest
from small_spaces import recipe, standard

from robsearch import ByCost, Equal, InputError, Rung, Weighted
from robsearch.errors import LeaseLostError
from robsearch.search.driver import Driver
from robsearch.search.scheduling import scheduler_of, studies_of
from robsearch.spaces import Space, apportion
from robsearch.study import (
    JOURNAL,
    Lease,
    SearchRecord,
    ask_to_stop,
    lease as lease_module,
    open_storage,
)

VALUE = "val/robust_accuracy"


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


def cheap(full):
    return full


def planned(trials, storage=None, **how):
    how.setdefault("sampler", optuna.samplers.RandomSampler(seed=0))
    space = Space(define, how.pop("widths", (4, 8, 16)), **how)
    record = SearchRecord("s", "m:n", space.widths, 0, trials, "sqlite:///m.db", {})
    return scheduler_of(space, record, storage or optuna.storages.InMemoryStorage(), full=recipe(4))


def one(scheduler, value=lambda suggestion: 0.5, seconds=lambda width: 1.0):
    """Asks for one suggestion and finishes all its trainings; returns its label, or None if it is
    nobody's turn."""
    study = scheduler.next()
    if study is None:
        return None
    counts, suggestion = scheduler.counts_of[study], scheduler.ask(study)
    while suggestion:
        entry = {"epoch": 1, VALUE: value(suggestion), "train/lam": suggestion.recipe.lam.value}
        counts.training_seconds.append(seconds(suggestion.width))
        told = study.complete(suggestion, entry, entry)
        counts.settled(told.state)
        suggestion = told.following
    return study.label


def all_of(scheduler, **how):
    labels = []
    while label := one(scheduler, **how):
        labels.append(label)
    return labels


def test_equal_shares_take_turns():
    assert all_of(planned(6)) == ["w4", "w8", "w16", "w4", "w8", "w16"]


def test_the_rest_of_a_suggestion_comes_before_a_new_one():
    scheduler = planned(4, widths=(4, 8), replicates=2, pruner=optuna.pruners.NopPruner())
    thin = scheduler.next()
    scheduler.ask(thin)
    assert scheduler.next() is thin
    assert thin.following().trial == "w4-000-r1"
    assert scheduler.next().label == "w8"
    assert scheduler.counts_of[thin].states == {"RUNNING": 1}


def test_thin_first_finishes_a_width_before_the_next():
    assert all_of(planned(6, allocation=Equal(thin_first=True))) == [
        "w4",
        "w4",
        "w8",
        "w8",
        "w16",
        "w16",
    ]


def test_thin_first_also_where_the_space_names_the_wide_ones_first():
    scheduler = planned(4, widths=(16, 4), allocation=Equal(thin_first=True))
    assert all_of(scheduler) == ["w4", "w4", "w16", "w16"]


def test_weights_share_out_the_total():
    counts = Counter(all_of(planned(21, allocation=Weighted(lambda width: 1 / width))))
    assert counts == {"w4": 12, "w8": 6, "w16": 3}


def test_by_cost_every_width_trains_as_long_and_the_wide_ones_come_last():
    labels = all_of(planned(28, allocation=ByCost()), seconds=lambda width: width**2 / 16)
    counts = Counter(labels)
    assert sum(counts.values()) == 28
    assert counts["w16"] == 3  # the least that shows a peak; by cost alone it would be 1 or 2
    assert counts["w4"] > counts["w8"] > counts["w16"]
    assert labels.index("w8") > 5
    assert labels.index("w16") > labels.index("w8") + 3


@pytest.mark.parametrize(
    ("total", "weights", "counts"),
    [
        (10, {1: 1, 2: 1, 3: 1}, {1: 4, 2: 3, 3: 3}),
        (2, {1: 1, 2: 1, 3: 1}, {1: 1, 2: 1, 3: 0}),
        (12, {1: 10, 2: 1, 3: 1}, {1: 6, 2: 3, 3: 3}),
        (100, {1: 3, 2: 1}, {1: 75, 2: 25}),
    ],
)
def test_a_total_is_shared_out_in_whole_numbers(total, weights, counts):
    assert apportion(total, weights) == counts


def test_a_weight_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match=r"a positive weight at width 4, got 0\.0"):
        Weighted(lambda width: 0).weights({4: None})


def test_the_best_of_a_rung_rise_with_their_parameters_when_all_of_it_have_ended():
    scheduler = planned(2, widths=(4,), fidelity=(Rung("scout", cheap, keep=0.25),))
    labels = all_of(scheduler, value=lambda suggestion: 1 / (1 + suggestion.recipe.lam.value))
    assert labels == ["w4-scout"] * 8 + ["w4"] * 2
    scouts, full = scheduler.counts_of
    lams = sorted(trial.params["lam"] for trial in scouts.trials())
    assert sorted(trial.params["lam"] for trial in full.trials()) == lams[:2]
    assert scheduler.ended == 2


def test_to_look_at_what_is_next_writes_nothing(tmp_path):
    scheduler = planned(
        1, open_storage(None, tmp_path), widths=(4,), fidelity=(Rung("scout", cheap, keep=0.5),)
    )
    assert [one(scheduler), one(scheduler)] == ["w4-scout"] * 2
    before = (tmp_path / JOURNAL).read_bytes()
    study = scheduler.next()
    assert study.label == "w4"
    assert scheduler.next() is study
    assert (tmp_path / JOURNAL).read_bytes() == before
    best = max(scheduler.counts_of, key=lambda study: study.stage.rung or "").trials()[0]
    assert scheduler.ask(study).recipe.lam.value == best.params["lam"]


def test_a_driver_that_lost_its_lease_writes_nothing(tmp_path):
    storage = open_storage(None, tmp_path)
    how = {"widths": (4,), "fidelity": (Rung("scout", cheap, keep=0.5),)}
    scheduler = planned(1, storage, **how)
    assert [one(scheduler), one(scheduler)] == ["w4-scout"] * 2
    lease = Lease.acquire(storage, "s")
    driver = Driver(scheduler, None, lease, tmp_path / "trials", print)
    lease._released.set()  # it no longer renews
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s@lease-2")
    before = (tmp_path / JOURNAL).read_bytes()
    assert not driver.finished
    assert driver.next() is None
    assert driver.stopping
    with pytest.raises(LeaseLostError):
        Driver(
            planned(1, optuna.storages.InMemoryStorage(), **how),
            None,
            lease,
            tmp_path / "trials",
            print,
        )
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_request_to_stop_is_said_by_whoever_hears_it_and_asking_for_it_changes_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.05)
    storage, said = open_storage(None, tmp_path), []
    held = Lease.acquire(storage, "s")
    driver = Driver(planned(1, storage), None, held, tmp_path / "trials", said.append)
    assert not driver.stopping
    ask_to_stop(storage, "s")
    assert held._asked.wait(20)
    assert driver.stopping
    held.release()
    assert said == ["stopping, as `robsearch stop` asked: waiting for the workers"]


def test_studies_that_are_read_are_left_as_they_are_and_none_is_made(tmp_path):
    storage = open_storage(None, tmp_path)
    scheduler = planned(2, storage, widths=(4,))
    one(scheduler)
    before = (tmp_path / JOURNAL).read_bytes()
    space = Space(define, (4, 8), controls=(standard,), start_with=({"lam": 6.0},))
    record = SearchRecord("s", "m:n", space.widths, 0, 2, "sqlite:///m.db", {})
    (study,) = studies_of(space, record, storage)
    assert [training.trial for training in study.recorded()] == ["w4-000"]
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_rung_waits_for_its_last_trials_and_a_failed_one_above_is_replaced_by_the_next_best():
    scheduler = planned(1, widths=(4,), fidelity=(Rung("scout", cheap, keep=0.5),))
    scouts, full = scheduler.counts_of
    assert one(scheduler, value=lambda suggestion: 0.9) == "w4-scout"
    study = scheduler.next()
    running = scheduler.ask(study)
    assert scheduler.next() is None
    entry = {"epoch": 1, VALUE: 0.5, "train/lam": 1.0}
    scheduler.counts_of[study].settled(study.complete(running, entry, entry).state)
    assert scheduler.next() is full
    failed = scheduler.ask(full)
    scheduler.counts_of[full].settled(full.fail(failed, "out of luck").state)
    assert failed.recipe.lam.value == scouts.trials()[0].params["lam"]
    assert one(scheduler) == "w4"
    assert full.trials()[1].params == scouts.trials()[1].params
    assert scheduler.next() is None


def test_three_rungs_keep_a_share_each():
    ladder = (Rung("scout", cheap, keep=0.5), Rung("half", cheap, keep=0.5))
    assert Counter(all_of(planned(2, widths=(4,), fidelity=ladder))) == {
        "w4-scout": 8,
        "w4-half": 4,
        "w4": 2,
    }


def test_a_resumed_rung_goes_on_where_it_was():
    storage = optuna.storages.InMemoryStorage()
    how = {"widths": (4,), "fidelity": (Rung("scout", cheap, keep=0.5),)}
    first = planned(2, storage, **how)
    assert [one(first) for _ in range(5)] == ["w4-scout"] * 4 + ["w4"]
    second = planned(2, storage, **how)
    for study, counts in second.counts_of.items():
        counts.states["COMPLETE"] = len(study.trials())
    assert all_of(second) == ["w4"]


def test_controls_come_last_and_once():
    assert all_of(
        planned(2, widths=(4, 8), controls=(standard,)), value=lambda suggestion: 0.3
    ) == [
        "w4",
        "w8",
        "w4-standard",
        "w8-standard",
    ]


def test_all_widths_count_as_many_trainings():
    scheduler = planned(6, per_trial="all")
    assert all_of(scheduler) == ["all", "all"]
    assert scheduler.space.trainings * scheduler.ended == 6


def test_a_grid_ends_the_search_when_it_is_used_up():
    grid = optuna.samplers.GridSampler({"lam": [1.0, 2.0]})
    assert Counter(all_of(planned(30, sampler=grid))) == {"w4": 2, "w8": 2, "w16": 2}


def test_first_points_are_tried_at_each_width():
    scheduler = planned(4, widths=(4, 8), start_with=({"lam": 6.0},))
    all_of(scheduler)
    assert [
        [trial.params["lam"] == 6.0 for trial in study.trials()] for study in scheduler.counts_of
    ] == [[True, False]] * 2
