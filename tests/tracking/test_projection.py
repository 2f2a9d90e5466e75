"""MLflow is a projection of storage and folders: whatever a server does, or a process that is
killed, its record in the end is what a fresh server would show."""

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import small_spaces
from full_disks import ballast
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow_stores import (
    FaultyProxy,
    deliver,
    dump,
    free_port,
    kill_server,
    new_store,
    runs_of,
    served,
    start_server,
    trial,
)
from rich.console import Console

import robsearch
from robsearch import InputError, RunOptions
from robsearch.search.recording import Recorder
from robsearch.search.syncing import sync, sync_all
from robsearch.study import Lease, RecordedTrial, SearchRecord, open_storage
from robsearch.tracking import Tracker, default_uri
from robsearch.tracking.projection import Projection
from robsearch.trials.files import write_json
from robsearch.trials.run_facts import RUN, RunFacts, read_run, write_run

OLD_RESULTS = Path(__file__).parents[1] / "support" / "files" / "results-0.1.0.tar.xz"
IDENTITY = "1" * 32


@pytest.fixture(autouse=True)
def soon_again(monkeypatch):
    monkeypatch.setattr("robsearch.tracking.tracker.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("robsearch.tracking.tracker.FLUSH_SECONDS", 0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an MLflow server, and the store behind it."""
    uri = new_store(tmp_path_factory.mktemp("server"))
    with served(uri) as address:
        yield address, uri


@pytest.fixture
def proxy(server):
    with FaultyProxy(server[0]) as standing_before:
        yield standing_before
        standing_before.shutdown()


def history(count):
    others = {"train/lam": 2.0, "time/epoch_seconds": 3.0}
    return [
        {"epoch": n, "time": 1000.0 + n, "val/robust_accuracy": n / 10, **others}
        for n in range(1, count + 1)
    ]


def made(results, name="s"):
    """A search whose driver was killed: of three trials one has ended and was measured, one failed,
    one was being trained."""
    folder = results / name
    record = SearchRecord(name, "m:s", (4,), 0, 3, "", {}, identity=IDENTITY)
    storage = open_storage(None, folder)
    record.create(storage)
    study = optuna.create_study(study_name=f"{name}@w4", storage=storage)
    place = {"search": name, "width": 4.0, "control": None, "rung": None, "exact": False}
    study.set_user_attr("place", place)
    write_json(folder / "search.json", {"name": name, "identity": IDENTITY})
    write_run(folder, RunFacts(f"search {name}", started=990.0, tags={"robsearch.kind": "search"}))
    for number, state in enumerate(("COMPLETE", "FAIL", "RUNNING")):
        add_trial(study, folder / "trials" / f"w4-{number:03d}", number, state)
    return folder


def add_trial(study, folder, number, state):
    facts = {"trial": folder.name, "width": 4.0, "replicate": None, "state": state, "seed": 7}
    facts["recipe"] = "2.2-0123456789abcdef"
    if state != "RUNNING":
        facts |= {"epochs": 3, "seconds": 9.0}
    if state == "FAIL":
        facts["reason"] = "a fault of the objective"
    asked = study.ask({"lam": optuna.distributions.FloatDistribution(0.5, 32.0, log=True)})
    asked.set_user_attr("trainings", [facts])
    if state != "RUNNING":
        study.tell(
            asked, 0.3 if state == "COMPLETE" else None, state=optuna.trial.TrialState[state]
        )
    checkpoint = folder / "a1" / "epoch-0003"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "history.json", {"sha256": "", "epochs": history(3)})
    params = {"lam": 2.5, **{f"attack.p{n}": n for n in range(150)}}  # more than one request takes
    data = {"name": "Digits", "digest": "ab", "source_type": "robsearch", "source": "{}"}
    tags = {"robsearch.width": "4"}
    facts = RunFacts(folder.name, started=999.0, params=params, tags=tags, data=data)
    write_run(folder, facts)  # of the end the driver could write nothing
    if state == "COMPLETE":
        write_json(folder / "test.json", {"test/robust_accuracy": 0.25, "test/epoch": 3})
        (folder / "figures").mkdir()
        (folder / "figures" / "accuracy.png").write_bytes(b"png")
        (folder / "model").mkdir()
        (folder / "model" / "MLmodel").write_text("weights")


def synced(results, uri, lines=None):
    said = [] if lines is None else lines
    return sync("s", RunOptions(results=results, tracking=uri), said.append)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A made search, and what a fresh store shows after one ``sync``."""
    results = tmp_path_factory.mktemp("results")
    made(results)
    fresh = new_store(tmp_path_factory.mktemp("fresh"))
    assert synced(results, fresh) == 0
    return results, dump(fresh)


def test_sync_rebuilds_the_whole_record_in_an_empty_store(truth):
    results, record = truth
    statuses = {name: run["status"] for name, run in record.items()}
    ended = {"w4-000": "FINISHED", "w4-001": "FAILED", "w4-002": "KILLED", "search": "KILLED"}
    assert statuses == ended
    best = record["w4-000"]
    curve = [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert best["metrics"]["val/robust_accuracy"] == curve
    assert best["metrics"]["val/best_robust_accuracy"] == 0.3
    assert best["metrics"]["strongest/robust_accuracy"] == 0.25
    assert best["metrics"]["time/trained_seconds"] == 9.0
    assert len(best["params"]) == 151
    assert best["data"] == [("Digits", "ab")]
    assert [path for path, _ in best["artifacts"]] == ["figures/accuracy.png", "tables/test.json"]
    assert best["models"] == ["READY"]
    assert best["times"] == (999000, 1003000)
    assert record["w4-001"]["tags"]["robsearch.reason"] == "a fault of the objective"
    assert record["w4-002"]["tags"]["robsearch.state"] == "INTERRUPTED"
    assert record["w4-002"]["metrics"]["val/robust_accuracy"] == curve
    assert read_run(results / "s" / "trials" / "w4-002").state == "INTERRUPTED"


def test_sync_says_what_it_did_and_a_second_one_sends_nothing(tmp_path, monkeypatch):
    uri = new_store(tmp_path)
    made(tmp_path)
    (tmp_path / "s" / "tracking-0001.spool").write_text('{"kind": "begin"}\n')  # of robsearch 0.1
    lines = []
    assert synced(tmp_path, uri, lines) == 0
    assert lines == [f"s: 4 runs up to date in {uri}; runs marked as interrupted: 2"]
    assert not list((tmp_path / "s").glob("tracking-*"))
    before = dump(uri)

    def sent(*_, **__):
        raise AssertionError("something was sent again")

    for request in ("create_run", "log_batch", "log_artifact", "log_inputs", "set_terminated"):
        monkeypatch.setattr(MlflowClient, request, sent)
    assert sync_all(RunOptions(results=tmp_path, tracking=uri), lines.append) == 0
    assert lines[1:] == [f"s: 4 runs up to date in {uri}"]
    assert dump(uri) == before


def test_a_folder_of_an_earlier_version_has_all_of_its_record_but_what_was_never_kept(tmp_path):
    with tarfile.open(OLD_RESULTS) as archive:
        archive.extractall(tmp_path, filter="data")
    uris = [new_store(tmp_path / name) for name in ("one", "other")]
    for uri in uris:
        options = RunOptions(results=tmp_path / "results", tracking=uri)
        assert sync("digits-1", options, lambda line: None) == 0
    record = dump(uris[0], "digits-1")
    assert record == dump(uris[1], "digits-1")
    statuses = {name: run["status"] for name, run in record.items()}
    assert (statuses["w16-000"], statuses["w64-000"]) == ("FAILED", "FINISHED")
    assert (statuses["w64-001"], statuses["search"]) == ("KILLED", "KILLED")
    evaluated = record["w64-000"]
    assert evaluated["metrics"]["strongest/robust_accuracy"] == 418 / 649
    assert len(evaluated["metrics"]["val/robust_accuracy"]) == 60
    assert evaluated["tags"]["robsearch.best"] == "true"
    assert evaluated["name"].startswith("w64 lam ")
    assert {path.partition("/")[0] for path, _ in evaluated["artifacts"]} == {
        "figures",
        "tables",
        "masking.json",
    }
    assert "broke down" in record["w16-000"]["tags"]["robsearch.reason"]
    assert "robsearch.law" in record["search"]["tags"]
    assert "report.html" in [path for path, _ in record["search"]["artifacts"]]


# --- servers that fail ---


def records_of(results, name="s"):
    """The records of a made search, as a driver would have them."""
    folder = results / name
    nobody = SimpleNamespace(follow=lambda record_of: None, nudge=lambda trial: None)
    recorder = Recorder(
        nobody, folder / "trials", SearchRecord(name, "m:s", (4,), 0, 3, "", {}, identity=IDENTITY)
    )
    trials = [file.name for file in sorted((folder / "trials").iterdir())]
    return {trial: recorder.record_of(trial) for trial in [*trials, "search"]}


def begun(record, epochs):
    """A record as it was while the trial was being trained."""
    return replace(
        record,
        facts=replace(record.facts, state="RUNNING", ended=None),
        curves=record.curves[:epochs],
        summary={},
        artifacts={},
        model=None,
    )


@pytest.mark.parametrize("fault", [400, 401, 404, 413, 500, "drop", "slow", "lose"])
def test_while_a_server_fails_nothing_is_lost_and_nothing_doubled(truth, server, proxy, fault):
    """Of the first requests four in ten fail, for a while all, and then none."""
    results, record = truth
    name, final = f"fails-{fault}", records_of(results)
    draw = random.Random(0)
    proxy.fault = lambda number, method, path: (
        fault if 20 < number < 30 or (number < 70 and draw.random() < 0.4) else None
    )
    records = {}
    tracker = Tracker(proxy.address, name, results, f"{fault}" * 8, patient=True)
    tracker.follow(records.get)
    for epochs in range(5):
        records |= {trial: begun(last, epochs) for trial, last in final.items()}
        tracker.nudge(*records)
        time.sleep(0.2)
    records |= final
    tracker.nudge(*records)
    assert tracker.close(patience=120) == 0
    assert proxy.faults > 10
    assert dump(server[0], name) == record


def test_two_processes_that_make_one_run_at_once_settle_on_one(tmp_path):
    uri = new_store(tmp_path)
    client = MlflowClient(uri)
    projections = [Projection(client, client.create_experiment("s"))]
    projections.append(Projection(client, client.get_experiment_by_name("s").experiment_id))
    for epochs in (1, 2, 3):
        for projection in projections:
            bring = projection.bring_up_to_date
            try:
                bring(trial(epochs=epochs))
            except MlflowException:  # its run is the one that was deleted
                bring(trial(epochs=epochs))
    (run,) = runs_of(uri).values()
    assert [projection.run_ids["w4-000"] for projection in projections] == [run.info.run_id] * 2
    deliver(new_store(tmp_path / "fresh"), tmp_path / "fresh", trial(epochs=3))
    assert dump(uri) == dump(default_uri(tmp_path / "fresh"))


def test_runs_that_an_earlier_version_doubled_become_one(tmp_path):
    uri = new_store(tmp_path)
    client = MlflowClient(uri)
    deliver(uri, tmp_path, trial("w4-001"))
    number = client.get_experiment_by_name("s").experiment_id
    for _ in range(3):
        run = client.create_run(number, 999000, {"robsearch.trial": "w4-000"}, "w4-000")
        client.log_metric(run.info.run_id, "val/robust_accuracy", 0.1, 1001000, 1)
    deliver(uri, tmp_path, trial("w4-000"), trial("w4-001"))
    deliver(new_store(tmp_path / "fresh"), tmp_path, trial("w4-000"), trial("w4-001"))
    assert dump(uri) == dump(default_uri(tmp_path / "fresh"))


def test_points_that_a_server_lost_are_found_by_sync(tmp_path):
    """The last values are there, so that only a thorough comparison shows it."""
    uri = new_store(tmp_path)
    whole = trial(epochs=3)
    deliver(uri, tmp_path, replace(whole, curves=[whole.curves[2]]))
    deliver(uri, tmp_path, whole, thorough=True)
    deliver(new_store(tmp_path / "fresh"), tmp_path, whole)
    assert dump(uri) == dump(default_uri(tmp_path / "fresh"))


def test_sync_says_what_still_waits_when_the_server_goes_away(tmp_path, monkeypatch):
    uri, lines = new_store(tmp_path), []
    made(tmp_path)

    def lost(*_, **__):
        raise ConnectionError("the server went away")

    with monkeypatch.context() as patch:
        # the border: it answered the health check, then broke
        patch.setattr("mlflow.MlflowClient.create_run", lost)
        assert synced(tmp_path, uri, lines) == 4
    assert lines[0].startswith(f"s: 0 runs up to date in {uri}")
    assert "4 still wait: " in lines[0]
    assert "not recorded in MLflow: ConnectionError: the server went away" in lines[0]
    assert synced(tmp_path, uri, lines) == 0
    assert sorted(runs_of(uri)) == ["search", "w4-000", "w4-001", "w4-002"]


def test_sync_leaves_a_search_to_its_driver(tmp_path):
    made(tmp_path)
    storage = open_storage(None, tmp_path / "s")
    lease = Lease.acquire(storage, "s")
    with pytest.raises(InputError, match=rf"process {os.getpid()}.*leave it to that one"):
        synced(tmp_path, new_store(tmp_path))
    lease.release()
    assert synced(tmp_path, default_uri(tmp_path)) == 0
    Lease.acquire(storage, "s").release()  # a driver may start again


def test_sync_of_an_unknown_search_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected the name of a search, got 'nothing'"):
        sync("nothing", RunOptions(results=tmp_path))


# --- folders that are damaged, full or moved ---


def test_a_damaged_run_json_is_made_good_from_what_else_is_known(tmp_path):
    folder = made(tmp_path) / "trials" / "w4-000"
    for content in ("{", "[]", '{"name": 5}', json.dumps({**vars(RunFacts("x")), "params": 3})):
        (folder / RUN).write_text(content)
        with pytest.warns(UserWarning, match=r"run\.json .*: what else is known of the run"):
            assert read_run(folder) is None
    with pytest.warns(UserWarning, match=r"run\.json"):
        assert synced(tmp_path, new_store(tmp_path)) == 0
    run = runs_of(default_uri(tmp_path))["w4-000"]
    assert (run.info.status, run.data.metrics["val/robust_accuracy"]) == ("FINISHED", 0.3)
    assert {"width", "log2_width", "param/lam"} <= set(run.data.params)


def test_a_full_disk_keeps_no_record_from_mlflow(tiny, tmp_path):
    tracker = Tracker(new_store(tmp_path), "s", tmp_path)
    recorder = Recorder(tracker, tiny / "trials")
    ballast(tiny)
    recorder._write("w4-000", RunFacts("w4-000"))
    recorder.ended(RecordedTrial("w4-000", 4, 0, None, "COMPLETE", epochs=1, seconds=3.0), [])
    assert tracker.close() == 0
    run = runs_of(default_uri(tmp_path))["w4-000"]
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"time/trained_seconds": 3.0})


# --- processes that are killed ---

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from robsearch import RunOptions
from robsearch.search.syncing import bring_up_to_date, sync
from robsearch.study import SearchRecord, open_storage

results, uri, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
options = RunOptions(results=results, tracking=uri)
trials = ["w4-000", "w4-001", "w4-002"]

def race():
    storage = open_storage(None, results / "s")
    bring_up_to_date(SearchRecord.load(storage, "s"), storage, uri, options, trials)

def started(work):
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    return process

draw = random.Random(seed)
for _ in range(6):
    processes = [started(lambda: sync("s", options, lambda line: None)), started(race)]
    time.sleep(draw.uniform(0.05, 2.5))
    for process in processes:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
"""


@pytest.mark.slow
def test_two_that_are_killed_at_random_points_leave_what_the_next_one_completes(truth, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(truth[0] / "s", results / "s")
    uri = new_store(tmp_path)
    command = [sys.executable, "-c", KILLED, str(results), uri, "0"]
    subprocess.run(command, check=True, timeout=120)
    assert synced(results, uri) == 0
    assert dump(uri) == truth[1]


@pytest.mark.slow
def test_a_search_whose_server_fails_while_it_trains_has_the_record_of_a_fresh_one(
    two_cpus, server, proxy, tmp_path
):
    faults = random.Random(0)
    kinds = [400, 413, 500, "drop", "lose", "slow"]
    proxy.fault = lambda number, method, path: (
        faults.choice(kinds) if "mlflow" in path and 10 < number < 200 and number % 3 == 0 else None
    )
    options = RunOptions(results=tmp_path, tracking=proxy.address, parallel=2)
    quiet = Console(quiet=True)
    search = robsearch.launch(
        small_spaces.pair, name="live", trials=4, options=options, console=quiet
    )
    proxy.fault = lambda number, method, path: None
    assert proxy.faults > 5
    assert sync("live", options, lambda line: None) == 0
    fresh = new_store(tmp_path / "fresh")
    assert sync("live", RunOptions(results=tmp_path, tracking=fresh), lambda line: None) == 0
    record = dump(server[0], "live")
    assert record == dump(fresh, "live")
    assert set(record) == {*search.trials["trial"], "search"}
    assert {run["status"] for run in record.values()} == {"FINISHED"}


@pytest.fixture(scope="module")
def outage(two_cpus, tmp_path_factory):
    """A search whose last driver found no server: its options, copies of its results and of the
    server's store, the port, and what the driver said."""
    results, store, copies = map(tmp_path_factory.mktemp, ("outage", "store", "copies"))
    uri, port = new_store(store), free_port()
    console = Console(record=True, width=300, force_terminal=False)
    options = RunOptions(results=results, tracking=f"http://me:secret@127.0.0.1:{port}", parallel=1)
    server = start_server(uri, port)
    try:
        robsearch.launch(small_spaces.pair, name="s", trials=2, options=options, console=console)
    finally:
        kill_server(server)
    search = robsearch.resume(
        "s", trials=2, space=small_spaces.pair, options=options, console=console
    )
    assert not search.unfinished
    shutil.copytree(results, copies / "results")
    shutil.copytree(store, copies / "store")
    return SimpleNamespace(options=options, copies=copies, port=port, said=console.export_text())


@pytest.mark.slow
@pytest.mark.parametrize("by", ["sync", "the next driver"])
def test_resume_goes_on_while_the_server_is_away_and_what_it_did_is_delivered(by, outage, tmp_path):
    options, results = outage.options, outage.options.results
    away = f"note: no answer from http://127.0.0.1:{outage.port} (Connection refused); training"
    assert f"{away} goes on" in outage.said
    assert f"`robsearch sync s --results {results}` delivers what waits" in outage.said
    assert "secret" not in outage.said
    shutil.rmtree(results)
    shutil.copytree(outage.copies / "results", results)
    shutil.copytree(outage.copies / "store", tmp_path / "store")
    uri = default_uri(tmp_path / "store")
    search = robsearch.load_search("s", results=results)
    assert set(runs_of(uri)) < {*search.trials["trial"], "search"}  # the rest waits
    before = len(search.trials)
    server = start_server(uri, outage.port)
    try:
        if by == "sync":
            assert sync("s", options) == 0
        else:
            quiet = Console(quiet=True)
            search = robsearch.resume(
                "s", trials=1, space=small_spaces.pair, options=options, console=quiet
            )
            assert len(search.trials) == before + 1
        runs = runs_of(uri)
    finally:
        kill_server(server)
    assert set(runs) == {*search.trials["trial"], "search"}
    assert {run.info.status for run in runs.values()} <= {"FINISHED", "KILLED"}
    assert not [
        file
        for file in (results / "s").rglob("*")
        if file.is_file() and b"secret" in file.read_bytes()
    ]
