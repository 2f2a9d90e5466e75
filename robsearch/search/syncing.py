"""Delivering to MLflow what an outage, or a driver that was killed, left in a search's folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from robsearch.errors import InputError, refusal
from robsearch.search.place import search_names
from robsearch.search.workplace import Means
from robsearch.study import JOURNAL, Lease, SearchRecord, living_owner, without_password
from robsearch.tracking import Tracker, check_tracking, undelivered
from robsearch.wording import counted


def sync(name: str, means: Means, say: Callable[[str], None] = print) -> int:
    """Delivers what waits for MLflow, and marks runs as interrupted that nobody drives any more.

    Holds the search's lease meanwhile, so that no driver starts. What a driver had not written down when it was
    killed (the last moment before its end) only ``resume`` knows.

    Args:
        name: of the search.
        means: where it is kept; its tracking URI, if given, stands in for that of the launch.
        say: prints one line.

    Returns:
        How many records could not be delivered.

    Raises:
        InputError: there is no such search, MLflow does not answer, or a driver is at work, which delivers itself.
    """
    storage, record = means.place.search(name)
    folder = means.place.folder(name)
    if owner := living_owner(storage, name):
        got = f"the one on {owner['host']}, process {owner['pid']}"
        do = "leave it to that one: it delivers what waits as soon as MLflow answers"
        raise InputError(refusal(f"no driver of {name!r} at work", got, do))
    uri = means.uri_of(record)
    check_tracking(uri)
    ended, lease = _last_sign(folder), Lease.acquire(storage, name)
    try:
        waiting, left, trouble = _deliver(uri, record, means)
        marked = 0 if left else _interrupt(Tracker(uri, name, means.place.results, record.identity), ended)
    finally:
        lease.release()
    still = f", {left} still wait: {trouble}" if left else f"; runs marked as interrupted: {marked}" if marked else ""
    say(f"{name}: {counted(waiting - left, 'record')} delivered to {without_password(uri)}{still}")
    return left


def _deliver(uri: str, record: SearchRecord, means: Means) -> tuple[int, int, str | None]:
    folder = means.place.folder(record.name)
    waiting = undelivered(folder)
    tracker = Tracker(uri, record.name, means.place.results, record.identity)
    tracker.spool_into(folder)
    tracker.drain()
    trouble = tracker.trouble
    return waiting, tracker.close(patience=1), trouble


def sync_all(means: Means, say: Callable[[str], None] = print) -> int:
    """``sync`` for every search of a place; what one of them refuses is said, and the others go on.

    Returns:
        How many searches are not delivered.
    """
    troubled = 0
    for name in search_names(means.place):
        try:
            troubled += bool(sync(name, means, say))
        except InputError as error:
            say(f"{name}: {'; '.join(error.problems)}")
            troubled += 1
    return troubled


def _interrupt(tracker: Tracker, when: float) -> int:
    running = [trial for trial, status in tracker.statuses().items() if status.endswith("RUNNING")]
    for trial in running:
        tracker.end(trial, "INTERRUPTED", when)
    tracker.close()
    return len(running)


def _last_sign(folder: Path) -> float:
    """When the driver that is gone last wrote (Unix seconds): it renewed its lease every few seconds."""
    journal = folder / JOURNAL
    return journal.stat().st_mtime if journal.exists() else time.time()
