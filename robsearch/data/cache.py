"""The node's cache folder: where it is, one process at a time per file, and files that are whole or
not there."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from robsearch.errors import InputError, refusal

_STALE = 3600.0
_CHOSEN: ContextVar[Path | None] = ContextVar("cache folder", default=None)


def cache_folder(chosen: Path | None = None) -> Path:
    """The folder for what can be made again: ``chosen``, else ROBSEARCH_CACHE, else
    ``~/.cache/robsearch``."""
    from_environment = os.environ.get("ROBSEARCH_CACHE") or "~/.cache/robsearch"
    folder = chosen or _CHOSEN.get() or Path(from_environment)
    return folder.expanduser().absolute()


@contextmanager
def caching_in(folder: Path) -> Iterator[None]:
    """Inside, ``cache_folder()`` is ``folder``: what a data set copies to read itself lies where
    its file will."""
    token = _CHOSEN.set(folder)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for other processes that build this file; removes what dead ones left.

    Without the lock all would still be correct, but each would read the source and make a file of
    its own.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("a")
    except OSError as problem:
        raise _unwritable(path.parent, problem) from problem
    with lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        # A process that died while it wrote leaves its temporary file behind.
        for remnant in path.parent.glob(f".{path.name}.*.tmp"):
            with suppress(OSError):
                if time.time() - remnant.stat().st_mtime > _STALE:
                    remnant.unlink()
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` at the end; after an error nothing
    is left.

    Raises:
        InputError: an ``OSError`` inside, such as a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as problem:
        raise _unwritable(path.parent, problem) from problem
    finally:
        with suppress(OSError):  # it is gone, or its folder never was one
            temporary.unlink()


def _unwritable(folder: Path, problem: OSError) -> InputError:
    do = "set ROBSEARCH_CACHE to a folder on a local disk with room that you may write"
    expected = f"to write the data cache in {folder}"
    return InputError(refusal(expected, problem.strerror or problem, do))
