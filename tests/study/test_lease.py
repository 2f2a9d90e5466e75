"""Whether a driver lives is judged by what the observer sees by its own clock; no Ray in here.

Leases of other machines are planted: as a driver there would have written them, and by a process in
a real process table of its own.
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time

import optuna
import pytest
from mlflow_stores import new_store
from search_records import search_record

from robsearch import InputError, RunOptions
from robsearch.errors import LeaseLostError
from robsearch.search.commands import repair as repairing
from robsearch.search.commands.delete import deletion
from robsearch.search.commands.status import driver_line, status_rows
from robsearch.search.commands.stop import stop
from robsearch.search.result import load_search
from robsearch.search.results_store import claim_folder
from robsearch.search.syncing import sync
from robsearch.study import JOURNAL, Lease, LeaseWatch, lease, living_owner, open_storage
from robsearch.study.process_table import is_there, this_process

FAST, EXPIRE = 0.02, 0.6
HOUR = 3600.0


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """Of a search ``s`` whose leases are renewed and looked at often, and expire soon."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", FAST)
    monkeypatch.setattr(lease, "LOOK_SECONDS", FAST)
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", EXPIRE)
    record = search_record()
    claim_folder(tmp_path / "s", record)
    opened = open_storage(None, tmp_path / "s")
    record.create(opened)
    return opened


def plant(storage, number=1, **changes):
    """A lease whose driver is another process; returns what it says."""
    name = f"s@lease-{number}"
    with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
    here = this_process()
    owner = {**here, "host": "node7", "pid": 12, "boot": "another", "renewal": 3}
    owner |= {"started": time.time() - HOUR, "renewed": time.time(), **changes}
    storage.set_study_user_attr(storage.get_study_id_from_name(name), "owner", owner)
    return owner


@contextlib.contextmanager
def renewed(folder, owner):
    """A driver elsewhere that goes on renewing the planted lease, in storage of its own."""
    storage, ended = open_storage(None, folder / "s"), threading.Event()

    def renew():
        for renewal in itertools.count(owner["renewal"] + 1):
            if ended.wait(5 * FAST):
                return
            plant(storage, **owner | {"renewal": renewal})

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def acquired(storage, **how):
    """Seconds until the lease was acquired, and what was said meanwhile; it is released again."""
    started, said = time.monotonic(), []
    Lease.acquire(storage, "s", said.append, **how).release()
    return time.monotonic() - started, said


CLOCKS = {"in step": 0.0, "an hour behind": -HOUR, "an hour ahead": HOUR}
HERE = {"host": socket.gethostname(), "boot": this_process()["boot"]}
ELSEWHERE = {
    "another host": {},
    "another host of this name": {"host": socket.gethostname()},
    "another container on this host's network": HERE | {"pid_namespace": "pid:[1]"},
    "another container with a process of this number": HERE
    | {"pid_namespace": "pid:[1]", "pid": os.getpid()},
}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("where", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_driver_elsewhere_that_renews_its_lease_is_left_alone_whatever_its_clock_says(
    storage, tmp_path, clock, where, monkeypatch
):
    # A machine that is busy for a while is no driver that rests.
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 20 * EXPIRE)
    owner = plant(storage, renewed=time.time() + clock, **where)
    with renewed(tmp_path, owner), pytest.raises(InputError, match="which renews its lease"):
        acquired(storage)


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("where", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_driver_elsewhere_that_died_is_superseded_once_its_lease_was_seen_to_rest(
    storage, clock, where
):
    owner = plant(storage, renewed=time.time() + clock, **where)
    seconds, said = acquired(storage)
    assert EXPIRE <= seconds < EXPIRE + 5
    driver = f"the driver on {owner['host']} (process {owner['pid']})"
    assert said == [f"waiting up to {EXPIRE} s to see whether {driver} still lives"]


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_leases_of_an_older_robsearch_are_watched_too(storage, tmp_path, clock):
    new = ("renewal", "start_ticks", "boot", "pid_namespace", "time_namespace")
    owner = plant(storage, renewed=time.time() + clock, host=socket.gethostname())
    old = {key: owner[key] for key in owner if key not in new}
    study = storage.get_study_id_from_name("s@lease-1")
    storage.set_study_user_attr(study, "owner", old)
    assert living_owner(storage, "s") == old | {"alive": None}
    watch = LeaseWatch(storage, "s")
    storage.set_study_user_attr(study, "owner", old | {"renewed": old["renewed"] + 5})
    with pytest.raises(InputError, match=r"on .* \(process 12\), which renews its lease"):
        watch.wait()
    assert acquired(storage)[0] >= EXPIRE


def test_an_older_robsearch_can_read_a_new_lease(storage):
    held = Lease.acquire(storage, "s")
    owner = storage.get_study_user_attrs(storage.get_study_id_from_name("s@lease-1"))["owner"]
    held.release()
    assert owner["host"] == socket.gethostname()
    assert owner["pid"] == os.getpid()
    assert time.time() - owner["renewed"] < 60 > time.time() - owner["started"] - HOUR


DRIVER = (
    "import os, sys, pathlib, time; from robsearch.study import Lease, open_storage;"
    "Lease.acquire(open_storage(None, pathlib.Path(sys.argv[1])), 's'); print('ready', flush=True);"
    "time.sleep(float(sys.argv[2])); os._exit(9)"
)


def started(tmp_path, *before, seconds=600):
    """A real driver in a process of its own, once it holds the lease."""
    command = [*before, sys.executable, "-c", DRIVER, str(tmp_path / "s"), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_driver_that_was_killed_on_this_machine_is_superseded_at_once(storage, tmp_path):
    driver = started(tmp_path)
    assert living_owner(storage, "s")["alive"]
    driver.kill()
    # Nobody has asked for how it ended: it is a zombie, which has a number.
    while living_owner(storage, "s") is not None:
        time.sleep(FAST)
    assert is_there({**this_process(), "pid": driver.pid}) is False
    seconds, said = acquired(storage)
    driver.wait()
    assert (seconds < EXPIRE, said) == (True, [])
    plant(storage, 9, **this_process() | {"pid": driver.pid})
    assert living_owner(storage, "s") is None


def test_a_number_that_another_process_got_is_no_driver(storage):
    here = this_process()
    plant(storage, **here | {"start_ticks": here["start_ticks"] - 1})
    assert acquired(storage) == (pytest.approx(0, abs=EXPIRE), [])


def test_a_driver_in_another_process_table_of_this_machine_is_left_alone(storage, tmp_path):
    """The same host name, and a number that means nobody here: it was taken for dead."""
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may make no process table of its own (unshare --pid)")
    driver = started(tmp_path, *unshare)
    try:
        owner = living_owner(storage, "s")
        assert owner["host"] == socket.gethostname()
        assert (owner["boot"], owner["alive"]) == (this_process()["boot"], None)
        lease.EXPIRE_SECONDS = 30.0  # it renews every 5 s
        with pytest.raises(InputError, match="which renews its lease"):
            acquired(storage)
    finally:
        driver.kill()
        driver.wait()


def test_a_process_that_lives_but_renews_nothing_loses_its_lease_and_notices(storage):
    held = Lease.acquire(storage, "s")
    held._released.set()
    assert acquired(storage)[0] >= EXPIRE
    with pytest.raises(LeaseLostError, match="took over"):
        held.verify()


def test_an_observer_that_was_suspended_has_observed_nothing_meanwhile(storage):
    plant(storage)
    watch = LeaseWatch(storage, "s")
    time.sleep(1.5 * EXPIRE)
    watch.look()
    assert not watch.expired


def test_a_driver_that_is_just_starting_is_not_superseded(storage):
    """Between making the study and writing its owner."""
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s@lease-1")
    watch = LeaseWatch(storage, "s")
    assert watch.owner["pid"] is None
    plant(storage)
    with pytest.raises(InputError, match=r"process 12\), which renews its lease"):
        watch.wait()


def test_of_two_that_watch_a_dead_driver_at_once_one_takes_over(storage, tmp_path):
    plant(storage)
    outcomes, leases = [], []

    def take():
        try:
            leases.append(Lease.acquire(open_storage(None, tmp_path / "s"), "s"))
            outcomes.append("took it")
        except InputError as error:
            outcomes.append(str(error))

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    leases[0].release()
    lost, won = sorted(outcomes)[:-1], sorted(outcomes)[-1]
    assert won == "took it"
    assert all("got one that started just now" in outcome for outcome in lost)
    assert len(leases) == 1


def test_what_was_watched_once_is_not_watched_again(storage):
    plant(storage)
    watch = LeaseWatch(storage, "s")
    watch.wait()
    seconds, said = acquired(storage, watch=watch)
    assert (seconds < EXPIRE, said) == (True, [])
    watch = LeaseWatch(storage, "s")  # of a lease that was released
    acquired(storage)  # somebody held it meanwhile, such as `sync`
    assert acquired(storage, watch=watch)[1] == []


def test_a_driver_that_wakes_after_it_was_watched_is_not_superseded(storage):
    owner = plant(storage)
    watch = LeaseWatch(storage, "s")
    watch.wait()
    plant(storage, **owner | {"renewal": 4})
    with pytest.raises(InputError, match="which renews its lease"):
        acquired(storage, watch=watch)


# --- commands ---


@pytest.mark.parametrize(
    ("clock", "hint"),
    [
        (-2, "(probably yes: last heard of"),
        (-4 * HOUR, "(probably not: last heard of 4.0 h ago by the two clocks)"),
        (HOUR, "(its clock was 60 min ahead of this machine's)"),
    ],
)
def test_status_does_not_wait_and_gives_the_clocks_word_as_a_hint(storage, tmp_path, clock, hint):
    plant(storage, renewed=time.time() + clock)
    before = time.monotonic()
    search = load_search("s", tmp_path)
    line = driver_line(search)
    assert list(status_rows(search))
    assert time.monotonic() - before < 30
    assert line.startswith("held by the driver on node7 (process 12); whether it lives, one look")
    assert hint in line
    assert "resume s" in line


def test_stop_asks_a_driver_elsewhere_and_ends_when_its_lease_rests(storage, tmp_path):
    owner = plant(storage, renewed=time.time() - 4 * HOUR)
    said = []
    with renewed(tmp_path, owner):
        thread = threading.Thread(
            target=stop, args=("s", RunOptions(results=tmp_path), said.append)
        )
        thread.start()
        thread.join(2 * EXPIRE)
        assert thread.is_alive()  # it is renewed, so it is waited for
    thread.join(30)
    assert said[0] == "asked the driver on node7 (process 12) to stop s; waiting for it"
    assert "one look cannot tell (probably not: " in said[1]
    assert "has not renewed its lease for 1 s, and holds s no longer; go on with" in said[2]
    attributes = storage.get_study_user_attrs(storage.get_study_id_from_name("s@lease-1"))
    assert "stop" in attributes


def test_sync_waits_for_a_driver_elsewhere_and_leaves_it_alone(storage, tmp_path):
    owner, said = plant(storage, renewed=time.time() - HOUR), []
    options = RunOptions(results=tmp_path)
    with renewed(tmp_path, owner), pytest.raises(InputError, match="leave it to that one: it del"):
        sync("s", options, said.append)
    driver = "the driver on node7 (process 12)"
    # The first look may have seen it renewed already.
    assert set(said) <= {f"waiting up to {EXPIRE} s to see whether {driver} still lives"}


# --- commands that change a search which may be driven elsewhere ---


@pytest.fixture
def deleting(tmp_path):
    going = deletion("s", RunOptions(results=tmp_path, tracking=new_store(tmp_path)))
    said = []
    return lambda: going.carry_out(said.append) or said


def test_a_search_whose_driver_died_elsewhere_can_be_deleted(storage, tmp_path, deleting):
    plant(storage)
    assert deleting() == [
        f"waiting up to {EXPIRE} s to see whether the driver on node7 (process 12) still lives"
    ]
    assert not (tmp_path / "s").exists()


def test_a_search_that_is_driven_elsewhere_is_not_deleted(storage, tmp_path, deleting):
    owner = plant(storage)
    with renewed(tmp_path, owner), pytest.raises(InputError, match="which renews its lease"):
        deleting()
    assert (tmp_path / "s" / JOURNAL).exists()


@pytest.mark.parametrize("is_driven", [False, True])
def test_a_journal_is_repaired_unless_a_driver_elsewhere_adds_to_it(
    storage, tmp_path, monkeypatch, is_driven
):
    monkeypatch.setattr(repairing, "LOOK_SECONDS", FAST)
    monkeypatch.setattr(repairing, "EXPIRE_SECONDS", EXPIRE)
    plant(storage)
    journal = tmp_path / "s" / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(b"\n", b"\n\n", 1))
    options = RunOptions(results=tmp_path)
    assert not repairing.repair("s", options, say=lambda text: None).whole
    if not is_driven:
        assert repairing.repair("s", options, apply=True, say=lambda text: None).copy
        assert repairing.repair("s", options, say=lambda text: None).whole
        return
    ended = threading.Event()

    def add():
        line = json.dumps({"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"a": 1}})
        while not ended.wait(FAST):
            with journal.open("a") as file:
                file.write(line + "\n")

    thread = threading.Thread(target=add)
    thread.start()
    try:
        with pytest.raises(InputError, match="no driver of 's' at work, got the one on node7"):
            repairing.repair("s", options, apply=True, say=lambda text: None)
    finally:
        ended.set()
        thread.join()
