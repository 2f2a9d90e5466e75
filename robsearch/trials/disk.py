"""The disk that checkpoints lie on: whether it is full, what a search's weights take, and whose go
first."""

from __future__ import annotations

import errno
import math
import shutil
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from robsearch.errors import DiskFullError, causes, refusal
from robsearch.trials.selection import Order


class Waiting(NamedTuple):
    """A worker that finds no room on the disk: ``needed`` bytes, 0 if that is not known, and
    ``problem`` in words."""

    needed: int
    problem: str


def is_full(error: OSError) -> bool:
    """Whether an error says that the disk, or what its quota allows, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def full_behind(error: BaseException) -> OSError | None:
    """The full disk that led to an error, if one did."""
    full = (cause for cause in causes(error) if isinstance(cause, OSError) and is_full(cause))
    return next(full, None)


def no_room(path: Path, needed: int, error: OSError) -> DiskFullError:
    """The refusal for a checkpoint of ``needed`` bytes at ``path``."""
    got = f"{_free(path.parent)} ({error.strerror or error})"
    do = "make room, for example by deleting state.pt files of trials you do not need, and resume"
    expected = f"{needed:,} bytes free for the checkpoint {path}"
    return DiskFullError(refusal(expected, got, do), needed)


def no_room_for_search(folder: Path, go_on: str, error: OSError) -> DiskFullError:
    """What ends a driver that can no longer write into its search's folder; ``go_on`` is the
    command that resumes."""
    got = f"{_free(folder)} bytes ({error.strerror or error})"
    do = f"what had ended is kept; make room, and go on with: {go_on}"
    return DiskFullError(refusal(f"room for the search in {folder}", got, do))


def weights(trials: Path) -> dict[str, int]:
    """The bytes of the weights under each trial's folder, by its name, sorted; trials without are
    not in it."""
    sizes = {trial.name: weights_of(trial) for trial in sorted(trials.iterdir())}
    return {trial: size for trial, size in sizes.items() if size}


def weights_of(trial: Path) -> int:
    """The bytes of a trial's weights, see ``checkpoint_sizes``."""
    return sum(checkpoint_sizes(trial))


def checkpoint_sizes(trial: Path) -> list[int]:
    """The bytes of each of a trial's weights (``state.pt``), in all its attempts; no file is read.

    A file that vanishes meanwhile counts nothing, and one that an attempt linked from another
    counts for each.
    """
    return [_size(file) for file in trial.glob("a*/epoch-*/state.pt")]


def size_text(size: float) -> str:
    """Bytes for a person: ``12 MB``, ``1.2 GB``; rounded up below that."""
    if size < 1e9:
        return f"{math.ceil(size / 1e6)} MB"
    return f"{size / 1e9:.1f} GB" if size < 1e12 else f"{size / 1e12:.1f} TB"


def size_of(folder: Path) -> int:
    """The bytes of all files under a folder; those that vanish meanwhile count nothing."""
    return sum(_size(file) for file in folder.rglob("*") if not file.is_dir())


def to_drop(sizes: Mapping[str, int], keep: Collection[str], budget: int) -> list[str]:
    """The trials whose weights must go so that those of the others take at most ``budget`` bytes.

    As few as needed from the front of ``sizes``: order it from the trial to lose first to the one
    to lose last. Trials in ``keep`` count but never go, so where they alone are above the budget,
    all others go and it is still exceeded.

    Args:
        sizes: bytes by trial, of all that have weights (``weights``).
        keep: those being trained, or not yet measured, and the best of each width.
        budget: in bytes.
    """
    left = sum(sizes.values())
    dropped = []
    for trial, size in sizes.items():
        if left <= budget:
            break
        if trial not in keep and size:
            dropped.append(trial)
            left -= size
    return dropped


def best_of_each_width(
    orders: Mapping[str, Order], widths: Mapping[str, float], count: int
) -> set[str]:
    """The ``count`` best trials at each width: of equal ones those that come first."""
    by_width = defaultdict[float, list[str]](list)
    for trial in sorted(orders, key=lambda trial: orders[trial], reverse=True):
        by_width[widths[trial]].append(trial)
    return {trial for trials in by_width.values() for trial in trials[:count]}


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        return "an unknown number of"


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:
        return 0
