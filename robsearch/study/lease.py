"""One driver per search: a lease that is acquired atomically, verified before every tell, and
ends when it is no longer renewed.

Clocks of two machines differ, and names and process numbers repeat in containers. So nobody judges
a lease by its times or names: whoever wants it watches its counter, by a monotonic clock of their
own.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import psutil
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from robsearch.errors import LeaseLostError, refused
from robsearch.study.process_table import is_there, this_process
from robsearch.study.record import explain
from robsearch.study.storage import refused_if_read_only

RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 60.0
"""A lease is dead once its counter was seen to rest for so long."""
LOOK_SECONDS = 0.5
"""Between two looks at a lease that is watched."""
END_IT = "end that one (Ctrl-C, or `robsearch stop`)"


def _quiet(_: str) -> None:
    pass


class Lease:
    """The right to drive a search, held by one process.

    Acquired by creating the study ``NAME@lease-N``: a storage refuses a name that exists, so one of
    two drivers wins. A lease ends when it is released, when its process is gone from the observer's
    own process table, or when an observer has seen it rest for 60 seconds. A ``with`` block
    releases it at its end.

    Attributes:
        number: of the lease; those of a search are counted from 1.
    """

    def __init__(self, storage: BaseStorage, search: str, number: int) -> None:
        self._storage = storage
        self._search = search
        self.number = number
        self._study = storage.get_study_id_from_name(_name(search, number))
        self._renewals = itertools.count()
        self._released = threading.Event()
        self._asked = threading.Event()
        self._on_stop: Callable[[], None] = lambda: None
        self._write()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        storage: BaseStorage,
        search: str,
        say: Callable[[str], None] = _quiet,
        watch: LeaseWatch | None = None,
        do: str = END_IT,
    ) -> Self:
        """The lease of a search that no living driver holds.

        A lease whose driver may live is watched first, for up to 60 seconds.

        Args:
            storage: that the search is in.
            search: its name.
            say: is told that this waits, and for what.
            watch: of its lease, if this process has watched it before.
            do: what a user whose search is driven already shall do.

        Raises:
            InputError: another driver holds it (names its host and process), or the storage cannot
                be written.
        """
        if watch is not None:
            watch.look()
        if watch is None or watch.superseded:
            watch = LeaseWatch(storage, search)
        watch.wait(say, do)
        # It is the number after the lease that was watched: whoever started meanwhile has taken it.
        number = watch.number + 1
        try:
            with refused_if_read_only():
                study = storage.create_new_study([StudyDirection.MAXIMIZE], _name(search, number))
        except DuplicatedStudyError as error:
            raise _just_taken(search) from error
        lease = cls(storage, search, number)
        what = f"no trials: by this lease driver {number} of {search!r} holds it, or held it"
        explain(storage, study, what)
        return lease

    def verify(self) -> None:
        """Returns while this process holds the lease.

        Raises:
            LeaseLostError: a newer lease exists.
        """
        if _exists(self._storage, self._search, self.number + 1):
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

    def through(self, storage: BaseStorage) -> Self:
        """The same lease, read and written through another access to its storage from now on."""
        self._storage = storage
        return self

    def release(self) -> None:
        """Gives the search free for the next driver."""
        if self._released.is_set():
            return
        self._released.set()
        # Where the storage cannot be written, the lease ends with this process.
        with contextlib.suppress(Exception):
            self._storage.set_study_user_attr(self._study, "owner", None)

    def abandon(self) -> None:
        """Writes nothing of it any more, not even that it is released: its search is deleted, and
        its number in the storage may soon be another study's."""
        self._released.set()
        self._thread.join()

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
            **this_process(),
            "host": socket.gethostname(),
            "renewal": next(self._renewals),
            # Times are for people, and for a robsearch before 0.2, which judges by them.
            "started": psutil.Process().create_time(),
            "renewed": time.time(),
        }
        self._storage.set_study_user_attr(self._study, "owner", owner)


class LeaseWatch:
    """What this process has seen of a search's newest lease since it began to look.

    Attributes:
        number: of that lease; 0 if the search has had none.
        owner: who held it at the last look, in the words of ``living_owner``; None: nobody.
        rested: seconds for which it was seen to rest at the end.
        renewed: whether it was seen to be renewed.
        superseded: whether a newer lease was seen.
    """

    def __init__(self, storage: BaseStorage, search: str) -> None:
        self._storage = storage
        self._search = search
        self.number = _newest(storage, search)
        self.rested = 0.0
        self.renewed = False
        self.superseded = False
        self._stored: Any = None
        self._read()
        self._read_at = time.monotonic()

    def look(self) -> None:
        """Looks once more."""
        # Whoever was suspended itself has seen nothing meanwhile.
        passed = min(time.monotonic() - self._read_at, 2 * LOOK_SECONDS)
        before = self._stored
        self._read()
        self._read_at = time.monotonic()
        if self._stored == before:
            self.rested += passed
        else:
            self.rested = 0.0
            self.renewed = True
        self.superseded = _exists(self._storage, self._search, self.number + 1)

    @property
    def expired(self) -> bool:
        """Whether the lease was seen to rest for so long that its driver is dead."""
        return self.rested >= EXPIRE_SECONDS

    @property
    def free(self) -> bool:
        """Whether nobody holds the lease any more."""
        return self.owner is None or self.expired

    def wait(self, say: Callable[[str], None] = _quiet, do: str = END_IT) -> None:
        """Returns when no living driver holds the lease; see ``lives``.

        Args:
            say: is told that this waits, and for what.
            do: what a user whose search is driven already shall do.

        Raises:
            InputError: the lease was renewed, so its driver lives; or another process took it.
        """
        if not self.lives(say) or self.owner is None:
            return
        if self.superseded:
            raise _just_taken(self._search)
        driver = owner_text(self.owner)
        raise refused(_alone(self._search), f"one {driver}, which renews its lease", do)

    def lives(self, say: Callable[[str], None] = _quiet) -> bool:
        """Whether a living driver holds the lease, or took it meanwhile: known at once where it was
        released or its process is gone from this process table, else by watching it for up to 60
        seconds.

        Args:
            say: is told that this waits, and for what.
        """
        self.look()
        waits = False
        while self.owner is not None and not self.expired:
            if self.superseded or self.renewed:
                return True
            if not waits:
                driver = owner_text(self.owner)
                seconds = f"{EXPIRE_SECONDS:g} s"
                say(f"waiting up to {seconds} to see whether the driver {driver} still lives")
                waits = True
            time.sleep(LOOK_SECONDS)
            self.look()
        return False

    def _read(self) -> None:
        self.owner: dict[str, Any] | None = None
        if self.number:
            name = _name(self._search, self.number)
            study = self._storage.get_study_id_from_name(name)
            # It is missing while a driver takes the lease, and None once it is released.
            self._stored = self._storage.get_study_user_attrs(study).get("owner", {})
            self.owner = _known(self._stored)


def delete_leases(storage: BaseStorage, search: str) -> None:
    """Removes the leases of a search that is deleted, the newest last; for its holder, who has
    abandoned it."""
    for number in range(1, _newest(storage, search) + 1):
        with contextlib.suppress(KeyError):
            storage.delete_study(storage.get_study_id_from_name(_name(search, number)))


def ask_to_stop(
    storage: BaseStorage, search: str, status: str = "robsearch status"
) -> dict[str, Any]:
    """Asks the process that drives a search to stop, as Ctrl-C would; returns who it is, in the
    words of ``living_owner``.

    Args:
        storage: that the search is in.
        search: its name.
        status: the command that says how it stands.

    Raises:
        InputError: nobody drives it, or the storage cannot be written.
    """
    watch = LeaseWatch(storage, search)
    if watch.owner is None:
        do = f"there is nothing to stop; `{status}` says how it stands"
        raise refused(f"a process that drives {search!r}", "none", do)
    study = storage.get_study_id_from_name(_name(search, watch.number))
    with refused_if_read_only():
        storage.set_study_user_attr(study, "stop", time.time())
    return watch.owner


def living_owner(storage: BaseStorage, search: str) -> dict[str, Any] | None:
    """Who drives a search, as far as one look can tell; None if nobody does.

    Nobody does if the lease was released, or if its process is gone from this process table.
    Whether a driver elsewhere still lives is only seen by watching its lease (``LeaseWatch``): here
    it counts as the driver.

    Returns:
        ``host``, ``pid``, ``started`` and ``renewed`` (Unix seconds by its clock; None of a driver
        that is just starting), ``alive``: True if its process is there, None if this look cannot
        tell; and what else its lease says of the process.
    """
    return LeaseWatch(storage, search).owner


def owner_text(owner: Mapping[str, Any]) -> str:
    """Which driver an owner is: ``on HOST (process 12)``."""
    if owner["pid"] is None:
        return "that is just starting"
    return f"on {owner['host']} (process {owner['pid']})"


def seconds_since_renewal(owner: Mapping[str, Any]) -> float | None:
    """How long ago an owner renewed its lease, by its clock and this machine's, which may differ:
    a hint for a person, and never a reason to take over. None if it never did."""
    renewed = owner["renewed"]
    return time.time() - renewed if isinstance(renewed, int | float) else None


def _known(stored: Any) -> dict[str, Any] | None:
    """The owner that a lease names, unless its process is gone from this process table."""
    if stored is None:
        return None
    unknown = dict.fromkeys(("host", "pid", "started", "renewed"))
    alive = is_there(stored)
    return None if alive is False else {**unknown, **stored, "alive": alive}


def _alone(search: str) -> str:
    return f"no other driver of {search!r}"


def _just_taken(search: str) -> Exception:
    return refused(_alone(search), "one that started just now", "leave it to that one")


def _exists(storage: BaseStorage, search: str, number: int) -> bool:
    try:
        storage.get_study_id_from_name(_name(search, number))
    except KeyError:
        return False
    return True


def _newest(storage: BaseStorage, search: str) -> int:
    prefix = _name(search, "")
    names = (study.study_name for study in storage.get_all_studies())
    numbers = [int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)]
    return max(numbers, default=0)


def _name(search: str, number: object) -> str:
    return f"{search}@lease-{number}"
