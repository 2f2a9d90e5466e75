"""Records on their way to MLflow: a queue of JSON lines on disk, so that an outage or a dead driver loses none.

``tracking-0002.spool`` belongs to one process for ever: its number is claimed by an exclusive create. A process that
goes on with the search claims the next number, delivers what lies in older files first, and then deletes these. So a
driver that lost its search, but does not know it yet, writes where it harms nobody. ``tracking-0002.delivered`` holds
how many bytes of the file are in MLflow. A file that is delivered to its end is cut to nothing: an empty folder means
that MLflow has everything. Files that a record names are written down as paths below the results folder, so that they
are found when that was moved meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]
"""Plain JSON; ``kind`` says what is to be done (see ``sending``)."""

PATHS = ("file", "folder")
"""What a record calls the paths in it."""

BATCH_BYTES = 1 << 20
MAX_HELD = 10_000
"""Records that memory keeps while the disk refuses them; the oldest go first, and ``resume`` says them again."""
FULL_SECONDS = 5.0
"""How long a disk that refused records is left alone."""


class _Taken(NamedTuple):
    records: list[Record]
    file: Path | None
    end: int


class Spool:
    """A queue that one thread fills and another empties.

    Args:
        folder: of the search; None keeps the records in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._held: deque[Record] = deque(maxlen=MAX_HELD)
        self._full_until = 0.0
        self._taken: _Taken | None = None
        self._folder = folder
        self._older: list[Path] = sorted(folder.glob("tracking-*.spool")) if folder else []
        self._offsets = {file: _offset(file) for file in self._older}
        self._own = _claimed(folder, self._older) if folder else None
        if self._own is not None:
            self._offsets[self._own] = 0

    @property
    def empty(self) -> bool:
        """Whether all that was said is delivered."""
        with self._lock:
            return not (self._taken or self._held or any(_size(f) > self._offsets[f] for f in self._files()))

    @property
    def left(self) -> int:
        """How many records are not delivered yet."""
        with self._lock:
            taken = len(self._taken.records) if self._taken and self._taken.file is None else 0
            return taken + len(self._held) + sum(_lines(f, self._offsets[f]) for f in self._files())

    def append(self, records: Iterable[Record]) -> None:
        """Writes them down behind the others. What the disk refuses waits in memory, and is tried again next time."""
        with self._lock:
            self._held.extend(records)
            if self._own is None or not self._held or time.monotonic() < self._full_until:
                return
            if _written(self._own, (self._to_keep(record) for record in self._held)):
                self._held.clear()
            else:
                self._full_until = time.monotonic() + FULL_SECONDS

    def take(self) -> list[Record]:
        """The next records, about 1 MiB of them; the same again until they are ``delivered``. Empty if there are none.

        A torn last line of a dead process is left out.
        """
        with self._lock:
            if self._taken is None:
                self._taken = self._next()
            return self._taken.records if self._taken else []

    def delivered(self) -> None:
        """Those that were taken last are in MLflow."""
        with self._lock:
            taken, self._taken = self._taken, None
            if taken is not None and taken.file is not None:
                self._advance(taken.file, taken.end)

    def close(self) -> None:
        """Leaves what is not delivered to the next process; an empty file goes."""
        with self._lock:
            if self._own is not None and _size(self._own) == 0:
                _remove(self._own)

    def _files(self) -> list[Path]:
        return [*self._older, *([self._own] if self._own else [])]

    def _next(self) -> _Taken | None:
        for file in self._files():
            while lines := _read(file, self._offsets[file]):
                end = self._offsets[file] + sum(map(len, lines))
                if records := _parsed(lines, file):
                    return _Taken([self._found(record) for record in records], file, end)
                self._advance(file, end)
            if file != self._own:
                self._older.remove(file)
                _remove(file)
        records = list(self._held)
        self._held.clear()
        return _Taken(records, None, 0) if records else None

    def _to_keep(self, record: Record) -> Record:
        """The record as it is written down: what it names in the results folder by a path below that."""
        assert self._folder is not None
        results = self._folder.parent
        named = {key: Path(record[key]) for key in PATHS if key in record}
        below = {key: str(path.relative_to(results)) for key, path in named.items() if path.is_relative_to(results)}
        return record | below

    def _found(self, record: Record) -> Record:
        """The record with paths to where the search lies now; earlier versions wrote absolute paths down."""
        assert self._folder is not None
        return record | {key: str(_here(Path(record[key]), self._folder)) for key in PATHS if key in record}

    def _advance(self, file: Path, end: int) -> None:
        self._offsets[file] = end
        if _size(file) > end:
            with contextlib.suppress(OSError):  # then they are delivered twice, which MLflow keeps once
                unfinished = file.with_suffix(".tmp")
                unfinished.write_text(str(end))
                unfinished.replace(_mark(file))
        elif file == self._own:
            with contextlib.suppress(OSError):
                _mark(file).unlink(missing_ok=True)  # first: an old mark would hide what is written next
                os.truncate(file, 0)
                self._offsets[file] = 0


def _here(path: Path, folder: Path) -> Path:
    """Where a path that a record names is now: below the results folder, or below the search's own."""
    at = folder.parent / path
    if at.exists() or folder.name not in path.parts:
        return at
    inside = path.parts[path.parts.index(folder.name) + 1 :]
    return folder.joinpath(*inside)


def undelivered(folder: Path) -> int:
    """How many records in a search's folder wait for MLflow."""
    return sum(_lines(file, _offset(file)) for file in folder.glob("tracking-*.spool"))


def _claimed(folder: Path, older: list[Path]) -> Path | None:
    number = int(older[-1].stem.rpartition("-")[2]) if older else 0
    while True:
        number += 1
        file = folder / f"tracking-{number:04d}.spool"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.open("xb").close()
        except FileExistsError:
            continue
        except OSError as error:
            logging.getLogger(__name__).warning(f"records for MLflow wait in memory only: {error}")
            return None
        return file


def _written(file: Path, records: Iterable[Record]) -> bool:
    """Appends all of them, or nothing: what comes behind a torn line could not be read."""
    lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records).encode()
    whole = _size(file)
    try:
        with file.open("ab") as spool:
            spool.write(lines)
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(file, whole)
        return False
    return True


def _read(file: Path, offset: int) -> list[bytes]:
    try:
        with file.open("rb") as spool:
            spool.seek(offset)
            return [line for line in spool.readlines(BATCH_BYTES) if line.endswith(b"\n")]
    except OSError:
        return []


def _parsed(lines: list[bytes], file: Path) -> list[Record]:
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            logging.getLogger(__name__).warning(f"{file} has a damaged line, which is left out")
    return records


def _lines(file: Path, offset: int) -> int:
    try:
        with file.open("rb") as spool:
            spool.seek(offset)
            return sum(line.endswith(b"\n") for line in spool)
    except OSError:
        return 0


def _mark(file: Path) -> Path:
    return file.with_suffix(".delivered")


def _offset(file: Path) -> int:
    try:
        return min(int(_mark(file).read_text()), _size(file))
    except (OSError, ValueError):
        return 0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        _mark(file).unlink(missing_ok=True)
        file.unlink(missing_ok=True)
