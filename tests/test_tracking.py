import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from mlflow import MlflowClient

from robsearch import InputError
from robsearch.tracking import TRIAL, Tracker, check_tracking, default_uri, experiment_page, ui_command


@pytest.fixture
def uri(tmp_path):
    return default_uri(tmp_path)


def runs(uri, search="s"):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(search)
    return {run.data.tags[TRIAL]: run for run in client.search_runs([experiment.experiment_id])}


def entries(*numbers):
    return [{"epoch": n, "time": 1000.0 + n, "val/robust_accuracy": n / 10, "train/lam": 2.0} for n in numbers]


def test_a_trial_is_one_flat_run_with_curves_by_epoch_and_the_status_of_its_state(uri, tmp_path):
    tracker = Tracker(uri, "s", tmp_path)
    for trial, state in (("w4-000", "COMPLETE"), ("w4-001", "PRUNED"), ("w4-002", "FAIL"), ("w4-003", "INTERRUPTED")):
        tracker.begin(trial, trial, {"lam": 2.5, "model.width": 4}, {"robsearch.width": "4"})
        tracker.epochs(trial, entries(1, 2, 3))
        tracker.end(trial, state, 1004.0, {"robsearch.reason": "why"})
    assert tracker.close() == 0
    found = runs(uri)
    assert [found[f"w4-00{n}"].info.status for n in range(4)] == ["FINISHED", "KILLED", "FAILED", "KILLED"]
    assert found["w4-000"].data.params == {"lam": "2.5", "model.width": "4"}
    assert found["w4-002"].data.tags["robsearch.reason"] == "why"
    curve = MlflowClient(uri).get_metric_history(found["w4-000"].info.run_id, "val/robust_accuracy")
    assert [(point.step, point.value, point.timestamp) for point in curve] == [
        (1, 0.1, 1001000),
        (2, 0.2, 1002000),
        (3, 0.3, 1003000),
    ]


def test_saying_everything_again_changes_nothing(uri, tmp_path):
    for _ in range(2):
        tracker = Tracker(uri, "s", tmp_path)
        tracker.begin("w4-000", "w4", {"lam": 2.5}, {})
        tracker.epochs("w4-000", entries(1, 2))
        tracker.end("w4-000", "COMPLETE", 1004.0)
        assert tracker.close() == 0
    (run,) = runs(uri).values()
    curve = MlflowClient(uri).get_metric_history(run.info.run_id, "val/robust_accuracy")
    assert [point.step for point in curve] == [1, 2]


def test_a_record_that_mlflow_refuses_does_not_hold_up_the_others(uri, tmp_path):
    tracker = Tracker(uri, "s", tmp_path)
    tracker.begin("w4-000", "w4", {}, {})
    tracker.log("w4-000", {"forbidden@character": 1.0}, 0, 1000.0)
    tracker.begin("w4-001", "w4", {}, {})
    tracker.end("w4-001", "COMPLETE", 1004.0)
    tracker.close(patience=10)
    assert runs(uri)["w4-001"].info.status == "FINISHED"


def test_the_best_tag_moves(uri, tmp_path):
    tracker = Tracker(uri, "s", tmp_path)
    for trial in ("w4-000", "w4-001"):
        tracker.begin(trial, trial, {}, {})
    tracker.mark_best({"w4-000"})
    tracker.mark_best({"w4-001"})
    tracker.close()
    tags = {trial: run.data.tags.get("robsearch.best") for trial, run in runs(uri).items()}
    assert tags == {"w4-000": "false", "w4-001": "true"}


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_a_file_store_is_refused(uri):
    with pytest.raises(InputError, match="pass sqlite"):
        check_tracking(uri)


def test_a_server_that_does_not_answer_is_refused_without_showing_the_password():
    with pytest.raises(InputError, match=r"an MLflow server at http://127\.0\.0\.1:9") as error:
        check_tracking("http://me:secret@127.0.0.1:9")
    assert "secret" not in str(error.value)


def test_the_deep_link():
    assert experiment_page("http://h:1/", "7") == "http://h:1/#/experiments/7/runs?compareRunsMode=CHART"


@pytest.mark.slow
def test_an_outage_delays_records_and_loses_none(uri, tmp_path, monkeypatch):
    monkeypatch.setattr("robsearch.tracking.tracker.RETRY_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = _served(uri, port)
    tracker = Tracker(address, "s", tmp_path)
    tracker.begin("w4-000", "w4", {}, {})
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    started = time.monotonic()
    tracker.epochs("w4-000", entries(1, 2))
    tracker.end("w4-000", "COMPLETE", 1004.0)
    assert time.monotonic() - started < 0.1  # whoever trains does not wait
    deadline = time.monotonic() + 60
    while tracker.trouble is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "not recorded in MLflow" in tracker.trouble
    server = _served(uri, port)
    try:
        assert tracker.close(patience=60) == 0
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    (run,) = runs(uri).values()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/robust_accuracy"] == 0.2


def _served(uri, port):
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(ui_command(uri, port), env={**os.environ, **quiet}, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the MLflow server did not start")
