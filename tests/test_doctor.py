"""The preflight: what is tried, what is said of it, and that nothing is left behind, started or
given away."""

import importlib
import json
import pickle
import platform
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray
from small_spaces import pair
from typer.testing import CliRunner

from robsearch import MNIST, RunOptions, cli, cluster
from robsearch.cluster import node_probe
from robsearch.data import check_source
from robsearch.doctor import Finding, examine, finding_lines
from robsearch.doctor.nodes import node_finding
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


def test_each_line_says_ok_warn_or_fail_and_a_warning_is_no_problem():
    fine = Finding("a", "fine")
    warned = Finding("b", "fine", warnings=("expected u, got v: do w",))
    failed = Finding("c", "", ("expected x, got y: do z",))
    assert [str(line) for line in finding_lines([fine, warned, failed])] == [
        "ok    a: fine",
        "warn  b: fine",
        "      warn  expected u, got v: do w",
        "fail  c",
        "      fail  expected x, got y: do z",
        "1 of 3 have a problem, 1 warning",
    ]
    assert str(list(finding_lines([fine, warned]))[-1]) == "ready to launch, 1 warning"
    assert warned.ok
    assert [finding.facts["level"] for finding in (fine, warned, failed)] == ["ok", "warn", "fail"]
    assert {"what", "ok", "found", "problems"} <= fine.facts.keys()


# What a node of 10 GiB with nothing to complain of says; the tests change one thing each.
GIB = 2**30
FOLDERS = {"results": "/r", "temporary": "/tmp/ray", "cache": "/c"}
SAID = {
    "sharing": None,
    "lacking": None,
    "error": None,
    "result": None,
    "host": "h",
    "python": platform.python_version(),
    "versions": {"robsearch": "1", "torch": "2", "ray": "3", "numpy": "4", "scipy": "5"},
    "gpus": [],
    "gpu_error": None,
    "folders": FOLDERS,
    "free": dict.fromkeys(FOLDERS, 5 * GIB),
    "size": dict.fromkeys(FOLDERS, 10 * GIB),
    "unwritable": None,
    "data": "/d",
    "data_there": True,
    "token": {"where": None, "open": False},
}


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        ({}, "ok", ""),
        ({"versions": {**SAID["versions"], "scipy": None}}, "fail", "to have scipy, got none"),
        ({"versions": {**SAID["versions"], "torch": "2.1"}}, "warn", "torch 2, got torch 2.1"),
        ({"python": "3.0.1"}, "warn", "got Python 3.0.1"),
        ({"sharing": "another folder there"}, "fail", "to share /r, got another folder there"),
        ({"lacking": "timm"}, "fail", "to import what a trial takes, got no module named 'timm'"),
        ({"error": "expected the images of SVHN"}, "fail", "got expected the images of SVHN"),
        ({"unwritable": "Read-only"}, "fail", "to write its data cache /c, got Read-only"),
        ({"free": {**SAID["free"], "results": GIB / 2}}, "warn", "/r of node h, got 0.5 of 10 GiB"),
        ({"free": {**SAID["free"], "temporary": 0}}, "warn", "/tmp/ray of node h, got 0.0 of 10"),
        ({"data_there": False}, "warn", "to see ROBSEARCH_DATA, got no folder /d"),
        ({"data_there": False, "result": "Digits, which needs no files"}, "ok", ""),
        ({"token": {"where": "/t", "open": True}}, "warn", "chmod 600 /t"),
        ({"gpus": ["H100"]}, "warn", "expected Ray to use 1 GPU of node h, got 0"),
    ],
)
def test_what_a_node_says_is_ok_or_a_warning_or_a_problem(changes, level, said):
    answer = cluster.NodeAnswer(cluster.Node("i", "h", "127.0.0.1", 0), {**SAID, **changes}, None)
    finding = node_finding(replace(answer, skew=(0.1, 0.1)), Path("/r"), SAID["versions"])
    assert finding.level == level
    assert said in "".join([*finding.problems, *finding.warnings])
    assert len(finding.problems) + len(finding.warnings) == (level != "ok")
    json.dumps(finding.facts)


@pytest.mark.parametrize(
    ("gpus", "there", "said"),
    [(2, ["H100", "H100"], None), (2, ["H100"], "to use its 2 GPUs, got 1"), (1, [], "got boom")],
)
def test_a_gpu_of_ray_that_torch_does_not_see_is_a_problem(gpus, there, said):
    facts = {**SAID, "gpus": there, "gpu_error": None if there else "boom"}
    answer = cluster.NodeAnswer(cluster.Node("i", "h", "10.0.0.1", gpus), facts, None, (0, 0))
    finding = node_finding(answer, Path("/r"), SAID["versions"])
    assert finding.ok == (said is None)
    assert (said or "") in "".join(finding.problems)


@pytest.mark.parametrize(
    ("skew", "said"),
    [
        ((5.1, 0.0), "one that is 5 s ahead"),
        ((-61.0, 2.0), "one that is 61 s behind"),
        ((8.0, 4.0), ""),  # perhaps 4 s
        (None, "to tell the time, got no answer"),
    ],
)
def test_a_clock_that_surely_differs_is_warned_of(skew, said):
    answer = cluster.NodeAnswer(cluster.Node("i", "h", "10.0.0.1", 0), SAID, None, skew)
    finding = node_finding(answer, Path("/r"), SAID["versions"])
    assert finding.ok
    assert finding.level == ("warn" if said else "ok")
    assert said in "".join(finding.warnings)


def test_the_probe_names_the_first_package_that_was_missing_and_shares_the_folder(tmp_path):
    (tmp_path / "driver").write_text("token")

    class Lacks:
        def __reduce__(self):
            return importlib.import_module, ("no_such_module.inner",)

    facts = node_probe.answer(tmp_path, "node", pickle.dumps(Lacks()))
    assert facts["lacking"] == "no_such_module"
    assert facts["error"] is facts["sharing"] is None
    assert (tmp_path / "node").read_text() == "token"
    data = partial(check_source, MNIST(root=str(tmp_path)))
    facts = node_probe.answer(tmp_path / "other", "node", pickle.dumps(data))
    assert facts["sharing"] == "another folder there"
    assert (
        f"expected the images of MNIST, got no file or folder {tmp_path}/MNIST/raw"
        in facts["error"]
    )
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    assert check_source(MNIST(root=str(tmp_path))) == f"MNIST in {tmp_path}/MNIST/raw"


@pytest.mark.slow
def test_asked_to_connect_it_starts_ray_says_how_much_room_there_is_and_ends_it(tmp_path):
    found = by_name(examine(RunOptions(results=tmp_path, parallel=2), pair, connect=True))[
        "cluster"
    ]
    assert found.ok
    assert "2 CPUs, 0 GPUs on 1 node, room for 2 trials at once" in found.result
    assert not ray.is_initialized()
