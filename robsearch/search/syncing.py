"""Bringing a search's record in MLflow up to date with its storage and its folder, without a
driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from robsearch.errors import InputError, counted
from robsearch.printing import echo
from robsearch.report import write as write_report
from robsearch.search.options import RunOptions
from robsearch.search.preflight import check_writable
from robsearch.search.recording import Recorder
from robsearch.search.result import Search, load_search, search_of
from robsearch.search.results_store import names_here
from robsearch.study import (
    JOURNAL,
    Lease,
    LeaseWatch,
    SearchRecord,
    Storage,
    dropped_trials,
    recorded_trials,
)
from robsearch.tracking import SEARCH, Tracker, check_tracking
from robsearch.trials.paths import without_password

DRIVER_DELIVERS = "leave it to that one: it delivers what waits as soon as MLflow answers"
OLD_SPOOL = "tracking-[0-9]*.*"
"""Records that robsearch 0.1 could not deliver; all of them follow from the folders."""


def sync(name: str, options: RunOptions, say: Callable[[str], None] = echo) -> int:
    """Makes a server's record what the search's storage and folder say, run by run and point by
    point; an empty server gets all of it.

    Runs that nobody drives any more are marked as interrupted. Holds the search's lease meanwhile,
    so that no driver starts.

    Args:
        name: of the search.
        options: where it is kept; its tracking URI, if given, stands in for that of the launch.
        say: prints one line.

    Returns:
        How many runs could not be brought up to date.

    Raises:
        InputError: there is no such search, MLflow does not answer, the search's folder or storage
            cannot be written, or a driver is at work, which delivers itself.
    """
    storage, record = options.store.search(name)
    folder = options.store.folder(name)
    check_writable(folder)
    uri = options.uri_of(record)
    last_sign = _last_sign(folder)
    watch = LeaseWatch(storage, name)
    watch.wait(say, DRIVER_DELIVERS)
    check_tracking(uri)
    with Lease.acquire(storage, name, say, watch, DRIVER_DELIVERS):
        drop_spool(folder)
        tracker = Tracker(uri, name, options.store.results, record.identity, thorough=True)
        with stopped_by_errors(tracker):
            recorder = Recorder(tracker, folder / "trials", record)
            interrupted = recorder.settle(recorded_trials(storage, record), last_sign)
            if not settle_dropped(recorder, storage, record, options):
                bests = load_search(name, options.results, options.storage).bests
                recorder.mark_best({str(best["trial"]) for best in bests})
            interrupted |= _settle_search(recorder, record, options, last_sign)
            tracker.drain()
        behind = tracker.close(patience=1)
    text = f"{name}: {counted(len(tracker.done), 'run')} up to date in {without_password(uri)}"
    if interrupted:
        text += f"; runs marked as interrupted: {len(interrupted)}"
    if behind:
        text += f"; {behind} still wait: {tracker.trouble}"
    say(text)
    return behind


def sync_all(options: RunOptions, say: Callable[[str], None] = echo) -> int:
    """``sync`` for every search that has a folder in a store; what one of them refuses is said, and
    the others go on.

    Returns:
        How many searches are not delivered.
    """
    troubled = 0
    for name in names_here(options.store):
        try:
            troubled += bool(sync(name, options, say))
        except InputError as error:
            say(f"{name}: {'; '.join(error.problems)}")
            troubled += 1
    return troubled


def bring_up_to_date(
    record: SearchRecord,
    storage: Storage,
    uri: str,
    options: RunOptions,
    trials: Collection[str],
    search: Search | None = None,
) -> int:
    """Delivers what is new of trials that have ended, also while a driver is at work on others.

    Args:
        record: of the search.
        storage: of the search.
        uri: of the tracking store.
        options: where the search lies.
        trials: their names.
        search: whose answer is another one now, if it is.

    Returns:
        How many runs could not be brought up to date.
    """
    folder = options.store.folder(record.name)
    tracker = Tracker(uri, record.name, options.store.results, record.identity)
    with stopped_by_errors(tracker):
        recorder = Recorder(tracker, folder / "trials", record)
        rows = recorded_trials(storage, record)
        recorder.settle(row for row in rows if row["trial"] in trials)
        if search is not None:
            begin_old_search(recorder, record, options)
            recorder.answer(search)
        tracker.nudge(*trials)
    return tracker.close()


@contextmanager
def stopped_by_errors(tracker: Tracker) -> Iterator[None]:
    """After an error nothing more is sent: whoever comes next may write the same record."""
    try:
        yield
    except BaseException:
        tracker.close(patience=0)
        raise


def settle_dropped(
    recorder: Recorder, storage: Storage, record: SearchRecord, options: RunOptions
) -> bool:
    """Tells MLflow which trials a person has dropped or put back, where it has not heard of it, and
    what is best without them; the report, if there is one, is written anew.

    For the holder of the search's lease: a driver that was just ending may not have heard of it.

    Returns:
        Whether there was anything to tell.
    """
    if not recorder.tag_dropped(dropped_trials(storage, record.name)):
        return False
    answer_again(recorder, search_of(options.store, storage, record))
    return True


def answer_again(recorder: Recorder, search: Search) -> None:
    """Tells MLflow what is best now; the report, if there is one, is written anew."""
    if search.report.exists():
        write_report(search, search.report, recorder.tracker.pages)
        recorder.conclude(search)
    else:
        recorder.mark_best({str(best["trial"]) for best in search.bests})


def begin_old_search(recorder: Recorder, record: SearchRecord, options: RunOptions) -> None:
    """Makes the ``run.json`` of a search of which an earlier version left none."""
    if recorder.facts(SEARCH) is None:
        _settle_search(recorder, record, options, _last_sign(options.store.folder(record.name)))


def drop_spool(folder: Path) -> None:
    """Removes what robsearch 0.1 left for MLflow in a search's folder."""
    for file in folder.glob(OLD_SPOOL):
        file.unlink(missing_ok=True)


def _settle_search(
    recorder: Recorder, record: SearchRecord, options: RunOptions, last_sign: float
) -> set[str]:
    """Brings ``run.json`` of the search in line; returns the search's own run if it is interrupted
    only now."""
    facts = recorder.facts(SEARCH)
    if facts is None:  # an earlier version left none
        search = load_search(record.name, options.results, options.storage)
        times = search.epochs["time"]
        recorder.begin_search(record, last_sign if times.empty else float(times.min()))
        if search.report.exists():
            recorder.conclude(search)
            complete = search.ended >= record.trials and not search.unfinished
            state = "COMPLETE" if complete else "INTERRUPTED"
            recorder.stopped(SEARCH, state, search.report.stat().st_mtime)
            return set()
    elif facts.state != "RUNNING":
        recorder.changed(SEARCH)
        return set()
    recorder.stopped(SEARCH, "INTERRUPTED", last_sign)
    return {SEARCH}


def _last_sign(folder: Path) -> float:
    """When the driver that is gone last wrote (Unix seconds): it renewed its lease every few
    seconds."""
    journal = folder / JOURNAL
    return journal.stat().st_mtime if journal.exists() else time.time()
