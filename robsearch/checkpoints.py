"""A trial's own folder: attempts, checkpoints, history. Plain files, on any path that all nodes share.

    w4-017/a2/epoch-0012/state.pt       weights, optimiser, lambda's state
    w4-017/a2/epoch-0012/history.json   every epoch so far, and the digest of state.pt
    w4-017/a2/LATEST                    the name of the newest epoch folder, written last

The attempt number is claimed by an exclusive create, so a worker that outlived its driver writes where nobody
reads, and stops. An attempt begins by copying what its predecessor left, and is then self-contained.

A checkpoint is complete when its own files agree: the history is written after the state, and has its digest and as
many epochs as the folder's name says. So no other file is needed to tell it from one that was not written to its end,
and ``LATEST`` is a hint for people: it is compared, and never believed. What does not agree is said to be damaged, and
the newest checkpoint that is complete counts, in the newest attempt that has one.

Two checkpoints are kept to go on from, the newest and the one before it, each with the best epoch of its own history:
were the newest, and best, damaged, the one before it would otherwise be without the weights that its history names.
These are three files at most. Once training has ended and the newest has been read back, the one before it needs no
best of its own any more. A checkpoint is on the disk for good (fsync) before an older one goes, and is never written
over: one that finds no room on the disk leaves those before it as they are (``saving``).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robsearch.disk import is_full, no_room, weights_of
from robsearch.files import DamagedError, make_way, remove, replacing, sync
from robsearch.loading import (
    Saved,
    attempts,
    best_epoch,
    checkpoint_of,
    epoch_name,
    epoch_of,
    epochs,
    newest,
    ranked,
    read_history,
    say_damaged,
    valid,
)
from robsearch.protocols import Metrics
from robsearch.trainer import Epoch

__all__ = [
    "Attempt",
    "Saved",
    "Snapshot",
    "StaleAttemptError",
    "best_epoch",
    "checkpoint_of",
    "drop_weights",
    "newest",
    "read_history",
]

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
        """The next attempt; of two processes that claim at once, each gets its own."""
        trial.mkdir(parents=True, exist_ok=True)
        number = _newest(trial) + 1
        while True:
            try:
                (trial / f"a{number}").mkdir()
                return cls(trial, number)
            except FileExistsError:
                number += 1

    def refuse_if_stale(self) -> None:
        """Call it before anything is written.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
        """
        if _newest(self.trial) > self.number:
            raise StaleAttemptError(f"attempt {self.number} was superseded and stopped")

    def resume(self) -> Saved | None:
        """Copies the newest valid checkpoint of earlier attempts here, with the best one, and returns it.

        Where there is no room for copies, the files are linked, which takes none. A copy that cannot be read back is
        removed; training then goes on from the checkpoint that it is a copy of.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: not even links find room.
        """
        self.refuse_if_stale()
        saved = newest(self.trial)
        if saved is None:
            return None
        here, best = self.folder / saved.folder.name, saved.best.folder
        try:
            resumed = self._take(saved.folder)  # first: with the best one alone, a later attempt would begin at that
        except OSError as error:
            if not is_full(error):
                raise
            raise no_room(here, weights_of(self.trial), error) from error
        try:
            if best.name != here.name:
                self._take(best)
            self.refuse_if_stale()
            self._point_to(here.name)
        except OSError as error:  # the attempt before has the best one too, and LATEST is only a hint
            if not is_full(error):
                raise
        return resumed or saved

    def save(self, epoch: Epoch, history: list[Metrics]) -> None:
        """``write`` of an epoch as it is now."""
        self.refuse_if_stale()
        self.write(Snapshot.of(epoch, history))

    def write(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, names it in ``LATEST``, and drops all that nobody would fall back on.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: there is no room; what had been written of it is gone, and the others are as they were.
        """
        self.refuse_if_stale()
        folder = self.folder / snapshot.name
        try:
            _make_folder(folder)
            for name, written in zip(FILES, (snapshot.state, snapshot.history), strict=True):
                _write(folder / name, written)
            sync(folder)
            self._point_to(snapshot.name)
        except OSError as error:
            if not is_full(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise no_room(folder, len(snapshot.state) + len(snapshot.history), error) from error
        self._keep(snapshot.epochs, fallbacks=2)

    def settle(self, history: Sequence[Metrics]) -> None:
        """After the last epoch: reads its checkpoint back, and drops what was kept in case that it is damaged.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DamagedError: it is.
        """
        self.refuse_if_stale()
        valid(self.folder / epoch_name(len(history)))
        self._keep(history, fallbacks=1)

    def _take(self, source: Path) -> Saved | None:
        """A copy of an earlier attempt's checkpoint; None, with a warning, if it cannot be read back."""
        here = self.folder / source.name
        try:
            here.mkdir()
            for name in FILES:
                _copy(source / name, here / name)
            sync(here)
            return valid(here)
        except DamagedError as error:
            say_damaged(error, "it was copied wrongly, and is removed")
            shutil.rmtree(here, ignore_errors=True)
            return None
        except OSError:
            shutil.rmtree(here, ignore_errors=True)
            raise

    def _point_to(self, name: str) -> None:
        with replacing(self.folder / "LATEST") as unfinished:
            unfinished.write_text(name)
        sync(self.folder)

    def _keep(self, history: Sequence[Metrics], fallbacks: int) -> None:
        """Drops all but the newest checkpoint and the one before it, and the best for the newest ``fallbacks``."""
        there = [folder for folder in epochs(self.folder) if epoch_of(folder) <= len(history)]
        numbers = [epoch_of(folder) for folder in there if (folder / "state.pt").is_file()]
        kept, best_first = set(numbers[:2]), ranked(history)
        for last in numbers[:fallbacks]:
            kept.add(min((number for number in numbers if number <= last), key=best_first.index))
        for folder in there:
            if epoch_of(folder) not in kept:
                with contextlib.suppress(OSError):  # what cannot be removed is no reason to stop training
                    remove(folder)


def drop_weights(trial: Path) -> None:
    """Removes the weights of a trial that is never trained or measured again; its history stays."""
    for state in trial.glob("a*/epoch-*/state.pt"):
        remove(state)


def _newest(trial: Path) -> int:
    return max((int(attempt.name[1:]) for attempt in attempts(trial)), default=0)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        remove(folder)
        folder.mkdir()


def _write(file: Path, found: bytes) -> None:
    make_way(file)
    file.write_bytes(found)
    sync(file)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
        sync(target)
    except OSError as error:
        if not is_full(error):
            raise
        target.unlink(missing_ok=True)
        os.link(source, target)
