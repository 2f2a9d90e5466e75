"""Exported networks in MLflow: the logged model of a trial's run, and the versions of a registered
model."""

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

from robsearch.errors import InputError, refusal, refused
from robsearch.metrics import LAM
from robsearch.tracking.beside import opened
from robsearch.tracking.exporting import opener_of
from robsearch.tracking.store import SEARCH_ID, SEARCHED, TRIAL, all_runs, experiment_of
from robsearch.trials.paths import without_password

MODEL_NAME = re.compile(r"""[^/:'"`%\\\x00-\x1f]{1,256}""")

OPENER = "robsearch.opener"
"""A logged model's tag: the module that opens it, which comes with it. Those before robsearch 0.2
have none."""

MODEL_METRICS = ("val/best_robust_accuracy", "test/natural_accuracy", "test/robust_accuracy")
"""Metrics of the run that are shown beside its model."""
VERSION_METRICS = (*MODEL_METRICS, "strongest/robust_accuracy")
"""Those that a version of a registered model has as tags: the registry's table shows no others."""
VERSION_TAGS = ("robsearch.width", "robsearch.strongest")
"""Tags of the run that a version has, too."""


def upload(
    client: MlflowClient, experiment: str, run: str, trial: str, folder: Path
) -> LoggedModel:
    """The logged model of a trial's run: the one of this form that is there, or a new one with the
    folder's files.

    A model that another process, or this one before an answer was lost, has begun is completed.
    """
    opener = opener_of(folder)
    model = _logged_model(client, experiment, run, opener)
    source = client.get_run(run)
    if model is None:
        tags = {TRIAL: trial} if opener is None else {TRIAL: trial, OPENER: opener}
        # MLflow takes no dot in the name of a logged model.
        name = trial.replace(".", "_")
        params = _suggested(source)
        made = client.create_logged_model(experiment, name, run, tags=tags, params=params)
        model = _logged_model(client, experiment, run, opener) or made
    if model.status == LoggedModelStatus.READY:
        return model
    client.log_model_artifacts(model.model_id, str(folder))
    if not (source.outputs and source.outputs.model_outputs):
        client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
    if metrics := _as_of_model(client, source, model):
        client.log_batch(run, metrics=metrics)
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def check_model_names(names: Iterable[str]) -> None:
    """Refuses names that MLflow's registry would not take, or could not find again.

    Raises:
        InputError: all of them, with what a name may be.
    """
    problems = [
        refusal(
            "the name of a registered model",
            repr(name),
            "use 1 to 256 letters without '/', ':', quotes and '%'",
        )
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


def register(
    uri: str, network: Promoted, name: str, *, only_owner: bool, results: Path | None = None
) -> str:
    """A version of a registered model that is a trial's; the one that is there already, or a new
    one.

    Args:
        uri: of the tracking store, which is the registry too.
        network: of the trial.
        name: of the registered model.
        only_owner: whether the name is the search's own, ``NAME-w4``: then another search's
            versions must not be under it.
        results: the results folder, for a default store that was moved with it.

    Returns:
        Its URI, ``models:/NAME/VERSION``.

    Raises:
        InputError: the store has no run of the trial, refuses the name, or has another search's
            under it.
    """
    client = opened(uri, results)
    experiment = experiment_of(uri, network.search, network.identity)
    runs = all_runs(client, experiment) if experiment else []
    run = next((run for run in runs if run.data.tags.get(TRIAL) == network.trial), None)
    if run is None or experiment is None:
        raise _no_run(client, uri, network, experiment)
    versions = client.search_model_versions(f"name = '{name}'")
    if only_owner:
        _refuse_others(versions, name, network.identity)
    model = upload(client, experiment, run.info.run_id, network.trial, network.folder)
    source = str(model.artifact_location)
    registered = next((version for version in versions if version.source == source), None)
    version = registered or _new_version(client, network, model, run, name)
    # What is known of a network grows: ``robsearch evaluate`` finds a stronger attack.
    for tag, text in _version_facts(run).items():
        if version.tags.get(tag) != text:
            client.set_model_version_tag(name, version.version, tag, text)
    return f"models:/{name}/{version.version}"


def _suggested(run: Run) -> dict[str, str]:
    """The width, lambda and the other parameters of a run that were searched."""
    params = run.data.params
    return {
        name: text
        for name, text in params.items()
        if name in ("width", "lam") or name.startswith(SEARCHED)
    }


def _version_facts(run: Run) -> dict[str, str]:
    """What the registry shows of a version, as tags."""
    facts = {name: run.data.tags[name] for name in VERSION_TAGS if name in run.data.tags}
    for name in VERSION_METRICS:
        if name in run.data.metrics:
            facts[name] = f"{run.data.metrics[name]:.6g}"
    # Of a schedule it is the last value.
    if LAM in run.data.metrics:
        facts["robsearch.lam"] = f"{run.data.metrics[LAM]:.6g}"
    return facts


def _no_run(
    client: MlflowClient, uri: str, network: Promoted, experiment: str | None
) -> InputError:
    """The refusal of a trial without a run: one that a person deleted is not delivered again by
    ``sync``."""
    of_trial = f"tags.`{TRIAL}` = '{network.trial}'"
    deleted = (
        client.search_runs([experiment], of_trial, ViewType.DELETED_ONLY) if experiment else []
    )
    got, do = "none", f"deliver it with `{network.sync}`, or pass the --tracking of its launch"
    if deleted:
        run = deleted[0].info.run_id
        got, do = (
            f"run {run}, which was deleted",
            f"restore it (mlflow runs restore --run-id {run})",
        )
    return refused(f"a run of {network.search}/{network.trial} in {without_password(uri)}", got, do)


def _new_version(
    client: MlflowClient, network: Promoted, model: LoggedModel, run: Run, name: str
) -> ModelVersion:
    source = str(model.artifact_location)
    tags = {"robsearch.search": network.search, SEARCH_ID: network.identity, TRIAL: network.trial}
    try:
        with contextlib.suppress(MlflowException):  # it is there already
            client.create_registered_model(name)
        return client.create_model_version(
            name, source, run.info.run_id, tags, model_id=model.model_id
        )
    except MlflowException as error:
        do = "choose another --as name"
        raise refused(
            f"a registry that takes {name!r}", without_password(str(error)), do
        ) from error


def _refuse_others(versions: Sequence[ModelVersion], name: str, identity: str) -> None:
    """Versions without an identity are of a search begun before robsearch 0.2, when nobody could
    tell."""
    others = [
        version.version
        for version in versions
        if (version.tags.get(SEARCH_ID) or identity) != identity
    ]
    if others:
        got = f"version {', '.join(map(str, others))} of another search of that name"
        raise refused(
            f"a registered model {name!r} of this search", got, "choose a name: --as NAME"
        )


def _as_of_model(client: MlflowClient, run: Run, model: LoggedModel) -> list[Metric]:
    """Some last values of a run, at their own times, so that the run's curves stay as they are."""
    metrics = []
    for name in MODEL_METRICS:
        if name in run.data.metrics:
            last = client.get_metric_history(run.info.run_id, name)[-1]
            ids = {"model_id": model.model_id, "run_id": run.info.run_id}
            metrics.append(Metric(name, last.value, last.timestamp, last.step, **ids))
    return metrics


def _logged_model(
    client: MlflowClient, experiment: str, run: str, opener: str | None
) -> LoggedModel | None:
    """The model that a run made, finished or not; None if it made none, or none that is opened this
    way. Of several, which only a lost answer can have made, the others that have no files go."""
    of_run = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run}'")
    models = [model for model in of_run if model.tags.get(OPENER) == opener]
    models.sort(
        key=lambda model: (
            model.status != LoggedModelStatus.READY,
            model.creation_timestamp,
            model.model_id,
        )
    )
    for model in models[1:]:
        if model.status != LoggedModelStatus.READY:
            client.delete_logged_model(model.model_id)
    return models[0] if models else None
