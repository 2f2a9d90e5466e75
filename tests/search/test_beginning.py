"""A launch that is killed at any moment of its beginning, and the next one of the same name."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import killed_beginnings
import pytest
from killed_beginnings import beginning, store_of
from mlflow import MlflowClient
from mlflow_stores import new_store
from optuna.study import StudyDirection
from search_records import search_record
from small_spaces import pair

import robsearch
from robsearch import InputError, RunOptions
from robsearch.search.beginning import begun
from robsearch.search.budgets import DRIVEN
from robsearch.search.preflight import new_name
from robsearch.search.recording import ASKED, is_concluded
from robsearch.search.results_store import ResultsStore, claim_folder, search_names
from robsearch.search.scheduling import scheduler_of
from robsearch.spaces import suggestions
from robsearch.study import JOURNAL, Lease, SearchRecord, open_storage, study_names
from robsearch.tracking import SEARCH_ID, default_uri
from robsearch.trials.run_facts import RunFacts, write_run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_wherever_a_launch_is_killed_the_next_one_begins_the_search_or_goes_on_with_it(
    tmp_path, kind, monkeypatch
):
    """It was refused for ever: the folder, the journal or the experiment kept the name taken."""
    # Nobody can tell at once that a driver is dead which was killed before it wrote who it is.
    monkeypatch.setattr("robsearch.study.lease.EXPIRE_SECONDS", 0.5)
    monkeypatch.setattr("robsearch.study.lease.LOOK_SECONDS", 0.1)
    code = "import killed_beginnings; killed_beginnings.main()"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(killed_beginnings.__file__)}
    program = [sys.executable, "-c", code, str(tmp_path), kind]
    killed = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert killed.returncode == 0, killed.stderr
    draws = list(suggestions(pair))
    steps = len(list(tmp_path.iterdir())) - 1
    there = 0
    taken_over = 0
    for step in range(steps):
        store = store_of(tmp_path / str(step), kind)
        if "s" in search_names(store):
            there += 1
            storage, record = store.search("s")
        else:
            assert new_name("s", pair, store, default_uri(store.results)) == "s"
            with beginning(store, draws) as search:
                taken_over += search.taken_over
                storage, record = search.storage, search.record
                assert SearchRecord.load(storage, "s") == record
        client = MlflowClient(default_uri(store.results))
        experiments = [each for each in client.search_experiments() if each.name == "s"]
        assert [each.tags[SEARCH_ID] for each in experiments] == [record.identity], step
        claim = json.loads((store.folder("s") / "search.json").read_text())
        assert claim["identity"] == record.identity
        imported = storage.get_all_trials(storage.get_study_id_from_name("s@w4"))
        assert len(imported) == 3, step
    assert taken_over > 1
    if kind == "journal":  # what sqlite does to a file is no step
        assert 0 < there < steps - 5


def test_a_launch_meets_the_living_one_that_is_just_beginning(tmp_path, uri):
    store = ResultsStore(tmp_path)
    draws = list(suggestions(pair))
    with beginning(store, draws) as first:
        other = pytest.raises(InputError, match="expected no other driver of 's', got one on")
        with other, beginning(store, draws):
            pass
        assert store.search("s")[1] == first.record
    with pytest.raises(InputError, match="'s', which exists"), beginning(store, draws):
        pass
    assert store.search("s")[1] == first.record


def refuse(record):
    raise InputError("MLflow refuses it")


def test_a_launch_that_is_refused_keeps_nothing(tmp_path):
    for store in (ResultsStore(tmp_path / "a"), store_of(tmp_path / "b", "sqlite")):
        store.results.mkdir()
        uri = new_store(store.results)
        refused = pytest.raises(InputError, match="MLflow refuses it")
        with refused, begun(search_record(), store, refuse, lambda storage: None, print):
            pass
        assert list(store.folder("s").iterdir()) == []
        assert search_names(store) == []
        assert new_name("s", pair, store, uri) == "s"


def test_a_folder_that_another_storage_remembers_is_not_taken_over(tmp_path):
    """It may be the half-made search of another store, whose launch is to be made again there."""
    first, second = (ResultsStore(tmp_path, f"sqlite:///{tmp_path}/{name}.db") for name in "ab")
    claim_folder(first.folder("s"), search_record(identity="1" * 32), first.storage)
    assert new_name("s", pair, first, default_uri(tmp_path)) == "s"
    for other in (second, ResultsStore(tmp_path)):
        with pytest.raises(InputError, match="without a search in it, got that of a search 's'"):
            new_name("s", pair, other, default_uri(tmp_path))


def test_a_study_of_somebody_else_in_a_shared_storage_is_left_alone(tmp_path):
    store = store_of(tmp_path, "sqlite")
    storage = open_storage(store.storage, store.folder("s"))
    search_record().claim(storage)  # an empty study of that name, and no lease before it
    refused = pytest.raises(InputError, match="'s', which exists")
    with refused, begun(search_record(), store, refuse, lambda storage: None, print):
        pass
    assert "s" in study_names(storage)


def test_commands_say_what_to_do_with_a_half_made_search(tmp_path):
    store = ResultsStore(tmp_path)
    Lease.acquire(open_storage(None, store.folder("s")), "s").release()
    said = r"ended before it had begun: .* launch SPACE --name s"
    with pytest.raises(InputError, match=said):
        robsearch.resume("s", options=RunOptions(results=tmp_path))
    with pytest.raises(InputError, match=said):
        robsearch.load_search("s", results=tmp_path)


# --- launch --or-resume ---


def end_all(results, record):
    """Ends every suggestion of a search, and its controls."""
    storage = open_storage(None, results / "s")
    scheduler = scheduler_of(pair, record, storage, suggestions(pair)[0].recipe)
    while (study := scheduler.next()) is not None:
        suggestion = scheduler.ask(study)
        entry = {"epoch": 1, "val/robust_accuracy": 0.5, "val/natural_accuracy": 0.9}
        entry |= {"time": 1.0, "train/lam": suggestion.recipe.lam.value}
        scheduler.counts_of[study].settled(study.complete(suggestion, entry, entry).state)


def concluded(results, **changes):
    """A search whose driver has done all, though no trial has a folder."""
    store = ResultsStore(results)
    record = search_record(
        identity="1" * 32, space="small_spaces:pair", controls=("standard",), **changes
    )
    claim_folder(store.folder("s"), record)
    record.create(open_storage(None, store.folder("s")))
    end_all(results, record)
    facts = RunFacts("search s", "COMPLETE", ended=1.0, tags={ASKED: str(record.trials)})
    write_run(store.folder("s"), facts)
    return store.folder("s"), record


def repeated(results, space="small_spaces:pair", **how):
    options = RunOptions(results=results)
    return robsearch.launch(space, name="s", or_resume=True, options=options, **how)


def test_nothing_is_done_for_a_search_that_is_complete(tmp_path, capsys):
    folder, record = concluded(tmp_path)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for trials in (None, 2, 4):  # 4 were asked for: fewer than that changes nothing
        assert repeated(tmp_path, trials=trials).record.trials == record.trials
    said = capsys.readouterr().out
    assert said.count("search s: nothing to do, it is complete (4 of 4 trials ended)\n") == 3
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_search_that_another_launch_begins_meanwhile_is_gone_on_with(tmp_path, capsys):
    """It is there once the space is looked at, and was not when it was looked for."""
    theirs, _ = concluded(tmp_path / "theirs")

    def slow(trial, width):
        if not (tmp_path / "s").exists():
            shutil.copytree(theirs, tmp_path / "s")
        return pair.define(trial, width)

    assert repeated(tmp_path, replace(pair, define=slow)).record.name == "s"
    assert "search s: nothing to do, it is complete (4 of 4" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(InputError, match="expected the name of a new search, got 's', which exis"):
        robsearch.launch(replace(pair, define=slow), name="s", options=RunOptions(results=tmp_path))


def lost_end(lines):
    """The last suggestion of width 8 runs again."""
    return lines[: rindex(lines, b'"trainings"') + 1]


def lost_suggestion(lines):
    return lines[: rindex(lines, b'{"op_code":4')]


def rindex(lines, part):
    return max(number for number, line in enumerate(lines) if part in line)


@pytest.mark.parametrize("tail_lost", [lost_end, lost_suggestion])
def test_a_search_whose_journal_lost_its_tail_is_gone_on_with(tmp_path, monkeypatch, tail_lost):
    """Its run says that all was done."""
    monkeypatch.setattr("robsearch.study.lease.RENEW_SECONDS", 0.05)
    folder, record = concluded(tmp_path)
    journal = folder / JOURNAL
    journal.write_bytes(b"".join(tail_lost(journal.read_bytes().splitlines(keepends=True))))
    assert is_concluded(folder, record)
    # To go on with it is refused here, and nothing is trained.
    with Lease.acquire(open_storage(None, folder), "s"), pytest.raises(InputError) as refused:
        repeated(tmp_path)
    assert "expected no other driver of 's'" in str(refused.value)


def test_a_used_up_budget_is_no_error_where_a_dead_driver_elsewhere_held_the_lease(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("robsearch.study.lease.EXPIRE_SECONDS", 1.0)
    folder, _ = concluded(tmp_path, budgets={"max_hours": 0.5})
    write_run(folder, RunFacts("search s", "INTERRUPTED", tags={ASKED: "4"}))
    storage = open_storage(None, folder)
    storage.set_study_user_attr(storage.get_study_id_from_name("s"), DRIVEN, 3600.0)
    lease = storage.create_new_study([StudyDirection.MAXIMIZE], "s@lease-1")
    owner = {"boot": "x", "pid": 7, "host": "elsewhere", "renewal": 3, "started": 1.0}
    storage.set_study_user_attr(lease, "owner", {**owner, "renewed": 1.0})
    assert repeated(tmp_path).record.name == "s"
    said = capsys.readouterr().out
    assert "search s: nothing to do, its --max-hours 0.5 are used up" in said
    assert "going on with it" not in said


def test_another_space_or_seed_is_refused_as_by_resume(tmp_path):
    concluded(tmp_path)
    with pytest.raises(InputError, match="expected seed 0, with which 's' was begun, got 1"):
        repeated(tmp_path, seed=1)
    with pytest.raises(InputError, match="expected the space that 's' was begun with"):
        repeated(tmp_path, "small_spaces:hopeless")
    with pytest.raises(InputError, match="the name of a search with --or-resume, got none"):
        robsearch.launch(pair, or_resume=True, options=RunOptions(results=tmp_path))


def test_a_search_counts_as_done_only_for_the_total_that_its_driver_was_asked_for(tmp_path):
    folder, record = concluded(tmp_path)
    assert is_concluded(folder, record)
    # A driver that died when it had raised the total: the run says what the one before did.
    assert not is_concluded(folder, search_record(trials=6))
    write_run(folder, RunFacts("search s", "INTERRUPTED", tags={ASKED: "4"}))
    assert not is_concluded(folder, record)
