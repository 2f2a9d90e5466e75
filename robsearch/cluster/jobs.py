"""What is placed on workers, and who decides what comes next. No Ray in here."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Protocol

from robsearch.recipe import Recipe
from robsearch.spaces.resources import Resources
from robsearch.trials.trial import Report

Work = Callable[..., Iterator[Report]]
"""``work(recipe, folder)``, or ``work(recipe, folder, ranks)`` if several processes can do it
together."""
ONE_CPU = Resources()


@dataclass(frozen=True)
class Job:
    """One thing to do: ``work(recipe, folder)``, a generator of reports.

    A work with a third parameter, ``ranks``, is done by as many processes together as its resources
    name, and the reports of rank 0 are heard; any other by one, with at most one GPU.

    Attributes:
        name: of the job.
        work: importable on the workers.
        recipe: its first argument.
        folder: its second, on storage that all nodes share.
        resources: taken while it runs. Consecutive jobs of equal resources share a process; others
            start one.
    """

    name: str
    work: Work
    recipe: Recipe
    folder: Path
    resources: Resources = ONE_CPU

    @property
    def processes(self) -> int:
        """How many processes do it together."""
        return self.resources.processes if "ranks" in signature(self.work).parameters else 1

    @property
    def gpus(self) -> float:
        """Of each process."""
        return min(1.0, self.resources.gpus)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What each process takes of the cluster."""
        bundle = {"CPU": float(self.resources.cpus)}
        if self.gpus:
            bundle["GPU"] = self.gpus
        return [bundle] * self.processes

    def __deepcopy__(self, memo: object) -> Job:
        """Itself, for it never changes: Tune would keep three copies of each job until the end of
        the search."""
        return self


class Jobs(Protocol):
    """Who decides what is done next; called in one thread."""

    @property
    def finished(self) -> bool:
        """Whether no job is left to do, now or later."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether running jobs are to be stopped at once."""
        ...

    def next(self) -> Job | None:
        """The next job, or None if there is none at the moment."""
        ...

    def heard(self, job: Job, report: Report) -> bool:
        """A worker reported; returns whether it goes on."""
        ...

    def gone(self, job: Job, error: str | None) -> None:
        """A job's worker is free again; ``error`` if it broke down more often than it is
        retried."""
        ...


class Stoppable(Protocol):
    """What a signal, or a person, stops."""

    stopping: bool


class JobQueue:
    """Jobs that are all known from the start: handed out in their order (``Jobs``).

    Args:
        jobs: each with a name of its own.
        owner: when it stops, so do these.
        parallel: jobs at once; by default as many as the cluster has room for.
        hear: is told every report.

    Attributes:
        ended: by name, the last report of each job that has come to its end.
        broken: by name, why the process of a job broke down.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        owner: Stoppable,
        parallel: float = math.inf,
        hear: Callable[[Job, Report], None] | None = None,
    ) -> None:
        self.ended: dict[str, Report] = {}
        self.broken: dict[str, str] = {}
        self._owner = owner
        self._parallel = parallel
        self._hear = hear
        self._waiting = deque(jobs)
        self._running: set[str] = set()

    @property
    def finished(self) -> bool:
        """Whether each has come to its end."""
        return not (self._waiting or self._running)

    @property
    def stopping(self) -> bool:
        """Whether their owner stops."""
        return self._owner.stopping

    def next(self) -> Job | None:
        """The next one that waits."""
        if self.stopping or not self._waiting or len(self._running) >= self._parallel:
            return None
        job = self._waiting.popleft()
        self._running.add(job.name)
        return job

    def heard(self, job: Job, report: Report) -> bool:
        """Passes a report on, and keeps the last one."""
        if self._hear:
            self._hear(job, report)
        if report.ended:
            self.ended[job.name] = report
        return True

    def gone(self, job: Job, error: str | None) -> None:
        """Keeps why its process broke down, if it did."""
        self._running.discard(job.name)
        if error:
            self.broken[job.name] = error
