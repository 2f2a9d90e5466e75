"""The one way robsearch refuses bad input: what was expected, what came, what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Integral, Real

SPAN = re.compile(r"(>=?) (\S+)|in ([\[(])(\S+), (\S+)([\])])")


class InputError(ValueError):
    """Bad input, found before any compute is spent. The command line prints it and exits with code 2.

    Attributes:
        problems: one sentence each, all that were found, never only the first.
    """

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))


class LeaseLostError(RuntimeError):
    """Another driver took this search over: this one must not write any more."""


def refusal(expected: str, got: object, do: str) -> str:
    """The house's sentence for one problem: ``expected ..., got ...: ...``."""
    return f"expected {expected}, got {got}: {do}"


def refuse_unless(*checks: tuple[bool, str, object, str]) -> None:
    """Raises InputError with all (fits, expected, got, what to do) that do not fit."""
    problems = [refusal(expected, got, do) for fits, expected, got, do in checks if not fits]
    if problems:
        raise InputError(*problems)


def number(name: str, value: object, span: str, do: str, whole: bool = False) -> tuple[bool, str, object, str]:
    """A check for ``refuse_unless`` whose words cannot differ from what is checked: both are the ``span``.

    Args:
        name: of the field.
        value: a number, finite; anything else does not fit.
        span: ``> 0``, ``>= 1`` or an interval, ``in [0, 1)``.
        do: what to do.
        whole: whether it must be a whole number.
    """
    found = SPAN.fullmatch(span)
    assert found, f"no span: {span}"
    sign, least, opens, low, high, closes = found.groups()
    fits = False
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if isinstance(value, Integral if whole else Real) and is_number:
        given, bound = float(value), float(least or low)
        above = given > bound or (given == bound and (sign == ">=" or opens == "["))
        below = given < float(high or math.inf) or (closes == "]" and given == float(high))
        fits = above and below
    more = ", a whole number" if whole else ", a finite number" if sign or not is_number else ""
    return fits, f"{name} {span}{more}", value if isinstance(value, Real) else repr(value), do
