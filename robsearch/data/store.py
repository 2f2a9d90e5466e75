"""The Arrow store: one checked, memory-mapped file per data set and node, shared by all its trials.

A file is written once, beside its final name, and renamed: it is never changed in place, because a mapped
file that shrinks kills its readers. Its name holds the digest of the data set, so another configuration is
another file. The maps are read-only: gather from them, never write (writing ends the process).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from robsearch.data.cache import alone, cache_folder, caching_in, replacing
from robsearch.data.contents import Facts, facts_of
from robsearch.errors import InputError, refusal
from robsearch.protocols import Dataset, ImageSpec, Split

FORMAT = 1
"""Raise it when the layout of the file changes, or what the sets of this package contain."""

_NOTES = b"robsearch"
_SPLITS = ("train", "val", "test")


class _Opened(NamedTuple):
    splits: dict[str, Split]
    digests: dict[str, str] | None
    """SHA-256 by split; None if the file was written before it carried these."""


def load(dataset: Dataset, cache: Path | None = None) -> dict[str, Split]:
    """The splits of a data set as read-only memory maps of its Arrow file, which is built when missing.

    Processes that start at once build the file once and share its pages. A damaged file (truncated, altered)
    is found by its checksum, warned about and replaced by a new one.

    Args:
        dataset: what to load; it is read only when there is no valid file.
        cache: the node's folder for such files, on a local disk; None: ROBSEARCH_CACHE, else
            ``~/.cache/robsearch``.

    Returns:
        By name: uint8 images ``(n, c, h, w)`` and int64 labels ``(n,)``.

    Raises:
        InputError: the folder cannot be written, the source is missing, or a user's data set gives splits
            that do not fit its ``spec``.
    """
    path = arrow_file(dataset, cache)
    found = _attempt(path)
    if isinstance(found, _Opened):
        return found.splits
    with alone(path), caching_in(path.parent):
        found = _attempt(path)
        if isinstance(found, _Opened):
            return found.splits
        if not isinstance(found, FileNotFoundError):
            warnings.warn(f"{path} is damaged ({found}): rebuilding it from its source", stacklevel=2)
        _write(path, _fitting(dataset.spec, dataset.read()))
        return _open(path).splits


def arrow_file(dataset: Dataset, cache: Path | None = None) -> Path:
    """Where ``load`` keeps a data set, whether or not it is there yet. Raises as ``digest`` does."""
    return cache_folder(cache) / f"{type(dataset).__name__}-{digest(dataset)}.arrow"


def content_digest(dataset: Dataset, cache: Path | None = None) -> str:
    """16 hexadecimal digits of the images and labels of all splits: those that ``load`` gives on this node.

    They are the same on every machine, whatever class reads the data, and whatever it or its file is called.
    The Arrow file is built when missing, and a process hashes it once. Raises as ``load`` does.
    """
    return content_digests(dataset, cache)["all"]


def content_digests(dataset: Dataset, cache: Path | None = None) -> dict[str, str]:
    """``content_digest`` by split, such as ``train``, ``val`` and ``test``, and of ``all`` of them.

    A split's digits depend on its images and labels, their types and shapes, and on nothing else, so splits
    of different sets can be compared. Those of ``all`` depend on the names of the splits too.
    """
    path = arrow_file(dataset, cache)
    try:
        found = _digests(path, facts_of(path), _notes(path))
    except Exception:  # not built yet, or damaged: load builds it, or says what is wrong
        load(dataset, cache)
        found = _digests(path, facts_of(path), _notes(path))
    total = hashlib.sha256()
    for name, sha256 in sorted(found.items()):
        total.update(f"{name}\0{sha256}\n".encode())
    return {name: sha256[:16] for name, sha256 in found.items()} | {"all": total.hexdigest()[:16]}


def commonest_share(dataset: Dataset, split: str) -> float:
    """The share of a split's commonest class. Raises as ``load`` does."""
    content = content_digests(dataset)[split]
    if content not in _SHARES:  # the driver asks before each training
        labels = load(dataset)[split].labels
        _SHARES[content] = int(labels.bincount().max()) / len(labels)
    return _SHARES[content]


_SHARES: dict[str, float] = {}
"""By the content of a split."""


@lru_cache(maxsize=64)
def _digests(path: Path, facts: Facts, notes: bytes) -> Mapping[str, str]:
    """SHA-256 of each split of a file.

    Another file of this name has other ``facts``, or other ``notes`` if it was made at the same time of
    a coarse clock.
    """
    splits, digests = _open(path)
    return digests or _of_splits(splits)


def digest(dataset: Dataset) -> str:
    """16 hexadecimal digits that name the content of a data set, without reading it.

    They depend on the format of the file, the class (module, name and source code) and every field that takes
    part in ``==``. So declare a field that says where the data lies, not what it is, as
    ``field(compare=False)``. Code that ``read`` calls outside its class is not seen: give the class a field
    ``version`` and raise it.

    Raises:
        InputError: ``dataset`` is not a dataclass, or a field is not made of numbers, strings, paths, tuples,
            dictionaries or dataclasses of these.
    """
    odd: list[object] = []

    def plain(value: Any) -> object:
        if isinstance(value, Path):
            return str(value)
        if not is_dataclass(value) or isinstance(value, type):
            odd.append(value)
            return None
        content = {f.name: getattr(value, f.name) for f in fields(value) if f.compare}
        return [type(value).__module__, type(value).__qualname__, content]

    text = json.dumps([FORMAT, _code(type(dataset)), dataset], default=plain, sort_keys=True)
    if odd:
        do = "such an object has no lasting name; keep its parameters as fields, or use field(compare=False)"
        expected = f"{type(dataset).__name__} and its fields to be dataclasses, numbers, strings or tuples"
        raise InputError(*(refusal(expected, repr(value), do) for value in odd))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _code(kind: type) -> str:
    with suppress(OSError, TypeError):  # no source: typed at a prompt, or unpickled by value
        return inspect.getsource(kind)
    return ""


def _fitting(spec: ImageSpec, splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits as contiguous uint8 and int64 CPU tensors; refuses what does not fit ``spec``."""
    do = "correct the data set's read()"
    missing = [name for name in _SPLITS if name not in splits]
    problems = [refusal("the splits train, val and test", f"no {name}", do) for name in missing]
    for name, (images, labels) in splits.items():
        shape = (len(labels), *spec.shape)
        if images.dtype != torch.uint8 or tuple(images.shape) != shape or not len(labels):
            got = f"{images.dtype} {tuple(images.shape)}"
            problems.append(refusal(f"{name}.images to be torch.uint8 {shape}, not empty", got, do))
        legal = f"{name}.labels to be whole numbers in one row, from 0 to {spec.num_classes - 1}"
        if labels.ndim != 1 or labels.is_floating_point():
            problems.append(refusal(legal, f"{labels.dtype} {tuple(labels.shape)}", do))
        elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < spec.num_classes:
            problems.append(refusal(legal, f"{int(labels.min())} to {int(labels.max())}", do))
    if problems:
        raise InputError(*problems)
    return {
        name: Split(split.images.cpu().contiguous(), split.labels.cpu().to(torch.int64).contiguous())
        for name, split in splits.items()
    }


def _of_splits(splits: Mapping[str, Split]) -> dict[str, str]:
    return {name: _split_digest(split) for name, split in splits.items()}


def _split_digest(split: Split) -> str:
    images, labels = split.images.flatten().numpy(), split.labels.numpy()
    shape = tuple(split.images.shape)
    total = hashlib.sha256(f"{images.dtype} {shape} {labels.dtype}\n".encode())
    total.update(images.data)
    total.update(labels.astype("<i8", copy=False).data)  # the same on machines of either byte order
    return total.hexdigest()


def _checksum(path: Path, splits: Mapping[str, Split]) -> str:
    """What files without digests are checked by; written still, for versions that know only this."""
    total = hashlib.sha256(path.name.encode())
    for name, (images, labels) in splits.items():
        total.update(f"{name} {images.dtype} {tuple(images.shape)} {labels.dtype}".encode())
        total.update(images.flatten().numpy().data)
        total.update(labels.numpy().data)
    return total.hexdigest()


def _attempt(path: Path) -> _Opened | Exception:
    try:
        return _open(path)
    except Exception as problem:  # altered bytes can break any layer: Arrow, UTF-8, JSON, the shapes
        return problem


def _open(path: Path) -> _Opened:
    reader = _reader(path)
    notes = json.loads(reader.schema.metadata[_NOTES])
    splits = {name: _mapped(reader.get_batch(i)) for i, name in enumerate(notes["splits"])}
    digests = _of_splits(splits) if "digests" in notes else None
    if digests is None:
        intact = notes["sha256"] == _checksum(path, splits)
    else:
        intact = (notes["file"], notes["digests"]) == (path.name, digests)
    if not intact:
        raise ValueError("its content does not match its checksum")
    return _Opened(splits, digests)


def _notes(path: Path) -> bytes:
    notes: bytes = _reader(path).schema.metadata[_NOTES]
    return notes


def _reader(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _mapped(batch: pa.RecordBatch) -> Split:
    """Views of one record batch, without a copy."""
    images, labels = batch.column("images"), batch.column("labels")
    return Split(_view(images.to_numpy_ndarray()), _view(labels.to_numpy(zero_copy_only=True)))


def _view(array: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _write(path: Path, splits: Mapping[str, Split]) -> None:
    notes = {
        "splits": list(splits),
        "sha256": _checksum(path, splits),
        "file": path.name,
        "digests": _of_splits(splits),
    }
    batches = [_batch(split) for split in splits.values()]
    schema = batches[0].schema.with_metadata({_NOTES: json.dumps(notes)})
    with replacing(path) as temporary, temporary.open("xb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _batch(split: Split) -> pa.RecordBatch:
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(split.images.numpy())
    return pa.record_batch({"images": images, "labels": pa.array(split.labels.numpy())})
