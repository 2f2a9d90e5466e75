"""A training loop of a user's own, searched: pruned, killed, resumed and recorded as ours is."""

import pytest
import torch
from mlflow import MlflowClient
from small_loops import Mortal, own, recipe

import robsearch
from robsearch import RunOptions, train
from robsearch.tracking import TRIAL
from robsearch.trials.loading import newest_checkpoint, read_history
from robsearch.trials.variables import PASSED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def search(tmp_path_factory, two_cpus):
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSED, "ROBSEARCH_TEST_MARKER")
        patch.setenv("ROBSEARCH_TEST_MARKER", str(results / "died"))
        options = RunOptions(results=results, parallel=1)
        yield robsearch.launch(own, name="s", trials=4, options=options)


def runs_of(search):
    client = MlflowClient(search.record.tracking)
    experiment = client.get_experiment_by_name(search.name)
    runs = client.search_runs([experiment.experiment_id])
    return {run.data.tags[TRIAL]: run for run in runs if TRIAL in run.data.tags}


def test_what_learns_nothing_is_pruned_and_the_others_are_trained_and_measured(search):
    rows = search.trials.set_index("trial")
    states = dict(rows["state"])
    assert {states[trial] for trial in ("w8-000", "w16-000")} == {"COMPLETE"}
    assert {states[trial] for trial in ("w8-001", "w16-001")} == {"PRUNED"}
    assert rows.loc["w8-001", "epochs"] < 5
    assert rows.loc["w8-000", "test/robust_accuracy"] > 0.3
    assert rows.loc["w8-000", "lam"] == 1.0


def test_a_worker_that_was_killed_went_on_bit_for_bit(search):
    folder = search.folder / "trials" / "w16-000"
    assert sorted(attempt.name for attempt in folder.glob("a*")) == ["a1", "a2"]
    row = search.trials.set_index("trial").loc["w16-000"]
    alone = recipe(16, row["lam"], Mortal(lr=0.2), seed=int(row["seed"]))
    whole = list(train(alone))
    history, died = read_history(folder), (search.folder.parent / "died").stat().st_mtime
    # The third epoch had no end, so nothing is trained twice.
    assert [entry["time"] < died for entry in history] == [True, True, False, False, False]
    for name in ("train/loss", "val/robust_accuracy", "val/stability"):
        assert [entry[name] for entry in history] == [epoch.metrics[name] for epoch in whole]
    saved = newest_checkpoint(folder).state
    for name, value in whole[-1].state["model"].items():
        assert torch.equal(saved["model"][name], value)
    buffers = saved["loop"]["optimiser"]["state"]
    assert all(bool(buffer["momentum_buffer"].abs().sum() > 0) for buffer in buffers.values())


def test_mlflow_has_the_epochs_the_metrics_and_the_settings_of_the_loop(search):
    runs = runs_of(search)
    run = runs["w16-000"]
    client = MlflowClient(search.record.tracking)
    for name in ("val/robust_accuracy", "train/loss"):
        curve = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in curve] == [1, 2, 3, 4, 5]
    assert run.data.params["loop"] == "Mortal"
    assert float(run.data.params["loop.lr"]) == pytest.approx(0.2)
    assert "optimiser" not in run.data.params
    assert runs["w8-001"].info.status == "FINISHED"
    assert runs["w8-001"].data.tags["robsearch.state"] == "PRUNED"
    assert "training loop" in search.report.read_text()
