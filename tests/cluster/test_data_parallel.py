"""Jobs of two processes on a real local Ray with two CPUs: launched by Ray Train inside a Tune
trial."""

import os
import signal
import time

import psutil
import pytest
import ray
import torch
from small_jobs import Listed, alive, soon
from small_spaces import Faulty, deterministic, recipe

from robsearch import EMA, WAR, WeightPerturbation, cluster
from robsearch.cluster.jobs import Job
from robsearch.cluster.nodes import jobs_on
from robsearch.cluster.running import _placement
from robsearch.spaces.resources import Resources
from robsearch.trials.loading import newest_checkpoint, read_history
from robsearch.trials.trial import Report, measure, run

TWO = Resources(workers=2)

# --- works: (count, seconds) is what they are given as a recipe ---


def note(folder, ranks, step):
    folder.mkdir(exist_ok=True)
    with (folder / f"notes-{ranks.rank}").open("a") as file:
        taken = ray.get_runtime_context().get_assigned_resources()["CPU"]
        file.write(f"{step} {os.getpid()} {taken:g} {os.environ.get('A_PASSWORD')}\n")


def notes(folder, rank):
    return [line.split() for line in (folder / f"notes-{rank}").read_text().splitlines()]


def pids(folder):
    return {int(pid) for rank in (0, 1) for _, pid, *_ in notes(folder, rank)}


def counts(recipe, folder, ranks):
    """Sums its ranks' numbers at each step."""
    count, seconds = recipe
    with ranks.fail_together():
        for step in range(count):
            note(folder, ranks, step)
            (total,) = ranks.sum([torch.tensor(ranks.rank + 1.0)])
            time.sleep(seconds)
            yield Report(
                epochs=[{"epoch": float(step), "total": total.item(), "rank": float(ranks.rank)}]
            )
    yield Report(ended="COMPLETE")


def noted(recipe, folder, ranks):
    note(folder, ranks, 0)
    yield from run(recipe, folder, ranks)


def hangs_and_then_runs(recipe, folder, ranks):
    """Rank 1 is stopped by a signal as it begins, in the first attempt only: no thread of it
    answers."""
    first = not (folder / "notes-0").exists()
    ranks.sum([torch.ones(1)])  # both have looked
    note(folder, ranks, 0)
    if first and ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.sum([torch.ones(1)])
    yield from run(recipe, folder, ranks)


class Heard(Listed):
    """Keeps what it hears; a job is stopped at ``stop_at`` reports, by its name."""

    def __init__(self, jobs, stop_at=None, **given):
        super().__init__(jobs, **given)
        self.said, self.stop_at = {job.name: [] for job in jobs}, stop_at or {}

    def heard(self, job, report):
        self.said[job.name].append(report)
        super().heard(job, report)
        return len(self.said[job.name]) != self.stop_at.get(job.name)

    def epochs(self, name):
        return [entry for report in self.said[name] for entry in report.epochs]


# --- what they take ---


@pytest.mark.parametrize(
    ("takes", "work", "bundles"),
    [
        (Resources(), run, [{"CPU": 1.0}]),
        (Resources(2, 0.5), run, [{"CPU": 2.0, "GPU": 0.5}]),
        (Resources(2, 2), run, [{}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]),
        (TWO, run, [{}, {"CPU": 1.0}, {"CPU": 1.0}]),
        (Resources(1, 4), measure, [{"CPU": 1.0, "GPU": 1.0}]),
        (TWO, measure, [{"CPU": 1.0}]),
    ],
)
def test_each_process_has_a_bundle_of_its_own_and_what_waits_for_them_none(
    tmp_path, takes, work, bundles
):
    group = _placement({"job": Job("j", work, recipe(4), tmp_path, takes), "without": ()})
    assert ([{}] if group.head_bundle_is_empty else []) + group.bundles == bundles
    assert group.strategy == "STRICT_PACK"


@pytest.mark.parametrize(
    ("takes", "has", "fits"),
    [
        (Resources(1, 2), {"CPU": 8.0, "GPU": 5.0}, 2),
        (Resources(2, 2), {"CPU": 6.0, "GPU": 8.0}, 1),  # two CPUs for each of two processes
        (Resources(1, workers=3), {"CPU": 8.0}, 2),
        (Resources(0.5, workers=2), {"CPU": 2.0}, 2),
    ],
)
def test_how_many_jobs_of_several_processes_fit_on_a_node(takes, has, fits):
    assert jobs_on(has, takes) == fits


# --- running ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a folder for each of the jobs that ``heard`` has heard."""
    return tmp_path_factory.mktemp("ended")


def broke_down(folder):
    """The jobs of which Tune wrote down an error: each that it started again, too."""
    return {file.parent.name.partition("-")[0] for file in folder.glob("ray/*/error.txt")}


@pytest.fixture(scope="module")
def heard(two_cpus, folder):
    """What was heard of several jobs, one after another: the processes of each take seconds to
    start. None needed a second attempt, though it would have got one."""
    one = deterministic(
        8,
        lam=WAR(target=2.0, lam_init=1.0),
        averaging=EMA(decay=0.9),
        weight_perturbation=WeightPerturbation(),
    )
    raises = recipe(8, objective=Faulty(fault="raises", marker="two"))
    jobs = [
        Job("stopped", counts, (1000, 0), folder / "stopped", TWO),
        Job("raises", run, raises, folder / "raises", TWO),
        Job("two", noted, one, folder / "two", TWO),
        Job("one", run, one, folder / "one"),
        Job("two-measured", measure, one, folder / "two", TWO),
    ]
    heard = Heard(jobs, stop_at={"stopped": 3}, parallel=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_PASSWORD", "hidden")
        cluster.run(heard, folder, max_retries=3)
    assert heard.ended == dict.fromkeys(job.name for job in jobs)
    assert not broke_down(folder)
    return heard


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_one_measures_it(heard, folder):
    for name in ("two", "one", "two-measured"):
        assert heard.said[name][-1].ended == "COMPLETE"
    for name in ("two", "one"):
        assert {report.attempt for report in heard.said[name]} == {1}
    assert read_history(folder / "two") == heard.epochs("two")
    for two, alone in zip(heard.epochs("two"), heard.epochs("one"), strict=True):
        names = [name for name in alone if not name.startswith(("time", "memory/"))]
        assert {"train/lam", "val_raw/robust_accuracy"} <= set(names)
        assert [two[name] for name in names] == pytest.approx(
            [alone[name] for name in names], abs=1e-4
        )


@pytest.mark.slow
def test_the_reports_of_rank_0_are_heard_and_each_process_takes_its_own_cpu(heard, folder):
    assert [
        (entry["epoch"], entry["total"], entry["rank"]) for entry in heard.epochs("stopped")
    ] == [
        (0, 3, 0),
        (1, 3, 0),
        (2, 3, 0),
    ]
    for name in ("stopped", "two"):
        assert len(pids(folder / name)) == 2
        for rank in (0, 1):
            assert {(cpus, secret) for *_, cpus, secret in notes(folder / name, rank)} == {
                ("1", "None")
            }


@pytest.mark.slow
def test_a_job_that_ended_or_is_stopped_ends_in_all_its_processes_and_does_no_more(heard, folder):
    """No step is begun after the report at which it was stopped; the next job took its place."""
    assert [int(step) for step, *_ in notes(folder / "stopped", 0)] == [0, 1, 2]
    assert {"raises", "two"} <= set(heard.ended)
    assert soon(lambda: not any(map(alive, pids(folder / "stopped") | pids(folder / "two"))))
    assert soon(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.slow
def test_an_error_is_reported_and_not_tried_again(heard):
    assert {report.attempt for report in heard.said["raises"]} == {1}
    assert heard.said["raises"][-1].ended == "FAIL"
    assert "a fault of the objective" in heard.said["raises"][-1].reason


@pytest.fixture(scope="module")
def begun_again(two_cpus, tmp_path_factory):
    """A job of which a process hangs at the first attempt and is killed at the second: what was
    heard, and its folder."""
    folder = tmp_path_factory.mktemp("again")
    objective = Faulty(fault="dies", marker=str(folder / "marker"), after=60)
    trial = recipe(8, objective=objective, epochs=60)
    heard = Heard([Job("j", hangs_and_then_runs, trial, folder / "j", TWO)])
    cluster.run(heard, folder, max_retries=2, patience_s=75)
    return heard, folder


@pytest.mark.slow
def test_a_job_of_which_one_process_hangs_is_ended_and_tried_again(begun_again):
    heard, folder = begun_again
    assert heard.ended == {"j": None}
    assert broke_down(folder) == {"j"}
    assert len(notes(folder / "j", 0)) == len(notes(folder / "j", 1)) == 3
    assert len(pids(folder / "j")) == 6
    assert soon(lambda: not any(map(alive, pids(folder / "j"))))
    assert soon(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.slow
def test_a_trial_of_which_one_process_is_killed_goes_on_from_its_last_checkpoint(begun_again):
    """Its first attempt is that of the process that was killed; the one that hung had begun
    none."""
    heard, folder = begun_again
    assert (folder / "marker").exists()
    assert heard.said["j"][-1].ended == "COMPLETE"
    assert {report.attempt for report in heard.said["j"]} <= {1, 2}
    assert newest_checkpoint(folder / "j").folder.parent.name == "a2"
    assert [entry["epoch"] for entry in read_history(folder / "j")] == list(range(1, 61))


@pytest.mark.slow
def test_nothing_of_ray_train_is_left_when_its_jobs_have_ended(two_cpus):
    def helpers():
        names = [
            " ".join(child.cmdline())
            for child in psutil.Process().children(recursive=True)
            if alive(child.pid)
        ]
        return [
            name
            for name in names
            if "RayTrainWorker" in name or "TrainController" in name or "_ReportChannel" in name
        ]

    assert soon(lambda: not helpers(), 30), helpers()
