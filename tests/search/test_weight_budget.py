"""Which weights go when a search's budget on disk is exceeded."""

import pytest

from robsearch.search.driver import WeightBudget
from robsearch.training.memory import GIB
from robsearch.trials.selection import order

KIB = 1024


def put(folder, **sizes):
    for trial, size in sizes.items():
        epoch = folder / trial.replace("_", "-") / "a1" / "epoch-0001"
        epoch.mkdir(parents=True)
        (epoch / "state.pt").write_bytes(b"0" * size * KIB)
        (epoch / "history.json").write_text("{}")


def left(folder):
    return {file.parents[2].name for file in folder.glob("*/a1/epoch-0001/state.pt")}


@pytest.fixture
def weight_budget(tmp_path):
    """Two trials of width 4, two of width 8, one that failed: 10 KiB each."""
    put(tmp_path, w4_000=10, w4_001=10, w8_000=10, w8_001=10, w8_002=10)
    weight_budget = WeightBudget(tmp_path)
    for trial, width, value in (
        ("w4-000", 4, 0.3),
        ("w4-001", 4, 0.2),
        ("w8-000", 8, 0.6),
        ("w8-001", 8, 0.5),
    ):
        weight_budget.finished(trial, width, order(value))
    return weight_budget


@pytest.mark.parametrize(
    ("budget", "dropped"),
    [
        (50, []),
        (49, ["w8-002"]),
        (40, ["w8-002"]),
        (39, ["w8-002", "w4-001"]),
        (20, ["w8-002", "w4-001", "w8-001"]),
        (0, ["w8-002", "w4-001", "w8-001"]),
    ],
)
def test_failed_trials_go_first_then_the_worst_and_never_the_best_of_a_width(
    weight_budget, tmp_path, budget, dropped
):
    weight_budget.gib = budget * KIB / GIB
    assert weight_budget.enforce(busy=()) == dropped
    assert left(tmp_path) == {"w4-000", "w4-001", "w8-000", "w8-001", "w8-002"} - set(dropped)
    assert len(list(tmp_path.glob("*/a1/epoch-0001/history.json"))) == 5


def test_the_weights_of_a_trial_that_was_dropped_go_with_those_of_failed_ones(weight_budget):
    """It is the best of its width no more."""
    weight_budget.gib = 20 * KIB / GIB
    assert weight_budget.enforce((), {"w8-000": "broken"}) == ["w8-000", "w8-002", "w4-001"]


def test_what_is_trained_or_measured_is_left_alone(weight_budget, tmp_path):
    weight_budget.gib = 0
    assert weight_budget.enforce(busy=("w8-002", "w4-001")) == ["w8-001"]


def test_without_a_budget_nothing_goes(weight_budget, tmp_path):
    assert weight_budget.enforce(busy=()) == []
    assert WeightBudget(tmp_path / "not there").enforce(busy=()) == []
