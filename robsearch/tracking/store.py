"""Where MLflow keeps its record: the tracking URI, whether it answers, and how a person opens it."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException

from robsearch.errors import InputError, refusal
from robsearch.paths import check_sqlite_uri
from robsearch.tracking.beside import client_of, sqlite_file

TRIAL = "robsearch.trial"
"""The tag that says which trial a run records; ``search`` for the run of the search itself."""


SEARCH_ID = "robsearch.search_id"
"""The tag of an experiment, a run or a model that says which search it is of: names repeat, identities do not."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
TRAINING = "workflowType=machine_learning"
"""Both open the UI's pages for training, the tag and the part of a link; without them they are for language models."""

RUNS_PER_PAGE = 200
"""With all that is known of each, 1,000 take a busy server longer than a request may."""


def served(uri: str) -> bool:
    """Whether it is a server's address, not a store that is opened here."""
    return uri.startswith(("http://", "https://"))


def check_tracking(uri: str) -> None:
    """Asks the tracking store for an answer, once and briefly.

    Raises:
        InputError: it does not answer, is of a kind MLflow no longer supports, or is a sqlite URI that names another
            file than it seems to.
    """
    check_sqlite_uri(uri, "--tracking")
    if served(uri):
        try:
            urllib.request.urlopen(f"{shown(uri).rstrip('/')}/health", timeout=5).close()
        except urllib.error.HTTPError:
            return  # it answered; whether it lets us in shows when the experiment is made
        except OSError as error:
            do = "start it, or give another --tracking URI (without one, a sqlite file beside the results serves)"
            got = getattr(error, "reason", error)  # urllib's own text stands in angle brackets
            raise InputError(refusal(f"an MLflow server at {shown(uri)}", got, do)) from error
    elif "://" not in uri or uri.startswith("file:"):
        do = "pass sqlite:///PATH, a database URL, or the http address of an MLflow server"
        raise InputError(refusal("an MLflow tracking URI", repr(shown(uri)), do))


def shown(text: str) -> str:
    """A URI, or a message that quotes one, without user names and passwords."""
    return re.sub(r"(?<!/)//[^/\s]*@", "//", text)  # a sqlite URI has three or four slashes, and no user


def open_experiment(
    client: MlflowClient, uri: str, search: str, results: Path, identity: str, adopt: bool = False
) -> str:
    """The id of a search's experiment, made if need be; a database store puts artifacts beside the results.

    Args:
        client: of the store.
        uri: of the store.
        search: its name, and the experiment's.
        results: the results folder.
        identity: of the search.
        adopt: whether an experiment without an identity becomes the search's: it was begun before robsearch 0.2.

    Raises:
        InputError: the experiment of that name is another search's, or deleted.
    """
    known = _known(client, search, identity)
    if known is None:
        artifacts = None if served(uri) else (results.resolve() / "mlartifacts" / search).as_uri()
        tags = {**KIND, SEARCH_ID: identity}
        try:
            return str(client.create_experiment(search, artifact_location=artifacts, tags=tags))
        except MlflowException:  # another process made it just now, or this one did and the answer was lost
            known = client.get_experiment_by_name(search)
            if known is None:
                raise
    if adopt and not known.tags.get(SEARCH_ID) and known.lifecycle_stage != "deleted":
        client.set_experiment_tag(known.experiment_id, SEARCH_ID, identity)
        return str(known.experiment_id)
    if problem := experiment_problem(known, uri, identity):
        raise InputError(problem)
    return str(known.experiment_id)


def experiment_problem(experiment: Experiment, uri: str, identity: str) -> str | None:
    """Why an experiment cannot be a search's, in one sentence; None if it is.

    One without a tag is that of a search begun before robsearch 0.2, or nobody's.
    """
    name, where = experiment.name, f"experiment {experiment.experiment_id} in {shown(uri)}"
    if experiment.lifecycle_stage == "deleted":
        do = f"restore it (mlflow experiments restore -x {experiment.experiment_id}), or launch under another --name"
        return refusal(f"an MLflow experiment {name!r} that can be written", f"{where}, which was deleted", do)
    known = experiment.tags.get(SEARCH_ID, "")
    if known == identity:
        return None
    got = f"{where}, which is of another search" if known else f"{where}, which this search did not make"
    do = "choose another --name or --tracking, or rename that experiment in MLflow"
    return refusal(f"an MLflow experiment {name!r} of this search", got, do)


def _known(client: MlflowClient, search: str, identity: str) -> Experiment | None:
    """A search's experiment, also where a person renamed it in MLflow; else the one that has its name."""
    named = client.get_experiment_by_name(search)
    if not identity or (named is not None and named.tags.get(SEARCH_ID) == identity):
        return named
    renamed = client.search_experiments(ViewType.ALL, filter_string=f"tags.`{SEARCH_ID}` = '{identity}'")
    return min(renamed, key=lambda one: (one.lifecycle_stage == "deleted", one.creation_time), default=named)


def experiment_exists(uri: str, name: str) -> bool:
    """Whether a store has an experiment of this name, deleted or not; a database that is not there is not made."""
    try:
        return _opened(uri).get_experiment_by_name(name) is not None
    except FileNotFoundError:
        return False


def all_runs(client: MlflowClient, experiment: str) -> list[Run]:
    """Every run of an experiment that is not deleted."""
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=RUNS_PER_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def ui_command(uri: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command that serves the MLflow UI on a store, with one small worker.

    A URI with a password in it is left out, because everybody on the machine may read a process's arguments: pass it
    as ``MLFLOW_BACKEND_STORE_URI`` in the environment.
    """
    store = [] if shown(uri) != uri else ["--backend-store-uri", uri]
    quiet = ["--uvicorn-opts", "--log-level warning"]  # a line for every request would bury the address
    on = ["--host", host, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *store, *on, *quiet]


def experiment_page(address: str, experiment: str | None, view: str | None = None) -> str:
    """The deep link to the charts of a search's runs, in a saved view; the first page without an experiment."""
    page = f"/#/experiments/{experiment}/runs?compareRunsMode=CHART&{TRAINING}" if experiment else ""
    return address.rstrip("/") + page + (f"&viewStateShareKey={view}" if page and view else "")


class RunOfTrial(NamedTuple):
    """What a run records: the trial (None for the run of the search itself) of the search with this name and identity.

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
        do = "copy the run id of a trial from the MLflow UI, or pass --tracking"
        raise InputError(refusal(f"the run of a trial in {shown(uri)}", run_id, do)) from error
    identity = experiment.tags.get(SEARCH_ID, "")
    search = run.data.tags.get("robsearch.search", experiment.name)  # a person may have renamed the experiment
    return RunOfTrial(str(search), None if trial == "search" else trial, identity)


def run_page(uri: str, experiment: str, run: str, port: int = 5000) -> str:
    """The address of a run in the MLflow UI: that of a server, else where ``robsearch ui`` serves the store."""
    address = shown(uri).rstrip("/") if served(uri) else f"http://127.0.0.1:{port}"
    return f"{address}/#/experiments/{experiment}/runs/{run}?{TRAINING}"


def run_pages(uri: str, search: str, identity: str) -> dict[str, str]:
    """The ``run_page`` of each trial of a search; empty where the store does not answer or has another search's."""
    try:
        check_tracking(uri)
        experiment = experiment_of(uri, search, identity)
        runs = all_runs(MlflowClient(uri), experiment) if experiment else []
    except Exception:  # whatever ails the store, a report does without links
        return {}
    found = {run.data.tags[TRIAL]: run.info.run_id for run in runs if TRIAL in run.data.tags}
    return {trial: run_page(uri, str(experiment), run) for trial, run in found.items()}


def experiment_of(uri: str, search: str, identity: str) -> str | None:
    """The id of a search's experiment in a store, or None if it has none.

    Raises:
        InputError: the experiment of that name is another search's, or deleted.
    """
    try:
        found = _known(_opened(uri), search, identity)
    except FileNotFoundError:
        return None
    if found is None:
        return None
    if problem := experiment_problem(found, uri, identity):
        raise InputError(problem)
    return str(found.experiment_id)


def _opened(uri: str) -> MlflowClient:
    """A client that reads; one of a sqlite file that is not there would make it.

    Raises:
        FileNotFoundError: it is not there.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise FileNotFoundError(file)
    return client_of(uri)
