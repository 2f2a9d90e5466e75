"""Says so when no job runs because others have taken the cluster's room."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.tune import Callback

from robsearch.cluster.jobs import Job
from robsearch.wording import counted

SAID_AFTER = 10.0
"""Seconds without a running job until the cluster is asked why; a process alone takes some to start."""


class Waiting(Callback):
    """Tune tells it of every job that starts or ends, and calls it at least once a second.

    Args:
        running: the jobs that were handed out and have not ended, by trial.
        say: prints one line.
    """

    def __init__(self, running: Mapping[str, Job], say: Callable[[str], None]) -> None:
        self._running, self._say = running, say
        self._started: set[str] = set()
        self._since = time.monotonic()
        self._said = False

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into snapshots that nobody reads."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called all the time by Tune: looks whether nothing has run for some seconds."""
        if self._started or not self._running:
            self._since, self._said = time.monotonic(), False
        elif not self._said and time.monotonic() - self._since > SAID_AFTER:
            job = next(iter(self._running.values()))
            self._since = time.monotonic()
            self._said = _waits(job)
            if self._said:
                self._say(_sentence(job))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A process begins with it, for the first time or again."""
        self._started.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It ended, was stopped, or is to be started again."""
        self._started.discard(trial.trial_id)

    on_trial_error = on_trial_recover = on_trial_complete


def bundles(job: Job) -> list[dict[str, float]]:
    """What each process of a job takes."""
    return [{"CPU": job.resources.cpus, "GPU": job.gpus}] * job.processes


def _waits(job: Job) -> bool:
    """Whether the cluster has no place for it yet: where it has one, its process is only slow to start."""
    takes = [_positive(bundle) for bundle in bundles(job)]
    groups = ray.util.placement_group_table().values()
    waiting = [group for group in groups if group["state"] == "PENDING"]
    return any([_positive(bundle) for bundle in group["bundles"].values()] == takes for group in waiting)


def _positive(bundle: Mapping[str, float]) -> dict[str, float]:
    return {name: count for name, count in bundle.items() if count}


def _sentence(job: Job) -> str:
    takes = {"CPU": job.resources.cpus * job.processes, "GPU": job.gpus * job.processes}
    total, free = ray.cluster_resources(), ray.available_resources()
    taken = {name: total.get(name, 0.0) - free.get(name, 0.0) for name in takes if takes[name]}
    others = " and ".join(f"{count:g} of its {counted(total.get(name, 0.0), name)}" for name, count in taken.items())
    needs = " and ".join(f"{counted(takes[name], name)}" for name in taken)
    return f"waiting for room on the cluster: others take {others}, and this needs {needs} on one node"
