"""The preflight: what is tried, what is said of it, and that nothing is left behind, started or
given away."""

import json
import sys

import pytest
import ray
from small_spaces import pair
from typer.testing import CliRunner

from robsearch import RunOptions, cli
from robsearch.doctor import Finding, examine, finding_lines
from robsearch.study import open_storage, record_names

WHAT = ["results", "storage", "tracking", "data cache", "cluster", "GPUs here"]


def by_name(findings):
    return {finding.what: finding for finding in findings}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBSEARCH_CACHE", str(tmp_path / "cache"))


def test_a_fresh_machine_is_ready_and_nothing_is_left_behind(tmp_path, cache):
    findings = examine(RunOptions(results=tmp_path / "results"))
    assert [finding.what for finding in findings] == WHAT
    assert all(finding.ok for finding in findings)
    assert "can be made" in by_name(findings)["results"].result
    assert not list(tmp_path.iterdir())
    assert not ray.is_initialized()
    assert str(list(finding_lines(findings))[-1]) == "ready to launch"


def test_a_space_brings_its_recipes_and_its_data(tmp_path):
    found = by_name(examine(RunOptions(results=tmp_path), pair))["space and data"]
    assert found.result == "2 widths, 6 suggestions drawn; Digits (train 100, val 848, test 849)"


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("no_such_module:x", "expected an importable module"),
        ("small_spaces:broken", "expected Recipe.objective"),
        ("search_spaces.lambda_by_width:cifar10", "expected CIFAR10 in a folder that holds"),
    ],
)
def test_a_space_that_could_not_be_launched_is_a_problem_beside_the_others(
    tmp_path, monkeypatch, cache, space, said
):
    monkeypatch.setenv("ROBSEARCH_DATA", str(tmp_path / "nowhere"))
    findings = examine(RunOptions(results=tmp_path), space)
    assert [finding.what for finding in findings if not finding.ok] == ["space and data"]
    assert said in by_name(findings)["space and data"].problems[0]


def test_a_sqlite_storage_that_exists_is_written_and_left_as_it_was(tmp_path):
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    options = RunOptions(results=tmp_path, storage=url)
    assert "will be made" in by_name(examine(options))["storage"].result
    assert not (tmp_path / "optuna.db").exists()
    storage = open_storage(url, tmp_path)
    assert "can be written" in by_name(examine(options))["storage"].result
    assert storage.get_all_studies() == []
    assert record_names(storage) == []


def test_an_mlflow_file_that_is_no_database_is_a_problem(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database")
    found = by_name(examine(RunOptions(results=tmp_path)))["tracking"]
    assert "expected an MLflow store that answers" in found.problems[0]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc refuses even root")
def test_a_results_folder_that_cannot_be_made_is_a_problem():
    findings = by_name(examine(RunOptions(results="/proc/results")))
    assert "expected a writable results folder" in findings["results"].problems[0]
    assert not findings["storage"].ok


@pytest.mark.parametrize(
    "address",
    [
        "mysql://me:hunter2@127.0.0.1:9/x",
        "postgresql://me:hun%2Fter2@127.0.0.1:9/x?password=hunter2",
    ],
)
def test_passwords_are_not_repeated(tmp_path, address):
    options = RunOptions(
        results=tmp_path,
        storage=address,
        tracking="http://me:hunter2@127.0.0.1:9",
        address="127.0.0.1:9",
    )
    findings = by_name(examine(options))
    said = json.dumps([finding.facts for finding in findings.values()])
    assert "hunter2" not in said
    assert "hun/ter2" not in said
    assert {name for name, finding in findings.items() if not finding.ok} == {
        "storage",
        "tracking",
        "cluster",
    }
    assert "expected an MLflow server at http://127.0.0.1:9" in findings["tracking"].problems[0]
    assert "expected a Ray cluster at --address 127.0.0.1:9" in findings["cluster"].problems[0]


def test_the_exit_code_and_the_json(tmp_path):
    good = CliRunner().invoke(cli.app, ["doctor", "small_spaces:pair", "--results", str(tmp_path)])
    assert good.exit_code == 0
    assert good.output.splitlines()[-1] == "ready to launch"
    assert max(map(len, good.output.splitlines())) > 80  # not on a terminal: a sentence is a line
    bad = CliRunner().invoke(
        cli.app, ["doctor", "--results", str(tmp_path), "--tracking", "nonsense", "--json"]
    )
    assert bad.exit_code == 1
    told = json.loads(bad.output)
    assert not told["ok"]
    assert [one["what"] for one in told["findings"] if not one["ok"]] == ["tracking"]


def test_problems_are_counted():
    lines = [
        str(line)
        for line in finding_lines(
            [Finding("a", "fine"), Finding("b", "", ("expected x, got y: do z",))]
        )
    ]
    assert lines == [
        "ok       a: fine",
        "PROBLEM  b",
        "         expected x, got y: do z",
        "1 of 2 have a problem",
    ]


@pytest.mark.slow
def test_asked_to_connect_it_starts_ray_says_how_much_room_there_is_and_ends_it(tmp_path):
    found = by_name(examine(RunOptions(results=tmp_path, parallel=2), pair, connect=True))[
        "cluster"
    ]
    assert found.ok
    assert "2 CPUs, 0 GPUs on 1 node, room for 2 trials at once" in found.result
    assert not ray.is_initialized()
