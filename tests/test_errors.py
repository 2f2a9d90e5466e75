"""What a refusal says was expected is what is checked."""

import math

import pytest

from robsearch import PGD, SGD, AverageMargin, InputError
from robsearch.errors import number, one_of, refusal


@pytest.mark.parametrize(
    ("bounds", "said", "fits", "does_not"),
    [
        ({"above": 0}, "> 0", (1e-9, 5), (0, -1, math.inf, math.nan, "1", None, True)),
        ({"at_least": 1}, ">= 1", (1, 2.5), (0.5, -math.inf)),
        ({"at_least": 0, "below": 1}, "in [0, 1)", (0, 0.5), (1, -0.1)),
        ({"above": 0, "at_most": 1}, "in (0, 1]", (1, 0.5), (0, 1.1)),
    ],
)
def test_a_number_is_checked_by_the_bounds_that_are_said(bounds, said, fits, does_not):
    for value in fits:
        assert number("x", value, "", **bounds).fits
    for value in does_not:
        check = number("x", value, "", **bounds)
        assert not check.fits
        assert check.expected.startswith(f"x {said}")


def test_a_whole_number_is_no_share_of_one():
    check = number("x", 2, "", at_least=1, whole=True)
    assert (check.fits, check.expected) == (True, "x >= 1, a whole number")
    assert not number("x", 2.5, "", at_least=1, whole=True).fits


def test_a_word_is_one_of_those_that_are_said():
    assert one_of("norm", "l2", "l1", "l2", "linf").fits
    check = one_of("norm", "l3", "l1", "l2", "linf")
    assert (check.fits, check.expected) == (False, "norm 'l1', 'l2' or 'linf'")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PGD(step_size=2), r"expected step_size in \(0, 1\], got 2: "),
        (lambda: SGD(lr=math.inf), "expected lr > 0, a finite number, got inf: "),
        (lambda: AverageMargin(mu=math.inf), "expected mu >= 0, a finite number, got inf: "),
    ],
)
def test_what_was_expected_is_not_what_came(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_what_came_is_one_line_of_bounded_length():
    assert refusal("a", "first\n  second\n", "c") == "expected a, got first second: c"
    assert (
        refusal("a", "x" * 1200, "c")
        == f"expected a, got {'x' * 1000} (... 200 more characters): c"
    )
