"""What MLflow holds."""

import os
import subprocess
import time
import urllib.request

from mlflow import MlflowClient

from robsearch.tracking import (
    TRIAL,
    ui_command,
)


def runs_of(options, name):
    client = MlflowClient(options.uri())
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return {run.data.tags[TRIAL]: run for run in found}


def runs(uri, search="s"):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(search)
    return {run.data.tags[TRIAL]: run for run in client.search_runs([experiment.experiment_id])}


def served(uri, port):
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    artifacts = f"{uri.removeprefix('sqlite:///')}-artifacts"
    command = [*ui_command(uri, port), "--artifacts-destination", artifacts]
    server = subprocess.Popen(command, env={**os.environ, **quiet}, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the MLflow server did not start")
