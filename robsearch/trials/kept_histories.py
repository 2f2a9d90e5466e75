"""The epochs of all trials of a search in one table, so that the next report need not open a file
of each.

The table is a copy, as ``kept`` says: of a trial it counts as long as that has no newer attempt and
no newer checkpoint, and its ``history.json`` was not written since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from robsearch.metrics import Metrics
from robsearch.trials.files import DamagedError, read_parquet, replacing
from robsearch.trials.kept import FEW, Signature, is_settled, signature_of
from robsearch.trials.loading import checkpoints, history_in, read_history

FORMAT = 2
EPOCHS = "epochs.kept"
"""The file beside the folder of the trials."""
FACTS = b"robsearch"
"""Of the table's metadata: whose its rows are."""
DIGEST = b"robsearch.sha256"
"""Of the table's metadata: the digest of that."""
TYPES = {int: pa.int64(), float: pa.float64()}


class _Read(NamedTuple):
    """One trial's epochs, and what tells whether they are still these."""

    place: str
    signatures: list[Signature]
    history: list[Metrics]


class KeptHistories:
    """The epochs of a search's trials.

    Args:
        trials: the folder of the trials' folders.
        is_used: whether the table is; who asks for few trials does better without it.
    """

    def __init__(self, trials: Path, is_used: bool = True) -> None:
        self._trials = trials
        self._file = trials.with_name(EPOCHS)
        self._is_used = is_used
        self._kept = _load(self._file) if is_used else {}
        self._seen: dict[str, _Read] = {}
        self._fresh = 0

    def read(self, trial: str) -> list[Metrics]:
        """Every epoch that a trial has saved, as ``read_history`` gives them."""
        folder = self._trials / trial
        kept = self._kept.get(trial)
        if kept is not None and kept.signatures == _signatures(folder, kept.place):
            self._seen[trial] = kept
            return kept.history
        newest = next(checkpoints(folder), None)
        if newest is None:
            return []
        place = f"{newest.parent.name}/{newest.name}"
        signatures = _signatures(folder, place)
        try:
            history = history_in(newest)
        except DamagedError:
            # It goes back to the history before it, and says so each time.
            return read_history(folder)
        if all(map(is_settled, signatures)):
            self._seen[trial] = _Read(place, signatures, history)
            self._fresh += 1
        return history

    def keep(self) -> None:
        """Writes the table anew, where much is new and the folder can be written."""
        if self._is_used and self._fresh >= max(FEW, len(self._seen) // 20):
            with suppress(OSError), replacing(self._file, is_shared=True) as unfinished:
                table = _table_of(self._seen)
                pq.write_table(table, unfinished, use_dictionary=False, write_page_checksum=True)
            self._fresh = 0


def _signatures(folder: Path, place: str) -> list[Signature]:
    """Of a trial's folder and its attempt's, which change with each new entry, and of the newest
    history."""
    attempt = folder / place.partition("/")[0]
    return [
        *(signature_of(path) for path in (folder, attempt)),
        signature_of(folder / place / "history.json"),
    ]


def _table_of(read: Mapping[str, _Read]) -> pa.Table:
    """A row for each epoch; without trials of which a metric has not one type, or an epoch lacks
    one that others have."""
    types: dict[str, type] = {}
    columns: dict[str, list[Any]] = {}
    layouts: list[list[str]] = []
    facts: dict[str, Any] = {}
    rows = 0
    for trial, (place, signatures, history) in read.items():
        names = list(history[0])
        is_even = all(list(entry) == names for entry in history)
        kinds = {name: types.get(name, type(history[0][name])) for name in names}
        if not is_even or not _have_types(history, kinds):
            continue
        types |= kinds
        if names not in layouts:
            layouts.append(names)
        for name in names:
            column = columns.setdefault(name, [])
            column += [None] * (rows - len(column))
            column += [entry[name] for entry in history]
        facts[trial] = [place, signatures, layouts.index(names), rows, len(history)]
        rows += len(history)
    arrays = {}
    for name, column in columns.items():
        column += [None] * (rows - len(column))
        arrays[name] = pa.array(column, TYPES[types[name]])
    content = {
        "format": FORMAT,
        "columns": list(arrays),
        "layouts": layouts,
        "trials": facts,
    }
    about = json.dumps(content).encode()
    return pa.table(arrays).replace_schema_metadata({FACTS: about, DIGEST: _digest(about)})


def _digest(about: bytes) -> bytes:
    return hashlib.sha256(about).hexdigest().encode()


def _have_types(history: Iterable[Metrics], kinds: Mapping[str, type]) -> bool:
    return all(type(entry[name]) is kind for entry in history for name, kind in kinds.items())


def _load(file: Path) -> dict[str, _Read]:
    """What the table has of each trial; empty where it is missing or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        table = read_parquet(file)
        text = table.schema.metadata[FACTS]
        # Parquet's own check is of its pages alone.
        if _digest(text) != table.schema.metadata[DIGEST]:
            return {}
        about = json.loads(text)
        if about["format"] != FORMAT or about["columns"] != table.column_names:
            return {}
        columns = {name: _numbers(table[name]) for name in table.column_names}
        kept = {}
        for trial, (place, signatures, layout, first, count) in about["trials"].items():
            names = about["layouts"][layout]
            rows = zip(*(columns[name][first : first + count] for name in names), strict=True)
            history = [dict(zip(names, row, strict=True)) for row in rows]
            kept[trial] = _Read(place, signatures, history)
        return kept
    return {}


def _numbers(column: pa.ChunkedArray) -> list[Any]:
    """As Python's; what is absent is in no layout, so it may be any."""
    numbers: list[Any] = column.fill_null(0).to_numpy().tolist()
    return numbers
