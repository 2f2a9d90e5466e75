"""One driver per search: a lease that is acquired atomically, verified before every tell, and expires."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import optuna
import psutil
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage

from robsearch.errors import InputError, LeaseLostError, refusal

RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 60.0


class Lease:
    """The right to drive a search, held by one process.

    Acquired by creating the study ``NAME@lease-N``: a storage refuses a name that exists, so one of two drivers
    wins. A lease ends when it is released, when its process is gone from this host, or when it has not been
    renewed for 60 seconds.
    """

    def __init__(self, storage: BaseStorage, search: str, number: int) -> None:
        self._storage, self._search, self._number = storage, search, number
        self._study = storage.get_study_id_from_name(_name(search, number))
        self._released, self._asked = threading.Event(), threading.Event()
        self._tell: Callable[[], None] = lambda: None
        self._write()
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    @classmethod
    def acquire(cls, storage: BaseStorage, search: str) -> Lease:
        """The lease of a search that no living driver holds.

        Raises:
            InputError: another driver holds it; names its host, process and age.
        """
        number = _newest(storage, search)
        if number and (owner := living_owner(storage, search)):
            age = time.time() - owner["renewed"]
            got = f"one on {owner['host']}, process {owner['pid']}, last heard of {age:.0f} s ago"
            do = f"end that one (Ctrl-C), or wait {EXPIRE_SECONDS:.0f} s after its death"
            raise InputError(refusal(f"no other driver of {search!r}", got, do))
        try:
            storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], _name(search, number + 1))
        except DuplicatedStudyError as error:
            raise InputError(
                refusal(f"no other driver of {search!r}", "one that started just now", "leave it to that one")
            ) from error
        return cls(storage, search, number + 1)

    def verify(self) -> None:
        """Returns while this process holds the lease.

        Raises:
            LeaseLostError: a newer lease exists.
        """
        if _exists(self._storage, _name(self._search, self._number + 1)):
            raise LeaseLostError(f"another driver took over {self._search!r}; this one stops and writes nothing more")

    @property
    def stop_asked(self) -> bool:
        """Whether somebody asked this driver to stop (``ask_to_stop``), known within 5 seconds."""
        return self._asked.is_set()

    def when_asked_to_stop(self, tell: Callable[[], None]) -> None:
        """Has this called once, in a thread of its own, when somebody asks the driver to stop."""
        self._tell = tell

    def release(self) -> None:
        """Gives the search free for the next driver."""
        self._released.set()
        with contextlib.suppress(Exception):  # where the storage cannot be written, it ends with this process
            self._storage.set_study_user_attr(self._study, "owner", None)

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            try:
                self._write()
                if self._storage.get_study_user_attrs(self._study).get("stop") and not self._asked.is_set():
                    self._asked.set()
                    self._tell()
            except Exception:  # a storage that is down for a while must not end the lease's thread
                continue

    def _write(self) -> None:
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "renewed": time.time(),
        }
        self._storage.set_study_user_attr(self._study, "owner", owner)


def ask_to_stop(storage: BaseStorage, search: str, status: str = "robsearch status") -> dict[str, Any]:
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
        raise InputError(refusal(f"a process that drives {search!r}", "none", do))
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
    return owner if owner and _lives(owner) else None


def _lives(owner: dict[str, Any]) -> bool:
    if time.time() - owner["renewed"] > EXPIRE_SECONDS:
        return False
    if owner["host"] != socket.gethostname():
        return True
    try:
        return bool(abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False


def _newest(storage: BaseStorage, search: str) -> int:
    prefix = _name(search, "")
    names = (study.study_name for study in storage.get_all_studies())
    return max((int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)), default=0)


def _exists(storage: BaseStorage, name: str) -> bool:
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


def _name(search: str, number: object) -> str:
    return f"{search}@lease-{number}"
