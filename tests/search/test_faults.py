"""Faults end to end: each really happens to a search, and afterwards Optuna, MLflow and Ray tell
the same of it."""

import contextlib
import dataclasses
import io
import json
import math
import re
import time

import pandas as pd
import psutil
import pytest
import shared_ray
from agreement import BROKE_DOWN, in_ray, settled, stated
from command_processes import started, wait_until, when
from faulty_spaces import ROOM, greedy, many, silent, sound
from full_disks import ballast, disk_of
from mlflow import MlflowClient
from mlflow_stores import new_store
from rich.console import Console
from small_spaces import recipe
from two_nodes import two_nodes
from typer.testing import CliRunner

import robsearch
from robsearch import RunOptions, cli, cluster, train
from robsearch.search.commands.status import status_lines
from robsearch.search.scheduling import scheduler_of
from robsearch.study import JOURNAL, open_storage
from robsearch.tracking import TRIAL
from robsearch.trials import trial
from robsearch.trials.loading import newest_checkpoint, read_history
from robsearch.trials.variables import PASSED

pytestmark = pytest.mark.slow
LOSSES = ["train/natural_loss", "train/robust_loss"]


def metrics(search, trial, name):
    """A metric's values in MLflow, by epoch."""
    client = MlflowClient(search.record.tracking)
    runs = client.search_runs([client.get_experiment_by_name(search.name).experiment_id])
    (run,) = (run for run in runs if run.data.tags[TRIAL] == trial)
    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}


# --- faults of the workers ---


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    new_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSED, "ROBSEARCH_TEST_TRIALS")
        patch.setenv("ROBSEARCH_TEST_TRIALS", str(folder / "s" / "trials"))
        yield folder


@pytest.fixture(scope="module")
def options(results, two_cpus):
    return RunOptions(results=results, parallel=1)


@pytest.fixture(scope="module")
def launched(options):
    console = Console(record=True, width=80, force_terminal=False)
    search = robsearch.launch(many, name="s", trials=5, options=options, console=console)
    return search, console.export_text()


def test_after_six_faults_everybody_tells_the_same_and_nothing_runs(launched):
    search, _ = launched
    states = settled(search)
    assert [states[f"w4-00{n}"] for n in range(7)] == [
        "COMPLETE",
        "FAIL",
        "FAIL",
        "COMPLETE",
        "COMPLETE",
        "COMPLETE",
        "COMPLETE",
    ]
    assert len(states) == 7
    measured = {(trial, "measure") for trial, state in states.items() if state == "COMPLETE"}
    assert set(in_ray(search)) == {(trial, "run") for trial in states} | measured


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        ("w4-001", "RuntimeError: a fault [/of] the objective"),
        ("w4-002", "the loss became nan + "),
    ],
)
def test_a_trial_that_cannot_go_on_fails_with_its_reason(launched, trial, words):
    search, said = launched
    assert words in search.trials.set_index("trial").loc[trial, "reason"]
    assert re.search(rf"{trial} +FAILED .*{re.escape(words)}", said)


def test_a_killed_worker_goes_on_from_its_checkpoint(launched):
    search, _ = launched
    folder = search.folder / "trials" / "w4-003"
    assert sorted(attempt.name for attempt in folder.glob("a*")) == ["a1", "a2"]
    history, killed = read_history(folder), (folder / "met").stat().st_mtime
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert [entry["time"] < killed for entry in history] == [
        True,
        True,
        False,
        False,
    ]  # nothing is trained twice
    assert list(metrics(search, "w4-003", "val/robust_accuracy")) == [1, 2, 3, 4]


def test_out_of_memory_the_batch_is_the_same_in_smaller_pieces_and_the_record_says_so(launched):
    search, said = launched
    assert (
        said.count(
            "w4-004  out of memory in epoch 1: training goes on with 12 of 50 images at a time"
        )
        == 1
    )
    row = search.trials.set_index("trial").loc["w4-004"]
    whole = dataclasses.replace(greedy(4.0, row["lam"], room=math.inf), seed=int(row["seed"]))
    expected = [[epoch.metrics[name] for name in LOSSES] for epoch in train(whole)]
    epochs = search.epochs[search.epochs["trial"] == "w4-004"]
    assert epochs[LOSSES].to_numpy() == pytest.approx(pd.DataFrame(expected).to_numpy(), rel=1e-4)
    assert metrics(search, "w4-004", "train/micro_batch") == dict.fromkeys(
        [1, 2, 3, 4], 12
    )  # 50, 25, 12 <= ROOM
    assert whole.batch_size == 50 > ROOM > 12


def test_on_a_full_disk_a_trial_waits_with_its_last_checkpoint_and_trains_nothing_twice(launched):
    search, said = launched
    folder = search.folder / "trials" / "w4-005"
    assert len(list(folder.glob("a*"))) == 1
    assert [entry["epoch"] for entry in newest_checkpoint(folder).history] == [1, 2, 3, 4]
    assert list(metrics(search, "w4-005", "val/robust_accuracy")) == [1, 2, 3, 4]
    assert said.count("w4-005  training goes on without a new checkpoint: ") == 1
    assert said.count(f"MB in {search.folder}: nothing new begins until there is room") == 1
    assert said.count(f"there is room in {search.folder} again") == 1


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before_and_said_so(launched):
    search, said = launched
    folder = search.folder / "trials" / "w4-006"
    history, killed = read_history(folder), (folder / "met").stat().st_mtime
    assert [entry["time"] < killed for entry in history] == [
        True,
        False,
        False,
        False,
    ]  # epoch 2 once more
    assert (folder / "a1" / "epoch-0002" / "state.pt").stat().st_size == 100
    assert list(metrics(search, "w4-006", "val/robust_accuracy")) == [1, 2, 3, 4]
    words = (
        f"w4-006  the checkpoint {folder}/a1/epoch-0002 is damaged: going back to the one before it"
    )
    assert said.count(words) == 1


def test_status_shows_each_failure_with_its_traceback_or_what_was_saved_in_80_columns(launched):
    search, _ = launched
    shown = CliRunner().invoke(cli.app, ["status", "s", "--results", str(search.folder.parent)])
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    terminal = Console(width=80, record=True, file=io.StringIO())
    for line in status_lines(search):
        terminal.print(line, highlight=False, soft_wrap=isinstance(line, str))
    narrow = terminal.export_text().splitlines()
    trials = search.folder / "trials"
    at = lines.index("w4-001 failed: RuntimeError: a fault [/of] the objective ...")
    assert lines[at + 1] == f"  traceback: {trials}/w4-001/a1/error.txt"
    assert "with more to say" in (trials / "w4-001" / "a1" / "error.txt").read_text()
    assert f"  saved: {trials}/w4-002" in lines
    assert all(len(line) <= 80 or str(trials) in line for line in narrow)


# --- faults of the driver ---


def test_a_torn_journal_is_mended_and_a_late_worker_of_a_dead_driver_writes_nothing(
    launched, options, monkeypatch
):
    """A driver asked for trial 7, its worker saved two epochs, the disk tore its last word, and it
    was killed."""
    monkeypatch.setattr(trial, "REPORT_SECONDS", 0.0)  # of the late worker: each epoch is saved
    before, _ = launched
    journal = before.folder / JOURNAL
    (study,) = scheduler_of(
        many, before.record, open_storage(None, before.folder), recipe(4)
    ).counts_of
    asked = study.ask()
    folder = before.folder / "trials" / asked.trial
    late = trial.run(asked.recipe, folder)
    told = [entry for _ in range(2) for entry in next(late).epochs]
    with journal.open("ab") as file:
        file.write(b'{"op_code":5,"worker_id":"torn')
    (before.folder / f"{JOURNAL}.lock").symlink_to(journal)

    after = robsearch.resume(
        "s", trials=1, space=many, options=options, console=Console(quiet=True)
    )
    states = settled(after)
    assert {trial: state for trial, state in states.items() if trial != asked.trial} == stated(
        before
    )
    assert states[asked.trial] == "COMPLETE"
    assert read_history(folder)[: len(told)] == told
    assert b"torn" in journal.with_suffix(".torn").read_bytes()
    assert b"torn" not in journal.read_bytes()

    written = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (report,) = late
    assert (report.ended, report.attempt) == ("FAIL", 1)
    assert "attempt 1 was superseded" in report.reason
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == written
    assert settled(robsearch.load_search("s", results=options.results)) == states


# --- slow ones ---


@pytest.mark.timeout(900)
def test_a_hung_trial_is_ended_and_retried_and_a_worker_that_dies_again_and_again_fails_its_trial(
    options, monkeypatch
):
    monkeypatch.setenv(PASSED, "ROBSEARCH_TEST_TRIALS")
    monkeypatch.setenv("ROBSEARCH_TEST_TRIALS", str(options.store.folder("silent") / "trials"))
    patient = dataclasses.replace(options, hang_after=20.0, parallel=2)
    search = robsearch.launch(
        silent, name="silent", trials=3, options=patient, console=Console(quiet=True)
    )
    assert settled(search) == {
        "w4-000": "COMPLETE",
        "w4-001": "FAIL",
        "w4-002": "FAIL",
        "w4-003": "COMPLETE",
        "w4-004": "COMPLETE",
    }
    reasons = search.trials.set_index("trial")["reason"]
    assert re.match(rf"its worker {BROKE_DOWN}: no report for \d+ s", reasons["w4-001"])
    assert re.match(rf"its worker {BROKE_DOWN}: .*died", reasons["w4-002"])
    attempts = {
        name: len(list((search.folder / "trials" / name).glob("a*"))) for name in reasons.index
    }
    assert attempts == {"w4-000": 1, "w4-001": 3, "w4-002": 3, "w4-003": 2, "w4-004": 1}
    assert list(search.epochs[search.epochs["trial"] == "w4-003"]["epoch"]) == [1, 2, 3, 4]
    shown = (
        CliRunner().invoke(cli.app, ["status", "silent", "--results", str(options.results)]).output
    )
    for name in ("w4-001", "w4-002"):
        assert f"  saved: {search.folder}/trials/{name}" in shown.splitlines()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A results folder in which a driver in a process of its own searches ``sound``."""
    monkeypatch.setenv(PASSED, "ROBSEARCH_TEST_TRIALS")
    monkeypatch.setenv("ROBSEARCH_TEST_TRIALS", str(tmp_path / "results" / "s" / "trials"))
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


LAUNCH = ("launch", "faulty_spaces:sound", "--name", "s", "--trials", "2", "--parallel", "1")


@pytest.mark.timeout(900)
def test_a_disk_that_stays_full_ends_the_driver_with_one_sentence_and_resume_goes_on(
    elsewhere, two_cpus
):
    with disk_of("16m", elsewhere):
        new_store(elsewhere)
        launch = started(elsewhere, *LAUNCH, "--disk-patience", "1")
        wait_until(lambda: len(read_history(elsewhere / "s" / "trials" / "w4-000")) > 4, launch)
        full = ballast(elsewhere)
        said, _ = launch.communicate(timeout=300)
        # A line of the journal may still fit into its last block. Then no decision fails, and the
        # driver gives up waiting for room.
        words = {
            1: f"error: expected room for the search in {elsewhere}/s, got 0 bytes (No space left "
            "on device)",
            130: f"stopped: waiting for 5 MB in {elsewhere}/s for 1 second (--disk-patience)",
        }
        assert words[launch.returncode] in said
        assert "go on with: robsearch resume s" in said
        assert "Traceback" not in said
        lines = (elsewhere / "s" / JOURNAL).read_bytes()
        assert lines.endswith(b"}\n")
        assert all(json.loads(line) for line in lines.splitlines())
        full.unlink()
        # What Tune itself wrote of that driver is torn; ours is not, and nothing reads Tune's.
        for torn in (elsewhere / "s" / "ray").glob("experiment_state-*.json"):
            torn.unlink()
        search = robsearch.resume(
            "s",
            space=sound,
            options=RunOptions(results=elsewhere, parallel=1),
            console=Console(quiet=True),
        )
        assert settled(search) == {"w4-000": "COMPLETE", "w4-001": "COMPLETE"}
        assert list(search.epochs["epoch"]) == [*range(1, 21), *range(1, 21)]


@pytest.mark.timeout(900)
def test_a_ray_of_its_own_that_ends_ends_the_driver_with_one_sentence_and_resume_goes_on(elsewhere):
    """Without a node no trial would begin, and none joins a Ray on this machine."""
    new_store(elsewhere)
    # Workers live on without their raylet, for the seconds in which Ray does not know of its end.
    launch = started(elsewhere, *LAUNCH, "--trials", "6")
    wait_until(lambda: len(read_history(elsewhere / "s" / "trials" / "w4-000")) > 4, launch)
    below = psutil.Process(launch.pid).children(recursive=True)
    (raylet,) = (process for process in below if process.name() == "raylet")
    raylet.kill()
    said, _ = launch.communicate(timeout=300)
    assert launch.returncode == 130, said
    assert "stopped: Ray ended on this machine" in said
    assert "go on with: robsearch resume s" in said
    assert "Traceback" not in said
    options = RunOptions(results=elsewhere, parallel=2)
    search = robsearch.resume("s", space=sound, options=options, console=Console(quiet=True))
    states = settled(search)
    assert len(states) == 6
    assert set(states.values()) <= {"COMPLETE", "PRUNED"}
    for _, epochs in search.epochs.groupby("trial"):
        assert list(epochs["epoch"]) == [*range(1, len(epochs) + 1)]


@pytest.mark.timeout(900)
def test_a_trial_of_a_node_that_dies_goes_on_at_the_other(
    monkeypatch, tmp_path_factory, tmp_path, uri
):
    monkeypatch.setenv(PASSED, "ROBSEARCH_TEST_TRIALS")
    monkeypatch.setenv("ROBSEARCH_TEST_TRIALS", str(tmp_path / "s" / "trials"))
    trials = tmp_path / "s" / "trials"
    shared_ray.end()  # the one of the tests above, which would be taken for this cluster
    with (
        two_nodes(monkeypatch, tmp_path_factory.mktemp("r")) as (made, second),
        cluster.connected(made.address, None),
    ):
        (raylet,) = (process.process.pid for process in second.all_processes["raylet"])

        def on_second():
            """A trial in the middle of its training there."""
            there = {
                str(process.pid) for process in psutil.Process(raylet).children(recursive=True)
            }
            begun = [folder for folder in trials.glob("*") if 4 < len(read_history(folder)) < 15]
            return [folder for folder in begun if (folder / "pid").read_text() in there]

        def kill():
            workers = psutil.Process(raylet).children(recursive=True)
            made.remove_node(second, allow_graceful=False)
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()

        here = RunOptions(results=tmp_path, address=made.address, parallel=2)
        with when(on_second, kill):
            search = robsearch.launch(
                sound, name="s", trials=2, options=here, console=Console(quiet=True)
            )
        # Ray takes some seconds to declare a node dead, and a trial may end sooner at the other.
        deadline = time.monotonic() + 120
        while cluster.node_count() > 1 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert cluster.node_count() == 1
        assert settled(search) == {f"w4-00{n}": "COMPLETE" for n in range(2)}
    attempts = [len(list((trials / f"w4-00{n}").glob("a*"))) for n in range(2)]
    assert sorted(attempts) == [1, 2]
    for _, epochs in search.epochs.groupby("trial"):
        assert list(epochs["epoch"]) == list(range(1, 21))
