"""Keeps a training's checkpoints through a disk that is full for a time."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from robsearch.checkpoints import Attempt, Snapshot, best_epoch
from robsearch.disk import DiskFullError
from robsearch.files import DamagedError
from robsearch.loading import say_damaged
from robsearch.protocols import Metrics
from robsearch.trainer import Epoch


@dataclass
class Keeper:
    """Keeps an attempt's checkpoints while it trains, also when the disk is full for a time.

    Without room, training goes on as long as an older checkpoint is there, and the next save tries again. The best
    epoch's checkpoint waits in memory meanwhile: ``LATEST`` never names a history whose best weights are not there.

    Attributes:
        attempt: whose.
        saved: the newest epoch on disk, 0 before the first.
        waiting: the best epoch's checkpoint, if it is not on disk: it found no room, or its turn has not come.
    """

    attempt: Attempt
    saved: int = 0
    waiting: list[Snapshot] = field(default_factory=list)
    _warned: bool = False

    def save(self, epoch: Epoch, history: list[Metrics], last: bool = False) -> None:
        """Writes what waits and is still the best, then this epoch, unless it is on disk already.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: there is no room, and this save is the last one or there is none before it to fall back on.
        """
        if self.saved == epoch.number:
            return
        self.attempt.refuse_if_stale()
        now = Snapshot.of(epoch, history)
        best = best_epoch(history)
        queue = [*(snapshot for snapshot in self.waiting if snapshot.number == best), now]
        while queue:
            try:
                self.attempt.write(queue[0])
            except DiskFullError as error:
                if last or not self.saved:
                    raise
                self._warn(error)
                break
            self.saved = queue.pop(0).number
        self.waiting = [snapshot for snapshot in queue if snapshot.number == best]

    def hold(self, epoch: Epoch, history: list[Metrics]) -> None:
        """Keeps an epoch in memory until the next ``save``, if it is the best: to write each takes longer than to
        train it where epochs are short.
        """
        if best_epoch(history) == epoch.number:
            self.waiting = [Snapshot.of(epoch, history)]

    def finish(self, epoch: Epoch, history: list[Metrics]) -> None:
        """Saves the last epoch, and reads it back: what is damaged by now is written once more.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: there is no room for it.
        """
        self.save(epoch, history, last=True)
        try:
            self.attempt.settle(history)
        except DamagedError as error:
            say_damaged(error, "it is written again")
            self.attempt.write(Snapshot.of(epoch, history))

    def _warn(self, error: DiskFullError) -> None:
        if not self._warned:
            warnings.warn(f"training goes on without a new checkpoint: {error}", stacklevel=3)
        self._warned = True
