"""Watches running jobs: ends those that hang, and says so when none runs because others have taken
the cluster's capacity."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.tune import Callback

from robsearch.cluster.jobs import Job
from robsearch.errors import counted

LONGEST = 5
"""A job is given this many times the longest time between two reports so far, if that is more than
the watchdog's own limit."""
LARGEST_STEP = 1.0
"""A driver that was busy for longer than this (seconds) between two looks at its jobs does not
blame them for it."""
IDLE_SECONDS = 10.0
"""Seconds without a running job until the cluster is asked why; a process alone takes some to
start."""


class Unsaved:
    """What is given to Tune, which pickles it into snapshots that nobody reads: ours hold a live
    driver."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Watchdog(Unsaved, Callback):
    """Tune tells it of every job that starts, reports or ends, and calls it at least once a second.

    A job that hangs is ended by killing its process, which Tune then treats as a crash: the job is
    started again, at most ``max_retries`` times. Killing needs no help of the process, which may
    hold Python's lock or be stopped.

    Args:
        seconds: of silence until a job counts as hung, counted from its start or last report; None:
            never. Should be longer than one epoch of the widest model and its start (data,
            compilation): until a job has reported twice nothing else is known. Later the limit is
            the larger of this and five times the longest time between two reports (or start and
            first report) in this run.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.reasons: dict[str, str] = {}
        self._longest = 0.0
        self._now = 0.0
        self._looked = time.monotonic()
        self._last: dict[str, tuple[Any, float]] = {}

    @property
    def limit(self) -> float | None:
        """Seconds of silence after which a job is ended now."""
        return None if self.seconds is None else max(self.seconds, LONGEST * self._longest)

    def heard(self, trial: Any) -> None:
        """A report came."""
        if trial.trial_id in self._last:
            self._longest = max(self._longest, self._now - self._last[trial.trial_id][1])
        self._last[trial.trial_id] = trial, self._now

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called all the time by Tune: looks at the clock."""
        now = time.monotonic()
        # Its own clock hardly moves while the driver is busy elsewhere.
        self._now += min(now - self._looked, LARGEST_STEP)
        self._looked = now
        limit = self.limit
        if limit is None:
            return
        for trial, since in list(self._last.values()):
            silent = self._now - since
            if silent > limit:
                del self._last[trial.trial_id]
                actor = trial.temporary_state.ray_actor
                if actor is not None:
                    self.reasons[trial.trial_id] = f"no report for {silent:.0f} s"
                    ray.kill(actor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A process begins with it, for the first time or again."""
        self._last[trial.trial_id] = trial, self._now
        self.reasons.pop(trial.trial_id, None)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It ended, or was stopped."""
        self._last.pop(trial.trial_id, None)

    on_trial_error = on_trial_recover = on_trial_complete


class CapacityNotice(Unsaved, Callback):
    """Says so, once, when nothing runs because others have taken the cluster's capacity.

    Args:
        pending: the jobs that were handed out and have not ended, by trial.
        say: prints one line.
    """

    def __init__(self, pending: Mapping[str, Job], say: Callable[[str], None]) -> None:
        self._pending = pending
        self._say = say
        self._running: set[str] = set()
        self._since = time.monotonic()
        self._has_notified = False

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called all the time by Tune: looks whether nothing has run for some seconds."""
        if self._running or not self._pending:
            self._since = time.monotonic()
            self._has_notified = False
        elif not self._has_notified and time.monotonic() - self._since > IDLE_SECONDS:
            job = next(iter(self._pending.values()))
            self._since = time.monotonic()
            self._has_notified = _waits(job)
            if self._has_notified:
                self._say(_sentence(job))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A process begins with it, for the first time or again."""
        self._running.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It ended, was stopped, or is to be started again."""
        self._running.discard(trial.trial_id)

    on_trial_error = on_trial_recover = on_trial_complete


def _waits(job: Job) -> bool:
    """Whether the cluster has no capacity for it yet: where it has, its process is only slow to
    start."""
    for group in ray.util.placement_group_table().values():
        bundles = [
            {name: count for name, count in bundle.items() if count}
            for bundle in group["bundles"].values()
        ]
        if group["state"] == "PENDING" and bundles == job.bundles:
            return True
    return False


def _sentence(job: Job) -> str:
    total = ray.cluster_resources()
    free = ray.available_resources()
    taken = []
    needed = []
    for name, count in job.bundles[0].items():
        has = total.get(name, 0.0)
        taken.append(f"{has - free.get(name, 0.0):g} of its {counted(has, name)}")
        needed.append(counted(count * job.processes, name))
    return (
        f"waiting for room on the cluster: others take {' and '.join(taken)}, and this needs "
        f"{' and '.join(needed)} on one node"
    )
