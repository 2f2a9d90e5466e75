"""What a refusal says was expected is what is checked."""

import math

import pytest

from robsearch import PGD, SGD, AverageMargin, InputError
from robsearch.errors import number


@pytest.mark.parametrize(
    ("span", "fits", "does_not"),
    [
        ("> 0", (1e-9, 5), (0, -1, math.inf, math.nan, "1", None, True)),
        (">= 1", (1, 2.5), (0.5, -math.inf)),
        ("in [0, 1)", (0, 0.5), (1, -0.1)),
        ("in (0, 1]", (1, 0.5), (0, 1.1)),
    ],
)
def test_a_number_is_checked_by_the_span_that_is_said(span, fits, does_not):
    assert all(number("x", value, span, "")[0] for value in fits)
    assert not any(number("x", value, span, "")[0] for value in does_not)


def test_a_whole_number_is_no_share_of_one():
    assert number("x", 2, ">= 1", "", whole=True)[:2] == (True, "x >= 1, a whole number")
    assert not number("x", 2.5, ">= 1", "", whole=True)[0]


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
