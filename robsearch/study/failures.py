"""Why trials failed: one group for each reason, with the parameters of its trials beside those that
did not fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from robsearch.errors import shortened
from robsearch.study.params import COLUMN, is_missing, is_number, value_text

PLACE = re.compile(r" \(((traceback|what it saved):|\.\.\. more in) .*\)$")
"""The end of a reason that says where to read on."""
NUMBER = re.compile(r"0x[0-9a-f]+|[-+]?\d+(\.\d+)?(e[-+]?\d+)?|\b(nan|inf)\b", re.IGNORECASE)
"""What differs between two trials that failed for one reason: an epoch, a step, a loss, an
address."""


@dataclass(frozen=True)
class Failures:
    """Trials that failed for one reason.

    Attributes:
        reason: of the last of them, in one line.
        trials: their names, in the order of the table.
        params: by searched parameter, its values among them and among the trials that have ended
            without a failure: ``14.2 to 25.9`` of numbers, else ``mart or trades``; the latter is
            empty where there is none.
    """

    reason: str
    trials: tuple[str, ...]
    params: dict[str, tuple[str, str]]

    @property
    def ranges(self) -> str:
        """Those that differ, in a line: ``lam 14.2 to 25.9 (others 0.507 to 10.6)``."""
        texts = []
        for name, (failed, others) in self.params.items():
            if failed != others:
                beside = f" (others {others})" if others else ""
                texts.append(f"{name} {failed}{beside}")
        return ", ".join(texts)


def failures_of(trials: pd.DataFrame) -> Iterator[Failures]:
    """The groups of a table of trials, in the order in which their reasons were first met."""
    failed = trials[trials["state"] == "FAIL"]
    sound = trials[trials["state"].isin(["COMPLETE", "PRUNED"])]
    columns = [str(name) for name in trials.columns if str(name).startswith(COLUMN)]
    lines = failed["reason"].map(first_line)
    # One reason is told with other numbers by each trial: those of its own epochs and losses.
    kinds = lines.map(lambda line: NUMBER.sub("#", line))
    for _, group in failed.groupby(kinds, sort=False):
        params = {}
        for column in columns:
            of_failed = span(group[column])
            if of_failed:
                params[column.removeprefix(COLUMN)] = (of_failed, span(sound[column]))
        last = group.index[-1]
        yield Failures(lines[last], tuple(map(str, group["trial"])), params)


def first_line(reason: object) -> str:
    """A reason in one line, without the path at which to read on."""
    text = PLACE.sub("", str(reason or "no reason given"))
    first, *more = text.splitlines() or [""]
    # Former versions recorded reasons of any length.
    return shortened(f"{first} ..." if more else first)


def span(values: pd.Series) -> str:
    """From the least to the largest of numbers; the different ones among words. Empty if there are
    none."""
    values = values[~values.map(is_missing)]
    if values.empty:
        return ""
    if not all(map(is_number, values)):
        return " or ".join(sorted(set(map(value_text, values))))
    low = value_text(values.min())
    high = value_text(values.max())
    return low if low == high else f"{low} to {high}"
