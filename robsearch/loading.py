"""The one loader of checkpoints: it reads all of a checkpoint, and where anything is wrong it falls back and says so.

Nothing that lies in a trial's folder ends it: a folder or a pipe for a file, bytes that are no text, text that is no
JSON, JSON of another shape. What is wrong is a ``DamagedError`` inside, and a warning outside.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from robsearch.errors import refusal
from robsearch.files import DamagedError, content, read_json
from robsearch.protocols import Checkpoint, Metrics
from robsearch.trainer import VALUE
from robsearch.wording import counted

ATTEMPT = re.compile(r"a[1-9][0-9]*")
EPOCH = re.compile(r"epoch-(?!0000$)[0-9]{4,}")


@dataclass(frozen=True)
class Saved:
    """A valid checkpoint, and the metrics of every epoch up to it (with keys ``epoch`` and ``time``).

    Attributes:
        folder: of the checkpoint.
        history: of the epochs up to it.
        digest: of its state, SHA-256.
        damaged: folders of checkpoints that would have been taken instead, and are damaged or missing.
    """

    folder: Path
    history: list[Metrics]
    digest: str
    damaged: tuple[Path, ...] = ()

    @property
    def number(self) -> int:
        """The epoch, from 1."""
        return len(self.history)

    @property
    def state(self) -> Checkpoint:
        """The state at this epoch, on the CPU.

        Raises:
            DamagedError: the file was altered since it was found valid.
        """
        return _load(self.folder / "state.pt", self.digest, self.number)

    @property
    def best(self) -> Saved:
        """Of this history's epochs, the one with the highest robust accuracy on ``val`` whose weights are valid.

        Where an attempt's own copy is damaged, that of an older attempt counts. Warns of what is damaged, and where
        another epoch than the best has to stand in.
        """
        wanted, damaged = best_epoch(self.history), list[Path]()
        for folder in self._best_first():
            try:
                found = valid(folder)
            except DamagedError as error:
                say_damaged(error, "looking for another copy of its epoch, or the next best")
                damaged.append(folder)
                continue
            if not _leads_to(found.history, self.history):
                continue
            if found.number != wanted:
                damaged = damaged or [self.folder.parent / epoch_name(wanted)]
                lost = f"the weights of epoch {wanted}, the best of {self.folder.parents[1]}, are damaged or missing"
                warnings.warn(f"{lost}: those of epoch {found.number} stand in", stacklevel=2)
            return replace(found, damaged=tuple(damaged))
        return self

    @property
    def best_state(self) -> Checkpoint:
        """The state at the ``best`` epoch; its own ``epoch`` says which that is."""
        return self.best.state

    def _best_first(self) -> list[Path]:
        """All checkpoints up to this one, in every attempt: of one epoch the newest attempt's first."""
        every = [folder for attempt in attempts(self.folder.parents[1]) for folder in epochs(attempt)]
        own = [folder for folder in every if epoch_of(folder) <= self.number]
        ranks = {number: place for place, number in enumerate(ranked(self.history))}
        return sorted(own, key=lambda folder: ranks[epoch_of(folder)])


def newest(trial: Path) -> Saved | None:
    """The newest valid checkpoint of a trial, from its last attempt that has one; warns of all that is damaged."""
    damaged: list[Path] = []
    for attempt in attempts(trial):
        for folder in epochs(attempt):
            try:
                saved = valid(folder)
            except DamagedError as error:
                say_damaged(error, "going back to the one before it")
                damaged.append(folder)
                continue
            _compare_latest(attempt)
            return replace(saved, damaged=tuple(damaged))
    return None


def checkpoint_of(trial: Path, epoch: int) -> Saved:
    """The checkpoint of exactly one epoch, from the last attempt in which it is valid.

    Raises:
        FileNotFoundError: it was not kept, or is damaged; names those that were.
    """
    every = [folder for attempt in attempts(trial) for folder in epochs(attempt)]
    problems = []
    for folder in every:
        if epoch_of(folder) == epoch:
            try:
                return valid(folder)
            except DamagedError as error:
                problems.append(str(error))
    others = ", ".join(map(str, sorted({epoch_of(folder) for folder in every} - {epoch}))) or "none"
    got = "; ".join(problems) or "none"
    do = f"pass another epoch (there are {others}), or the trial, for its best one"
    raise FileNotFoundError(refusal(f"a valid checkpoint of epoch {epoch} in {trial}", got, do))


def read_history(trial: Path) -> list[Metrics]:
    """Every epoch that a trial has saved, also when its weights were dropped; warns of a damaged history.

    It may be called at any time: a checkpoint that is being written at the moment is passed over in silence.
    """
    for attempt in attempts(trial):
        for folder in epochs(attempt):
            try:
                return _read_history(folder)[1]
            except DamagedError as error:
                if not _being_written(folder):
                    warnings.warn(f"{error}: the history before it is read", stacklevel=2)
    return []


def best_epoch(history: Sequence[Metrics]) -> int:
    """The first epoch with the highest robust accuracy on ``val``."""
    return ranked(history)[0]


def ranked(history: Sequence[Metrics]) -> list[int]:
    """The epochs, from the highest robust accuracy on ``val`` to the lowest, of equal ones the first first."""

    def value(entry: Metrics) -> float:
        return -math.inf if math.isnan(entry[VALUE]) else entry[VALUE]

    return [int(entry["epoch"]) for entry in sorted(history, key=value, reverse=True)]


# -- what lies in the folder ---------------------------------------------------------------------------------------


def attempts(trial: Path) -> list[Path]:
    """The folders of a trial's attempts, the newest first; a file of such a name is none."""
    names = [name for name in _listed(trial) if ATTEMPT.fullmatch(name) and (trial / name).is_dir()]
    return [trial / name for name in sorted(names, key=lambda name: -int(name[1:]))]


def epochs(attempt: Path) -> list[Path]:
    """The folders of an attempt's checkpoints, the newest first; whatever bears such a name."""
    named = [attempt / name for name in _listed(attempt) if EPOCH.fullmatch(name)]
    found = [folder for folder in named if folder.name == epoch_name(epoch_of(folder))]  # epoch-00012 is none
    return sorted(found, key=epoch_of, reverse=True)


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def epoch_of(folder: Path) -> int:
    """The epoch whose checkpoint lies in a folder, by its name."""
    return int(folder.name[6:])


def epoch_name(epoch: int) -> str:
    """The name of the folder of an epoch's checkpoint."""
    return f"epoch-{epoch:04d}"


# -- reading -------------------------------------------------------------------------------------------------------


def valid(folder: Path) -> Saved:
    """The checkpoint in a folder, all of it read and compared.

    Raises:
        DamagedError: whatever is wrong with it.
    """
    digest, history = _read_history(folder)
    _load(folder / "state.pt", digest, len(history))
    return Saved(folder, history, digest)


def _read_history(folder: Path) -> tuple[str, list[Metrics]]:
    """The digest of the state, and the epochs; raises DamagedError."""
    file = folder / "history.json"
    found = read_json(file)
    digest, entries = (found.get("sha256"), found.get("epochs")) if isinstance(found, dict) else (None, None)
    if not (isinstance(digest, str) and isinstance(entries, list) and entries):
        raise DamagedError(file, "is not a history")
    for number, entry in enumerate(entries, 1):
        if not _is_entry(entry, number):
            raise DamagedError(file, f"does not have the metrics of epoch {number} in place {number}")
    if folder.name != epoch_name(len(entries)):
        raise DamagedError(file, f"has {counted(len(entries), 'epoch')}")
    return digest, entries


def _is_entry(entry: Any, number: int) -> bool:
    if not isinstance(entry, dict) or not {"epoch", "time", VALUE} <= entry.keys():
        return False
    numbers = all(
        isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
        for value in entry.values()
    )
    return numbers and entry["epoch"] == number and not any(map(math.isinf, (entry["time"], entry[VALUE])))


def _load(file: Path, digest: str, epoch: int) -> Checkpoint:
    """The state in a file; raises DamagedError."""
    found = content(file)
    if hashlib.sha256(found).hexdigest() != digest:
        raise DamagedError(file, "is not what its digest in history.json says")
    try:
        state: Any = torch.load(io.BytesIO(found), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever the bytes lead them to
        raise DamagedError(file, f"cannot be loaded ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("epoch") != epoch:
        raise DamagedError(file, f"is not the state at epoch {epoch}")
    return state


def _leads_to(earlier: list[Metrics], later: list[Metrics]) -> bool:
    """Whether one training has both histories; each epoch has the time of day at which it ended.

    Compared as text, because NaN is not equal to itself.
    """
    return json.dumps(earlier) == json.dumps(later[: len(earlier)])


def say_damaged(error: DamagedError, then: str) -> None:
    """Warns of a checkpoint, one of whose files is damaged, and of what follows from it."""
    told = f"the checkpoint {error.file.parent} is damaged: {then} ({error.file.name} {error.reason})"
    warnings.warn(told, stacklevel=3)


def _latest(attempt: Path) -> int:
    """The number of the epoch that ``LATEST`` names; raises DamagedError."""
    file = attempt / "LATEST"
    name = content(file).decode(errors="replace").strip()
    if EPOCH.fullmatch(name) is None or not os.path.lexists(attempt / name):
        raise DamagedError(file, f"names {name[:40]!r}, which is not there")
    return int(name[6:])


def _compare_latest(attempt: Path) -> None:
    try:
        _latest(attempt)
    except DamagedError as error:
        warnings.warn(f"{error}: the checkpoints tell by themselves which is the newest", stacklevel=3)


def _being_written(folder: Path) -> bool:
    """Whether an attempt may be at it: ``LATEST`` names an older one, or, at the first, does not exist yet."""
    try:
        return _latest(folder.parent) < epoch_of(folder)
    except DamagedError:
        return not os.path.lexists(folder.parent / "LATEST")
