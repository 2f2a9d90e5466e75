"""Whose results folder, record and MLflow experiment these are: two searches of one name must not meet unnoticed.

A search gets a random identity when it is launched. It stands in the search's record in Optuna's storage, in
``search.json`` of its folder and in a tag of its MLflow experiment; whoever brings two of them together compares.
"""

from __future__ import annotations

import json
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

from robsearch.errors import InputError, refusal
from robsearch.files import write_json
from robsearch.provenance import SEARCH, process_facts, read_attempts, read_search
from robsearch.references import import_root
from robsearch.study import JOURNAL, SearchRecord

TRACES = (SEARCH, "trials", JOURNAL, "report.html")
"""What shows that a folder holds a search."""


def new_identity() -> str:
    """32 random hexadecimal digits."""
    return uuid.uuid4().hex


def occupied(folder: Path) -> bool:
    """Whether a folder holds the results of a search already."""
    return any((folder / trace).exists() for trace in TRACES)


def is_search(folder: Path) -> bool:
    """Whether a folder is a search's own; that of a validation has a report only."""
    return any((folder / trace).exists() for trace in (SEARCH, "trials", JOURNAL))


def claim_folder(folder: Path, record: SearchRecord) -> None:
    """Makes the folder a new search's own; of two that do so at once, one is refused.

    Raises:
        InputError: it holds another search.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / SEARCH).open("x") as file:
            json.dump({"name": record.name, "identity": record.identity, "drivers": []}, file)
    except FileExistsError as error:
        raise taken(folder) from error


def release_folder(folder: Path) -> None:
    """Takes ``claim_folder`` back, where the search was not begun after all."""
    (folder / SEARCH).unlink(missing_ok=True)


def taken(folder: Path) -> InputError:
    """The refusal of a folder that holds another search."""
    name = read_search(folder).get("name", folder.name)
    do = "choose another --name or --results, or continue that search with the --storage it was launched with"
    return InputError(refusal(f"a results folder {folder} without a search in it", f"that of a search {name!r}", do))


def check_folder(folder: Path, record: SearchRecord) -> None:
    """Sees that a record and a results folder are of one search.

    Where ``search.json`` does not say whose the folder is, what the attempts at its trials wrote down counts.

    Raises:
        InputError: they are of two searches of one name, or the folder is not there.
    """
    known = read_search(folder).get("identity", "")
    if known == record.identity:
        return
    do = "pass the --results and the --storage with which this one was launched"
    if not known and _told_by_attempts(folder) == {record.identity}:
        told = "the attempts at its trials say that the folder is this search's"
        warnings.warn(f"{folder / SEARCH} is missing or damaged: {told}", stacklevel=2)
        return
    if not folder.exists():
        got = "no such folder"
        do += "; if its results are lost, launch a new search, which can learn from this one"
    elif not known and not (folder / "trials").exists():
        got = f"a folder without {SEARCH}"
    elif not known and (folder / SEARCH).exists():
        got = f"a damaged {SEARCH}, and no attempt at a trial that says whose the folder is"
        do += f', or, if it is this search\'s, write {{"identity": "{record.identity}"}} into it'
    else:
        got = f"those of another search of that name ({_short(known)}, not {_short(record.identity)})"
    raise InputError(refusal(f"the results of {record.name!r} in {folder}", got, do))


def note_driver(folder: Path, record: SearchRecord) -> dict[str, Any]:
    """Adds this process to the drivers in ``search.json``; returns what it runs on.

    Only for the process that holds the search's lease.
    """
    known, root = read_search(folder), import_root(record.space)
    code = root or Path.cwd()  # a driver may be started in any folder
    facts = {"started": time.time(), **process_facts(code)}
    drivers = [*known.get("drivers", []), facts]
    content = {
        "name": record.name,
        "identity": record.identity,
        "space": record.space,
        "project": str(Path.cwd()),
        "code": str(code),
        "imports_from": str(root) if root else known.get("imports_from"),
        "folder": str(folder.resolve()),
        "drivers": drivers,
    }
    write_json(folder / SEARCH, content)
    return facts


def _told_by_attempts(folder: Path) -> set[str]:
    """The identities that the attempts at a search's trials wrote down."""
    trials = (folder / "trials").glob("*")
    return {
        facts["search"] for trial in trials for facts in read_attempts(trial) if isinstance(facts.get("search"), str)
    }


def _short(identity: str) -> str:
    return identity[:8] or "begun before robsearch 0.2"
