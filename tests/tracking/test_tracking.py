import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_stores import deliver, free_port, kill_server, runs_of, start_server, trial
from search_records import search_record
from small_spaces import recipe

from robsearch import PGD, Digits, InputError, SmallCNN
from robsearch.data import content_digest
from robsearch.search.recording import Recorder, logged_data
from robsearch.spaces import Stage
from robsearch.study import RecordedTrial, Suggestion
from robsearch.tracking import (
    Promoted,
    Tracker,
    check_tracking,
    experiment_page,
    register,
    run_pages,
)
from robsearch.tracking.store import run_page
from robsearch.training.costs import cost_of
from robsearch.trials.loading import read_test
from robsearch.trials.paths import without_password
from robsearch.trials.run_facts import RUN, RunFacts
from robsearch.trials.trial import measure, run


@pytest.fixture(autouse=True)
def soon_again(monkeypatch):
    monkeypatch.setattr("robsearch.tracking.tracker.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("robsearch.tracking.tracker.FLUSH_SECONDS", 0.1)


def soon(there):
    deadline = time.monotonic() + 60
    while not there() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert there()


def curve(uri, run, name="val/robust_accuracy"):
    history = MlflowClient(uri).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value, point.timestamp) for point in history]


def test_a_trial_is_one_flat_run_with_curves_by_epoch_and_the_status_of_its_state(uri, tmp_path):
    facts = {"params": {"lam": 2.5, "model.width": 4}, "tags": {"robsearch.reason": "why"}}
    states = {"w4-000": "COMPLETE", "w4-001": "PRUNED", "w4-002": "FAIL", "w4-003": "INTERRUPTED"}
    deliver(uri, tmp_path, *(trial(name, state, 3, **facts) for name, state in states.items()))
    runs = runs_of(uri)
    statuses = [runs[name].info.status for name in states]
    assert statuses == ["FINISHED", "FINISHED", "FAILED", "KILLED"]
    assert [runs[name].data.tags["robsearch.state"] for name in states] == list(states.values())
    assert runs["w4-000"].data.params == {"lam": "2.5", "model.width": "4"}
    assert runs["w4-002"].data.tags["robsearch.reason"] == "why"
    assert curve(uri, runs["w4-000"]) == [(1, 0.1, 1001000), (2, 0.2, 1002000), (3, 0.3, 1003000)]
    assert (runs["w4-000"].info.start_time, runs["w4-000"].info.end_time) == (999000, 1004000)


def test_a_pruned_run_of_an_earlier_version_gets_its_status_and_is_not_read_anew(
    uri, tmp_path, monkeypatch
):
    pruned = trial("w4-001", "PRUNED", 3)
    deliver(uri, tmp_path, pruned)
    MlflowClient(uri).set_terminated(runs_of(uri)["w4-001"].info.run_id, "KILLED", 1004000)

    def read(*_):
        raise AssertionError("the curves of a run that has them were read")

    monkeypatch.setattr(MlflowClient, "get_metric_history", read)
    deliver(uri, tmp_path, pruned)
    run = runs_of(uri)["w4-001"]
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1004000)
    assert run.data.tags["robsearch.state"] == "PRUNED"


def test_a_version_of_a_registered_model_tells_lambda_and_metrics_and_is_brought_up_to_date(
    uri, tmp_path
):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text("weights")
    params = {"lam": 2.0, "width": 4, "param/lam": 2.0, "param/lr": 0.1, "attack.eps": 0.1}
    summary = {"test/robust_accuracy": (0.25, 1010.0)}
    facts = {"params": params, "tags": {"robsearch.width": "4"}, "summary": summary}
    deliver(uri, tmp_path, replace(trial("w4-000", "COMPLETE", 2, **facts), model=folder))
    promoted = Promoted("s", "", "w4-000", folder)
    assert register(uri, promoted, "s-w4", only_owner=True) == "models:/s-w4/1"
    client = MlflowClient(uri)
    version = client.get_model_version("s-w4", "1")
    shown = {"robsearch.width": "4", "robsearch.lam": "2", "test/robust_accuracy": "0.25"}
    assert shown.items() <= version.tags.items()
    experiment = client.get_experiment_by_name("s").experiment_id
    (model,) = client.search_logged_models([experiment])
    assert model.params == {"lam": "2.0", "width": "4", "param/lam": "2.0", "param/lr": "0.1"}

    stronger = {**summary, "strongest/robust_accuracy": (0.2, 1020.0)}
    deliver(
        uri,
        tmp_path,
        replace(trial("w4-000", "COMPLETE", 2, **(facts | {"summary": stronger})), model=folder),
    )
    assert register(uri, promoted, "s-w4", only_owner=True) == "models:/s-w4/1"
    assert client.get_model_version("s-w4", "1").tags["strongest/robust_accuracy"] == "0.2"


def test_delivering_everything_again_changes_nothing(uri, tmp_path):
    record = trial(params={"lam": 2.5}, summary={"test/robust_accuracy": (0.5, 1010.0)})
    for _ in range(2):
        for thorough in (False, True):
            deliver(uri, tmp_path, record, thorough=thorough)
            deliver(uri, tmp_path, replace(record, summary={"test/robust_accuracy": (0.5, 2e3)}))
    (run,) = runs_of(uri).values()
    assert [step for step, *_ in curve(uri, run)] == [1, 2]
    assert curve(uri, run, "test/robust_accuracy") == [(0, 0.5, 1010000)]


def test_a_summary_that_changes_is_shown_as_it_is_last(uri, tmp_path):
    for value, when in ((0.5, 1010.0), (0.3, 1005.0)):  # the clock was set back
        deliver(uri, tmp_path, trial(summary={"strongest/robust_accuracy": (value, when)}))
    (run,) = runs_of(uri).values()
    assert run.data.metrics["strongest/robust_accuracy"] == 0.3


def test_a_record_that_mlflow_refuses_does_not_hold_up_the_others(uri, tmp_path):
    bad = trial("w4-000", summary={"forbidden@character": (1.0, 1000.0)})
    deliver(uri, tmp_path, bad, trial("w4-001"))
    assert {run.info.status for run in runs_of(uri).values()} == {"FINISHED"}


def test_of_a_thousand_metrics_only_the_one_that_mlflow_refuses_is_left_out(uri, tmp_path, caplog):
    good = {f"val/m{n:03d}": float(n) for n in range(1200)}
    summary = {name: (value, 1000.0) for name, value in good.items()}
    params, tags = {"lam": 2.5, "bad@param": 1.0}, {"robsearch.width": "4"}
    summary["forbidden@character"] = (1.0, 1000.0)
    deliver(uri, tmp_path, trial(epochs=0, params=params, tags=tags, summary=summary))
    (run,) = runs_of(uri).values()
    assert run.info.status == "FINISHED"
    assert (run.data.params, run.data.metrics) == ({"lam": "2.5"}, good)
    refused = [message for message in caplog.messages if "refused by MLflow" in message]
    names = sorted(message.split(" of ")[0] for message in refused)
    assert names == ["metric forbidden@character", "param bad@param"]


def test_a_slow_server_gets_on_from_where_it_was(uri, tmp_path, monkeypatch):
    sent = []
    log_batch = MlflowClient.log_batch

    def slow(self, run_id, metrics=(), params=(), tags=()):
        sent.append([metric.step for metric in metrics])
        if len(sent) % 2 == 0:  # the border: a server that answers every second request too late
            raise RuntimeError("no answer in time")
        log_batch(self, run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MlflowClient, "log_batch", slow)
    deliver(uri, tmp_path, *(trial(f"w4-{count:03d}", epochs=count) for count in range(1, 5)))
    assert {run.info.status for run in runs_of(uri).values()} == {"FINISHED"}
    # Each run that had arrived was not sent again; its last epoch tells which one it was. After an
    # error the others come first.
    assert [max(steps) for steps in sent] == [1, 2, 3, 4, 2, 4, 4]


def artifact_of(uri, path, search="s"):
    (run,) = runs_of(uri, search).values()
    return MlflowClient(uri).download_artifacts(run.info.run_id, path)


def test_a_file_that_changed_and_kept_its_size_is_sent_again(uri, tmp_path):
    page = tmp_path / "report.html"
    for text in ("lambda 0.31", "lambda 0.42"):
        page.write_text(text)
        deliver(uri, tmp_path, trial(artifacts={page: ""}))
        assert Path(artifact_of(uri, "report.html")).read_text() == text


def test_a_store_of_artifacts_that_is_away_for_long_loses_none(uri, tmp_path, monkeypatch):
    calls = []
    log_artifact = MlflowClient.log_artifact

    def away(self, *args):
        calls.append(args)
        if len(calls) < 9:
            raise OSError("Connection reset by peer")
        log_artifact(self, *args)

    monkeypatch.setattr(MlflowClient, "log_artifact", away)
    (tmp_path / "test.json").write_text("{}")
    deliver(uri, tmp_path, trial(artifacts={tmp_path / "test.json": "tables"}))
    assert len(calls) == 9
    assert Path(artifact_of(uri, "tables/test.json")).read_text() == "{}"


def test_an_attempt_that_is_broken_off_hides_no_reason(uri, tmp_path, monkeypatch):
    def lost(*_, **__):
        time.sleep(0.5)
        raise ConnectionError("the server went away")

    tracker = Tracker(uri, "s", tmp_path)
    monkeypatch.setattr(MlflowClient, "create_run", lost)
    records = {name: trial(name) for name in ("w4-000", "w4-001")}
    tracker.follow(records.get)
    tracker.nudge(*records)
    soon(lambda: tracker.trouble)
    time.sleep(0.35)  # the next attempt is at its first run
    assert tracker.close(patience=0) == 2
    tracker._thread.join()
    assert "the server went away" in tracker.trouble


def test_what_mlflow_will_never_take_does_not_hold_up_the_end(uri, tmp_path):
    tracker = Tracker(uri, "s", tmp_path)
    tracker.follow({"w4-000": trial(tags={"a\nname": "text"})}.get)
    tracker.nudge("w4-000")
    tracker.drain()
    assert tracker.close(patience=1) == 0
    (run,) = runs_of(uri).values()
    assert run.info.status == "FINISHED"


def test_a_run_that_a_person_deleted_is_left_alone(uri, tmp_path, caplog):
    names = ["w4-000", "w4-001"]
    deliver(uri, tmp_path, *(trial(name, "RUNNING", 3) for name in names))
    tracker = Tracker(uri, "s", tmp_path)
    tracker.follow({name: trial(name, epochs=4) for name in names}.get)
    MlflowClient(uri).delete_run(runs_of(uri)["w4-000"].info.run_id)
    tracker.nudge(*names)
    soon(lambda: tracker.left == 0)
    tracker.nudge(*names)
    assert tracker.close() == 0
    assert len([message for message in caplog.messages if "w4-000" in message]) == 1
    deliver(uri, tmp_path, *(trial(name, epochs=4) for name in names), thorough=True)
    assert list(runs_of(uri)) == ["w4-001"]
    assert runs_of(uri)["w4-001"].data.metrics["val/robust_accuracy"] == 0.4


def test_the_data_set_is_logged_once_with_its_digest(uri, tmp_path):
    data = logged_data(Digits(train=100))
    assert data["digest"] == content_digest(Digits(train=100)) != content_digest(Digits(train=101))
    for _ in range(2):
        deliver(uri, tmp_path, trial(data=data))
    (run,) = runs_of(uri).values()
    (logged,) = run.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("Digits", data["digest"])
    sizes = {"num_rows": 1797, "train": 100, "val": 848, "test": 849}
    assert json.loads(logged.dataset.profile) == sizes
    assert logged.tags[0].value == "train, val, test"


def test_artifacts_are_sent_once_and_again_when_they_change(uri, tmp_path, monkeypatch):
    file, sent = tmp_path / "test.json", []
    log_artifact = MlflowClient.log_artifact

    def counting(self, run_id, *where):
        sent.append(where)
        log_artifact(self, run_id, *where)

    monkeypatch.setattr(MlflowClient, "log_artifact", counting)
    for text in ("{}", "{}", '{"a": 1}'):
        file.write_text(text)
        deliver(uri, tmp_path, trial(artifacts={file: "tables"}), thorough=True)
    assert sent == [(str(file), "tables")] * 2


def test_a_machines_load_is_recorded_on_request_only(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    for asked in ("false", "true"):
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", asked)
        tracker = Tracker(uri, asked, tmp_path)
        tracker.follow({"search": trial("search", "RUNNING", 0)}.get)
        tracker.nudge("search")
        tracker.watch_machine()
        time.sleep(0.5)
        assert tracker.close() == 0
    assert runs_of(uri, "false")["search"].data.metrics == {}
    metrics = runs_of(uri, "true")["search"].data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100
    assert {name.split("/")[0] for name in metrics} == {"system"}
    assert "system/cpu_utilization_percentage" in metrics


def test_a_database_of_another_version_of_mlflow_is_named_as_that(uri, tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    for patient in (False, True):
        with pytest.raises(InputError, match=r"(?s)schema of MLflow .*mlflow db upgrade"):
            Tracker(uri, "s", tmp_path, patient=patient)


def test_no_password_is_written_anywhere(uri, tmp_path):
    tracker = Tracker(uri, "s", tmp_path)
    recorder = Recorder(tracker, tmp_path / "s" / "trials")
    facts = RunFacts(
        "w4",
        params={"data.root": "s3://me:secret@host/x"},
        tags={"robsearch.x": "http://me:secret@host"},
    )
    recorder._write("w4-000", facts)
    reason = "no answer from https://me:secret@host/y"
    recorder.tag("w4-000", {"robsearch.measures": reason})
    recorder.ended(RecordedTrial("w4-000", 4, 0, None, "FAIL", reason=reason), [])
    assert tracker.close() == 0
    assert "secret" not in (tmp_path / "s" / "trials" / "w4-000" / RUN).read_text()
    (run,) = runs_of(uri).values()
    assert run.data.params == {"data.root": "s3://host/x"}
    assert run.data.tags["robsearch.reason"] == "no answer from https://host/y"
    assert "secret" not in str(run.data)


def test_the_page_of_each_run_is_known_without_asking_and_by_asking(uri, tmp_path):
    tracker = deliver(uri, tmp_path, trial())
    run = runs_of(uri)["w4-000"].info
    page = f"http://127.0.0.1:5000/#/experiments/{run.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"
    assert tracker.pages == run_pages(uri, "s", "") == {"w4-000": page}
    assert run_pages(uri, "unknown", "") == run_pages("http://127.0.0.1:9", "s", "") == {}
    assert run_page("http://me:secret@h:1/", "7", "ab").startswith(
        "http://h:1/#/experiments/7/runs/ab?"
    )


COMPARED = {
    *(f"train/{name}" for name in ("natural_loss", "robust_loss", "lam", "learning_rate")),
    *(f"val/{name}" for name in ("natural_accuracy", "robust_accuracy", "stability")),
    *("val/best_robust_accuracy", "val/best_epoch", "time/epoch_seconds", "memory/peak_rss_gib"),
    *(f"test/{name}" for name in ("natural_accuracy", "robust_accuracy", "stability")),
    *(f"test/margin/{name}/mean" for name in ("logit", "input_first_order")),
    *(f"test/lipschitz/{name}/mean" for name in ("logit_ratio", "attack_ratio")),
    *("test_last/robust_accuracy", "gap/error", "gap/robust_error", "lipschitz/global_bound"),
    *(
        "norms/linf/mean",
        "norms/l1/mean",
        "norms/l2/mean",
        "norms_folded/linf/mean",
        "spectra/reshaped/mean",
    ),
    *("features/change/mean", "time/measure_seconds", "strongest/robust_accuracy"),
    *("lipschitz/global_bound_log10", "layers/covered"),
}
"""All names that a trial of a convolutional net with the default measures has in MLflow."""


def test_of_a_real_trial_mlflow_is_told_what_a_person_compares(uri, tmp_path):
    quick = PGD(eps=0.1, step_size=0.05, steps=2)
    small = recipe(
        0.25, model=SmallCNN(0.25), measures=None, measured_examples=20, epochs=2, test_attack=quick
    )
    folder = tmp_path / "trials" / "w1-000"
    tracker = Tracker(uri, "s", tmp_path)
    recorder = Recorder(tracker, tmp_path / "trials")
    recorder.begin(Suggestion("w1-000", 0.25, 0, None, Stage(0.25), small))
    reports = [report for work in (run, measure) for report in work(small, folder)]
    history = [entry for report in reports for entry in report.epochs]
    measured = reports[-1].test
    assert read_test(folder) == measured
    recorder.ended(RecordedTrial("w1-000", 0.25, 0, None, "COMPLETE"), history)
    recorder.measured("w1-000", cost_of(history, measured, {"state": "COMPLETE"}))
    assert tracker.close() == 0
    (found,) = runs_of(uri).values()
    assert set(found.data.metrics) == COMPARED | {"time/trained_seconds"}
    assert found.data.metrics["test/robust_accuracy"] == measured["test/robust_accuracy"]
    assert len(measured) > 100  # the rest is in test.json, among the tables
    tables = MlflowClient(uri).list_artifacts(found.info.run_id, "tables")
    assert "tables/test.json" in [file.path for file in tables]


def test_the_best_tag_moves(uri, tmp_path):
    tracker = Tracker(uri, "s", tmp_path)
    recorder = Recorder(tracker, tmp_path / "trials")
    for name in ("w4-000", "w4-001"):
        recorder._write(name, RunFacts(name))
    recorder.mark_best({"w4-000"})
    recorder.mark_best({"w4-001"})
    assert tracker.close() == 0
    tags = {name: run.data.tags.get("robsearch.best") for name, run in runs_of(uri).items()}
    assert tags == {"w4-000": "false", "w4-001": "true"}


@pytest.mark.parametrize("per_trial", ["one", "all"])
def test_the_trials_of_a_suggestion_share_a_tag(uri, tmp_path, per_trial):
    tracker = Tracker(uri, "s", tmp_path)
    recorder = Recorder(tracker, tmp_path / "trials", search_record(per_trial=per_trial))
    for width in (4, 8):
        for replicate in (0, 1):
            name = f"w{width}-017-r{replicate}"
            stage = Stage(None if per_trial == "all" else width)
            recorder.begin(Suggestion(name, width, 17, replicate, stage, recipe(width)))
    control = Stage(4, control="standard")
    recorder.begin(Suggestion("w4-standard-000", 4, 0, None, control, recipe(4)))
    assert tracker.close() == 0
    shared = {name: run.data.tags["robsearch.suggestion"] for name, run in runs_of(uri).items()}
    assert shared.pop("w4-standard-000") == "w4-standard-000"
    labels = {name: "all" if per_trial == "all" else name[:2] for name in shared}
    assert shared == {name: f"{label}-017" for name, label in labels.items()}
    assert len(shared) == 4


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_a_file_store_is_refused(uri):
    with pytest.raises(InputError, match="pass sqlite"):
        check_tracking(uri)


def test_a_password_is_not_shown_in_part():
    outage = "no answer from http://me:sec@ret@host:1/x?y=a@b now"
    assert without_password(outage) == "no answer from http://host:1/x?y=a@b now"
    assert without_password("postgresql://me:se/c@ret@host/db") == "postgresql://host/db"
    assert without_password("http://host:5000/a@b") == "http://host:5000/a@b"


def test_a_server_that_does_not_answer_is_waited_for_on_request(tmp_path, uri):
    with pytest.raises(InputError, match=r"an MLflow store at http://127\.0\.0\.1:9"):
        Tracker("http://127.0.0.1:9", "s", tmp_path)
    tracker = Tracker("http://127.0.0.1:9", "s", tmp_path, patient=True)
    assert tracker.trouble == "no answer from http://127.0.0.1:9 (Connection refused)"
    tracker.follow({"w4-000": trial()}.get)
    tracker.nudge("w4-000")
    tracker._client = MlflowClient(uri)  # the border: now something answers
    assert tracker.close() == 0
    assert runs_of(uri)["w4-000"].info.status == "FINISHED"


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
def test_an_outage_delays_the_record_and_whoever_trains_does_not_wait(uri, tmp_path):
    port = free_port()
    server = start_server(uri, port)
    tracker = Tracker(f"http://127.0.0.1:{port}", "s", tmp_path)
    records = {"w4-000": trial(state="RUNNING", epochs=0)}
    tracker.follow(records.get)
    tracker.nudge("w4-000")
    soon(lambda: tracker.left == 0)
    kill_server(server)
    records["w4-000"] = trial(epochs=2)
    started = time.monotonic()
    tracker.nudge("w4-000")
    assert time.monotonic() - started < 0.1
    soon(lambda: tracker.trouble)
    assert "not recorded in MLflow" in tracker.trouble
    server = start_server(uri, port)
    try:
        assert tracker.close(patience=60) == 0
    finally:
        kill_server(server)
    (run,) = runs_of(uri).values()
    assert run.info.status == "FINISHED"
    assert curve(uri, run) == [(1, 0.1, 1001000), (2, 0.2, 1002000)]
