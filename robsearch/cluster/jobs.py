"""What is placed on workers, and who decides what comes next. No Ray in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Protocol

from robsearch.recipe import Recipe
from robsearch.resources import Resources
from robsearch.trial import Report

Work = Callable[..., Iterator[Report]]
"""``work(recipe, folder)``, or ``work(recipe, folder, ranks)`` if several processes can do it together."""
ONE_CPU = Resources()


@dataclass(frozen=True)
class Job:
    """One thing to do: ``work(recipe, folder)``, a generator of reports.

    A work with a third parameter, ``ranks``, is done by as many processes together as its resources name, and the
    reports of rank 0 are heard; any other by one, with at most one GPU.

    Attributes:
        name: of the job.
        work: importable on the workers.
        recipe: its first argument.
        folder: its second, on storage that all nodes share.
        resources: taken while it runs. Consecutive jobs of equal resources share a process; others start one.
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

    def __deepcopy__(self, memo: object) -> Job:
        """Itself, for it never changes: Tune would keep three copies of each job until the end of the search."""
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
        """A job's worker is free again; ``error`` if it broke down more often than it is retried."""
        ...
