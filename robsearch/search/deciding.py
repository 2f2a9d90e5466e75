"""Decisions in a thread of their own, so that workers are heard while the storage is away."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from robsearch.cluster import Job, Jobs
from robsearch.study import PatientStorage
from robsearch.trials.trial import Report

T = TypeVar("T")

LOOK_SECONDS = 0.05
LONGEST_SECONDS = 5.0
"""A decision that takes longer is not waited for; most are made in milliseconds."""


class Decisions:
    """Asks a driver what Ray asks (``cluster.Jobs``), and answers for it while it waits for its
    storage.

    Meanwhile no job is given out, every trial goes on, and what workers say is kept in its order.

    Args:
        driver: who decides.
        storage: whose answers it may have to wait for.
    """

    def __init__(self, driver: Jobs, storage: PatientStorage) -> None:
        self._driver = driver
        self._storage = storage
        self._thread = ThreadPoolExecutor(1, "decisions")
        self._behind: deque[Future[Any]] = deque()
        self._next: Future[Job | None] | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do; not while decisions are waited for."""
        if self._waits() or self._next is not None:
            return False
        return self._ask(lambda: self._driver.finished, otherwise=False)

    @property
    def stopping(self) -> bool:
        """Whether to stop at once."""
        return self._driver.stopping

    def next(self) -> Job | None:
        """The next job; one that was decided late is given out late."""
        if self._next is None:
            if self._waits():
                return None
            self._next = self._thread.submit(self._driver.next)
            self._wait_for(self._next)
        if not self._next.done():
            return None
        asked = self._next
        self._next = None
        return asked.result()

    def heard(self, job: Job, report: Report) -> bool:
        """Passes a report on; whether the job goes on may be known only at its next one."""
        return self._ask(lambda: self._driver.heard(job, report), otherwise=True)

    def gone(self, job: Job, error: str | None) -> None:
        """Passes on that a worker is free again."""
        self._ask(lambda: self._driver.gone(job, error), otherwise=None)

    def close(self) -> None:
        """Waits for what was not decided yet; where all stops, no longer for the storage.

        Raises:
            StorageAwayError: the storage did not come back.
        """
        while True:
            # What follows, such as a look at the lease, would wait as well.
            if self._driver.stopping and self._storage.away:
                self._storage.give_up()
            if not self._waits():
                break
            time.sleep(LOOK_SECONDS)
        if self._next is not None:
            self._next.result()

    def end(self) -> None:
        """Ends the thread; what it waits for is given up where an error ends the search."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- what is behind ---

    def _ask(self, ask: Callable[[], T], otherwise: T) -> T:
        asked = self._thread.submit(ask)
        if self._waits() or not self._wait_for(asked):
            self._behind.append(asked)
            return otherwise
        return asked.result()

    def _wait_for(self, asked: Future[Any]) -> bool:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not asked.done() and not self._storage.away and time.monotonic() < deadline:
            wait([asked], timeout=LOOK_SECONDS)
        return asked.done()

    def _waits(self) -> bool:
        """Whether something is not decided yet; raises what a decision raised."""
        while self._behind and self._behind[0].done():
            self._behind.popleft().result()
        return bool(self._behind)
