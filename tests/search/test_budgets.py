"""What a search, or one of its trainings, may take, and how it stops when that is used up."""

import math
import os
import signal
import time
from contextlib import closing

import optuna
import pytest
from command_processes import in_this_process
from mlflow_stores import new_store
from rich.console import Console
from search_records import search_record
from small_spaces import recipe

import robsearch
from robsearch import InputError, RunOptions
from robsearch.search.budgets import (
    DRIVEN,
    DriverClock,
    driven_seconds,
    trial_seconds,
    used_up,
    within_budgets,
)
from robsearch.search.capacity import GRACE_SECONDS, stops_on_signal
from robsearch.search.driver import Driver
from robsearch.search.recording import Recorder
from robsearch.search.results_store import ResultsStore, claim_folder
from robsearch.search.scheduling import scheduler_of
from robsearch.spaces import Space
from robsearch.study import Lease, open_storage
from robsearch.tracking import Tracker
from robsearch.trials import trial as trials
from robsearch.trials.loading import newest_checkpoint


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


SPACE = Space(define, (4,), sampler=optuna.samplers.RandomSampler(seed=0))


@pytest.fixture
def search(tmp_path, uri, monkeypatch):
    """Gives drivers of a search of two trials of four epochs, each of which is reported."""
    monkeypatch.setattr(trials, "REPORT_SECONDS", 0.0)
    record = search_record(widths=(4,), trials=2)
    storage = open_storage(None, tmp_path / "s")
    record.create(storage)
    tracker = Tracker(uri, "s", tmp_path)
    leases = []

    def driver():
        for lease in leases:
            lease.release()
        leases.append(Lease.acquire(storage, "s"))
        scheduler = scheduler_of(SPACE, record, storage, recipe(4))
        recorder = Recorder(tracker, tmp_path / "s" / "trials", record)
        return Driver(scheduler, recorder, leases[-1], tmp_path / "s" / "trials", print)

    yield driver
    tracker.close()
    leases[-1].release()


def heard(driver):
    """Does the next job until the driver stops it; returns how many reports were heard."""
    job = driver.next()
    count = 0
    with closing(job.work(job.recipe, job.folder)) as work:
        for report in work:
            count += 1
            if not driver.heard(job, report):
                break
    driver.gone(job, None)
    return count


# --- one training ---


def test_a_training_that_took_its_hours_fails_with_the_reason_and_what_it_saved_stays(
    search, tmp_path
):
    driver = search()
    driver.trial_seconds = 1e-9
    assert heard(driver) == 1
    trial = robsearch.load_search("s", tmp_path).trials.iloc[0]
    assert (trial["state"], trial["epochs"]) == ("FAIL", 1)
    assert trial["reason"].startswith("its epochs took the --trial-max-hours of 2.77778e-13: ")
    assert "1 epoch of 4 (saved: " in trial["reason"]
    assert newest_checkpoint(tmp_path / "s" / "trials" / "w4-000").number == 1
    driver.trial_seconds = 3600.0
    assert heard(driver) == 5  # of another one, its epochs and its end


def test_the_epochs_of_earlier_attempts_count(search, tmp_path):
    first = search()
    job = first.next()
    with closing(job.work(job.recipe, job.folder)) as work:
        first.heard(job, next(work))
        first.heard(job, next(work))  # and then it was killed
    spent = robsearch.load_search("s", tmp_path).trials.iloc[0]["seconds"]
    second = search()
    second.trial_seconds = spent
    assert heard(second) == 1  # the report of what was saved
    trial = robsearch.load_search("s", tmp_path).trials.iloc[0]
    assert (trial["trial"], trial["state"], trial["epochs"]) == ("w4-000", "FAIL", 2)


# --- stopping at the end of an epoch ---


def test_a_driver_that_drains_stops_a_training_at_its_next_report_and_loses_no_epoch(
    search, tmp_path
):
    driver = search()
    driver.parallel = 2
    job, other = driver.next(), driver.next()
    work = job.work(job.recipe, job.folder)
    assert driver.heard(job, next(work))
    driver.drain(1000.0)
    assert not driver.stopping  # a worker is at its second epoch
    assert driver.next() is None
    assert not driver.heard(job, next(work))
    work.close()
    driver.gone(job, None)
    assert not driver.stopping  # the other one is at its first epoch
    driver.gone(other, None)
    assert driver.stopping
    assert newest_checkpoint(job.folder).number == 2
    assert robsearch.load_search("s", tmp_path).unfinished == ["w4-000", "w4-001"]
    assert search().waiting[0].suggestion.trial == "w4-000"


def test_it_waits_no_longer_than_it_was_given(search):
    driver = search()
    driver.next()
    driver.drain(0.0)
    driver.drain(1000.0)  # a later one does not give more
    assert driver.stopping


def test_a_first_term_drains_and_a_second_stops(search):
    driver = search()
    driver.next()
    with stops_on_signal(driver, Console(quiet=True), driver.drain):
        os.kill(os.getpid(), signal.SIGTERM)
        assert driver._deadline - time.monotonic() == pytest.approx(GRACE_SECONDS, abs=5.0)
        assert not driver.stopping
        os.kill(os.getpid(), signal.SIGTERM)
        assert driver.stopping


# --- hours of drivers and of GPUs ---


def test_which_budget_is_used_up_and_what_would_extend_it():
    hour = 3600.0
    assert used_up({}, 1e9, 1e9) is None
    assert used_up({"max_hours": 5.0}, 5 * hour - 1, 1e9) is None
    used = used_up({"max_hours": 5.0}, 5 * hour, 0.0)
    assert used.extension == "--max-hours 10"
    assert used.text == "its --max-hours 5 are used up"
    assert used_up({"max_gpu_hours": 2.0}, 1e9, 7 * hour).extension == "--max-gpu-hours 8"
    assert trial_seconds({"max_hours": 5.0}) is None
    assert trial_seconds({"trial_max_hours": 0.5}) == 1800.0


def test_the_clock_of_drivers_stands_still_between_them(tmp_path):
    storage = open_storage(None, tmp_path / "s")
    search_record().create(storage)
    first = DriverClock(storage, "s")
    time.sleep(0.2)
    first.save()
    driven = driven_seconds(storage, "s")
    assert 0.2 <= driven < 5.0
    time.sleep(0.2)
    second = DriverClock(storage, "s")
    assert driven <= second.seconds < driven + 0.15
    assert driven_seconds(open_storage(None, tmp_path / "s"), "s") == driven


def test_a_used_up_budget_drains_the_driver_once_and_says_what_extends_it(search, tmp_path, capsys):
    driver = search()
    driver.next()
    clock = DriverClock(open_storage(None, tmp_path / "s"), "s")
    with within_budgets(driver, clock, {"max_hours": 1e-9}):
        time.sleep(2.5)
    assert (driver.problem, driver.extension) == (
        "its --max-hours 1e-09 are used up",
        "--max-hours 1",
    )
    assert capsys.readouterr().out.count("stopping: its --max-hours 1e-09 are used up") == 1
    assert driver.next() is None
    assert driven_seconds(open_storage(None, tmp_path / "s"), "s") > 2


def test_budgets_are_remembered_until_others_are_given():
    record = search_record(budgets={"max_hours": 5.0, "trial_max_hours": 1.0})
    assert RunOptions().budgets(record) == record.budgets
    more = RunOptions(max_hours=math.inf, max_gpu_hours=3.0).budgets(record)
    assert more == {"trial_max_hours": 1.0, "max_gpu_hours": 3.0}
    with pytest.raises(InputError, match="expected --max-hours of at least 0, got nan"):
        RunOptions(max_hours=math.nan).check()


def test_a_search_whose_budget_is_used_up_is_not_resumed_without_more(tmp_path, capsys):
    store = ResultsStore(tmp_path)
    known = search_record(budgets={"max_hours": 5.0}, space="small_spaces:pair", identity="1" * 32)
    claim_folder(store.folder("s"), known)
    storage = open_storage(None, store.folder("s"))
    known.create(storage)
    storage.set_study_user_attr(storage.get_study_id_from_name("s"), DRIVEN, 5.5 * 3600)
    assert in_this_process(tmp_path, "resume", "s") == 2
    said = "its --max-hours 5 are used up: go on with `robsearch resume s "
    assert f"error: {said}" in capsys.readouterr().err
    words = ("launch", "small_spaces:pair", "--name", "s", "--or-resume")
    assert in_this_process(tmp_path, *words) == 0
    assert f"search s: nothing to do, {said}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_launch_stops_when_its_hours_are_used_up_and_loses_nothing(two_cpus, tmp_path, capfd):
    new_store(tmp_path)
    words = ("launch", "small_spaces:slow_pair", "--name", "s", "--trials", "40")
    assert in_this_process(tmp_path, *words, "--max-hours", "0.002") == 130
    said = capfd.readouterr().out
    assert "stopping: its --max-hours 0.002 are used up" in said
    assert "--max-hours 1\n" in said.partition("go on with: robsearch resume s")[2]
    assert list(robsearch.load_search("s", tmp_path).trials["state"]).count("FAIL") == 0
