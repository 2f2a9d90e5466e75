"""What is on disk: Parquet files that say in their metadata what they are, and the digests that name them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robsearch.files import content, make_way
from robsearch.protocols import Split

KEY = b"robsearch.ladder"
"""Where a file's metadata tell what it is, as JSON."""

Bools: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.int64]
Facts: TypeAlias = Mapping[str, Any]


class Piece(NamedTuple):
    """What one attack did to one chunk.

    Attributes:
        rows: the images that stood before it, by their place in the split.
        held: which of them stand after it.
        seconds: wall time.
        batch: images at a time that the device's memory did for; the next chunk begins with it.
        device: the name of a GPU, or ``cpu``.
    """

    rows: Indices
    held: Bools
    seconds: float
    batch: int
    device: str


def write_piece(file: Path, piece: Piece, facts: Facts) -> None:
    """Writes a piece, whole or not at all; ``facts`` tell whose it is."""
    measured = {name: getattr(piece, name) for name in ("seconds", "batch", "device")}
    write(file, described(pa.table({"index": piece.rows, "held": piece.held}), {**facts, **measured}))


def read_piece(file: Path, rows: Indices, facts: Facts) -> Piece | None:
    """The piece with these facts about these images; None where there is none, with a warning if it is another."""
    if not file.exists():
        return None
    try:
        table, told = read(file)
        piece = Piece(
            table["index"].to_numpy(), table["held"].to_numpy(), told["seconds"], told["batch"], told["device"]
        )
        if np.array_equal(piece.rows, rows) and facts == {name: told[name] for name in facts}:
            return piece
    except (ValueError, KeyError):
        pass
    warnings.warn(f"{file} is damaged or of another run: it is left out", stacklevel=2)
    return None


def described(table: pa.Table, facts: Facts) -> pa.Table:
    """The table with facts that ``facts_of`` finds."""
    return table.replace_schema_metadata({KEY: json.dumps(facts)})


def write(file: Path, table: pa.Table) -> None:
    """Writes a table, whole or not at all."""
    unfinished = file.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(table, unfinished, write_page_checksum=True)
    make_way(file)
    unfinished.replace(file)


def read(file: Path) -> tuple[pa.Table, Facts]:
    """A table that ``write`` wrote, and its facts.

    Raises:
        ValueError: the file is truncated, altered, or none of ours.
    """
    try:
        table = pq.read_table(pa.BufferReader(content(file)), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return table, facts_of(table)


def facts_of(table: pa.Table) -> Facts:
    """What a table's metadata tell.

    Raises:
        ValueError: nothing that we wrote.
    """
    facts = json.loads((table.schema.metadata or {}).get(KEY, b"null"))
    if not isinstance(facts, dict):
        raise ValueError("the metadata tell nothing")
    return facts


def network_digest(model: nn.Module) -> str:
    """Names a network: its parts in order, its parameters and all its buffers, on whatever device they are."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    parts = [f"{type(part).__module__}.{type(part).__qualname__}" for part in model.modules()]
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    return digest(shown, parts, *itertools.chain.from_iterable((name, tensor) for name, tensor in named))


def split_digest(split: Split) -> str:
    """Names images and labels, on whatever device they are."""
    return digest(split.images, split.labels.long())


def digest(*parts: object) -> str:
    """16 hexadecimal digits from tensors, by type, shape and bytes, and from anything else by its ``repr``."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(repr((part.dtype, tuple(part.shape))).encode())
            found.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            found.update(repr(part).encode())
        found.update(b"\0")
    return found.hexdigest()[:16]
