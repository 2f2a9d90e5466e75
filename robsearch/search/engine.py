"""From a space to a finished search: check everything first, then train, then fit and report."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from robsearch import cluster
from robsearch.errors import (
    DiskFullError,
    InputError,
    StorageAwayError,
    TakenNameError,
    causes,
    counted,
    refuse,
    refused,
)
from robsearch.identity import DERIVATION
from robsearch.printing import printable
from robsearch.recipe import Recipe
from robsearch.report import write as write_report
from robsearch.search.background import repeated
from robsearch.search.beginning import begun
from robsearch.search.budgets import (
    DriverClock,
    UsedUpBudget,
    driven_seconds,
    trial_seconds,
    used_up,
    within_budgets,
)
from robsearch.search.capacity import (
    capacity,
    check_capacity,
    distinct_recipes,
    jobs_at_once,
    joined,
    measure_gpu_shares,
    stops_on_signal,
)
from robsearch.search.deciding import Decisions
from robsearch.search.driver import Driver
from robsearch.search.free_space import LOOK_SECONDS
from robsearch.search.grid import PlainTextConsole, printer
from robsearch.search.imported_trials import import_trials, judgement_of_space, trials_to_import
from robsearch.search.models import log_models
from robsearch.search.options import AUTO, RunOptions, in_store, takes_options, waits_for_storage
from robsearch.search.preflight import check_writable, new_name
from robsearch.search.progress import watched
from robsearch.search.recording import Recorder, is_concluded
from robsearch.search.requests import hearing_requests
from robsearch.search.result import Search, glance_at, load_search, search_of
from robsearch.search.results_store import new_identity, note_driver, search_names
from robsearch.search.resuming import check_only_copy, check_unchanged, load_recorded
from robsearch.search.scheduling import is_work_left, scheduler_of
from robsearch.search.settings import (
    changed_settings,
    constraints,
    driver_settings,
    recipe_settings,
    rungs,
    space_settings,
    with_later,
)
from robsearch.search.syncing import drop_spool, settle_dropped
from robsearch.search.upgrading import version_changes
from robsearch.spaces import (
    UNNAMED,
    Draw,
    Space,
    check,
    derived_by,
    distributions,
    grid_size,
    load_space,
    more_draws,
)
from robsearch.spaces.references import refuse_while_importing
from robsearch.spaces.resources import Resources
from robsearch.study import (
    Lease,
    LeaseWatch,
    PatientStorage,
    SearchRecord,
    Storage,
    dropped_trials,
    note_folder,
    recorded_trials,
    repair_journal,
)
from robsearch.tracking import SEARCH, Tracker, check_tracking, served
from robsearch.training.precision import precision_problems
from robsearch.trials.disk import full_behind, is_full, no_room_for_search
from robsearch.trials.paths import is_name

TRIALS_PER_WIDTH = 10
MAX_RETRIES = 2
END_SECONDS = 10.0
"""For which the end of a driver waits for a storage that is away, or for room under it."""


@takes_options
@in_store
@waits_for_storage
def launch(
    space: Space | str,
    *,
    name: str | None = None,
    trials: int | None = None,
    seed: int = 0,
    options: RunOptions | None = None,
    console: Console | None = None,
    resumed_by: str | None = None,
    or_resume: bool = False,
    **where: Any,
) -> Search:
    """Runs a search from beginning to end and writes its report.

    ``launch(space, trials=24, parallel=2)``, or with ``options=RunOptions(parallel=2)``.

    Args:
        space: a ``Space``, or its reference ``module:name``.
        name: of the search; by default the space's name and the next free number.
        trials: the total over all widths (pruned trials count, failed ones do not), in whole
            suggestions; by default 10 suggestions per width, or all of a grid.
        seed: every suggestion and every training derives from it.
        options: where and how much.
        console: where progress is shown.
        resumed_by: how to go on with it where that is not by ``resume``, as words in ``<...>``.
        or_resume: whether a search of that name is gone on with, so that the same call does what is
            left to do however often it is made; nothing, if there is nothing. ``trials`` stays the
            total: more than before adds the difference, fewer changes nothing.
        where: fields of ``RunOptions`` by their names, such as ``parallel=2`` or
            ``results="here"``, in place of what ``options`` says of them.

    Raises:
        InputError: everything that is wrong with the space, the options or the places, before Ray
            starts; with ``or_resume`` also what ``resume`` refuses, or another seed.
        DiskFullError: the driver found no room to write; ``resume`` goes on once there is some.
        StorageAwayError: the database was away for longer than ``options.storage_patience``;
            ``resume`` goes on once it is back.
    """
    options, console = _checked("launch", options, console, trials=(trials, 1), seed=(seed, 0))
    reference = space if isinstance(space, str) else space.reference or resumed_by
    space = load_space(space) if isinstance(space, str) else space
    go_on = partial(_go_on_or_leave, str(name), space, trials, seed, options, console)
    if or_resume and _exists(name, options):
        return go_on()
    try:
        return _begin(space, reference, name, trials, seed, options, console, or_resume)
    except TakenNameError:
        # Another launch of it may have begun it meanwhile.
        if not or_resume:
            raise
    return go_on()


def _begin(
    space: Space,
    reference: str | None,
    name: str | None,
    trials: int | None,
    seed: int,
    options: RunOptions,
    console: Console,
    or_resume: bool,
) -> Search:
    """Begins a new search and drives it to its end."""
    draws = check(space, say=partial(_print_note, console), needs_data=True)
    check_writable(options.store.results)
    check_tracking(options.uri())
    name = new_name(name, space, options.store, options.uri())
    imported = trials_to_import(space, options.store, draws, name, printer(console))
    trials = _asked(space, trials)
    recipes = recipe_settings([*draws, *more_draws(space, draws[0].width)], seed)
    record = SearchRecord(
        name=name,
        space=reference or unnamed(space),
        widths=space.widths,
        seed=seed,
        trials=trials,
        tracking=options.to_remember,
        setting={**space_settings(space, imported), **recipes},
        maximise=space.maximise,
        per_trial=space.per_trial,
        trainings=space.trainings,
        identity=new_identity(),
        controls=tuple(control.__name__ for control in space.controls),
        subject_to=constraints(space),
        fidelity=rungs(space),
        judged_by=judgement_of_space(draws),
        derivation=DERIVATION,
    )
    record = replace(record, budgets=options.budgets(record))
    # A cluster that refuses leaves no search behind, so it is joined first.
    drawn = [draw.recipe for draw in draws]
    with joined(options, space, options.store.results, drawn, console):
        _check_precision(draws, check_capacity(options, space))
        tracker_of = partial(_new_tracker, options)
        learn = partial(
            import_trials,
            search=name,
            space=space,
            trials=imported,
            ranges=distributions(draws),
            say=printer(console),
        )
        with begun(record, options.store, tracker_of, learn, printer(console)) as new:
            if or_resume:
                half = ", which an earlier launch had left half made" if new.taken_over else ""
                printer(console)(f"search {name}: begun{half}")
            if reference is None:
                _print_note(console, how_to_resume(space, name))
            return drive(
                space,
                new.record,
                new.storage,
                lambda _: new.tracker,
                options,
                draws[0].recipe,
                console,
                new.lease,
            )


def _new_tracker(options: RunOptions, record: SearchRecord) -> Tracker:
    return Tracker(options.uri(), record.name, options.store.results, record.identity)


def _checked(
    what: str,
    options: RunOptions | None,
    console: Console | None,
    **least: tuple[float | None, float],
) -> tuple[RunOptions, Console]:
    """The options with their defaults, once nothing is wrong with them by themselves."""
    refuse_while_importing(f"to {what} a search")
    options = options or RunOptions()
    options.check(**least)
    cluster.check_address(options.address)
    return options, console or PlainTextConsole()


def _check_precision(draws: Sequence[Draw], resources: Mapping[float, Resources]) -> None:
    """Refuses what the CPUs would not train; this machine's stands for those of the cluster."""
    problems: list[str] = []
    for draw in draws:
        if resources[draw.width].gpus == 0:
            problems += precision_problems(draw.recipe, torch.device("cpu"))
    refuse(problems)


def _print_note(console: Console, text: str) -> None:
    _print_after(console, "note:", "bold yellow", text)


def _print_after(console: Console, word: str, style: str, text: str) -> None:
    """Prints a line behind a word that stands out."""
    line = Text.assemble((word, style), f" {printable(text)}")
    console.print(line, soft_wrap=True, highlight=False)


def _exists(name: str | None, options: RunOptions) -> bool:
    """Whether there is a search to go on with."""
    if name is None:
        do = "pass --name: it says which search is begun the first time and gone on with later"
        raise refused("the name of a search with --or-resume", "none", do)
    return is_name(name) and name in search_names(options.store)


def _go_on_or_leave(
    name: str,
    space: Space,
    trials: int | None,
    seed: int,
    options: RunOptions,
    console: Console,
) -> Search:
    """Goes on with a search up to a total, or leaves it alone if that is reached; says which."""
    storage, record = options.store.search(name)
    if seed != record.seed:
        do = f"pass --seed {record.seed}, or launch a new search under another --name"
        raise refused(f"seed {record.seed}, with which {name!r} was begun", seed, do)
    total = record.trials
    if trials is not None:
        total = max(total, _asked(space, trials))
    folder = options.store.folder(name)
    opened = derived_by(space, record.derivation)
    is_done = total == record.trials and is_concluded(folder, record)
    # A journal that lost its tail has less than the run of the search says.
    is_done = is_done and not is_work_left(opened, record, storage, folder / "trials")
    used = None
    if not is_done:
        watch = LeaseWatch(storage, name)
        watch.wait(printer(console))
        used = _used_up_budget(storage, record, options)
        if used is None:
            more = f", with {counted(total, 'trial')} in all" if total > record.trials else ""
            printer(console)(f"search {name}: going on with it{more}")
            return _go_on(name, space, lambda before: max(total, before), options, console, watch)
    check(opened, say=partial(_print_note, console), needs_data=True)
    check_unchanged(storage, record, opened, folder)
    search = load_search(name, options.results, options.storage)
    why = f"it is complete ({search.ended} of {counted(record.trials, 'trial')} ended)"
    if used:
        why = _used_up_problem(record, used, options)
    printer(console)(f"search {name}: nothing to do, {why}")
    return search


def unnamed(space: Space) -> str:
    """What a record says of a space that no other process can import."""
    return f"{UNNAMED}{space.title}, defined in a notebook or a function>"


def how_to_resume(space: Space, name: str) -> str:
    """What to do to go on with a search of a space that no other process can import."""
    if space.in_main:
        return (
            f"the space {space.define.__name__!r} is defined in a notebook: to go on on another "
            f"day, run the cell that defines it, then robsearch.resume({name!r}); `robsearch "
            "resume` cannot import it (`%%writefile my_space.py` above the cell makes a module)"
        )
    return (
        f"no module holds the space {space.title!r} under a name, so `robsearch resume "
        f"{shlex.quote(name)}` cannot import it: go on with robsearch.resume({name!r}, space=...) "
        "from Python, or put the space into a module and pass --space MODULE:NAME"
    )


def _used_up_budget(
    storage: Storage, record: SearchRecord, options: RunOptions
) -> UsedUpBudget | None:
    """What a search that nobody drives has used up, if anything."""
    budgets = options.budgets(record)
    gpu_seconds = 0.0
    if "max_gpu_hours" in budgets:
        gpu_seconds = glance_at(record.name, options.results, options.storage).cost.gpu_seconds
    return used_up(budgets, driven_seconds(storage, record.name), gpu_seconds)


def _used_up_problem(record: SearchRecord, used: UsedUpBudget, options: RunOptions) -> str:
    return f"{used.text}: go on with `{options.command('resume', record)} {used.extension}`"


def _asked(space: Space, trials: int | None) -> int:
    """The total that is meant."""
    if trials is not None and not grid_size(space.sampler):
        return trials
    most = _most_trials(space)
    return most if trials is None else min(trials, most)


def _most_trials(space: Space) -> int:
    """As many as are asked for by default; more than these a grid does not have."""
    studies = 1 if space.per_trial == "all" else len(space.widths)
    return (grid_size(space.sampler) or TRIALS_PER_WIDTH) * space.trainings * studies


@takes_options
@in_store
@waits_for_storage
def resume(
    name: str,
    *,
    trials: int = 0,
    space: Space | str | None = None,
    options: RunOptions | None = None,
    console: Console | None = None,
    **where: Any,
) -> Search:
    """Goes on with a search: finishes what was interrupted, and adds trials if asked.

    Args:
        name: of the search.
        trials: how many to add to those that were asked for before.
        space: the space or its reference, if it cannot be imported under the one that was recorded.
            One that was defined in a notebook is looked for in the notebook.
        options: where and how much; the tracking URI of the launch is remembered.
        console: where progress is shown.
        where: as for ``launch``.

    Raises:
        InputError: no such search, another driver is at it, or the space is not what it was: every
            recorded suggestion is replayed through it, and recipes, ranges, data and controls are
            compared.
        DiskFullError, StorageAwayError: as for ``launch``.
    """
    options, console = _checked("resume", options, console, trials=(trials, 0))
    return _go_on(name, space, lambda before: before + trials, options, console)


def _go_on(
    name: str,
    space: Space | str | None,
    total: Callable[[int], int],
    options: RunOptions,
    console: Console,
    watch: LeaseWatch | None = None,
) -> Search:
    """See ``resume``; ``total`` gives the trials to ask for from those that were asked for before,
    and ``watch`` has seen the search's lease."""
    storage, record = options.store.search(name)
    folder = options.store.folder(name)
    check_writable(folder)
    watch = watch or LeaseWatch(storage, name)
    watch.wait(printer(console))
    # A torn line is cut off only where nobody writes any more.
    if options.store.storage is None:
        repair_journal(folder)
    check_only_copy(folder, record, options.store.storage)
    used = _used_up_budget(storage, record, options)
    if used:
        raise InputError(_used_up_problem(record, used, options))
    space = space if isinstance(space, Space) else load_recorded(space or record.space, folder)
    space = derived_by(space, record.derivation)
    draws = check(space, say=partial(_print_note, console), needs_data=True)
    check_unchanged(storage, record, space, folder)
    changed = changed_settings(record, space)
    for label, text in changed.items():
        _print_note(console, f"the {label} is {text} from now on; it was {record.setting[label]}")
    for text in version_changes(folder):
        _print_note(console, text)
    uri = options.uri_of(record)
    # A server that is away does not keep a search from going on; a file that is not there does.
    if not served(uri):
        check_tracking(uri)
    tracker_of = partial(_patient_tracker, uri, not record.identity, options, console)
    with joined(options, space, folder, [draw.recipe for draw in draws], console):
        _check_precision(draws, check_capacity(options, space))
        return drive(
            space,
            record,
            storage,
            tracker_of,
            options,
            draws[0].recipe,
            console,
            watch=watch,
            extended=partial(extended, space=space, total=total, options=options),
        )


def extended(
    record: SearchRecord, space: Space, total: Callable[[int], int], options: RunOptions
) -> SearchRecord:
    """The record of a search that goes on: with what is another one in the space now, the trials
    and the budgets that are asked for."""
    later = with_later(record, changed_settings(record, space))
    return replace(later, trials=total(record.trials), budgets=options.budgets(record))


def _patient_tracker(
    uri: str, adopt: bool, options: RunOptions, console: Console, record: SearchRecord
) -> Tracker:
    """The search's record, also during an outage; that there is one is said."""
    results = options.store.results
    tracker = Tracker(uri, record.name, results, record.identity, adopt=adopt, patient=True)
    if tracker.trouble:
        trouble = f"{tracker.trouble}; training goes on, and what waits is sent when MLflow answers"
        _print_note(console, trouble)
    return tracker


# --- driving a search that exists ---


def drive(
    space: Space,
    record: SearchRecord,
    storage: Storage,
    tracker_of: Callable[[SearchRecord], Tracker],
    options: RunOptions,
    recipe: Recipe,
    console: Console,
    lease: Lease | None = None,
    watch: LeaseWatch | None = None,
    extended: Callable[[SearchRecord], SearchRecord] | None = None,
) -> Search:
    """Drives a search that exists until it has ended or is stopped; only this process does, by the
    lease, which it acquires unless it is given, and may have watched before.

    ``extended`` makes the record of a search that goes on from the newest one: until the lease is
    held, another driver may come and go.
    """
    folder = options.store.folder(record.name)
    storage = PatientStorage(
        storage, options.storage_patience, printer(console), options.disk_patience
    )
    go_on = options.command("resume", record)
    with (
        _stopped_when_away(folder, go_on),
        _held(lease, storage, record, watch, console) as held,
        _ending(storage),
    ):
        if extended is not None:
            record = SearchRecord.load(storage, record.name)
            if watch is not None and held.number > watch.number + 1:
                check_unchanged(storage, record, space, folder)
            record = extended(record)
        # A search that robsearch 0.1 began has no identity yet.
        record = replace(record, identity=record.identity or new_identity())
        facts = note_driver(folder, record)
        if options.store.storage is not None:
            note_folder(storage, record.name, folder)
        # Until MLflow has taken this driver, only the identity of the record is written.
        replace(SearchRecord.load(storage, record.name), identity=record.identity).save(storage)
        with _closing(tracker_of(record), record, options, console) as tracker:
            record = with_later(record, driver_settings(facts))
            record.save(storage)  # only now: the record in MLflow may refuse this driver
            drop_spool(folder)
            scheduler = scheduler_of(space, record, storage, recipe)
            recorder = Recorder(tracker, folder / "trials", record)
            driver = Driver(scheduler, recorder, held, folder / "trials", printer(console))
            driver.free_space.patience = options.disk_patience
            recorder.begin_search(record)
            tracker.watch_machine()
            recorder.settle(recorded_trials(storage, record))
            driver.know_dropped(dropped_trials(storage, record.name))
            settle_dropped(recorder, storage, record, options)
            _say_start(driver, record, folder, console)
            with _refused_when_full(driver, folder, go_on):
                driver.trial_seconds = trial_seconds(record.budgets)
                clock = DriverClock(storage, record.name)
                heard = hearing_requests(driver, storage, record.name)
                with heard, within_budgets(driver, clock, record.budgets):
                    _run(driver, storage, space, options, folder, console)
                return _conclude(driver, storage, options, console)


def _held(
    lease: Lease | None,
    storage: Storage,
    record: SearchRecord,
    watch: LeaseWatch | None,
    console: Console,
) -> Lease:
    """The lease that this process has already, or a new one; both wait for a storage that is
    away."""
    if lease is not None:
        return lease.through(storage)
    return Lease.acquire(storage, record.name, printer(console), watch)


@contextlib.contextmanager
def _stopped_when_away(folder: Path, go_on: str) -> Iterator[None]:
    """A storage that stays away, or a disk that stays full under it, ends the driver with one
    sentence."""
    try:
        yield
    except StorageAwayError as error:
        raise StorageAwayError(f"{error}, and go on with: {go_on}") from error
    except DiskFullError:
        raise
    except OSError as error:
        if not is_full(error):
            raise
        raise no_room_for_search(folder, go_on, error) from error


@contextlib.contextmanager
def _ending(storage: PatientStorage) -> Iterator[None]:
    """A driver that ends waits no longer for its storage: neither does the lease's end."""
    try:
        yield
    finally:
        storage.end(END_SECONDS)


@contextlib.contextmanager
def _closing(
    tracker: Tracker, record: SearchRecord, options: RunOptions, console: Console
) -> Iterator[Tracker]:
    """Inside the lease: whoever holds that writes the record."""
    try:
        yield tracker
    finally:
        behind = tracker.close()
        if behind:
            sync = options.command("sync", record)
            runs = f"{counted(behind, 'run')} in MLflow could not be brought up to date"
            _print_note(console, f"{runs}; `{sync}` delivers what waits")


def _run(
    driver: Driver,
    storage: PatientStorage,
    space: Space,
    options: RunOptions,
    folder: Path,
    console: Console,
) -> None:
    with stops_on_signal(driver, console, driver.drain):
        joining = _joining(driver, space, folder) if options.address else None
        shares = None
        if options.gpus_per_trial == AUTO:
            shares = measure_gpu_shares(options, space, folder, driver, console)
        parallel, resources = capacity(options, space, shares)
        driver.set_capacity(parallel, resources)
        if options.address:
            driver.follow_capacity(partial(jobs_at_once, options, resources, joining))
        driver.weight_budget.gib = options.disk_budget
        own_ray = contextlib.nullcontext() if options.address else _while_ray_lives(driver)
        with own_ray, watched(driver, console), _decisions(driver, storage) as jobs:
            cluster.run(jobs, folder, MAX_RETRIES, options.hang_after, driver.say, joining)
        _wait_for_space(driver)
        if driver.stopping:
            storage.end(END_SECONDS)
    driver.lease.verify()  # what follows is written in the name of the search


def _while_ray_lives(driver: Driver) -> contextlib.AbstractContextManager[None]:
    """Has the driver stop once the Ray that was started here has no node: none will come."""

    def look() -> None:
        nodes = 1
        # Of a cluster that does not answer nothing is known.
        with contextlib.suppress(Exception):
            nodes = cluster.node_count()
        if nodes == 0 and not driver.stopping:
            driver.problem = "Ray ended on this machine (its raylet was killed, or had no memory)"
            driver.stopping = True

    return repeated(look, LOOK_SECONDS, "ray")


def _joining(driver: Driver, space: Space, folder: Path) -> cluster.JoiningNodes:
    """Those nodes are asked for what a trial of each width imports."""
    recipes = list(chain.from_iterable(distinct_recipes(space).values()))
    return cluster.JoiningNodes(folder, recipes, driver.say)


@contextlib.contextmanager
def _decisions(driver: Driver, storage: PatientStorage) -> Iterator[cluster.Jobs]:
    """Who is asked for jobs: the driver, in a thread of its own because its storage may be
    away."""
    decisions = Decisions(driver, storage)
    try:
        yield decisions
        decisions.close()
    except BaseException:
        storage.give_up()
        raise
    finally:
        decisions.end()


@contextlib.contextmanager
def _refused_when_full(driver: Driver, folder: Path, go_on: str) -> Iterator[None]:
    """A full disk under the driver ends it, with one sentence: what the storage cannot keep is not
    to be decided. So does a storage that stays away."""
    try:
        yield
    except Exception as error:
        # Tune wraps what a decision raises.
        away = next((cause for cause in causes(error) if isinstance(cause, StorageAwayError)), None)
        full = full_behind(error)
        if (away is None and full is None) or driver.lost:
            raise
        driver.interrupt()
        driver.recorder.stopped(SEARCH, "INTERRUPTED", time.time())
        if full is None:
            raise StorageAwayError(str(away)) from error
        raise no_room_for_search(folder, go_on, full) from error


@contextlib.contextmanager
def _said_when_full(driver: Driver, folder: Path) -> Iterator[None]:
    """Around what a driver that stops writes for people: where the disk is full, ``resume`` writes
    it."""
    try:
        yield
    except Exception as error:
        if not driver.stopping or full_behind(error) is None:
            raise
        driver.say(f"the disk is full: the report in {folder} is not written anew")


def _wait_for_space(driver: Driver) -> None:
    """Returns when there is room for what the end of the search writes, or when it is to stop."""
    while not (driver.stopping or driver.has_space_to_end()):
        time.sleep(LOOK_SECONDS)


def _conclude(driver: Driver, storage: Storage, options: RunOptions, console: Console) -> Search:
    recorder, tracker = driver.recorder, driver.recorder.tracker
    driver.interrupt()
    recorder.write_waiting()
    record = SearchRecord.load(storage, tracker.search)
    dropped = dropped_trials(storage, record.name)
    while True:
        driver.dropped = dropped
        driver.tag_dropped()
        search = search_of(options.store, storage, record)
        with _said_when_full(driver, search.folder):
            try:
                write_report(search, search.report, tracker.pages)
            except InputError as error:
                # The page can be written later, and nothing else needs it.
                printer(console)(f"note: {error}")
        winners = [str(best["trial"]) for best in search.bests]
        if options.models and not driver.stopping:
            studies = driver.scheduler.counts_of
            problems = log_models(winners, studies, recorder)
            for trial, problem in problems.items():
                printer(console)(f"{trial}  MLflow model: {problem}")
        with _said_when_full(driver, search.folder):
            recorder.conclude(search)
        dropped = dropped_trials(storage, record.name)
        if dropped == driver.dropped:
            break
    recorder.stopped(SEARCH, "INTERRUPTED" if driver.stopping else "COMPLETE", time.time())
    if driver.problem:
        _print_after(console, "stopped:", "bold red", driver.problem)
    if driver.stopping:
        _say_interrupted(search, options, console, driver.extension)
    return replace(search, stopped=driver.stopping)


def _say_start(driver: Driver, record: SearchRecord, folder: Path, console: Console) -> None:
    trials = counted(record.trials, "trial")
    ended = driver.scheduler.ended * record.trainings
    left = len(driver.waiting)
    if ended or left:
        trials += f", {ended} of them ended, {left} to be continued"
    printer(console)(f"search {record.name}: {trials}; results in {folder}")


def _say_interrupted(search: Search, options: RunOptions, console: Console, extension: str) -> None:
    states = search.trials["state"].value_counts()
    done = counted(states.get("COMPLETE", 0), "trial")
    line = f"interrupted: {done} done, {states.get('PRUNED', 0)} pruned, all saved"
    if search.unfinished:
        line += f"; to be continued: {', '.join(search.unfinished)}"
    printer(console)(line)
    go_on = f"{options.command('resume', search.record)} {extension}".strip()
    printer(console)(f"go on with: {go_on}")
