"""One driver per search: a lease that is acquired atomically, verified before every tell, and
expires."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import psutil
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from robsearch.errors import LeaseLostError, refused

RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 60.0


class Lease:
    """The right to drive a search, held by one process.

    Acquired by creating the study ``NAME@lease-N``: a storage refuses a name that exists, so one of
    two drivers wins. A lease ends when it is released, when its process is gone from this host, or
    when it has not been renewed for 60 seconds. A ``with`` block releases it at its end.
    """

    def __init__(self, storage: BaseStorage, search: str, number: int) -> None:
        self._storage = storage
        self._search = search
        self._number = number
        self._study = storage.get_study_id_from_name(_name(search, number))
        self._released = threading.Event()
        self._asked = threading.Event()
        self._on_stop: Callable[[], None] = lambda: None
        self._write()
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    @classmethod
    def acquire(cls, storage: BaseStorage, search: str) -> Self:
        """The lease of a search that no living driver holds.

        Raises:
            InputError: another driver holds it; names its host, process and age.
        """
        # The number comes before the look at the owner: whoever starts in between has taken it.
        number = _newest(storage, search) + 1
        alone = f"no other driver of {search!r}"
        owner = living_owner(storage, search)
        if owner:
            age = time.time() - owner["renewed"]
            got = f"one on {owner['host']}, process {owner['pid']}, last heard of {age:.0f} s ago"
            do = f"end that one (Ctrl-C), or wait {EXPIRE_SECONDS:.0f} s after its death"
            raise refused(alone, got, do)
        try:
            storage.create_new_study([StudyDirection.MAXIMIZE], _name(search, number))
        except DuplicatedStudyError as error:
            got = "one that started just now"
            raise refused(alone, got, "leave it to that one") from error
        return cls(storage, search, number)

    def verify(self) -> None:
        """Returns while this process holds the lease.

        Raises:
            LeaseLostError: a newer lease exists.
        """
        with contextlib.suppress(KeyError):
            self._storage.get_study_id_from_name(_name(self._search, self._number + 1))
            raise LeaseLostError(
                f"another driver took over {self._search!r}; this one stops and writes nothing more"
            )

    @property
    def stop_asked(self) -> bool:
        """Whether somebody asked this driver to stop (``ask_to_stop``), known within 5 seconds."""
        return self._asked.is_set()

    def when_asked_to_stop(self, tell: Callable[[], None]) -> None:
        """Has this called once, in a thread of its own, when somebody asks the driver to stop."""
        self._on_stop = tell

    def release(self) -> None:
        """Gives the search free for the next driver."""
        self._released.set()
        # Where the storage cannot be written, the lease ends with this process.
        with contextlib.suppress(Exception):
            self._storage.set_study_user_attr(self._study, "owner", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            # A storage that is down for a while must not end this thread.
            with contextlib.suppress(Exception):
                self._write()
                asked = "stop" in self._storage.get_study_user_attrs(self._study)
                if asked and not self.stop_asked:
                    self._asked.set()
                    self._on_stop()

    def _write(self) -> None:
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "renewed": time.time(),
        }
        self._storage.set_study_user_attr(self._study, "owner", owner)


def ask_to_stop(
    storage: BaseStorage, search: str, status: str = "robsearch status"
) -> dict[str, Any]:
    """Asks the process that drives a search to stop, as Ctrl-C would; returns who it is.

    Args:
        storage: that the search is in.
        search: its name.
        status: the command that says how it stands.

    Raises:
        InputError: nobody drives it.
    """
    owner = living_owner(storage, search)
    if owner is None:
        do = f"there is nothing to stop; `{status}` says how it stands"
        raise refused(f"a process that drives {search!r}", "none", do)
    study = storage.get_study_id_from_name(_name(search, _newest(storage, search)))
    storage.set_study_user_attr(study, "stop", time.time())
    return owner


def living_owner(storage: BaseStorage, search: str) -> dict[str, Any] | None:
    """Who drives a search at present, or None if nobody does."""
    number = _newest(storage, search)
    if not number:
        return None
    study = storage.get_study_id_from_name(_name(search, number))
    owner: dict[str, Any] | None = storage.get_study_user_attrs(study).get("owner")
    if owner is None or time.time() - owner["renewed"] > EXPIRE_SECONDS:
        return None
    # Only of this host can be told whether the process is there; of another its word counts.
    if owner["host"] != socket.gethostname():
        return owner
    try:
        started = psutil.Process(owner["pid"]).create_time()
    except psutil.NoSuchProcess:
        return None
    # The system gives the numbers of processes that have ended to others.
    return owner if abs(started - owner["started"]) < 1.0 else None


def _newest(storage: BaseStorage, search: str) -> int:
    prefix = _name(search, "")
    names = (study.study_name for study in storage.get_all_studies())
    numbers = [int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)]
    return max(numbers, default=0)


def _name(search: str, number: object) -> str:
    return f"{search}@lease-{number}"
