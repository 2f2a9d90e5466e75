"""A launch as a user sees it: real local Ray, a real journal, a real sqlite MLflow, tiny nets on
real digits."""

import dataclasses
import io
import re
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from rich.console import Console
from small_spaces import everything, pair
from tracked_runs import runs_of
from typer.testing import CliRunner

import robsearch
from robsearch import InputError, RunOptions, cli, cluster
from robsearch.identity import DERIVATION
from robsearch.search.capacity import joined, own_cpus
from robsearch.search.commands.status import status_lines
from robsearch.spaces.resources import Resources
from robsearch.study import SearchRecord
from robsearch.tracking import default_uri

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return RunOptions(results=tmp_path_factory.mktemp("results"), parallel=2)


@pytest.fixture(scope="module")
def launched(options, two_cpus):
    console = Console(record=True, width=200, force_terminal=False)
    search = robsearch.launch(pair, name="pair", trials=6, options=options, console=console)
    return search, runs_of(options, "pair"), console.export_text()


def test_the_total_is_spread_evenly_over_the_widths_and_every_control_is_trained(launched):
    search, _, _ = launched
    searched = search.trials[search.trials["control"].isna()]
    assert dict(searched["width"].value_counts()) == {4: 3, 8: 3}
    assert set(searched["state"]) <= {"COMPLETE", "PRUNED"}
    controls = search.trials[search.trials["control"] == "standard"]
    assert sorted(controls["trial"]) == ["w4-standard-000", "w8-standard-000"]
    assert (controls["lam"] == 0).all()


def test_optuna_mlflow_and_the_folders_agree(launched):
    search, runs, _ = launched
    status = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED"}
    for trial in search.trials.itertuples():
        run = runs[trial.trial]
        assert run.info.status == status[trial.state]
        assert run.data.tags["robsearch.state"] == trial.state
        assert run.data.metrics["val/best_robust_accuracy"] == pytest.approx(trial.value)
        assert float(run.data.params["lam"]) == pytest.approx(trial.lam)
        assert (
            run.data.params.get("param/lam", run.data.params["lam"]) == run.data.params["lam"]
        )  # a control has none
        curve = MlflowClient(search.record.tracking).get_metric_history(
            run.info.run_id, "val/robust_accuracy"
        )
        epochs = search.epochs[search.epochs["trial"] == trial.trial]
        assert [(point.step, point.value) for point in curve] == list(
            zip(epochs["epoch"], epochs["val/robust_accuracy"], strict=True)
        )
    assert set(runs) == {*search.trials["trial"], "search"}
    assert runs["search"].info.status == "FINISHED"


def test_the_default_store_is_remembered_as_the_file_beside_the_results_not_as_a_path(
    launched, options
):
    search, _, _ = launched
    assert SearchRecord.load(options.store.open("pair"), "pair").tracking == ""
    assert SearchRecord.load(options.store.open("pair"), "pair").derivation == DERIVATION
    assert search.record.tracking == default_uri(options.store.results)


def test_the_value_of_a_trial_is_its_best_epoch_on_val(launched):
    search, _, _ = launched
    best = search.epochs.groupby("trial")["val/robust_accuracy"].max()
    for trial in search.trials.itertuples():
        assert trial.value == best[trial.trial]


def test_a_finished_trial_has_its_test_figures_and_a_row_per_image(launched, options):
    search, runs, _ = launched
    done = search.trials[search.trials["state"] == "COMPLETE"]
    assert done["test/robust_accuracy"].notna().all()
    assert done["test/margin/logit/mean"].notna().all()
    client = MlflowClient(search.record.tracking)
    for trial in done.itertuples():
        rows = pq.read_table(search.folder / "trials" / trial.trial / "test.parquet")
        assert rows["robust_accuracy"].to_numpy().mean() == pytest.approx(
            done.set_index("trial").loc[trial.trial, "test/robust_accuracy"]
        )
        run = runs[trial.trial]
        assert run.data.metrics["test/robust_accuracy"] == pytest.approx(
            rows["robust_accuracy"].to_numpy().mean()
        )
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == [
            "figures",
            "tables",
        ]


def test_exactly_the_best_trial_of_each_width_is_tagged(launched):
    search, runs, _ = launched
    searched = search.trials[
        search.trials["control"].isna() & (search.trials["state"] == "COMPLETE")
    ]
    best = {group.loc[group["value"].idxmax(), "trial"] for _, group in searched.groupby("width")}
    assert {
        trial for trial, run in runs.items() if run.data.tags.get("robsearch.best") == "true"
    } == best


def test_the_watcher_is_told_of_every_trial_and_the_report_is_written(launched, tmp_path):
    search, runs, text = launched
    for trial in search.trials["trial"]:
        assert f"\n{trial}" in text
    assert (
        search.report.read_text().startswith("<!doctype html>")
        or "<html" in search.report.read_text()
    )
    client = MlflowClient(search.record.tracking)
    assert [file.path for file in client.list_artifacts(runs["search"].info.run_id)] == [
        "report-data",
        "report.html",
        "tables",
    ]
    copied = client.download_artifacts(runs["search"].info.run_id, "", str(tmp_path))
    linked = re.findall(r'href="(\./report-data/[^"]+)"', Path(copied, "report.html").read_text())
    assert len(linked) > 5
    assert all(Path(copied, link).is_file() for link in linked)
    tags = runs["search"].data.tags
    assert tags["robsearch.law"] == search.ridge.sentence()
    note = tags["mlflow.note.content"].replace("\\", "")
    assert search.ridge.sentence() in note
    assert all(f"best trial {search.best(width)['trial']}" in note for width in search.widths)
    assert f"- **objective**: {search.setting['objective']}" in note


def test_an_existing_name_is_refused_with_the_two_ways_on(launched, options):
    with pytest.raises(InputError, match=r"robsearch resume pair.*another --name"):
        robsearch.launch(pair, name="pair", options=options)


def test_resume_adds_trials_and_repeats_nothing(launched, options, two_cpus):
    before, runs, _ = launched
    after = robsearch.resume(
        "pair", trials=2, space=pair, options=options, console=Console(quiet=True)
    )
    kept = after.trials.set_index("trial").loc[before.trials["trial"]].reset_index()
    pd.testing.assert_frame_equal(
        kept[before.trials.columns], before.trials, check_dtype=False
    )  # ints beside NaN
    assert len(after.trials) == len(before.trials) + 2
    now = runs_of(options, "pair")
    assert {trial: run.info.run_id for trial, run in now.items() if trial in runs} == {
        trial: run.info.run_id for trial, run in runs.items()
    }
    assert not [run for run in now.values() if run.info.status == "RUNNING"]
    assert after.record.trials == 8


def test_status_reads_the_same_counts(launched, options):
    search = robsearch.load_search("pair", results=options.results)
    console = Console(record=True, width=80)
    for line in status_lines(search):
        console.print(line)
    assert f"{search.record.trials} of {search.record.trials} trials ended" in console.export_text()


def test_a_search_in_which_everything_fails_stops_says_why_and_exits_with_1(options, two_cpus):
    words = [
        "--name",
        "hopeless",
        "--trials",
        "8",
        "--parallel",
        "1",
        "--results",
        str(options.results),
    ]
    result = CliRunner().invoke(cli.app, ["launch", "small_spaces:hopeless", *words])
    assert result.exit_code == 1
    said = "5 trials failed in a row, the last one w4-004: RuntimeError: a fault of the objective"
    assert said in result.output
    search = robsearch.load_search("hopeless", results=options.results)
    assert list(search.trials["state"]) == ["FAIL"] * 5
    shown = (
        CliRunner()
        .invoke(cli.app, ["status", "hopeless", "--results", str(options.results)])
        .output
    )
    assert (
        "w4-004 failed: RuntimeError: a fault of the objective (so did 4 before: w4-000, "
        "w4-001, w4-002, ...)" in shown
    )
    lams = search.trials["param/lam"]
    assert f"they had lam {lams.min():.3g} to {lams.max():.3g}\n" in shown
    assert f"w4-000    FAILED lam {lams[0]:.3g} RuntimeError" in result.output
    assert float(runs_of(options, "hopeless")["w4-000"].data.params["param/lam"]) == pytest.approx(
        lams[0]
    )


def takes(**resources):
    """A space of two widths of which the wider takes so much."""
    wide = Resources(**resources)
    return dataclasses.replace(pair, resources=lambda width: wide if width == 8 else Resources())


@pytest.mark.parametrize(
    ("resources", "options", "said"),
    [
        (
            {"cpus": 3},
            {},
            r"8 \(3 CPUs and 0 GPUs\), got at most 2 CPUs and 0 GPUs on a node: "
            "lower the CPUs .*--parallel",
        ),
        (
            {"workers": 3},
            {"parallel": 1},
            r"\(3 CPUs and 0 GPUs\), got at most 2 CPUs.*: lower the CPUs \(or workers\)",
        ),
        (
            {"gpus": 1},
            {},
            r"\(1 CPU and 1 GPU\), got .*: lower the GPUs of the space's resources, "
            "or join a cluster",
        ),
        (
            {},
            {"gpus_per_trial": 0.5},
            r"\(1 CPU and 0.5 GPUs\), got .*: lower --gpus-per-trial, or join",
        ),
        (
            {},
            {"gpus_per_trial": "auto"},
            "a GPU to measure on for --gpus-per-trial auto, got 2 CPUs, 0 GPUs on 1 node",
        ),
    ],
)
def test_a_search_without_room_is_told_what_is_missing_and_leaves_nothing_behind(
    tmp_path, two_cpus, resources, options, said
):
    with pytest.raises(InputError, match=said):
        robsearch.launch(takes(**resources), options=RunOptions(results=tmp_path, **options))
    assert not list(tmp_path.iterdir())


def test_a_ray_of_ones_own_has_the_cpus_that_parallel_trials_take():
    for resources, options, cpus in (
        ({}, {}, None),
        ({}, {"parallel": 3}, 3),
        ({"workers": 2}, {"parallel": 1}, 2),
        ({"cpus": 1.5, "workers": 2}, {"parallel": 2}, 6),
        ({"cpus": 2}, {"parallel": 2, "gpus_per_trial": 4}, 16),
        ({}, {"parallel": 2, "gpus_per_trial": "auto"}, 2),
    ):
        assert own_cpus(RunOptions(**options), takes(**resources)) == cpus
    halves = dataclasses.replace(pair, resources=lambda width: Resources(cpus=0.5))
    assert own_cpus(RunOptions(parallel=3), halves) == 2


def test_a_cluster_that_is_joined_is_named(tmp_path, two_cpus):
    console = Console(record=True, file=io.StringIO(), width=200)
    with joined(RunOptions(results=tmp_path, address="auto"), pair, tmp_path, [], console):
        at = cluster.head_address()
    whose = f"of user {psutil.Process().username()} at {at}"
    assert console.export_text() == f"joined the Ray cluster {whose}: 2 CPUs, 0 GPUs on 1 node\n"


def test_a_recipe_with_everything_in_it_is_searched_like_any_other(
    options, two_cpus, tmp_path, monkeypatch
):
    monkeypatch.setenv(
        "ROBSEARCH_STORAGE", f"sqlite:///{tmp_path}/optuna.db"
    )  # and kept where the environment says
    search = robsearch.launch(
        everything,
        name="everything",
        trials=4,
        options=dataclasses.replace(options, parallel=1),
        console=Console(quiet=True),
    )
    assert set(search.trials["state"]) <= {"COMPLETE", "PRUNED"}
    assert len(search.trials) == 4
    done = search.trials[search.trials["state"] == "COMPLETE"]
    assert {"test/robust_accuracy", "test_raw/robust_accuracy", "test_last/robust_accuracy"} <= set(
        done.columns
    )
    moved = search.epochs.groupby("trial")["train/lam"].nunique()
    assert (moved > 1).all()  # WAR steers lambda
    params = runs_of(options, "everything")["w4-000"].data.params
    assert params["lam"] == "WAR"
    assert params["averaging.decay"] == "0.9"
    assert params["lam.freeze_at"] == "0.5"
    assert (params["optimiser"], params["clip_gradient"]) == ("AdamW", "5.0")
    assert int(params["data.draw"]) == int(params["seed"]) > 0
    assert params["penalties.NormDecay.beta"] == "0.0001"
