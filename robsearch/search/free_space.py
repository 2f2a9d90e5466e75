"""Whether the results folder has room for what a search writes next; where it has not, the search
waits for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path

from robsearch.errors import counted
from robsearch.trials.disk import Waiting, checkpoint_sizes, size_text

CHECKPOINTS = 4
"""A trial keeps three at most, and writes the next one before an older one goes."""
RESERVE = 4 * 2**20
"""Bytes beside checkpoints: decisions, the record, a trial's tables and figures."""
LOOK_SECONDS = 1.0
"""Between two looks at a disk that is full."""


def needed_bytes(running: Iterable[Sequence[int]], largest: int, begins: bool) -> int:
    """What a search is about to write: what running trials have not written yet of their
    checkpoints, and those of one more.

    Args:
        running: of each trial that is being trained, the bytes of the checkpoints that it has.
        largest: bytes of the largest checkpoint that is known.
        begins: whether one more trial is to begin.
    """
    needed = RESERVE
    for sizes in running:
        size = max(sizes, default=0) or largest
        needed += max(0, CHECKPOINTS * size - sum(sizes))
    return needed + CHECKPOINTS * largest * begins


def lacking_bytes(trials: Path, running: Collection[str]) -> int:
    """How many bytes are missing for the next trial of a search that is being driven, as anybody
    can see it on the disk; 0 where it finds room."""
    sizes = [checkpoint_sizes(trials / trial) for trial in running]
    needed = needed_bytes(sizes, _largest(trials.glob("*")), begins=True)
    return max(0, needed - shutil.disk_usage(trials.parent).free)


def waiting_text(lacking: int, folder: Path) -> str:
    """Such as ``waiting for 1.2 GB in FOLDER``."""
    return f"waiting for {size_text(lacking)} in {folder}"


class FreeSpace:
    """The room on the disk of a search, and for how long it has been waited for.

    Args:
        trials: the folder of the trials' folders.
        say: prints one line: that the search waits, and that it goes on.

    Attributes:
        patience: seconds for which it is waited for while nothing is trained.
        text: ``waiting for 1.2 GB in FOLDER``; empty where there is room.
        workers: the jobs that wait for room themselves.
    """

    def __init__(self, trials: Path, say: Callable[[str], None]) -> None:
        self.patience = 0.0
        self.text = ""
        self.workers: dict[str, Waiting] = {}
        self._trials = trials
        self._say = say
        self._largest: int | None = None
        self._since = 0.0
        self._idle_since = 0.0
        self._looked: tuple[float, bool] = (0.0, False)
        self._for_trial = False

    @property
    def folder(self) -> Path:
        """Of the search."""
        return self._trials.parent

    def suffices(self, jobs: Collection[str], running: Collection[str], begins: bool) -> bool:
        """Whether there is room for what comes next; says so where there is none, once.

        Args:
            jobs: all that workers are at.
            running: of them, trials that are being trained.
            begins: whether a trial is to begin, or else one to be measured.
        """
        now = time.monotonic()
        looked, began = self._looked
        if self.text and began == begins and now - looked < LOOK_SECONDS:
            return False
        self._looked = (now, begins)
        lacking = self._lacking(running, begins)
        if lacking <= 0:
            # What is enough for measuring may not be enough for the trial that waits.
            if begins or not self._for_trial:
                self._end_waiting(now)
            return True
        if not self.text:
            self._since = now
            self._idle_since = now
            go_on = "nothing new begins until there is room, then it goes on by itself"
            clean = f"`robsearch clean {self.folder.name} --dry-run` says what may go"
            self._say(f"{waiting_text(lacking, self.folder)}: {go_on}; {clean}")
        self.text = waiting_text(lacking, self.folder)
        self._for_trial = begins
        # Where others still train, the search goes on, and nothing is to be given up.
        if set(jobs) - self.workers.keys():
            self._idle_since = now
        return False

    @property
    def is_given_up(self) -> bool:
        """Whether it was waited for longer than the patience, while nothing was trained."""
        return bool(self.text) and time.monotonic() - self._idle_since >= self.patience

    def _lacking(self, running: Collection[str], begins: bool) -> int:
        if self._largest is None:
            self._largest = _largest(self._trials.glob("*"))
        sizes = [checkpoint_sizes(self._trials / trial) for trial in running]
        self._largest = max([self._largest, *chain.from_iterable(sizes)])
        needed = needed_bytes(sizes, self._largest, begins)
        lacking = needed - shutil.disk_usage(self.folder).free
        if self.workers:
            # A quota does not show in the bytes that are free.
            lacking = max(lacking, RESERVE, *(each.needed for each in self.workers.values()))
        return lacking

    def _end_waiting(self, now: float) -> None:
        if self.text:
            self.text = ""
            waited = counted(round(now - self._since), "second")
            self._say(f"there is room in {self.folder} again, after {waited}")


def _largest(trials: Iterable[Path]) -> int:
    """The bytes of the largest checkpoint of some trials; 0 before the first."""
    return max(chain.from_iterable(map(checkpoint_sizes, trials)), default=0)
