"""Images and labels in one file of NumPy, as generated sets are published."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from robsearch.data.contents import Facts, contents, facts_of
from robsearch.data.maps import PIECE
from robsearch.data.splits import Indices, Parts
from robsearch.errors import InputError, counted, problems_of, refuse, refused
from robsearch.identity import sparse_repr
from robsearch.protocols import ImageSpec

IMAGES = "image"
LABELS = "label"

_ARRAYS = f"an .npz file with arrays {IMAGES!r} (uint8, n x h x w x c) and {LABELS!r} (n integers)"
_SAVE = f"write it with numpy.savez(file, {IMAGES}=..., {LABELS}=...)"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What a file that is none, or is cut short, may raise."""


@final
@dataclass(frozen=True)
class NpzImages:
    """Images to train on in a file ``.npz``, such as the generated ones of arXiv 2302.04638.

    The file has two arrays: ``image``, uint8 ``(n, h, w, c)`` or grey ``(n, h, w)``, and ``label``,
    ``n`` whole numbers from 0, which may be pseudo-labels. ``numpy.savez`` writes such a file. It
    is read piece by piece, and no object in it is unpickled.

    There is no ``val`` and no ``test`` in it. So it is no data set of a recipe, but the ``extra``
    set of a ``Mixed``.

    Its identity is what it holds, not where it lies: ``fingerprint`` is the beginning of the file's
    SHA-256 when the object is made. The first object on a node reads the whole file for it; later
    ones take it from the node's cache. The path must lead to the same file on all nodes.

    Attributes:
        path: of the file, made absolute.
        num_classes: how many classes its labels are of; None: one more than the largest label.
        shape: found, not given: (channels, height, width).
        fingerprint: found, not given.

    Raises:
        InputError: there is no such file, it has no such arrays or no images, or a label is
            negative or not below ``num_classes``.
    """

    path: str | Path = field(compare=False)
    num_classes: int | None = None
    shape: tuple[int, int, int] = field(init=False)
    fingerprint: str = field(init=False)

    __repr__ = sparse_repr

    def __post_init__(self) -> None:
        is_path = isinstance(self.path, str | Path) and bool(str(self.path))
        expected = "NpzImages.path as a path"
        refuse(problems_of((is_path, expected, repr(self.path), "pass such as '1m.npz'")))
        # A worker may stand in another folder. Of an unknown user ``~user`` stays as it is.
        file = Path(os.path.expanduser(self.path)).absolute()
        object.__setattr__(self, "path", str(file))
        fingerprint = _fingerprint(file)
        held = _held(file, facts_of(file))
        object.__setattr__(self, "shape", held.shape)
        object.__setattr__(self, "fingerprint", fingerprint)
        if self.num_classes is None:
            object.__setattr__(self, "num_classes", held.most + 1)
        refuse(self._label_problems(held))

    @property
    def spec(self) -> ImageSpec:
        """Shape and number of classes. Mean and deviation, 0.5, are of no use: a ``Mixed`` has
        those of its real set."""
        assert self.num_classes is not None, "it was found when the object was made"
        half = (0.5,) * self.shape[0]
        return ImageSpec(self.shape, self.num_classes, half, half)

    def parts(self) -> Parts:
        """The images in the file's order, ``(m, c, h, w)`` at a time, and their labels.

        Raises:
            InputError: the file is not the one that the object was made of; or, while images are
                read, it is damaged.
        """
        file = Path(self.path)
        if _fingerprint(file) != self.fingerprint:
            do = "make the NpzImages anew; on another machine, copy the file there again"
            raise refused(f"the file {file} as it was", "another content", do)
        with _read(file) as archive:
            labels = _labels(archive)
        return Parts(_pieces(file, len(labels), self.shape), torch.from_numpy(labels))

    def _label_problems(self, held: _Held) -> list[str]:
        classes = self.num_classes
        assert classes is not None, "it was found before this is asked"
        expected = f"labels from 0 to {classes - 1} in {self.path}"
        fits = 0 <= held.least <= held.most < classes
        do = "pass num_classes, or correct the labels"
        return problems_of((fits, expected, f"{held.least} to {held.most}", do))


class _Held(NamedTuple):
    """What is known of a file without reading its images: their shape, the least and the largest
    label."""

    shape: tuple[int, int, int]
    least: int
    most: int


def _fingerprint(file: Path) -> str:
    """The beginning of a file's SHA-256. Raises InputError if it cannot be read."""
    hashes, problems = contents(str(file.parent), [file.name], kept_as=str(file))
    if file.name in problems:
        problem = problems[file.name]
        do = "correct the path, or copy the file there"
        raise refused(f"{_ARRAYS} at {file}", problem.strerror or problem, do)
    return hashes[file.name][:16]


@lru_cache(maxsize=64)
def _held(file: Path, _facts: Facts) -> _Held:
    """Of a file whose facts are these. Raises InputError if it does not hold what it should."""
    with _read(file) as archive:
        shape, n = _image_shape(archive)
        labels = _labels(archive)
    expected = f"images, and a label for each, in {file}"
    got = f"{counted(n, 'image')} and {counted(len(labels), 'label')}"
    refuse(problems_of((n == len(labels) > 0, expected, got, _SAVE)))
    return _Held(shape, int(labels.min()), int(labels.max()))


@contextmanager
def _read(file: Path) -> Iterator[zipfile.ZipFile]:
    """The opened file; what its content raises becomes a refusal."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except InputError:
        raise
    except _DAMAGED as problem:
        got = f"{type(problem).__name__}: {problem}"
        raise refused(f"{_ARRAYS} at {file}", got, _SAVE) from problem


def _labels(archive: zipfile.ZipFile) -> Indices:
    with archive.open(f"{LABELS}.npy") as member:
        labels: Any = np.lib.format.read_array(member, allow_pickle=False)
    fits = labels.ndim == 1 and labels.dtype.kind in "iu"
    got = f"{labels.dtype} {labels.shape} as {LABELS!r}"
    refuse(problems_of((fits, f"{_ARRAYS} at {archive.filename}", got, _SAVE)))
    return np.asarray(labels, dtype=np.int64)


def _image_shape(archive: zipfile.ZipFile) -> tuple[tuple[int, int, int], int]:
    """The shape of an image, (c, h, w), and how many there are."""
    with archive.open(f"{IMAGES}.npy") as member:
        shape, in_columns, kind = _header(member)
    fits = kind == np.uint8 and len(shape) in (3, 4) and not in_columns and 0 not in shape[1:]
    got = f"{kind} {shape} as {IMAGES!r}{' by columns' * in_columns}"
    refuse(problems_of((fits, f"{_ARRAYS} at {archive.filename}", got, _SAVE)))
    n, h, w, c = (*shape, 1)[:4]
    return (c, h, w), n


def _header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is stored by columns, and type of the array that comes next in a file."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(member)
    if version not in read:
        raise ValueError(f"an array of format {version}")
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read[version](member)
    return header


def _pieces(file: Path, n: int, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    """The ``n`` images in their order, about ``PIECE`` bytes at a time."""
    c, h, w = shape
    size = math.prod(shape)
    at_once = max(PIECE // size, 1)
    with _read(file) as archive, archive.open(f"{IMAGES}.npy") as member:
        _header(member)
        for start in range(0, n, at_once):
            # What is packed is unpacked as it is read. A file that is cut short has no such shape.
            some = min(at_once, n - start)
            content = member.read(some * size)
            pixels = np.frombuffer(content, np.uint8).reshape(some, h, w, c)
            yield torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
