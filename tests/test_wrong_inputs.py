"""Sixty wrong inputs (``errors.csv``): each is refused in at most three lines, before Ray starts,
with what was expected, what came and what to do."""

import csv
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from begun_searches import begun
from small_images import write_image
from wrong_spaces import (
    Backward,
    ForMNIST,
    FromOneBatch,
    InnerValue,
    Mean,
    Sum,
    WithoutGrad,
    WithoutLoss,
)

from robsearch import cli
from robsearch.spaces.checking.problems import Problem, merged
from robsearch.testing import check_attack, check_measure, check_model, check_objective

with (Path(__file__).parent / "errors.csv").open(newline="") as file:
    CASES = list(csv.DictReader(file))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what a person may have: a search that was begun, folders of images, a table."""
    here = tmp_path_factory.mktemp("desk")
    begun(here / "results", "s", space="small_spaces:pair")
    (here / "empty").mkdir()
    (here / "file").touch()
    torch.save({"fc.weight": torch.zeros(10, 64)}, here / "fc.pt")
    torch.save(torch.nn.Linear(64, 10), here / "code.pt")
    torch.save(torch.nn.Linear(64, 10).state_dict(), here / "w.pt")
    (here / "words.csv").write_text("width,lam,value\n4,strong,0.5\n")
    grey = np.zeros((12, 8, 8), np.uint8)
    np.savez(here / "unlabelled.npz", image=grey)
    np.savez(here / "none.npz", image=grey[:0], label=np.arange(0))
    np.savez(here / "colours.npz", image=np.zeros((10, 8, 8, 3), np.uint8), label=np.arange(10))
    np.savez(here / "twelve.npz", image=grey, label=np.arange(12))
    np.savez(here / "generated.npz", image=grey[:10], label=np.arange(10))
    rows = np.zeros((8, 8, 3), np.uint8)
    for i in range(4):
        write_image(here / "flat" / "train" / f"{i}.png", rows)
        write_image(here / "mixed" / "train" / str(i % 2) / f"{i}.png", rows)
        write_image(here / "mixed" / "test" / str(i % 2) / f"{i}.png", rows[: 5 if i == 3 else 8])
    return here


def test_there_are_sixty_and_every_command_is_among_them():
    assert len(CASES) >= 60
    tried = {shlex.split(case["command"])[1] for case in CASES}
    commands = cli.app.registered_commands
    assert {command.name or command.callback.__name__ for command in commands} <= tried


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["command"])
def test_a_wrong_input_is_refused_in_three_lines(case, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    monkeypatch.syspath_prepend(desk)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setenv("ROBSEARCH_RESULTS", "results")
    for setting in filter(None, case["environment"].split(" ")):
        monkeypatch.setenv(*setting.split("=", 1))
    if case["mine.py"]:
        (desk / "mine.py").write_text(case["mine.py"])
    monkeypatch.setattr(sys, "argv", shlex.split(case["command"]))
    before = set(os.listdir(desk / "results"))
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if not line.startswith("loading and checking ")]
    assert left.value.code == 2, said
    assert 1 <= len(lines) <= 3, said
    for column in ("expected", "got", "do"):
        assert case[column], "the table says what is in the message"
        assert case[column] in said, said
    assert not ray.is_initialized()
    assert set(os.listdir(desk / "results")) <= before | {"mlflow.db"}


@pytest.mark.parametrize(
    ("check", "part", "do"),
    [
        (
            check_attack,
            WithoutGrad(),
            "attacks are called under no_grad: use torch.enable_grad()",
        ),
        (check_attack, Backward(), "not backward(), which adds to the weights' own"),
        (
            check_attack,
            WithoutLoss(),
            "with __call__(model, x, y, loss), got __call__(model, x, y)",
        ),
        (check_objective, FromOneBatch(), "with terms(clean_logits, adv_logits, y), got terms("),
        (check_objective, InnerValue(), "inner returns a function: lambda logits"),
        (check_objective, Sum(), "return both batch means, not their sum"),
        (check_measure, Mean(), "reduce over all dimensions but the first"),
        (check_model, ForMNIST(4), "build its first layer for images.shape"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_contract_says_what_to_do(check, part, do):
    with pytest.raises(AssertionError, match=re.escape(do)):
        check(part)


def test_a_problem_of_many_recipes_is_said_once():
    """Of one recipe all stay, though they differ in numbers alone."""
    problems = [
        Problem(f"expected lr{i} > 0, got {value}", width, draw=draw)
        for width in (4, 8)
        for draw, value in enumerate((-0.1, -2e-05))
        for i in (1, 2)
    ]
    problems += [Problem("expected steps, got 3", 4), Problem("expected steps, got 5", 4)]
    assert merged(problems) == [
        "at widths 4 and 8: expected lr1 > 0, got -0.1",
        "at widths 4 and 8: expected lr2 > 0, got -0.1",
        "at width 4: expected steps, got 3",
        "at width 4: expected steps, got 5",
    ]
