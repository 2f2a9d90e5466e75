"""What files hold: a hash of each, kept in the node's cache, so that only new or changed files are read.

A file counts as unchanged while its size, its inode, its time of modification and its time of change (ctime,
which no program can set back) are the same.
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
from pathlib import Path
from typing import NamedTuple, TypeAlias

from robsearch.data.cache import alone, cache_folder, replacing
from robsearch.errors import InputError

Facts: TypeAlias = tuple[int, int, int, int]
"""Size in bytes, inode, and times of modification and of change in nanoseconds."""

_YOUNG = 2_000_000_000
"""Nanoseconds. A file changed less than this before it was read may change once more at the same
time of a coarse clock (that of FAT has steps of two seconds), so its hash is not kept."""

_THREADS = 16
"""On a network disk each file waits for an answer; on a local one more than the cores do no harm."""

_TOGETHER = 64
"""Files that one thread reads at a time: handing over each small file alone costs more than reading it."""

_CHUNK = 1 << 18


class Contents(NamedTuple):
    """SHA-256 of each file by name, as hexadecimal digits, and what was wrong with the others."""

    hashes: dict[str, str]
    problems: dict[str, OSError]


class _Read(NamedTuple):
    facts: Facts
    sha256: str
    lasting: bool
    """Whether another content would show in the facts."""


def contents(root: str, names: Iterable[str]) -> Contents:
    """The hashes of the files ``names`` below the absolute path ``root``.

    Files that are unchanged since this node hashed them are not read. Processes that start at once
    wait for the one that reads. A cache that is damaged or cannot be written costs time only. What is
    no regular file, such as a pipe, is a problem and is not opened.
    """
    facts, problems = _looked_at(root, names)
    cache = _cache_file(root)
    known = _recalled(cache)
    if not all(_is_known(known, name, now) for name, now in facts.items()):
        with _alone_if_possible(cache):
            known = _recalled(cache)  # another process may have read the files meanwhile
            problems |= _learn(known, root, facts, cache)
    hashes = {name: known[name].sha256 for name in facts if name not in problems}
    return Contents(hashes, problems)


def facts_of(path: Path) -> Facts:
    """What tells one content of a file from another without reading it. Raises OSError."""
    return _facts(path.stat())


def _facts(found: os.stat_result) -> Facts:
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _looked_at(root: str, names: Iterable[str]) -> tuple[dict[str, Facts], dict[str, OSError]]:
    facts = {}
    problems = {}
    for name in names:
        try:
            found = os.stat(os.path.join(root, name))
            _refuse_other_kinds(found)
            facts[name] = _facts(found)
        except OSError as problem:
            problems[name] = problem
    return facts, problems


def _refuse_other_kinds(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device")


def _is_known(known: Mapping[str, _Read], name: str, now: Facts) -> bool:
    return name in known and known[name].facts == now


def _learn(known: dict[str, _Read], root: str, facts: Mapping[str, Facts], cache: Path | None) -> dict[str, OSError]:
    """Reads the files that ``known`` lacks into it and keeps what lasts; gives what cannot be read."""
    problems: dict[str, OSError] = {}
    unknown = [name for name, now in facts.items() if not _is_known(known, name, now)]
    for name, result in zip(unknown, _all_read(root, unknown), strict=True):
        if isinstance(result, OSError):
            problems[name] = result
        else:
            known[name] = result
    if cache and any(known[name].lasting for name in unknown if name not in problems):
        _keep(cache, {name: known[name] for name in facts if name in known and known[name].lasting})
    return problems


def _all_read(root: str, names: Sequence[str]) -> Iterator[_Read | OSError]:
    slices = [names[i : i + _TOGETHER] for i in range(0, len(names), _TOGETHER)]
    with ThreadPoolExecutor(_THREADS) as threads:
        for results in threads.map(lambda part: [_read(os.path.join(root, name)) for name in part], slices):
            yield from results


def _read(path: str) -> _Read | OSError:
    now = time.time_ns()
    try:
        # A pipe that took the file's place meanwhile would keep a plain open waiting.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb", buffering=0) as file:
            found = os.fstat(number)
            _refuse_other_kinds(found)
            total = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                total.update(chunk)
            facts = _facts(found)
            lasting = _facts(os.fstat(number)) == facts and not _is_young(facts, now)
            return _Read(facts, total.hexdigest(), lasting)
    except OSError as problem:
        return problem


def _is_young(facts: Facts, now: int) -> bool:
    _, _, modified, changed = facts
    # Archives can hold times of modification that lie hours ahead: these do not make a file young.
    return min(abs(now - modified), now - changed) < _YOUNG


# --- the cache ---


def _cache_file(root: str) -> Path | None:
    """A file per root; None where the cache folder has no place (``~`` of a user without a home)."""
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    with suppress(RuntimeError):
        return cache_folder() / "contents" / f"{name}.json"
    return None


@contextmanager
def _alone_if_possible(cache: Path | None) -> Iterator[None]:
    with ExitStack() as stack:
        if cache:
            with suppress(InputError):  # it cannot be written: nothing is shared, so nothing is waited for
                stack.enter_context(alone(cache))
        yield


def _recalled(cache: Path | None) -> dict[str, _Read]:
    if cache is None:
        return {}
    try:
        checksum, _, body = cache.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        return {}
    return {name: _Read((size, *rest), sha256, True) for name, (size, *rest, sha256) in json.loads(body).items()}


def _keep(cache: Path, known: Mapping[str, _Read]) -> None:
    body = json.dumps({name: [*read.facts, read.sha256] for name, read in known.items()}).encode()
    checksum = hashlib.sha256(body).hexdigest().encode()
    with suppress(InputError), replacing(cache) as temporary:
        temporary.write_bytes(checksum + b"\n" + body)
