"""What survives a killed driver: done for real, in a process of its own."""

import os
import signal
from collections import Counter

import optuna
import psutil
import pytest
from agreement import settled
from command_processes import started, wait_until
from mlflow import MlflowClient

import robsearch
from robsearch.study import open_storage
from robsearch.tracking import TRIAL
from robsearch.trials.loading import newest_checkpoint, read_history

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def runs_of(results, name):
    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert max(Counter(run.data.tags[TRIAL] for run in found).values()) == 1
    return {run.data.tags[TRIAL]: run for run in found}


def half_way(results):
    """One trial has ended and another is in the middle of its training."""
    trials = results / "s" / "trials"
    middle = [folder for folder in trials.glob("*") if 20 < len(read_history(folder)) < 350]
    return bool(list(trials.glob("*/test.json"))) and bool(middle)


def test_a_killed_launch_is_finished_by_resume_with_nothing_lost_or_repeated(tmp_path):
    launch = started(
        tmp_path,
        "launch",
        "small_spaces:slow_pair",
        "--name",
        "s",
        "--trials",
        "6",
        "--parallel",
        "2",
    )
    wait_until(lambda: half_way(tmp_path), launch)
    children = psutil.Process(launch.pid).children(recursive=True)
    os.kill(launch.pid, signal.SIGKILL)
    launch.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [
        process for process in alive if not process.name().endswith("Agent")
    ]  # Ray's agents take a minute

    before = robsearch.load_search("s", results=tmp_path)
    finished = before.trials[before.trials["state"].isin(["COMPLETE", "PRUNED"])]
    interrupted = before.trials[before.trials["state"] == "RUNNING"]["trial"]
    saved = {trial: read_history(tmp_path / "s" / "trials" / trial) for trial in interrupted}
    runs = {trial: run.info.run_id for trial, run in runs_of(tmp_path, "s").items()}
    assert len(finished) >= 1
    assert any(saved.values())

    resume = started(tmp_path, "resume", "s", "--parallel", "2")
    said, _ = resume.communicate(timeout=300)
    assert resume.returncode == 0, said
    after = robsearch.load_search("s", results=tmp_path)
    kept = after.trials.set_index("trial").loc[finished["trial"]]
    assert list(kept["value"]) == list(finished["value"])
    assert list(kept["seconds"]) == list(finished["seconds"])
    assert len(after.trials) == len(settled(after)) == 6
    assert set(after.trials["state"]) <= {"COMPLETE", "PRUNED"}
    for trial, history in saved.items():
        assert read_history(tmp_path / "s" / "trials" / trial)[: len(history)] == history
    now = runs_of(tmp_path, "s")
    assert {trial: now[trial].info.run_id for trial in runs} == runs
    assert "RUNNING" not in {run.info.status for run in now.values()}
    assert set(now) == {*after.trials["trial"], "search"}
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for trial in after.trials["trial"]:
        curve = client.get_metric_history(now[trial].info.run_id, "val/robust_accuracy")
        epochs = after.epochs[after.epochs["trial"] == trial]
        assert (
            [point.step for point in curve]
            == list(epochs["epoch"])
            == list(range(1, len(epochs) + 1))
        )


def test_ctrl_c_stops_cleanly_says_how_to_resume_and_loses_nothing(tmp_path):
    launch = started(
        tmp_path,
        "launch",
        "small_spaces:slow_pair",
        "--name",
        "s",
        "--trials",
        "6",
        "--parallel",
        "2",
    )
    trials = tmp_path / "s" / "trials"
    wait_until(lambda: any(len(read_history(folder)) > 20 for folder in trials.glob("*")), launch)
    os.kill(launch.pid, signal.SIGINT)
    said, _ = launch.communicate(timeout=60)
    assert launch.returncode == 130, said
    assert "Traceback" not in said
    assert "robsearch resume s" in said
    assert "RUNNING" not in {run.info.status for run in runs_of(tmp_path, "s").values()}
    interrupted = robsearch.load_search("s", results=tmp_path).unfinished
    assert interrupted
    assert all(
        newest_checkpoint(trials / trial)
        for trial in interrupted
        if list((trials / trial).glob("a1/LATEST"))
    )

    resume = started(tmp_path, "resume", "s", "--parallel", "2")
    said, _ = resume.communicate(timeout=300)
    assert resume.returncode == 0, said
    after = robsearch.load_search("s", results=tmp_path)
    assert not after.unfinished
    assert len(after.trials) == len(settled(after)) == 6
    assert {run.info.status for run in runs_of(tmp_path, "s").values()} <= {"FINISHED", "KILLED"}


def test_a_second_driver_is_refused_while_the_first_lives_and_stop_ends_it_from_outside(tmp_path):
    launch = started(
        tmp_path,
        "launch",
        "small_spaces:slow_pair",
        "--name",
        "s",
        "--trials",
        "40",
        "--parallel",
        "1",
    )
    wait_until(lambda: list((tmp_path / "s" / "trials").glob("*")), launch)
    second = started(tmp_path, "resume", "s")
    said, _ = second.communicate(timeout=240)
    assert second.returncode == 2
    assert f"process {launch.pid}" in said
    stop = started(tmp_path, "stop", "s")
    asked, _ = stop.communicate(timeout=240)
    said, _ = launch.communicate(timeout=60)
    assert (stop.returncode, launch.returncode) == (0, 130), asked + said
    assert f"process {launch.pid}, to stop s" in asked
    assert "go on with: robsearch resume s" in asked
    assert "stopping, as `robsearch stop` asked" in said
    assert "interrupted: " in said
    again, _ = started(tmp_path, "stop", "s").communicate(timeout=240)
    assert "expected a process that drives 's', got none" in again


def test_a_driver_whose_search_was_taken_over_stops_and_writes_nothing_more(tmp_path):
    launch = started(
        tmp_path,
        "launch",
        "small_spaces:slow_pair",
        "--name",
        "s",
        "--trials",
        "40",
        "--parallel",
        "1",
    )
    trials = tmp_path / "s" / "trials"
    wait_until(lambda: any(len(read_history(folder)) > 20 for folder in trials.glob("*")), launch)
    storage = open_storage(None, tmp_path / "s")
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s@lease-2")
    said, _ = launch.communicate(timeout=120)
    assert launch.returncode == 1
    assert "error: another driver took over 's'" in said
    assert "Traceback" not in said
    assert list(robsearch.load_search("s", results=tmp_path).trials["state"]) == ["RUNNING"]
