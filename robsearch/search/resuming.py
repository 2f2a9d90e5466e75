"""Whether a search can go on with a space: everything that was recorded is compared with what the space defines now."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robsearch.errors import InputError, refusal
from robsearch.identity import NUMERICS, numerics_of, numerics_since
from robsearch.provenance import read_attempts, read_search
from robsearch.recipe import Recipe
from robsearch.search.preflight import constraints, manner, rungs
from robsearch.spaces import UNNAMED, Space, load_space
from robsearch.study import ANOTHER, Replayed, SearchRecord, Storage, recorded_controls, replay
from robsearch.tracking import BESIDE

SHOWN = 2
"""Trials named in a row of the table; the others are counted."""
MOVED = (
    "another one with the same numbers: a class has moved (`digest_name = 'its_old_module:Name'` in the class keeps "
    "its name), or an object has another state"
)
OBJECT = re.compile(r"<(?:\w+\.)*(\w+) object>")
"""A plain object as text. In a worker, a class of a script has another module than in its driver."""


class Change(NamedTuple):
    """One row of the table: what is no longer as it was, and the trials that it concerns (none: the whole search)."""

    what: str
    was: str
    now: str
    trials: tuple[str, ...] = ()


def load_recorded(reference: str, folder: Path) -> Space:
    """The space of a search, by its reference, also from another working folder than that of the launch.

    Where it cannot be imported from here, the folder from which it was imported at the launch is put on the import
    path. That it still is the same space is compared later.

    Raises:
        InputError: as ``load_space``; says where the search was launched.
    """
    try:
        return load_space(reference)
    except InputError as error:
        known = read_search(folder)
        root, project = known.get("imports_from"), known.get("project")
        if root and Path(root).is_dir() and root not in sys.path:
            sys.path.append(root)
            return load_recorded(reference, folder)
        if project is None or Path(project) == Path.cwd() or reference.startswith(UNNAMED):
            raise
        raise InputError(*error.problems, f"the search was launched in {project}: cd there") from error


def check_only_copy(folder: Path, record: SearchRecord) -> None:
    """Refuses a copied folder while the original is there and both would write to the same MLflow runs.

    A search with the default record has one of its own in each results folder; so it may be copied.

    Raises:
        InputError: the folder in which the search was driven before still holds it.
    """
    before = read_search(folder).get("folder")
    if record.tracking == BESIDE or before is None or Path(before).resolve() == folder.resolve():
        return
    if record.identity and read_search(Path(before)).get("identity") == record.identity:
        do = "go on with the original, or remove it; a new search can learn from this one (learn_from)"
        got = f"a copy, whose original {before} is still there: both would write to the same runs in MLflow"
        raise InputError(refusal(f"the only folder of {record.name!r}", got, do))


def check_unchanged(storage: Storage, record: SearchRecord, space: Space, folder: Path) -> None:
    """Sees that a space still is what a search was begun with: recipes, ranges, data, controls, goals.

    Every recorded suggestion is replayed with its stored parameters; nothing is written.

    Args:
        storage: of the search.
        record: of the search.
        space: that it would go on with.
        folder: of the search.

    Raises:
        InputError: it is not; with a table of what was and what is, and the ways on.
    """
    replayed = list(replay(storage, record, space))
    changes = [*_of_search(storage, record, space), *_of_recipes(replayed, folder / "trials")]
    if changes:
        raise InputError(refusal_table(record.name, changes))


def refusal_table(name: str, changes: Sequence[Change]) -> str:
    """The refusal to go on, as a table of what was and what is."""
    head = ("what", "was", "is", "trials")
    rows = [head, *((each.what, each.was, each.now, _named(each.trials)) for each in changes)]
    sizes = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(size) for cell, size in zip(row[:3], sizes, strict=True)), row[3]]) for row in rows
    ]
    table = "\n".join(f"    {line.rstrip()}" for line in lines)
    do = f"launch a new search under another name that learns from this one: @space(..., learn_from=({name!r},))"
    return f"expected the space that {name!r} was begun with, got another one:\n{table}\n  undo the change, or {do}"


def recipe_changes(recorded: Mapping[str, Any], recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(field, was, is) where a recipe's flat view differs from the one that an attempt wrote down."""
    now = recipe.flat()
    for name in dict.fromkeys([*recorded, *now]):
        was, text = recorded.get(name, "nothing"), now.get(name, "nothing")
        if was != text and OBJECT.sub(r"\1", str(was)) != OBJECT.sub(r"\1", str(text)):
            yield name, str(was), str(text)


def _of_search(storage: Storage, record: SearchRecord, space: Space) -> Iterator[Change]:
    if set(space.widths) != set(record.widths):
        yield Change("widths", _listed(record.widths), _listed(space.widths))
    if space.maximise != record.maximise:
        yield Change("maximise", _listed(record.maximise), _listed(space.maximise))
    if space.per_trial != record.per_trial:
        yield Change("per_trial", record.per_trial, space.per_trial)
    elif space.trainings != record.trainings:
        yield Change("trainings of a suggestion", str(record.trainings), str(space.trainings))
    recorded = record.controls
    if recorded is None:  # begun before robsearch 0.2: what was trained is known
        recorded = tuple(sorted(recorded_controls(storage, record.name) - {each.__name__ for each in space.controls}))
        if recorded:
            yield Change("controls", _listed(recorded), "not among the controls")
    elif set(recorded) != set(now := tuple(control.__name__ for control in space.controls)):
        yield Change("controls", _listed(recorded), _listed(now))
    yield from _of_goals_and_rungs(record, space)


def _of_goals_and_rungs(record: SearchRecord, space: Space) -> Iterator[Change]:
    """Where they were not recorded, by robsearch 0.1, the facts for the report have them, rounded."""
    known, told = record.setting, manner(space)
    if record.subject_to is not None and set(record.subject_to) != set(constraints(space)):
        yield Change("subject_to", _listed(record.subject_to), _listed(constraints(space)))
    if record.fidelity is not None and record.fidelity != rungs(space):
        yield Change("fidelity", _listed(record.fidelity), _listed(rungs(space)))
    unrecorded = {"subject to": record.subject_to is None, "rungs below": record.fidelity is None}
    for label in (label for label, lacks in unrecorded.items() if lacks and known):
        was, now = known.get(label, "none"), told.get(label, "none")
        if was != now:
            yield Change(label, was, now)


def _of_recipes(replayed: Sequence[Replayed], trials: Path) -> Iterator[Change]:
    """The differences of all trainings, each once with the trials that it concerns."""
    concerned: dict[tuple[str, str, str], list[str]] = {}
    for each in replayed:
        for change in _of_one(each, trials):
            concerned.setdefault(change, []).append(each.training.trial)
    for (what, was, now), names in concerned.items():
        yield Change(what, was, now, tuple(names))


def _of_one(each: Replayed, trials: Path) -> Iterator[tuple[str, str, str]]:
    for name, (was, now) in each.ranges.items():
        yield f"range of {name}", was, now
    version = numerics_of(str(each.training.facts["recipe"]))
    if changed := numerics_since(version):
        yield "numerics", f"version {version}", f"version {NUMERICS}: {changed}"
    if each.why is None:
        return
    if each.recipe is None:
        yield "recipe", "one", each.why
        return
    if each.why == ANOTHER:
        attempts = read_attempts(trials / each.training.trial)
        changes = list(recipe_changes(attempts[-1]["recipe"], each.recipe)) if attempts else []
        if changes or attempts:
            yield from changes or [("recipe", str(each.training.facts["recipe"]), MOVED)]
            return
    yield "recipe", str(each.training.facts["recipe"]), each.why


def _listed(items: Sequence[object]) -> str:
    return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in items) or "none"


def _named(trials: Sequence[str]) -> str:
    more = len(trials) - SHOWN
    return ", ".join(trials[:SHOWN]) + (f" and {more} more" if more > 0 else "")
