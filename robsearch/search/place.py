"""Where searches are kept: results folder and storage, and whose a call means when nobody names them."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from robsearch.errors import InputError, refusal
from robsearch.paths import absolute
from robsearch.search.belonging import check_folder
from robsearch.study import JOURNAL, SearchRecord, Storage, open_storage, record_names, to_be_made, without_password

DEFAULT_RESULTS = "robsearch-results"


@dataclass(frozen=True)
class Place:
    """Where searches are kept.

    Attributes:
        results: the folder of all results. A cluster of several machines needs one that all of them share.
        storage: an Optuna storage URL; None for a journal file in each search's folder.
    """

    results: Path
    storage: str | None = None

    @classmethod
    def of(cls, results: str | Path | None = None, storage: str | None = None) -> Place:
        """The place these options mean; what is not given is that of the ``current`` place.

        Outside any call it is ``ROBSEARCH_RESULTS`` and ``ROBSEARCH_STORAGE``, else ``robsearch-results`` here and no
        storage.
        """
        if (around := _CURRENT.get()) is not None:
            return cls(absolute(results) if results else around.results, storage or around.storage)
        folder = results or os.environ.get("ROBSEARCH_RESULTS") or DEFAULT_RESULTS
        return cls(absolute(folder), storage or os.environ.get("ROBSEARCH_STORAGE"))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes this the place of whoever names none, such as a space that reads another search, for some time."""
        before = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(before)

    @property
    def _shown(self) -> str:
        return str(self.results) if self.storage is None else without_password(self.storage)

    def folder(self, search: str) -> Path:
        """A search's own folder; of a name that leads out of the results folder, one that ``open`` does not find."""
        return self.results / search

    def command(self, *words: str, tracking: str | None = None) -> str:
        """A robsearch command as a person pastes it into a shell in this folder: quoted, and without passwords.

        Args:
            words: such as ``resume`` and a search's name.
            tracking: an MLflow URI that the search does not remember.
        """
        chosen = os.environ.get("ROBSEARCH_RESULTS") or self.results != Path(DEFAULT_RESULTS).absolute()
        results = str(self.results) if chosen else None
        options = {"--results": results, "--storage": self.storage, "--tracking": tracking}
        given = [word for option, value in options.items() if value for word in (option, without_password(value))]
        return shlex.join(["robsearch", *words, *given])

    def open(self, search: str) -> Storage:
        """The storage that an existing search is in.

        Raises:
            InputError: there is no such search here.
        """
        if self.storage is None:
            missing = not os.path.exists(self.folder(search) / JOURNAL)
        else:
            missing = to_be_made(self.storage)
        if missing or not is_name(search):
            known = ", ".join(search_names(self)) or "none"
            do = f"searches in {self._shown}: {known}; --results or --storage says where else to look"
            raise InputError(refusal("the name of a search", repr(search), do))
        return open_storage(self.storage, self.folder(search))

    def search(self, name: str) -> tuple[Storage, SearchRecord]:
        """An existing search: its storage and its record, which belong to the results folder beside them.

        Raises:
            InputError: there is no such search here, or the folder holds another one of that name.
        """
        storage = self.open(name)
        record = SearchRecord.load(storage, name)
        check_folder(self.folder(name), record)
        return storage, record


def is_name(search: str) -> bool:
    """Whether a text can be the name of a folder in another one: no path, and not that folder or the one above."""
    return search not in ("", ".", "..") and Path(search).name == search and "\0" not in search


_CURRENT: ContextVar[Place | None] = ContextVar("place", default=None)
"""Of the call that runs, such as a launch; another thread has its own."""


def search_names(place: Place) -> list[str]:
    """The searches that are kept in a place; a database that is not there yet is not made."""
    if to_be_made(place.storage):
        return []
    if place.storage is not None:
        return record_names(open_storage(place.storage, place.results))
    return sorted(journal.parent.name for journal in place.results.glob(f"*/{JOURNAL}"))
