"""Deleting a search: its folder, what the storage has of it, and its runs in MLflow."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from robsearch.errors import counted, refused
from robsearch.printing import echo
from robsearch.search.options import RunOptions
from robsearch.search.results_store import (
    ResultsStore,
    check_folder,
    is_half_made,
    take_folder_over,
)
from robsearch.search.resuming import check_only_copy
from robsearch.study import (
    JOURNAL,
    Lease,
    SearchRecord,
    Storage,
    delete_leases,
    delete_search,
    living_owner,
    noted_folder,
    open_storage,
    owner_text,
    recorded_trials,
)
from robsearch.tracking import check_tracking, delete_experiment, runs_of_search
from robsearch.training.memory import GIB
from robsearch.trials.disk import size_of
from robsearch.trials.paths import without_password
from robsearch.trials.provenance import SEARCH, read_search


@dataclass(frozen=True)
class Deletion:
    """What goes with a search.

    Attributes:
        name: of the search.
        options: where it is kept.
        record: of the search; None where a launch left it half made.
        uri: of its record in MLflow.
        trials: in the storage.
        runs: in MLflow.
        size: of its folder, in bytes.
    """

    name: str
    options: RunOptions
    record: SearchRecord | None
    uri: str
    trials: int
    runs: int
    size: int

    @property
    def folder(self) -> Path:
        """Of the search."""
        return self.options.store.folder(self.name)

    def lines(self) -> Iterator[str]:
        """What goes, for a person who has to agree."""
        storage = self.options.store.storage
        place = "its journal" if storage is None else without_password(storage)
        size = f"{self.size / GIB:.2f} GiB" if self.folder.exists() else "it is gone already"
        yield f"folder: {self.folder} ({size})"
        yield f"storage: {counted(self.trials, 'trial')} in {place}"
        yield f"MLflow: {counted(self.runs, 'run')} in {without_password(self.uri)}"

    def carry_out(self, say: Callable[[str], None] = echo) -> None:
        """Deletes it all. What is left where this is ended half-way is deleted by another call.

        The folder and the storage forget the search for good. MLflow marks the experiment as
        deleted, under another name, so that this one is free; ``mlflow gc`` removes it.

        Args:
            say: is told if this waits to see whether a driver elsewhere lives.

        Raises:
            InputError: a driver lives, or has started meanwhile.
        """
        store = self.options.store
        storage = open_storage(store.storage, self.folder)
        # Whoever comes meanwhile meets a lease that is held, and after it no search.
        with Lease.acquire(storage, self.name, say) as lease:
            identity = read_search(self.folder).get("identity", "")
            if self.record is not None:
                identity = self.record.identity
            # A half-made search without an identity has not come as far as MLflow.
            if self.record is not None or identity:
                delete_experiment(self.uri, self.name, identity)
            if self.folder.exists():
                self._empty_folder(store)
            # It is half made from here on, so that another call finds it by its folder.
            delete_search(storage, self.name)
            if store.storage is None:
                self._remove_journal(lease)
            else:
                if self.folder.exists():
                    shutil.rmtree(self.folder)
                lease.abandon()
                delete_leases(storage, self.name)

    def _remove_journal(self, lease: Lease) -> None:
        """The journal has the lease, so it goes last; a launch may begin as soon as it is gone."""
        (self.folder / SEARCH).unlink(missing_ok=True)
        lease.abandon()
        for copy in self.folder.glob(f"{JOURNAL}.*"):
            copy.unlink(missing_ok=True)
        (self.folder / JOURNAL).unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _empty_folder(self, store: ResultsStore) -> None:
        for entry in self.folder.iterdir():
            if entry.name in (SEARCH, JOURNAL) or entry.name.startswith(f"{JOURNAL}."):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if self.record is not None:
            # Without a record in the storage it would be a folder that nobody may touch.
            take_folder_over(store, self.record)


def deletion(name: str, options: RunOptions) -> Deletion:
    """What would go with a search; nothing is deleted yet.

    Of one in a database whose folder is lost, there is the rest to delete.

    Args:
        name: of the search.
        options: where it is kept; its tracking URI, if given, stands in for that of the launch.

    Raises:
        InputError: there is no such search, it is a copy of one that is still there and shares its
            record with that, a driver lives, its folder is a link, or MLflow does not answer.
    """
    store = options.store
    folder = store.folder(name)
    if folder.is_symlink():
        do = "delete the search in the folder that the link leads to, and then the link"
        raise refused(f"the search's own folder {folder}", f"a link to {folder.resolve()}", do)
    if is_half_made(store, name):
        storage: Storage = open_storage(store.storage, folder)
        record = None
        uri = options.uri()
        trials = 0
        identity = read_search(folder).get("identity", "")
    else:
        storage = store.open(name)
        record = SearchRecord.load(storage, name)
        if folder.exists():
            check_folder(folder, record)
        else:
            _check_lost(storage, name, folder)
        uri = options.uri_of(record)
        trials = sum(1 for _ in recorded_trials(storage, record))
        identity = record.identity
        # Whoever removes a copy does not mean what it has in common with its original.
        copy = f"nothing but its folder is the copy's: remove it with `{_remove(folder)}`"
        check_only_copy(folder, record, store.storage, copy)
    owner = living_owner(storage, name)
    # Of a driver elsewhere one look cannot tell; its lease is watched before anything goes.
    if owner is not None and owner["alive"]:
        do = f"end it first: `{store.command('stop', name)}`"
        raise refused(f"no driver of {name!r}", f"the one {owner_text(owner)}", do)
    check_tracking(uri)
    runs = runs_of_search(uri, name, identity) if record is not None or identity else 0
    options = replace(options, results=store.results)
    return Deletion(name, options, record, uri, trials, runs, size_of(folder))


def _check_lost(storage: Storage, name: str, folder: Path) -> None:
    """Sees that the results were here, and do not lie in another folder."""
    noted = noted_folder(storage, name)
    if noted is not None and noted != folder.resolve():
        got = f"no such folder: its last driver had them in {noted}"
        do = f"pass {shlex.join(['--results', str(noted.parent)])}, also if they are lost"
        raise refused(f"the results of {name!r} in {folder}", got, do)


def _remove(folder: Path) -> str:
    return shlex.join(["rm", "-r", str(folder)])
