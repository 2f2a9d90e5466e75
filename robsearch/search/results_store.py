"""Where searches are kept: results folder and storage, and whose they are.

A search gets a random identity when it is launched. It stands in the search's record in Optuna's
storage, in ``search.json`` of its folder and in a tag of its MLflow experiment; whoever brings two
of them together compares.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import time
import uuid
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robsearch.errors import InputError, refuse_unless, refused
from robsearch.spaces.references import import_root
from robsearch.study import (
    JOURNAL,
    DamagedJournalError,
    SearchRecord,
    Storage,
    open_storage,
    record_names,
    to_be_made,
)
from robsearch.trials.files import DamagedError, read_json, write_json
from robsearch.trials.paths import absolute, is_name, without_password
from robsearch.trials.provenance import SEARCH, process_facts, read_attempts, read_search
from robsearch.trials.run_facts import RUN

DEFAULT_RESULTS = "robsearch-results"


@dataclass(frozen=True)
class ResultsStore:
    """Where searches are kept.

    Attributes:
        results: the folder of all results. A cluster of several machines needs one that all of them
            share.
        storage: an Optuna storage URL; None for a journal file in each search's folder.
    """

    results: Path
    storage: str | None = None

    @classmethod
    def of(cls, results: str | Path | None = None, storage: str | None = None) -> ResultsStore:
        """The store these options mean; what is not given is that of the ``current`` store.

        Outside any call it is ``ROBSEARCH_RESULTS`` and ``ROBSEARCH_STORAGE``, else
        ``robsearch-results`` here and no storage.

        Raises:
            InputError: the results folder is a file, or the address of something else.
        """
        current = _CURRENT.get()
        if current is not None:
            folder = _results_folder(results) if results else current.results
            return cls(folder, storage or current.storage)
        results = results or os.environ.get("ROBSEARCH_RESULTS") or DEFAULT_RESULTS
        return cls(_results_folder(results), storage or os.environ.get("ROBSEARCH_STORAGE"))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes this the store of whoever names none, such as a space that reads another search,
        for some time."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def folder(self, search: str) -> Path:
        """A search's own folder; of a name that leads out of the results folder, one that ``open``
        does not find."""
        return self.results / search

    def command(self, *words: str, tracking: str | None = None) -> str:
        """A robsearch command as a person pastes it into a shell in this folder: quoted, and
        without passwords.

        Args:
            words: such as ``resume`` and a search's name.
            tracking: an MLflow URI that the search does not remember.
        """
        is_default = self.results == Path(DEFAULT_RESULTS).absolute()
        chosen = os.environ.get("ROBSEARCH_RESULTS") or not is_default
        options = {
            "--results": str(self.results) if chosen else None,
            "--storage": self.storage,
            "--tracking": tracking,
        }
        line = ["robsearch", *words]
        for option, value in options.items():
            if value:
                line += [option, without_password(value)]
        return shlex.join(line)

    def check(self, search: str) -> None:
        """Sees that a search is here.

        Raises:
            InputError: there is none of that name; lists those there are.
        """
        if self.storage is None:
            missing = not os.path.exists(self.folder(search) / JOURNAL)
        else:
            missing = to_be_made(self.storage)
        if missing or not is_name(search):
            where = self.results if self.storage is None else without_password(self.storage)
            names = ", ".join(search_names(self)) or "none"
            do = f"searches in {where}: {names}; --results or --storage says where else to look"
            raise refused("the name of a search", repr(search), do)

    def open(self, search: str, *, with_values: bool = True) -> Storage:
        """The storage that an existing search is in; ``with_values`` is that of ``open_storage``.

        Raises:
            DamagedJournalError: a line of its journal cannot be read.
            InputError: there is no such search here.
        """
        self.check(search)
        try:
            if is_half_made(self, search):
                got = f"what a launch of {search!r} left that was ended before it had begun"
                launch = self.command("launch", "SPACE", "--name", search)
                raise refused("a search", got, f"nothing was trained: begin it with `{launch}`")
            return open_storage(self.storage, self.folder(search), with_values=with_values)
        except DamagedJournalError as error:
            command = self.command("repair", search)
            raise DamagedJournalError(error.journal, error.line, error.what, command) from error

    def search(self, name: str, *, with_values: bool = True) -> tuple[Storage, SearchRecord]:
        """An existing search: its storage and its record, which belong to the results folder beside
        them; ``with_values`` is that of ``open_storage``.

        Raises:
            InputError: there is no such search here, or the folder holds another one of that name.
        """
        storage = self.open(name, with_values=with_values)
        record = SearchRecord.load(storage, name)
        check_folder(self.folder(name), record)
        return storage, record


def _results_folder(results: str | Path) -> Path:
    folder = absolute(results)
    is_there = os.path.exists(folder)
    # A Path has one slash where an address had two.
    is_address = not is_there and re.search(r"(^|/)[A-Za-z][A-Za-z0-9+-]+:/", str(results))
    is_folder = os.path.isdir(folder) if is_there else not is_address
    do = "choose one with --results or ROBSEARCH_RESULTS; what is elsewhere has to be mounted"
    refuse_unless((is_folder, "a folder for the results", repr(str(results)), do))
    return folder


_CURRENT: ContextVar[ResultsStore | None] = ContextVar("store", default=None)
"""Of the call that runs, such as a launch; another thread has its own."""


def search_names(store: ResultsStore) -> list[str]:
    """The searches that are kept in a store, without those that a launch left half made; a database
    that is not there yet is not made."""
    if to_be_made(store.storage):
        return []
    if store.storage is not None:
        return record_names(open_storage(store.storage, store.results))
    names = sorted(journal.parent.name for journal in store.results.glob(f"*/{JOURNAL}"))
    return [name for name in names if not is_half_made(store, name)]


def names_here(store: ResultsStore) -> list[str]:
    """The searches of a store that have a folder in it: a database may have others, whose results
    lie elsewhere or are lost."""
    return [name for name in search_names(store) if store.folder(name).exists()]


# --- whose a folder is ---


def new_identity() -> str:
    """32 random hexadecimal digits."""
    return uuid.uuid4().hex


def is_search(folder: Path) -> bool:
    """Whether a folder is a search's own; that of a validation has a report only."""
    return any((folder / trace).exists() for trace in (SEARCH, "trials", JOURNAL))


def is_occupied(folder: Path) -> bool:
    """Whether a folder holds the results of a search or of a validation already."""
    return is_search(folder) or (folder / "report.html").exists()


def claim_folder(folder: Path, record: SearchRecord, storage: str | None = None) -> None:
    """Makes the folder a new search's own; of two that do so at once, one is refused.

    Args:
        folder: of the search.
        record: of the search.
        storage: that its record will be in, which tells who may take it over half made.

    Raises:
        InputError: it holds another search.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / SEARCH).open("x") as file:
            file.write(json.dumps(_claim(record, storage)))
    except FileExistsError as error:
        raise occupied_error(folder) from error


def take_folder_over(store: ResultsStore, record: SearchRecord) -> SearchRecord:
    """Makes the folder of a half-made search that of this record; it keeps the identity that it
    has, because an MLflow experiment may have it already.

    Only for the process that holds the search's lease.
    """
    folder = store.folder(record.name)
    identity = read_search(folder).get("identity") or record.identity
    record = replace(record, identity=identity)
    write_json(folder / SEARCH, _claim(record, store.storage))
    return record


def _claim(record: SearchRecord, storage: str | None) -> dict[str, Any]:
    place = without_password(storage) if storage else None
    return {"name": record.name, "identity": record.identity, "storage": place, "drivers": []}


def is_half_made(store: ResultsStore, name: str) -> bool:
    """Whether a folder has only what a launch leaves that is ended before its search has begun: no
    record in the storage, no driver, no trial, no run. The next launch of that name takes it over.
    """
    folder = store.folder(name)
    if not is_search(folder) or _was_driven(folder, store.storage) or not is_name(name):
        return False
    if store.storage is None and not (folder / JOURNAL).exists():
        return True
    if to_be_made(store.storage):
        return True
    try:
        return name not in record_names(open_storage(store.storage, folder))
    except DamagedJournalError:  # whatever it has, it has more than a launch leaves
        return False


def _was_driven(folder: Path, storage: str | None) -> bool:
    """Whether a search in a folder has had a driver, or is remembered by another storage."""
    if any((folder / trace).exists() for trace in ("trials", RUN, "report.html")):
        return True
    claim: Any = {}
    with contextlib.suppress(DamagedError):  # a launch may be ended before it has written it whole
        claim = read_json(folder / SEARCH)
    if not isinstance(claim, dict) or claim.get("drivers"):
        return True
    place = without_password(storage) if storage else None
    return bool(claim) and claim.get("storage", place) != place


def occupied_error(folder: Path) -> InputError:
    """The refusal of a folder that holds another search."""
    name = read_search(folder).get("name", folder.name)
    do = (
        "choose another --name or --results, or continue that search with the --storage it was "
        "launched with"
    )
    expected = f"a results folder {folder} without a search in it"
    return refused(expected, f"that of a search {name!r}", do)


def check_folder(folder: Path, record: SearchRecord) -> None:
    """Sees that a record and a results folder are of one search.

    Where ``search.json`` does not say whose the folder is, what the attempts at its trials wrote
    down counts.

    Raises:
        InputError: they are of two searches of one name, or the folder is not there.
    """
    identity = read_search(folder).get("identity", "")
    if identity == record.identity:
        return
    if not identity and _identities_of_attempts(folder) == {record.identity}:
        why = "the attempts at its trials say that the folder is this search's"
        warnings.warn(f"{folder / SEARCH} is missing or damaged: {why}", stacklevel=2)
        return
    do = "pass the --results and the --storage with which this one was launched"
    if not folder.exists():
        got = "no such folder"
        do += "; if its results are lost, launch a new search, which can learn from this one, or "
        do += f"remove what is left of it with `{shlex.join(['robsearch', 'delete', record.name])}`"
    elif not identity and not (folder / "trials").exists():
        got = f"a folder without {SEARCH}"
    elif not identity and (folder / SEARCH).exists():
        got = f"a damaged {SEARCH}, and no attempt at a trial that says whose the folder is"
        do += f', or, if it is this search\'s, write {{"identity": "{record.identity}"}} into it'
    else:
        short = [text[:8] or "begun before robsearch 0.2" for text in (identity, record.identity)]
        got = f"those of another search of that name ({short[0]}, not {short[1]})"
    raise refused(f"the results of {record.name!r} in {folder}", got, do)


def _identities_of_attempts(folder: Path) -> set[str]:
    identities = set()
    for trial in (folder / "trials").glob("*"):
        for facts in read_attempts(trial):
            if isinstance(facts.get("search"), str):
                identities.add(facts["search"])
    return identities


def note_driver(folder: Path, record: SearchRecord) -> dict[str, Any]:
    """Adds this process to the drivers in ``search.json``; returns what it runs on.

    Only for the process that holds the search's lease.
    """
    before = read_search(folder)
    root = import_root(record.space)
    code = root or Path.cwd()  # a driver may be started in any folder
    facts = {"started": time.time(), **process_facts(code)}
    content = {
        "name": record.name,
        "identity": record.identity,
        "space": record.space,
        "project": str(Path.cwd()),
        "code": str(code),
        # A space that Python passes has no root: what an earlier driver noted still holds.
        "imports_from": str(root) if root else before.get("imports_from"),
        "folder": str(folder.resolve()),
        "drivers": [*before.get("drivers", []), facts],
    }
    write_json(folder / SEARCH, content)
    return facts
