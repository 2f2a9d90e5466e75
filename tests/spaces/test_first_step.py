"""``check`` tries a first step of all that a space may train: what fails there is refused, what is
sound is not."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from faulty_parts import FAULTY, SOUND, Blobs, Grouped, control, model
from small_spaces import pair, recipe

from robsearch import (
    PGD,
    SGD,
    Digits,
    Fixed,
    GlobalBound,
    InputError,
    Piecewise,
    Resources,
    Space,
    WideResNet,
    WorstCase,
)
from robsearch.spaces import check
from robsearch.spaces.checking import recipes
from robsearch.spaces.checking.recipe_structure import with_single_steps
from robsearch.training import precision
from robsearch.trials.child import client


class Late(Blobs):
    """Data that is not there, which may take long to say."""

    asked = 0

    def read(self):
        Late.asked += 1
        raise FileNotFoundError("no such folder")


def space_of(parts):
    """One width, and a control for each part."""
    return Space(
        pair.define, (4,), controls=tuple(control(name, changes) for name, changes in parts.items())
    )


@pytest.fixture(scope="module")
def problems():
    with pytest.raises(InputError) as error:
        check(space_of({name: changes for name, (changes, _) in FAULTY.items()}))
    return error.value.problems


@pytest.mark.parametrize("name", FAULTY)
def test_what_would_fail_is_refused_with_its_part(problems, name):
    own = [problem for problem in problems if f"(control {name})" in problem or name == "labels"]
    assert any(re.search(FAULTY[name][1], problem) for problem in own), own or problems


def test_what_trains_is_not_refused():
    said = []
    assert len(check(space_of(SOUND), say=said.append)) == 3
    assert said == []


def test_what_a_default_measure_does_not_know_is_left_out_and_an_asked_for_one_is_named():
    grouped = {"model": Grouped(width=4, depth=1), "measures": None}
    said = []
    check(space_of({"grouped": grouped}), say=said.append)
    assert any(
        "GlobalBound cannot be measured, and is left out: expected operations whose" in note
        for note in said
    )
    with pytest.raises(InputError, match=r"group_norm: .*or leave GlobalBound out of measures"):
        check(space_of({"grouped": {**grouped, "measures": (GlobalBound(),)}}))


def test_what_does_not_fit_or_never_ends_is_told_and_the_next_is_tried(monkeypatch):
    monkeypatch.setattr(recipes, "GIB_AT_MOST", 1.0)
    said = []
    check(space_of({"large": model("memory"), "sound": {}}), say=said.append)
    assert re.search(
        r"control large.*takes more than 1\.0 GiB of memory here: only its shapes were tried",
        said[0],
    )
    monkeypatch.setenv("ROBSEARCH_CHECK_SECONDS", "3")
    with pytest.raises(InputError, match=r"control endless\).*no end within.*faulty_parts\.py:\d+"):
        check(space_of({"endless": model("endless")}))


def test_what_a_net_does_to_its_process_is_its_own_fault_only(monkeypatch):
    """The server is killed with the first; what is broken off leaves nothing half done for the
    next."""
    monkeypatch.setenv("ROBSEARCH_CHECK_SECONDS", "6")
    hows = (
        "kills its group",
        "forks",
        "dies with a fork",
        "half done",
        "needs json.tool",
        "exits",
        "leaves a process",
    )
    with pytest.raises(InputError) as error:
        check(space_of({how: model(how) for how in hows} | {"sound": {}}))
    said = "\n".join(error.value.problems)
    lost = ["kills its group", "dies with a fork", "half done", "exits"]
    assert [how for how in hows if f"(control {how})" in said] == lost
    assert "(control sound)" not in said
    assert re.search(r"kills its group.*the process that watches it was killed", said)
    assert re.search(r"dies with a fork.*killed by SIGSEGV", said)
    assert re.search(r"exits.*SystemExit: bye at the part 'model'", said)
    deadline = time.monotonic() + 20
    while ["sleep", "987.5"] in [
        process.info["cmdline"] for process in psutil.process_iter(["cmdline"])
    ]:
        assert time.monotonic() < deadline


def test_a_server_that_is_killed_between_checks_is_followed_by_another():
    check(space_of({}))
    os.kill(client._SERVER.process.pid, signal.SIGKILL)
    check(space_of({}))


def test_attacks_take_one_step_and_begin_once():
    many = PGD(steps=50, restarts=10)
    tried = with_single_steps(recipe(4, attack=many, test_attack=WorstCase((many, many))))
    assert (tried.attack.steps, tried.attack.restarts) == (1, 1)
    assert {(attack.steps, attack.restarts) for attack in tried.test_attack.attacks} == {(1, 1)}


def test_an_import_path_may_hold_what_is_no_text(monkeypatch):
    client._end_server()
    monkeypatch.setattr(sys, "path", [*sys.path, Path("here")])
    check(space_of({}))


def test_data_that_is_not_here_is_asked_for_as_seldom_as_can_be():
    said = []
    check(
        space_of({name: {"data": Late(), "lam": Fixed(lam)} for lam, name in enumerate("abcdef")}),
        say=said.append,
    )
    assert "random images take the place" in said[0]
    assert Late.asked == 2


def test_a_batch_with_one_image_under_batch_norm_is_refused():
    lonely = {"model": WideResNet(10, 1), "data": Digits(train=101), "batch_size": 2}
    with pytest.raises(
        InputError, match=r"at least 2 images.*got batches down to 1 \(batch_size=2, 101 training"
    ):
        check(space_of({"lonely": lonely}))


def test_classes_of_a_script_reach_the_child(tmp_path):
    for hidden in (
        "json",
        "profile",
    ):  # in a folder of the user's own, which hides nothing of Python's
        (tmp_path / f"{hidden}.py").write_text("raise RuntimeError")
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys; own = sys.path.pop(0)\n"
        "import dataclasses, robsearch; from robsearch import MLP, Digits, Recipe, Space, check\n"
        "sys.path.insert(0, own)\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mine(MLP):\n"
        "    def build(self, images):\n"
        "        return [super().build(images), 1 / 0][0]\n"
        "space = Space(lambda trial, width: Recipe(model=Mine(width=width), data=Digits()), (4,))\n"
        "robsearch.check(space)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert re.search(r"ZeroDivisionError: division by zero \(.*mine\.py:7\)", done.stderr), (
        done.stderr
    )


def test_bfloat16_on_a_cpu_without_it_is_a_problem_of_the_space(monkeypatch):
    monkeypatch.delenv(precision.EMULATE, raising=False)
    half = Space(
        lambda trial, width: recipe(width, precision="bf16"),
        (4,),
        resources=lambda width: Resources(gpus=0),
    )
    if precision.has_bfloat16(torch.device("cpu")):
        check(half)
        return
    with pytest.raises(InputError, match="bfloat16 in hardware for precision='bf16', got a cpu"):
        check(half)
    notes = []
    check(dataclasses.replace(half, resources=None), say=notes.append)
    if not torch.cuda.is_available():
        assert notes == [
            "at width 4: bfloat16 was tried without the hardware that training in it needs"
        ]


def changed(leaf, **values):
    """Past the checkers of types that run in tests only."""
    for name, value in values.items():
        object.__setattr__(leaf, name, value)
    return leaf


@pytest.mark.parametrize(
    "changes",
    [
        lambda: {"epochs": True},
        lambda: {"batch_size": 2.0},
        lambda: {"measured_examples": True},
        lambda: {"attack": changed(PGD(), steps=2.5)},
        lambda: {"eval_attack": PGD(eps=True)},
        lambda: {"optimiser": SGD(lr=True)},
        lambda: {"learning_rate": Piecewise(drops=(True,))},
        lambda: {"data": Digits(label_noise=True)},
    ],
)
def test_a_bool_is_no_number_and_a_float_no_count(changes):
    with pytest.raises(
        InputError, match=r"a (whole |finite )?number|of at least 1|in \[0, 1\], got True"
    ):
        recipe(4, **changes())
