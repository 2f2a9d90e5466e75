"""Where MLflow keeps its record: the tracking URI, whether it answers, and how a person opens
it."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException

from robsearch.errors import InputError, refusal, refused
from robsearch.tracking.beside import client_of, sqlite_file
from robsearch.trials.paths import check_sqlite_uri, without_password

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "databricks", "databricks-uc", "uc")
"""Of the stores that MLflow opens, beside servers."""

TRIAL = "robsearch.trial"
"""The tag that says which trial a run records; ``search`` for the run of the search itself."""

SEARCHED = "param/"
"""Begins the name of a run's parameter that Optuna suggested."""

SEARCH_ID = "robsearch.search_id"
"""The tag of an experiment, a run or a model that says which search it is of: names repeat,
identities do not."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
TRAINING = "workflowType=machine_learning"
"""Both open the UI's pages for training, the tag and the part of a link; without them they are for
language models."""

NO_ANSWER = re.compile(r"API request to (https?://[^/\s]+)\S* failed with exception (.*)")
"""How MLflow puts an outage; the rest repeats the address twice."""

RUNS_PER_PAGE = 200
"""With all that is known of each, 1,000 take a busy server longer than a request may."""


def served(uri: str) -> bool:
    """Whether it is a server's address, not a store that is opened here."""
    return uri.startswith(("http://", "https://"))


def check_tracking(uri: str) -> None:
    """Asks the tracking store for an answer, once and briefly.

    Raises:
        InputError: it does not answer, is of a kind MLflow no longer supports, or is a sqlite URI
            that names another file than it seems to.
    """
    check_sqlite_uri(uri, "--tracking")
    shown = without_password(uri)
    if served(uri):
        try:
            urllib.request.urlopen(f"{shown.rstrip('/')}/health", timeout=5).close()
        except urllib.error.HTTPError:
            return  # it answered; whether it lets us in shows when the experiment is made
        except OSError as error:
            got = getattr(error, "reason", error)  # urllib's own text stands in angle brackets
            do = (
                "start it, or give another --tracking URI (without one, a sqlite file beside "
                "the results serves)"
            )
            raise refused(f"an MLflow server at {shown}", got, do) from error
    elif uri.partition(":")[0].partition("+")[0] not in _schemes():
        do = "pass sqlite:///PATH, a database URL, or the http address of an MLflow server"
        raise refused("an MLflow tracking URI", repr(shown), do)


def _schemes() -> set[str]:
    """The beginnings of the URIs that MLflow opens, with those of its plugins."""
    plugins = entry_points(group="mlflow.tracking_store")
    return {*SCHEMES, *(plugin.name for plugin in plugins)}


def open_experiment(
    client: MlflowClient, uri: str, search: str, results: Path, identity: str, adopt: bool = False
) -> str:
    """The id of a search's experiment, made if need be; a database store puts artifacts beside the
    results.

    Args:
        client: of the store.
        uri: of the store.
        search: its name, and the experiment's.
        results: the results folder.
        identity: of the search.
        adopt: whether an experiment without an identity becomes the search's: it was begun before
            robsearch 0.2.

    Raises:
        InputError: the experiment of that name is another search's, or deleted.
    """
    experiment = _find(client, search, identity)
    if experiment is None:
        # A server has a place of its own for artifacts.
        artifacts = None if served(uri) else (results.resolve() / "mlartifacts" / search).as_uri()
        tags = {**KIND, SEARCH_ID: identity}
        try:
            return str(client.create_experiment(search, artifact_location=artifacts, tags=tags))
        except MlflowException:
            # Another process made it just now, or this one did and the answer was lost.
            experiment = client.get_experiment_by_name(search)
            if experiment is None:
                raise
    is_old = not experiment.tags.get(SEARCH_ID) and experiment.lifecycle_stage != "deleted"
    if adopt and is_old:
        client.set_experiment_tag(experiment.experiment_id, SEARCH_ID, identity)
    elif problem := experiment_problem(experiment, uri, identity):
        raise InputError(problem)
    return str(experiment.experiment_id)


def experiment_problem(experiment: Experiment, uri: str, identity: str) -> str | None:
    """Why an experiment cannot be a search's, in one sentence; None if it is.

    One without a tag is that of a search begun before robsearch 0.2, or nobody's.
    """
    number = experiment.experiment_id
    where = f"experiment {number} in {without_password(uri)}"
    expected = f"an MLflow experiment {experiment.name!r}"
    if experiment.lifecycle_stage == "deleted":
        got = f"{where}, which was deleted"
        do = f"restore it (mlflow experiments restore -x {number}), or launch under another --name"
        return refusal(f"{expected} that can be written", got, do)
    owner = experiment.tags.get(SEARCH_ID, "")
    if owner == identity:
        return None
    why = "is of another search" if owner else "this search did not make"
    do = "choose another --name or --tracking, or rename that experiment in MLflow"
    return refusal(f"{expected} of this search", f"{where}, which {why}", do)


def _find(client: MlflowClient, search: str, identity: str) -> Experiment | None:
    """A search's experiment, also where a person renamed it in MLflow; else the one that has its
    name."""
    named = client.get_experiment_by_name(search)
    if not identity or (named is not None and named.tags.get(SEARCH_ID) == identity):
        return named
    of_search = f"tags.`{SEARCH_ID}` = '{identity}'"
    renamed = client.search_experiments(ViewType.ALL, filter_string=of_search)

    def first_made(experiment: Experiment) -> tuple[bool, int | None]:
        return experiment.lifecycle_stage == "deleted", experiment.creation_time

    return min(renamed, key=first_made, default=named)


def first_line(error: Exception) -> str:
    """An error in one line, without user names and passwords; what HTTP says of an outage in few
    words."""
    text = without_password(str(error).strip().partition("\n")[0])
    outage = NO_ANSWER.search(text)
    if outage is None:
        return f"{type(error).__name__}: {text}"
    address, why = outage.groups()
    for reason in ("Connection refused", "timed out"):
        if reason in text:
            why = reason
            break
    return f"no answer from {address} ({why})"


def experiment_exists(uri: str, name: str) -> bool:
    """Whether a store has an experiment of this name, deleted or not; a database that is not there
    is not made."""
    try:
        return _opened(uri).get_experiment_by_name(name) is not None
    except FileNotFoundError:
        return False


def all_runs(client: MlflowClient, experiment: str, kind: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Every run of an experiment; by default those that are not deleted."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], run_view_type=kind, max_results=RUNS_PER_PAGE, page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def ui_command(uri: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command that serves the MLflow UI on a store, with one small worker.

    A URI with a password in it is left out, because everybody on the machine may read a process's
    arguments: pass it as ``MLFLOW_BACKEND_STORE_URI`` in the environment.
    """
    store = [] if without_password(uri) != uri else ["--backend-store-uri", uri]
    # A line for every request would bury the address.
    quiet = ["--uvicorn-opts", "--log-level warning"]
    on = ["--host", host, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *store, *on, *quiet]


def experiment_page(address: str, experiment: str | None, view: str | None = None) -> str:
    """The deep link to the charts of a search's runs, in a saved view; the first page without an
    experiment."""
    address = address.rstrip("/")
    if not experiment:
        return address
    page = f"{address}/#/experiments/{experiment}/runs?compareRunsMode=CHART&{TRAINING}"
    return f"{page}&viewStateShareKey={view}" if view else page


class RunOfTrial(NamedTuple):
    """What a run records: the trial (None for the run of the search itself) of the search with this
    name and identity.

    The identity is empty for a search begun before robsearch 0.2.
    """

    search: str
    trial: str | None
    identity: str


def trial_of_run(uri: str, run_id: str) -> RunOfTrial:
    """The search and the trial that a run records.

    Raises:
        InputError: the store has no such run, or it is not one of a search.
    """
    try:
        client = _opened(uri)
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id)
        trial = run.data.tags[TRIAL]
    except (MlflowException, KeyError, FileNotFoundError) as error:
        expected = f"the run of a trial in {without_password(uri)}"
        do = "copy the run id of a trial from the MLflow UI, or pass --tracking"
        raise refused(expected, run_id, do) from error
    # A person may have renamed the experiment.
    search = run.data.tags.get("robsearch.search", experiment.name)
    identity = experiment.tags.get(SEARCH_ID, "")
    return RunOfTrial(search, None if trial == "search" else trial, identity)


def run_page(uri: str, experiment: str, run: str) -> str:
    """The address of a run in the MLflow UI: that of a server, else where ``robsearch ui`` serves
    the store."""
    address = without_password(uri).rstrip("/") if served(uri) else "http://127.0.0.1:5000"
    return f"{address}/#/experiments/{experiment}/runs/{run}?{TRAINING}"


def run_pages(uri: str, search: str, identity: str) -> dict[str, str]:
    """The ``run_page`` of each trial of a search; empty where the store does not answer or has
    another search's."""
    try:
        check_tracking(uri)
        experiment = experiment_of(uri, search, identity)
        runs = all_runs(MlflowClient(uri), experiment) if experiment else []
    except Exception:  # whatever ails the store, a report does without links
        return {}
    return {
        run.data.tags[TRIAL]: run_page(uri, str(experiment), run.info.run_id)
        for run in runs
        if TRIAL in run.data.tags
    }


def experiment_of(uri: str, search: str, identity: str) -> str | None:
    """The id of a search's experiment in a store, or None if it has none.

    Raises:
        InputError: the experiment of that name is another search's, or deleted.
    """
    try:
        experiment = _find(_opened(uri), search, identity)
    except FileNotFoundError:
        return None
    if experiment is None:
        return None
    if problem := experiment_problem(experiment, uri, identity):
        raise InputError(problem)
    return str(experiment.experiment_id)


def runs_of_search(uri: str, search: str, identity: str) -> int:
    """How many runs a store has of a search; none where its experiment is another search's, or
    deleted."""
    experiment = _own_experiment(uri, search, identity)
    return len(all_runs(_opened(uri), experiment.experiment_id)) if experiment else 0


def delete_experiment(uri: str, search: str, identity: str) -> None:
    """Marks a search's experiment, with its runs, as deleted, under another name: this one is free
    then. ``mlflow gc`` removes what is marked, with its artifacts."""
    experiment = _own_experiment(uri, search, identity)
    if experiment is None:
        return
    client = _opened(uri)
    number = experiment.experiment_id
    if experiment.name == search:
        client.rename_experiment(number, f"{search} (deleted, {number})")
    client.delete_experiment(number)


def _own_experiment(uri: str, search: str, identity: str) -> Experiment | None:
    try:
        experiment = _find(_opened(uri), search, identity)
    except FileNotFoundError:
        return None
    if experiment is None or experiment_problem(experiment, uri, identity):
        return None
    return experiment


def _opened(uri: str) -> MlflowClient:
    """A client that reads; one of a sqlite file that is not there would make it.

    Raises:
        FileNotFoundError: it is not there.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise FileNotFoundError(file)
    return client_of(uri)
