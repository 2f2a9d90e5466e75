"""The best networks as MLflow models: they are registered once, and what loads is the trial's
network."""

import dataclasses

import mlflow
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from small_spaces import pair, recipe
from tracked_runs import runs_of

from robsearch import Digits, InputError
from robsearch.data import load
from robsearch.search.commands.promote import promote
from robsearch.search.models import network
from robsearch.study import JOURNAL
from robsearch.training.evaluation import to_float
from robsearch.trials.checkpoints import drop_weights


@pytest.fixture(scope="module")
def options(pair_options):
    return pair_options


@pytest.fixture(scope="module")
def search(pair_search):
    return pair_search


@pytest.mark.slow
def test_the_best_of_each_width_is_a_model_and_no_other(search, options):
    client = MlflowClient(options.uri())
    found = client.search_logged_models([client.get_experiment_by_name("pair").experiment_id])
    best = {search.best(width)["trial"] for width in search.widths}
    assert {model.tags["robsearch.trial"]: model.status for model in found} == dict.fromkeys(
        best, "READY"
    )
    runs = runs_of(options, "pair")
    for model in found:
        run = runs[model.tags["robsearch.trial"]]
        assert model.source_run_id == run.info.run_id
        assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
        assert run.data.tags["robsearch.best"] == "true"
        shown = {metric.key: metric.value for metric in model.metrics}
        assert shown == {name: run.data.metrics[name] for name in shown}
        assert set(shown) == {
            "val/best_robust_accuracy",
            "test/natural_accuracy",
            "test/robust_accuracy",
        }
        assert len(client.get_metric_history(run.info.run_id, "test/robust_accuracy")) == 1


@pytest.mark.slow
def test_promote_registers_each_once_and_what_loads_is_the_trials_network(
    search, options, monkeypatch
):
    lines = []
    promoted = promote("pair", space=pair, options=options, say=lines.append)
    best = {width: search.best(width)["trial"] for width in search.widths}
    assert promoted == {best[width]: f"models:/pair-w{width:g}/1" for width in search.widths}
    assert lines == [f"{trial}: {model}" for trial, model in promoted.items()]
    assert promote("pair", space=pair, options=options) == promoted
    version = MlflowClient(options.uri()).get_model_version("pair-w4", "1")
    assert float(version.tags["robsearch.lam"]) == pytest.approx(search.best(4)["lam"], rel=1e-5)

    images = to_float(load(Digits(train=100))["test"].images.clone())
    own = network(recipe(4), search.folder / "trials" / best[4])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", options.uri())
    logits = mlflow.pytorch.load_model(promoted[best[4]])(images)
    torch.testing.assert_close(logits, own(images))
    of_arrays = mlflow.pyfunc.load_model(promoted[best[4]]).predict(images.numpy())
    torch.testing.assert_close(torch.from_numpy(of_arrays), logits)
    right = (logits.argmax(1) == load(Digits(train=100))["test"].labels).double().mean()
    measured = search.trials.set_index("trial").loc[best[4], "test/natural_accuracy"]
    assert right == pytest.approx(measured)


@pytest.mark.slow
def test_a_trial_that_is_not_the_best_is_exported_when_it_is_promoted(search, options):
    done = search.trials[search.trials["state"] == "COMPLETE"]
    best = {search.best(width)["trial"] for width in search.widths}
    other = next(trial for trial in done["trial"] if trial not in best)
    old = search.folder / "trials" / other / "model"  # as robsearch 0.1 saved it
    old.mkdir()
    (old / "MLmodel").touch()
    before = (search.folder / JOURNAL).read_bytes()
    assert promote(f"pair/{other}", name="mine", space=pair, options=options) == {
        other: "models:/mine/1"
    }
    assert (search.folder / JOURNAL).read_bytes() == before
    assert (old / "MLmodel").read_text()


@pytest.mark.slow
def test_a_control_is_no_version_of_what_is_searched_for(search, options):
    assert promote("pair/w4-standard-000", space=pair, options=options) == {
        "w4-standard-000": "models:/pair-w4-standard/1"
    }


@pytest.mark.slow
def test_the_run_of_the_search_has_the_answer_the_report_and_the_tables(search, options, tmp_path):
    client, run = MlflowClient(options.uri()), runs_of(options, "pair")["search"]
    assert run.data.tags["robsearch.law"] == search.ridge.sentence()
    told = run.data.tags["mlflow.note.content"].replace("\\", "")
    assert search.ridge.sentence() in told
    assert all(f"best trial {search.best(width)['trial']}" in told for width in search.widths)
    assert f"- **objective**: {search.setting['objective']}" in told
    tables = {file.path for file in client.list_artifacts(run.info.run_id, "tables")}
    assert tables == {"tables/trials.parquet", "tables/trials.csv", "tables/epochs.parquet"}
    trials = pq.read_table(
        client.download_artifacts(run.info.run_id, "tables/trials.parquet", str(tmp_path))
    )
    assert trials["trial"].to_pylist() == list(search.trials["trial"])
    report = (search.folder / "report.html").read_text()
    best = runs_of(options, "pair")[search.best(4)["trial"]].info.run_id
    assert f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{best}?" in report


@pytest.mark.slow
def test_what_cannot_be_promoted_is_refused(search, options):
    with pytest.raises(
        InputError, match=r"expected one trial for one model name, got w4-.*--as mine"
    ):
        promote("pair", name="mine", space=pair, options=options)
    with pytest.raises(InputError, match="expected a finished trial, got w4-999: finished are w4-"):
        promote("pair/w4-999", space=pair, options=options)
    elsewhere = dataclasses.replace(options, tracking=f"sqlite:///{options.store.results}/other.db")
    trial = search.best(4)["trial"]
    with pytest.raises(
        InputError, match=f"expected a run of pair/{trial} in sqlite.*robsearch sync pair"
    ):
        promote(f"pair/{trial}", space=pair, options=elsewhere)
    drop_weights(search.folder / "trials" / "w8-standard-000")
    with pytest.raises(
        InputError,
        match=r"the weights of w8-standard-000, got none in .*that has them \(w4-000, w4-",
    ):
        promote("pair/w8-standard-000", space=pair, options=options)
