"""A search whose database is away for a while: trials train on, nothing is doubled, and it is said
once."""

import contextlib
import sqlite3
import threading
import time
from types import SimpleNamespace

import optuna
import pytest
from begun_searches import begun
from command_processes import in_this_process, started, wait_until
from faulty_spaces import sound
from mlflow_stores import new_store, runs_of
from postgresql_servers import postgresql
from rich.console import Console

import robsearch
from robsearch import RunOptions
from robsearch.errors import StorageAwayError
from robsearch.search.deciding import Decisions
from robsearch.study import patience
from robsearch.trials.loading import read_history

EPOCHS = list(range(1, 21))


# --- a driver that waits for its storage ---


class Waiting:
    """A driver whose decisions wait until ``answers`` is set."""

    def __init__(self):
        self.answers, self.calls, self.stopping = threading.Event(), [], False
        self.error = None

    @property
    def finished(self):
        return self.decide("finished", False)

    def decide(self, call, answer):
        self.answers.wait()
        if self.error:
            raise self.error
        self.calls.append(call)
        return answer

    def next(self):
        return self.decide("next", "a job")

    def heard(self, job, report):
        return self.decide(("heard", job, report), False)

    def gone(self, job, error):
        return self.decide(("gone", job, error), None)


@pytest.fixture
def waiting():
    driver = Waiting()
    storage = SimpleNamespace(away=True, give_up=driver.answers.set)
    decisions = Decisions(driver, storage)
    yield driver, storage, decisions
    driver.answers.set()
    decisions.end()


def test_while_the_storage_is_away_trials_go_on_and_no_job_is_given_out(waiting):
    driver, storage, decisions = waiting
    before = time.monotonic()
    assert decisions.next() is None
    assert [decisions.heard("a", n) for n in (1, 2)] == [True, True]
    decisions.gone("a", None)
    assert not decisions.finished
    assert time.monotonic() - before < 2
    assert driver.calls == []
    # It is back: all is decided in its order, and the job of then is given out now.
    storage.away = False
    driver.answers.set()
    decisions.close()
    assert driver.calls == ["next", ("heard", "a", 1), ("heard", "a", 2), ("gone", "a", None)]
    assert decisions.next() == "a job"
    assert decisions.heard("b", 1) is False


def test_what_a_late_decision_raises_ends_the_search(waiting):
    driver, _, decisions = waiting
    assert decisions.heard("a", 1) is True
    driver.error = StorageAwayError("gone for good")
    driver.answers.set()
    with pytest.raises(StorageAwayError, match="gone for good"):
        decisions.close()


def test_a_driver_that_stops_does_not_wait_for_its_storage(waiting):
    driver, _, decisions = waiting
    decisions.heard("a", 1)
    driver.stopping = True
    decisions.close()
    assert driver.calls == [("heard", "a", 1)]


# --- before there is a driver ---


@contextlib.contextmanager
def locked(database):
    connection = sqlite3.connect(database, isolation_level=None, timeout=60)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("COMMIT")
        connection.close()


@pytest.mark.parametrize(
    "words",
    [("status",), ("status", "s"), ("report", "s"), ("resume", "s", "--storage-patience", "0.2")],
    ids=" ".join,
)
def test_of_a_locked_storage_a_command_says_one_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(patience, "LOOKING_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path}/s.db?timeout=0.1"
    begun(tmp_path, storage=url)
    with locked(tmp_path / "s.db"):
        assert in_this_process(tmp_path, *words, "--storage", url) == 1
    *_, said = capsys.readouterr().err.splitlines()
    within = "0.2 s (--storage-patience)" if "resume" in words else "0.2 s"
    assert said == (
        f"error: expected the storage {url} to answer within {within}, got OperationalError: "
        "database is locked: see to the database, and try again"
    )


# --- end to end ---


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBSEARCH_TEST_TRIALS", str(tmp_path / "results" / "s" / "trials"))
    new_store(tmp_path / "results")
    return tmp_path


def launch(here, *more):
    process = started(
        here / "results",
        *("launch", "faulty_spaces:sound", "--name", "s", "--trials", "2", "--parallel", "1"),
        *("--storage", f"sqlite:///{here}/s.db", *more),
    )
    trial = here / "results" / "s" / "trials" / "w4-000"
    wait_until(lambda: len(read_history(trial)) > 4, process)
    return process, trial


def assert_nothing_doubled(here):
    """Asked, Optuna, MLflow and folders have the same two trials, each epoch once."""
    search = robsearch.load_search("s", here / "results", f"sqlite:///{here}/s.db")
    assert search.trials["state"].to_list() == ["COMPLETE", "COMPLETE"]
    assert search.epochs["epoch"].to_list() == [*EPOCHS, *EPOCHS]
    storage = optuna.storages.RDBStorage(f"sqlite:///{here}/s.db")
    study = optuna.load_study(study_name="s@w4", storage=storage)
    for trial in study.get_trials():
        assert (trial.state.name, list(trial.intermediate_values)) == ("COMPLETE", EPOCHS)
    names = ["w4-000", "w4-001"]
    assert len(study.get_trials()) == 2
    assert sorted(runs_of(search.record.tracking)) == ["search", *names]
    assert sorted(folder.name for folder in (here / "results/s/trials").iterdir()) == names


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_goes_on_after_its_sqlite_file_was_locked(here):
    process, trial = launch(here)
    with locked(here / "s.db"):
        # The worker is not kept waiting for decisions.
        wait_until(lambda: len(read_history(trial)) == 20, process)
        time.sleep(8)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert said.count("the storage is away (OperationalError: database is locked)") == 1
    assert said.count("the storage is back after ") == 1
    assert "Traceback" not in said
    assert_nothing_doubled(here)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_storage_that_stays_away_ends_the_search_with_one_sentence_and_resume_goes_on(here):
    process, _ = launch(here, "--storage-patience", "3")
    with locked(here / "s.db"):
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 1, said
    away = "error: expected a storage that answers within 3 s (--storage-patience), got "
    assert away in said, said
    places = f"--results {here}/results --storage sqlite:///{here}/s.db"
    assert f"go on with: robsearch resume s {places}" in said
    assert "Traceback" not in said
    options = RunOptions(results=here / "results", storage=f"sqlite:///{here}/s.db", parallel=1)
    robsearch.resume("s", space=sound, options=options, console=Console(quiet=True))
    assert_nothing_doubled(here)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_searches_that_begin_and_go_on_wait_for_a_postgresql_that_is_away(here):
    with postgresql() as server:
        places = ("--storage", server.url)
        search = ("faulty_spaces:sound", "--name", "s", "--trials", "1", "--parallel", "1")
        for words in (("launch", *search), ("resume", "s", "--trials", "1", "--parallel", "1")):
            server.stop()
            process = started(here / "results", *words, *places)
            said = lines_until("waiting for the storage", process)
            # Who looks meanwhile does not wait for long.
            for command in ("status", "report"):
                looking = started(here / "results", command, "s", *places)
                seen, _ = looking.communicate(timeout=300)
                assert looking.returncode == 1, seen
                assert seen.count("expected the storage postgresql+psycopg2://127.0.0.1:") == 1
                assert "to answer within 10 s, got OperationalError: connection to" in seen
                assert "Traceback" not in seen
            server.start()
            said += process.communicate(timeout=600)[0]
            assert process.returncode == 0, said
            assert said.count("waiting for the storage") == 1
            assert said.count(" is back after ") == 1
            assert "Traceback" not in said
        trials = optuna.load_study(study_name="s@w4", storage=server.url).get_trials()
        assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]


def lines_until(text, process):
    """What a process prints, up to a line with a text in it."""
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said)
