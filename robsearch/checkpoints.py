"""A trial's own folder: attempts, checkpoints, history. Plain files, on any path that all nodes share.

    w4-017/a2/epoch-0012/state.pt       weights, optimiser, lambda's state
    w4-017/a2/epoch-0012/history.json   every epoch so far, and the digest of state.pt
    w4-017/a2/LATEST                    the name of the newest valid epoch folder, written last

The attempt number is claimed by an exclusive create, so a worker that outlived its driver writes where nobody
reads, and stops. An attempt begins by copying what its predecessor left, and is then self-contained. A checkpoint is
never written over: one that finds no room on the disk leaves those before it as they are (``saving``).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from robsearch.disk import is_full, no_room, weights_of
from robsearch.protocols import Checkpoint, Metrics
from robsearch.trainer import VALUE, Epoch


class StaleAttemptError(RuntimeError):
    """A newer attempt at this trial exists: this one must not write any more."""


@dataclass(frozen=True)
class Saved:
    """A valid checkpoint, and the metrics of every epoch up to it (with keys ``epoch`` and ``time``)."""

    folder: Path
    history: list[Metrics]

    @property
    def state(self) -> Checkpoint:
        """The state at the newest saved epoch, on the CPU."""
        return _load(self.folder)

    @property
    def best_state(self) -> Checkpoint:
        """The state at the epoch with the best robust accuracy on ``val``."""
        return _load(self.folder.parent / _name(best_epoch(self.history)))

    def at(self, epoch: int) -> Checkpoint:
        """The state at an epoch whose checkpoint was kept.

        Raises:
            FileNotFoundError: it was not; names those that were.
        """
        if not (self.folder.parent / _name(epoch) / "state.pt").exists():
            kept = ", ".join(str(int(f.parent.name[6:])) for f in sorted(self.folder.parent.glob("epoch-*/state.pt")))
            raise FileNotFoundError(f"no checkpoint of epoch {epoch} in {self.folder.parent}: there are {kept}")
        return _load(self.folder.parent / _name(epoch))


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint as it is written, still in memory: later training does not change it."""

    name: str
    best: str
    state: bytes
    history: str

    @classmethod
    def of(cls, epoch: Epoch, history: list[Metrics]) -> Snapshot:
        """Of an epoch's live tensors, and the metrics of every epoch up to it."""
        buffer = io.BytesIO()
        torch.save(epoch.state, buffer)
        state = buffer.getvalue()
        entries = {"sha256": hashlib.sha256(state).hexdigest(), "epochs": history}
        return cls(_name(epoch.number), _name(best_epoch(history)), state, json.dumps(entries))


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
        number = max(_attempts(trial), default=0) + 1
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
        if max(_attempts(self.trial), default=0) > self.number:
            raise StaleAttemptError(f"attempt {self.number} was superseded and stopped")

    def resume(self) -> Saved | None:
        """Copies the newest valid checkpoint of earlier attempts here, with the best one, and returns it.

        Where there is no room for copies, the files are linked, which takes none.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: not even links find room.
        """
        self.refuse_if_stale()
        saved = newest(self.trial)
        if saved is None:
            return None
        before, here = saved.folder.parent, self.folder / saved.folder.name
        try:
            for name in {here.name, _name(best_epoch(saved.history))}:
                (self.folder / name).mkdir()
                for file in ("state.pt", "history.json"):
                    _copy(before / name / file, self.folder / name / file)
            self.refuse_if_stale()
            _copy(before / "LATEST", self.folder / "LATEST")
        except OSError as error:
            if not is_full(error):
                raise
            raise no_room(here, weights_of(self.trial), error) from error
        return Saved(here, saved.history)

    def save(self, epoch: Epoch, history: list[Metrics]) -> None:
        """``write`` of an epoch as it is now."""
        self.refuse_if_stale()
        self.write(Snapshot.of(epoch, history))

    def write(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, names it in ``LATEST``, and drops all others but the previous and the best.

        Raises:
            StaleAttemptError: a newer attempt was claimed meanwhile.
            DiskFullError: there is no room; what had been written of it is gone, and the others are as they were.
        """
        self.refuse_if_stale()
        folder = self.folder / snapshot.name
        try:
            folder.mkdir(exist_ok=True)
            (folder / "state.pt").write_bytes(snapshot.state)
            (folder / "history.json").write_text(snapshot.history)
            self._point_to(snapshot.name)
        except OSError as error:
            if not is_full(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise no_room(folder, len(snapshot.state) + len(snapshot.history), error) from error
        self._drop_others(snapshot.name, snapshot.best)

    def _point_to(self, name: str) -> None:
        unfinished = self.folder / "LATEST.tmp"
        try:
            unfinished.write_text(name)
            unfinished.replace(self.folder / "LATEST")
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise

    def _drop_others(self, newest: str, best: str) -> None:
        older = sorted((f for f in self.folder.glob("epoch-*") if f.name < newest), reverse=True)
        for folder in older[1:]:
            if folder.name != best:
                shutil.rmtree(folder)


def newest(trial: Path) -> Saved | None:
    """The newest valid checkpoint of a trial, from its last attempt that has one; warns of damaged ones."""
    for number in sorted(_attempts(trial), reverse=True):
        attempt = trial / f"a{number}"
        latest = (attempt / "LATEST").read_text() if (attempt / "LATEST").exists() else ""
        for folder in sorted(attempt.glob("epoch-*"), reverse=True):
            if folder.name <= latest and (saved := _valid(folder)) is not None:
                return saved
    return None


def read_history(trial: Path) -> list[Metrics]:
    """Every epoch that a trial has saved, also when its weights were dropped."""
    for number in sorted(_attempts(trial), reverse=True):
        for folder in sorted((trial / f"a{number}").glob("epoch-*"), reverse=True):
            if (saved := _parsed(folder)) is not None:
                return list(saved["epochs"])
    return []


def drop_weights(trial: Path) -> None:
    """Removes the weights of a trial that is never trained or measured again; its history stays."""
    for state in trial.glob("a*/epoch-*/state.pt"):
        state.unlink(missing_ok=True)


def best_epoch(history: list[Metrics]) -> int:
    """The first epoch with the highest robust accuracy on ``val``."""
    return int(max(history, key=lambda entry: entry[VALUE])["epoch"])


def _attempts(trial: Path) -> list[int]:
    return [int(a.name[1:]) for a in trial.glob("a*") if a.name[1:].isdecimal()]


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if not is_full(error):
            raise
        target.unlink(missing_ok=True)
        os.link(source, target)


def _name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def _parsed(folder: Path) -> Checkpoint | None:
    try:
        saved: Checkpoint = json.loads((folder / "history.json").read_text())
    except (OSError, ValueError):
        return None
    return saved


def _valid(folder: Path) -> Saved | None:
    saved, state = _parsed(folder), folder / "state.pt"
    if saved and state.exists() and hashlib.sha256(state.read_bytes()).hexdigest() == saved["sha256"]:
        return Saved(folder, list(saved["epochs"]))
    warnings.warn(f"the checkpoint {folder} is damaged: going back to the one before it", stacklevel=3)
    return None


def _load(folder: Path) -> Checkpoint:
    state: Checkpoint = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state
