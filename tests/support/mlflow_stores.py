"""MLflow stores and servers for tests: made quickly, filled with records, and read whole."""

import http.client
import http.server
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from mlflow import MlflowClient

from robsearch.tracking import TRIAL, RunRecord, Tracker, default_uri, ui_command
from robsearch.tracking.store import all_runs
from robsearch.trials.run_facts import RunFacts


@cache
def empty_database():
    """MLflow takes seconds to make one, so stores are copies of this."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["ROBSEARCH_CACHE"]))
    MlflowClient(default_uri(folder)).search_experiments()
    return folder / "mlflow.db"


def new_store(folder):
    """The URI of an empty sqlite store beside the results in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_database(), folder / "mlflow.db")
    return default_uri(folder)


def trial(name="w4-000", state="COMPLETE", epochs=2, params=None, tags=None, data=None, **others):
    """The record of a trial with a few epochs."""
    entries = [
        {"epoch": n, "time": 1000.0 + n, "val/robust_accuracy": n / 10, "train/lam": 2.0}
        for n in range(1, epochs + 1)
    ]
    ended = None if state == "RUNNING" else 1004.0
    facts = RunFacts(name, state, 999.0, ended, params or {}, tags or {}, data=data)
    return RunRecord(name, facts, entries, **others)


def deliver(uri, results, *records, search="s", identity="", **how):
    """Brings runs up to date with these records; returns the tracker, closed."""
    tracker = Tracker(uri, search, results, identity, **how)
    tracker.follow({record.trial: record for record in records}.get)
    tracker.nudge(*(record.trial for record in records))
    assert tracker.close() == 0
    return tracker


def runs_of(uri, search="s"):
    """The runs of a search by their trial; of each trial there is one."""
    client = MlflowClient(uri)
    runs = all_runs(client, client.get_experiment_by_name(search).experiment_id)
    by_trial = {run.data.tags[TRIAL]: run for run in runs}
    assert len(by_trial) == len(runs)
    return by_trial


def dump(uri, search="s"):
    """Everything that a store shows of a search's runs, but for ids and what it adds itself."""
    client = MlflowClient(uri)
    return {trial: _dump_run(client, run) for trial, run in runs_of(uri, search).items()}


def _dump_run(client, run):
    histories = {
        name: [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
        ]
        for name in run.data.metrics
    }
    for name, points in histories.items():
        curve = [point for point in points if point[0] > 0]
        assert len(curve) == len({step for step, _ in curve}), name
        histories[name] = sorted(curve) or run.data.metrics[name]
    inputs = run.inputs.dataset_inputs
    models = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
    )
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": {name: text for name, text in run.data.tags.items() if name != "mlflow.user"},
        "metrics": histories,
        "data": [(each.dataset.name, each.dataset.digest) for each in inputs],
        "artifacts": sorted(_files(client, run.info.run_id)),
        "models": [str(model.status) for model in models],
    }


def _files(client, run_id, folder=None):
    for file in client.list_artifacts(run_id, folder):
        if file.is_dir:
            yield from _files(client, run_id, file.path)
        else:
            yield file.path, file.file_size


# --- servers ---


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(uri, port):
    """An MLflow server over a sqlite store, in a process group of its own, once it answers."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    artifacts = f"{uri.removeprefix('sqlite:///')}-artifacts"
    command = [*ui_command(uri, port), "--artifacts-destination", artifacts]
    server = subprocess.Popen(command, env={**os.environ, **quiet}, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the MLflow server did not start")


def kill_server(server):
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextmanager
def served(uri):
    """The address of an MLflow server over a sqlite store."""
    port = free_port()
    server = start_server(uri, port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        kill_server(server)


class FaultyProxy(http.server.ThreadingHTTPServer):
    """Stands before a server, and does to each request what ``fault`` says.

    ``fault`` is called with the number of the request, the method and the path. It gives None (the
    request is passed on), an HTTP status, ``drop`` (nothing is answered), ``lose`` (it is passed
    on, and nothing is answered) or ``slow`` (the answer takes half a second).
    """

    daemon_threads = True

    def __init__(self, address):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = address.removeprefix("http://")
        self.fault = lambda number, method, path: None
        self.count, self.faults, self.lock = 0, 0, threading.Lock()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _pass_on(self):
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with proxy.lock:
            proxy.count += 1
            fault = proxy.fault(proxy.count, self.command, self.path)
            proxy.faults += fault is not None
        if fault == "drop":
            self.close_connection = True
            return
        if isinstance(fault, int):
            self._answer(fault, b"no", {})
            return
        connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
        headers = {name: text for name, text in self.headers.items() if name != "Host"}
        connection.request(self.command, self.path, body, {**headers, "Host": proxy.upstream})
        response = connection.getresponse()
        content = response.read()
        if fault == "lose":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(0.5)
        kind = response.getheader("Content-Type", "application/json")
        self._answer(response.status, content, {"Content-Type": kind})

    def _answer(self, status, content, headers):
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)


for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Handler, f"do_{method}", _Handler._pass_on)
