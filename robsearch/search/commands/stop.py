"""Ending a search, or one of its trials, from another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from robsearch.errors import refused
from robsearch.printing import echo
from robsearch.search.commands.status import hint_of_life
from robsearch.search.options import RunOptions
from robsearch.study import (
    Lease,
    LeaseWatch,
    SearchRecord,
    Storage,
    ask_to_end,
    ask_to_stop,
    owner_text,
    prune_interrupted,
    recorded_trials,
)
from robsearch.trials.disk import is_full
from robsearch.trials.loading import best_epoch, read_history

POLL_SECONDS = 0.5


def stop(name: str, options: RunOptions, say: Callable[[str], None] = echo) -> None:
    """Asks the driver of a search to stop as Ctrl-C would, and waits until it has.

    Running trainings are interrupted and go on from their last checkpoints when the search is
    resumed. A driver on another machine may be dead: it is asked all the same, and its lease is
    watched while this waits, which ends once that has rested for 60 seconds.

    Args:
        name: of the search.
        options: where it is kept.
        say: prints one line.

    Raises:
        InputError: there is no such search, nobody drives it, or the disk is full.
    """
    storage, _ = options.store.search(name)
    started = time.monotonic()
    watch = LeaseWatch(storage, name)
    owner = _ask(storage, name, watch, options)
    say(f"asked the driver {owner_text(owner)} to stop {name}; waiting for it")
    if owner["alive"] is None:
        say(f"{hint_of_life(owner)}; this waits while it renews its lease")
    while not (watch.free or watch.superseded):
        time.sleep(POLL_SECONDS)
        watch.look()
    go_on = options.store.command("resume", name)
    seconds = time.monotonic() - started
    if watch.expired:
        rest = f"the driver {owner_text(owner)} has not renewed its lease for {watch.rested:.0f} s"
        say(f"{rest}, and holds {name} no longer; go on with: {go_on}")
    else:
        say(f"stopped after {seconds:.0f} s; go on with: {go_on}")


def _ask(storage: Storage, name: str, watch: LeaseWatch, options: RunOptions) -> dict[str, Any]:
    """The driver that was asked; where the disk is full there is no room for the request."""
    try:
        return ask_to_stop(storage, name, options.store.command("status", name))
    except OSError as error:
        if watch.owner is None or not is_full(error):
            raise
        got = f"a full disk ({error.strerror})"
        do = f"make room, or interrupt the driver {owner_text(watch.owner)} itself (kill -INT)"
        raise refused("room to write down that it is to stop", got, do) from error


def stop_trial(
    name: str, trial: str, options: RunOptions, say: Callable[[str], None] = echo
) -> None:
    """Ends one trial, which then counts as pruned; the search goes on.

    A driver that lives does it when the trial's running epoch has ended, and is waited for; without
    one it is done here.

    Args:
        name: of the search.
        trial: such as ``w4-017``.
        options: where it is kept.
        say: prints one line.

    Raises:
        InputError: there is no such search or trial, the trial has ended or was never begun, its
            suggestion consists of several trainings, which end together, or the storage cannot be
            written.
    """
    storage, record = options.store.search(name)
    if record.trainings > 1:
        do = "stop the search, or let its pruner decide"
        got = f"one with {record.trainings} each, which are judged together"
        raise refused("a search whose suggestions are one training", got, do)
    state = _state(storage, record, trial)
    if state != "RUNNING":
        got = f"{trial}, which is {state}"
        raise refused("a trial that has not ended", got, "there is nothing to stop")
    watch = LeaseWatch(storage, name)
    if watch.owner is not None:
        ask_to_end(storage, name, trial)
        driver = owner_text(watch.owner)
        say(f"asked the driver {driver} to end {trial}; it does when the running epoch has ended")
        if watch.owner["alive"] is None:
            say(f"{hint_of_life(watch.owner)}; this waits while it renews its lease")
        while state == "RUNNING" and not (watch.free or watch.superseded):
            time.sleep(POLL_SECONDS)
            watch.look()
            state = _state(storage, record, trial)
    if state == "RUNNING":
        state = _prune_here(storage, record, trial, options, say, watch)
        sync = options.command("sync", record)
        say(f"nobody drives {name}; `{sync}` or the next driver tells MLflow")
    say(f"{trial} has ended: {state}")


def _prune_here(
    storage: Storage,
    record: SearchRecord,
    trial: str,
    options: RunOptions,
    say: Callable[[str], None],
    watch: LeaseWatch,
) -> str:
    history = read_history(options.store.folder(record.name) / "trials" / trial)
    with Lease.acquire(storage, record.name, say, watch):
        best = best_epoch(history) if history else 0
        ended = prune_interrupted(storage, record.name, trial, history, best)
        state = _state(storage, record, trial)
    if state == "RUNNING" and not ended:
        got = f"{trial}, whose driver had ended before it began it"
        do = f"`{options.command('resume', record)}` begins it, and can be told to end it then"
        raise refused("a trial that has begun", got, do)
    return state


def _state(storage: Storage, record: SearchRecord, trial: str) -> str:
    states = {row["trial"]: row["state"] for row in recorded_trials(storage, record)}
    if trial not in states:
        do = f"it has {', '.join(states) or 'none yet'}"
        raise refused(f"a trial of {record.name!r}", repr(trial), do)
    return str(states[trial])
