"""What is said to MLflow survives outages, full disks and the death of the driver, and arrives once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import chain

import pytest
import small_spaces
import test_disk
import test_tracking
from rich.console import Console
from test_disk import ballast
from test_tracking import runs

import robsearch
from robsearch import InputError, Means
from robsearch.search.syncing import sync, sync_all
from robsearch.study import Lease, SearchRecord, open_storage
from robsearch.tracking import Tracker, default_uri, undelivered
from robsearch.tracking.spool import Spool

tiny = test_disk.tiny
uri, empty_database = test_tracking.uri, test_tracking.empty_database


def said(*numbers, text=""):
    return [{"kind": "metrics", "trial": f"w4-{number:03d}", "text": text} for number in numbers]


def numbers(records):
    return [int(record["trial"][3:]) for record in records]


def emptied(spool):
    """All that a spool gives, batch by batch."""
    found = []
    while batch := spool.take():
        found.append(numbers(batch))
        spool.delivered()
    return found


def files(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("on_disk", [True, False])
def test_records_come_in_their_order_and_again_until_they_are_delivered(tmp_path, on_disk):
    spool = Spool(tmp_path if on_disk else None)
    assert (spool.empty, spool.take()) == (True, [])
    spool.append(said(1, 2))
    assert numbers(spool.take()) == numbers(spool.take()) == [1, 2]
    spool.append(said(3))
    assert (numbers(spool.take()), spool.left) == ([1, 2], 3)
    spool.delivered()
    assert (numbers(spool.take()), spool.left) == ([3], 1)
    spool.delivered()
    assert (spool.empty, spool.left) == (True, 0)


def test_a_delivered_spool_takes_no_room_and_leaves_no_file(tmp_path):
    spool = Spool(tmp_path)
    spool.append(said(1))
    assert files(tmp_path) == ["tracking-0001.spool"]
    assert emptied(spool) == [[1]]
    assert (tmp_path / "tracking-0001.spool").stat().st_size == 0
    spool.close()
    assert files(tmp_path) == []


def test_a_long_outage_is_read_back_a_mebibyte_at_a_time(tmp_path):
    spool = Spool(tmp_path)
    for number in range(50):
        spool.append(said(number, text="x" * 100_000))
    batches = emptied(spool)
    assert list(chain(*batches)) == list(range(50))
    assert max(map(len, batches)) == 11  # 1 MiB is ten of them and a part of the eleventh


def test_a_successor_goes_on_where_a_dead_process_was_and_reads_no_torn_line(tmp_path, caplog):
    dead = Spool(tmp_path)
    for number in range(30):
        dead.append(said(number, text="x" * 100_000))
    assert numbers(dead.take()) == list(range(11))
    dead.delivered()
    with (tmp_path / "tracking-0001.spool").open("a") as file:
        file.write('{"kind":"metr')
    assert undelivered(tmp_path) == 19
    spool = Spool(tmp_path)
    spool.append(said(30))
    assert list(chain(*emptied(spool))) == list(range(11, 31))
    assert not caplog.messages
    spool.close()
    assert files(tmp_path) == []


def test_a_driver_that_outlived_its_lease_harms_nothing_of_its_successors(tmp_path):
    ghost = Spool(tmp_path)
    ghost.append(said(1))
    taken = ghost.take()
    spool = Spool(tmp_path)
    spool.append(said(2))
    assert emptied(spool) == [[1], [2]]
    spool.append(said(3))
    assert numbers(taken) == [1]
    ghost.delivered()
    ghost.append(said(4))
    ghost.close()
    assert numbers(spool.take()) == [3]
    assert emptied(Spool(tmp_path)) == [[4], [3]]


def test_a_damaged_line_is_left_out_and_those_behind_it_are_not(tmp_path, caplog):
    lines = [json.dumps(record) for record in said(1, 2)]
    (tmp_path / "tracking-0001.spool").write_text(f"{lines[0]}\n\0\0\0\n{lines[1]}\n")
    assert emptied(Spool(tmp_path)) == [[1, 2]]
    assert "damaged line" in caplog.text


def test_a_full_disk_keeps_records_in_memory_until_there_is_room(tiny, monkeypatch):
    monkeypatch.setattr("robsearch.tracking.spool.FULL_SECONDS", 0.0)
    spool = Spool(tiny)
    spool.append(said(1))
    full, large = ballast(tiny), "x" * 10_000  # more than is left of the file's last block
    spool.append(said(2, text=large))
    spool.append(said(3, text=large))
    assert (undelivered(tiny), spool.left) == (1, 3)
    full.unlink()
    spool.append(said(4))
    assert undelivered(tiny) == 4
    assert emptied(spool) == [[1, 2, 3, 4]]


def test_records_reach_mlflow_past_a_full_disk(tiny, uri, tmp_path):
    tracker = Tracker(uri, "s", tmp_path)
    ballast(tiny)
    tracker.spool_into(tiny)
    tracker.begin("w4-000", "w4", {}, {})
    tracker.end("w4-000", "COMPLETE", 1004.0)
    assert tracker.close() == 0
    assert runs(uri)["w4-000"].info.status == "FINISHED"


# -- a driver that is killed, and sync -------------------------------------------------------------------------------

KILLED = """
import sys, time
from pathlib import Path
from robsearch.study import Lease, open_storage
from robsearch.tracking import Tracker, default_uri, tracker
tracker.FLUSH_SECONDS = 1000.0
results = Path(sys.argv[1])
storage = open_storage(None, results / "s")
lease = Lease.acquire(storage, "s")
tracker = Tracker(default_uri(results), "s", results)
tracker.spool_into(results / "s")
for trial in ("w4-000", "w4-001"):
    tracker.begin(trial, trial, {"lam": 2.5}, {})
    tracker.epochs(trial, [{"epoch": n, "time": 1000.0 + n, "val/robust_accuracy": n / 10} for n in (1, 2)])
tracker.end("w4-000", "COMPLETE", 1004.0)
print("said", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def killed(uri, tmp_path):
    """The results folder of a driver that was killed before MLflow had anything; two trials, one of them running."""
    record = SearchRecord("s", "m:s", (4,), 0, 2, uri, {})
    record.create(open_storage(None, tmp_path / "s"))
    driver = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "said\n"
    deadline = time.monotonic() + 10
    while undelivered(tmp_path / "s") < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    yield tmp_path, driver
    driver.kill()
    driver.wait()
    driver.stdout.close()


def test_sync_delivers_once_what_a_killed_driver_left_and_no_run_stays_running(killed):
    results, driver = killed
    means, lines = Means(results=results), []
    with pytest.raises(InputError, match=rf"process {driver.pid}.*leave it to that one"):
        sync("s", means)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert sync("s", means, lines.append) == 0
    assert lines[0].startswith("s: 5 records delivered to sqlite:///")
    assert lines[0].endswith("; runs marked as interrupted: 1")
    found = runs(default_uri(results))
    assert {trial: run.info.status for trial, run in found.items()} == {"w4-000": "FINISHED", "w4-001": "KILLED"}
    assert found["w4-001"].data.tags["robsearch.state"] == "INTERRUPTED"
    assert found["w4-001"].data.metrics["val/robust_accuracy"] == 0.2
    assert not list((results / "s").glob("tracking-*"))

    assert sync_all(means, lines.append) == 0
    assert lines[1].startswith("s: 0 records delivered")
    assert {trial: run.info.run_id for trial, run in runs(default_uri(results)).items()} == {
        trial: run.info.run_id for trial, run in found.items()
    }
    Lease.acquire(open_storage(None, results / "s"), "s").release()  # a driver may start again


@pytest.mark.slow
def test_sync_says_what_still_waits_when_the_server_goes_away(killed, monkeypatch):
    results, driver = killed
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    lines, before = [], default_uri(results)

    def lost(*_, **__):
        raise ConnectionError("the server went away")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.create_run", lost)  # the border: it answered the health check, then broke
        assert sync("s", Means(results=results), lines.append) == 5
    assert "0 records delivered" in lines[0]
    assert "5 still wait: begin of w4-000 not recorded in MLflow: ConnectionError: the server went away" in lines[0]
    assert undelivered(results / "s") == 5
    assert sync("s", Means(results=results), lines.append) == 0
    assert sorted(runs(before)) == ["w4-000", "w4-001"]


@pytest.mark.slow
def test_resume_goes_on_while_the_server_is_away_and_sync_delivers_what_it_did(uri, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server, console = test_tracking.served(uri, port), Console(record=True, width=300, force_terminal=False)
    means = Means(results=tmp_path, tracking=f"http://me:secret@127.0.0.1:{port}", parallel=2)
    try:
        robsearch.launch(small_spaces.pair, name="s", trials=2, means=means, console=console)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    search = robsearch.resume("s", trials=2, space=small_spaces.pair, means=means, console=console)
    said = console.export_text()
    assert f"note: no answer from http://127.0.0.1:{port} (Connection refused); training goes on" in said
    assert f"`robsearch sync s --results {tmp_path}` delivers what waits" in said
    assert "secret" not in said
    assert not search.unfinished
    server = test_tracking.served(uri, port)
    try:
        assert sync("s", means) == 0
        found = runs(uri)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert set(found) == {*search.trials["trial"], "search"}
    assert {run.info.status for run in found.values()} <= {"FINISHED", "KILLED"}
    assert not [file for file in (tmp_path / "s").rglob("*") if file.is_file() and b"secret" in file.read_bytes()]


def test_sync_of_an_unknown_search_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected the name of a search, got 'nothing'"):
        sync("nothing", Means(results=tmp_path))
