"""The one loader of checkpoints: it reads all of a checkpoint, and where anything is wrong it falls
back and says so.

Nothing that lies in a trial's folder ends it: a folder or a pipe for a file, bytes that are no
text, text that is no JSON, JSON of another shape. What is wrong is a ``DamagedError`` inside, and a
warning outside.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from robsearch.errors import counted, is_whole, refusal
from robsearch.metrics import (
    MEASURE_GPU_SECONDS,
    MEASURE_SECONDS,
    TEST_ROBUST,
    VALUE,
    Metrics,
)
from robsearch.trials.files import DamagedError, read_bytes, read_json, unless_damaged
from robsearch.trials.kept import KeptFacts

if TYPE_CHECKING:
    from robsearch.protocols import Checkpoint

MEASURED = "measured.kept"
"""The file beside the folder of the trials that has of each what a look needs of ``test.json``."""
AT_A_GLANCE = (TEST_ROBUST, "test/epoch", MEASURE_SECONDS, MEASURE_GPU_SECONDS)
"""What is read of a measured trial where a search is only glanced at."""
ATTEMPT = re.compile(r"a[1-9][0-9]*")
EPOCH = re.compile(r"epoch-(?!0000$)([0-9]{4}|[1-9][0-9]{4,})")
"""What ``epoch_name`` gives: ``epoch-0012``, but not ``epoch-00012``."""
LOOKS = 5
"""At a trial whose worker replaces checkpoints faster than this process reads them."""


@dataclass(frozen=True)
class Saved:
    """A valid checkpoint, and the metrics of every epoch up to it (with keys ``epoch`` and
    ``time``).

    Attributes:
        folder: of the checkpoint.
        history: of the epochs up to it.
        digest: of its state, SHA-256.
        damaged: folders of checkpoints that would have been taken instead, and are damaged or
            missing.
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
        return _load(self)

    @property
    def best(self) -> Saved:
        """Of this history's epochs, the one with the highest robust accuracy on ``val`` whose
        weights are valid.

        Where an attempt's own copy is damaged, that of an older attempt counts. Warns of what is
        damaged, and where another epoch than the best has to stand in.
        """
        best = best_epoch(self.history)
        best_first = epochs_best_first(self.history)
        earlier = [folder for folder in checkpoints(self._trial) if epoch_of(folder) <= self.number]
        # Of one epoch the newest attempt's copy stays first: the sort is stable.
        earlier.sort(key=lambda folder: best_first.index(epoch_of(folder)))
        for saved in _valid(earlier, "looking for another copy of its epoch, or the next best"):
            # Another training may have left checkpoints in an older attempt.
            if not _is_beginning(saved.history, self.history):
                continue
            if saved.number == best:
                return saved
            warnings.warn(
                f"the weights of epoch {best}, the best of {self._trial}, are "
                f"damaged or missing: those of epoch {saved.number} stand in",
                stacklevel=2,
            )
            missing = self.folder.with_name(epoch_name(best))
            return replace(saved, damaged=saved.damaged or (missing,))
        return self

    @property
    def best_state(self) -> Checkpoint:
        """The state at the ``best`` epoch; its own ``epoch`` says which that is."""
        return self.best.state

    @property
    def _trial(self) -> Path:
        return self.folder.parents[1]


def newest_checkpoint(trial: Path) -> Saved | None:
    """The newest valid checkpoint of a trial, from its last attempt that has one; warns of all that
    is damaged."""
    for saved in _valid(checkpoints(trial), "going back to the one before it"):
        try:
            _latest(saved.folder.parent)
        except DamagedError as error:
            warnings.warn(
                f"{error}: the checkpoints tell by themselves which is the newest", stacklevel=2
            )
        return saved
    return None


def checkpoint_of(trial: Path, epoch: int) -> Saved:
    """The checkpoint of exactly one epoch, from the last attempt in which it is valid.

    Raises:
        FileNotFoundError: it was not kept, or is damaged; names those that were.
    """
    problems = []
    others = set()
    for folder in checkpoints(trial):
        if epoch_of(folder) != epoch:
            others.add(epoch_of(folder))
            continue
        try:
            return read_checkpoint(folder)
        except DamagedError as error:
            problems.append(str(error))
    there = ", ".join(map(str, sorted(others))) or "none"
    raise FileNotFoundError(
        refusal(
            f"a valid checkpoint of epoch {epoch} in {trial}",
            "; ".join(problems) or "none",
            f"pass another epoch (there are {there}), or the trial, for its best one",
        )
    )


def read_history(trial: Path) -> list[Metrics]:
    """Every epoch that a trial has saved, also when its weights were dropped; warns of a damaged
    history.

    It may be called at any time: a checkpoint that is being written at the moment is passed over in
    silence, and where a worker has replaced those that were there it looks again.
    """
    history: list[Metrics] = []
    problems: list[str] = []
    for _ in range(LOOKS):
        folders = list(checkpoints(trial))
        history, problems = _newest_history(folders)
        if not problems or folders == list(checkpoints(trial)):
            break
    for problem in problems:
        warnings.warn(f"{problem}: the history before it is read", stacklevel=2)
    return history


def _newest_history(folders: Iterable[Path]) -> tuple[list[Metrics], list[str]]:
    """The first that can be read, and what is wrong with those before it."""
    problems: list[str] = []
    for folder in folders:
        try:
            return history_in(folder), problems
        except DamagedError as error:
            if not _being_written(folder):
                problems.append(str(error))
    return [], problems


def history_in(checkpoint: Path) -> list[Metrics]:
    """Every epoch up to a checkpoint.

    Raises:
        DamagedError: its history is no such one.
    """
    return _read_history(checkpoint).history


def best_epoch(history: Sequence[Metrics]) -> int:
    """The first epoch with the highest robust accuracy on ``val``."""
    return epochs_best_first(history)[0]


def epochs_best_first(history: Sequence[Metrics]) -> list[int]:
    """The epochs, from the highest robust accuracy on ``val`` to the lowest, of equal ones the
    first first."""

    def value(entry: Metrics) -> float:
        return -math.inf if math.isnan(entry[VALUE]) else entry[VALUE]

    return [int(entry["epoch"]) for entry in sorted(history, key=value, reverse=True)]


# --- what lies in the folder ---


def attempts(trial: Path) -> list[Path]:
    """The folders of a trial's attempts, the newest first; a file of such a name is none."""
    names = [name for name in _listed(trial) if ATTEMPT.fullmatch(name) and (trial / name).is_dir()]
    return [trial / name for name in sorted(names, key=lambda name: -int(name[1:]))]


def epochs(attempt: Path) -> list[Path]:
    """The folders of an attempt's checkpoints, the newest first; whatever bears such a name."""
    folders = [attempt / name for name in _listed(attempt) if EPOCH.fullmatch(name)]
    return sorted(folders, key=epoch_of, reverse=True)


def checkpoints(trial: Path) -> Iterator[Path]:
    """The folders of all checkpoints of a trial, the newest attempt's first."""
    for attempt in attempts(trial):
        yield from epochs(attempt)


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


# --- reading ---


def _valid(folders: Iterable[Path], then: str) -> Iterator[Saved]:
    """The checkpoints that are valid, each with the damaged ones before it, of which a warning
    tells, and ``then`` what follows from it."""
    damaged = []
    for folder in folders:
        try:
            saved = read_checkpoint(folder)
        except DamagedError as error:
            warn_damaged(error, then)
            damaged.append(folder)
        else:
            yield replace(saved, damaged=tuple(damaged))


def read_checkpoint(folder: Path) -> Saved:
    """The checkpoint in a folder, all of it read and compared.

    Raises:
        DamagedError: whatever is wrong with it.
    """
    saved = _read_history(folder)
    _load(saved)
    return saved


def _read_history(folder: Path) -> Saved:
    """A checkpoint whose state was not looked at; raises DamagedError."""
    file = folder / "history.json"
    content = read_json(file)
    digest, entries = None, None
    if isinstance(content, dict):
        digest = content.get("sha256")
        entries = content.get("epochs")
    if not (isinstance(digest, str) and isinstance(entries, list) and entries):
        raise DamagedError(file, "is not a history")
    for number, entry in enumerate(entries, 1):
        if not _is_entry(entry, number):
            raise DamagedError(
                file, f"does not have the metrics of epoch {number} in place {number}"
            )
    if folder.name != epoch_name(len(entries)):
        raise DamagedError(file, f"has {counted(len(entries), 'epoch')}")
    return Saved(folder, entries, digest)


def _is_entry(entry: Any, number: int) -> bool:
    if not isinstance(entry, dict) or not {"epoch", "time", VALUE} <= entry.keys():
        return False
    for value in entry.values():
        if not isinstance(value, float) and not (is_whole(value) and abs(value) < 2**63):
            return False
    # Other metrics may be infinite, such as a loss that diverged.
    infinite = math.isinf(entry["time"]) or math.isinf(entry[VALUE])
    return entry["epoch"] == number and not infinite


def _load(saved: Saved) -> Checkpoint:
    """The state of a checkpoint; raises DamagedError."""
    # Reading a history needs no torch, which takes seconds to import.
    import torch

    file = saved.folder / "state.pt"
    content = read_bytes(file)
    if hashlib.sha256(content).hexdigest() != saved.digest:
        raise DamagedError(file, "is not what its digest in history.json says")
    try:
        state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever the bytes lead them to
        raise DamagedError(file, f"cannot be loaded ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("epoch") != saved.number:
        raise DamagedError(file, f"is not the state at epoch {saved.number}")
    return state


def _is_beginning(earlier: list[Metrics], later: list[Metrics]) -> bool:
    """Whether one training has both histories; each epoch has the time of day at which it ended.

    Compared as text, because NaN is not equal to itself.
    """
    return json.dumps(earlier) == json.dumps(later[: len(earlier)])


def warn_damaged(error: DamagedError, then: str) -> None:
    """Warns of a checkpoint, one of whose files is damaged, and of what follows from it."""
    what = f"{error.file.name} {error.reason}"
    warnings.warn(f"the checkpoint {error.file.parent} is damaged: {then} ({what})", stacklevel=3)


def _latest(attempt: Path) -> int:
    """The number of the epoch that ``LATEST`` names; raises DamagedError."""
    file = attempt / "LATEST"
    name = read_bytes(file).decode(errors="replace").strip()
    if not EPOCH.fullmatch(name) or not os.path.lexists(attempt / name):
        raise DamagedError(file, f"names {name[:40]!r}, which is not there")
    return epoch_of(attempt / name)


def _being_written(folder: Path) -> bool:
    """Whether an attempt may be at it: ``LATEST`` names an older one, or, at the first, does not
    exist yet."""
    try:
        return _latest(folder.parent) < epoch_of(folder)
    except DamagedError:
        return not os.path.lexists(folder.parent / "LATEST")


def read_test(folder: Path) -> Metrics:
    """The averages over ``test`` of a measured trial; empty if it has not been measured, or, with a
    warning, if the file is damaged.
    """
    advice = "it is left out, and the trial is measured again when its search is resumed"
    return unless_damaged(_averages, folder / "test.json", advice) or {}


class MeasuredTrials:
    """What a look at a search needs of its measured trials (``AT_A_GLANCE``).

    Args:
        trials: the folder of the trials' folders; what is read is kept beside it.
    """

    def __init__(self, trials: Path) -> None:
        self._trials = trials
        self._kept = KeptFacts(trials.with_name(MEASURED), _glance)

    def read(self, trial: str) -> Metrics:
        """These few of the averages over ``test``, as ``read_test`` has them."""
        return self._kept.of(trial, self._trials / trial / "test.json")

    def keep(self) -> None:
        """Keeps them for the next look, where they are many."""
        self._kept.keep()


def _glance(file: Path) -> Metrics:
    test = read_test(file.parent)
    # That there are averages at all says that it was measured.
    return {name: test[name] for name in AT_A_GLANCE if name in test} or test


def _averages(file: Path) -> Metrics:
    averages = read_json(file)
    if isinstance(averages, dict):
        kinds = {type(value) for value in averages.values()}
        # What was not finite may be null.
        if kinds <= {int, float, NoneType}:
            return averages
    raise DamagedError(file, "is not a table of numbers")
