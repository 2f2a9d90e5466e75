"""What survives a killed driver: done for real, in a process of its own."""

import json
import os
import signal
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import optuna
import psutil
import pytest
import shared_ray
from agreement import settled
from command_processes import in_this_process, started, wait_until, when
from mlflow import MlflowClient
from mlflow_stores import new_store

import robsearch
from robsearch.search.result import Search
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


def launched(results, trials, parallel):
    words = ("--name", "s", "--trials", str(trials), "--parallel", str(parallel))
    return started(results, "launch", "small_spaces:slow_pair", *words)


# --- one search: a driver is killed, the next one is interrupted, and a third finishes it ---


def is_agent(process):
    """Of Ray, which takes a minute to end."""
    try:
        return process.name().endswith("Agent")
    except psutil.NoSuchProcess:
        return False


class Left(NamedTuple):
    """What a driver that was killed left: its search, the run of each trial, and what was saved of
    those it was at."""

    results: Path
    search: Search
    runs: dict[str, str]
    saved: dict[str, list]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    results = tmp_path_factory.mktemp("killed")
    new_store(results)
    launch = launched(results, trials=4, parallel=2)
    wait_until(lambda: half_way(results), launch)
    children = psutil.Process(launch.pid).children(recursive=True)
    others = [each for each in children if not is_agent(each)]
    os.kill(launch.pid, signal.SIGKILL)
    launch.wait()
    _, alive = psutil.wait_procs(others, timeout=20)
    assert others
    assert not alive
    search = robsearch.load_search("s", results=results)
    running = search.trials[search.trials["state"] == "RUNNING"]["trial"]
    saved = {trial: read_history(results / "s" / "trials" / trial) for trial in running}
    runs = {trial: run.info.run_id for trial, run in runs_of(results, "s").items()}
    return Left(results, search, runs, saved)


@pytest.fixture(scope="module")
def interrupted(killed):
    """The exit status of a resume to which Ctrl-C came, what it said, and what was saved of the
    trials that it was at."""
    trials = killed.results / "s" / "trials"
    resume = started(killed.results, "resume", "s", "--parallel", "2")

    def goes_on():
        return any(
            len(killed.saved.get(folder.name, [])) + 20 < len(read_history(folder)) < 350
            for folder in trials.glob("*")
        )

    wait_until(goes_on, resume)
    os.kill(resume.pid, signal.SIGINT)
    said, _ = resume.communicate(timeout=60)
    unfinished = robsearch.load_search("s", results=killed.results).unfinished
    return resume.returncode, said, {trial: read_history(trials / trial) for trial in unfinished}


def test_ctrl_c_stops_cleanly_says_how_to_resume_and_loses_nothing(killed, interrupted):
    status, said, saved = interrupted
    assert status == 130, said
    assert "Traceback" not in said
    assert "robsearch resume s" in said
    assert "RUNNING" not in {run.info.status for run in runs_of(killed.results, "s").values()}
    assert saved
    trials = killed.results / "s" / "trials"
    assert all(
        newest_checkpoint(trials / trial)
        for trial in saved
        if list((trials / trial).glob("a*/LATEST"))
    )


def test_a_killed_launch_is_finished_by_resume_with_nothing_lost_or_repeated(
    killed, interrupted, capfd
):
    results, before, runs, saved = killed
    finished = before.trials[before.trials["state"].isin(["COMPLETE", "PRUNED"])]
    assert len(finished) >= 1
    assert any(saved.values())

    note = results / "s" / "search.json"
    facts = json.loads(note.read_text())
    facts["drivers"][-1]["versions"]["torch"] = "2.6.0"
    note.write_text(json.dumps(facts))
    shared_ray.start()
    status = in_this_process(results, "resume", "s", "--parallel", "2")
    said = capfd.readouterr().out
    assert status == 0, said
    assert f"goes on with torch {version('torch')}, until now it was 2.6.0: " in said
    after = robsearch.load_search("s", results=results)
    assert not after.unfinished
    kept = after.trials.set_index("trial").loc[finished["trial"]]
    assert list(kept["value"]) == list(finished["value"])
    assert list(kept["seconds"]) == list(finished["seconds"])
    assert len(after.trials) == len(settled(after)) == 4
    assert set(after.trials["state"]) <= {"COMPLETE", "PRUNED"}
    for trial, history in [*saved.items(), *interrupted[2].items()]:
        assert read_history(results / "s" / "trials" / trial)[: len(history)] == history
    now = runs_of(results, "s")
    assert {trial: now[trial].info.run_id for trial in runs} == runs
    assert {run.info.status for run in now.values()} <= {"FINISHED", "KILLED"}
    assert set(now) == {*after.trials["trial"], "search"}
    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    for trial in after.trials["trial"]:
        curve = client.get_metric_history(now[trial].info.run_id, "val/robust_accuracy")
        epochs = after.epochs[after.epochs["trial"] == trial]
        assert (
            [point.step for point in curve]
            == list(epochs["epoch"])
            == list(range(1, len(epochs) + 1))
        )


# --- drivers that meet others ---


def test_a_second_driver_is_refused_while_the_first_lives_and_stop_ends_it_from_outside(
    tmp_path, uri, capfd
):
    launch = launched(tmp_path, trials=40, parallel=1)
    wait_until(lambda: list((tmp_path / "s" / "trials").glob("*")), launch)
    assert in_this_process(tmp_path, "resume", "s") == 2
    assert f"process {launch.pid}" in capfd.readouterr().err
    stopped = in_this_process(tmp_path, "stop", "s")
    asked = capfd.readouterr().out
    said, _ = launch.communicate(timeout=60)
    assert (stopped, launch.returncode) == (0, 130), asked + said
    assert f"(process {launch.pid}) to stop s" in asked
    assert "go on with: robsearch resume s" in asked
    assert "stopping, as `robsearch stop` asked" in said
    assert "interrupted: " in said
    assert in_this_process(tmp_path, "stop", "s") == 2
    assert "expected a process that drives 's', got none" in capfd.readouterr().err


def test_a_driver_whose_search_was_taken_over_stops_and_writes_nothing_more(
    two_cpus, tmp_path, uri, capfd
):
    trials = tmp_path / "s" / "trials"

    def take_over():
        storage = open_storage(None, tmp_path / "s")
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s@lease-2")

    with when(lambda: any(len(read_history(one)) > 20 for one in trials.glob("*")), take_over):
        words = ("--name", "s", "--trials", "40", "--parallel", "1")
        status = in_this_process(tmp_path, "launch", "small_spaces:slow_pair", *words)
    said = "".join(capfd.readouterr())
    assert status == 1, said
    assert "error: another driver took over 's'" in said
    assert "Traceback" not in said
    assert list(robsearch.load_search("s", results=tmp_path).trials["state"]) == ["RUNNING"]
