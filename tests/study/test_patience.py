"""A database that is away: what was asked is asked again, nothing is written twice, and it is said
once. No Ray in here."""

import contextlib
import json
import math
import os
import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from full_disks import ballast
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from postgresql_servers import postgresql
from small_jobs import soon
from small_spaces import recipe

from robsearch.errors import InputError, StorageAwayError
from robsearch.spaces import Space, Stage
from robsearch.study import (
    JOURNAL,
    Lease,
    PatientStorage,
    Study,
    living_owner,
    open_storage,
    patience,
    waiting_for_storage,
)
from robsearch.study.storage import add_finished

SPACE = Space(
    lambda trial, width: recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True)),
    (4,),
    sampler=optuna.samplers.RandomSampler(seed=1),
    start_with=({"lam": 2.0},),
)
EPOCHS = [
    {"epoch": n, "val/robust_accuracy": n / 10, "val/natural_accuracy": 0.9, "train/lam": 2.0}
    for n in (1, 2, 3)
]


def search(storage):
    """Three suggestions, the first one enqueued, each to another end."""
    study = Study(storage, "s", SPACE, Stage(4), trials=3, full=recipe(4), seed=0)
    study.enqueue({"lam": 2.0})
    for end in ("complete", "prune", "fail"):
        suggestion = study.ask()
        study.report(suggestion, EPOCHS)
        if end == "fail":
            study.fail(suggestion, "why")
        else:
            getattr(study, end)(suggestion, EPOCHS[2], EPOCHS[2])


def content(storage):
    """All that a storage has of the search, but for times."""
    study = optuna.load_study(study_name="s@w4", storage=storage)
    trials = [
        (
            trial.number,
            trial.state.name,
            trial.values,
            trial.params,
            trial.user_attrs,
            trial.system_attrs,
            trial.intermediate_values,
        )
        for trial in study.get_trials()
    ]
    return study.user_attrs, trials


class LosesAnswers(sqlite3.Connection):
    """Commits, and then says that the connection is lost: every ``EVERY``-th time."""

    EVERY = 3
    commits = 0

    def commit(self):
        super().commit()
        LosesAnswers.commits += 1
        if LosesAnswers.commits % self.EVERY == 0:
            raise sqlite3.OperationalError("the answer was lost")


@pytest.mark.parametrize("every", [3, 4, 7])
def test_of_a_lost_answer_nothing_is_written_twice(tmp_path, monkeypatch, every):
    search(open_storage(f"sqlite:///{tmp_path}/whole.db", tmp_path))
    monkeypatch.setattr(LosesAnswers, "EVERY", 10**9)
    said = []
    backend = RDBStorage(
        f"sqlite:///{tmp_path}/lost.db",
        engine_kwargs={"connect_args": {"factory": LosesAnswers}},
    )
    storage = PatientStorage(optuna.storages.get_storage(backend), 60.0, said.append)
    open_study = optuna.create_study(study_name="s@w4", storage=storage, direction="maximize")
    assert open_study.study_name == "s@w4"
    monkeypatch.setattr(LosesAnswers, "EVERY", every)
    search(storage)
    monkeypatch.setattr(LosesAnswers, "EVERY", 10**9)
    whole = open_storage(f"sqlite:///{tmp_path}/whole.db", tmp_path)
    lost = open_storage(f"sqlite:///{tmp_path}/lost.db", tmp_path)
    assert content(lost) == content(whole)
    assert len(content(lost)[1]) == 3
    assert said == []  # each answered at the second time


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/s.db"


def locked(tmp_path, seconds, ready):
    connection = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    ready.set()
    time.sleep(seconds)
    connection.execute("COMMIT")
    connection.close()


def test_a_locked_sqlite_file_is_waited_for_and_the_lease_is_kept(url, tmp_path):
    said = []
    storage = PatientStorage(open_storage(url, tmp_path), 60.0, said.append)
    with Lease.acquire(storage, "s") as lease:
        study = Study(storage, "s", SPACE, Stage(4), trials=3, full=recipe(4), seed=0)
        ready = threading.Event()
        other = threading.Thread(target=locked, args=(tmp_path, 12.0, ready))
        other.start()
        assert ready.wait(10)
        started = time.monotonic()
        suggestion = study.ask()
        assert 10 < time.monotonic() - started < 20
        other.join()
        lease.verify()
        assert suggestion.number == 0
        assert living_owner(storage, "s")["pid"] == os.getpid()
        # The lease's thread may still wait for its next try: who answers last says it.
        assert soon(lambda: len(said) == 2)
    away, back = said
    assert away.startswith("the storage is away (OperationalError: database is locked): trainings")
    assert back.startswith("the storage is back after 1")


def test_patience_without_an_end_waits_until_the_storage_is_back(url, tmp_path):
    said = []
    storage = PatientStorage(open_storage(url, tmp_path), math.inf, said.append)
    ready = threading.Event()
    other = threading.Thread(target=locked, args=(tmp_path, 8.0, ready))
    other.start()
    assert ready.wait(10)
    storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    other.join()
    away, back = said
    assert away.endswith("trainings go on, and it is tried again until it is back")
    assert back.startswith("the storage is back after ")


def test_after_the_patience_it_is_refused_with_the_reason(url, tmp_path):
    storage = PatientStorage(open_storage(url, tmp_path), 2.0, print)
    study = Study(storage, "s", SPACE, Stage(4), trials=3, full=recipe(4), seed=0)
    ready = threading.Event()
    other = threading.Thread(target=locked, args=(tmp_path, 14.0, ready))
    other.start()
    assert ready.wait(10)
    with pytest.raises(
        StorageAwayError,
        match=r"expected a storage that answers within 2 s \(--storage-patience\), got "
        "OperationalError: database is locked: what had ended is kept",
    ):
        study.ask()
    other.join()


def test_what_no_patience_mends_is_refused_at_once(url, tmp_path):
    storage = PatientStorage(open_storage(url, tmp_path), 60.0, print)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("DROP TABLE studies")
    with pytest.raises(Exception, match="exceeding max length") as raised:
        storage.get_all_studies()
    assert not isinstance(raised.value, StorageAwayError)


# --- before there is a driver ---


@contextlib.contextmanager
def held(tmp_path):
    """The file is locked by another connection meanwhile."""
    connection = sqlite3.connect(tmp_path / "s.db", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield connection
    finally:
        connection.close()


def test_a_database_that_is_locked_when_it_is_opened_is_waited_for_and_that_is_said_once(
    url, tmp_path
):
    said = []
    with held(tmp_path) as other:

        def say(text):
            said.append(text)
            if other.in_transaction:
                other.execute("COMMIT")

        with waiting_for_storage(60.0, say):
            storage = open_storage(f"{url}?timeout=0.1", tmp_path)
    assert storage.get_all_studies() == []
    waits, back = said
    assert waits == (
        f"waiting for the storage {url}?timeout=0.1 (OperationalError: database is locked): "
        "it is tried again for 60 seconds"
    )
    assert back.startswith(f"the storage {url}?timeout=0.1 is back after ")


def test_who_looks_waits_a_short_time_for_a_database_and_then_has_one_sentence(
    url, tmp_path, monkeypatch
):
    monkeypatch.setattr(patience, "LOOKING_SECONDS", 1.0)
    storage = open_storage(f"{url}?timeout=0.1", tmp_path)
    sentence = (
        rf"expected the storage {re.escape(url)}\?timeout=0.1 to answer within 1 s, got "
        "OperationalError: database is locked: see to the database, and try again$"
    )
    with held(tmp_path):
        started = time.monotonic()
        with pytest.raises(StorageAwayError, match=sentence):
            open_storage(f"{url}?timeout=0.1", tmp_path)
        with pytest.raises(StorageAwayError, match=sentence):
            storage.get_all_studies()
        assert 2 <= time.monotonic() - started < 15
        # Whoever clears up after that does not wait as long once more.
        again = time.monotonic()
        with pytest.raises(StorageAwayError, match=sentence):
            storage.get_all_studies()
        assert time.monotonic() - again < 0.8
    assert storage.get_all_studies() == []


def refused_at_once(url, folder):
    said = []
    with (
        waiting_for_storage(600.0, said.append),
        pytest.raises(InputError, match="expected an Optuna storage that opens, got Operational"),
    ):
        open_storage(url, folder)
    assert said == []


def test_a_storage_that_no_waiting_opens_is_refused_at_once(tmp_path):
    refused_at_once("sqlite:////nowhere/at/all/s.db", tmp_path)


def test_suggestions_from_elsewhere_are_brought_in_once_though_the_answer_was_lost(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(LosesAnswers, "EVERY", 10**9)
    engine = {"connect_args": {"factory": LosesAnswers}}
    backend = RDBStorage(f"sqlite:///{tmp_path}/lost.db", engine_kwargs=engine)
    storage = PatientStorage(optuna.storages.get_storage(backend), 60.0)
    known = [optuna.create_trial(params={}, distributions={}, values=[n / 10]) for n in range(3)]
    add_finished(storage, 1, {"s@w4": []})  # the study
    LosesAnswers.commits = 0
    monkeypatch.setattr(LosesAnswers, "EVERY", 3)
    for _ in range(3):
        add_finished(storage, 1, {"s@w4": known})
    assert LosesAnswers.commits >= 3
    values = [trial.value for trial in optuna.load_study(study_name="s@w4", storage=storage).trials]
    assert values == [0.0, 0.1, 0.2] * 3


# --- a full disk ---


def test_a_journal_on_a_full_disk_is_written_once_there_is_room_and_each_record_once(tiny):
    said = []
    storage = PatientStorage(open_storage(None, tiny), 0.0, said.append, disk_patience=60.0)
    study = Study(storage, "s", SPACE, Stage(4), trials=3, full=recipe(4), seed=0)
    number = storage.get_study_id_from_name("s@w4")
    full = ballast(tiny)
    making_room = threading.Timer(4.0, full.unlink)
    making_room.start()
    started = time.monotonic()
    texts = {f"text {n}": str(n) * 1000 for n in range(10)}  # more than fits into a last block
    for name, text in texts.items():
        storage.set_study_user_attr(number, name, text)
    assert 3 < time.monotonic() - started < 30
    assert study.ask().number == 0
    lines = (tiny / JOURNAL).read_text().splitlines()
    assert [sum(f'"{name}"' in line for line in lines) for name in texts] == [1] * 10
    assert len(study.trials()) == 1
    away, back = said
    assert away.startswith(
        "the disk is full under the storage ([Errno 28] No space left on device)"
    )
    assert back.startswith("the storage has room again after ")


@pytest.mark.parametrize("gives_up", ["after its patience", "at the end of the driver"])
def test_a_disk_that_stays_full_is_an_error_of_the_system_and_the_journal_is_whole(tiny, gives_up):
    patience = 1.0 if gives_up == "after its patience" else 600.0
    storage = PatientStorage(open_storage(None, tiny), 0.0, disk_patience=patience)
    Study(storage, "s", SPACE, Stage(4), trials=3, full=recipe(4), seed=0)
    number = storage.get_study_id_from_name("s@w4")
    ballast(tiny)
    if gives_up == "at the end of the driver":
        storage.end(0.5)
    with pytest.raises(OSError, match="No space left on device"):
        storage.set_study_user_attr(number, "text", "longer than a block of the disk" * 200)
    lines = (tiny / JOURNAL).read_bytes()
    assert lines.endswith(b"}\n")
    assert all(json.loads(line) for line in lines.splitlines())


# --- PostgreSQL ---


@pytest.fixture
def server():
    with postgresql() as made:
        yield made


def test_a_postgresql_that_restarts_doubles_nothing_and_the_lease_is_kept(server, tmp_path):
    said = []
    search(open_storage(f"sqlite:///{tmp_path}/whole.db", tmp_path))
    storage = PatientStorage(open_storage(server.url, tmp_path), 60.0, said.append)
    ended = threading.Event()
    stopped = threading.Event()

    def restart():
        while not ended.wait(1.0):
            server.stop()
            stopped.set()
            time.sleep(1.5)
            server.start()

    with Lease.acquire(storage, "s") as lease:
        restarts = threading.Thread(target=restart)
        restarts.start()
        # However fast the machine is, the search begins while the server is away.
        assert stopped.wait(60.0)
        search(storage)
        ended.set()
        restarts.join()
        lease.verify()
        assert living_owner(storage, "s")["pid"] == os.getpid()
    whole = open_storage(f"sqlite:///{tmp_path}/whole.db", tmp_path)
    assert content(open_storage(server.url, tmp_path)) == content(whole)
    away, back = said[:2]
    assert away.startswith("the storage is away (")
    assert back.startswith("the storage is back after ")
    states = [trial[1] for trial in content(storage)[1]]
    assert states == [TrialState.COMPLETE.name, TrialState.PRUNED.name, TrialState.FAIL.name]


def test_a_server_that_is_away_is_waited_for_and_one_without_that_database_is_refused(
    server, tmp_path
):
    refused_at_once(f"{server.url}-another", tmp_path)
    server.stop()
    said = []
    starting = threading.Timer(3.0, server.start)
    starting.start()
    with waiting_for_storage(60.0, said.append):
        storage = open_storage(server.url, tmp_path)
    starting.join()
    assert storage.get_all_studies() == []
    waits, back = said
    assert "waiting for the storage postgresql+psycopg2://127.0.0.1:" in waits
    assert waits.endswith("): it is tried again for 60 seconds")
    assert " is back after " in back


def test_of_processes_that_open_a_new_database_at_once_all_have_its_tables(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_storage(server.url, tmp_path), range(4)))
    assert [storage.get_all_studies() for storage in opened] == [[]] * 4
