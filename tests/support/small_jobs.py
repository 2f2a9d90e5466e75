"""Jobs that count, (count, seconds) being their recipe, and a list that hands them out."""

import os
import time
from collections import Counter, deque

import psutil
import ray

from robsearch.trials.trial import Report


def steps(recipe, folder):
    """Counts, and notes who did it; goes on where an earlier attempt was."""
    count, seconds = recipe
    folder.mkdir(exist_ok=True)
    notes = folder / "notes"
    (folder / "assigned").write_text(str(ray.get_runtime_context().get_assigned_resources()["CPU"]))
    done = len(notes.read_text().splitlines()) if notes.exists() else 0
    for step in range(done, count):
        time.sleep(seconds)
        with notes.open("a") as file:
            file.write(
                f"{step} {os.getpid()} {ray.get_runtime_context().get_node_id()} {time.time()}\n"
            )
        yield Report(epochs=[{"epoch": float(step)}])
    yield Report(ended="COMPLETE")


def meets(recipe, folder):
    """Counts as soon as the other job, (its name, count, seconds) in the recipe, has begun: both
    run at once."""
    name, count, seconds = recipe
    folder.mkdir(exist_ok=True)
    (folder / "begun").touch()
    assert soon((folder.parent / name / "begun").exists, 60)
    yield from steps((count, seconds), folder)


def lasts(recipe, folder):
    """Reports four times a second until there is the file that is its recipe."""
    folder.mkdir(exist_ok=True)
    while not recipe.exists():
        time.sleep(0.25)
        yield Report(epochs=[])
    yield Report(ended="COMPLETE")


def tells_environment(recipe, folder):
    folder.mkdir(exist_ok=True)
    (folder / "environment").write_text(
        "\n".join(f"{name}={value}" for name, value in os.environ.items())
    )
    yield Report(ended="COMPLETE")


class Listed:
    """Hands out a list of jobs (``cluster.Jobs``), some at once, and remembers what it hears."""

    stopping = False

    def __init__(self, jobs, parallel=2, on_report=None):
        self.waiting, self.running, self.parallel, self.on_report = (
            deque(jobs),
            {},
            parallel,
            on_report,
        )
        self.reports, self.ended = Counter(), {}

    @property
    def finished(self):
        return not self.waiting and not self.running

    def next(self):
        if not self.waiting or len(self.running) >= self.parallel:
            return None
        job = self.waiting.popleft()
        self.running[job.name] = job
        return job

    def heard(self, job, report):
        self.reports[job.name] += 1
        if self.on_report:
            self.on_report(self, job)
        return True

    def gone(self, job, error):
        del self.running[job.name]
        self.ended[job.name] = error


def notes(folder):
    """(step, pid, node, time) of each step that a job noted."""
    lines = [line.split() for line in (folder / "notes").read_text().splitlines()]
    return [(int(step), int(pid), node, float(moment)) for step, pid, node, moment in lines]


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def soon(condition, seconds=10):
    """Whether something becomes true within some seconds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()
