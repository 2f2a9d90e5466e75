"""The default store: one sqlite file beside the results, found and made right again wherever they
lie now.

A results folder may be moved, copied or mounted elsewhere, and may have any name. A search
therefore remembers the default store as ``BESIDE``, not as a path, and what MLflow itself remembers
as a path is brought up to date when the store is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from robsearch.errors import refused

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILE, ARTIFACTS = "mlflow.db", "mlartifacts"
BESIDE = ""
"""What a search remembers of the default store."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every run that ends
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
LEVELS = {
    "mlflow.store.db.utils": logging.CRITICAL + 1,  # nothing at all
    "mlflow.store.model_registry.abstract_store": logging.WARNING,
    "alembic": logging.WARNING,
}

BUSY_SECONDS = 20.0
"""How long another process may write to the file meanwhile; MLflow waits as long."""

_OF_RUN = "(SELECT experiment_id FROM runs WHERE run_uuid = run_id)"
LOCATIONS = (
    ("experiments", "experiment_id", "artifact_location", "experiment_id"),
    ("runs", "run_uuid", "artifact_uri", "experiment_id"),
    ("logged_models", "model_id", "artifact_location", "experiment_id"),
    ("model_versions", "rowid", "source", _OF_RUN),
    ("model_versions", "rowid", "storage_location", _OF_RUN),
)
"""Where MLflow keeps absolute locations: table, key, column, and the row's experiment (seen in
MLflow 3.17)."""


def default_uri(results: Path) -> str:
    """The sqlite file beside the results, as a URI that SQLAlchemy and MLflow read as exactly this
    file.

    Raises:
        InputError: the path has a ``?``, and the SQLAlchemy here is older than 2.1, which cannot
            name such a file.
    """
    file = str(results.resolve() / FILE)
    if re.fullmatch(r"[\w./-]+", file):  # without the second that SQLAlchemy takes to import
        return f"sqlite:///{file}"
    from sqlalchemy.engine import make_url

    for uri in (f"sqlite:///{file}", f"sqlite+pysqlite:///{quote(file)}"):
        if make_url(uri).database == file:
            return uri
    do = "rename the folder, install SQLAlchemy 2.1, or pass a --tracking URI"
    raise refused("a results folder that a sqlite URI can name", repr(str(results)), do)


def sqlite_file(uri: str) -> Path | None:
    """The file that a sqlite URI names, as SQLAlchemy reads it; None for another URI, or one in
    memory."""
    if not uri.startswith("sqlite"):
        return None
    plain = re.fullmatch(r"sqlite:///(/[\w./-]+)", uri)
    if plain:  # without the second that SQLAlchemy takes to import
        return Path(plain[1])
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    inner = urlsplit(url.database)  # ``file:...?uri=true`` is sqlite's own kind of URI
    return Path(unquote(inner.path) if inner.scheme == "file" else url.database).absolute()


def may_have_runs(uri: str) -> bool:
    """Whether a store may be there: not one in a sqlite file that is missing."""
    file = sqlite_file(uri)
    return file is None or file.exists()


def exact(uri: str) -> str:
    """The same store under a URI for which MLflow makes no folder of its own.

    Of ``sqlite:///`` MLflow makes the parent folder without decoding ``%3F``: a second folder,
    beside the one meant. With the driver's name in the URI it leaves that to others.
    """
    file = sqlite_file(uri)
    written = uri.removeprefix("sqlite:///")
    if file is None or written == uri or Path(written).absolute() == file:
        return uri
    return f"sqlite+pysqlite:///{written}"


def to_remember(uri: str, results: Path) -> str:
    """What a search is to remember of the store at a URI: ``BESIDE`` for the default one, else the
    URI."""
    return BESIDE if _is_default(uri, results) else uri


def found_again(remembered: str, search: str, results: Path) -> str:
    """The URI of the store that a search remembers, where its results lie now.

    Args:
        remembered: ``BESIDE`` or a URI. Searches of earlier versions have the default store as an
            absolute path, which is wrong once the results have been moved or copied: then the file
            beside the results is meant.
        search: its name.
        results: the folder that the search lies in now.
    """
    if remembered == BESIDE:
        return default_uri(results)
    file = sqlite_file(remembered)
    if file is None or file.name != FILE or _is_default(remembered, results):
        return remembered
    beside = results.resolve() / FILE
    moved = not file.exists() or _knows(beside, search)
    return default_uri(results) if moved else remembered


def opened(uri: str, results: Path | None = None) -> MlflowClient:
    """A client of a store. With the results folder, a default store that was moved is put right
    first."""
    from mlflow.tracking._tracking_service import utils

    if results is not None and _is_default(uri, results):
        follow_move(results.resolve())
        # of a copy, runs have the same ids, and this process may have opened the original
        utils._artifact_repos_cache.clear()
    if uri.startswith("sqlite+") and (file := sqlite_file(uri)):
        file.parent.mkdir(parents=True, exist_ok=True)  # see ``exact``
    return client_of(uri)


def client_of(uri: str) -> MlflowClient:
    """A client of a store. The tables of a new sqlite file are made by one process of this machine
    at a time."""
    from mlflow import MlflowClient

    configure_mlflow()
    file = sqlite_file(uri)
    if file is None:
        return MlflowClient(uri)
    with _alone(file):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)  # makes them
        return client


def configure_mlflow() -> None:
    """MLflow without telemetry, without remarks, and without long waits of its own.

    Its own retries would hold a dead server's requests for minutes, and make a thing twice whose
    answer was lost; ours look first what is there, and go on. What it logs of a
    database that fails are tracebacks, of which ``Tracker.trouble`` is one line.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true":
        from mlflow.telemetry import set_telemetry_client

        set_telemetry_client()  # which reads that anew
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Of two processes that make the same tables at once, MLflow fails in one: "table already
    exists"."""
    name = hashlib.sha256(os.fsencode(file)).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"robsearch-{os.getuid()}-{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def follow_move(results: Path) -> None:
    """Makes the default store keep artifacts where the results lie now.

    MLflow remembers an absolute location for every experiment, run, model and version, and has no
    public way to change one. After a move it would read and write at the old place. So these rows
    are changed in the file itself, in one transaction, and only those that lie in
    ``mlartifacts/SEARCH`` of another folder although the search is here: to where the same
    artifacts are here, or would be, never away from artifacts that are at the old place only.

    Args:
        results: the folder, resolved; where it has no store, or one that may not be written,
            nothing happens.
    """
    file = results / FILE
    if not os.access(file, os.W_OK):
        return
    uri = f"{file.as_uri()}?mode=rw"
    # As a context a connection is one transaction, and stays open.
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as store, store:
        moved = list(_moved(store, results)) if _is_mlflow(store) else []
        for table, key, column, row, location in moved:
            store.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (location, row))


def _moved(store: sqlite3.Connection, results: Path) -> Iterator[tuple[str, str, str, object, str]]:
    """Table, key, column, row and new location of whatever lies under another results folder."""
    here = {
        number: name
        for number, name in store.execute("SELECT experiment_id, name FROM experiments")
        if (results / name).is_dir() or (results / ARTIFACTS / name).is_dir()
    }
    for table, key, column, experiment in LOCATIONS:
        rows = store.execute(f"SELECT {key}, {column}, {experiment} FROM {table}")
        for row, location, number in rows:
            if number in here and location:
                new = _new_location(location, here[number], results)
                if new:
                    yield table, key, column, row, new


def _new_location(location: str, search: str, results: Path) -> str | None:
    parts = urlsplit(location)
    if parts.scheme not in ("file", ""):
        return None
    old = Path(unquote(parts.path))
    home = results / ARTIFACTS / search
    for folder in (old, *old.parents):
        if folder.name == search and folder.parent.name == ARTIFACTS and folder != home:
            new = home / old.relative_to(folder)
            return new.as_uri() if new.exists() or not old.exists() else None
    return None


def _is_mlflow(store: sqlite3.Connection) -> bool:
    """Whether it has the tables; what is wrong with another file MLflow itself says best."""
    try:
        tables = set(store.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
    except sqlite3.DatabaseError:
        return False
    return {(table,) for table, *_ in LOCATIONS} <= tables


def _knows(file: Path, search: str) -> bool:
    """Whether a store has a search's experiment; MLflow's client would make a file that is not
    there."""
    if not file.is_file():
        return False
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as store:
        named = "SELECT 1 FROM experiments WHERE name = ?"
        return _is_mlflow(store) and store.execute(named, (search,)).fetchone() is not None


def _is_default(uri: str, results: Path) -> bool:
    file = sqlite_file(uri)
    return file is not None and file.parent.resolve() / file.name == results.resolve() / FILE
