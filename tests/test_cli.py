"""The command line as a user meets it: help, bad input, the README's promises."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
import ray
from search_records import search_record
from small_images import write_svhn
from typer.testing import CliRunner

from robsearch import cli
from robsearch.data import Digits, arrow_file
from robsearch.study import Lease, SearchRecord, open_storage

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "reference" / "commands.md"


def refused(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["robsearch", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert not ray.is_initialized()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def commands(app=cli.app):
    """Each command as it is typed after ``robsearch``; one of a sub-app is two words."""
    for command in app.registered_commands:
        yield command.name or command.callback.__name__
    for group in app.registered_groups:
        yield from (f"{group.name} {name}" for name in commands(group.typer_instance))


def commands_in(text):
    """Each command that a text names, of as many words as there are groups before it."""
    groups = {name.rpartition(" ")[0] for name in commands()} - {""}
    for words in re.findall(r"(?:`|/)robsearch ([a-z]+(?: [a-z]+)*)\b", text):
        first, _, rest = words.partition(" ")
        yield f"{first} {rest.partition(' ')[0]}".strip() if first in groups else first


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_has_help_and_stands_in_the_reference(command):
    result = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert command in commands_in(REFERENCE.read_text())


@pytest.mark.parametrize("command", ["", *commands()])
def test_h_is_help_everywhere(command):
    brief, whole = (
        CliRunner().invoke(cli.app, [*command.split(), flag]) for flag in ("-h", "--help")
    )
    assert (brief.exit_code, brief.output) == (0, whole.output)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_program_says_its_version(flag):
    said = CliRunner().invoke(cli.app, [flag])
    assert (said.exit_code, said.output) == (0, f"robsearch {version('robsearch')}\n")


def test_python_m_robsearch_is_robsearch():
    said = subprocess.run(
        [sys.executable, "-m", "robsearch", "launch"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert "Usage: python -m robsearch launch" in said.stderr


def test_commands_of_sub_apps_are_known_and_told_apart():
    assert {"launch", "data prepare"} <= set(commands())
    text = (
        "`robsearch data prepare NAME`, `robsearch data destroy`, `robsearch data`, "
        ".venv/bin/robsearch launch it now"
    )
    assert list(commands_in(text)) == ["data prepare", "data destroy", "data", "launch"]


def test_the_readme_runs_the_quickstart_and_the_tests_with_one_line_each():
    lines = re.findall(r"```sh\n(.*?)\n```", README.read_text(), flags=re.S)
    assert len(lines) == 2
    assert lines[0].endswith("robsearch launch search_spaces.quickstart:digits")
    assert shlex.split(lines[1])[-1] == ".venv/bin/pytest"


def test_check_says_what_is_searched_and_optuna_keeps_quiet():
    result = CliRunner().invoke(cli.app, ["check", "small_spaces:pair"])
    assert result.exit_code == 0
    assert "searches lam: 0.5 to 32, log" in result.output
    assert "small_spaces:pair is ready to launch: 2 widths" in result.output
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


def test_check_calls_no_space_ready_whose_data_is_missing(monkeypatch):
    monkeypatch.delenv("ROBSEARCH_DATA", raising=False)
    result = CliRunner().invoke(cli.app, ["check", "small_spaces:elsewhere"])
    assert result.exit_code == 0, result.output
    assert "is sound (" in result.output
    assert "cannot be launched here, where its data is missing" in result.output
    assert "ready to launch" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_module:x"], "expected an importable module 'no_such_module'"),
        (["small_spaces:not_a_space"], "expected a Space in small_spaces"),
        (["small_spaces:uneven"], "expected one range for 'lam'"),
        (["small_spaces:broken"], "expected Recipe.objective to be an Objective, got 'TRADES'"),
        (["small_spaces:pair", "--trials", 0], "expected --trials of at least 1, got 0"),
        (["small_spaces:pair", "--parallel", 0, "--seed", -1], "2 errors"),
        (
            ["small_spaces:pair", "--name", "../up"],
            "expected a name that can be a folder, got '../up'",
        ),
        (
            ["small_spaces:pair", "--name", "a" * 300],
            "expected a name of at most 200 letters, got one of 300",
        ),
        (
            ["small_spaces:pair", "--tracking", "http://127.0.0.1:9"],
            "expected an MLflow server at http://127.0.0.1:9",
        ),
        (["small_spaces:pair", "--tracking", "nonsense"], "expected an MLflow tracking URI"),
        (
            ["small_spaces:pair", "--storage", "nonsense://x"],
            "expected an Optuna storage that opens",
        ),
        (
            ["small_spaces:pair", "--address", "ray://head:1"],
            "expected --address auto or HOST:PORT",
        ),
    ],
)
def test_bad_input_to_launch_is_one_clear_message_before_ray_starts(
    capsys, monkeypatch, tmp_path, arguments, said
):
    assert said in refused(capsys, monkeypatch, "launch", *arguments, "--results", tmp_path)


def test_an_unwritable_results_folder_is_refused(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    said = refused(
        capsys,
        monkeypatch,
        "launch",
        "small_spaces:pair",
        "--results",
        tmp_path / "file" / "results",
    )
    assert "expected a writable results folder" in said


def test_a_missing_data_folder_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ROBSEARCH_DATA", str(tmp_path / "nowhere"))
    said = refused(
        capsys,
        monkeypatch,
        "launch",
        "search_spaces.lambda_by_width:cifar10",
        "--results",
        tmp_path,
    )
    assert str(tmp_path / "nowhere") in said


@pytest.mark.parametrize("command", ["resume", "status", "compare", "report", "ui"])
def test_an_unknown_search_is_refused_with_the_known_ones(capsys, monkeypatch, tmp_path, command):
    search_record(name="known").create(open_storage(None, tmp_path / "known"))
    said = refused(capsys, monkeypatch, command, "unknown", "--results", tmp_path)
    assert "expected the name of a search, got 'unknown'" in said
    assert "known" in said


def test_status_without_a_name_lists_the_searches(tmp_path):
    search_record(name="one").create(open_storage(None, tmp_path / "one"))
    assert CliRunner().invoke(cli.app, ["status", "--results", str(tmp_path)]).output == "one\n"
    told = json.loads(
        CliRunner().invoke(cli.app, ["status", "--results", str(tmp_path), "--json"]).output
    )
    assert told == {"results": str(tmp_path), "searches": ["one"]}


def test_status_for_machines_has_null_for_what_is_not_known(tmp_path):
    SearchRecord("s", "m:n", (4, 8), 0, 6, "sqlite:///m.db", {}).create(
        open_storage(None, tmp_path / "s")
    )
    said = CliRunner().invoke(cli.app, ["status", "s", "--results", str(tmp_path), "--json"])
    assert said.exit_code == 0
    told = json.loads(said.output)
    assert (told["ended"], told["asked"], told["driver"], told["failures"]) == (0, 6, None, [])
    none = {"RUNNING": 0, "INTERRUPTED": 0, "COMPLETE": 0, "PRUNED": 0, "FAIL": 0}
    assert [(row["label"], row["states"], row["lam"]) for row in told["rows"]] == [
        ("4", none, None),
        ("8", none, None),
    ]
    assert told["law"]["optima"][0]["lam"] is None
    assert (
        "nobody drives it; go on with: robsearch resume s"
        in CliRunner().invoke(cli.app, ["status", "s", "--results", str(tmp_path)]).output
    )


def test_status_says_who_drives_the_search(tmp_path):
    storage = open_storage(None, tmp_path / "s")
    SearchRecord("s", "m:n", (4,), 0, 6, "sqlite:///m.db", {}).create(storage)
    lease = Lease.acquire(storage, "s")
    said = CliRunner().invoke(cli.app, ["status", "s", "--results", str(tmp_path)]).output
    lease.release()
    assert f"driven by process {os.getpid()} on " in said


def test_check_for_machines_says_what_is_searched_or_all_that_is_wrong():
    good = CliRunner().invoke(cli.app, ["check", "small_spaces:pair", "--json"])
    told = json.loads(good.output)
    assert (good.exit_code, told["ready"], told["problems"], told["widths"]) == (
        0,
        True,
        [],
        [4, 8],
    )
    assert told["searched"] == {
        "lam": {"kind": "FloatDistribution", "low": 0.5, "high": 32.0, "log": True, "step": None}
    }
    assert all(0.5 <= draw["params"]["lam"] <= 32 for draw in told["draws"])
    bad = CliRunner().invoke(cli.app, ["check", "no_such_module:x", "--json"])
    told = json.loads(bad.output)
    assert (bad.exit_code, told["ready"]) == (2, False)
    assert told["problems"][0].startswith("expected an importable module")


def test_the_ui_refuses_a_port_that_is_taken(capsys, monkeypatch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(capsys, monkeypatch, "ui", "--results", tmp_path, "--port", port)
    assert f"expected a free port {port} on 127.0.0.1" in said


def test_data_prepare_says_where_it_looks_by_default():
    said = CliRunner().invoke(cli.app, ["data", "prepare", "--help"]).output
    assert "ROBSEARCH_DATA" in said
    assert "ROBSEARCH_CACHE" in said


def prepared(*arguments):
    result = CliRunner().invoke(cli.app, ["data", "prepare", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_data_prepare_builds_the_file_that_trials_open(tmp_path):
    file = arrow_file(Digits(), tmp_path)
    for done in ("built", "checked"):
        said = prepared("DIGITS", "--cache", tmp_path)
        assert said[0] == str(file)
        assert re.fullmatch(rf"train 500, val 648, test 649 images; {done} in \d+\.\d s", said[1])
        assert len(said) == 2
    file.rename(tmp_path / "held")
    assert "built" in prepared("digits", "--cache", tmp_path)[1]
    assert file.read_bytes() == (tmp_path / "held").read_bytes()


def test_data_prepare_reads_from_its_root(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBSEARCH_DATA", "/nowhere")
    write_svhn(tmp_path, monkeypatch, train=5030)
    for cache, root in (("here", tmp_path), ("there", tmp_path.as_uri())):
        said = prepared("svhn", "--root", root, "--cache", tmp_path / cache)
        assert said[1].startswith("train 30, val 5,000, test 20 images; built")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["imagenet"],
            "got 'imagenet': one of digits, mnist, fashionmnist, cifar10, cifar100, svhn",
        ),
        (["digits", "--root", "/data"], "expected no --root for digits, got /data"),
        (["CIFAR100", "--root", "/nowhere"], "got no complete copy in /nowhere/cifar-100-python"),
        (["cifar10", "--root", "nope://x"], "expected a root that opens"),
    ],
)
def test_bad_input_to_data_prepare_is_one_clear_message(
    capsys, monkeypatch, tmp_path, arguments, said
):
    assert said in refused(capsys, monkeypatch, "data", "prepare", *arguments, "--cache", tmp_path)


def test_data_prepare_imports_neither_ray_nor_optuna_nor_mlflow(tmp_path):
    code = (
        "import sys; from robsearch.cli import app\n"
        f"app(['data', 'prepare', 'digits', '--cache', {str(tmp_path)!r}], standalone_mode=False)\n"
        "print({'ray', 'optuna', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
