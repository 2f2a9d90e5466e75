"""Whether a search can go on with a space: everything that was recorded is compared with what the
space defines now."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from robsearch.errors import InputError, refused
from robsearch.search.settings import constraints, rungs, space_settings
from robsearch.spaces import UNNAMED, Space, load_space
from robsearch.study import Change, SearchRecord, Storage, recorded_controls, replay
from robsearch.tracking import found_again, sqlite_file
from robsearch.trials.paths import stays_inside, without_password
from robsearch.trials.provenance import read_search

SHOWN = 2
"""Trials named in a row of the table; the others are counted."""
ONE_GOES_ON = (
    "go on with the original, or remove it; a new search can learn from this one (learn_from)"
)


def load_recorded(reference: str, folder: Path) -> Space:
    """The space of a search, by its reference, also from another working folder than that of the
    launch.

    Where it cannot be imported from here, the folder from which it was imported at the launch is
    put on the import path, unless it lies among the results: whoever sends results could send code
    with them. That it still is the same space is compared later.

    Raises:
        InputError: as ``load_space``; says where the search was launched.
    """
    try:
        return load_space(reference)
    except InputError as error:
        facts = read_search(folder)
        root = facts.get("imports_from")
        project = facts.get("project")
        # The second time the folder is on the path, so that this ends.
        if root and _holds_code(Path(root), folder.parent) and root not in sys.path:
            sys.path.append(root)
            return load_recorded(reference, folder)
        if project is None or Path(project) == Path.cwd() or reference.startswith(UNNAMED):
            raise
        raise InputError(
            *error.problems, f"the search was launched in {project}: cd there"
        ) from error


def _holds_code(root: Path, results: Path) -> bool:
    """Whether code may be imported from a folder because ``search.json`` names it."""
    return root.is_absolute() and root.is_dir() and not stays_inside(root, results)


def check_only_copy(
    folder: Path, record: SearchRecord, storage: str | None = None, do: str = ONE_GOES_ON
) -> None:
    """Refuses a copied folder while the original is there and both have the same runs in MLflow, or
    the same record in a database.

    A default record in MLflow, a journal, and a sqlite file in the results folder are copied with
    the folder: then each has its own.

    Args:
        folder: of the search.
        record: of the search.
        storage: that it is in; None for a journal in its folder.
        do: what a user who has a copy shall do.

    Raises:
        InputError: the folder in which the search was driven before still holds it.
    """
    before = read_search(folder).get("folder")
    if not before or not record.identity or Path(before).resolve() == folder.resolve():
        return
    if read_search(Path(before)).get("identity") != record.identity:
        return
    results = folder.parent
    both = []
    if _is_shared(found_again(record.tracking, record.name, results), results):
        both.append("the same runs in MLflow")
    if storage is not None and _is_shared(storage, results):
        both.append(f"the same record in {without_password(storage)}")
    if both:
        got = f"a copy, whose original {before} is still there: both have {' and '.join(both)}"
        raise refused(f"the only folder of {record.name!r}", got, do)


def _is_shared(uri: str, results: Path) -> bool:
    """Whether a store is not one that a copied results folder has of its own."""
    file = sqlite_file(uri)
    return file is None or file.parent.resolve() != results.resolve()


def check_unchanged(storage: Storage, record: SearchRecord, space: Space, folder: Path) -> None:
    """Sees that a space still is what a search was begun with: recipes, ranges, data, controls,
    goals.

    Every recorded suggestion is replayed with its stored parameters; nothing is written.

    Args:
        storage: of the search.
        record: of the search.
        space: that it would go on with.
        folder: of the search.

    Raises:
        InputError: it is not; with a table of what was and what is, and the ways on.
    """
    concerned: dict[Change, list[str]] = {}
    for trial, change in replay(storage, record, space, folder / "trials"):
        concerned.setdefault(change, []).append(trial)
    changes = list(_search_changes(storage, record, space))
    for change, trials in concerned.items():
        changes.append(change._replace(trials=tuple(trials)))
    if changes:
        raise InputError(refusal_table(record.name, changes))


def refusal_table(name: str, changes: Sequence[Change]) -> str:
    """The refusal to go on, as a table of what was and what is."""
    rows = [Change("what", "was", "is", ("trials",)), *changes]
    what, was, now = (max(len(row[column]) for row in rows) for column in range(3))
    table = ""
    for row in rows:
        texts = f"{row.what:{what}}  {row.was:{was}}  {row.now:{now}}"
        line = f"    {texts}  {_listed_trials(row.trials)}"
        table += f"{line.rstrip()}\n"
    return (
        f"expected the space that {name!r} was begun with, got another one:\n{table}"
        "  undo the change, or launch a new search under another name that learns from this one: "
        f"@space(..., learn_from=({name!r},))"
    )


def _search_changes(storage: Storage, record: SearchRecord, space: Space) -> Iterator[Change]:
    # The order of widths, controls and constraints decides nothing, that of metrics does.
    if set(space.widths) != set(record.widths):
        yield Change("widths", _listed(record.widths), _listed(space.widths))
    if space.maximise != record.maximise:
        yield Change("maximise", _listed(record.maximise), _listed(space.maximise))
    if space.per_trial != record.per_trial:
        yield Change("per_trial", record.per_trial, space.per_trial)
    elif space.trainings != record.trainings:
        yield Change("trainings of a suggestion", str(record.trainings), str(space.trainings))
    controls = [control.__name__ for control in space.controls]
    if record.controls is not None:
        if set(record.controls) != set(controls):
            yield Change("controls", _listed(record.controls), _listed(controls))
    else:  # begun before robsearch 0.2: what was trained is known
        lost = sorted(recorded_controls(storage, record.name) - set(controls))
        if lost:
            yield Change("controls", _listed(lost), "not among the controls")
    yield from _goal_changes(record, space)


def _goal_changes(record: SearchRecord, space: Space) -> Iterator[Change]:
    """Where they were not recorded, by robsearch 0.1, the facts for the report have them,
    rounded."""
    if record.subject_to is None:
        yield from _setting_change("subject to", record, space)
    elif set(record.subject_to) != set(constraints(space)):
        yield Change("subject_to", _listed(record.subject_to), _listed(constraints(space)))
    if record.fidelity is None:
        yield from _setting_change("rungs below", record, space)
    elif record.fidelity != rungs(space):
        yield Change("fidelity", _listed(record.fidelity), _listed(rungs(space)))


def _setting_change(label: str, record: SearchRecord, space: Space) -> Iterator[Change]:
    was = record.setting.get(label, "none")
    now = space_settings(space).get(label, "none")
    if record.setting and was != now:
        yield Change(label, was, now)


def _listed(items: Sequence[object]) -> str:
    texts = [f"{item:g}" if isinstance(item, float) else str(item) for item in items]
    return ", ".join(texts) or "none"


def _listed_trials(trials: Sequence[str]) -> str:
    text = ", ".join(trials[:SHOWN])
    more = len(trials) - SHOWN
    return f"{text} and {more} more" if more > 0 else text
