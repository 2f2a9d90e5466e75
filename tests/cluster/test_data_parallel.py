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


def stops_on_rank_1(recipe, folder, ranks):
    """Rank 1 is stopped by a signal as it begins, in the first attempt only: no thread of it
    answers."""
    for step in range(3):
        again = (folder / "again").exists()
        note(folder, ranks, step)
        if ranks.rank == 1 and not again:
            (folder / "again").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        ranks.sum([torch.ones(1)])
        yield Report(epochs=[{"epoch": float(step)}])


class Heard(Listed):
    """Keeps what it hears; ``stop_at`` reports of a job, it is stopped."""

    def __init__(self, jobs, stop_at=None, **given):
        super().__init__(jobs, **given)
        self.said, self.stop_at = {job.name: [] for job in jobs}, stop_at

    def heard(self, job, report):
        self.said[job.name].append(report)
        super().heard(job, report)
        return self.stop_at is None or len(self.said[job.name]) < self.stop_at

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
    group = _placement({"job": Job("j", work, recipe(4), tmp_path, takes)})
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


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_one_measures_it(two_cpus, tmp_path):
    one = deterministic(
        8,
        lam=WAR(target=2.0, lam_init=1.0),
        averaging=EMA(decay=0.9),
        weight_perturbation=WeightPerturbation(),
    )
    jobs = [
        Job("two", run, one, tmp_path / "two", TWO),
        Job("one", run, one, tmp_path / "one"),
        Job("two-measured", measure, one, tmp_path / "two", TWO),
    ]
    heard = Heard(jobs, parallel=1)
    cluster.run(heard, tmp_path, max_retries=0)
    assert heard.ended == dict.fromkeys(["two", "one", "two-measured"])
    assert heard.said["two"][-1].ended == "COMPLETE"
    assert heard.said["two-measured"][-1].ended == "COMPLETE"
    assert read_history(tmp_path / "two") == heard.epochs("two")
    for two, alone in zip(heard.epochs("two"), heard.epochs("one"), strict=True):
        names = [name for name in alone if not name.startswith(("time", "memory/"))]
        assert {"train/lam", "val_raw/robust_accuracy"} <= set(names)
        assert [two[name] for name in names] == pytest.approx(
            [alone[name] for name in names], abs=1e-4
        )


@pytest.mark.slow
def test_the_reports_of_rank_0_are_heard_and_each_process_takes_its_own_cpu(
    two_cpus, tmp_path, monkeypatch
):
    monkeypatch.setenv("A_PASSWORD", "hidden")
    heard = Heard([Job(f"j{n}", counts, (3, 0), tmp_path / f"j{n}", TWO) for n in range(2)])
    cluster.run(heard, tmp_path, max_retries=0)
    assert heard.ended == {"j0": None, "j1": None}
    for name in ("j0", "j1"):
        assert [
            (entry["epoch"], entry["total"], entry["rank"]) for entry in heard.epochs(name)
        ] == [
            (0, 3, 0),
            (1, 3, 0),
            (2, 3, 0),
        ]
        for rank in (0, 1):
            assert [
                (step, cpus, secret) for step, _, cpus, secret in notes(tmp_path / name, rank)
            ] == [(f"{step}", "1", "None") for step in range(3)]
        assert len(pids(tmp_path / name)) == 2
    assert soon(lambda: not any(map(alive, pids(tmp_path / "j0") | pids(tmp_path / "j1"))))
    assert soon(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.slow
def test_a_job_that_is_stopped_ends_in_all_its_processes_and_does_no_more(two_cpus, tmp_path):
    """No step is begun after the report at which it was stopped; the next job takes its place."""
    jobs = [Job(f"j{n}", counts, (1000, 0), tmp_path / f"j{n}", TWO) for n in range(2)]
    heard = Heard(jobs, stop_at=3)
    cluster.run(heard, tmp_path, max_retries=0)
    assert heard.ended == {"j0": None, "j1": None}
    for name in ("j0", "j1"):
        assert [entry["epoch"] for entry in heard.epochs(name)] == [0, 1, 2]
        assert len(notes(tmp_path / name, 0)) == 3
        assert soon(lambda name=name: not any(map(alive, pids(tmp_path / name))))


@pytest.mark.slow
def test_a_trial_of_which_one_process_is_killed_goes_on_from_its_last_checkpoint(
    two_cpus, tmp_path
):
    objective = Faulty(fault="dies", marker=str(tmp_path / "marker"), after=60)
    job = Job("j", run, recipe(8, objective=objective, epochs=60), tmp_path / "j", TWO)
    heard = Heard([job])
    cluster.run(heard, tmp_path, max_retries=1)
    assert (tmp_path / "marker").exists()
    assert heard.ended == {"j": None}
    assert heard.said["j"][-1].ended == "COMPLETE"
    assert {report.attempt for report in heard.said["j"]} <= {1, 2}
    assert newest_checkpoint(tmp_path / "j").folder.parent.name == "a2"
    assert [entry["epoch"] for entry in read_history(tmp_path / "j")] == list(range(1, 61))


@pytest.mark.slow
def test_a_job_of_which_one_process_hangs_is_ended_and_tried_again(two_cpus, tmp_path):
    heard = Heard([Job("j", stops_on_rank_1, None, tmp_path / "j", TWO)])
    cluster.run(heard, tmp_path, max_retries=1, patience_s=75)
    assert heard.ended == {"j": None}
    assert len(pids(tmp_path / "j")) == 4
    assert soon(lambda: not any(map(alive, pids(tmp_path / "j"))))
    assert soon(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.slow
def test_an_error_is_reported_and_not_tried_again(two_cpus, tmp_path):
    job = Job(
        "j", run, recipe(8, objective=Faulty(fault="raises", marker="two")), tmp_path / "j", TWO
    )
    heard = Heard([job])
    cluster.run(heard, tmp_path, max_retries=3)
    assert heard.ended == {"j": None}
    assert {report.attempt for report in heard.said["j"]} == {1}
    assert heard.said["j"][-1].ended == "FAIL"
    assert "a fault of the objective" in heard.said["j"][-1].reason


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
