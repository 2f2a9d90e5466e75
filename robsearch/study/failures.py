"""Why trials failed: one group for each reason, with the parameters of its trials beside those that did not fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from robsearch.study.params import COLUMN, is_missing, is_number, value_text

PLACE = re.compile(r" \((traceback|what it saved): .*\)$")
"""The end of a reason that says where to read on."""
NUMBER = re.compile(r"0x[0-9a-f]+|[-+]?\d+(\.\d+)?(e[-+]?\d+)?|\b(nan|inf)\b", re.IGNORECASE)
"""What differs between two trials that failed for one reason: an epoch, a step, a loss, an address."""


@dataclass(frozen=True)
class Failures:
    """Trials that failed for one reason.

    Attributes:
        reason: of the last of them, in one line.
        trials: their names, in the order of the table.
        params: by searched parameter, its values among them and among the trials that have ended without a failure:
            ``14.2 to 25.9`` of numbers, else ``mart or trades``; the latter is empty where there is none.
    """

    reason: str
    trials: tuple[str, ...]
    params: dict[str, tuple[str, str]]

    @property
    def ranges(self) -> str:
        """Those that differ, in a line: ``lam 14.2 to 25.9 (others 0.507 to 10.6)``."""
        different = {name: both for name, both in self.params.items() if both[0] != both[1]}
        return ", ".join(
            f"{name} {own}" + (f" (others {others})" if others else "") for name, (own, others) in different.items()
        )


def failures_of(trials: pd.DataFrame) -> Iterator[Failures]:
    """The groups of a table of trials, in the order in which their reasons were first met."""
    failed = trials[trials["state"] == "FAIL"]
    sound = trials[trials["state"].isin(["COMPLETE", "PRUNED"])]
    lines = failed["reason"].map(first_line)
    for _, own in failed.groupby(lines.map(lambda line: NUMBER.sub("#", line)), sort=False):
        names = [str(name) for name in own.columns if str(name).startswith(COLUMN)]
        spans = {name.removeprefix(COLUMN): (span(own[name]), span(sound[name])) for name in names}
        asked = {name: both for name, both in spans.items() if both[0]}
        yield Failures(lines[own.index[-1]], tuple(map(str, own["trial"])), asked)


def first_line(reason: object) -> str:
    """A reason in one line, without the path at which to read on."""
    first, *more = PLACE.sub("", str(reason or "no reason given")).splitlines() or [""]
    return f"{first} ..." if more else first


def span(values: pd.Series) -> str:
    """From the least to the largest of numbers; the different ones among words. Empty if there are none."""
    known = [value for value in values if not is_missing(value)]
    if not known:
        return ""
    if all(map(is_number, known)):
        ends = dict.fromkeys((value_text(min(known)), value_text(max(known))))
        return " to ".join(ends)
    return " or ".join(sorted({value_text(value) for value in known}))
