"""What a space may suggest: only what Optuna's storage gives back equal, so that one suggestion is
one recipe."""

import copy
import enum
import json

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial
from small_spaces import recipe

from robsearch import SGD, InputError
from robsearch.spaces import Space, Stage, check
from robsearch.spaces.space_trial import OURS, recipe_of
from robsearch.study import Study, open_storage
from robsearch.study.recorded import IMPORTED, TRAININGS

WIDTHS = (4, 8)


class Mode(enum.StrEnum):
    PLAIN = "plain"


def suggesting(suggest, **how):
    """A space that calls ``suggest`` with its trial, and trains the same at each width."""

    def define(trial, width):
        suggest(trial)
        return recipe(width)

    return Space(define, WIDTHS, **how)


def study(folder, space):
    """The study of width 4, as each driver opens it."""
    return Study(open_storage(None, folder), "s", space, Stage(4), trials=8, full=recipe(4), seed=0)


def refused(space):
    """The problems that ``check`` tells of both widths alike."""
    with pytest.raises(InputError) as error:
        check(space)
    prefix = "at widths 4 and 8: "
    return [
        problem.removeprefix(prefix)
        for problem in error.value.problems
        if problem.startswith(prefix)
    ]


# --- choices ---


@pytest.mark.parametrize(
    ("choices", "got"),
    [
        ([(0.5,), (0.5, 0.75)], "(0.5,) (a tuple), (0.5, 0.75) (a tuple)"),
        ([1, [2]], "[2] (a list)"),
        ([{"a": 1}], "{'a': 1} (a dict)"),
        ([b"a"], "b'a' (a bytes)"),
        ([len], "<built-in function len> (a builtin_function_or_method)"),
        ([Mode.PLAIN], "<Mode.PLAIN: 'plain'> (a Mode)"),
        ([np.longdouble(0.5)], "np.longdouble('0.5') (a longdouble)"),
        ([1.0, float("nan")], "nan (a float)"),
        ([np.float64("nan")], "nan (a float)"),
    ],
)
def test_choices_that_the_storage_gives_back_as_something_else_are_refused_with_the_way_out(
    choices, got
):
    (problem,) = refused(suggesting(lambda trial: trial.suggest_categorical("drops", choices)))
    assert problem == (
        "expected choices for 'drops' that Optuna's storage gives back equal (None, bool, int, "
        "float or str), "
        f"got {got}: suggest names (strings), and let the space look each of them up in a dict"
    )


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ([True, 1], "tells apart, got True and 1"),
        ([1, 2, 1.0], "tells apart, got 1 and 1.0"),
        ([0.0, -0.0], "tells apart, got 0.0 and -0.0"),
        ([np.bool_(False), np.int64(0)], "tells apart, got False and 0"),
        ([], "The `choices` must contain one or more elements"),
        ({"a", "b"}, "in another process a set may have another order"),
        (7, "expected a list of choices for 'x', got 7"),
        (["a" * 70_000], "that a database holds, 65535 bytes of JSON"),
    ],
)
def test_choices_that_a_storage_cannot_tell_apart_or_hold_are_refused(choices, said):
    (problem,) = refused(suggesting(lambda trial: trial.suggest_categorical("x", choices)))
    assert said in problem


@pytest.mark.parametrize(
    "choices", [[None, True, False], [0, 2.5, "a"], {"fast": 1, "slow": 2}, ["a", "b", "a"], "ab"]
)
def test_choices_that_come_back_equal_are_taken(choices):
    assert len(check(suggesting(lambda trial: trial.suggest_categorical("x", choices)))) == 6


# --- ranges ---


@pytest.mark.parametrize(
    ("suggest", "said"),
    [
        (
            lambda trial: trial.suggest_float("x", float("nan"), 1),
            "finite numbers as the range of 'x', got low=nan",
        ),
        (
            lambda trial: trial.suggest_float("x", 0, np.inf),
            "finite numbers as the range of 'x', got high=inf",
        ),
        (lambda trial: trial.suggest_float("x", None, "a"), "got low=None, high='a'"),
        (
            lambda trial: trial.suggest_float("x", 2, 1),
            "a range for 'x' that Optuna takes, got `low <= high` must",
        ),
        (
            lambda trial: trial.suggest_float("x", 1, 2, step=0.5, log=True),
            "`step` is not supported when `log` is",
        ),
        (
            lambda trial: trial.suggest_int("x", 1.5, 8.7),
            "whole numbers between -2**53 and 2**53 as the range of 'x'",
        ),
        (
            lambda trial: trial.suggest_int("x", 1, 8, step=0.5),
            "got step=0.5: round them, or use suggest_float",
        ),
        (lambda trial: trial.suggest_int("x", 0, 2**53 + 1), "got high=9007199254740993"),
        (
            lambda trial: trial.suggest_int("x", 1, 8, step=2, log=True),
            "that Optuna takes, got Samplers and other",
        ),
        (
            lambda trial: trial.suggest_float("", 1, 2),
            "a parameter's name of 1 to 512 printable characters, got ''",
        ),
        (lambda trial: trial.suggest_float(3, 1, 2), "printable characters, got 3"),
        (lambda trial: trial.suggest_float("x\0", 1, 2), "printable characters, got 'x\\x00'"),
        (lambda trial: trial.suggest_int("x" * 513, 1, 2), "printable characters, got 'xxxx"),
    ],
)
def test_ranges_and_names_that_no_storage_keeps_are_refused(suggest, said):
    (problem,) = refused(suggesting(suggest))
    assert said in problem


@pytest.mark.filterwarnings("ignore:The distribution is specified by")
def test_a_range_that_its_storage_would_shorten_is_refused():
    step = np.float32(
        0.1
    )  # 0.10000000149011612: 6 of them, rounded to a float, are less than 6 of them
    (problem,) = refused(suggesting(lambda trial: trial.suggest_float("x", 0, 0.65, step=step)))
    assert "that Optuna's storage gives back equal" in problem
    assert "choose low, high and step with few decimals" in problem


@pytest.mark.parametrize(
    "again",
    [
        lambda trial: trial.suggest_float("lr", 1.0, 2.0),
        lambda trial: trial.suggest_int("lr", 1, 2),
        lambda trial: trial.suggest_categorical("lr", [1, 2]),
    ],
)
def test_one_name_with_two_ranges_in_one_suggestion_is_refused(again):
    def twice(trial):
        trial.suggest_float("lr", 0.1, 0.2)
        again(trial)

    (problem,) = refused(suggesting(twice))
    assert "expected one range for 'lr' in a suggestion, got FloatDistribution(high=0.2" in problem
    assert problem.endswith(": give each of them a name of its own")


def test_choices_are_compared_with_their_types_within_a_suggestion_and_between_widths():
    def twice(trial):
        trial.suggest_categorical("x", [True, False])
        trial.suggest_categorical("x", [1, 0])

    assert "one range for 'x' in a suggestion" in refused(suggesting(twice))[0]

    def define(trial, width):
        trial.suggest_categorical("x", [True, False] if width == 4 else [1, 0])
        return recipe(width)

    with pytest.raises(
        InputError,
        match=r"expected one range for 'x', got .*True, False\)\) at width 4 but .*\(1, 0\)\)",
    ):
        check(Space(define, WIDTHS))


def test_one_name_with_one_range_may_be_asked_for_twice_and_at_several_widths():
    def define(trial, width):
        first, second = (trial.suggest_float("lam", 0.5, 32, log=True) for _ in range(2))
        assert first == second
        return recipe(width, first)

    assert len(check(Space(define, WIDTHS, per_trial="all"))) == 6
    trial = optuna.create_study().ask()
    assert recipe_of(define, trial, 4).lam == recipe_of(define, trial, 8).lam


def test_a_range_that_an_earlier_suggestion_decides_is_refused():
    def define(trial, width):
        low = trial.suggest_float("low", 0.5, 1.0)
        return recipe(width, trial.suggest_float("lam", low, 32.0))

    with pytest.raises(InputError, match="expected one range for 'lam'"):
        check(Space(define, WIDTHS))


def test_all_that_is_wrong_with_the_suggestions_is_told_at_once():
    def wrong(trial):
        drops = trial.suggest_categorical("drops", [(0.5,), (0.5, 0.75)])
        trial.suggest_int("depth", 1.5, 2)
        trial.suggest_float("lr", 0.1, 0.2)
        trial.suggest_float("lr", 0.2, 0.3)
        trial.set_user_attr("reason", "none")
        trial.report(0.5, 1)
        raise KeyError(drops)  # what comes after a problem may be its consequence

    assert len(refused(suggesting(wrong))) == 5


# --- the record that robsearch keeps ---


def test_the_attributes_in_which_robsearch_remembers_a_trial_are_its_own():
    assert {TRAININGS, IMPORTED} < set(OURS)
    for name in OURS:
        (problem,) = refused(suggesting(lambda trial, name=name: trial.set_user_attr(name, [])))
        assert f"got '{name}': choose another name" in problem


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda trial: trial.set_user_attr(1, 2),
            "an attribute's name of 1 to 512 characters, got 1",
        ),
        (
            lambda trial: trial.set_user_attr("f", len),
            "a value of the attribute 'f' that JSON can hold, got <built-in",
        ),
        (
            lambda trial: trial.set_user_attr("long", "a" * 70_000),
            "65535 bytes of JSON, got 70002 bytes",
        ),
        (
            lambda trial: trial.set_constraint("val/stability", 0.0),
            "robsearch does not set itself, got 'val/stability'",
        ),
        (lambda trial: trial.report(0.5, 1), "a space that only suggests, got report(0.5, 1)"),
    ],
)
def test_what_a_space_may_not_write_is_refused(write, said):
    (problem,) = refused(suggesting(write))
    assert said in problem


def test_an_attribute_is_what_its_storage_gives_back():
    trial = optuna.create_study().ask()
    recipe_of(
        lambda trial, width: trial.set_user_attr("note", {"n": (np.int64(3), np.float32(0.5))}),
        trial,
        4,
    )
    assert trial.user_attrs == {"note": {"n": [3, 0.5]}}
    assert type(trial.user_attrs["note"]["n"][0]) is int


# --- what a space sees ---


def see(trial, width):
    """Everything public that a space may use."""
    assert isinstance(trial, optuna.Trial)
    assert (
        trial.suggest_float("lam", np.float32(0.5), np.int64(32), log=np.bool_(True))
        == trial.params["lam"]
    )
    assert trial.suggest_int("n", np.int64(2), np.float64(8), step=np.int32(2)) in (2, 4, 6, 8)
    assert type(trial.suggest_categorical("x", np.array([0.25, 0.5]))) is float
    assert type(trial.suggest_categorical("on", [np.True_, np.False_])) is bool
    with pytest.warns(FutureWarning):
        assert trial.suggest_uniform("u", 0, 1) == trial.params["u"]
    trial.set_user_attr("note", 1)
    assert trial.user_attrs["note"] == 1
    trial.set_constraint("cost", 0.5)
    assert trial.constraints == {"cost": 0.5}
    assert list(trial.distributions) == list(trial.params) == ["lam", "n", "x", "on", "u"]
    assert trial.datetime_start is not None
    assert trial.should_prune() is False
    assert copy.deepcopy(trial).number == copy.copy(trial).number == trial.number
    return recipe(width)


def test_a_space_sees_an_optuna_trial_that_keeps_numpy_numbers_as_python_numbers():
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True, seed=0)
    )
    for number in range(3):
        trial = study.ask()

        def look(trial, width, number=number):
            assert trial.number == number
            return see(trial, width)

        recipe_of(look, trial, 4)
        json.dumps([trial.params, [vars(each) for each in trial.distributions.values()]])
        study.tell(trial, 0.5)


@pytest.mark.parametrize("name", ["study", "storage", "relative_params"])
def test_a_space_that_looks_at_what_a_replayed_suggestion_lacks_is_refused(name):
    def look(trial, width):
        getattr(trial, name)
        return recipe(width)

    made = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    for trial in (made, FixedTrial({})):
        with pytest.raises(
            InputError,
            match=f"expected a space that depends on its suggestion only, got trial.{name}",
        ):
            recipe_of(look, trial, 4)


def test_a_space_sees_the_same_when_a_suggestion_is_read_again():
    recipe_of(see, FixedTrial({"lam": 6.0, "n": 4, "x": 0.5, "on": True, "u": 0.5}, number=3), 4)


def test_a_suggestion_that_lacks_what_the_space_asks_for_is_refused_with_what_it_asked_for():
    with pytest.raises(
        InputError, match=r"expected a value of 'lam' from FloatDistribution.*'lam' is not found"
    ):
        recipe_of(see, FixedTrial({"n": 4}), 4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of an enumeration, by Optuna
def test_what_an_earlier_version_took_and_recorded_is_still_read():
    def before(trial, width):
        lam = trial.suggest_float("x", 0.5, 32)
        lr = trial.suggest_float("x", 0.1, 0.2)
        epochs = trial.suggest_int("epochs", 1.5, 4.5)
        assert trial.suggest_categorical("mode", list(Mode)) == "plain"
        return recipe(width, lam, optimiser=SGD(lr=lr), epochs=epochs)

    read = recipe_of(before, FixedTrial({"x": 0.5, "epochs": 3, "mode": "plain"}), 4)
    assert read == recipe(4, 0.5, optimiser=SGD(lr=0.5), epochs=3)
    with pytest.raises(
        InputError, match="expected choices for 'drops' that Optuna's storage gives back equal"
    ):
        recipe_of(
            lambda trial, _: trial.suggest_categorical("drops", [(0.5,)]),
            FixedTrial({"drops": [0.5]}),
            4,
        )


# --- through a storage and back ---


def searched(trial, width):
    lr = trial.suggest_categorical("lr", np.array([0.05, 0.1], dtype=np.float32))
    epochs = trial.suggest_categorical("epochs", list(np.arange(2, 5)))
    batch_size = trial.suggest_int("batch_size", np.int64(10), np.int64(50), step=np.int64(10))
    lam = trial.suggest_float("lam", np.float32(0.5), np.float32(32), log=True)
    return recipe(width, lam, optimiser=SGD(lr=lr), epochs=epochs, batch_size=batch_size)


LAM = {"lr": float(np.float32(0.05)), "epochs": 2, "batch_size": 10}


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"start_with": ({"lam": 6},)},
        {"start_with": ({"lam": np.int64(6), "epochs": np.int64(2), "lr": np.float32(0.1)},)},
        {
            "sampler": optuna.samplers.GridSampler(
                {"lam": [1, 2, 4], **{name: [value] for name, value in LAM.items()}}
            )
        },
        {
            "sampler": optuna.samplers.PartialFixedSampler(
                {"lam": 6}, optuna.samplers.RandomSampler(seed=0)
            )
        },
    ],
)
def test_a_suggestion_is_the_same_recipe_after_its_storage_was_opened_again(tmp_path, how):
    space = Space(searched, WIDTHS, **how)
    check(space)
    first = study(tmp_path, space)
    for params in space.start_with:
        first.enqueue(dict(params))
    suggestions = [first.ask() for _ in range(2)]
    if space.start_with:
        assert suggestions[0].recipe.lam.value == 6
    second = study(tmp_path, space)
    assert second.adopt() == suggestions
    assert [second.suggestion_of(training) for training in second.recorded()] == suggestions


def test_a_branch_that_check_did_not_draw_fails_its_suggestion_with_the_same_sentence(tmp_path):
    def later(trial):
        if trial.number == 3:
            trial.suggest_categorical("drops", [(0.5,)])

    of_width = study(tmp_path, space := suggesting(later))
    check(space)
    suggestions = [of_width.ask() for _ in range(5)]
    assert [suggestion is None for suggestion in suggestions] == [False, False, False, True, False]
    reason = of_width.trials()[3].user_attrs["reason"]
    assert reason.startswith(
        "the space failed: expected choices for 'drops' that Optuna's storage gives back equal"
    )


def test_choices_that_change_between_suggestions_fail_the_second_with_what_to_do(tmp_path):
    of_width = study(
        tmp_path,
        suggesting(lambda trial: trial.suggest_categorical("x", list(range(2 + trial.number)))),
    )
    assert of_width.ask() is not None
    assert of_width.ask() is None
    reason = of_width.trials()[1].user_attrs["reason"]
    assert reason.endswith(
        "dynamic value space.: ask for the same names and ranges in every suggestion of a search"
    )


# --- how a space is searched ---


def test_widths_and_first_parameters_are_python_numbers():
    space = suggesting(len, start_with=({"lam": np.float32(6)},))
    assert type(space.start_with[0]["lam"]) is float
    assert list(map(type, Space(searched, tuple(np.array([4, 8]))).widths)) == [int, int]


@pytest.mark.parametrize("start_with", [{"lam": 6.0}, ("lam",)])
def test_first_parameters_are_dicts(start_with):
    with pytest.raises(InputError, match="expected a tuple of dicts as start_with"):
        suggesting(len, start_with=start_with)


@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.2), ("lr", (0.05,)), ("lam", np.array(6.0)), ("epochs", "2")]
)
def test_first_parameters_that_could_not_be_suggested_or_kept_are_refused(name, value):
    with pytest.raises(InputError, match=f"expected {name} in start_with from "):
        check(Space(searched, WIDTHS, start_with=({name: value},)))


@pytest.mark.filterwarnings("ignore:lam contains a value with the type")
def test_a_grid_that_no_storage_could_keep_is_refused():
    sampler = optuna.samplers.GridSampler({"lam": np.arange(1, 4)})
    with pytest.raises(
        InputError, match=r"GridSampler, got TypeError: .*int64.*of a NumPy array, array.tolist\(\)"
    ):
        check(
            Space(
                lambda trial, width: recipe(width, trial.suggest_float("lam", 0.5, 32)),
                WIDTHS,
                sampler=sampler,
            )
        )
