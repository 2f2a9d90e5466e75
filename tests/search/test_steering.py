"""Ending one trial, deleting a search, listing all: with a living driver and without one. No Ray in
here."""

import io
import json
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import optuna
import pytest
from begun_searches import ONE, SPACE, begun, driven
from command_processes import in_this_process
from killed_beginnings import store_of
from mlflow import MlflowClient
from mlflow_stores import deliver, new_store, runs_of, trial
from optuna.study import StudyDirection
from rich.console import Console
from search_records import search_record
from small_spaces import pair, recipe

import robsearch
from robsearch import InputError, RunOptions
from robsearch.report import write as write_report
from robsearch.report.evidence import Evidence
from robsearch.search import driver as driver_module
from robsearch.search.commands.delete import deletion
from robsearch.search.commands.drop import drop
from robsearch.search.commands.listing import listed_searches
from robsearch.search.commands.status import status_lines
from robsearch.search.commands.stop import stop_trial
from robsearch.search.engine import _conclude
from robsearch.search.preflight import new_name
from robsearch.search.recording import DROPPED_TAG
from robsearch.search.requests import hearing_requests
from robsearch.search.results_store import ResultsStore, claim_folder, search_names
from robsearch.search.scheduling import scheduler_of
from robsearch.search.syncing import settle_dropped, sync, sync_all
from robsearch.search.tables import fitted
from robsearch.spaces.resources import Resources
from robsearch.study import (
    Lease,
    ask_to_end,
    delete_search,
    drop_trial,
    dropped_trials,
    lease,
    note_folder,
    open_storage,
    study_names,
)
from robsearch.tracking import SEARCH_ID, runs_of_search
from robsearch.trials import trial as trials


@pytest.fixture
def driver(tmp_path, uri, monkeypatch):
    monkeypatch.setattr(trials, "REPORT_SECONDS", 0.0)
    with driven(begun(tmp_path, trials=2), uri) as driver:
        yield driver


def states(results):
    rows = robsearch.load_search("s", results).trials
    return dict(zip(rows["trial"], rows["state"], strict=True))


# --- stop --trial ---


def test_a_living_driver_ends_the_trial_when_its_epoch_has_ended_and_goes_on(driver, tmp_path):
    storage = open_storage(None, tmp_path / "s")
    job = driver.next()
    work = job.work(job.recipe, job.folder)
    with hearing_requests(driver, storage, "s"):
        assert driver.heard(job, next(work))
        said = []
        stopping = threading.Thread(
            target=stop_trial, args=("s", "w4-000", RunOptions(results=tmp_path), said.append)
        )
        stopping.start()
        deadline = time.monotonic() + 60
        while not driver.to_end:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert states(tmp_path) == {"w4-000": "RUNNING"}
        assert not driver.heard(job, next(work))
        work.close()
        driver.gone(job, None)
        stopping.join(60)
    assert said[-1] == "w4-000 has ended: PRUNED"
    assert states(tmp_path) == {"w4-000": "PRUNED"}
    assert not driver.stopping
    assert driver.next().name == "w4-001"


def test_without_a_driver_an_interrupted_trial_is_pruned_and_counts(driver, tmp_path, capsys):
    job = driver.next()
    work = job.work(job.recipe, job.folder)
    driver.heard(job, next(work))
    work.close()
    driver.lease.release()
    words = ("stop", "s", "--trial", "w4-000")
    assert in_this_process(tmp_path, *words) == 0
    assert "w4-000 has ended: PRUNED" in capsys.readouterr().out
    search = robsearch.load_search("s", tmp_path)
    row = search.trials.iloc[0]
    assert (row["state"], row["suggestion"], row["epochs"]) == ("PRUNED", "PRUNED", 1)
    assert search.ended == 1
    assert in_this_process(tmp_path, *words) == 2
    assert "a trial that has not ended, got w4-000, which is PRUNED" in capsys.readouterr().err
    assert in_this_process(tmp_path, "stop", "s", "--trial", "w4-007") == 2
    assert "expected a trial of 's', got 'w4-007': it has w4-000" in capsys.readouterr().err


def test_a_trial_before_its_first_epoch_can_be_ended_too(driver, tmp_path):
    driver.next()
    driver.lease.release()
    stop_trial("s", "w4-000", RunOptions(results=tmp_path))
    assert states(tmp_path) == {"w4-000": "PRUNED"}


def test_a_trial_that_was_never_begun_is_not_said_to_have_ended(driver, tmp_path):
    driver.next()
    study = optuna.load_study(study_name="s@w4", storage=open_storage(None, tmp_path / "s"))
    study.ask()  # and then the driver was killed
    driver.lease.release()
    assert states(tmp_path) == {"w4-000": "RUNNING", "w4-001": "RUNNING"}
    said = []
    with pytest.raises(InputError, match="a trial that has begun, got w4-001, whose driver had"):
        stop_trial("s", "w4-001", RunOptions(results=tmp_path), said.append)
    assert said == []
    stop_trial("s", "w4-000", RunOptions(results=tmp_path))
    assert states(tmp_path) == {"w4-000": "PRUNED", "w4-001": "RUNNING"}


def test_a_dead_driver_elsewhere_is_watched_once_and_aloud(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 3.0)
    store = begun(tmp_path)
    storage, record = store.search("s")
    scheduler = scheduler_of(SPACE, record, storage, recipe(4))
    scheduler.full[0].ask()
    held = storage.create_new_study([StudyDirection.MAXIMIZE], "s@lease-1")
    owner = {"boot": "x", "pid": 7, "host": "pod-1", "renewal": 3, "started": 1.0, "renewed": 2.0}
    storage.set_study_user_attr(held, "owner", owner)
    said = []
    began = time.monotonic()
    stop_trial("s", "w4-000", RunOptions(results=tmp_path), said.append)
    assert 3 <= time.monotonic() - began < 5.5
    assert "this waits while it renews its lease" in said[1]
    assert states(tmp_path) == {"w4-000": "PRUNED"}


def test_trainings_that_are_judged_together_are_not_ended_alone(tmp_path):
    begun(tmp_path, trainings=3)
    with pytest.raises(InputError, match="one with 3 each, which are judged together"):
        stop_trial("s", "w4-000", RunOptions(results=tmp_path))


def test_a_driver_gives_out_more_jobs_once_a_node_joins_and_fewer_once_one_is_lost(
    driver, monkeypatch, capsys
):
    monkeypatch.setattr(driver_module, "CAPACITY_SECONDS", 0.0)
    room = [1, 1, 2, 0]
    driver.set_capacity(1, {4: Resources()})
    driver.follow_capacity(lambda: room.pop(0))
    jobs = [driver.next() for _ in range(4)]
    assert [job and job.name for job in jobs] == ["w4-000", None, "w4-001", None]
    assert capsys.readouterr().out.splitlines() == [
        "the cluster has room for 2 trials at once now; it was 1",
        "the cluster has room for no trial at once now; it was 2",
    ]


# --- drop ---


def done(driver):
    """Trains the next trial, to its end."""
    job = driver.next()
    for report in job.work(job.recipe, job.folder):
        driver.heard(job, report)
    driver.gone(job, None)


def test_a_dropped_trial_is_in_no_result_until_it_is_put_back(driver, tmp_path, uri, capsys):
    done(driver)
    driver.unmeasured.clear()
    done(driver)
    # As a driver that ends: what it has not delivered yet would be made twice.
    driver.recorder.tracker.close()
    driver.lease.release()
    before = robsearch.load_search("s", tmp_path)
    report = Evidence.of(before)
    assert list(report.trials["trial"]) == ["w4-000", "w4-001"]
    words = ("drop", "s", "--trial", "w4-000")
    assert in_this_process(tmp_path, *words, "--why", "a broken GPU") == 0
    dropped = robsearch.load_search("s", tmp_path)
    row = dropped.trials.iloc[0]
    assert (row["state"], row["reason"]) == ("DROPPED", "a broken GPU")
    assert list(dropped.complete["trial"]) == ["w4-001"]
    assert list(fitted(dropped.trials)["trial"]) in (["w4-001"], [])  # it may have collapsed
    assert dropped.ended == before.ended == 2
    assert list(Evidence.of(dropped).trials["trial"]) == ["w4-001"]
    assert set(Evidence.of(dropped).epochs["trial"]) == {"w4-001"}
    assert "w4-000 is dropped: a broken GPU" in [str(line) for line in status_lines(dropped)]
    assert tags_of(uri)["robsearch.dropped"] == "a broken GPU"
    assert (tmp_path / "s" / "trials" / "w4-000" / "a1").exists()
    assert in_this_process(tmp_path, *words, "--undo") == 0
    after = robsearch.load_search("s", tmp_path)
    assert list(after.trials["state"]) == ["COMPLETE", "COMPLETE"]
    assert tags_of(uri)["robsearch.dropped"] == ""
    capsys.readouterr()
    assert in_this_process(tmp_path, *words, "--undo") == 2
    assert "expected a trial that is dropped, got w4-000" in capsys.readouterr().err
    assert in_this_process(tmp_path, *words) == 2
    assert "expected --why TEXT, or --undo, got neither" in capsys.readouterr().err


def tags_of(uri):
    return runs_of(uri)["w4-000"].data.tags


def test_a_living_driver_tells_mlflow_of_what_was_dropped(driver, tmp_path, uri):
    done(driver)
    storage = open_storage(None, tmp_path / "s")
    drop("s", "w4-000", "a broken GPU", RunOptions(results=tmp_path))
    with hearing_requests(driver, storage, "s"):
        deadline = time.monotonic() + 60
        while not driver.dropped:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    driver.tag_dropped()
    driver.recorder.tracker.drain()
    assert tags_of(uri)["robsearch.dropped"] == "a broken GPU"


def test_what_a_driver_that_ended_has_not_heard_of_is_told_by_sync(driver, tmp_path, uri):
    done(driver)
    options = RunOptions(results=tmp_path, tracking=uri)
    storage = open_storage(None, tmp_path / "s")
    search = robsearch.load_search("s", tmp_path)
    write_report(search, search.report, {})
    driver.recorder.mark_best({"w4-000"})
    drop_trial(storage, "s", "w4-000", "a broken GPU")
    driver.recorder.tracker.close()
    driver.lease.release()
    sync("s", options)
    assert tags_of(uri)["robsearch.dropped"] == "a broken GPU"
    assert tags_of(uri)["robsearch.best"] == "false"
    assert "w4-000" not in search.report.read_text()
    drop_trial(storage, "s", "w4-000", "")
    sync("s", options)
    assert tags_of(uri)["robsearch.dropped"] == ""
    assert "w4-000" in search.report.read_text()


def test_what_was_dropped_before_a_driver_starts_is_told_by_it_once(driver, tmp_path):
    done(driver)
    driver.unmeasured.clear()
    done(driver)
    storage, record = ResultsStore(tmp_path).search("s")
    driver.recorder.tag("w4-001", {DROPPED_TAG: "put back, which nobody heard of"})
    drop_trial(storage, "s", "w4-000", "a broken GPU")
    driver.know_dropped(dropped_trials(storage, "s"))
    options = RunOptions(results=tmp_path)
    assert settle_dropped(driver.recorder, storage, record, options)
    assert driver.recorder.facts("w4-000").tags[DROPPED_TAG] == "a broken GPU"
    assert driver.recorder.facts("w4-001").tags[DROPPED_TAG] == ""
    driver.tag_dropped()
    assert not settle_dropped(driver.recorder, storage, record, options)


def test_what_is_dropped_while_a_driver_concludes_is_in_its_report(driver, tmp_path, uri):
    """The second look is at the end of the first report."""
    done(driver)
    driver.unmeasured.clear()
    done(driver)
    storage = open_storage(None, tmp_path / "s")
    conclude = driver.recorder.conclude

    def dropped_meanwhile(search):
        conclude(search)
        drop_trial(storage, "s", "w4-000", "a broken GPU")

    driver.recorder.conclude = dropped_meanwhile
    options = RunOptions(results=tmp_path, models=False)
    search = _conclude(driver, storage, options, Console(quiet=True))
    assert list(search.trials["state"]) == ["DROPPED", "COMPLETE"]
    assert "w4-000" not in search.report.read_text()
    driver.recorder.tracker.drain()
    assert tags_of(uri)["robsearch.dropped"] == "a broken GPU"


def test_a_trial_that_has_not_ended_is_not_dropped(driver, tmp_path):
    driver.next()
    with pytest.raises(InputError, match="ended with a value, got w4-000, which is RUNNING"):
        drop("s", "w4-000", "why", RunOptions(results=tmp_path))


def test_a_storage_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "all.db"
    begun(tmp_path, storage=f"sqlite:///{file}")
    read_only = optuna.storages.RDBStorage(f"sqlite:///file:{file}?mode=ro&uri=true")
    for ask in (ask_to_end, partial(drop_trial, why="a broken GPU")):
        with pytest.raises(InputError, match="expected a storage that can be written, got"):
            ask(read_only, "s", "w4-000")


# --- delete ---


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_deleted_search_is_gone_everywhere_and_its_name_is_free(tmp_path, kind, capsys):
    store = begun(tmp_path, storage=store_of(tmp_path, kind).storage)
    begun(tmp_path, name="s2", storage=store.storage)
    uri = new_store(tmp_path)
    deliver(uri, tmp_path, trial(tags={SEARCH_ID: ONE}), identity=ONE)
    (store.folder("s") / "trials" / "w4-000").mkdir(parents=True)
    (store.folder("s") / "trials" / "w4-000" / "state.pt").write_bytes(b"0" * 100)
    assert runs_of_search(uri, "s", ONE) == 1
    words = ["delete", "s", "--yes"] + (["--storage", store.storage] if store.storage else [])
    assert in_this_process(tmp_path, *words) == 0
    said = capsys.readouterr().out
    assert f"folder: {store.folder('s')} (0.00 GiB)\n" in said
    assert "MLflow: 1 run in " in said
    assert not store.folder("s").exists()
    assert search_names(store) == ["s2"]
    if store.storage:
        left = study_names(open_storage(store.storage, tmp_path))
        assert left == {"s2"}
    client = MlflowClient(uri)
    assert client.get_experiment_by_name("s") is None
    assert new_name("s", pair, store, uri) == "s"


def test_nothing_is_deleted_without_a_yes_or_under_a_living_driver(tmp_path, capsys, monkeypatch):
    store = begun(tmp_path)
    uri = new_store(tmp_path)
    with Lease.acquire(store.open("s"), "s"):
        assert in_this_process(tmp_path, "delete", "s", "--yes") == 2
        assert "expected no driver of 's', got the one on" in capsys.readouterr().err
        going = None
    going = deletion("s", RunOptions(results=tmp_path, tracking=uri))
    with Lease.acquire(store.open("s"), "s"), pytest.raises(InputError, match="no other driver"):
        going.carry_out()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert in_this_process(tmp_path, "delete", "s") == 1
    assert search_names(store) == ["s"]


def test_a_deletion_that_was_ended_half_way_is_finished_by_another(tmp_path):
    store = begun(tmp_path, storage=store_of(tmp_path, "sqlite").storage)
    options = RunOptions(results=tmp_path, storage=store.storage, tracking=new_store(tmp_path))
    going = deletion("s", options)
    going._empty_folder(store)  # and then it was killed
    deletion("s", options).carry_out()
    assert not store.folder("s").exists()
    assert search_names(store) == []


def test_what_a_launch_left_half_made_can_be_deleted(tmp_path):
    store = ResultsStore(tmp_path)
    claim_folder(store.folder("s"), search_record(identity=ONE))
    deletion("s", RunOptions(results=tmp_path, tracking=new_store(tmp_path))).carry_out()
    assert not store.folder("s").exists()


def test_a_search_whose_folder_is_lost_can_be_deleted_but_not_from_another_folder(tmp_path, capsys):
    results = tmp_path / "results"
    store = begun(results, storage=store_of(tmp_path, "sqlite").storage)
    uri = new_store(results)
    deliver(uri, results, trial(tags={SEARCH_ID: ONE}), identity=ONE)
    note_folder(store.open("s"), "s", store.folder("s"))
    words = ("delete", "s", "--yes", "--storage", store.storage)
    assert in_this_process(tmp_path / "elsewhere", *words) == 2
    said = capsys.readouterr().err
    assert f"got no such folder: its last driver had them in {results / 's'}" in said
    assert f"pass --results {results}, also if they are lost" in said
    shutil.rmtree(store.folder("s"))
    assert in_this_process(results, *words) == 0
    said = capsys.readouterr().out
    assert f"folder: {store.folder('s')} (it is gone already)" in said
    assert study_names(open_storage(store.storage, results)) == set()
    assert runs_of_search(uri, "s", ONE) == 0
    assert new_name("s", pair, store, uri) == "s"


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_nobody_drives_a_search_while_it_is_deleted(tmp_path, kind, monkeypatch):
    store = begun(tmp_path, storage=store_of(tmp_path, kind).storage)
    folder = store.folder("s")
    met = []

    def after_a_try_to_resume(remove):
        def removed(path, *args, **how):
            if path in (folder, folder / "search.json"):
                with pytest.raises(InputError, match="expected a search, got what a launch of"):
                    store.search("s")
                with pytest.raises(InputError, match="no other driver of 's', got one on"):
                    Lease.acquire(open_storage(store.storage, folder), "s")
                met.append(path)
            return remove(path, *args, **how)

        return removed

    monkeypatch.setattr(shutil, "rmtree", after_a_try_to_resume(shutil.rmtree))
    monkeypatch.setattr(Path, "unlink", after_a_try_to_resume(Path.unlink))
    options = RunOptions(results=tmp_path, storage=store.storage, tracking=new_store(tmp_path))
    deletion("s", options).carry_out()
    assert met == [folder / "search.json" if kind == "journal" else folder]
    assert not folder.exists()
    if store.storage:
        assert study_names(open_storage(store.storage, tmp_path)) == set()


def test_a_deletion_that_was_ended_behind_the_record_is_finished_by_another(tmp_path):
    store = begun(tmp_path)
    options = RunOptions(results=tmp_path, tracking=new_store(tmp_path))
    deletion("s", options)._empty_folder(store)
    delete_search(store.open("s"), "s")
    (store.folder("s") / "search.json").unlink()  # and then it was killed
    deletion("s", options).carry_out()
    assert not store.folder("s").exists()


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_deleting_a_copy_does_not_take_what_its_original_has(tmp_path, kind, capsys):
    first = tmp_path / "first"
    uri = new_store(tmp_path)
    database = store_of(tmp_path, kind).storage
    begun(first, storage=database, tracking=uri)
    deliver(uri, first, trial(tags={SEARCH_ID: ONE}), identity=ONE)
    shutil.copytree(first, tmp_path / "copy")
    words = ["delete", "s", "--yes"] + (["--storage", database] if database else [])
    assert in_this_process(tmp_path / "copy", *words) == 2
    said = capsys.readouterr().err
    assert f"got a copy, whose original {first / 's'} is still there" in said
    assert f"remove it with `rm -r {tmp_path / 'copy' / 's'}`" in said
    assert runs_of_search(uri, "s", ONE) == 1
    assert search_names(ResultsStore(first, database)) == ["s"]
    shutil.rmtree(first)  # the copy is the only one now
    assert in_this_process(tmp_path / "copy", *words) == 0
    assert runs_of_search(uri, "s", ONE) == 0


def test_a_copy_with_a_record_of_its_own_is_deleted_alone(tmp_path):
    first = tmp_path / "first"
    uri = new_store(first)
    begun(first, storage=store_of(first, "sqlite").storage)
    deliver(uri, first, trial(tags={SEARCH_ID: ONE}), identity=ONE)
    shutil.copytree(first, tmp_path / "copy")
    database = store_of(tmp_path / "copy", "sqlite").storage
    deletion("s", RunOptions(results=tmp_path / "copy", storage=database)).carry_out()
    assert search_names(ResultsStore(tmp_path / "copy", database)) == []
    assert search_names(store_of(first, "sqlite")) == ["s"]
    assert runs_of_search(uri, "s", ONE) == 1


# --- list ---


def test_the_list_has_every_search_with_its_state(driver, tmp_path, capsys):
    begun(tmp_path, name="idle")
    claim_folder(tmp_path / "half", search_record(name="half"))
    begun(tmp_path, name="lost")
    shutil.rmtree(tmp_path / "lost" / "trials", ignore_errors=True)
    (tmp_path / "lost" / "search.json").write_text(
        json.dumps({"identity": "2" * 32, "drivers": [1]})
    )
    job = driver.next()
    for report in job.work(job.recipe, job.folder):
        driver.heard(job, report)
    driver.gone(job, None)
    rows = {row.name: row for row in listed_searches(ResultsStore(tmp_path))}
    by_state = {name: row.state for name, row in rows.items()}
    assert by_state == {
        "half": "half made",
        "idle": "interrupted",
        "lost": "unreadable",
        "s": "running",
    }
    assert (rows["s"].ended, rows["s"].asked, rows["s"].failed) == (1, 2, 0)
    assert rows["s"].bytes > 1000
    assert 0 <= time.time() - rows["s"].seen < 60
    assert in_this_process(tmp_path, "list") == 0
    said = capsys.readouterr().out
    assert "1 of 2" in said
    assert "lost: expected the results of 'lost'" in said
    assert in_this_process(tmp_path, "list", "--json") == 0
    read = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in read["searches"]] == ["half", "idle", "lost", "s"]


def test_searches_of_a_database_whose_results_lie_elsewhere_are_left_out(tmp_path):
    database = store_of(tmp_path, "sqlite").storage
    uri = new_store(tmp_path)
    begun(tmp_path / "one", name="a", storage=database, tracking=uri)
    begun(tmp_path / "two", name="a-grid", storage=database, tracking=uri)
    options = RunOptions(results=tmp_path / "two", storage=database)
    assert [row.name for row in listed_searches(options.store)] == ["a-grid"]
    said = []
    assert sync_all(options, said.append) == 0
    assert len(said) == 1
