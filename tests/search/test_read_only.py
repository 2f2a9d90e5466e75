"""Results that cannot be written: what only looks goes on, and all else is refused in one sentence.
No Ray in here, but one import of it."""

import optuna
import pytest
from read_only import run_read_only
from search_records import search_record
from small_spaces import recipe

from robsearch.search.results_store import ResultsStore, claim_folder
from robsearch.spaces import Space, Stage
from robsearch.study import Study, open_storage


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


@pytest.fixture
def results(tmp_path):
    """Of a search with one finished trial, in a journal of its own."""
    store = ResultsStore(tmp_path / "results")
    return begun(store)


def begun(store):
    record = search_record(space="small_spaces:pair", identity="1" * 32)
    folder = store.folder("s")
    claim_folder(folder, record)
    storage = open_storage(store.storage, folder)
    record.create(storage)
    study = Study(storage, "s", Space(define, (4, 8)), Stage(4), trials=4, full=recipe(4), seed=0)
    entry = {"epoch": 1, "time": 0.0, "val/robust_accuracy": 0.6, "train/lam": 2.0}
    study.complete(study.ask(), entry, entry)
    (folder / "trials").mkdir()
    return store.results


def refusal_of(ended):
    """The one sentence of a command that was refused."""
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("loading and")]
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_status_compare_and_a_report_elsewhere_need_no_writing(results, tmp_path):
    of_s = ("s", "--results", results)
    assert "1 of 4 trials ended" in run_read_only(results, "status", *of_s).stdout
    compared = run_read_only(results, "compare", *of_s)
    assert compared.returncode == 0
    assert "note: s: 1 of 4 trials ended" in compared.stdout
    (line,) = compared.stderr.splitlines()
    assert line.startswith(f"note: expected to write in {results}, got ")
    page = tmp_path / "new" / "page.html"
    assert run_read_only(results, "report", *of_s, "--out", page).returncode == 0
    assert "<html" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "sync", "resume"])
def test_what_has_to_write_is_refused_in_one_sentence(results, command):
    sentence = refusal_of(run_read_only(results, command, "s", "--results", results))
    place = results / "s"
    if command == "report":
        assert f"expected to write the report {place / 'report.html'}, got" in sentence
        assert "--out FILE" in sentence
    else:
        assert f"expected a writable results folder {place}, got" in sentence
        assert "a copy of this one" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sync", "stop"])
def test_a_database_that_cannot_be_written_is_named(tmp_path, command):
    database = tmp_path / "database"
    database.mkdir()
    url = f"sqlite:///{database / 'all.db'}"
    results = begun(ResultsStore(tmp_path / "results", url))
    if command == "stop":
        storage = optuna.storages.get_storage(url)
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s@lease-1")
    ended = run_read_only(database, command, "s", "--results", results, "--storage", url)
    assert "expected a storage that can be written, got attempt to write a readonly database" in (
        refusal_of(ended)
    )
