"""``robsearch new``: what it writes is checked as it stands, and it writes over nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robsearch.cli import app
from robsearch.cli.starting import Kind
from robsearch.errors import InputError


@pytest.mark.parametrize("kind", list(Kind))
def test_a_file_to_start_from_passes_its_own_test(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"started_{kind}"
    written = CliRunner().invoke(app, ["new", kind, f"{name}.py"])
    assert written.exit_code == 0
    text = (tmp_path / f"{name}.py").read_text()
    assert "{file}" not in text
    assert "{module}" not in text
    assert (f"`python {name}.py`" in text) == (kind != Kind.SPACE)
    module = importlib.import_module(name)
    tests = [function for name, function in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()
    sys.modules.pop(name)


def test_a_broken_part_fails_the_test_that_came_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert CliRunner().invoke(app, ["new", "attack", "leaving_the_ball.py"]).exit_code == 0
    file = tmp_path / "leaving_the_ball.py"
    bounded = "torch.clamp(adv, x - self.eps, x + self.eps)"
    text = file.read_text()
    assert bounded in text
    file.write_text(text.replace(bounded, "adv"))
    module = importlib.import_module("leaving_the_ball")
    with pytest.raises(AssertionError, match="project after each step"):
        module.test_it_keeps_the_promises_of_an_attack()
    sys.modules.pop("leaving_the_ball")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["atack"], "expected a kind of file to begin, got 'atack'"),
        (["attack", "my-attack.py"], "expected the name of a Python module, got 'my-attack.py'"),
        (["attack", "attack.txt"], "expected the name of a Python module, got 'attack.txt'"),
        (["attack", "nowhere/my_attack.py"], "expected a folder nowhere, got none"),
        (["attack", "there.py"], "expected the name of a new file, got there.py, which exists"),
    ],
)
def test_what_cannot_be_written_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("mine")
    result = CliRunner().invoke(app, ["new", *words])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
    assert (tmp_path / "there.py").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["there.py"]
