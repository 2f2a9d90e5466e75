"""Numbers as a reader wants them: percent, points, lambda, time; what is missing is a dash, never NaN."""

from __future__ import annotations

import math

from .markup import ABSENT

MINUS = "−"
THIN = "\u202f"
"""A narrow space at which no line breaks."""


def percent(share: float, error: float = math.nan) -> str:
    """A share of examples in percent, with its standard error where known: ``56.2 ± 0.5``."""
    return with_error(100 * share, 100 * error, "")


def points(difference: float, error: float = math.nan) -> str:
    """A signed difference of two shares in percentage points."""
    return with_error(100 * difference, 100 * error, "+")


def with_error(number: float, error: float, sign: str) -> str:
    """The number to one decimal, with ``± error`` where that is known."""
    if not math.isfinite(number):
        return ABSENT
    text = f"{number:{sign}.1f}".replace("-", MINUS)
    return f"{text}{THIN}±{THIN}{error:.1f}" if math.isfinite(error) else text


def plain(number: float) -> str:
    """Three significant digits without a needless exponent: a lambda, a width."""
    if not math.isfinite(number):
        return ABSENT
    text = f"{number:.0f}" if 1000 <= abs(number) < 1e6 else f"{number:.3g}"
    return text.replace("e+", "e").replace("-", MINUS)


def whole(number: float) -> str:
    """A count."""
    return f"{number:,.0f}" if math.isfinite(number) else ABSENT


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 100:
        return f"{seconds:.0f}{THIN}s"
    return f"{seconds / 60:.0f}{THIN}min" if seconds < 6000 else f"{seconds / 3600:.1f}{THIN}h"
