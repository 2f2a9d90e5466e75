"""Where a search is remembered: one Optuna storage, and the search's own record in it."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from robsearch.errors import InputError, refusal
from robsearch.trainer import VALUE

JOURNAL = "optuna.journal"

warnings.filterwarnings("ignore", category=ExperimentalWarning)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage of a search.

    Args:
        url: any Optuna storage URL (``sqlite:///...``, ``postgresql://...``), or None for a journal file in the
            search's folder, which suits the one driver that writes.
        folder: the search's own folder in the results folder.

    Raises:
        InputError: it cannot be opened. The message never repeats a password.
    """
    try:
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
            return JournalStorage(_WholeLines(str(folder / JOURNAL)))
        return optuna.storages.get_storage(url)
    except Exception as error:
        where = without_password(url) if url else str(folder)
        got = f"{type(error).__name__} for {where}"
        raise InputError(refusal("an Optuna storage that opens", got, _advice(error))) from error


class _WholeLines(JournalFileBackend):
    """A journal that a full disk leaves as it was: Optuna's own would go on behind the part of a line that fitted."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of them, or nothing."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock.acquire()
        try:
            whole = os.path.getsize(self._file_path)
            try:
                with open(self._file_path, "ab") as journal:
                    journal.write(lines.encode())
                    journal.flush()
                    os.fsync(journal.fileno())
            except OSError:
                os.truncate(self._file_path, whole)
                raise
        finally:
            self._lock.release()


def _advice(error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0]
    return f"choose another --results folder or --storage URL ({first_line})"


def repair_journal(folder: Path) -> None:
    """Mends what a dead driver left: its lock, and a last line that a full disk cut short (a copy is kept).

    Only for a driver that found no living one; Optuna cannot append to, or later open, a torn journal.
    """
    journal = folder / JOURNAL
    lock = Path(f"{journal}.lock")
    if lock.is_symlink():
        lock.unlink(missing_ok=True)
    if not journal.exists():
        return
    guard = JournalFileSymlinkLock(str(journal))
    guard.acquire()
    try:
        _cut_torn_line(journal)
    finally:
        guard.release()


def _cut_torn_line(journal: Path) -> None:
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        journal.with_suffix(".torn").write_bytes(content)
        os.truncate(journal, whole)


def without_password(url: str) -> str:
    """A URL without its user name and password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url


@dataclass(frozen=True)
class SearchRecord:
    """What a search is, as the storage remembers it: enough to resume it on another day.

    Attributes:
        name: of the search.
        space: its reference, ``module:name``.
        widths: that it searches.
        seed: from which every trial's seed derives.
        trials: the total that was asked for; ``resume --trials`` raises it.
        tracking: the MLflow URI, without user name and password (MLflow takes these from the environment).
        setting: labels and texts for the report: model, data, attack, versions, commit.
        maximise: the metrics that decide.
        per_trial: ``one`` or ``all`` widths.
        trainings: that a suggestion consists of.
    """

    name: str
    space: str
    widths: tuple[float, ...]
    seed: int
    trials: int
    tracking: str
    setting: dict[str, str]
    maximise: tuple[str, ...] = (VALUE,)
    per_trial: str = "one"
    trainings: int = 1

    def create(self, storage: BaseStorage) -> None:
        """Claims the search's name in the storage, atomically.

        Raises:
            InputError: the name is taken; says the two ways on.
        """
        try:
            storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], self.name)
        except DuplicatedStudyError as error:
            do = f"continue it with `robsearch resume {self.name}`, or choose another --name"
            raise InputError(refusal("the name of a new search", f"{self.name!r}, which exists", do)) from error
        self.save(storage)

    @classmethod
    def load(cls, storage: BaseStorage, name: str) -> Self:
        """The record of an existing search.

        Raises:
            InputError: there is none of that name; lists those there are.
        """
        try:
            attrs = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
            facts = attrs["search"]
        except KeyError as error:
            known = ", ".join(record_names(storage)) or "none"
            do = f"searches here: {known}; --results or --storage says where to look"
            raise InputError(refusal("the name of a search", repr(name), do)) from error
        tuples: Any = {name: tuple(fact) if isinstance(fact, list) else fact for name, fact in facts.items()}
        return cls(**tuples)

    def save(self, storage: BaseStorage) -> None:
        """Writes the record over the one in the storage."""
        study = storage.get_study_id_from_name(self.name)
        storage.set_study_user_attr(study, "search", vars(self))


def make_study(storage: BaseStorage, name: str, place: dict[str, Any]) -> optuna.Study:
    """A study of a search, made if it is not there yet; what is written says where in the search it belongs."""
    directions = [optuna.study.StudyDirection.MAXIMIZE] * len(place["metrics"])
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    study.set_user_attr("place", place)
    return study


def study_names(storage: BaseStorage) -> set[str]:
    """The names of all studies in a storage."""
    return {study.study_name for study in storage.get_all_studies()}


def to_be_made(url: str | None) -> bool:
    """Whether it is that of a sqlite file which is not there: to open it would make it."""
    if url is None or not url.startswith("sqlite"):
        return False
    file = url.partition(":///")[2].partition("?")[0]
    return file not in ("", ":memory:") and not any(Path(path).exists() for path in (file, unquote(file)))


def record_names(storage: BaseStorage) -> list[str]:
    """The names of all searches in a storage, oldest first."""
    return [study.study_name for study in storage.get_all_studies() if "search" in study.user_attrs]
