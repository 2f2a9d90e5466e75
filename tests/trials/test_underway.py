"""How far trainings are that have not ended."""

import math

import pandas as pd

from robsearch.trials.underway import trainings_underway, underway


def epoch(number: int, value: float, seconds: float = 2.0, speed: float = 100.0) -> dict:
    return {
        "epoch": number,
        "val/robust_accuracy": value,
        "time/epoch_seconds": seconds,
        "time/images_per_second": speed,
    }


def test_time_to_go_is_the_median_epoch_times_the_epochs_that_are_left():
    history = [epoch(1, 0.3, seconds=30.0), epoch(2, 0.5), epoch(3, 0.4, seconds=4.0)]
    training = underway("w4-000", 4.0, 6.0, 10, history)
    assert (training.epoch, training.epochs) == (3, 10)
    assert (training.value, training.best) == (0.4, 0.5)
    assert training.seconds_to_go == 7 * 4.0  # 2, 4 and 30 s: one slow epoch does not count
    assert training.images_per_second == 100.0


def test_before_the_first_epoch_nothing_is_known():
    training = underway("w4-000", 4.0, 6.0, 10, [])
    assert training.epoch == 0
    assert math.isnan(training.value)
    assert math.isnan(training.seconds_to_go)


def test_those_of_a_search_are_its_running_trials_and_an_epoch_done_again_counts_once():
    trials = pd.DataFrame(
        {
            "trial": ["w4-000", "w4-001", "w4-002"],
            "width": 4.0,
            "lam": [1.0, 2.0, 3.0],
            "state": ["COMPLETE", "RUNNING", "RUNNING"],
            "recipe_epochs": [4, 4, None],
        }
    )
    rows = [
        {"trial": "w4-000", **epoch(1, 0.1)},
        {"trial": "w4-001", **epoch(2, 0.2)},
        {"trial": "w4-001", **epoch(1, 0.9)},
        {"trial": "w4-001", **epoch(2, 0.6)},
    ]
    first, second = trainings_underway(trials, pd.DataFrame(rows))
    assert (first.trial, first.epoch, first.value, first.best) == ("w4-001", 2, 0.6, 0.9)
    assert first.seconds_to_go == 4.0
    assert (second.trial, second.epoch) == ("w4-002", 0)
    assert math.isnan(second.epochs)


def test_a_search_without_epochs_has_none():
    trials = pd.DataFrame(columns=["trial", "width", "lam", "state", "recipe_epochs"])
    assert trainings_underway(trials, pd.DataFrame(columns=["trial", "epoch"])) == []
