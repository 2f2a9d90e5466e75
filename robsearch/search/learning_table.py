"""A table of finished trials that samplers learn from: every cell is checked before anything starts."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robsearch.errors import InputError, refusal
from robsearch.study import COLUMN, Distributions, Found, number, read_as

SHOWN = 3
"""Lines of one kind that a refusal names; it counts the others."""
SEARCHED = {"state": "COMPLETE", "control": "", "rung": ""}
"""What ``Search.trials`` says of a trial that was searched, at full fidelity, to its end."""

CORRECT = "correct these cells, or delete their lines"


def read_table(file: Path, metrics: Sequence[str], known: Distributions, source: str | None = None) -> list[Found]:
    """The trials of a CSV file.

    Args:
        file: with a column ``width``, one for each metric, and one for each parameter. The column of a single metric
            may be called ``value``, that of a parameter ``param/NAME`` (as in ``Search.trials``). Others do not count.
        metrics: that are maximised, as shares from 0 to 1.
        known: the distribution of each parameter of the space. An empty cell of a parameter says that the trial was
            not asked for it.
        source: what the trials are said to come from; by default the file.

    Raises:
        InputError: it is no such table; all problems, each with the lines that it is in.
    """
    header, lines = _read(file)
    columns = _columns(file, header, metrics, known)
    problems = _Problems(file)
    trials = []
    for line, cells in lines:
        if len(cells) != len(header):
            problems.add(line, f"{len(header)} cells in each line", str(len(cells)), "mend these lines")
            continue
        _check_searched(line, dict(zip(header, cells, strict=True)), problems)
        row = _Row(line, {name: (header[place], cells[place].strip()) for name, place in columns.items()}, problems)
        params = {name: row.param(name, distribution) for name, distribution in known.items() if name in columns}
        asked = {name: value for name, value in params.items() if value is not None}
        trials.append(Found(row.width(), asked, tuple(row.share(metric) for metric in metrics), source or str(file)))
    if said := problems.sentences():
        raise InputError(*said)
    return trials


def _check_searched(line: int, cells: Mapping[str, str], problems: _Problems) -> None:
    """Where a table is that of a search, its lines must be of trials whose values are comparable."""
    if not {"trial", *SEARCHED} <= cells.keys():
        return
    for name, expected in SEARCHED.items():
        if cells[name] != expected:
            do = "delete the lines of controls, of rungs and of trials that did not finish"
            problems.add(line, f"{name} {expected or 'empty'}", cells[name], do)


def _read(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and each line that is not empty with its number."""
    expected = f"a table to learn from, {file}"
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:  # spreadsheets write a byte order mark
            reader = csv.reader(text, strict=True)
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except OSError as error:
        do = f"correct the path in learn_from; it was looked for in {file.absolute().parent}"
        raise InputError(refusal(expected, error.strerror or error, do)) from error
    except (ValueError, csv.Error) as error:
        raise InputError(refusal(expected, error, "save it as CSV in UTF-8")) from error
    if len(lines) < 2:
        got = "a header without rows" if lines else "an empty file"
        raise InputError(refusal(expected, got, "fill it, or take it out of learn_from"))
    header = [name.strip() for name in lines[0][1]]
    if len(header) == 1 and (separators := {";", "\t"} & set(header[0])):
        got = f"{'semicolons' if ';' in separators else 'tabs'} between its columns"
        raise InputError(refusal(expected, got, "save it with commas between columns, and points in numbers"))
    return header, lines[1:]


def _columns(file: Path, header: list[str], metrics: Sequence[str], known: Distributions) -> dict[str, int]:
    """Where the width, each metric and each parameter stand."""
    names = {"width": "width", **{metric: metric for metric in metrics}}
    problems = []
    if len(metrics) == 1 and {"value", metrics[0]} <= set(header):
        do = "delete the column that is not meant"
        problems.append(refusal(f"one of the columns value and {metrics[0]} in {file}", "both", do))
    elif len(metrics) == 1 and metrics[0] not in header:
        names[metrics[0]] = "value"
    said = ", ".join(filter(None, header))
    if missing := [name for name in names.values() if name not in header]:
        problems.append(refusal(f"columns {', '.join(names.values())} in {file}", said, f"add {', '.join(missing)}"))
    params = {name: full if (full := f"{COLUMN}{name}") in header else name for name in known}
    params = {name: column for name, column in params.items() if column in header}
    if known and not params:
        do = "name the columns of the parameters as the space does"
        problems.append(refusal(f"a column for a parameter of the space, {', '.join(known)}, in {file}", said, do))
    names |= params
    if double := [column for column in names.values() if header.count(column) > 1]:
        problems.append(refusal(f"each column once in {file}", f"{', '.join(double)} twice", "delete one of them"))
    if problems:
        raise InputError(*problems)
    return {name: header.index(column) for name, column in names.items()}


class _Problems:
    """What is wrong with the cells of a file: one sentence for each kind, with the first lines of it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._kinds: dict[str, tuple[str, list[str]]] = {}

    def add(self, line: int, expected: str, got: str, do: str) -> None:
        """Notes one cell; the first of its kind says what to do."""
        self._kinds.setdefault(expected, (do, []))[1].append(f"{got or 'nothing'} in line {line}")

    def sentences(self) -> list[str]:
        """What is said of them."""
        return [
            refusal(f"{expected} of {self._file}", _first(cells), do) for expected, (do, cells) in self._kinds.items()
        ]


def _first(cells: Sequence[str]) -> str:
    more = f" and {len(cells) - SHOWN:,} more" if len(cells) > SHOWN else ""
    return ", ".join(cells[:SHOWN]) + more


class _Row:
    """One line: each reader notes what is wrong with its cell, and then gives back NaN."""

    def __init__(self, line: int, cells: Mapping[str, tuple[str, str]], problems: _Problems) -> None:
        """Cells by what they mean: the name of their column, and their text."""
        self._line = line
        self._cells = cells
        self._problems = problems

    def width(self) -> float:
        """The width of the trial."""
        value = self._number("width")
        return value if 0 < value < math.inf else self._wrong("finite widths above 0", "width")

    def share(self, metric: str) -> float:
        """The value of a metric."""
        value = self._number(metric)
        if 1 < value <= 100:
            do = f"write {self._cells[metric][1]} as a share: {value / 100:.6g}"
            return self._wrong("shares, not percents,", metric, do)
        return value if 0 <= value <= 1 else self._wrong("shares from 0 to 1", metric)

    def param(self, name: str, distribution: Any) -> Any:
        """The value of a parameter; None if the trial was not asked for it."""
        try:
            value = read_as(distribution, self._cells[name][1])
        except ValueError:
            value = math.nan
        if isinstance(value, float) and not math.isfinite(value):
            return self._wrong("finite numbers", name)
        return value

    def _number(self, name: str) -> float:
        try:
            return number(self._cells[name][1])
        except ValueError:
            return math.nan

    def _wrong(self, expected: str, name: str, do: str = CORRECT) -> float:
        column, text = self._cells[name]
        self._problems.add(self._line, f"{expected} in column {column}", text, do)
        return math.nan
