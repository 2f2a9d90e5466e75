"""Exported networks in MLflow: the logged model of a trial's run, and the versions of a registered model."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Run, ViewType
from mlflow.entities.logged_model_status import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from robsearch.errors import InputError, refusal
from robsearch.tracking.beside import opened
from robsearch.tracking.exporting import opener_of
from robsearch.tracking.store import SEARCH_ID, TRIAL, all_runs, experiment_of, shown

MODEL_NAME = re.compile(r"""[^/:'"`%\\\x00-\x1f]{1,256}""")

OPENER = "robsearch.opener"
"""A logged model's tag: the module that opens it, which comes with it. Those before robsearch 0.2 have none."""

MODEL_METRICS = ("val/best_robust_accuracy", "test/natural_accuracy", "test/robust_accuracy")
"""Metrics of the run that are shown beside its model."""


def upload(client: MlflowClient, experiment: str, run: str, trial: str, folder: Path) -> LoggedModel:
    """The logged model of a trial's run: the one of this form that is there, or a new one with the folder's files."""
    model = _logged_model(client, experiment, run, opener_of(folder))
    if model is None:
        tags = {TRIAL: trial, OPENER: opener_of(folder)}
        known = {name: value for name, value in tags.items() if value is not None}
        model = client.create_logged_model(experiment, trial.replace(".", "_"), run, tags=known)
    if model.status == LoggedModelStatus.READY:
        return model
    client.log_model_artifacts(model.model_id, str(folder))
    found = client.get_run(run)
    if not (found.outputs and found.outputs.model_outputs):
        client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
    if metrics := _as_of_model(client, found, model):
        client.log_batch(run, metrics=metrics)
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def check_model_names(names: Iterable[str]) -> None:
    """Refuses names that MLflow's registry would not take, or could not find again.

    Raises:
        InputError: all of them, with what a name may be.
    """
    problems = [
        refusal("the name of a registered model", repr(name), "use 1 to 256 letters without '/', ':', quotes and '%'")
        for name in names
        if not MODEL_NAME.fullmatch(name) or not name.strip(" .")
    ]
    if problems:
        raise InputError(*problems)


class Promoted(NamedTuple):
    """A network that is to be registered.

    Attributes:
        search: the name of its search.
        identity: of that search.
        trial: such as ``w4-017``; its run must be in the store.
        folder: that ``save_model`` wrote.
        sync: the command that delivers what the store lacks.
    """

    search: str
    identity: str
    trial: str
    folder: Path
    sync: str = "robsearch sync"


def register(uri: str, network: Promoted, name: str, *, own: bool, results: Path | None = None) -> str:
    """A version of a registered model that is a trial's; the one that is there already, or a new one.

    Args:
        uri: of the tracking store, which is the registry too.
        network: of the trial.
        name: of the registered model.
        own: whether the name is the search's own, ``NAME-w4``: then another search's versions must not be under it.
        results: the results folder, for a default store that was moved with it.

    Returns:
        Its URI, ``models:/NAME/VERSION``.

    Raises:
        InputError: the store has no run of the trial, refuses the name, or has another search's under it.
    """
    client = opened(uri, results)
    experiment = experiment_of(uri, network.search, network.identity)
    runs = all_runs(client, experiment) if experiment else []
    run = next((run for run in runs if run.data.tags.get(TRIAL) == network.trial), None)
    if run is None or experiment is None:
        raise _no_run(client, uri, network, experiment)
    known = client.search_model_versions(f"name = '{name}'")
    if own:
        _refuse_others(known, name, network.identity)
    model = upload(client, experiment, run.info.run_id, network.trial, network.folder)
    version = next((one for one in known if one.source == str(model.artifact_location)), None)
    if version is None:
        version = _new_version(client, network, model, run, name)
    return f"models:/{name}/{version.version}"


def _no_run(client: MlflowClient, uri: str, network: Promoted, experiment: str | None) -> InputError:
    """The refusal of a trial without a run: one that a person deleted is not delivered again by ``sync``."""
    of_trial = f"tags.`{TRIAL}` = '{network.trial}'"
    deleted = client.search_runs([experiment], of_trial, ViewType.DELETED_ONLY) if experiment else []
    got, do = "none", f"deliver it with `{network.sync}`, or pass the --tracking of its launch"
    if deleted:
        run = deleted[0].info.run_id
        got, do = f"run {run}, which was deleted", f"restore it (mlflow runs restore --run-id {run})"
    return InputError(refusal(f"a run of {network.search}/{network.trial} in {shown(uri)}", got, do))


def _new_version(client: MlflowClient, network: Promoted, model: LoggedModel, run: Run, name: str) -> ModelVersion:
    source = str(model.artifact_location)
    tags = {"robsearch.search": network.search, SEARCH_ID: network.identity, TRIAL: network.trial}
    try:
        with contextlib.suppress(MlflowException):  # it is there already
            client.create_registered_model(name)
        return client.create_model_version(name, source, run.info.run_id, tags, model_id=model.model_id)
    except MlflowException as error:
        do = "choose another --as name"
        raise InputError(refusal(f"a registry that takes {name!r}", shown(str(error)), do)) from error


def _refuse_others(versions: Sequence[ModelVersion], name: str, identity: str) -> None:
    """Versions without an identity are of a search begun before robsearch 0.2, when nobody could tell."""
    others = [one.version for one in versions if (one.tags.get(SEARCH_ID) or identity) != identity]
    if others:
        got = f"version {', '.join(map(str, others))} of another search of that name"
        raise InputError(refusal(f"a registered model {name!r} of this search", got, "choose a name: --as NAME"))


def _as_of_model(client: MlflowClient, run: Run, model: LoggedModel) -> list[Metric]:
    """Some last values of a run, at their own times, so that the run's curves stay as they are."""
    found = []
    for name in MODEL_METRICS:
        if name in run.data.metrics:
            last = client.get_metric_history(run.info.run_id, name)[-1]
            own = {"model_id": model.model_id, "run_id": run.info.run_id}
            found.append(Metric(name, last.value, last.timestamp, last.step, **own))
    return found


def _logged_model(client: MlflowClient, experiment: str, run: str, opener: str | None) -> LoggedModel | None:
    """The model that a run made, finished or not; None if it made none, or none that is opened this way."""
    found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run}'")
    return next((model for model in found if model.tags.get(OPENER) == opener), None)
