"""The single writer of a search's record in MLflow.

Batched, in a thread of its own: training never waits for the tracking server. Every record keeps its
original time, so sending it twice leaves one; what an outage kept back is sent later, or by ``resume``, from the
histories in the trials' folders.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from robsearch.errors import InputError, refusal
from robsearch.protocols import Metrics
from robsearch.tracking.store import TRIAL, open_experiment, shown

STATE, BEST = "robsearch.state", "robsearch.best"
STATUS = {
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
    "INTERRUPTED": "KILLED",
    "RUNNING": "RUNNING",
}
"""The MLflow status of each state of a trial."""

TRANSIENT = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
"""Error codes after which the same request may succeed later; any other is final for that record."""

FLUSH_SECONDS = 1.0
RETRY_SECONDS = 5.0
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000


@dataclass(frozen=True)
class _Record:
    what: str
    send: Callable[[], None]


class Tracker:
    """Writes one search's record to MLflow. Every record is idempotent, so it may be sent again.

    Args:
        uri: of the tracking store.
        search: its name, and the experiment's.
        results: the results folder; with a database store the artifacts go there too.

    Raises:
        InputError: the store refuses to make or open the experiment.
    """

    def __init__(self, uri: str, search: str, results: Path) -> None:
        self.uri, self.search = uri, search
        self.trouble: str | None = None
        try:
            self._client = MlflowClient(uri)
            self.experiment = open_experiment(self._client, uri, search, results)
            self._runs = self._existing_runs()
        except Exception as error:
            do = "check the address, its credentials and its --allowed-hosts, or choose another --tracking URI"
            raise InputError(refusal(f"an MLflow store at {shown(uri)}", _first_line(error), do)) from error
        self._waiting: list[_Record] = []
        self._metrics: dict[str, list[Metric]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="tracking", daemon=True)
        self._thread.start()

    def begin(self, trial: str, run_name: str, params: dict[str, str | float], tags: dict[str, str]) -> None:
        """A trial starts, or goes on: its run is found by its trial tag, or made."""
        tags, now = {TRIAL: trial, STATE: "RUNNING", **tags}, int(time.time() * 1000)
        self._add(f"the start of {trial}", lambda: self._begin(trial, run_name, params, tags, now))

    def epochs(self, trial: str, entries: Iterable[Metrics]) -> None:
        """Metrics of epochs, each entry with ``epoch`` (its step) and ``time`` (when it was measured)."""
        for entry in entries:
            values = {name: value for name, value in entry.items() if name not in {"epoch", "time"}}
            self.log(trial, values, int(entry["epoch"]), entry["time"])

    def log(self, trial: str, values: Metrics, step: int, when: float) -> None:
        """Metrics at one step, at their original time (Unix seconds)."""
        metrics = [Metric(name, value, int(when * 1000), step) for name, value in values.items()]
        with self._changed:
            self._metrics.setdefault(trial, []).extend(metrics)
            self._changed.notify()

    def artifact(self, trial: str, file: Path, under: str | None = None) -> None:
        """A file of the trial, such as its per-example results, in a folder ``under`` the run's artifacts."""
        self._add(f"{file.name} of {trial}", lambda: self._client.log_artifact(self._runs[trial], str(file), under))

    def end(self, trial: str, state: str, when: float, tags: dict[str, str] | None = None) -> None:
        """A trial reached a state: COMPLETE, PRUNED, FAIL or INTERRUPTED."""
        tags = {STATE: state, **(tags or {})}
        self._add(f"the end of {trial}", lambda: self._end(trial, state, int(when * 1000), tags))

    def tag(self, trial: str, tags: dict[str, str]) -> None:
        """Facts that may change go to tags, because MLflow's parameters are immutable."""
        self._add(f"tags of {trial}", lambda: self._batch(trial, tags=tags))

    def mark_best(self, best: set[str]) -> None:
        """Tags the best trials, and takes the tag from those that were best before."""
        self._add("the tags of the best trials", lambda: self._mark_best(best))

    def statuses(self) -> dict[str, str]:
        """The state tag and MLflow status of each trial's run, as ``COMPLETE FINISHED``."""
        return {
            run.data.tags[TRIAL]: f"{run.data.tags.get(STATE)} {run.info.status}"
            for run in _runs(self._client, self.experiment)
        }

    def close(self, patience: float = 30.0) -> int:
        """Sends what is waiting; returns how many records could not be sent within ``patience`` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(patience)
        return len(self._waiting) + len(self._metrics)

    def _add(self, what: str, send: Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append(_Record(what, send))
            self._changed.notify()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._metrics)
                if self._closed and not self._waiting and not self._metrics:
                    return
                self._changed.wait_for(lambda: self._closed, timeout=FLUSH_SECONDS)
            if self._deliver():
                self.trouble = None
            else:
                with self._changed:
                    self._changed.wait(RETRY_SECONDS)

    def _deliver(self) -> bool:
        while self._waiting:
            if not self._sent(self._waiting[0]):
                return False
            with self._changed:
                self._waiting.pop(0)
        return all(self._sent(self._record_of_metrics(trial)) for trial in list(self._metrics))

    def _record_of_metrics(self, trial: str) -> _Record:
        return _Record(f"metrics of {trial}", lambda: self._send_metrics(trial))

    def _sent(self, record: _Record) -> bool:
        try:
            record.send()
        except Exception as error:
            self.trouble = f"{record.what} not recorded in MLflow: {_first_line(error)}"
            if not _final(error):
                return False
            logging.getLogger(__name__).warning(self.trouble)
        return True

    def _send_metrics(self, trial: str) -> None:
        while metrics := self._metrics.get(trial, [])[:METRICS_PER_CALL]:
            try:
                self._client.log_batch(self._runs[trial], metrics=metrics)
            except Exception as error:
                if not _final(error):
                    raise
                logging.getLogger(__name__).warning(f"metrics of {trial} refused by MLflow: {_first_line(error)}")
            with self._changed:
                del self._metrics[trial][: len(metrics)]
        with self._changed:
            if not self._metrics.get(trial):
                self._metrics.pop(trial, None)

    def _begin(
        self, trial: str, run_name: str, params: dict[str, str | float], tags: dict[str, str], when: int
    ) -> None:
        if trial not in self._runs and self.trouble:
            self._runs |= self._existing_runs()  # an unanswered request may have made the run
        if trial in self._runs:
            self._client.update_run(self._runs[trial], status="RUNNING")
        else:
            run = self._client.create_run(self.experiment, start_time=when, tags=tags, run_name=run_name)
            self._runs[trial] = run.info.run_id
        self._batch(trial, params, tags)

    def _batch(
        self, trial: str, params: dict[str, str | float] | None = None, tags: dict[str, str] | None = None
    ) -> None:
        entities = [Param(name, str(value)[:6000]) for name, value in (params or {}).items()]
        run_tags = [RunTag(name, value[:5000]) for name, value in (tags or {}).items()]
        self._client.log_batch(self._runs[trial], params=entities[:PARAMS_PER_CALL], tags=run_tags)
        for first in range(PARAMS_PER_CALL, len(entities), PARAMS_PER_CALL):
            self._client.log_batch(self._runs[trial], params=entities[first : first + PARAMS_PER_CALL])

    def _end(self, trial: str, state: str, when: int, tags: dict[str, str]) -> None:
        self._send_metrics(trial)
        self._batch(trial, tags=tags)
        self._client.set_terminated(self._runs[trial], STATUS[state], end_time=when)

    def _mark_best(self, best: set[str]) -> None:
        for run in _runs(self._client, self.experiment):
            is_best = run.data.tags.get(TRIAL) in best
            if is_best != (run.data.tags.get(BEST) == "true"):
                self._client.set_tag(run.info.run_id, BEST, "true" if is_best else "false")

    def _existing_runs(self) -> dict[str, str]:
        runs = _runs(self._client, self.experiment)
        return {run.data.tags[TRIAL]: run.info.run_id for run in runs if TRIAL in run.data.tags}


def _runs(client: MlflowClient, experiment: str) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _final(error: Exception) -> bool:
    """Whether the same request would be refused again."""
    return isinstance(error, MlflowException) and error.error_code not in TRANSIENT


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {shown(str(error).partition(chr(10))[0])}"
