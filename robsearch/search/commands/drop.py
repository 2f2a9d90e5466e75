"""Taking a trial out of a search's results, and putting it back."""

from __future__ import annotations

from collections.abc import Callable

from robsearch.errors import refused
from robsearch.printing import echo
from robsearch.search.options import RunOptions
from robsearch.search.recording import Recorder
from robsearch.search.result import load_search
from robsearch.search.syncing import answer_again
from robsearch.study import (
    Lease,
    LeaseWatch,
    SearchRecord,
    Storage,
    drop_trial,
    dropped_trials,
    recorded_trials,
)
from robsearch.tracking import Tracker

ENDED = ("COMPLETE", "PRUNED")


def drop(
    name: str,
    trial: str,
    why: str | None,
    options: RunOptions,
    say: Callable[[str], None] = echo,
) -> None:
    """Takes a trial out of best, law and report, or puts it back; its files and what the samplers
    know of it stay.

    A driver that lives tells MLflow; without one it is told here, and the report is written anew.

    Args:
        name: of the search.
        trial: such as ``w4-017``.
        why: the reason; None puts it back.
        options: where it is kept.
        say: prints one line.

    Raises:
        InputError: there is no such search or trial, the trial has not ended, or has failed, or it
            is not dropped and should be put back.
    """
    storage, record = options.store.search(name)
    _check(storage, record, trial, why)
    watch = LeaseWatch(storage, name)
    if watch.lives(say):
        drop_trial(storage, name, trial, why or "")
        sync = options.command("sync", record)
        who = f"the driver tells MLflow within seconds, or `{sync}` if it is just ending"
        say(f"{trial} is {_word(why)}; {who}")
        return
    with Lease.acquire(storage, name, say, watch):
        drop_trial(storage, name, trial, why or "")
        behind = _tell(storage, record, options)
    say(f"{trial} is {_word(why)}")
    if behind:
        say(f"MLflow does not answer; `{options.command('sync', record)}` tells it")


def _word(why: str | None) -> str:
    return "counted again" if why is None else f"dropped: {why}"


def _check(storage: Storage, record: SearchRecord, trial: str, why: str | None) -> None:
    states = {row["trial"]: row["state"] for row in recorded_trials(storage, record)}
    if trial not in states:
        do = f"it has {', '.join(states) or 'none yet'}"
        raise refused(f"a trial of {record.name!r}", repr(trial), do)
    if states[trial] not in ENDED:
        got = f"{trial}, which is {states[trial]}"
        raise refused("a trial that has ended with a value", got, "there is nothing to drop")
    if why is None and trial not in dropped_trials(storage, record.name):
        raise refused("a trial that is dropped", trial, "there is nothing to undo")
    if why is not None and not why.strip():
        raise refused("the reason", "none", 'pass --why "..."')


def _tell(storage: Storage, record: SearchRecord, options: RunOptions) -> int:
    """Writes the report and the record in MLflow anew; returns how many runs are behind."""
    search = load_search(record.name, options.results, options.storage)
    results = options.store.results
    uri = options.uri_of(record)
    tracker = Tracker(uri, record.name, results, record.identity, patient=True)
    try:
        recorder = Recorder(tracker, search.folder / "trials", record)
        recorder.tag_dropped(dropped_trials(storage, record.name))
        answer_again(recorder, search)
    finally:
        behind = tracker.close(patience=10.0)
    return behind
