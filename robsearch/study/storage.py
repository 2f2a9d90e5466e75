"""Where a search is remembered: one Optuna storage, and the search's own record in it."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from robsearch.errors import InputError, refusal
from robsearch.paths import check_sqlite_uri
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
        InputError: it cannot be opened, or is a sqlite URL that names another file than it seems to. The message
            never repeats a password.
    """
    check_sqlite_uri(url or "", "--storage")
    try:
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
            return JournalStorage(WholeLines(str(folder / JOURNAL)))
        return optuna.storages.get_storage(url)
    except Exception as error:
        where = without_password(url) if url else str(folder)
        got = f"{type(error).__name__} for {where}"
        raise InputError(refusal("an Optuna storage that opens", got, _advice(error))) from error


class WholeLines(JournalFileBackend):
    """A journal that a full disk leaves as it was: Optuna's own would go on behind the part of a line that fitted."""

    _held: list[str] | None = None
    """The lines that wait to be written, while they are held back."""
    _written = 0
    """How many lines the file had when holding back began."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of them, or nothing."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        if self._held is not None:
            self._held += lines
            return
        self._lock.acquire()
        try:
            self._append("".join(lines))
        finally:
            self._lock.release()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # no generator
        """The logs from this number on, with those that are held back."""
        if self._held is None:
            return super().read_logs(log_number_from)
        held = map(json.loads, self._held[max(0, log_number_from - self._written) :])
        if log_number_from >= self._written:  # the file has no more: it is not opened once for every line
            return held
        return chain(super().read_logs(log_number_from), held)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Everything that is appended meanwhile is written together at the end, or nothing after an error.

        The lock is held throughout, so that no other process can take the numbers of these lines. After an error a
        storage that reads this journal knows lines that were never written: open another one.
        """
        self._lock.acquire()
        try:
            with open(self._file_path, "rb") as journal:
                self._written = sum(1 for _ in journal)
            self._held = []
            yield
            self._append("".join(self._held))
        finally:
            self._held = None
            self._lock.release()

    def _append(self, lines: str) -> None:
        whole = os.path.getsize(self._file_path)
        try:
            with open(self._file_path, "ab") as journal:
                journal.write(lines.encode())
                journal.flush()
                os.fsync(journal.fileno())
        except OSError:
            os.truncate(self._file_path, whole)
            raise


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
    """A URL without its user name and password; a sqlite URL has none, and its path may have an ``@``."""
    if url.startswith("sqlite"):
        return url
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url


@dataclass(frozen=True)
class SearchRecord:
    """What a search is, as the storage remembers it: enough to resume it on another day.

    Attributes:
        name: of the search.
        space: its reference, ``module:name``; for one that no other process can import, words in ``<...>``.
        widths: that it searches.
        seed: from which every trial's seed derives.
        trials: the total that was asked for; ``resume --trials`` raises it.
        tracking: the MLflow URI, without user name and password (MLflow takes these from the environment); empty for
            the sqlite file beside the results, wherever these lie (``Search.record`` has its URI).
        setting: labels and texts for the report: model, data, attack, versions, commit.
        maximise: the metrics that decide.
        per_trial: ``one`` or ``all`` widths.
        trainings: that a suggestion consists of.
        identity: random, given to the search at birth: what tells two searches of one name apart wherever they could
            meet. Empty for a search begun before robsearch 0.2 that was not continued since.
        controls: the names of the controls beside the search; None if they were not recorded.
        subject_to: the constraints, as text; None if they were not recorded.
        fidelity: the rungs below the full recipe, as text; None if they were not recorded.
        judged_by: what a value must have in common with another to be compared with it: the ``evaluation attack`` as
            text, its digest, and the digest of the contents of ``val``.
        written_by: the version of robsearch that wrote this record.
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
    identity: str = ""
    controls: tuple[str, ...] | None = None
    subject_to: tuple[str, ...] | None = None
    fidelity: tuple[str, ...] | None = None
    judged_by: dict[str, str] = field(default_factory=dict)
    written_by: str = field(default="", compare=False)

    def create(self, storage: BaseStorage) -> None:
        """Claims the search's name in the storage, atomically.

        Raises:
            InputError: the name is taken; says the two ways on.
        """
        try:
            storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], self.name)
        except DuplicatedStudyError as error:
            do = "resume that one, or choose another --name"
            raise InputError(refusal("the name of a new search", f"{self.name!r}, which exists", do)) from error
        self.save(storage)

    @classmethod
    def load(cls, storage: BaseStorage, name: str) -> Self:
        """The record of an existing search.

        Raises:
            InputError: there is none of that name; lists those there are. Or a newer robsearch wrote it.
        """
        try:
            attrs = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
            facts = attrs["search"]
        except KeyError as error:
            known = ", ".join(record_names(storage)) or "none"
            do = f"searches here: {known}; --results or --storage says where to look"
            raise InputError(refusal("the name of a search", repr(name), do)) from error
        if strange := sorted(set(facts) - set(cls.__dataclass_fields__)):
            newer = facts.get("written_by") or "a later one"
            do = f"install that version: the search records {', '.join(strange)}, which this one does not know"
            raise InputError(refusal(f"a search that robsearch {version('robsearch')} can read", f"{newer}'s", do))
        tuples: Any = {name: tuple(fact) if isinstance(fact, list) else fact for name, fact in facts.items()}
        return cls(**tuples)

    def save(self, storage: BaseStorage) -> None:
        """Writes the record over the one in the storage."""
        study = storage.get_study_id_from_name(self.name)
        facts = {**vars(self), "written_by": version("robsearch")}
        storage.set_study_user_attr(study, "search", facts)


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
