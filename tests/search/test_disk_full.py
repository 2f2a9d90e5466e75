"""A search whose disk is full for a while: nothing new begins, it is said once, it goes on by
itself, and nothing is lost or doubled; and what `clean` takes away for that."""

import random
import re
import shutil
import subprocess
import time
import warnings

import pytest
from agreement import in_mlflow, in_optuna, stated
from begun_searches import begun, driven
from command_processes import in_this_process, started, wait_until
from full_disks import ballast, disk_of
from mlflow import MlflowClient
from mlflow_stores import new_store, runs_of

import robsearch
from robsearch import InputError, RunOptions
from robsearch.search import free_space
from robsearch.search.commands.clean import clean
from robsearch.search.commands.status import driver_line, status_json
from robsearch.search.free_space import RESERVE, needed_bytes
from robsearch.trials import trial as trials
from robsearch.trials.disk import Waiting, checkpoint_sizes, size_text
from robsearch.trials.loading import newest_checkpoint, read_history, read_test
from robsearch.trials.trial import Report

EPOCHS = list(range(1, 21))


@pytest.fixture
def disk(tmp_path):
    """A disk of 24 MiB."""
    with disk_of("24m", tmp_path / "disk") as folder:
        yield folder


@pytest.fixture(autouse=True)
def _each_epoch_is_saved_and_the_disk_is_looked_at_each_time(monkeypatch):
    monkeypatch.setattr(trials, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(free_space, "LOOK_SECONDS", 0.0)


def work_off(driver, job):
    """A job from its begin to its end."""
    for report in job.work(job.recipe, job.folder):
        driver.heard(job, report)
    driver.gone(job, None)


# --- what is needed ---


def test_needed_are_four_checkpoints_of_each_trial_less_what_is_written(tmp_path):
    state = tmp_path / "w4-000" / "a1" / "epoch-0001" / "state.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(bytes(1000))
    first, second = (checkpoint_sizes(tmp_path / trial) for trial in ("w4-000", "w4-001"))
    assert (first, second) == ([1000], [])
    assert needed_bytes([], 1000, begins=False) == RESERVE
    assert needed_bytes([], 1000, begins=True) == RESERVE + 4000
    assert needed_bytes([first], 1000, begins=True) == RESERVE + 3000 + 4000
    assert needed_bytes([first, second], 1000, begins=False) == RESERVE + 7000


def test_bytes_in_words():
    assert [size_text(size) for size in (0, 1, 12_000_001, 1.24e9, 3e12)] == [
        "0 MB",
        "1 MB",
        "13 MB",
        "1.2 GB",
        "3.0 TB",
    ]


# --- a driver, without Ray ---


def test_without_room_nothing_begins_it_is_said_once_and_then_it_goes_on(disk, uri):
    said = []
    store = begun(disk, trials=2)
    with driven(store, uri, said.append) as driver:
        driver.free_space.patience = 600.0
        full = ballast(disk)
        assert [driver.next(), driver.next()] == [None, None]
        assert not driver.stopping
        assert not driver.finished
        waiting = f"waiting for 5 MB in {disk}/s"
        assert said == [
            f"{waiting}: nothing new begins until there is room, then it goes on by itself; "
            "`robsearch clean s --dry-run` says what may go"
        ]
        search = robsearch.load_search("s", disk)
        assert driver_line(search).endswith(f"; {waiting}")
        assert status_json(search)["lacking_bytes"] == RESERVE
        full.unlink()
        assert driver.next().name == "w4-000"
        assert said[1:] == [f"there is room in {disk}/s again, after 0 seconds"]
        assert "waiting for" not in driver_line(robsearch.load_search("s", disk))


def test_after_the_patience_the_search_stops_and_says_why(disk, uri):
    with driven(begun(disk, trials=2), uri) as driver:
        driver.free_space.patience = 0.0
        ballast(disk)
        assert driver.next() is None
        assert driver.stopping
        assert driver.problem == f"waiting for 5 MB in {disk}/s for 0 seconds (--disk-patience)"


def test_while_another_trial_trains_on_the_patience_does_not_pass(disk, uri):
    with driven(begun(disk, trials=2), uri) as driver:
        driver.parallel = 2
        job = driver.next()
        driver.free_space.patience = 0.0
        full = ballast(disk)
        driver.free_space.patience = 0.2
        for _ in range(3):
            assert driver.next() is None
            time.sleep(0.1)
        assert not driver.stopping
        full.unlink()
        work_off(driver, job)
        assert not driver.stopping


def test_while_a_worker_waits_nothing_new_begins_and_its_trial_goes_on(disk, uri):
    """As under a quota, which the bytes that are free do not show."""
    said = []
    with driven(begun(disk, trials=2), uri, said.append) as driver:
        driver.parallel = 2
        driver.free_space.patience = 600.0
        job = driver.next()
        assert driver.heard(job, Report(waiting=Waiting(2 * 10**9, "no room")))
        assert driver.next() is None
        assert driver.free_space.text == f"waiting for 2.0 GB in {disk}/s"
        assert driver.heard(job, Report())
        assert driver.free_space.text == ""
        assert driver.next().name == "w4-001"
        assert [re.sub(":.*", "", line) for line in said] == [
            f"waiting for 2.0 GB in {disk}/s",
            f"there is room in {disk}/s again, after 0 seconds",
        ]


# --- clean ---


@pytest.fixture
def cleanable(disk, uri):
    """Two complete trials, the first of two attempts; one that failed, and one to be continued."""
    store = begun(disk, trials=3)
    with driven(store, uri) as driver:
        job = driver.next()
        broken_off = job.work(job.recipe, job.folder)
        for _ in range(2):
            next(broken_off)
        broken_off.close()
        work_off(driver, job)  # trained
        work_off(driver, driver.next())  # measured
        job = driver.next()
        work_off(driver, job)
        work_off(driver, driver.next())
        failing = driver.next()
        reports = failing.work(failing.recipe, failing.folder)
        driver.heard(failing, next(reports))
        reports.close()
        driver.heard(failing, Report(ended="FAIL", reason="why"))
        driver.gone(failing, None)
        left = driver.next()
        reports = left.work(left.recipe, left.folder)
        driver.heard(left, next(reports))
        reports.close()
        with pytest.raises(InputError, match="expected no driver of 's', got the one on "):
            clean("s", RunOptions(results=disk))
    notes = disk / "s" / "ray" / "notes"
    notes.parent.mkdir()
    notes.write_bytes(bytes(3_000_000))
    (disk / "s" / "trials" / "w4-001" / "test.json.tmp").write_text("{")
    return disk


def content(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def states_of(folder):
    return sorted(
        f"{file.parts[-4]}/{file.parts[-3]}/{file.parts[-2]}"
        for file in folder.glob("trials/*/a*/epoch-*/state.pt")
    )


def test_clean_says_what_may_go_and_removes_that_alone(cleanable, capsys):
    folder = cleanable / "s"
    before = content(folder)
    assert in_this_process(cleanable, "clean", "s", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert content(folder) == before
    assert "weights of failed and pruned trials (1 trial): 1 MB" in printed
    assert "checkpoints in older attempts (1 trial): 1 MB" in printed
    assert "files that a dead process left half written: 1 MB" in printed
    assert "Ray's notes: 3 MB" in printed
    assert "nothing is removed yet: without --dry-run 4 MB in" in printed
    needed = {}
    for name in ("w4-000", "w4-001"):
        newest = newest_checkpoint(folder / "trials" / name)
        needed[name] = {newest.folder, newest.best.folder}
    rows = robsearch.load_search("s", cleanable).trials
    full = ballast(cleanable)
    free = shutil.disk_usage(cleanable).free
    assert in_this_process(cleanable, "clean", "s") == 0  # on a full disk, too
    assert shutil.disk_usage(cleanable).free - free > 2_900_000
    full.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, folders in needed.items():
            newest = newest_checkpoint(folder / "trials" / name)
            assert {newest.folder, newest.best.folder} == folders
            assert newest.state["epoch"] == 4
            assert newest.best_state
            assert len(read_test(folder / "trials" / name)) > 10
        assert robsearch.load_search("s", cleanable).trials.equals(rows)
    kept = {
        f"{each.parts[-3]}/{each.parts[-2]}/{each.parts[-1]}"
        for each in set().union(*needed.values())
    }
    assert states_of(folder) == sorted({*kept, "w4-003/a1/epoch-0001"})
    gone = before.keys() - content(folder).keys()
    assert {file.suffix for file in gone} == {".pt", ".tmp", ""}
    capsys.readouterr()
    assert in_this_process(cleanable, "clean", "s") == 0
    assert capsys.readouterr().out == f"there is nothing to remove in {folder}\n"


def test_clean_removes_nothing_to_which_a_link_leads(cleanable, tmp_path):
    trials = cleanable / "s" / "trials"
    states = robsearch.load_search("s", cleanable).trials.set_index("trial")["state"]
    failed = next(trial for trial, state in states.items() if state in ("FAIL", "PRUNED"))
    elsewhere = tmp_path / "elsewhere"
    shutil.move(trials / failed, elsewhere)
    (trials / failed).symlink_to(elsewhere)
    before = states_of_trial(elsewhere)
    assert before
    clean("s", RunOptions(results=cleanable))
    assert states_of_trial(elsewhere) == before


def states_of_trial(folder):
    return sorted(folder.glob("a*/epoch-*/state.pt"))


def test_clean_keeps_the_weights_of_the_best_alone_where_it_is_asked_to(cleanable):
    search = robsearch.load_search("s", cleanable)
    best = search.best(4)["trial"]
    clean("s", RunOptions(results=cleanable), top=1)
    have = {state.partition("/")[0] for state in states_of(cleanable / "s")}
    assert have == {best, "w4-003"}
    with pytest.raises(InputError, match="--top of at least 1"):
        clean("s", RunOptions(results=cleanable), top=0)


def test_what_was_cleaned_is_resumed(cleanable, uri):
    clean("s", RunOptions(results=cleanable), say=lambda _: None)
    store = robsearch.search.ResultsStore(cleanable)
    with driven(store, uri) as driver:
        job = driver.next()
        assert job.name == "w4-003"
        assert [entry["epoch"] for entry in next(job.work(job.recipe, job.folder)).epochs] == [1]


# --- a whole search, full at three random times ---


@pytest.fixture
def full_at_times(disk, monkeypatch):
    monkeypatch.setenv("ROBSEARCH_PASS_ENV", "ROBSEARCH_TEST_TRIALS")
    monkeypatch.setenv("ROBSEARCH_TEST_TRIALS", str(disk / "s" / "trials"))
    new_store(disk)
    return disk


LAUNCH = ("launch", "faulty_spaces:sound", "--name", "s", "--trials", "2", "--parallel", "1")


def epochs_of(disk):
    return [len(read_history(disk / "s" / "trials" / name)) for name in ("w4-000", "w4-001")]


def assert_each_once(disk):
    """Asked, Optuna, MLflow and folders have the same two trials, each epoch once."""
    search = robsearch.load_search("s", disk)
    names = ["w4-000", "w4-001"]
    assert in_optuna(search) == dict.fromkeys(names, ("COMPLETE", ""))
    assert in_mlflow(search) == dict.fromkeys(names, "FINISHED")
    assert stated(search) == dict.fromkeys(names, "COMPLETE")
    assert search.epochs["epoch"].to_list() == [*EPOCHS, *EPOCHS]
    assert search.trials["test/robust_accuracy"].notna().all()
    runs = runs_of(search.record.tracking)
    assert sorted(runs) == ["search", *names]
    client = MlflowClient(search.record.tracking)
    for name in names:
        points = client.get_metric_history(runs[name].info.run_id, "val/robust_accuracy")
        assert [point.step for point in points] == EPOCHS
    assert sorted(folder.name for folder in (disk / "s" / "trials").iterdir()) == names


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_whose_disk_is_full_at_three_random_times_has_each_trial_and_epoch_once(
    full_at_times,
):
    disk = full_at_times
    drawn = random.Random(time.time_ns())
    times = sorted(drawn.sample(range(1, 40), 3))
    process = started(disk, *LAUNCH)
    for epochs in times:
        wait_until(lambda epochs=epochs: sum(epochs_of(disk)) >= epochs, process)
        full = ballast(disk)
        time.sleep(drawn.uniform(2.0, 4.0))
        assert process.poll() is None, process.stdout.read()
        full.unlink()
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, (times, said)
    assert "Traceback" not in said
    assert_each_once(disk)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", ["INT", "TERM"])
def test_a_search_that_waits_for_room_ends_cleanly_and_is_resumed(full_at_times, end):
    disk = full_at_times
    process = started(disk, *LAUNCH)
    wait_until(lambda: sum(epochs_of(disk)) >= 4, process)
    full = ballast(disk)
    time.sleep(8)  # the trial trains to its end, and waits with its last checkpoint
    subprocess.run(["kill", f"-{end}", str(process.pid)], check=True)
    said, _ = process.communicate(timeout=300)
    assert process.returncode in (1, 130), said
    assert "go on with: robsearch resume s" in said
    assert "Traceback" not in said
    full.unlink()
    resume = started(disk, "resume", "s", "--parallel", "1")
    said, _ = resume.communicate(timeout=600)
    assert resume.returncode == 0, said
    assert_each_once(disk)
