"""Ends jobs that hang: those of which nothing has been heard for too long."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.tune import Callback

LONGEST = 5
"""A job is given this many times the longest time between two reports so far, if that is more than patience."""
LARGEST_STEP = 1.0
"""A driver that was busy for longer than this (seconds) between two looks at its jobs does not blame them for it."""


class Patience(Callback):
    """Tune tells it of every job that starts, reports or ends, and calls it at least once a second.

    A job that hangs is ended by killing its process, which Tune then treats as a crash: the job is started again, at
    most ``max_retries`` times. Killing needs no help of the process, which may hold Python's lock or be stopped.

    Args:
        seconds: of silence until a job counts as hung, counted from its start or last report; None: never. Should be
            longer than one epoch of the widest model and its start (data, compilation): until a job has reported
            twice nothing else is known. Later the limit is the larger of this and five times the longest time
            between two reports (or start and first report) in this run.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.reasons: dict[str, str] = {}
        self._longest = 0.0
        self._now, self._looked = 0.0, time.monotonic()
        self._waiting: dict[str, tuple[Any, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into snapshots that nobody reads."""
        return {}

    @property
    def limit(self) -> float | None:
        """Seconds of silence after which a job is ended now."""
        return None if self.seconds is None else max(self.seconds, LONGEST * self._longest)

    def heard(self, trial: Any) -> None:
        """A report came."""
        if trial.trial_id in self._waiting:
            self._longest = max(self._longest, self._now - self._waiting[trial.trial_id][1])
        self._waiting[trial.trial_id] = trial, self._now

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called all the time by Tune: looks at the clock."""
        now = time.monotonic()
        self._now, self._looked = self._now + min(now - self._looked, LARGEST_STEP), now
        if self.limit is None:
            return
        for trial, since in list(self._waiting.values()):
            if self._now - since > self.limit:
                self._end(trial, self._now - since)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A process begins with it, for the first time or again."""
        self._waiting[trial.trial_id] = trial, self._now
        self.reasons.pop(trial.trial_id, None)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It ended, or was stopped."""
        self._waiting.pop(trial.trial_id, None)

    on_trial_error = on_trial_recover = on_trial_complete

    def _end(self, trial: Any, silent: float) -> None:
        self._waiting.pop(trial.trial_id)
        if (actor := trial.temporary_state.ray_actor) is not None:
            self.reasons[trial.trial_id] = f"no report for {silent:.0f} s"
            ray.kill(actor)
