"""Numbers as a reader wants them: percent, points, lambda, time; what is missing is a dash, never
NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable

ABSENT = "–"
MINUS = "−"
THIN = "\u202f"
"""A narrow space at which no line breaks."""


def percent(share: float, error: float = math.nan) -> str:
    """A share of examples in percent, with its standard error where known: ``56.2 ± 0.5``."""
    return with_error(100 * share, 100 * error, "")


def percentage_points(difference: float, error: float = math.nan) -> str:
    """A signed difference of two shares in percentage points."""
    return with_error(100 * difference, 100 * error, "+")


def with_error(value: float, error: float, sign: str) -> str:
    """The number to one decimal, with ``± error`` where that is known."""
    if not math.isfinite(value):
        return ABSENT
    text = f"{value:{sign}.1f}".replace("-", MINUS)
    return f"{text}{THIN}±{THIN}{error:.1f}" if math.isfinite(error) else text


def number(value: float) -> str:
    """Three significant digits, exponents only where they save digits: a lambda, a tick."""
    if not math.isfinite(value):
        return ABSENT
    # Four digits are shorter than an exponent, and read well without a separator.
    if 1e3 <= abs(value) < 1e4:
        return f"{value:.0f}".replace("-", MINUS)
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("e+", "e").replace("e0", "e").replace("e-0", "e-").replace("-", MINUS)


def whole(value: float) -> str:
    """A count."""
    return f"{value:,.0f}" if math.isfinite(value) else ABSENT


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 100:
        return f"{seconds:.0f}{THIN}s"
    return f"{seconds / 60:.0f}{THIN}min" if seconds < 6000 else f"{seconds / 3600:.1f}{THIN}h"


def exactly(value: float) -> str:
    """The number in six digits if these are all it has, else in as many as give it back."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def alike(values: Iterable[float]) -> bool:
    """Whether two different ones are equal to six digits."""
    different = set(values)
    return len({f"{value:g}" for value in different}) < len(different)


def names_of(values: Iterable[float]) -> dict[float, str]:
    """A name for each: in six digits, or exactly if two of them would have one name."""
    values = list(values)
    name = exactly if alike(values) else "{:g}".format
    return {value: name(value) for value in values}
