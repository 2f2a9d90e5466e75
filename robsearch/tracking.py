"""The only door to MLflow: one experiment per search, one flat run per trial, one run for the search itself.

One writer, batched, in a thread of its own: training never waits for the tracking server. Every record keeps its
original time, so sending it twice leaves one; what an outage kept back is sent later, or by ``resume``, from the
histories in the trials' folders.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by mlflow when it is imported. Its own retries would hold a dead server's requests for minutes; ours go on.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from robsearch.errors import InputError, refusal
from robsearch.protocols import Metrics

TRIAL, STATE, BEST = "robsearch.trial", "robsearch.state", "robsearch.best"
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

for _name in ("alembic", "mlflow.store.db.utils"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def default_uri(results: Path) -> str:
    """The sqlite file beside the results."""
    return f"sqlite:///{results.resolve() / 'mlflow.db'}"


def check_tracking(uri: str) -> None:
    """Asks the tracking store for an answer, once and briefly.

    Raises:
        InputError: it does not answer, or is of a kind MLflow no longer supports.
    """
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
        except urllib.error.HTTPError:
            return  # it answered; whether it lets us in shows when the experiment is made
        except OSError as error:
            do = "start it, or give another --tracking URI (without one, a sqlite file beside the results serves)"
            raise InputError(refusal(f"an MLflow server at {_shown(uri)}", error, do)) from error
    elif "://" not in uri or uri.startswith("file:"):
        do = "pass sqlite:///PATH, a database URL, or the http address of an MLflow server"
        raise InputError(refusal("an MLflow tracking URI", repr(_shown(uri)), do))


def _shown(uri: str) -> str:
    return re.sub(r"//[^/@ ]*@", "//", uri)


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
            self.experiment = _experiment(self._client, uri, search, results)
            self._runs = self._existing_runs()
        except Exception as error:
            do = "check the address, its credentials and its --allowed-hosts, or choose another --tracking URI"
            raise InputError(refusal(f"an MLflow store at {_shown(uri)}", _first_line(error), do)) from error
        self._waiting: list[_Record] = []
        self._metrics: dict[str, list[Metric]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="tracking", daemon=True)
        self._thread.start()

    def begin(self, trial: str, run_name: str, params: dict[str, str | float], tags: dict[str, str]) -> None:
        """A trial starts, or goes on: its run is found by its trial tag, or made."""
        tags = {TRIAL: trial, STATE: "RUNNING", **tags}
        self._add(f"the start of {trial}", lambda: self._begin(trial, run_name, params, tags))

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

    def artifact(self, trial: str, file: Path) -> None:
        """A file of the trial, such as its per-example results."""
        self._add(f"{file.name} of {trial}", lambda: self._client.log_artifact(self._runs[trial], str(file)))

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

    @property
    def run_ids(self) -> dict[str, str]:
        """The MLflow run of each trial, and of the search under ``search``."""
        return dict(self._runs)

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
        return all(
            self._sent(_Record(f"metrics of {trial}", lambda trial=trial: self._send_metrics(trial)))  # type: ignore[misc]
            for trial in list(self._metrics)
        )

    def _sent(self, record: _Record) -> bool:
        try:
            record.send()
        except Exception as error:
            self.trouble = f"{record.what} not recorded in MLflow: {_first_line(error)}"
            if isinstance(error, MlflowException) and error.error_code not in TRANSIENT:
                logging.getLogger(__name__).warning(self.trouble)
                return True
            return False
        return True

    def _send_metrics(self, trial: str) -> None:
        while metrics := self._metrics.get(trial, [])[:METRICS_PER_CALL]:
            self._client.log_batch(self._runs[trial], metrics=metrics)
            with self._changed:
                del self._metrics[trial][: len(metrics)]
        with self._changed:
            if not self._metrics.get(trial):
                self._metrics.pop(trial, None)

    def _begin(self, trial: str, run_name: str, params: dict[str, str | float], tags: dict[str, str]) -> None:
        if trial not in self._runs and self.trouble:
            self._runs |= self._existing_runs()  # an unanswered request may have made the run
        if trial in self._runs:
            self._client.update_run(self._runs[trial], status="RUNNING")
        else:
            run = self._client.create_run(self.experiment, tags=tags, run_name=run_name)
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


def _experiment(client: MlflowClient, uri: str, search: str, results: Path) -> str:
    known = client.get_experiment_by_name(search)
    if known is not None:
        return str(known.experiment_id)
    served = uri.startswith(("http://", "https://"))
    artifacts = None if served else (results.resolve() / "mlartifacts" / search).as_uri()
    return str(client.create_experiment(search, artifact_location=artifacts))


def _runs(client: MlflowClient, experiment: str) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {re.sub(r'//[^/@ ]*@', '//', str(error).partition(chr(10))[0])}"


def ui_command(uri: str, port: int) -> list[str]:
    """The command that serves the MLflow UI on a store, on loopback, with one small worker."""
    return [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1",
            "--port", str(port), "--workers", "1"]  # fmt: skip


def experiment_page(address: str, experiment: str | None) -> str:
    """The deep link to the chart view of a search's runs, or the first page without an experiment."""
    page = f"/#/experiments/{experiment}/runs?compareRunsMode=CHART" if experiment else ""
    return address.rstrip("/") + page


def experiment_of(uri: str, search: str | None) -> str | None:
    """The id of a search's experiment in a store, or None if it has none."""
    found = MlflowClient(uri).get_experiment_by_name(search) if search else None
    return str(found.experiment_id) if found else None
