"""What can be found wrong before a cluster starts, and the name of a new search."""

from __future__ import annotations

import re
import tempfile
from itertools import count
from pathlib import Path

from robsearch.errors import TakenNameError, refusal, refuse, refused
from robsearch.search.results_store import (
    ResultsStore,
    is_half_made,
    is_occupied,
    occupied_error,
    search_names,
)
from robsearch.spaces import Space
from robsearch.tracking import experiment_exists, experiment_of
from robsearch.trials.paths import without_password
from robsearch.trials.provenance import read_search

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?")
LONGEST_NAME = 200
"""Letters: file systems take 255 in one name, MLflow 256 for a model's, and suffixes are put behind
a search's."""
RESERVED = {"mlflow.db", "mlartifacts", "comparison.csv", "comparison.parquet"}
"""What else lies in the results folder."""


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
        if results.is_dir():
            do += ", such as a copy of this one, or work as a user who may write it"
        got = error.strerror or error
        raise refused(f"a writable results folder {results}", got, do) from error


def check_names(*names: str, store: ResultsStore) -> None:
    """Refuses names that could not be a folder's in the results folder, an experiment's or a
    model's, all at once.

    Raises:
        InputError: says which, and what a name may be.
    """
    problems = []
    for name in names:
        if not NAME.fullmatch(name):
            do = (
                "use letters, digits, '.', '_' and '-', beginning with a letter or digit, and "
                "no '.' at the end"
            )
            problems.append(refusal("a name that can be a folder", repr(name), do))
        elif len(name) > LONGEST_NAME:
            expected = f"a name of at most {LONGEST_NAME} letters"
            got = f"one of {len(name)}, {name[:20]}..."
            problems.append(refusal(expected, got, "choose a shorter --name"))
        elif name.lower() in RESERVED or store.folder(name).is_file():
            expected = f"a name that is free in {store.results}"
            got = f"{name!r}, which is taken"
            problems.append(refusal(expected, got, "choose another --name"))
    refuse(problems)


def new_name(name: str | None, space: Space, store: ResultsStore, uri: str) -> str:
    """The name of a new search: the one asked for, or the space's name and the next number that is
    free everywhere.

    Args:
        name: that was asked for, or None; it may be that of a search that a launch left half made.
        space: that is to be searched.
        store: where searches are kept; neither its storage nor its results folder may have the
            name.
        uri: of the MLflow store, which may not have it either.

    Raises:
        InputError: it could not be a folder's name, it is too long, or it is taken.
    """
    names = search_names(store)
    if name is None:
        letters = re.sub(r"[^A-Za-z0-9._-]+|^[._-]+", "", space.define.__name__)
        stem = letters[: LONGEST_NAME - len("-9999")] or "search"
        for number in count(1):
            name = f"{stem}-{number}"
            taken = name in names or is_occupied(store.folder(name))
            if not taken and not experiment_exists(uri, name):
                return name
    assert name is not None
    check_names(name, store=store)
    expected = "the name of a new search"
    if name in names:
        do = f"continue it with `{store.command('resume', name)}`, or choose another --name"
        raise TakenNameError(refusal(expected, f"{name!r}, which exists", do))
    identity = None
    if is_half_made(store, name):
        identity = read_search(store.folder(name)).get("identity")
    elif is_occupied(store.folder(name)):
        raise occupied_error(store.folder(name))
    if identity and experiment_of(uri, name, identity) is not None:
        return name  # the launch that left it half made had come so far
    if experiment_exists(uri, name):
        got = (
            f"{name!r}, of which {without_password(uri)} has an experiment (of another search, "
            "deleted, or not of robsearch)"
        )
        do = "choose another --name or --tracking, or rename that experiment in MLflow"
        raise refused(expected, got, do)
    return name
