"""The MLflow UI: the view that a link opens, and the server that ``robsearch ui`` starts."""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zlib

import pytest
from mlflow import MlflowClient
from mlflow_stores import new_store

from robsearch import RunOptions
from robsearch.study import SearchRecord, open_storage
from robsearch.tracking import experiment_page, publish_view, ui_command
from robsearch.tracking.view import BEST, FIRST, TAG

METRICS = ("val/robust_accuracy", "test/robust_accuracy", "test/lipschitz/logit_ratio/mean", "loss")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("store"))


def experiment(uri, name, **params):
    client = MlflowClient(uri)
    number = client.create_experiment(name)
    run = client.create_run(number)
    for metric in METRICS:
        client.log_metric(run.info.run_id, metric, 0.5)
    for param, value in params.items():
        client.log_param(run.info.run_id, param, value)
    return number


def published(uri, number):
    tag = MlflowClient(uri).get_experiment(number).tags[TAG]
    kind, _, packed = tag.partition(";")
    assert kind == "deflate"
    assert len(tag) < 5000  # what MLflow takes
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_the_view_draws_lambda_width_and_robust_accuracy_first(store):
    number = experiment(store, "fixed", lam=2.0, width=4, log10_lam=0.3)
    assert publish_view(store, number) == "robsearch"
    view = published(store, number)
    parallel, scatter, *_ = view["compareRunCharts"]
    assert parallel["type"] == "PARALLEL"
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (
        ["log10_lam", "width"],
        [BEST],
    )
    assert scatter["xaxis"] == {"key": "log10_lam", "type": "PARAM"}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {FIRST}
    assert len({chart["uuid"] for chart in view["compareRunCharts"]}) == 4


def test_the_view_draws_all_that_was_searched(store):
    suggested = {"param/lam": 2.0, "param/lr": 0.1, "param/depth": 2}
    number = experiment(store, "searched", width=4, log10_lam=0.3, **suggested)
    publish_view(store, number)
    parallel, *_ = published(store, number)["compareRunCharts"]
    assert parallel["selectedParams"] == ["log10_lam", "width", "param/depth", "param/lr"]
    of_schedule = experiment(store, "schedule", width=4, **suggested)  # its lambda moves
    publish_view(store, of_schedule)
    parallel, *_ = published(store, of_schedule)["compareRunCharts"]
    assert parallel["selectedParams"] == ["width", "param/depth", "param/lam", "param/lr"]


def test_of_many_runs_the_newest_are_drawn_because_the_best_are_all_of_the_widest(
    store, monkeypatch
):
    number = experiment(store, "few", log10_lam=0.3)
    publish_view(store, number)
    assert published(store, number)["orderByKey"] == f"metrics.`{BEST}`"
    monkeypatch.setattr("robsearch.tracking.view.DRAWN", 0)
    publish_view(store, number)
    assert published(store, number)["orderByKey"] == "attributes.start_time"


def test_the_view_closes_the_sections_of_all_other_charts(store):
    number = experiment(store, "closed", log10_lam=0.3)
    publish_view(store, number)
    sections = {
        section["name"]: section["display"]
        for section in published(store, number)["compareRunSections"]
    }
    closed = dict.fromkeys(["Model metrics", "test", "test/lipschitz/logit_ratio", "val"], False)
    assert sections == {FIRST: True, **closed}


def test_where_lambda_is_steered_its_last_value_stands_for_it(store):
    number = experiment(store, "steered", lam="WAR", width=4)
    publish_view(store, number)
    parallel, scatter, *_ = published(store, number)["compareRunCharts"]
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (
        ["width"],
        ["train/lam", BEST],
    )
    assert scatter["xaxis"] == {"key": "train/lam", "type": "METRIC"}


def test_a_view_that_cannot_be_saved_is_left_out_of_the_link(store):
    assert publish_view(store, "12345") is None
    page = "http://h:1/#/experiments/7/runs?compareRunsMode=CHART&workflowType=machine_learning"
    assert experiment_page("http://h:1", "7", None) == page
    assert experiment_page("http://h:1", "7", "robsearch") == f"{page}&viewStateShareKey=robsearch"


def test_a_password_is_no_argument_of_the_server():
    assert "hunter2" not in " ".join(ui_command("postgresql://me:hunter2@db/x", 5000))
    assert "sqlite:///m.db" in ui_command("sqlite:///m.db", 5000)


def test_the_command_to_type_next_says_what_the_search_does_not_remember_and_no_password(tmp_path):
    record = SearchRecord("s", "m:n", (4,), 0, 6, "http://host:1", {})
    options = RunOptions(
        results=tmp_path, storage="postgresql://me:secret@db/x", tracking="http://me:secret@host:1"
    )
    assert (
        options.command("ui", record)
        == f"robsearch ui s --results {tmp_path} --storage postgresql://db/x"
    )
    elsewhere = RunOptions(tracking="http://me:secret@other:1")
    assert elsewhere.command("sync", record) == "robsearch sync s --tracking http://other:1"


def test_a_password_in_the_environment_goes_with_the_address_that_a_search_remembers(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:1")
    assert RunOptions().uri("http://host:1") == "http://me:secret@host:1"
    assert RunOptions().uri("http://other:1") == "http://other:1"
    assert RunOptions(tracking="http://given:1").uri("http://host:1") == "http://given:1"
    assert RunOptions().uri() == "http://me:secret@host:1"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def started(results, port, *options):
    """``robsearch ui s`` once it has said where it is: the process, and what it said."""
    words = ["ui", "s", "--results", str(results), "--port", str(port), *options]
    code = "from robsearch.cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
    )
    said = ""
    for line in server.stdout:
        said += line
        if "Ctrl-C" in line:
            break
    return server, said


def status_of(address, origin):
    request = urllib.request.Request(
        f"{address}/ajax-api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 1}',
        headers={"Origin": origin, "Content-Type": "application/json"},
    )
    try:
        return urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_ui_says_where_it_is_once_it_answers_and_ends_with_its_server(store, tmp_path, host):
    SearchRecord("s", "m:n", (4,), 0, 6, store, {}).create(open_storage(None, tmp_path / "s"))
    client = MlflowClient(store)
    number = (
        client.get_experiment_by_name("s") or client.get_experiment(client.create_experiment("s"))
    ).experiment_id
    port = free_port()
    server, said = started(tmp_path, port, "--host", host)
    try:
        address = re.search(r"http://[^/]+", said)[0]
        kind = "compareRunsMode=CHART&workflowType=machine_learning"
        page = f"{address}/#/experiments/{number}/runs?{kind}"
        assert f"{page}&viewStateShareKey=robsearch" in said
        assert address == f"http://{host if host == '127.0.0.1' else socket.gethostname()}:{port}"
        assert ("asks for no password" in said) == (host != "127.0.0.1")
        local = f"http://127.0.0.1:{port}"
        assert status_of(local, address) == 200  # its own page
        assert status_of(local, "http://evil.example") == 403
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
