"""Driving a search that exists: trials on Ray until it has ended or is stopped, then the fit and the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from robsearch import cluster
from robsearch.disk import full_behind, no_room_for_search
from robsearch.recipe import Recipe
from robsearch.report import write as write_report
from robsearch.search.belonging import new_identity, note_driver
from robsearch.search.driver import Driver
from robsearch.search.opening import invocation
from robsearch.search.packing import packed
from robsearch.search.planning import turns_of
from robsearch.search.preflight import driver_setting, with_later
from robsearch.search.promoting import log_models
from robsearch.search.recording import Recorder
from robsearch.search.result import Search, load_search
from robsearch.search.table import watched
from robsearch.search.workplace import AUTO, Means, room, stops_on_signal
from robsearch.spaces import Space
from robsearch.study import Lease, SearchRecord, Storage
from robsearch.tracking import Tracker
from robsearch.wording import counted

MAX_RETRIES = 2


def drive(
    space: Space,
    record: SearchRecord,
    storage: Storage,
    tracker_of: Callable[[SearchRecord], Tracker],
    means: Means,
    recipe: Recipe,
    console: Console,
) -> Search:
    """Drives a search that exists until it has ended or is stopped; only this process does, by the lease."""
    folder = means.place.folder(record.name)
    with _leased(storage, record.name) as lease:
        record = replace(record, identity=record.identity or new_identity())
        facts = note_driver(folder, record)
        replace(SearchRecord.load(storage, record.name), identity=record.identity).save(storage)
        with _recording(tracker_of(record), record, means, console) as tracker:
            record = with_later(record, driver_setting(facts))
            record.save(storage)  # only now: the record in MLflow may refuse this driver
            tracker.spool_into(folder)
            turns = turns_of(space, record, storage, recipe)
            recorder = Recorder(tracker, folder / "trials", record)
            driver = Driver(turns, recorder, lease, folder / "trials", printer(console))
            recorder.begin_search(record)
            recorder.catch_up(list(turns.tallies))
            _say_start(driver, record, folder, console)
            with _told_when_full(driver, folder, invocation("resume", record, means)):
                _run(driver, space, means, folder, console)
                return _conclude(driver, means, console)


@contextlib.contextmanager
def _leased(storage: Storage, name: str) -> Iterator[Lease]:
    lease = Lease.acquire(storage, name)
    try:
        yield lease
    finally:
        lease.release()


@contextlib.contextmanager
def _recording(tracker: Tracker, record: SearchRecord, means: Means, console: Console) -> Iterator[Tracker]:
    """Inside the lease: whoever holds that owns the spool."""
    try:
        yield tracker
    finally:
        if unsent := tracker.close():
            do = f"`{invocation('sync', record, means)}` delivers what waits"
            text = f"{counted(unsent, 'record')} did not reach MLflow; {do}"
            say(console, f"note: {text}")


def say(console: Console, text: str) -> None:
    """Prints a remark such as ``note: ...``, its first word set off."""
    head, _, rest = text.partition(":")
    console.print(f"[bold yellow]{head}:[/]{escape(rest)}", soft_wrap=True)


def _run(driver: Driver, space: Space, means: Means, folder: Path, console: Console) -> None:
    with stops_on_signal(driver, console):
        shares = packed(means, space, folder, driver, console) if means.gpus_per_trial == AUTO else None
        driver.parallel, driver.resources = room(means, space, shares)
        driver.shelf.budget = means.disk_budget
        with watched(driver, console):
            cluster.run(driver, folder, MAX_RETRIES, means.hang_after, driver.say)
    driver.lease.verify()  # what follows is written in the name of the search


@contextlib.contextmanager
def _told_when_full(driver: Driver, folder: Path, go_on: str) -> Iterator[None]:
    """A full disk under the driver ends it, with one sentence: what the storage cannot keep is not to be decided."""
    try:
        yield
    except Exception as error:
        if (full := full_behind(error)) is None or driver.lost:
            raise
        tracker = driver.recorder.tracker
        driver.interrupt()
        tracker.end("search", "INTERRUPTED", time.time())
        raise no_room_for_search(folder, go_on, full) from error


def _conclude(driver: Driver, means: Means, console: Console) -> Search:
    tracker = driver.recorder.tracker
    driver.interrupt()
    search = load_search(tracker.search, means.results, means.storage)
    write_report(search, search.report, tracker.pages)
    bests = [search.best(width) for width in search.widths]
    winners = [str(best["trial"]) for best in bests if best is not None]
    tracker.mark_best(set(winners))
    if means.models and not driver.stopping:
        for trial, problem in log_models(winners, driver.turns.tallies, tracker, search.folder / "trials").items():
            console.print(f"{trial}  MLflow model: {problem}", soft_wrap=True, highlight=False, markup=False)
    driver.recorder.conclude(search)
    tracker.end("search", "INTERRUPTED" if driver.stopping else "COMPLETE", time.time())
    if driver.problem:
        console.print(f"[bold red]stopped:[/] {escape(driver.problem)}", soft_wrap=True)
    if driver.stopping:
        _say_interrupted(search, means, console)
    return replace(search, stopped=driver.stopping)


def printer(console: Console) -> Callable[[str], None]:
    """What prints a line as it is."""
    return lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False)


def _say_start(driver: Driver, record: SearchRecord, folder: Path, console: Console) -> None:
    ended = driver.turns.ended * record.trainings
    going_on = f", {ended} of them ended, {driver.left} to be continued" if ended or driver.left else ""
    console.print(
        f"search [bold]{record.name}[/]: {counted(record.trials, 'trial')}{going_on}; results in {folder}",
        soft_wrap=True,
    )


def _say_interrupted(search: Search, means: Means, console: Console) -> None:
    counts = search.trials["state"].value_counts()
    saved = f"{counted(counts.get('COMPLETE', 0), 'trial')} done, {counts.get('PRUNED', 0)} pruned, all saved"
    left = f"; to be continued: {', '.join(search.unfinished)}" if search.unfinished else ""
    console.print(f"interrupted: {saved}{left}", soft_wrap=True)
    console.print(f"go on with: [bold]{escape(invocation('resume', search.record, means))}[/]", soft_wrap=True)
