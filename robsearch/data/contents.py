"""What files hold: a hash of each, kept in the node's cache, so that only new or changed files are
read.

A file counts as unchanged while its size, its inode, its time of modification and its time of
change (ctime, which no program can set back) are the same.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple, TypeAlias

from robsearch.data.cache import cache_folder, locked, replacing
from robsearch.errors import InputError

Facts: TypeAlias = tuple[int, int, int, int]
"""Size in bytes, inode, and times of modification and of change in nanoseconds."""

_YOUNG = 2_000_000_000
"""Nanoseconds. A file changed less than this before it was read may change once more at the same
time of a coarse clock (that of FAT has steps of two seconds), so its hash is not kept."""

_THREADS = 16
"""On a network disk each file waits for an answer; on a local one more than the cores do no
harm."""

_TOGETHER = 64
"""Files that one thread reads at a time: handing over each small file alone costs more than reading
it."""


class _Hashed(NamedTuple):
    facts: Facts
    sha256: str
    lasting: bool
    """Whether another content would show in the facts."""


def contents(
    root: str, names: Iterable[str], kept_as: str | None = None
) -> tuple[dict[str, str], dict[str, OSError]]:
    """Of the files ``names`` below the absolute path ``root`` the SHA-256 of each by name, as
    hexadecimal digits, and what was wrong with the others.

    Hashes of one root are kept together, and those of other files than ``names`` are forgotten; who
    looks at some of a folder's files alone keeps theirs ``kept_as`` another path.

    Files that are unchanged since this node hashed them are not read. Processes that start at once
    wait for the one that reads. A cache that is damaged or cannot be written costs time only. What
    is no regular file, such as a pipe, is a problem and is not opened.
    """
    facts = {}
    problems = {}
    for name in names:
        try:
            facts[name] = _facts(os.stat(os.path.join(root, name)))
        except OSError as problem:
            problems[name] = problem
    cache = _cache_file(kept_as or root)
    hashed = _cached(cache)
    if _changed(hashed, facts):
        # All trials of a node begin at once, and one of them reads the files for all.
        with _locked_if_possible(cache):
            hashed = _cached(cache)  # another process may have read the files meanwhile
            changed = _changed(hashed, facts)
            for name, result in zip(changed, _read_all(root, changed), strict=True):
                if isinstance(result, OSError):
                    problems[name] = result
                else:
                    hashed[name] = result
            if cache and any(hashed[name].lasting for name in changed if name not in problems):
                # Files that are gone are forgotten.
                _keep(cache, {name: row for name, row in hashed.items() if name in facts})
    hashes = {name: hashed[name].sha256 for name in facts if name not in problems}
    return hashes, problems


def facts_of(path: Path) -> Facts:
    """What tells one content of a regular file from another without reading it. Raises OSError."""
    return _facts(path.stat())


def lasting(facts: Facts) -> bool:
    """Whether the facts of a file would be others by now if it had been changed since."""
    return not _is_young(facts, time.time_ns())


def _facts(status: os.stat_result) -> Facts:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device")
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _changed(hashed: Mapping[str, _Hashed], facts: Mapping[str, Facts]) -> list[str]:
    """The files that were not hashed as they are now."""
    return [name for name, now in facts.items() if name not in hashed or hashed[name].facts != now]


def _read_all(root: str, names: Sequence[str]) -> Iterator[_Hashed | OSError]:
    def read_some(start: int) -> list[_Hashed | OSError]:
        some = names[start : start + _TOGETHER]
        return [_read(os.path.join(root, name)) for name in some]

    starts = range(0, len(names), _TOGETHER)
    with ThreadPoolExecutor(_THREADS) as threads:
        for results in threads.map(read_some, starts):
            yield from results


def _read(path: str) -> _Hashed | OSError:
    now = time.time_ns()
    try:
        with open_regular(path) as file:
            number = file.fileno()
            facts = _facts(os.fstat(number))
            total = hashlib.file_digest(file, "sha256")
            # Once more: somebody may have written while the file was read.
            lasting = _facts(os.fstat(number)) == facts and not _is_young(facts, now)
            return _Hashed(facts, total.hexdigest(), lasting)
    except OSError as problem:
        return problem


def open_regular(path: str) -> FileIO:
    """A regular file, to be read. Raises OSError for what is none, or cannot be read."""
    # A pipe that took the file's place meanwhile would keep a plain open waiting.
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _facts(os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def _is_young(facts: Facts, now: int) -> bool:
    _, _, modified, changed = facts
    # Archives can hold times of modification that lie hours ahead: these do not make a file young.
    return min(abs(now - modified), now - changed) < _YOUNG


# --- the cache ---


def _cache_file(root: str) -> Path | None:
    """A file per root, or per path that stands for it; None where the cache folder has no place
    (``~`` of a user without a home)."""
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    with suppress(RuntimeError):
        return cache_folder() / "contents" / f"{name}.json"
    return None


@contextmanager
def _locked_if_possible(cache: Path | None) -> Iterator[None]:
    with ExitStack() as stack:
        if cache:
            with suppress(InputError):  # not writable: nothing is shared or waited for
                stack.enter_context(locked(cache))
        yield


def _cached(cache: Path | None) -> dict[str, _Hashed]:
    if cache is None:
        return {}
    try:
        checksum, _, body = cache.read_bytes().partition(b"\n")
    except OSError:
        return {}
    # A hash that was altered would let another data set pass for this one.
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        return {}
    hashed = {}
    for name, row in json.loads(body).items():
        *facts, sha256 = row
        hashed[name] = _Hashed(tuple(facts), sha256, lasting=True)
    return hashed


def _keep(cache: Path, hashed: Mapping[str, _Hashed]) -> None:
    rows = {name: [*row.facts, row.sha256] for name, row in hashed.items() if row.lasting}
    body = json.dumps(rows).encode()
    checksum = hashlib.sha256(body).hexdigest().encode()
    with suppress(InputError), replacing(cache) as temporary:
        temporary.write_bytes(checksum + b"\n" + body)
