"""Everything that can be found wrong before a cluster starts, and the facts noted down about a launch."""

from __future__ import annotations

import platform
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from robsearch.errors import InputError, refusal
from robsearch.provenance import commit_text, versions_text
from robsearch.search.belonging import occupied
from robsearch.search.belonging import taken as taken_folder
from robsearch.search.place import Place, search_names
from robsearch.spaces import Draw, Space, check
from robsearch.study import Found, SearchRecord
from robsearch.tracking import experiment_exists, shown

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?")
LONGEST_NAME = 200
"""Letters: file systems take 255 in one name, MLflow 256 for a model's, and suffixes are put behind a search's."""
RESERVED = {"mlflow.db", "mlartifacts", "comparison.csv", "comparison.parquet"}
"""What else lies in the results folder."""


def check_numbers(**least: tuple[float | None, float]) -> None:
    """Refuses numbers below their least value, all at once; None is a default and passes.

    Raises:
        InputError: names the options.
    """
    problems = [
        refusal(f"--{name.replace('_', '-')} of at least {low:g}", value, f"pass {low:g} or more")
        for name, (value, low) in least.items()
        if value is not None and value < low
    ]
    if problems:
        raise InputError(*problems)


def check_space(space: Space, say: Callable[[str], None] | None = None) -> list[Draw]:
    """Checks the space and puts its data into the node's store; returns the suggestions that were drawn.

    Args:
        space: that is to be searched.
        say: is told what could not be tried here.

    Raises:
        InputError: the space could not be searched, or its data is not there.
    """
    return check(space, say=say, needs_data=True)


def check_writable(results: Path) -> None:
    """Writes to the results folder and reads back.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        if results.is_file():
            raise NotADirectoryError(f"{results} is a file")
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=results) as probe:
            probe.write(b"robsearch")
    except OSError as error:
        do = "choose another folder with --results or ROBSEARCH_RESULTS"
        raise InputError(refusal(f"a writable results folder {results}", error.strerror or error, do)) from error


def check_names(*names: str, place: Place) -> None:
    """Refuses names that could not be a folder's in the results folder, an experiment's or a model's, all at once.

    Raises:
        InputError: says which, and what a name may be.
    """
    problems = []
    for name in names:
        if not NAME.fullmatch(name):
            do = "use letters, digits, '.', '_' and '-', beginning with a letter or digit, and no '.' at the end"
            problems.append(refusal("a name that can be a folder", repr(name), do))
        elif len(name) > LONGEST_NAME:
            got = f"one of {len(name)}, {name[:20]}..."
            problems.append(refusal(f"a name of at most {LONGEST_NAME} letters", got, "choose a shorter --name"))
        elif name.lower() in RESERVED or place.folder(name).is_file():
            do = "choose another --name"
            problems.append(refusal(f"a name that is free in {place.results}", f"{name!r}, which is taken", do))
    if problems:
        raise InputError(*problems)


def new_name(name: str | None, space: Space, place: Place, uri: str) -> str:
    """The name of a new search: the one asked for, or the space's name and the next number that is free everywhere.

    Args:
        name: that was asked for, or None.
        space: that is to be searched.
        place: where searches are kept; neither its storage nor its results folder may have the name.
        uri: of the MLflow store, which may not have it either.

    Raises:
        InputError: it could not be a folder's name, it is too long, or it is taken.
    """
    taken = set(search_names(place))
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+|^[._-]+", "", space.define.__name__)[: LONGEST_NAME - len("-9999")] or "search"
        names = (f"{stem}-{number}" for number in count(1))
        free = (each for each in names if each not in taken and not occupied(place.folder(each)))
        return next(each for each in free if not experiment_exists(uri, each))
    check_names(name, place=place)
    if name in taken:
        do = f"continue it with `{place.command('resume', name)}`, or choose another --name"
        raise InputError(refusal("the name of a new search", f"{name!r}, which exists", do))
    if occupied(place.folder(name)):
        raise taken_folder(place.folder(name))
    if experiment_exists(uri, name):
        got = f"{name!r}, of which {shown(uri)} has an experiment (of another search, deleted, or not of robsearch)"
        do = "choose another --name or --tracking, or rename that experiment in MLflow"
        raise InputError(refusal("the name of a new search", got, do))
    return name


def driver_setting(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a driver ran on, for the report; trials say in their folders what each attempt ran on."""
    return {
        "driver": f"{facts['node']}, {platform.machine()}, Python {facts['python']}",
        "versions": versions_text(facts),
        "commit": commit_text(facts),
    }


def with_later(record: SearchRecord, facts: Mapping[str, str]) -> SearchRecord:
    """The record of a search that goes on with other facts than those in its setting: both are said, in order."""
    known = dict(record.setting)
    for label, text in facts.items():
        before = known.get(label)
        if before is None or before.rpartition("; then ")[2] != text:
            known[label] = text if before is None else f"{before}; then {text}"
    return replace(record, setting=known)


def changed_manner(record: SearchRecord, space: Space) -> dict[str, str]:
    """How a space is searched now, where that is no longer as it was recorded: sampler, pruner, allocation.

    These may change: they decide what is tried next, not what a trial is.
    """
    now = manner(space)
    labels = ("sampler", "pruner", "allocation")
    return {
        label: now[label]
        for label in labels
        if record.setting.get(label, now[label]).rpartition("; then ")[2] != now[label]
    }


def constraints(space: Space) -> tuple[str, ...]:
    """The constraints of a space, as text with all digits: it is what ``resume`` compares."""
    return tuple(f"{goal.metric} >= {float(goal.value)!r}" for goal in space.subject_to)


def rungs(space: Space) -> tuple[str, ...]:
    """The rungs of fidelity of a space, cheapest first, as text: it is what ``resume`` compares."""
    return tuple(f"{rung.name} (keep {float(rung.keep)!r})" for rung in space.fidelity)


def manner(space: Space, found: Sequence[Found] = ()) -> dict[str, str]:
    """How the space is searched: goals, constraints, sampler, pruner, allocation, and what samplers learn from.

    Args:
        space: that is searched.
        found: the finished trials from elsewhere that its samplers are given.
    """
    sources = Counter(one.source for one in found)
    each = f"{space.replicates} seeds" if space.replicates > 1 else "one training"
    told = {
        "searched for": ", ".join(space.maximise),
        "subject to": ", ".join(f"{goal.metric} >= {goal.value:g}" for goal in space.subject_to),
        "a suggestion": each + (" at every width" if space.per_trial == "all" else ""),
        "sampler": type(space.sampler).__name__ if space.sampler else "TPESampler, the default",
        "pruner": _pruner(space),
        "allocation": type(space.allocation).__name__,
        "learned from": ", ".join(f"{source} (those that fit of {count})" for source, count in sources.items()),
        "tried first": "; ".join(str(dict(params)) for params in space.start_with),
        "rungs below": ", ".join(f"{rung.name} ({100 * rung.keep:g} % go on)" for rung in space.fidelity),
    }
    return {label: text for label, text in told.items() if text}


def _pruner(space: Space) -> str:
    if len(space.maximise) > 1:
        return "none: several metrics"
    return type(space.pruner).__name__ if space.pruner else "MarginPruner, the default"
