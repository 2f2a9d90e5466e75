"""The beginning of a search, in an order in which the process may die at any moment.

First comes the lease, which only a living process holds; then the search's name in the storage, and
``search.json`` with its identity; then the experiment in MLflow, which is known by that identity,
and what the samplers learn from; last the record. Once that is saved there is a search, with which
``resume`` goes on. What a launch leaves that ends before is half made: the next launch of that name
takes it over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from robsearch.errors import InputError
from robsearch.search.results_store import (
    ResultsStore,
    claim_folder,
    is_half_made,
    is_search,
    take_folder_over,
)
from robsearch.study import (
    JOURNAL,
    Lease,
    LeaseWatch,
    SearchRecord,
    Storage,
    discard_half_made,
    open_storage,
    repair_journal,
)
from robsearch.tracking import Tracker
from robsearch.trials.provenance import SEARCH


@dataclass(frozen=True)
class NewSearch:
    """A search that has begun, and is this process's.

    Attributes:
        record: of the search, as it is saved.
        storage: that it is in.
        lease: that is held.
        tracker: its record in MLflow.
        taken_over: whether an earlier launch had left it half made.
    """

    record: SearchRecord
    storage: Storage
    lease: Lease
    tracker: Tracker
    taken_over: bool


@contextlib.contextmanager
def begun(
    record: SearchRecord,
    store: ResultsStore,
    tracker_of: Callable[[SearchRecord], Tracker],
    learn: Callable[[Storage], None],
    say: Callable[[str], None],
) -> Iterator[NewSearch]:
    """Begins a search, or one that a launch left half made, and holds its lease meanwhile.

    Where a name is taken, or MLflow refuses the experiment, nothing is kept: a folder without a
    search would keep its name taken.

    Args:
        record: of the search; one that is taken over keeps the identity that it has.
        store: where the search will be.
        tracker_of: makes the experiment in MLflow.
        learn: gives the samplers what they learn from.
        say: is told if this waits to see whether another launch of that name lives.

    Raises:
        InputError: there is such a search, another process is just beginning it, the folder holds
            another one, or MLflow refuses it.
    """
    name = record.name
    folder = store.folder(name)
    was_there = is_search(folder)
    watch = None
    if was_there and store.storage is None:
        watch = LeaseWatch(open_storage(None, folder), name)
        watch.wait(say)
        repair_journal(folder)  # the launch may have left its lock, or a line cut short
    storage = open_storage(store.storage, folder)
    with Lease.acquire(storage, name, say, watch) as lease:
        with contextlib.ExitStack() as undo:
            discard_half_made(storage, name, is_own=store.storage is None)
            record.claim(storage)
            if was_there or store.storage is not None:
                undo.callback(discard_half_made, storage, name, is_own=True)
            else:
                undo.callback((folder / JOURNAL).unlink)
            record, taken_over = _claim_folder(record, store)
            if not taken_over:
                undo.callback((folder / SEARCH).unlink)
            tracker = tracker_of(record)
            # MLflow knows the identity now, so what fails later leaves the search half made.
            undo.pop_all()
        learn(storage)
        record.save(storage)
        yield NewSearch(record, storage, lease, tracker, taken_over)


def _claim_folder(record: SearchRecord, store: ResultsStore) -> tuple[SearchRecord, bool]:
    """The record, and whether its folder was taken over."""
    try:
        claim_folder(store.folder(record.name), record, store.storage)
    except InputError:
        # Under the lease: the process that left it half made is gone.
        if not is_half_made(store, record.name):
            raise
        return take_folder_over(store, record), True
    return record, False
