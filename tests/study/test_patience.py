"""A database that is away: what was asked is asked again, nothing is written twice, and it is said
once. No Ray in here."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import optuna
import pytest
from full_disks import ballast
from mlflow_stores import free_port
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from small_spaces import recipe

from robsearch.errors import StorageAwayError
from robsearch.spaces import Space, Stage
from robsearch.study import JOURNAL, Lease, PatientStorage, Study, living_owner, open_storage

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


class Server:
    """A PostgreSQL of its own, stopped and started as an administrator would."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.as_user = [] if os.getuid() else ["runuser", "-u", "postgres", "--"]
        if self.as_user:
            shutil.chown(folder, "postgres")
        data = str(folder / "data")
        self.run(program("initdb"), "-D", data, "-A", "trust", "-U", "me", "--no-sync")
        self.start()

    def run(self, *words):
        subprocess.run(
            [*self.as_user, *words], check=True, cwd=self.folder, stdout=subprocess.DEVNULL
        )

    def start(self):
        how = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        data = str(self.folder / "data")
        log = str(self.folder / "log")
        self.run(program("pg_ctl"), "-D", data, "-o", how, "-l", log, "-w", "start")

    def stop(self):
        self.run(program("pg_ctl"), "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")

    @property
    def url(self):
        return f"postgresql+psycopg2://me@127.0.0.1:{self.port}/postgres"


def program(name):
    """Debian has the server's programs on no path."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


@pytest.fixture
def server(tmp_path_factory):
    pytest.importorskip("psycopg2", reason="the driver psycopg2 is not installed")
    if not (program("initdb") and program("pg_ctl")):
        pytest.skip("no PostgreSQL is installed here (initdb, pg_ctl)")
    folder = tmp_path_factory.mktemp("pg")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    made = Server(folder)
    yield made
    made.stop()


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
