"""What recording costs: robsearch's tracker beside Ray's own MLflow callback, on the same reports,
in one run.

Each records trials of 60 metrics an epoch for 20 epochs, ours 50 trials at a time, each into an
experiment of its own: sqlite, and with ``--postgresql URL`` an MLflow server over PostgreSQL, which
this script starts on a free port. The numbers are the same for both, and so is the order of the
calls: a start, the reports, an end. The callback is called as Tune calls it, without Tune: what is
compared is recording alone. It waits for MLflow; ours nudges a thread that reads the trials'
folders, so its reports are paced, one second between two reports of a trial, as a trainer's would
be, and the clock stops when MLflow has everything. Unpaced they would all go in few large requests,
and the ratio would flatter us. What a worker does, writing the history, is not counted.

A request is what a client asks of its store: an HTTP request to the server, a call of a store's
method on sqlite. Prints, of both, requests per report, the milliseconds per report that the driver
waits, the CPU milliseconds per report of the whole process, its threads and on sqlite the database
among them, and the seconds in all; then ``tracking: share=`` our CPU time as a share of a trial's
wall time, at one second an epoch; and at last ``tracking: ratio=`` their requests / ours. The last
two are of the last store measured. The callback gets ``--theirs`` trials, by default a fiftieth:
its cost per report does not depend on how many there were, and its full load takes hours.

PostgreSQL is not part of robsearch: install a server and ``psycopg2-binary``, and pass the URL of a
database (``postgresql+psycopg2://user:password@127.0.0.1/name``). Without one, sqlite alone is
measured, and it is said.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault(
    "MLFLOW_HTTP_REQUEST_TIMEOUT", "300"
)  # slow is to be measured, not to break it off

import requests
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from ray.air.integrations.mlflow import MLflowLoggerCallback

from robsearch import MLP, Digits, Recipe
from robsearch.metrics import VALUE
from robsearch.search.recording import Recorder
from robsearch.study import RecordedTrial
from robsearch.tracking import Tracker, default_uri, ui_command
from robsearch.tracking.store import all_runs
from robsearch.trials.files import write_json
from robsearch.trials.run_facts import RunFacts, write_run

METRICS, TOGETHER = 60, 50
THIS_RUN = f"{time.time():.0f}"
"""A store may hold what an earlier run left in it."""
EPOCH_SECONDS = 1.0
PARAMS = Recipe(model=MLP(16), data=Digits()).flat()
STORE_CALLS = (
    "create_run",
    "update_run_info",
    "log_batch",
    "log_metric",
    "log_param",
    "set_tag",
    "search_runs",
    "get_run",
    "get_experiment_by_name",
    "create_experiment",
    "_search_runs",
    "log_inputs",
    "get_metric_history",
)


class Cost(NamedTuple):
    """Of one side on one store."""

    requests: float
    report_ms: float
    cpu_ms: float
    seconds: float


def values(trial: int, epoch: int) -> dict[str, float]:
    metrics = {f"val/metric_{n:02d}": trial + epoch / 100 + n / 10_000 for n in range(METRICS - 1)}
    return {VALUE: epoch / 100, **metrics}


# --- counting ---


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Requests as the client makes them, by name: over HTTP, or to a database store."""
    found: Counter[str] = Counter()
    send, inside = requests.Session.send, [False]

    def sent(self: Any, request: Any, **kwargs: Any) -> Any:
        found[request.path_url.partition("?")[0].rpartition("/")[2]] += 1
        return send(self, request, **kwargs)

    def call(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            outermost, inside[0] = (
                not inside[0],
                True,
            )  # a store's method that calls another is one request
            found[name] += outermost
            try:
                return method(*args, **kwargs)
            finally:
                inside[0] = not outermost

        return counting

    methods = {
        name: getattr(SqlAlchemyStore, name)
        for name in STORE_CALLS
        if hasattr(SqlAlchemyStore, name)
    }
    requests.Session.send = sent  # type: ignore[method-assign]
    for name, method in methods.items():
        setattr(SqlAlchemyStore, name, call(name, method))
    try:
        yield found
    finally:
        requests.Session.send = send  # type: ignore[method-assign]
        for name, method in methods.items():
            setattr(SqlAlchemyStore, name, method)


# --- the two sides ---


def ours(uri: str, trials: int, epochs: int, folder: Path) -> Cost:
    with counted() as requests_by_name:
        began, cpu, waited, workers = time.perf_counter(), time.process_time(), 0.0, 0.0
        tracker = Tracker(uri, f"ours-{THIS_RUN}", folder)
        recorder = Recorder(tracker, folder / f"ours-{THIS_RUN}" / "trials")
        histories: dict[str, list[dict[str, float]]] = {}
        for first in range(0, trials, TOGETHER):
            group = range(first, min(first + TOGETHER, trials))
            for trial in group:
                facts = RunFacts(f"w4 #{trial:04d}", started=time.time(), params=PARAMS)
                write_run(recorder.trials / f"w4-{trial:04d}", facts)
                recorder.changed(f"w4-{trial:04d}")
            for epoch in range(1, epochs + 1):
                due = time.perf_counter() + EPOCH_SECONDS
                for trial in group:
                    name, started = f"w4-{trial:04d}", time.process_time()
                    history = histories.setdefault(name, [])
                    history.append({"epoch": epoch, "time": time.time(), **values(trial, epoch)})
                    write_history(recorder.trials / name, history)
                    workers += time.process_time() - started
                    started = time.perf_counter()
                    recorder.changed(name)
                    waited += time.perf_counter() - started
                time.sleep(max(0.0, due - time.perf_counter()))
            for trial in group:
                name = f"w4-{trial:04d}"
                recorded = RecordedTrial(name, 4, trial, None, "COMPLETE")
                recorder.ended(recorded, histories[name])
        behind = tracker.close(patience=1800)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu - workers
    assert not behind, f"{behind} runs are not up to date"
    check(uri, f"ours-{THIS_RUN}", trials, epochs)
    reports = trials * epochs
    count = sum(requests_by_name.values())
    return Cost(count / reports, 1000 * waited / reports, 1000 * cpu / reports, took)


def write_history(trial: Path, history: list[dict[str, float]]) -> None:
    """What a worker writes with each checkpoint; the history before it goes."""
    folder = trial / "a1" / f"epoch-{len(history):04d}"
    folder.mkdir(parents=True)
    write_json(folder / "history.json", {"sha256": "", "epochs": history})
    shutil.rmtree(folder.with_name(f"epoch-{len(history) - 2:04d}"), ignore_errors=True)


class Trial:
    """What the callback asks of one of Tune's trials: a key, a name, a config."""

    def __init__(self, number: int) -> None:
        self.number, self.config = number, dict(PARAMS)

    def __str__(self) -> str:
        return f"w4 #{self.number:04d}"


def theirs(uri: str, trials: int, epochs: int, folder: Path) -> Cost:
    with counted() as found:
        began, cpu, waited = time.perf_counter(), time.process_time(), 0.0
        callback = MLflowLoggerCallback(uri, experiment_name=f"theirs-{THIS_RUN}")
        callback.setup()
        for number in range(trials):
            trial = Trial(number)
            callback.log_trial_start(trial)
            for epoch in range(1, epochs + 1):
                started = time.perf_counter()
                callback.log_trial_result(
                    epoch, trial, {"training_iteration": epoch, **values(number, epoch)}
                )
                waited += time.perf_counter() - started
            callback.log_trial_end(trial)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    check(uri, f"theirs-{THIS_RUN}", trials, epochs)
    reports = trials * epochs
    return Cost(sum(found.values()) / reports, 1000 * waited / reports, 1000 * cpu / reports, took)


def check(uri: str, experiment: str, trials: int, epochs: int) -> None:
    """All runs are there and finished, and the last of them has its last value and every epoch."""
    client = MlflowClient(uri)
    found = all_runs(client, client.get_experiment_by_name(experiment).experiment_id)
    assert len(found) == trials, f"{len(found)} runs of {trials}"
    assert {run.info.status for run in found} == {"FINISHED"}
    last = next(
        run for run in found if run.data.metrics["val/metric_00"] == trials - 1 + epochs / 100
    )
    assert len(client.get_metric_history(last.info.run_id, "val/metric_58")) == epochs


# --- the stores ---


@contextlib.contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    uri = default_uri(folder)
    MlflowClient(uri).search_experiments()  # made before the clock starts
    yield uri


@contextlib.contextmanager
def served(database: str, folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*ui_command(database, port), "--artifacts-destination", str(folder)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": database}
    server = subprocess.Popen(
        command,
        env={**os.environ, **quiet},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while not _answers(address):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(
                    "the MLflow server did not start: is the database there, and psycopg2 "
                    "installed?"
                )
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=2).close()
    except OSError:
        return False
    return True


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--quick", action="store_true", help="8 trials of ours, 1 of theirs, 10 epochs"
    )
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--theirs", type=int, help="trials of the callback (default: a fiftieth)")
    options.add_argument("--postgresql", metavar="URL", help="of a database for MLflow")
    asked = options.parse_args()
    trials, epochs = (8, 10) if asked.quick else (asked.trials, 20)
    few = asked.theirs or max(1, trials // 50)
    logging.disable(logging.WARNING)
    ratio = share = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stores = {"sqlite": sqlite(folder)}
        if asked.postgresql:
            stores["server on PostgreSQL"] = served(asked.postgresql, folder / "artifacts")
        else:
            print("no --postgresql URL: sqlite alone is measured")
        for store, opened in stores.items():
            with opened as uri:
                own, other = ours(uri, trials, epochs, folder), theirs(uri, few, epochs, folder)
            for side, cost, n in (("robsearch", own, trials), ("Ray's callback", other, few)):
                print(
                    f"{store}, {side}: {cost.requests:.2f} requests and {cost.report_ms:.3f} ms "
                    "per report, "
                    f"{cost.cpu_ms:.2f} ms of CPU, "
                    f"{cost.seconds:.1f} s in all, {n} trials x {METRICS} metrics x {epochs} epochs"
                )
            ratio, share = other.requests / own.requests, own.cpu_ms / 1000 / EPOCH_SECONDS
    print(f"tracking: share={share:.2%} goal=2% of {EPOCH_SECONDS:g} s an epoch n={trials}")
    print(f"tracking: ratio={ratio:.1f} goal=10 n={trials}")


if __name__ == "__main__":
    main()
