"""From a space to a finished search: check everything first, then train, then fit and report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from robsearch import cluster
from robsearch.references import refuse_while_importing
from robsearch.search import learning
from robsearch.search.belonging import claim_folder, new_identity, release_folder
from robsearch.search.driving import drive, printer, say
from robsearch.search.preflight import (
    changed_manner,
    check_numbers,
    check_space,
    check_writable,
    constraints,
    manner,
    new_name,
    rungs,
    with_later,
)
from robsearch.search.result import Search
from robsearch.search.resuming import check_only_copy, check_unchanged, load_recorded
from robsearch.search.setting import setting
from robsearch.search.workplace import Means, in_place, joined
from robsearch.spaces import UNNAMED, Draw, Space, distributions, grid_size, load_space, more_draws
from robsearch.study import (
    Found,
    SearchRecord,
    Storage,
    living_owner,
    open_storage,
    repair_journal,
)
from robsearch.tracking import Tracker, check_tracking, served

TRIALS_PER_WIDTH = 10


@in_place
def launch(
    space: Space | str,
    *,
    name: str | None = None,
    trials: int | None = None,
    seed: int = 0,
    means: Means | None = None,
    console: Console | None = None,
    resumed_by: str | None = None,
) -> Search:
    """Runs a search from beginning to end and writes its report.

    Args:
        space: a ``Space``, or its reference ``module:name``.
        name: of the search; by default the space's name and the next free number.
        trials: the total over all widths (pruned trials count, failed ones do not), in whole suggestions; by default
            10 suggestions per width, or all of a grid.
        seed: every suggestion and every training derives from it.
        means: where and how much.
        console: where progress is shown.
        resumed_by: how to go on with it where that is not by ``resume``, as words in ``<...>``.

    Raises:
        InputError: everything that is wrong with the space, the options or the places, before Ray starts.
        DiskFullError: the driver found no room to write; ``resume`` goes on once there is some.
    """
    means, console = _asked("launch", means, console, trials=(trials, 1), seed=(seed, 0))
    came_from = space if isinstance(space, str) else space.reference or resumed_by
    space = load_space(space) if isinstance(space, str) else space
    draws = check_space(space, partial(_note, console))
    _check_places(means)
    name = new_name(name, space, means.place, means.uri())
    found = learning.found(space, means.place, draws, name, printer(console))
    record = _record(space, came_from or unnamed(space), name, trials, seed, means, draws, found)
    with joined(means, space, means.place.results, console):  # first: a cluster that refuses leaves no search behind
        tracker, storage = Tracker(means.uri(), name, means.place.results, record.identity), _created(record, means)
        if came_from is None:
            say(console, f"note: {how_to_resume(space, name)}")
        learning.teach(storage, name, space, found, distributions(draws), printer(console))
        return drive(space, record, storage, lambda _: tracker, means, draws[0].recipe, console)


def _asked(
    what: str, means: Means | None, console: Console | None, **least: tuple[float | None, float]
) -> tuple[Means, Console]:
    """The options with their defaults, once nothing is wrong with them by themselves."""
    refuse_while_importing(f"to {what} a search")
    means = means or Means()
    check_numbers(**least, **means.bounds)
    cluster.check_address(means.address)
    return means, console or Console()


def _note(console: Console, text: str) -> None:
    say(console, f"note: {text}")


def _check_places(means: Means) -> None:
    check_writable(means.place.results)
    check_tracking(means.uri())


def _created(record: SearchRecord, means: Means) -> Storage:
    """Claims the search's folder and its name in the storage; where one is taken, neither is kept."""
    folder = means.place.folder(record.name)
    claim_folder(folder, record)
    try:
        storage = open_storage(means.place.storage, folder)
        record.create(storage)
    except BaseException:
        release_folder(folder)
        raise
    return storage


def unnamed(space: Space) -> str:
    """What a record says of a space that no other process can import."""
    return f"{UNNAMED}{space.title}, defined in a notebook or a function>"


def how_to_resume(space: Space, name: str) -> str:
    """What to do to go on with a search of a space that no other process can import."""
    return (
        f"no module holds the space {space.title!r} under a name, so `robsearch resume {shlex.quote(name)}` cannot "
        f"import it: go on with robsearch.resume({name!r}, space=...) from Python, or put the space into a module and "
        "pass --space MODULE:NAME"
    )


@in_place
def resume(
    name: str,
    *,
    trials: int = 0,
    space: Space | str | None = None,
    means: Means | None = None,
    console: Console | None = None,
) -> Search:
    """Goes on with a search: finishes what was interrupted, and adds trials if asked.

    Args:
        name: of the search.
        trials: how many to add to those that were asked for before.
        space: the space or its reference, if it cannot be imported under the one that was recorded.
        means: where and how much; the tracking URI of the launch is remembered.
        console: where progress is shown.

    Raises:
        InputError: no such search, another driver is at it, or the space is not what it was: every recorded suggestion
            is replayed through it, and recipes, ranges, data and controls are compared.
        DiskFullError: as for ``launch``.
    """
    means, console = _asked("resume", means, console, trials=(trials, 0))
    storage, record = means.place.search(name)
    folder = means.place.folder(name)
    if means.place.storage is None and living_owner(storage, name) is None:
        repair_journal(folder)
    check_only_copy(folder, record)
    space = space if isinstance(space, Space) else load_recorded(space or record.space, folder)
    recipe = check_space(space, partial(_note, console))[0].recipe
    check_unchanged(storage, record, space, folder)
    changed = _changed_manner(record, space, console)
    check_writable(folder)
    uri = means.uri_of(record)
    if not served(uri):
        check_tracking(uri)
    patient = partial(_patient, uri, not record.identity, means, console)
    with joined(means, space, folder, console):
        record = replace(with_later(record, changed), trials=record.trials + trials)
        return drive(space, record, storage, patient, means, recipe, console)


def _changed_manner(record: SearchRecord, space: Space, console: Console) -> dict[str, str]:
    """What of the sampler, pruner and allocation is another one from now on; says so."""
    changed = changed_manner(record, space)
    for label, text in changed.items():
        say(console, f"note: the {label} is {text} from now on; it was {record.setting[label]}")
    return changed


def _patient(uri: str, adopt: bool, means: Means, console: Console, record: SearchRecord) -> Tracker:
    """The search's record, also during an outage; that there is one is said."""
    tracker = Tracker(uri, record.name, means.place.results, record.identity, adopt=adopt, patient=True)
    if tracker.trouble:
        text = f"{tracker.trouble}; training goes on, and records wait until MLflow answers"
        say(console, f"note: {text}")
    return tracker


def _record(
    space: Space,
    reference: str,
    name: str,
    trials: int | None,
    seed: int,
    means: Means,
    draws: Sequence[Draw],
    found: Sequence[Found],
) -> SearchRecord:
    points = grid_size(space.sampler) or TRIALS_PER_WIDTH
    most = points * space.trainings * (1 if space.per_trial == "all" else len(space.widths))
    return SearchRecord(
        name,
        reference,
        space.widths,
        seed,
        min(trials or most, most) if grid_size(space.sampler) else trials or most,
        means.to_remember,
        {**manner(space, found), **setting([*draws, *more_draws(space, draws[0].width)], seed)},
        space.maximise,
        space.per_trial,
        space.trainings,
        identity=new_identity(),
        controls=tuple(control.__name__ for control in space.controls),
        subject_to=constraints(space),
        fidelity=rungs(space),
        judged_by=learning.judgement_of_space(draws),
    )
