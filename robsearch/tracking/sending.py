"""How records become requests to MLflow: few, and each such that sending it twice leaves one.

Kinds of a record: ``begin`` (a run is found by its trial tag, or made), ``metrics``, ``tags``, ``artifact``, ``model``,
``best`` and ``end``. Of one delivery, all metrics, parameters and tags of a run go together.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from robsearch.tracking.models import upload
from robsearch.tracking.spool import Record
from robsearch.tracking.store import TRIAL, all_runs, shown

STATE, BEST = "robsearch.state", "robsearch.best"
STATUS = {
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
    "INTERRUPTED": "KILLED",
    "RUNNING": "RUNNING",
}
"""The MLflow status of each state of a trial."""

FINAL = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "ALREADY_EXISTS",
}
"""Error codes of what MLflow would refuse again. After all others, a refused login among them, it is tried again."""

NO_ANSWER = re.compile(r"API request to (https?://[^/\s]+)\S* failed with exception (.*)")
"""How MLflow puts an outage; the rest repeats the address twice."""

PARAMS_PER_CALL, TAGS_PER_CALL, METRICS_PER_CALL = 100, 20, 850
"""MLflow takes 1,000 in all, 100 parameters and 1 MB in one request."""
LONGEST_PARAM, LONGEST_TAG = 6000, 5000


@dataclass
class _Batch:
    """What one run is told in one delivery."""

    params: list[Param] = field(default_factory=list)
    tags: list[RunTag] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)

    def add(self, params: Iterable[Param] = (), tags: Iterable[RunTag] = (), metrics: Iterable[Metric] = ()) -> None:
        """Of parameters and tags the last of a name counts."""
        self.params = list({one.key: one for one in (*self.params, *params)}.values())
        self.tags = list({one.key: one for one in (*self.tags, *tags)}.values())
        self.metrics += metrics

    def cut(self) -> tuple[_Batch, _Batch]:
        """What goes into one request, and the rest."""
        sizes = {"params": PARAMS_PER_CALL, "tags": TAGS_PER_CALL, "metrics": METRICS_PER_CALL}
        columns: dict[str, list[Any]] = vars(self)
        first = {kind: columns[kind][:size] for kind, size in sizes.items()}
        return _Batch(**first), _Batch(**{kind: columns[kind][size:] for kind, size in sizes.items()})

    def halves(self) -> Sequence[_Batch]:
        """The same as two smaller ones, by name; one if it has a single name."""
        names = self.names()
        first = set(names[: len(names) // 2])
        return [self._some(first), self._some(set(names) - first)] if first else [self]

    def names(self) -> list[tuple[str, str]]:
        """Kind and key of each."""
        columns: dict[str, list[Any]] = vars(self)
        return sorted({(kind, one.key) for kind, ones in columns.items() for one in ones})

    def _some(self, names: set[tuple[str, str]]) -> _Batch:
        columns: dict[str, list[Any]] = vars(self)
        return _Batch(**{kind: [one for one in ones if (kind, one.key) in names] for kind, ones in columns.items()})


class Sender:
    """Sends records of one experiment.

    Args:
        client: of the store.
        experiment: its id.
    """

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client, self._experiment = client, experiment
        self._runs: dict[str, str] = {}
        self._deleted: set[str] = set()
        self._records: Sequence[Record] = ()
        self._done = 0
        self._batches: dict[str, _Batch] = {}
        self._look_up()

    def send(self, records: Sequence[Record], going_on: Callable[[], bool] = lambda: True) -> str | None:
        """Sends them in their order. What MLflow refuses for good is left out, with a warning.

        Args:
            records: the same object after a failure: then it goes on where that was, so that a slow server, which
                answers some requests too late, gets on too.
            going_on: asked before each record.

        Returns:
            None, or in one line why some were not sent.
        """
        if records is not self._records:
            self._records, self._done = records, 0
            self._batches.clear()
        what = "what waited"
        try:
            for record in records[self._done :]:
                if not going_on():
                    return "stopped"
                what = f"{record['kind']} of {record.get('trial', 'all')}"
                if record.get("trial") not in self._deleted:
                    self._tolerant(what, partial(getattr(self, f"_{record['kind']}"), record))
                self._done += 1
            for trial in list(self._batches):
                what = f"metrics of {trial}"
                self._tolerant(what, partial(self._flush, trial))
        except Exception as error:
            self._doubtful = True
            return f"{what} not recorded in MLflow: {first_line(error)}"
        return None

    # -- the kinds ---------------------------------------------------------------------------------------------

    def _begin(self, record: Record) -> None:
        trial = record["trial"]
        if trial not in self._runs and self._doubtful:
            self._look_up()  # an unanswered request may have made the run
        if trial in self._runs:
            self._client.update_run(self._runs[trial], status="RUNNING")
        else:
            run = self._client.create_run(
                self._experiment, start_time=record["when"], tags=record["tags"], run_name=record["name"]
            )
            self._runs[trial] = run.info.run_id
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in record["params"].items()]
        self._batch(record).add(params, _tags(record["tags"]))
        if data := record.get("data"):
            told = DatasetInput(Dataset(**data), [InputTag("mlflow.data.context", "train, val, test")])
            self._client.log_inputs(self._run(trial), [told])

    def _metrics(self, record: Record) -> None:
        self._batch(record).add(metrics=[Metric(*point) for point in record["points"]])

    def _tags(self, record: Record) -> None:
        self._batch(record).add(tags=_tags(record["tags"]))

    def _end(self, record: Record) -> None:
        trial = record["trial"]
        self._tags(record)
        self._flush(trial)
        self._client.set_terminated(self._run(trial), STATUS[record["state"]], end_time=record["when"])

    def _artifact(self, record: Record) -> None:
        self._client.log_artifact(self._run(record["trial"]), record["file"], record["under"])

    def _model(self, record: Record) -> None:
        self._flush(record["trial"])  # the model shows some of its run's metrics
        upload(self._client, self._experiment, self._run(record["trial"]), record["trial"], Path(record["folder"]))

    def _best(self, record: Record) -> None:
        for run in all_runs(self._client, self._experiment):
            is_best = run.data.tags.get(TRIAL) in record["trials"]
            if is_best != (run.data.tags.get(BEST) == "true"):
                self._client.set_tag(run.info.run_id, BEST, "true" if is_best else "false")

    # -- requests ----------------------------------------------------------------------------------------------

    def _batch(self, record: Record) -> _Batch:
        return self._batches.setdefault(record["trial"], _Batch())

    def _flush(self, trial: str) -> None:
        rest = self._batches.get(trial, _Batch())
        while rest.names():
            part, rest = rest.cut()
            self._log(trial, part)
            self._batches[trial] = rest
        self._batches.pop(trial, None)

    def _log(self, trial: str, batch: _Batch) -> None:
        """One request; if MLflow refuses it, smaller ones, so that only what it refuses is left out."""
        if trial in self._deleted:
            return
        run = self._run(trial)
        try:
            self._client.log_batch(run, metrics=batch.metrics, params=batch.params, tags=batch.tags)
        except Exception as error:
            if not _final(error):
                raise
            halves = batch.halves()
            if not self._is_deleted(trial, run) and len(halves) > 1:
                for half in halves:
                    self._log(trial, half)
                return
            which = "what is new" if trial in self._deleted else batch.names()[0][1]
            logging.getLogger(__name__).warning(f"{which} of {trial} refused by MLflow: {first_line(error)}")

    def _tolerant(self, what: str, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:
            if not _final(error):
                raise
            logging.getLogger(__name__).warning(f"{what} refused by MLflow: {first_line(error)}")

    def _is_deleted(self, trial: str, run: str) -> bool:
        """Whether a person deleted the run: then nothing more is sent for it."""
        if self._client.get_run(run).info.lifecycle_stage == "deleted":
            self._deleted.add(trial)
        return trial in self._deleted

    def _run(self, trial: str) -> str:
        if trial not in self._runs:
            self._look_up()
        if trial not in self._runs:
            raise KeyError(f"there is no run of {trial}")
        return self._runs[trial]

    @property
    def runs(self) -> dict[str, str]:
        """The id of each trial's run, as far as it is known."""
        return dict(self._runs)

    def _look_up(self) -> None:
        runs = all_runs(self._client, self._experiment)
        self._runs |= {run.data.tags[TRIAL]: run.info.run_id for run in runs if TRIAL in run.data.tags}
        self._doubtful = False


def first_line(error: Exception) -> str:
    """An error in one line, without user names and passwords; what HTTP says of an outage in few words."""
    text = shown(str(error).partition("\n")[0])
    if (found := NO_ANSWER.search(text)) is None:
        return f"{type(error).__name__}: {text}"
    why = "Connection refused" if "Connection refused" in text else "timed out" if "timed out" in text else found[2]
    return f"no answer from {found[1]} ({why})"


def _final(error: Exception) -> bool:
    """Whether the same request would be refused again."""
    if isinstance(error, MlflowException):
        return error.error_code in FINAL
    return isinstance(error, FileNotFoundError | KeyError)


def _tags(tags: dict[str, str]) -> list[RunTag]:
    return [RunTag(name, value[:LONGEST_TAG]) for name, value in tags.items()]
