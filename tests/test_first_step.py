"""``check`` tries a first step of all that a space may train: what fails there is refused, what is sound is not."""

import re
import subprocess
import sys

import pytest
from faulty_parts import FAULTY, SOUND, control, model
from small_spaces import pair, recipe

from robsearch import PGD, SGD, Digits, InputError, Piecewise, Space, WideResNet
from robsearch.spaces import check, trying


def space_of(parts):
    """One width, and a control for each part."""
    return Space(pair.define, (4,), controls=tuple(control(name, changes) for name, changes in parts.items()))


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


def test_what_does_not_fit_or_never_ends_is_told_and_the_next_is_tried(monkeypatch):
    monkeypatch.setattr(trying, "GIB_AT_MOST", 1.0)
    said = []
    check(space_of({"large": model("memory"), "sound": {}}), say=said.append)
    assert re.search(r"control large.*takes more than 1\.0 GiB of memory here: only its shapes were tried", said[0])
    monkeypatch.setenv("ROBSEARCH_CHECK_SECONDS", "3")
    with pytest.raises(InputError, match=r"control endless\).*no end within.*faulty_parts\.py:\d+"):
        check(space_of({"endless": model("endless")}))


def test_a_batch_with_one_image_under_batch_norm_is_refused():
    lonely = {"model": WideResNet(10, 1), "data": Digits(train=101), "batch_size": 2}
    with pytest.raises(InputError, match=r"at least 2 images.*got batches down to 1 \(batch_size=2, 101 training"):
        check(space_of({"lonely": lonely}))


def test_classes_of_a_script_reach_the_child(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import dataclasses, robsearch\n"
        "from robsearch import MLP, Digits, Recipe, Space\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mine(MLP):\n"
        "    def build(self, images):\n"
        "        return [super().build(images), 1 / 0][0]\n"
        "space = Space(lambda trial, width: Recipe(model=Mine(width=width), data=Digits()), (4,))\n"
        "robsearch.check(space)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert re.search(r"ZeroDivisionError: division by zero \(.*mine\.py:6\)", done.stderr), done.stderr


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
    with pytest.raises(InputError, match=r"a (whole |finite )?number|of at least 1"):
        recipe(4, **changes())
