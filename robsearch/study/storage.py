"""Where a search is remembered: one Optuna storage, a journal file or a database."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from robsearch.errors import refused
from robsearch.trials.paths import check_sqlite_uri, without_password

JOURNAL = "optuna.journal"
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system answers to a write that it does not allow."""


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage of a search. Optuna does not say any more what it makes there.

    Args:
        url: any Optuna storage URL (``sqlite:///...``, ``postgresql://...``), or None for a journal
            file in the search's folder, which suits the one driver that writes.
        folder: the search's own folder in the results folder.

    Raises:
        InputError: it cannot be opened, or is a sqlite URL that names another file than it seems
            to. The message never repeats a password.
    """
    check_sqlite_uri(url or "", "--storage")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
            return _Journal(WholeLines(folder / JOURNAL))
        return optuna.storages.get_storage(url)
    except Exception as error:
        got = f"{type(error).__name__} for {without_password(url) if url else folder}"
        first_line = str(error).strip().partition("\n")[0]
        do = f"choose another --results folder or --storage URL ({first_line})"
        raise refused("an Optuna storage that opens", got, do) from error


class WholeLines(JournalFileBackend):
    """A journal file that a full disk leaves as it was.

    Optuna's own would go on behind the part of a line that fitted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_lock = JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self._file_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of them, or nothing."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._file_lock.acquire()
        try:
            whole = os.path.getsize(self._path)
            try:
                with open(self._path, "ab") as journal:
                    journal.write(lines.encode())
                    journal.flush()
                    os.fsync(journal.fileno())
            except OSError:
                os.truncate(self._path, whole)
                raise
        finally:
            self._file_lock.release()


class UnwrittenLines(BaseJournalBackend):
    """A journal and lines behind it that are not in its file yet, and are written together."""

    def __init__(self, journal: WholeLines) -> None:
        self._journal = journal
        # Read once: a lease that is renewed meanwhile adds lines, which make no study and no trial.
        self._whole = list(journal.read_logs(0))
        self._lines: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Behind those that are not written yet."""
        self._lines += logs

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The lines from this number on, those of the file first."""
        yield from self._whole[log_number_from:]
        yield from self._lines[max(0, log_number_from - len(self._whole)) :]

    def write(self) -> None:
        """Appends all of them to the file, or nothing."""
        if self._lines:
            self._journal.append_logs(self._lines)


class _Journal(JournalStorage):
    """Optuna's, which has no public way to its file."""

    def __init__(self, lines: WholeLines) -> None:
        super().__init__(lines)
        self.lines = lines


@contextlib.contextmanager
def refused_if_read_only() -> Iterator[None]:
    """Around a first write to a storage.

    Raises:
        InputError: this process may not write it.
    """
    try:
        yield
    except Exception as error:
        reason = _forbidden_behind(error)
        if reason is None:
            raise
        do = "work as a user who may write it, or on a copy of the results and the storage"
        raise refused("a storage that can be written", reason, do) from error


def _forbidden_behind(error: BaseException) -> str | None:
    """The words of the system or of sqlite for a write that it forbids, if that led to an error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FORBIDDEN:
            return f"{cause.strerror}: {cause.filename}"
        if isinstance(cause, sqlite3.OperationalError) and "readonly" in str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def repair_journal(folder: Path) -> None:
    """Mends what a dead driver left: its lock, and a last line that a full disk cut short (a copy
    is kept).

    Only for a driver that found no living one; Optuna cannot append to, or later open, a torn
    journal.
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
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            journal.with_suffix(".torn").write_bytes(content)
            os.truncate(journal, whole)
    finally:
        guard.release()


def add_finished(
    storage: BaseStorage, metrics: int, added: Mapping[str, Sequence[FrozenTrial]]
) -> None:
    """Adds finished suggestions to studies, each made if it is not there yet: all, or none.

    Optuna's own way is one write, or one transaction, for each. Here a journal is written to once,
    and a database gets one transaction.

    A line of a journal names studies and trials by numbers that follow from all the lines before
    it. So nobody else may make any meanwhile: it is the journal of a search which nobody drives
    yet, in the search's own folder.

    Args:
        storage: of the studies.
        metrics: how many each study maximises.
        added: the suggestions by the study's name.

    Raises:
        ValueError: a suggestion has more or fewer values than there are metrics.
    """
    if any(
        len(suggestion.values) != metrics
        for suggestions in added.values()
        for suggestion in suggestions
    ):
        raise ValueError(f"suggestions with other than {metrics} values")
    if isinstance(storage, _Journal):
        unwritten = UnwrittenLines(storage.lines)
        add_finished(JournalStorage(unwritten), metrics, added)
        unwritten.write()
        return
    studies = {name: open_study(storage, name, metrics) for name in added}
    # Optuna wraps a database in a cache, and has no public way to what is inside.
    database = getattr(storage, "_backend", None)
    if isinstance(database, RDBStorage):
        _insert(database, {storage.get_study_id_from_name(name): added[name] for name in added})
        return
    for name, study in studies.items():
        study.add_trials(added[name])


def open_study(storage: BaseStorage, name: str, metrics: int) -> optuna.Study:
    """A study that maximises so many metrics, made if it is not there yet."""
    directions = [StudyDirection.MAXIMIZE] * metrics
    return optuna.create_study(
        storage=storage, study_name=name, directions=directions, load_if_exists=True
    )


def _insert(database: RDBStorage, added: Mapping[int, Sequence[FrozenTrial]]) -> None:
    """One transaction, and one statement for each table: Optuna's own way takes several
    milliseconds of SQLAlchemy for each suggestion.

    It goes through Optuna's models of its tables, whose layout every later version of Optuna must
    read or upgrade.
    """
    from optuna.storages._rdb import models  # it imports SQLAlchemy, which a journal does not need

    with database.scoped_session() as session, session.begin():
        for study, suggestions in added.items():
            if not suggestions:
                continue
            # Optuna numbers the suggestions of a study by counting them, under this lock.
            locked = models.StudyModel.find_or_raise_by_id(study, session, for_update=True)
            first = models.TrialModel.count(session, locked)
            rows = []
            for number, suggestion in enumerate(suggestions, first):
                row = models.TrialModel(
                    study_id=study,
                    number=number,
                    state=suggestion.state,
                    datetime_start=suggestion.datetime_start,
                    datetime_complete=suggestion.datetime_complete,
                )
                rows.append(row)
            session.add_all(rows)
            session.flush()  # gives them their ids
            _insert_facts(session, rows, suggestions)


def _insert_facts(session: Any, rows: Sequence[Any], suggestions: Sequence[FrozenTrial]) -> None:
    """Fills the tables of values, parameters and attributes.

    As plain rows: objects of the models would take three times as long.
    """
    from optuna.storages._rdb import models

    values = []
    params = []
    attributes = []
    for row, suggestion in zip(rows, suggestions, strict=True):
        of_trial = {"trial_id": row.trial_id}
        for objective, value in enumerate(suggestion.values):
            # Values are finite: other suggestions are not brought in.
            stored = {"objective": objective, "value": value, "value_type": "FINITE"}
            values.append(of_trial | stored)
        for name, distribution in suggestion.distributions.items():
            stored = {
                "param_name": name,
                "param_value": distribution.to_internal_repr(suggestion.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            params.append(of_trial | stored)
        for key, fact in suggestion.user_attrs.items():
            attributes.append({**of_trial, "key": key, "value_json": json.dumps(fact)})
    session.execute(models.TrialValueModel.__table__.insert(), values)
    session.execute(models.TrialParamModel.__table__.insert(), params)
    session.execute(models.TrialUserAttributeModel.__table__.insert(), attributes)


def study_names(storage: BaseStorage) -> set[str]:
    """The names of all studies in a storage."""
    return {study.study_name for study in storage.get_all_studies()}


def to_be_made(url: str | None) -> bool:
    """Whether it is that of a sqlite file which is not there: to open it would make it."""
    if url is None or not url.startswith("sqlite"):
        return False
    file = url.partition(":///")[2].partition("?")[0]
    return file not in ("", ":memory:") and not any(
        Path(path).exists() for path in (file, unquote(file))
    )
