"""Where figures come from: of each attempt at a trial its node, device, versions, and the commit of
the code."""

import importlib
import json
import subprocess
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from small_spaces import recipe

from robsearch.search.recording import Recorder, attempt_tags
from robsearch.search.results_store import note_driver
from robsearch.search.settings import driver_settings, with_later
from robsearch.spaces import Stage
from robsearch.study import RecordedTrial, SearchRecord, Suggestion
from robsearch.tracking import TRIAL, Tracker
from robsearch.trials import trial
from robsearch.trials.files import write_json
from robsearch.trials.provenance import (
    code_of,
    process_facts,
    read_attempts,
    read_search,
    write_attempt,
)
from robsearch.trials.trial import run


@pytest.fixture(autouse=True)
def _as_in_a_fresh_process():
    code_of.cache_clear()
    yield
    code_of.cache_clear()


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path):
    """A folder with one commit."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "space.py").write_text("LAM = 2\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_commit_of_a_folder_and_whether_it_was_clean(project, tmp_path):
    head = git(project, "rev-parse", "--short=12", "HEAD")
    assert code_of(project) == (head, True)
    (project / "space.py").write_text("LAM = 3\n")
    assert code_of(project) == (head, True)  # a process has loaded its code once
    code_of.cache_clear()
    assert code_of(project) == (head, False)
    (project / "space.py").write_text("LAM = 2\n")
    (project / "new.py").touch()
    code_of.cache_clear()
    assert code_of(project) == (head, False)
    assert code_of(tmp_path) == ("not in a git repository", None)
    assert code_of(tmp_path / "none") == ("unknown", None)


def test_byte_code_that_python_left_is_no_change(project):
    head = git(project, "rev-parse", "--short=12", "HEAD")
    folder = project / "spaces" / "__pycache__"
    folder.mkdir(parents=True)
    (folder / "space.cpython-311.pyc").touch()
    assert code_of(project) == code_of(project / "spaces") == (head, True)
    (project / "spaces" / "mine.py").touch()
    code_of.cache_clear()
    assert code_of(project) == code_of(project / "spaces") == (head, False)


def searched(tmp_path, project):
    """A results folder as a driver that was launched in ``project`` leaves it."""
    folder = tmp_path / "s"
    folder.mkdir()
    write_json(
        folder / "search.json",
        {"name": "s", "identity": "1" * 32, "project": str(project), "drivers": []},
    )
    return folder


def test_every_attempt_says_what_it_ran_on(tmp_path, project, monkeypatch):
    monkeypatch.setattr(trial, "REPORT_SECONDS", 0.0)
    folder = searched(tmp_path, project) / "trials" / "w4-000"
    first = run(recipe(4), folder)
    next(first)
    first.close()
    (project / "space.py").write_text("LAM = 3\n")
    code_of.cache_clear()
    assert list(run(recipe(4), folder))[-1].ended == "COMPLETE"
    one, two = read_attempts(folder)
    assert (one["attempt"], two["attempt"]) == (1, 2)
    assert one["search"] == "1" * 32
    assert one["commit"] == two["commit"] == git(project, "rev-parse", "--short=12", "HEAD")
    assert (one["clean"], two["clean"]) == (True, False)
    assert {"torch", "robsearch", "ray"} <= set(one["versions"])
    assert "threads" in one["device"] or "NVIDIA" in one["device"]
    assert one["recipe"]["epochs"] == 4
    assert one["recipe"] == json.loads(json.dumps(recipe(4).flat()))
    assert one["started"] < two["started"]


def test_the_commit_is_that_of_the_space_from_whatever_folder_it_is_driven(
    tmp_path, project, monkeypatch
):
    (project / "of_a_project.py").write_text("from small_spaces import pair\n")
    git(project, "add", ".")
    git(project, "commit", "-qm", "second")
    head = git(project, "rev-parse", "--short=12", "HEAD")
    monkeypatch.syspath_prepend(project)
    importlib.import_module("of_a_project")
    monkeypatch.chdir(tmp_path)
    folder = searched(tmp_path, tmp_path)
    record = SearchRecord("s", "of_a_project:pair", (4,), 0, 1, "", {}, identity="1" * 32)
    assert note_driver(folder, record)["commit"] == head
    attempt = folder / "trials" / "w4-000" / "a1"
    attempt.mkdir(parents=True)
    write_attempt(attempt, 1, recipe(4))
    (noted,) = read_attempts(attempt.parent)
    assert (noted["code"], noted["commit"], noted["clean"]) == (str(project), head, True)
    note_driver(folder, replace(record, space="<a notebook's>"))
    assert read_search(folder)["code"] == str(tmp_path)


def test_a_damaged_note_is_left_out(tmp_path):
    told = {**process_facts(tmp_path), "attempt": 1, "device": "cpu", "recipe": {}}
    wrong = [
        {},
        *(
            {**told, name: [7]}
            for name in ("node", "versions", "commit", "clean", "attempt", "recipe")
        ),
    ]
    wrong += [{name: told[name] for name in told if name != "device"}]
    for number, text in enumerate(["{", "[]", '"x"', "", *map(json.dumps, wrong)], start=1):
        (tmp_path / f"a{number}").mkdir()
        (tmp_path / f"a{number}" / "attempt.json").write_text(text)
    assert read_attempts(tmp_path) == []


def test_mlflow_is_told_of_every_attempt(uri, tmp_path, project):
    trials = searched(tmp_path, project) / "trials"
    tracker = Tracker(uri, "s", tmp_path)
    recorder = Recorder(
        tracker, trials, SearchRecord("s", "m:n", (4,), 0, 1, "", {}, identity="1" * 32)
    )
    suggestion = Suggestion("w4-000", 4, 0, None, Stage(4), recipe(4))
    recorder.begin(suggestion)
    for number in (1, 2):
        attempt = trials / "w4-000" / f"a{number}"
        attempt.mkdir(parents=True)
        write_attempt(attempt, number, recipe(4))
        recorder.changed("w4-000")
        (project / "space.py").write_text("LAM = 3\n")
        code_of.cache_clear()
    recorder.ended(RecordedTrial("w4-000", 4, 0, None, "COMPLETE", collapsed=True), [])
    assert tracker.close() == 0
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    (tags,) = [found.data.tags for found in runs if found.data.tags[TRIAL] == "w4-000"]
    head = git(project, "rev-parse", "--short=12", "HEAD")
    assert (tags["robsearch.commit"], tags["robsearch.clean"]) == (head, "false")
    assert f"; {head}; robsearch " in tags["robsearch.attempt.1"]
    assert f"; {head} and changes; robsearch " in tags["robsearch.attempt.2"]
    assert tags["robsearch.search_id"] == "1" * 32
    assert (tags["robsearch.collapsed"], tags["robsearch.width"]) == ("true", "4")
    assert tags["robsearch.node"] in tags["robsearch.hardware"]
    assert attempt_tags([]) == {}


def test_a_driver_that_goes_on_from_other_code_is_said_beside_the_first(project):
    facts = process_facts(project)
    begun = with_later(SearchRecord("s", "m:n", (4,), 0, 1, "", {}), driver_settings(facts))
    assert with_later(begun, driver_settings(facts)) == begun
    (project / "space.py").write_text("LAM = 3\n")
    code_of.cache_clear()
    on = with_later(begun, driver_settings(process_facts(project)))
    assert on.setting["commit"] == f"{facts['commit']}; then {facts['commit']} and changes"
    assert with_later(on, driver_settings(process_facts(project))) == on
