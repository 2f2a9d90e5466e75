"""The Arrow store: one checked, memory-mapped file per data set and node, shared by all its trials.

A file is written once, beside its final name, and renamed: it is never changed in place, because a
mapped file that shrinks kills its readers. Its name holds the digest of the data set, so another
configuration is another file. The maps are read-only: gather from them, never write (writing ends
the process).
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import math
import mmap
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from robsearch.data.cache import cache_folder, caching_in, locked, replacing
from robsearch.data.contents import Facts, facts_of, lasting
from robsearch.data.folder import Folder, parts
from robsearch.data.maps import mapped, pieces
from robsearch.data.mixed import EXTRA, Mixed, members
from robsearch.data.npz import NpzImages
from robsearch.data.remote import is_remote
from robsearch.data.splits import Parts
from robsearch.errors import InputError, a, counted, problems_of, refusal, refuse
from robsearch.identity import recorded_fields
from robsearch.protocols import Dataset, ImageSpec, Split

FORMAT = 1
"""Raise it when the layout of the file changes, or what the sets of this package contain."""

LARGE = 2**30
"""Bytes of a file from which on it is hashed when it is first opened, and then only after a
change."""

_NOTES = b"robsearch"
_SPLITS = ("train", "val", "test")


class _Opened(NamedTuple):
    splits: dict[str, Split]
    digests: dict[str, str]
    """SHA-256 by split."""


def load(dataset: Dataset, cache: Path | None = None) -> dict[str, Split]:
    """The splits of a data set as read-only memory maps of its Arrow file, which is built when
    missing.

    Processes that start at once build the file once and share its pages. A damaged file (truncated,
    altered) is found by its checksum, warned about and replaced by a new one. A file of more than
    a GiB is hashed only when its size, inode or times are not those at which it was found intact.
    No more than about 100 MB of a file are in this process's memory at a time. So it is with a
    ``Folder`` or an ``NpzImages`` whose file is made; other sets are in memory meanwhile as their
    ``read`` gives them. A ``Mixed`` has no file of its own: its splits are those of its real set,
    and as ``extra`` the ``train`` of the other.

    Args:
        dataset: what to load; it is read only when there is no valid file.
        cache: the node's folder for such files, on a local disk; None: ROBSEARCH_CACHE, else
            ``~/.cache/robsearch``.

    Returns:
        By name: uint8 images ``(n, c, h, w)`` and int64 labels ``(n,)``.

    Raises:
        InputError: the folder cannot be written, the source is missing, or a user's data set gives
            splits that do not fit its ``spec``.
    """
    if isinstance(dataset, Mixed):
        return {**load(dataset.real, cache), EXTRA: _load(dataset.extra, cache)["train"]}
    return _load(dataset, cache)


def _load(dataset: Dataset | NpzImages, cache: Path | None) -> dict[str, Split]:
    """What the file of one set holds, which is made if need be."""
    path = arrow_file(dataset, cache)
    with suppress(Exception):  # what is wrong with the file is said below
        return _open(path).splits
    with locked(path), caching_in(path.parent):
        # While this process waited for the lock another may have built the file.
        try:
            return _open(path).splits
        except FileNotFoundError:
            pass
        except Exception as problem:  # altered bytes can break Arrow, UTF-8, JSON or the shapes
            message = f"{path} is damaged ({problem}): rebuilding it from its source"
            warnings.warn(message, stacklevel=2)
        _write(path, dataset.spec, _parts(dataset))
        return _open(path).splits


def arrow_file(dataset: Dataset | NpzImages, cache: Path | None = None) -> Path:
    """Where ``load`` keeps a data set other than a ``Mixed``, whether or not it is there yet.
    Raises as ``digest`` does."""
    return cache_folder(cache) / f"{type(dataset).__name__}-{digest(dataset)}.arrow"


def check_source(dataset: Dataset, cache: Path | None = None) -> str:
    """Where this node would take a data set from; nothing is read.

    Returns:
        In words: its file in the cache, the folder or URI of its images, or that none is needed.

    Raises:
        InputError: there is neither a file in the cache nor such a folder or file.
    """
    return " and ".join(_source(member, cache) for member in members(dataset))


def _source(dataset: Dataset | NpzImages, cache: Path | None) -> str:
    name = type(dataset).__name__
    if arrow_file(dataset, cache).exists():
        return f"{name} in the cache"
    if isinstance(dataset, NpzImages):
        file = Path(dataset.path)
        if not file.exists():
            do = "copy the file there: the path must lead to it on all nodes"
            raise InputError(refusal(f"the images of {name}", f"no file {file}", do))
        return f"{name} in {file}"
    if not hasattr(dataset, "root"):
        return f"{name}, which needs no files"
    root = dataset.root or os.environ.get("ROBSEARCH_DATA") or ""
    if is_remote(root):
        return f"{name} in an object store, which was not asked"
    folder = Path(root).expanduser() / getattr(dataset, "FOLDER", "")
    # A data set of one's own may lie in one file.
    if not (root and folder.exists()):
        got = f"no file or folder {folder}" if root else "neither root nor ROBSEARCH_DATA"
        do = "copy the images there, or set ROBSEARCH_DATA before `ray start` on that node"
        raise InputError(refusal(f"the images of {name}", got, do))
    return f"{name} in {folder}"


def content_digest(dataset: Dataset, cache: Path | None = None) -> str:
    """16 hexadecimal digits of the images and labels of all splits: those that ``load`` gives on
    this node.

    They are the same on every machine, whatever class reads the data, and whatever it or its file
    is called. The Arrow file is built when missing, and a process hashes it once. Raises as
    ``load`` does.
    """
    return content_digests(dataset, cache)["all"]


def content_digests(dataset: Dataset, cache: Path | None = None) -> dict[str, str]:
    """``content_digest`` by split, such as ``train``, ``val`` and ``test``, and of ``all`` of them.

    A split's digits depend on its images and labels, their types and shapes, and on nothing else,
    so splits of different sets can be compared. Those of ``all`` depend on the names of the splits
    too.
    """
    if isinstance(dataset, Mixed):
        digests = {
            **_split_digests(dataset.real, cache),
            EXTRA: _split_digests(dataset.extra, cache)["train"],
        }
    else:
        digests = _split_digests(dataset, cache)
    lines = [f"{name}\0{sha256}\n" for name, sha256 in sorted(digests.items())]
    whole = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {name: sha256[:16] for name, sha256 in {**digests, "all": whole}.items()}


def _split_digests(dataset: Dataset | NpzImages, cache: Path | None) -> dict[str, str]:
    """SHA-256 of each split in the file of one set, which is made if need be."""
    path = arrow_file(dataset, cache)
    try:
        digests = _digests(path, facts_of(path), _notes(path))
    except Exception:  # not built yet, or damaged: it is built, or what is wrong is said
        _load(dataset, cache)
        digests = _digests(path, facts_of(path), _notes(path))
    return dict(digests)


def commonest_share(dataset: Dataset, split: str) -> float:
    """The share of a split's commonest class. Raises as ``load`` does."""
    content = content_digests(dataset)[split]
    if content not in _SHARES:  # the driver asks before each training
        labels = load(dataset)[split].labels
        commonest = int(labels.bincount().max())
        _SHARES[content] = commonest / len(labels)
    return _SHARES[content]


_SHARES: dict[str, float] = {}
"""By the content of a split."""


@lru_cache(maxsize=64)
def _digests(path: Path, facts: Facts, notes: bytes) -> Mapping[str, str]:
    """SHA-256 of each split of a file.

    Another file of this name has other ``facts``, or other ``notes`` if it was made at the same
    time of a coarse clock.
    """
    return _open(path).digests


def digest(dataset: Dataset | NpzImages) -> str:
    """16 hexadecimal digits that name the content of a data set, without reading it.

    They depend on the format of the file, the class (module, name and source code) and every field
    that takes part in ``==``, but for those with the metadata ``robsearch.identity.LATER`` that
    have their default. So declare a field that says where the data lies, not what it is, as
    ``field(compare=False)``. Code that ``read`` calls outside its class is not seen: give the class
    a field ``version`` and raise it.

    Raises:
        InputError: ``dataset`` is not a dataclass, or a field is not made of numbers, strings,
            paths, tuples, dictionaries or dataclasses of these.
    """
    # All that has no name is refused at once.
    nameless: list[object] = []

    def plain(value: Any) -> object:
        if isinstance(value, Path):
            return str(value)
        if not is_dataclass(value) or isinstance(value, type):
            nameless.append(value)
            return None
        content = {f.name: getattr(value, f.name) for f in recorded_fields(value) if f.compare}
        return [type(value).__module__, type(value).__qualname__, content]

    kind: type = type(dataset)
    # json calls ``plain`` for what it does not know, and again for what that returns.
    text = json.dumps([FORMAT, _code(kind), dataset], default=plain, sort_keys=True)
    do = (
        "such an object has no lasting name; keep its parameters as fields, or use "
        "field(compare=False)"
    )
    expected = f"{kind.__name__} and its fields to be dataclasses, numbers, strings or tuples"
    refuse([refusal(expected, repr(value), do) for value in nameless])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _code(kind: type) -> str:
    # Looked up once: to cut a class out of its file takes longer than all the rest of a digest.
    with suppress(OSError, TypeError):  # no source: typed at a prompt, or unpickled by value
        return inspect.getsource(kind)
    return ""


def split_problems(spec: ImageSpec, splits: Mapping[str, Split]) -> list[str]:
    """Why what a data set has read does not fit its ``spec``; empty if it does."""
    do = "correct the data set's read()"
    # A data set may be the user's own, so nothing is taken for granted.
    if not isinstance(splits, Mapping):
        expected = "read() to give a dict of the splits train, val and test"
        return [refusal(expected, a(type(splits).__name__), "return {'train': Split(...), ...}")]
    missing = ", ".join(name for name in _SPLITS if name not in splits)
    problems = problems_of((not missing, "the splits train, val and test", f"no {missing}", do))
    seen = set[str]()
    for name, split in splits.items():
        # What is wrong with all of them is said of the first.
        texts = _problems_of_split(spec, name, split)
        problems += [text for what, text in texts if what not in seen]
        seen |= {what for what, _ in texts}
    return problems


def _problems_of_split(spec: ImageSpec, name: str, split: Split) -> list[tuple[str, str]]:
    """Each with the word for what it is about."""
    do = "correct the data set's read()"
    kinds = [type(part).__name__ for part in split]
    if len(kinds) != 2 or not all(isinstance(part, torch.Tensor) for part in split):
        expected = f"{name} as Split(images, labels) of two tensors"
        return [("tensors", refusal(expected, ", ".join(kinds), "use torch.from_numpy on arrays"))]
    images, labels = split
    n = len(images)
    shape = (n, *spec.shape)
    fits = images.shape == shape and n > 0 and images.dtype == torch.uint8
    got = f"{images.dtype} {tuple(images.shape)}"
    expected = f"{name}.images to be torch.uint8 {shape}, not empty"
    problems = [("images", text) for text in problems_of((fits, expected, got, do))]
    is_whole = not labels.is_floating_point() and labels.dtype != torch.bool
    fits = is_whole and labels.ndim == 1
    got = f"{labels.dtype} {tuple(labels.shape)}"
    if fits and len(labels) > 0:
        low = int(labels.min())
        high = int(labels.max())
        fits = 0 <= low <= high < spec.num_classes
        got = f"{low} to {high}"
    expected = f"{name}.labels to be whole numbers in one row, from 0 to {spec.num_classes - 1}"
    problems += [("labels", text) for text in problems_of((fits, expected, got, do))]
    expected = f"{name} to have a label for each of {counted(n, 'image')}"
    as_many = labels.ndim != 1 or len(labels) == n
    problems += [("count", text) for text in problems_of((as_many, expected, len(labels), do))]
    return problems


def _fitting(spec: ImageSpec, splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits as contiguous uint8 and int64 CPU tensors; refuses what does not fit ``spec``."""
    refuse(split_problems(spec, splits))
    return {
        name: Split(images.cpu().contiguous(), labels.cpu().long().contiguous())
        for name, (images, labels) in splits.items()
    }


def _parts(dataset: Dataset | NpzImages) -> dict[str, Parts]:
    if isinstance(dataset, NpzImages):
        return {"train": dataset.parts()}
    if isinstance(dataset, Folder):
        return parts(dataset)
    splits = _fitting(dataset.spec, dataset.read())
    return {name: Parts(pieces(images), labels) for name, (images, labels) in splits.items()}


def _split_digest(split: Split) -> str:
    total = hashlib.sha256(_split_head(tuple(split.images.shape)))
    for images in pieces(split.images):
        total.update(images.flatten().numpy().data)
    total.update(_label_bytes(split.labels))
    return total.hexdigest()


def _split_head(shape: tuple[int, ...]) -> bytes:
    return f"uint8 {shape} int64\n".encode()


def _label_bytes(labels: Tensor) -> bytes:
    """The same on machines of either byte order."""
    return labels.numpy().astype("<i8", copy=False).tobytes()


def _checksum(path: Path, splits: Mapping[str, Split]) -> str:
    """What files without digests are checked by; written still, for versions that know only
    this."""
    total = hashlib.sha256(path.name.encode())
    for name, (images, labels) in splits.items():
        total.update(_checksum_head(name, tuple(images.shape)))
        for piece in pieces(images):
            total.update(piece.flatten().numpy().data)
        total.update(labels.numpy().data)
    return total.hexdigest()


def _checksum_head(name: str, shape: tuple[int, ...]) -> bytes:
    return f"{name} torch.uint8 {shape} torch.int64".encode()


def _open(path: Path) -> _Opened:
    reader = _reader(path)
    notes = json.loads(reader.schema.metadata[_NOTES])
    splits = {}
    for i, name in enumerate(notes["splits"]):
        batch = reader.get_batch(i)
        images = batch.column("images").to_numpy_ndarray()
        labels = batch.column("labels").to_numpy(zero_copy_only=True)
        splits[name] = Split(_view(images), _view(labels))
    facts = facts_of(path)
    if "digests" in notes and _was_intact(path, facts):
        return _Opened(splits, notes["digests"])
    digests = {name: _split_digest(split) for name, split in splits.items()}
    if "digests" in notes:
        intact = (notes["file"], notes["digests"]) == (path.name, digests)
    else:  # files of earlier versions carry one checksum over everything
        intact = notes["sha256"] == _checksum(path, splits)
    if not intact:
        raise ValueError("its content does not match its checksum")
    _remember_intact(path, facts)
    return _Opened(splits, digests)


def _was_intact(path: Path, facts: Facts) -> bool:
    """Whether the file is the one that some process of this node has hashed."""
    with suppress(OSError, ValueError):
        remembered = json.loads(_intact_file(path).read_text())
        return facts == tuple(remembered)
    return False


def _remember_intact(path: Path, facts: Facts) -> None:
    size = facts[0]
    if size > LARGE and facts_of(path) == facts and lasting(facts):
        with suppress(InputError), replacing(_intact_file(path)) as temporary:
            temporary.write_text(json.dumps(facts))


def _intact_file(path: Path) -> Path:
    return path.with_suffix(".intact")


def _notes(path: Path) -> bytes:
    notes: bytes = _reader(path).schema.metadata[_NOTES]
    return notes


def _reader(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.py_buffer(mapped(path)))


def _view(array: Any) -> Tensor:
    """A read-only array as a tensor, without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _write(path: Path, spec: ImageSpec, splits: Mapping[str, Parts]) -> None:
    """Images are written as they come. What they are is known only then and stands before them: so
    the file's frame is written twice, first without a look at what it says of them."""
    shapes = {name: (len(split.labels), *spec.shape) for name, split in splits.items()}
    labels = {name: split.labels for name, split in splits.items()}
    unknown = {"sha256": "0" * 64, "digests": dict.fromkeys(splits, "0" * 64)}
    with replacing(path) as temporary, temporary.open("x+b") as file:
        offsets = _write_frame(file, path.name, shapes, labels, unknown)
        notes = _write_images(file, path.name, shapes, splits, offsets)
        _write_frame(file, path.name, shapes, labels, notes)


def _write_images(
    file: IO[bytes],
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    splits: Mapping[str, Parts],
    offsets: list[int],
) -> dict[str, Any]:
    """Writes the images to their offsets in the file, and returns what its notes say of them."""
    whole = hashlib.sha256(name.encode())
    digests = {}
    for (split, (images, labels)), offset in zip(splits.items(), offsets, strict=True):
        of_split = hashlib.sha256(_split_head(shapes[split]))
        whole.update(_checksum_head(split, shapes[split]))
        file.seek(offset)
        for part in images:
            pixels = part.numpy().reshape(-1).data
            file.write(pixels)
            of_split.update(pixels)
            whole.update(pixels)
        of_split.update(_label_bytes(labels))
        whole.update(labels.numpy().data)
        digests[split] = of_split.hexdigest()
    # Of earlier versions that read this file, some know only the one checksum.
    return {"sha256": whole.hexdigest(), "digests": digests}


def _write_frame(
    file: IO[bytes],
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    labels: Mapping[str, Tensor],
    notes: Mapping[str, Any],
) -> list[int]:
    """Writes all of the file but the images, and returns at which byte each split begins."""
    most = max(map(math.prod, shapes.values()))
    if not file.seek(0, io.SEEK_END):
        file.truncate(most)
    # Arrow wants to see images before it makes room for them: it is shown a map of the file.
    stand_in = np.frombuffer(mmap.mmap(file.fileno(), most, access=mmap.ACCESS_READ), np.uint8)
    notes = {"splits": list(shapes), "sha256": notes["sha256"], "file": name, **notes}
    batches = []
    for split, shape in shapes.items():
        pixels = stand_in[: math.prod(shape)].reshape(shape)
        columns = {
            "images": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
            "labels": pa.array(labels[split].numpy()),
        }
        batches.append(pa.record_batch(columns))
    schema = batches[0].schema.with_metadata({_NOTES: json.dumps(notes)})
    sink = _Frame(file, stand_in.ctypes.data)
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    file.flush()
    return sink.offsets


class _Frame(io.RawIOBase):
    """Writes into a file all buffers but those at one address, for which it leaves room."""

    def __init__(self, file: IO[bytes], left_out: int) -> None:
        self.offsets: list[int] = []
        self._file = file
        self._left_out = left_out
        file.seek(0)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, content: Any) -> int:
        buffer = pa.py_buffer(content)
        if buffer.address == self._left_out:
            self.offsets.append(self._file.tell())
            self._file.seek(buffer.size, io.SEEK_CUR)
        else:
            self._file.write(buffer)
        return int(buffer.size)
