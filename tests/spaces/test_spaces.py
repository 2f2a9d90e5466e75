import dataclasses
import sys

import optuna
import pytest
from optuna.pruners import NopPruner
from small_spaces import pair, standard

from robsearch import AtLeast, ByCost, InputError, Resources, Rung, Weighted, space
from robsearch.spaces import check, load_space


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("quickstart", "expected a space as module:name"),
        ("no_such_module:digits", "no module named 'no_such_module'"),
        ("small_spaces:no_such", r"it has no 'no_such': use one of blind, broken, .*pair"),
        ("small_spaces:not_a_space", "'not_a_space' is an int"),
        ("robsearch.errors:digits", "decorate a function"),
    ],
)
def test_a_space_that_is_not_there_is_refused_with_what_is(reference, said):
    with pytest.raises(InputError, match=said):
        load_space(reference)


def test_a_space_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_space.py").write_text("from small_spaces import pair as mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_space("my_own_space:mine").widths == (4, 8)


def test_a_module_that_fails_to_import_shows_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "my_broken_space.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(InputError, match="ZeroDivisionError"):
        load_space("my_broken_space:mine")


def test_a_sound_space_draws_the_same_ranges_at_every_width():
    draws = check(load_space("small_spaces:pair"))
    assert [draw.width for draw in draws] == [4, 4, 4, 8, 8, 8]
    assert all(0.5 <= draw.params["lam"] <= 32 for draw in draws)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "uneven",
            "expected one range for 'lam', got .*high=4.* at width 4 but .*high=8.* at width 8",
        ),
        ("blind", "expected a model that depends on the width"),
        ("broken", "at width 4: expected Recipe.epochs to be a whole number, at least 1, got 0"),
        ("unbuildable", "RuntimeError: no such layer"),
        (
            "unbuildable",
            r"expected Recipe\.augment to be importable by its name in another process, "
            "got .*<lambda>",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(name, said):
    with pytest.raises(InputError, match=said):
        check(load_space(f"small_spaces:{name}"))


def test_all_problems_are_told_at_once():
    with pytest.raises(InputError) as error:
        check(load_space("small_spaces:broken"))
    assert len(error.value.problems) == 2


@pytest.mark.parametrize("widths", [(), (1, 1), (0, 1), (-2,)])
def test_widths_are_distinct_and_positive(widths):
    with pytest.raises(InputError, match="distinct positive widths"):
        space(widths=widths)(lambda trial, width: None)


def test_a_space_says_what_a_training_of_each_width_takes():
    thrifty = dataclasses.replace(pair, resources=lambda width: Resources(cpus=1, gpus=width / 16))
    assert thrifty.resources(4) == Resources(1, 0.25)
    check(thrifty)
    with pytest.raises(InputError) as error:
        check(dataclasses.replace(pair, resources=lambda width: {4: Resources(), 8: 1}[width]))
    assert error.value.problems == (
        "expected resources(8) to give Resources, got 1: return such as Resources(gpus=0.5)",
    )
    with pytest.raises(
        InputError, match=r"resources\(4\) to give Resources, got ZeroDivisionError"
    ):
        check(dataclasses.replace(pair, resources=lambda width: 1 / 0))


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1}, {"gpus": 1.5}])
def test_resources_that_no_node_could_give_are_refused(wrong):
    with pytest.raises(InputError, match=f"expected {next(iter(wrong))} "):
        Resources(**wrong)


# --- how a space is searched ---


def cheap(full):
    return dataclasses.replace(full, epochs=1)


def searched(**how):
    return space(widths=(4, 8), **how)(pair.define)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"maximise": ("test/robust_accuracy",)},
            "expected metrics of the best epoch on val, got 'test/robust_acc",
        ),
        (
            {"subject_to": (AtLeast("natural", 0.8),)},
            "expected metrics of the best epoch on val, got 'natural'",
        ),
        (
            {"start_with": ({"lambda": 1.0},)},
            "expected parameters of the space in start_with, got 'lambda'",
        ),
        (
            {"start_with": ({"lam": 99.0},)},
            r"expected lam in start_with from .*high=32\.0.*, got 99\.0",
        ),
        ({"allocation": Weighted(lambda width: -1)}, "a positive weight at width 4"),
        ({"allocation": ByCost}, "expected an Allocation"),
        (
            {"sampler": optuna.samplers.GridSampler({"other": [1]})},
            "a sampler that suits this space, GridSampler",
        ),
        ({"sampler": optuna.samplers.TPESampler}, "expected an Optuna sampler"),
        (
            {
                "sampler": optuna.samplers.GPSampler(),
                "subject_to": (),
                "maximise": ("val/stability", "nothing"),
            },
            "got 'nothing'",
        ),
    ],
)
def test_a_way_of_searching_that_does_not_suit_the_space_is_refused(how, said):
    with pytest.raises(InputError, match=said):
        check(searched(**how))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"maximise": ("val/stability", "val/natural_accuracy"), "pruner": NopPruner()},
            "no pruner with several",
        ),
        ({"replicates": 0}, "replicates of at least 1"),
        ({"per_trial": "some"}, "per_trial 'one' or 'all'"),
        ({"maximise": ()}, "distinct metrics to maximise"),
        (
            {"controls": (standard,), "fidelity": (Rung("standard", cheap, 0.5),)},
            "controls and rungs with distinct",
        ),
        ({"sampller": None}, "expected arguments of @space, got sampller"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_when_the_space_is_made(how, said):
    with pytest.raises(InputError, match=said):
        searched(**how)


@pytest.mark.parametrize("keep", [0, 1, 1.5])
def test_a_rung_keeps_a_part(keep):
    with pytest.raises(InputError, match="a share in"):
        Rung("scout", cheap, keep)


def test_a_rung_whose_recipe_could_not_be_trained_is_refused():
    with pytest.raises(InputError, match="a Recipe from rung scout, got a NoneType"):
        check(searched(fidelity=(Rung("scout", lambda full: None, 0.5),)))


def test_what_suits_passes_the_check():
    samplers = (
        optuna.samplers.GPSampler(),
        optuna.samplers.CmaEsSampler(),
        optuna.samplers.QMCSampler(seed=1),
    )
    for sampler in samplers:
        assert (
            len(check(searched(sampler=sampler, start_with=({"lam": 6.0},), allocation=ByCost())))
            == 6
        )
    assert check(
        searched(maximise=("val/stability", "val/natural_accuracy"), replicates=2, per_trial="all")
    )


def test_a_constraint_is_recorded_as_a_text_with_all_digits_and_read_back():
    goal = AtLeast("val/natural_accuracy", 0.1 + 0.2)
    assert str(goal) == "val/natural_accuracy >= 0.30000000000000004"
    assert AtLeast.parse(str(goal)) == goal
