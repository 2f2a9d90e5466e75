"""From a space to a finished search: check everything first, then train, then fit and report."""

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
from robsearch.errors import InputError, refusal
from robsearch.recipe import Recipe
from robsearch.report import write as write_report
from robsearch.search import learning
from robsearch.search.driver import Driver
from robsearch.search.opening import invocation
from robsearch.search.packing import packed
from robsearch.search.planning import turns_of
from robsearch.search.preflight import check_numbers, check_space, check_writable, manner, new_name, setting
from robsearch.search.promoting import log_models
from robsearch.search.recording import Recorder
from robsearch.search.result import Search, load_search
from robsearch.search.table import watched
from robsearch.search.workplace import AUTO, Means, in_place, joined, room, stops_on_signal
from robsearch.spaces import Space, distributions, grid_size, load_space
from robsearch.study import (
    Lease,
    SearchRecord,
    living_owner,
    open_storage,
    repair_journal,
    without_password,
)
from robsearch.tracking import Tracker, check_tracking, served

TRIALS_PER_WIDTH = 10
MAX_RETRIES = 2


@in_place
def launch(
    space: Space | str,
    *,
    name: str | None = None,
    trials: int | None = None,
    seed: int = 0,
    means: Means | None = None,
    console: Console | None = None,
) -> Search:
    """Runs a search from beginning to end and writes its report.

    Args:
        space: a ``Space``, or its reference ``module:name``.
        name: of the search; by default the space's name and the next free number.
        trials: the total over all widths (pruned trials count, failed ones do not), a multiple of what a suggestion
            consists of; by default 10 suggestions per width, or all of a grid.
        seed: every suggestion and every training derives from it.
        means: where and how much.
        console: where progress is shown.

    Raises:
        InputError: everything that is wrong with the space, the options or the places, before Ray starts.
        DiskFullError: the driver found no room to write; ``resume`` goes on once there is some.
    """
    means, console = means or Means(), console or Console()
    check_numbers(trials=(trials, 1), seed=(seed, 0), **means.bounds)
    cluster.check_address(means.address)
    space = load_space(space) if isinstance(space, str) else space
    draws = check_space(space)
    check_writable(means.place.results)
    name, found = new_name(name, space, means.place), learning.found(space, means.place)
    check_tracking(means.uri())
    facts = {**manner(space, found), **setting(draws[0].recipe, seed)}
    record = _record(space, name, trials, seed, facts, without_password(means.uri()))
    with joined(means, space, means.place.results, console):  # first: a cluster that refuses leaves no search behind
        tracker = Tracker(means.uri(), name, means.place.results)
        storage = open_storage(means.place.storage, means.place.folder(name))
        record.create(storage)
        learning.teach(storage, name, space, found, distributions(draws), _printer(console))
        return _drive(space, record, tracker, means, draws[0].recipe, console)


@in_place
def resume(
    name: str,
    *,
    trials: int = 0,
    space: Space | None = None,
    means: Means | None = None,
    console: Console | None = None,
) -> Search:
    """Goes on with a search: finishes what was interrupted, and adds trials if asked.

    Args:
        name: of the search.
        trials: how many to add to those that were asked for before.
        space: the space, if it cannot be imported under its reference (it was defined in a script).
        means: where and how much; the tracking URI of the launch is remembered.
        console: where progress is shown.

    Raises:
        InputError: no such search, another driver is at it, or the space now defines other recipes.
        DiskFullError: as for ``launch``.
    """
    means, console = means or Means(), console or Console()
    check_numbers(trials=(trials, 0), **means.bounds)
    cluster.check_address(means.address)
    storage = means.place.open(name)
    record = SearchRecord.load(storage, name)
    if means.place.storage is None and living_owner(storage, name) is None:
        repair_journal(means.place.folder(name))
    space = space or load_space(record.space)
    if space.widths != record.widths:
        do = "undo the change to the space, or launch a new search"
        raise InputError(refusal(f"the widths {name} was started with, {record.widths}", space.widths, do))
    recipe = check_space(space)[0].recipe
    check_writable(means.place.folder(name))
    uri = means.uri(record.tracking)
    if not served(uri):
        check_tracking(uri)
    with joined(means, space, means.place.folder(name), console):
        tracker = _patient(uri, name, means, console)
        return _drive(space, replace(record, trials=record.trials + trials), tracker, means, recipe, console)


def _patient(uri: str, name: str, means: Means, console: Console) -> Tracker:
    """The search's record, also during an outage; that there is one is said."""
    tracker = Tracker(uri, name, means.place.results, patient=True)
    if tracker.trouble:
        text = f"{tracker.trouble}; training goes on, and records wait until MLflow answers"
        console.print(f"[bold yellow]note:[/] {escape(text)}", soft_wrap=True)
    return tracker


def _record(space: Space, name: str, trials: int | None, seed: int, facts: dict[str, str], told: str) -> SearchRecord:
    points = grid_size(space.sampler) or TRIALS_PER_WIDTH
    most = points * space.trainings * (1 if space.per_trial == "all" else len(space.widths))
    asked = min(trials or most, most) if grid_size(space.sampler) else trials or most
    record = SearchRecord(name, space.reference, space.widths, seed, asked, told, facts)
    return replace(record, maximise=space.maximise, per_trial=space.per_trial, trainings=space.trainings)


def _drive(
    space: Space, record: SearchRecord, tracker: Tracker, means: Means, recipe: Recipe, console: Console
) -> Search:
    folder = means.place.folder(record.name)
    storage = open_storage(means.place.storage, folder)
    lease = Lease.acquire(storage, record.name)
    try:
        record.save(storage)
        tracker.spool_into(folder)
        turns = turns_of(space, record, storage, recipe)
        recorder = Recorder(tracker, folder / "trials", record)
        driver = Driver(turns, recorder, lease, folder / "trials", _printer(console))
        recorder.begin_search(record)
        recorder.catch_up(list(turns.tallies))
        _say_start(driver, record, folder, console)
        with _told_when_full(driver, folder):
            _run(driver, space, means, folder, console)
            return _conclude(driver, means, console)
    finally:
        try:  # the lease last: whoever holds it owns the spool
            if unsent := tracker.close():
                text = f"{unsent} records did not reach MLflow; `{invocation('sync', record, means)}` sends them"
                console.print(f"[bold yellow]note:[/] {escape(text)}", soft_wrap=True)
        finally:
            lease.release()


def _run(driver: Driver, space: Space, means: Means, folder: Path, console: Console) -> None:
    with stops_on_signal(driver, console):
        shares = packed(means, space, folder, driver, console) if means.gpus_per_trial == AUTO else None
        driver.parallel, driver.resources = room(means, space, shares)
        driver.shelf.budget = means.disk_budget
        with watched(driver, console):
            cluster.run(driver, folder, MAX_RETRIES, means.hang_after, driver.say)
    driver.lease.verify()  # what follows is written in the name of the search


@contextlib.contextmanager
def _told_when_full(driver: Driver, folder: Path) -> Iterator[None]:
    """A full disk under the driver ends it, with one sentence: what the storage cannot keep is not to be decided."""
    try:
        yield
    except Exception as error:
        if (full := full_behind(error)) is None or driver.lost:
            raise
        tracker = driver.recorder.tracker
        driver.interrupt()
        tracker.end("search", "INTERRUPTED", time.time())
        raise no_room_for_search(folder, tracker.search, full) from error


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


def _printer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False)


def _say_start(driver: Driver, record: SearchRecord, folder: Path, console: Console) -> None:
    ended = driver.turns.ended * record.trainings
    going_on = f", {ended} of them ended, {driver.left} to be continued" if ended or driver.left else ""
    console.print(
        f"search [bold]{record.name}[/]: {record.trials} trials{going_on}; results in {folder}",
        soft_wrap=True,
    )


def _say_interrupted(search: Search, means: Means, console: Console) -> None:
    counts = search.trials["state"].value_counts()
    saved = f"{counts.get('COMPLETE', 0)} trials done, {counts.get('PRUNED', 0)} pruned, all saved"
    left = f"; to be continued: {', '.join(search.unfinished)}" if search.unfinished else ""
    console.print(f"interrupted: {saved}{left}", soft_wrap=True)
    console.print(f"go on with: [bold]{escape(invocation('resume', search.record, means))}[/]", soft_wrap=True)
