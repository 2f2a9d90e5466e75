"""Where a search is remembered: one Optuna storage, a journal file or a database."""

from __future__ import annotations

import contextlib
import errno
import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from robsearch.errors import StorageAwayError, causes, refused
from robsearch.study.journal import (
    JOURNAL,
    DamagedJournalError,
    LinesWithoutValues,
    UnwrittenLines,
    WholeLines,
    examine,
)
from robsearch.study.patience import PatientStorage, current_patience
from robsearch.trials.paths import check_sqlite_uri, without_password

FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system answers to a write that it does not allow."""
LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Seconds (the last in milliseconds) after which PostgreSQL's client gives up a connection on which
nothing comes. By itself it waits for as long as the system does: two minutes for a new one, and a
quarter of an hour, or for ever, for one whose machine is cut off. What the URL says has the last
word."""


def open_storage(url: str | None, folder: Path, *, with_values: bool = True) -> BaseStorage:
    """The storage of a search. Optuna does not say any more what it makes there.

    Args:
        url: any Optuna storage URL (``sqlite:///...``, ``postgresql://...``), or None for a journal
            file in the search's folder, which suits the one driver that writes.
        folder: the search's own folder in the results folder.
        with_values: whether the epochs' values are read from a journal. Who neither suggests nor
            prunes needs none, and they are most of it.

    Returns:
        A database waits for its server, or for whoever locks it, as the ``current_patience`` says.

    Raises:
        DamagedJournalError: a line of the journal cannot be read.
        InputError: it cannot be opened, or is a sqlite URL that names another file than it seems
            to. The message never repeats a password.
        StorageAwayError: the database did not answer within the patience.
    """
    check_sqlite_uri(url or "", "--storage")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
            lines = WholeLines if with_values else LinesWithoutValues
            return _Journal(lines(folder / JOURNAL))
        patience = current_patience()
        return PatientStorage.opened(lambda: _database(url), patience, without_password(url))
    except (DamagedJournalError, StorageAwayError):
        raise
    except Exception as error:
        if url is None:
            _refuse_damaged(folder / JOURNAL, error)
        got = f"{type(error).__name__} for {without_password(url) if url else folder}"
        first_line = str(error).strip().partition("\n")[0]
        do = f"choose another --results folder or --storage URL ({first_line})"
        raise refused("an Optuna storage that opens", got, do) from error


def _database(url: str) -> BaseStorage:
    """A database of Optuna's; one in PostgreSQL does not take minutes to see that its machine is
    gone."""
    options = _engine_options(url)
    return optuna.storages.get_storage(RDBStorage(url, options) if options else url)


def _engine_options(url: str) -> dict[str, Any]:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
        by_libpq = parsed.get_backend_name() == "postgresql"
        by_libpq = by_libpq and parsed.get_driver_name() in ("psycopg2", "psycopg")
    except ArgumentError:
        return {}
    if not by_libpq:
        return {}
    chosen = {name: value for name, value in LIBPQ.items() if name not in parsed.query}
    return {"connect_args": chosen}


def _refuse_damaged(journal: Path, error: Exception) -> None:
    """Names the line that Optuna could not apply, if that was it."""
    if isinstance(error, OSError):
        return
    for damage in examine(journal).damages:
        raise DamagedJournalError(journal, damage.line, damage.what) from error


class _Journal(JournalStorage):
    """Optuna's, which has no public way to its file."""

    def __init__(self, lines: WholeLines) -> None:
        super().__init__(lines)
        self.lines = lines
        lines.condense(self)


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
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in FORBIDDEN:
            return f"{cause.strerror}: {cause.filename}"
        if isinstance(cause, sqlite3.OperationalError) and "readonly" in str(cause):
            return str(cause)
    return None


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
    if not isinstance(database, RDBStorage):
        for name, study in studies.items():
            study.add_trials(added[name])
        return
    by_number = {storage.get_study_id_from_name(name): added[name] for name in added}
    if not isinstance(storage, PatientStorage):
        _insert(database, by_number)
        return

    def count() -> int:
        return sum(len(storage.get_all_trials(number, deepcopy=False)) for number in by_number)

    before = count()
    storage.write_once(lambda: _insert(database, by_number), lambda: count() > before)


def open_study(storage: BaseStorage, name: str, metrics: int) -> optuna.Study:
    """A study that maximises so many metrics, made if it is not there yet."""
    directions = [StudyDirection.MAXIMIZE] * metrics
    return optuna.create_study(
        storage=storage, study_name=name, directions=directions, load_if_exists=True
    )


def name_metrics(study: optuna.Study, metrics: Sequence[str]) -> None:
    """Says what a study maximises: Optuna's figures, and optuna-dashboard, write it at their
    axes."""
    if study.metric_names == list(metrics):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(metrics))


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
    tables: dict[Any, list[dict[str, Any]]] = {
        models.TrialValueModel: values,
        models.TrialParamModel: params,
        models.TrialUserAttributeModel: attributes,
    }
    for model, rows_of in tables.items():
        # Of no rows SQLAlchemy makes one without values.
        if rows_of:
            session.execute(model.__table__.insert(), rows_of)


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
