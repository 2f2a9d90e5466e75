"""A trial's own folder: attempts, checkpoints, history. Plain files, on any path that all nodes
share.

    w4-017/a2/epoch-0012/state.pt       weights, optimiser, lambda's state
    w4-017/a2/epoch-0012/history.json   every epoch so far, and the digest of state.pt
    w4-017/a2/LATEST                    the name of the newest epoch folder, written last

The attempt number is claimed by an exclusive create, so a worker that outlived its driver writes
where nobody reads, and stops. An attempt begins by copying what its predecessor left, and is then
self-contained.

A checkpoint is complete when its own files agree: the history is written after the state, and has
its digest and as many epochs as the folder's name says. So no other file is needed to tell it from
one that was not written to its end, and ``LATEST`` is a hint for people: it is compared, and never
believed. What does not agree is said to be damaged, and the newest checkpoint that is complete
counts, in the newest attempt that has one.

Two checkpoints are kept to go on from, the newest and the one before it, each with the best epoch
of its own history: were the newest, and best, damaged, the one before it would otherwise be without
the weights that its history names. These are three files at most. Once training has ended and the
newest has been read back, the one before it needs no best of its own any more. A checkpoint is on
the disk for good (fsync) before an older one goes, and is never written over: one that finds no
room on the disk leaves those before it as they are (``CheckpointWriter``).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from robsearch.errors import DiskFullError, refused
from robsearch.protocols import Metrics
from robsearch.training.trainer import Epoch
from robsearch.trials.disk import is_full, no_room, weights_of
from robsearch.trials.files import DamagedError, make_way, remove, replacing, sync
from robsearch.trials.loading import (
    Saved,
    attempts,
    best_epoch,
    epoch_name,
    epoch_of,
    epochs,
    epochs_best_first,
    newest_checkpoint,
    read_checkpoint,
    warn_damaged,
)
from robsearch.trials.paths import stays_inside

FILES = ("state.pt", "history.json")
"""Of a checkpoint, in the order in which they are written."""


class StaleAttemptError(RuntimeError):
    """A newer attempt at this trial exists: this one must not write any more."""


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint as it is written, still in memory: later training does not change it."""

    number: int
    state: bytes
    epochs: tuple[Metrics, ...]

    @classmethod
    def of(cls, epoch: Epoch, history: list[Metrics]) -> Snapshot:
        """Of an epoch's live tensors, and the metrics of every epoch up to it."""
        buffer = io.BytesIO()
        torch.save(epoch.state, buffer)
        return cls(epoch.number, buffer.getvalue(), tuple(history))

    @property
    def name(self) -> str:
        """Of its folder."""
        return epoch_name(self.number)

    @property
    def history(self) -> bytes:
        """The content of ``history.json``."""
        digest = hashlib.sha256(self.state).hexdigest()
        return json.dumps({"sha256": digest, "epochs": self.epochs}).encode()


@dataclass(frozen=True)
class Attempt:
    """One process's try at a trial, and the only writer of its folder ``a<number>``."""

    trial: Path
    number: int

    @property
    def folder(self) -> Path:
        """Where this attempt, and nobody else, writes."""
        return self.trial / f"a{self.number}"

    @classmethod
    def claim(cls, trial: Path) -> Attempt:
        """The next attempt; of two processes that claim at once, each gets its own.

        Raises:
            InputError: the trial's folder is a link to one elsewhere.
        """
        if not stays_inside(trial, trial.parent):
            do = f"move what it leads to there, or link all of {trial.parent}"
            expected = f"a folder {trial}"
            raise refused(expected, f"a link to {trial.resolve()}", do)
        trial.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(_newest(trial) + 1):
            attempt = cls(trial, number)
            # Another process may have claimed the same number just now.
            with contextlib.suppress(FileExistsError):
                attempt.folder.mkdir()
                break
        return attempt

    def refuse_if_stale(self) -> None:
        """Call it before anything is written.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
        """
        if _newest(self.trial) > self.number:
            raise StaleAttemptError(f"attempt {self.number} was superseded and stopped")

    def resume(self) -> Saved | None:
        """Copies the newest valid checkpoint of earlier attempts here, with the best one, and
        returns it.

        Where there is no room for copies, the files are linked, which takes none. A copy that
        cannot be read back is removed; training then goes on from the checkpoint that it is a copy
        of.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: not even links find room.
        """
        # A worker may wake up long after its driver gave the trial to another one.
        self.refuse_if_stale()
        saved = newest_checkpoint(self.trial)
        if saved is None:
            return None
        name, best = saved.folder.name, saved.best.folder
        try:
            # The newest first: with the best one alone, a later attempt would begin at that.
            resumed = self._copy(saved.folder)
        except OSError as error:
            if not is_full(error):
                raise
            raise no_room(self.folder / name, weights_of(self.trial), error) from error
        try:
            if best.name != name:
                self._copy(best)
            self.refuse_if_stale()
            self._point_to(name)
        except OSError as error:
            # The attempt before has the best one too, and LATEST is only a hint.
            if not is_full(error):
                raise
        return resumed or saved

    def write(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, names it in ``LATEST``, and drops all that nobody would fall back
        on.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: there is no room; what had been written of it is gone, and the others are
                as they were.
        """
        self.refuse_if_stale()
        folder = self.folder / snapshot.name
        try:
            # A folder without a complete checkpoint may be left from an attempt that died.
            if not folder.is_dir():
                remove(folder)
                folder.mkdir()
            for name, content in zip(FILES, (snapshot.state, snapshot.history), strict=True):
                make_way(folder / name)
                (folder / name).write_bytes(content)
                sync(folder / name)
            sync(folder)
            self._point_to(snapshot.name)
        except OSError as error:
            if not is_full(error):
                raise
            # What is half written would take the room of a checkpoint, and help nobody.
            shutil.rmtree(folder, ignore_errors=True)
            raise no_room(folder, len(snapshot.state) + len(snapshot.history), error) from error
        self._drop_all_but(snapshot.epochs, fallbacks=2)

    def settle(self, history: Sequence[Metrics]) -> None:
        """After the last epoch: reads its checkpoint back, and drops what was kept in case that it
        is damaged.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DamagedError: it is.
        """
        self.refuse_if_stale()
        # Only what can be read back makes the older checkpoint superfluous.
        read_checkpoint(self.folder / epoch_name(len(history)))
        self._drop_all_but(history, fallbacks=1)

    def _copy(self, source: Path) -> Saved | None:
        """A copy of an earlier attempt's checkpoint; None, with a warning, if it cannot be read
        back."""
        copy = self.folder / source.name
        try:
            copy.mkdir()
            for name in FILES:
                _copy_or_link(source / name, copy / name)
            sync(copy)
            return read_checkpoint(copy)
        except DamagedError as error:
            warn_damaged(error, "it was copied wrongly, and is removed")
            shutil.rmtree(copy, ignore_errors=True)
            return None
        except OSError:
            shutil.rmtree(copy, ignore_errors=True)
            raise

    def _point_to(self, name: str) -> None:
        with replacing(self.folder / "LATEST") as unfinished:
            unfinished.write_text(name)
        sync(self.folder)

    def _drop_all_but(self, history: Sequence[Metrics], fallbacks: int) -> None:
        """Drops all but the newest checkpoint and the one before it, and the best for the newest
        ``fallbacks``."""
        folders = [folder for folder in epochs(self.folder) if epoch_of(folder) <= len(history)]
        numbers = [epoch_of(folder) for folder in folders if (folder / "state.pt").is_file()]
        best_first = epochs_best_first(history)
        # The newest is the first. The best for one is the best of those up to it.
        best = [min(numbers[i:], key=best_first.index) for i in range(min(fallbacks, len(numbers)))]
        for folder in folders:
            if epoch_of(folder) not in (*numbers[:2], *best):
                # What cannot be removed is no reason to stop training.
                with contextlib.suppress(OSError):
                    remove(folder)


@dataclass
class CheckpointWriter:
    """Saves an attempt's checkpoints while it trains, also when the disk is full for a time.

    Without room, training goes on as long as an older checkpoint is there, and the next save tries
    again. The best epoch's checkpoint waits in memory meanwhile: ``LATEST`` never names a history
    whose best weights are not there.

    Attributes:
        attempt: whose.
        saved: the newest epoch on disk, 0 before the first.
        waiting: the best epoch's checkpoint, if it is not on disk: it found no room, or its turn
            has not come.
    """

    attempt: Attempt
    saved: int = 0
    waiting: list[Snapshot] = field(default_factory=list)
    _warned: bool = False

    def save(self, epoch: Epoch, history: list[Metrics], last: bool = False) -> None:
        """Writes what waits and is still the best, then this epoch, unless it is on disk already.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: there is no room, and this save is the last one or there is none before
                it to fall back on.
        """
        if self.saved == epoch.number:
            return
        # Before the state is copied, which takes time.
        self.attempt.refuse_if_stale()
        best = best_epoch(history)
        queue = [snapshot for snapshot in self.waiting if snapshot.number == best]
        queue.append(Snapshot.of(epoch, history))
        # The best goes first, so that no history is saved whose best weights are not there.
        while queue:
            try:
                self.attempt.write(queue[0])
            except DiskFullError as error:
                if last or not self.saved:
                    raise
                if not self._warned:
                    warnings.warn(
                        f"training goes on without a new checkpoint: {error}", stacklevel=2
                    )
                self._warned = True
                break
            self.saved = queue.pop(0).number
        self.waiting = [snapshot for snapshot in queue if snapshot.number == best]

    def hold_in_memory(self, epoch: Epoch, history: list[Metrics]) -> None:
        """Keeps an epoch in memory until the next ``save``, if it is the best: to write each takes
        longer than to train it where epochs are short.
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
            warn_damaged(error, "it is written again")
            self.attempt.write(Snapshot.of(epoch, history))


def drop_weights(trial: Path) -> None:
    """Removes the weights of a trial that is never trained or measured again; its history stays."""
    for state in trial.glob("a*/epoch-*/state.pt"):
        # A link may lead to the weights of another search.
        if stays_inside(state.parent, trial.parent):
            remove(state)


def _newest(trial: Path) -> int:
    """The number of the newest attempt; 0 if there is none."""
    return max((int(attempt.name[1:]) for attempt in attempts(trial)), default=0)


def _copy_or_link(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
        sync(target)
    except OSError as error:
        if not is_full(error):
            raise
        target.unlink(missing_ok=True)
        os.link(source, target)
