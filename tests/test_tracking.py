import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from mlflow import MlflowClient
from small_spaces import recipe

from robsearch import PGD, Digits, InputError, SmallCNN
from robsearch.data import content_digest
from robsearch.search.recording import Recorder, logged_data
from robsearch.tracking import (
    TRIAL,
    Tracker,
    check_tracking,
    default_uri,
    experiment_page,
    run_pages,
    shown,
    ui_command,
    undelivered,
)
from robsearch.tracking.sending import Sender
from robsearch.tracking.store import run_page
from robsearch.trial import measure, run


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow takes seconds to make one, so they are copies of this."""
    folder = tmp_path_factory.mktemp("empty")
    MlflowClient(default_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def uri(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


def runs(uri, search="s"):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(search)
    return {run.data.tags[TRIAL]: run for run in client.search_runs([experiment.experiment_id])}


def soon(there):
    deadline = time.monotonic() + 60
    while not there() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert there()


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


def test_of_a_thousand_metrics_only_the_one_that_mlflow_refuses_is_left_out(uri, tmp_path, caplog):
    tracker = Tracker(uri, "s", tmp_path)
    good = {f"val/m{n:03d}": float(n) for n in range(1200)}
    tracker.begin("w4-000", "w4", {"lam": 2.5, "bad@param": 1.0}, {"robsearch.width": "4"})
    tracker.log("w4-000", {**good, "forbidden@character": 1.0}, 0, 1000.0)
    tracker.end("w4-000", "COMPLETE", 1004.0)
    assert tracker.close() == 0
    (run,) = runs(uri).values()
    assert (run.info.status, run.data.params, run.data.metrics) == ("FINISHED", {"lam": "2.5"}, good)
    refused = [message for message in caplog.messages if "refused by MLflow" in message]
    assert [message.split(" of ")[0] for message in refused] == ["bad@param", "forbidden@character"]


def test_after_a_failure_it_goes_on_where_that_was(uri, tmp_path, monkeypatch):
    client, sent = MlflowClient(uri), []
    sender = Sender(client, client.create_experiment("s"))
    log_batch = MlflowClient.log_batch

    def slow(self, run_id, metrics=(), params=(), tags=()):
        sent.append([metric.step for metric in metrics])
        if len(sent) % 2 == 0:  # the border: a server that answers every second request too late
            raise TimeoutError("no answer in time")
        log_batch(self, run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MlflowClient, "log_batch", slow)
    trials = [f"w4-{number:03d}" for number in range(4)]
    begun = [{"kind": "begin", "trial": t, "name": t, "params": {}, "tags": {TRIAL: t}, "when": 0} for t in trials]
    ended = [{"kind": "end", "trial": t, "tags": {"x": "y"}, "state": "COMPLETE", "when": 1} for t in trials]
    logged = [{"kind": "metrics", "trial": t, "points": [["m", 1.0, 0, n]]} for n, t in enumerate(trials)]
    records, failures = [*begun, *logged, *ended], 0
    while trouble := sender.send(records):
        assert "TimeoutError: no answer in time" in trouble
        failures += 1
    assert failures == 3
    assert sent == [[0], [1], [1], [2], [2], [3], [3]]
    assert {run.info.status for run in runs(uri).values()} == {"FINISHED"}


def test_a_run_that_a_person_deleted_is_left_alone(uri, tmp_path, caplog):
    tracker = Tracker(uri, "s", tmp_path)
    for trial in ("w4-000", "w4-001"):
        tracker.begin(trial, trial, {}, {})
    soon(lambda: len(tracker.statuses()) == 2)
    MlflowClient(uri).delete_run(runs(uri)["w4-000"].info.run_id)
    tracker.epochs("w4-000", entries(1, 2, 3))
    tracker.epochs("w4-001", entries(1, 2, 3))
    soon(lambda: "what is new of w4-000 refused" in caplog.text)
    for trial in ("w4-000", "w4-001"):
        tracker.epochs(trial, entries(4))
        tracker.end(trial, "COMPLETE", 1004.0)
    assert tracker.close() == 0
    assert runs(uri)["w4-001"].data.metrics["val/robust_accuracy"] == 0.4
    assert len([message for message in caplog.messages if "w4-000" in message]) == 1


def test_the_data_set_is_logged_once_with_its_digest(uri, tmp_path):
    data = logged_data(Digits(train=100))
    assert data["digest"] == content_digest(Digits(train=100)) != content_digest(Digits(train=101))
    for _ in range(2):
        tracker = Tracker(uri, "s", tmp_path)
        tracker.begin("w4-000", "w4", {}, {}, data)
        tracker.close()
    (run,) = runs(uri).values()
    (told,) = run.inputs.dataset_inputs
    assert (told.dataset.name, told.dataset.digest) == ("Digits", data["digest"])
    assert json.loads(told.dataset.profile) == {"num_rows": 1797, "train": 100, "val": 848, "test": 849}
    assert told.tags[0].value == "train, val, test"


def test_a_machines_load_is_recorded_on_request_only(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    for asked in ("false", "true"):
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", asked)
        tracker = Tracker(uri, asked, tmp_path)
        tracker.begin("search", "search", {}, {})
        tracker.watch_machine()
        time.sleep(0.5)
        tracker.close()
    assert runs(uri, "false")["search"].data.metrics == {}
    metrics = runs(uri, "true")["search"].data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100
    assert {name.split("/")[0] for name in metrics} == {"system"}
    assert "system/cpu_utilization_percentage" in metrics


def test_no_password_is_written_anywhere(uri, tmp_path, monkeypatch):
    monkeypatch.setattr("robsearch.tracking.tracker.FLUSH_SECONDS", 1000.0)
    tracker = Tracker(uri, "s", tmp_path)
    tracker.spool_into(tmp_path / "s")
    tracker.begin("w4-000", "w4", {"data.root": "s3://me:secret@host/x"}, {"robsearch.x": "http://me:secret@host"})
    tracker.tag("w4-000", {"robsearch.measures": "no answer from https://me:secret@host/y"})
    tracker.end("w4-000", "FAIL", 1004.0, {"robsearch.reason": "no answer from https://me:secret@host/y"})
    soon(lambda: undelivered(tmp_path / "s") == 3)
    assert "secret" not in (tmp_path / "s" / "tracking-0001.spool").read_text()
    tracker.close()
    (run,) = runs(uri).values()
    assert run.data.params == {"data.root": "s3://host/x"}
    assert run.data.tags["robsearch.reason"] == "no answer from https://host/y"
    assert "secret" not in str(run.data)


def test_the_page_of_each_run_is_known_without_asking_and_by_asking(uri, tmp_path):
    tracker = Tracker(uri, "s", tmp_path)
    tracker.begin("w4-000", "w4", {}, {})
    assert tracker.close() == 0
    run = runs(uri)["w4-000"].info
    page = f"http://127.0.0.1:5000/#/experiments/{run.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"
    assert tracker.pages == run_pages(uri, "s", "") == {"w4-000": page}
    assert run_pages(uri, "unknown", "") == run_pages("http://127.0.0.1:9", "s", "") == {}
    assert run_page("http://me:secret@h:1/", "7", "ab").startswith("http://h:1/#/experiments/7/runs/ab?")


COMPARED = {
    *(f"train/{name}" for name in ("natural_loss", "robust_loss", "lam", "learning_rate")),
    *(f"val/{name}" for name in ("natural_accuracy", "robust_accuracy", "stability")),
    *("val/best_robust_accuracy", "val/best_epoch", "time/epoch_seconds", "memory/peak_rss_gib"),
    *(f"test/{name}" for name in ("natural_accuracy", "robust_accuracy", "stability")),
    *(f"test/margin/{name}/mean" for name in ("logit", "input_first_order")),
    *(f"test/lipschitz/{name}/mean" for name in ("logit_ratio", "attack_ratio")),
    *("test_last/robust_accuracy", "gap/error", "gap/robust_error", "lipschitz/global_bound"),
    *("norms/linf/mean", "norms/l1/mean", "norms/l2/mean", "norms_folded/linf/mean", "spectra/reshaped/mean"),
    *("features/change/mean", "time/measure_seconds", "strongest/robust_accuracy"),
    *("lipschitz/global_bound_log10", "layers/covered"),
}
"""All names that a trial of a convolutional net with the default measures has in MLflow."""


def test_of_a_real_trial_mlflow_is_told_what_a_person_compares(uri, tmp_path):
    quick = PGD(eps=0.1, step_size=0.05, steps=2)
    one = recipe(0.25, model=SmallCNN(0.25), measures=None, measured_examples=20, epochs=2, test_attack=quick)
    told = [report for work in (run, measure) for report in work(one, tmp_path / "trials" / "w1-000")]
    tracker = Tracker(uri, "s", tmp_path)
    recorder = Recorder(tracker, tmp_path / "trials")
    tracker.begin("w1-000", "w1", {}, {})
    history = [entry for report in told for entry in report.epochs]
    recorder.epochs("w1-000", history)
    recorder.measured("w1-000", told[-1].test)
    recorder.ended("w1-000", "COMPLETE", history)
    assert tracker.close() == 0
    (found,) = runs(uri).values()
    assert set(found.data.metrics) == COMPARED
    assert found.data.metrics["test/robust_accuracy"] == told[-1].test["test/robust_accuracy"]
    assert len(told[-1].test) > 100  # the rest is in test.json, among the tables
    tables = MlflowClient(uri).list_artifacts(found.info.run_id, "tables")
    assert "tables/test.json" in [file.path for file in tables]


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


def test_a_password_with_an_at_sign_is_not_shown_in_part():
    assert shown("no answer from http://me:sec@ret@host:1/x?y=a@b now") == "no answer from http://host:1/x?y=a@b now"


def test_a_server_that_does_not_answer_is_waited_for_on_request(tmp_path, uri, monkeypatch):
    monkeypatch.setattr("robsearch.tracking.tracker.RETRY_SECONDS", 0.1)
    with pytest.raises(InputError, match=r"an MLflow store at http://127\.0\.0\.1:9"):
        Tracker("http://127.0.0.1:9", "s", tmp_path)
    tracker = Tracker("http://127.0.0.1:9", "s", tmp_path, patient=True)
    assert tracker.trouble == "no answer from http://127.0.0.1:9 (Connection refused)"
    assert tracker.statuses() == {}
    tracker.begin("w4-000", "w4", {"lam": 2.5}, {})
    tracker.end("w4-000", "COMPLETE", 1004.0)
    tracker._client = MlflowClient(uri)  # the border: now something answers
    assert tracker.close() == 0
    assert runs(uri)["w4-000"].info.status == "FINISHED"


def test_a_server_that_does_not_answer_is_refused_without_showing_the_password():
    with pytest.raises(InputError, match=r"an MLflow server at http://127\.0\.0\.1:9") as error:
        check_tracking("http://me:secret@127.0.0.1:9")
    assert "secret" not in str(error.value)


def test_the_deep_link():
    assert (
        experiment_page("http://h:1/", "7")
        == "http://h:1/#/experiments/7/runs?compareRunsMode=CHART&workflowType=machine_learning"
    )


@pytest.mark.slow
def test_an_outage_delays_records_and_loses_none(uri, tmp_path, monkeypatch):
    monkeypatch.setattr("robsearch.tracking.tracker.RETRY_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = served(uri, port)
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
    server = served(uri, port)
    try:
        assert tracker.close(patience=60) == 0
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    (run,) = runs(uri).values()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/robust_accuracy"] == 0.2


@pytest.mark.slow
def test_what_a_driver_could_not_deliver_before_it_ended_arrives_with_the_next_one(uri, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, folder = f"http://127.0.0.1:{port}", tmp_path / "s"
    server = served(uri, port)
    tracker = Tracker(address, "s", tmp_path)
    tracker.spool_into(folder)
    tracker.begin("w4-000", "w4", {"lam": 2.5}, {})
    tracker.epochs("w4-000", entries(1))
    soon(lambda: [run.data.metrics.get("train/lam") for run in runs(uri).values()] == [2.0])
    soon(lambda: undelivered(folder) == 0)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    tracker.epochs("w4-000", entries(2))
    tracker.begin("w4-001", "w4", {}, {})
    tracker.end("w4-000", "COMPLETE", 1004.0)
    assert tracker.close(patience=1) == undelivered(folder) == 3
    server = served(uri, port)
    try:
        tracker = Tracker(address, "s", tmp_path)
        tracker.spool_into(folder)
        assert tracker.close(patience=60) == 0
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    found = runs(uri)
    assert {trial: run.info.status for trial, run in found.items()} == {"w4-000": "FINISHED", "w4-001": "RUNNING"}
    curve = MlflowClient(uri).get_metric_history(found["w4-000"].info.run_id, "val/robust_accuracy")
    assert [(point.step, point.timestamp) for point in curve] == [(1, 1001000), (2, 1002000)]
    assert not list(folder.iterdir())


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
