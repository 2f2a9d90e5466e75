"""Files mapped into memory, whose pages can be given back.

Pages of a map count as memory of the process from when they were looked at. The system takes them
back when it is short of memory; until then a process that looks at a whole set seems to hold it.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

PIECE = 2**26
"""Bytes of a map that are looked at between two releases."""

_MAPS: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()
"""By the address of the first byte."""


def mapped(path: Path) -> mmap.mmap:
    """A file as read-only memory. Raises ``OSError``, and ``ValueError`` for an empty file."""
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPS[np.frombuffer(view, np.uint8).ctypes.data] = view
    return view


def release(images: Tensor) -> None:
    """Takes the pages of the file that a tensor is mapped from out of this process's memory.

    They are there again, from the system's cache or the disk, when somebody looks at them. Nothing
    happens to a tensor that is no view of a ``mapped`` file: memory of its own would be lost.
    """
    address = images.data_ptr()
    for start, view in list(_MAPS.items()):
        if start <= address < start + len(view):
            view.madvise(mmap.MADV_DONTNEED)


def pieces(images: Tensor) -> Iterator[Tensor]:
    """Images in their order, about ``PIECE`` bytes at a time; what was looked at is released."""
    at_once = max(PIECE // max(images[:1].nbytes, 1), 1)
    for piece in images.split(at_once):
        yield piece
        release(images)
