"""From a space to a finished search: check everything first, then train, then fit and report."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from rich.console import Console

from robsearch import cluster
from robsearch.errors import InputError, refusal
from robsearch.report import write as write_report
from robsearch.search.driver import Driver
from robsearch.search.preflight import check_numbers, check_space, check_writable, new_name, setting
from robsearch.search.recording import Recorder
from robsearch.search.result import Place, Search, load_search
from robsearch.search.table import watched
from robsearch.spaces import Control, Define, Space, load_space
from robsearch.study import (
    Lease,
    SearchRecord,
    Storage,
    Study,
    living_owner,
    open_storage,
    repair_journal,
    without_password,
)
from robsearch.tracking import Tracker, check_tracking, default_uri

TRIALS_PER_WIDTH = 10
MAX_RETRIES = 2


@dataclass(frozen=True)
class Means:
    """Where and how much; nothing of science.

    Attributes:
        results: the results folder; by default ``ROBSEARCH_RESULTS``, else ``robsearch-results`` here.
        storage: an Optuna storage URL; by default a journal file in the search's folder.
        tracking: an MLflow URI; by default ``MLFLOW_TRACKING_URI``, else a sqlite file in the results folder.
        address: of a running Ray cluster (``auto``, ``HOST:PORT``); by default one on this machine.
        parallel: trainings at once; by default as many as the cluster has room for.
        gpus_per_trial: GPUs or a share of one; by default 1 where the cluster has any.
    """

    results: str | Path | None = None
    storage: str | None = None
    tracking: str | None = None
    address: str | None = None
    parallel: int | None = None
    gpus_per_trial: float | None = None

    @property
    def place(self) -> Place:
        """Where searches are kept."""
        return Place.of(self.results, self.storage)

    def uri(self, remembered: str | None = None) -> str:
        """The MLflow URI: as given, else as remembered from the launch, else from the environment."""
        found = [self.tracking, remembered, os.environ.get("MLFLOW_TRACKING_URI"), default_uri(self.place.results)]
        return next(uri for uri in found if uri)


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
    check_numbers(trials=(trials, 1), seed=(seed, 0), **_bounds(means))
    cluster.check_address(means.address)
    space = load_space(space) if isinstance(space, str) else space
    recipe = check_space(space)
    check_writable(means.place.results)
    name = new_name(name, space, means.place)
    check_tracking(means.uri())
    tracker = Tracker(means.uri(), name, means.place.results)
    trials = trials or TRIALS_PER_WIDTH * len(space.widths)
    told, facts = without_password(means.uri()), setting(recipe, seed)
    record = SearchRecord(name, space.reference, space.widths, seed, trials, told, facts)
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
    check_numbers(trials=(trials, 0), **_bounds(means))
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


def _bounds(means: Means) -> dict[str, tuple[float | None, float]]:
    return {"parallel": (means.parallel, 1), "gpus_per_trial": (means.gpus_per_trial, 0)}


def _drive(space: Space, record: SearchRecord, tracker: Tracker, means: Means, epochs: int, console: Console) -> Search:
    folder = means.place.folder(record.name)
    storage = open_storage(means.storage, folder)
    lease = Lease.acquire(storage, record.name)
    try:
        record.save(storage)
        studies = _studies(space, record, storage, epochs)
        recorder = Recorder(tracker, folder / "trials")
        driver = Driver(studies, recorder, lease, record.trials, folder / "trials", _printer(console))
        tracker.begin("search", f"search {record.name}", {"space": record.space}, _search_tags(record))
        recorder.catch_up(studies)
        _say_start(driver, record, folder, console)
        with _stops_on_signal(driver, console), cluster.connected(means.address, means.parallel):
            driver.parallel, resources = _room(means)
            with watched(driver, console):
                cluster.run(driver, resources, folder, MAX_RETRIES)
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


def _studies(space: Space, record: SearchRecord, storage: Storage, epochs: int) -> list[Study]:
    defines = [(None, space.define), *((control.__name__, _as_define(control)) for control in space.controls)]
    planned = -(-record.trials // len(space.widths))
    return [
        Study(storage, record.name, width, control, define, trials=planned, epochs=epochs, seed=record.seed)
        for control, define in defines
        for width in space.widths
    ]


def _as_define(control: Control) -> Define:
    return lambda trial, width: control(width)


def _room(means: Means) -> tuple[int, cluster.Resources]:
    cpus, gpus = cluster.total("CPU"), cluster.total("GPU")
    per_trial = means.gpus_per_trial if means.gpus_per_trial is not None else float(gpus >= 1)
    fits = int(min(cpus, gpus / per_trial) if per_trial else cpus)
    if not fits:
        got = f"a cluster of {cpus:g} CPUs and {gpus:g} GPUs"
        raise InputError(refusal(f"room for one trial (1 CPU, {per_trial:g} GPUs)", got, "lower --gpus-per-trial"))
    return min(means.parallel or fits, fits), cluster.Resources(1, per_trial)


@contextlib.contextmanager
def _stops_on_signal(driver: Driver, console: Console) -> Iterator[None]:
    """Ctrl-C, or a TERM, stops once and cleanly; a second Ctrl-C stops as Python does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        driver.stopping = True
        console.print("stopping: waiting for the workers (Ctrl-C again to leave at once)")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
