import pytest

from robsearch import InputError, RobustOverfittingStopper


@pytest.mark.parametrize(
    ("epoch", "best", "stops"),
    [
        (40, 30, False),  # 10 epochs without a better one, but not 10 after half of the training
        (60, 30, True),
        (59, 30, False),
        (65, 56, False),
        (66, 56, True),
    ],
)
def test_patience_counts_from_the_peak_but_not_before_the_learning_rate_drops(epoch, best, stops):
    assert RobustOverfittingStopper(patience=10, after=0.5).stops(epoch, 100, best) is stops


@pytest.mark.parametrize(
    "fields", [{"patience": 0}, {"patience": 2.5}, {"after": 1.0}, {"after": -0.1}]
)
def test_what_could_not_be_meant_is_refused(fields, unchecked):
    with pytest.raises(InputError, match=f"expected {next(iter(fields))}"):
        RobustOverfittingStopper(**fields)
