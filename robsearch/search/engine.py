"""From a space to a finished search: check everything first, then train, then fit and report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from robsearch import cluster
from robsearch.errors import InputError, refusal
from robsearch.report import write as write_report
from robsearch.search.driver import Driver
from robsearch.search.planning import studies_of
from robsearch.search.preflight import check_numbers, check_space, check_writable, new_name, setting
from robsearch.search.recording import Recorder
from robsearch.search.result import Search, load_search
from robsearch.search.table import watched
from robsearch.search.workplace import Means, room, stops_on_signal
from robsearch.spaces import Space, load_space
from robsearch.study import Lease, SearchRecord, living_owner, open_storage, repair_journal, without_password
from robsearch.tracking import Tracker, check_tracking

TRIALS_PER_WIDTH = 10
MAX_RETRIES = 2


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
        trials: the total over all widths (pruned trials count, failed ones do not); by default 10 per width.
        seed: every suggestion and every training derives from it.
        means: where and how much.
        console: where progress is shown.

    Raises:
        InputError: everything that is wrong with the space, the options or the places, before Ray starts.
    """
    means, console = means or Means(), console or Console()
    check_numbers(trials=(trials, 1), seed=(seed, 0), **means.bounds)
    cluster.check_address(means.address)
    space = load_space(space) if isinstance(space, str) else space
    recipe = check_space(space)
    check_writable(means.place.results)
    name = new_name(name, space, means.place)
    check_tracking(means.uri())
    trials = trials or TRIALS_PER_WIDTH * len(space.widths)
    told, facts = without_password(means.uri()), setting(recipe, seed)
    record = SearchRecord(name, space.reference, space.widths, seed, trials, told, facts)
    with cluster.connected(means.address, means.parallel):  # first: a cluster that refuses leaves no search behind
        tracker = Tracker(means.uri(), name, means.place.results)
        record.create(open_storage(means.storage, means.place.folder(name)))
        return _drive(space, record, tracker, means, recipe.epochs, console)


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
    """
    means, console = means or Means(), console or Console()
    check_numbers(trials=(trials, 0), **means.bounds)
    cluster.check_address(means.address)
    storage = means.place.open(name)
    record = SearchRecord.load(storage, name)
    if means.storage is None and living_owner(storage, name) is None:
        repair_journal(means.place.folder(name))
    space = space or load_space(record.space)
    if space.widths != record.widths:
        do = "undo the change to the space, or launch a new search"
        raise InputError(refusal(f"the widths {name} was started with, {record.widths}", space.widths, do))
    recipe = check_space(space)
    check_writable(means.place.folder(name))
    check_tracking(means.uri(record.tracking))
    tracker = Tracker(means.uri(record.tracking), name, means.place.results)
    return _drive(space, replace(record, trials=record.trials + trials), tracker, means, recipe.epochs, console)


def _drive(space: Space, record: SearchRecord, tracker: Tracker, means: Means, epochs: int, console: Console) -> Search:
    folder = means.place.folder(record.name)
    storage = open_storage(means.storage, folder)
    lease = Lease.acquire(storage, record.name)
    try:
        record.save(storage)
        studies = studies_of(space, record, storage, epochs)
        recorder = Recorder(tracker, folder / "trials")
        driver = Driver(studies, recorder, lease, record.trials, folder / "trials", _printer(console))
        tracker.begin("search", f"search {record.name}", {"space": record.space}, _search_tags(record))
        recorder.catch_up(studies)
        _say_start(driver, record, folder, console)
        with stops_on_signal(driver, console), cluster.connected(means.address, means.parallel):
            driver.parallel, driver.resources = room(means, space)
            driver.shelf.budget = means.disk_budget
            if cluster.node_count() > 1:
                cluster.check_shared(folder)
            with watched(driver, console):
                cluster.run(driver, folder, MAX_RETRIES, means.hang_after)
        if driver.lost:
            raise driver.lost
        return _conclude(driver, means, console)
    finally:
        lease.release()
        if unsent := tracker.close():
            text = f"{unsent} records did not reach MLflow; `robsearch resume {record.name}` sends them"
            console.print(f"[bold yellow]note:[/] {text}", soft_wrap=True)


def _conclude(driver: Driver, means: Means, console: Console) -> Search:
    tracker = driver.recorder.tracker
    driver.interrupt()
    search = load_search(tracker.search, means.results, means.storage)
    write_report(search, search.report)
    finished = search.trials[search.trials["control"].isna() & (search.trials["state"] == "COMPLETE")]
    tracker.mark_best(set(finished.loc[finished.groupby("width")["value"].idxmax(), "trial"]))
    tracker.artifact("search", search.report)
    tracker.tag("search", {"robsearch.law": search.ridge.sentence()})
    tracker.end("search", "INTERRUPTED" if driver.stopping else "COMPLETE", time.time())
    if driver.problem:
        console.print(f"[bold red]stopped:[/] {driver.problem}", soft_wrap=True)
    if driver.stopping:
        _say_interrupted(search, console)
    return search


def _search_tags(record: SearchRecord) -> dict[str, str]:
    described = "\n".join(f"- **{label}**: {text}" for label, text in record.setting.items())
    return {"robsearch.kind": "search", "mlflow.note.content": described}


def _printer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, soft_wrap=True, highlight=False)


def _say_start(driver: Driver, record: SearchRecord, folder: Path, console: Console) -> None:
    ended = sum(tally.taken - tally.states["RUNNING"] for s, tally in driver.tallies.items() if s.control is None)
    going_on = f", {ended} of them ended, {driver.left} to be continued" if ended or driver.left else ""
    console.print(
        f"search [bold]{record.name}[/]: {record.trials} trials{going_on}; results in {folder}",
        soft_wrap=True,
    )


def _say_interrupted(search: Search, console: Console) -> None:
    counts = search.trials["state"].value_counts()
    saved = f"{counts.get('COMPLETE', 0)} trials done, {counts.get('PRUNED', 0)} pruned, all saved"
    left = f"; to be continued: {', '.join(search.unfinished)}" if search.unfinished else ""
    console.print(f"interrupted: {saved}{left}", soft_wrap=True)
    console.print(f"go on with: [bold]robsearch resume {search.name}[/]", soft_wrap=True)
