"""What is on disk: Parquet files that say in their metadata what they are, and the digests that
name them."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robsearch.trials.files import make_way, read_parquet

KEY = b"robsearch.ladder"
"""Where a file's metadata tell what it is, as JSON."""

MEASURED = ("seconds", "batch", "device")
"""What of a ``ChunkResult`` stands in a file's metadata."""

Bools: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.int64]
Facts: TypeAlias = Mapping[str, Any]


class ChunkResult(NamedTuple):
    """What one attack did to one chunk.

    Attributes:
        rows: the images that stood before it, by their place in the split.
        held: which of them stand after it.
        seconds: wall time.
        batch: images at a time that fitted into the device's memory; the next chunk begins with it.
        device: the name of a GPU, or ``cpu``.
    """

    rows: Indices
    held: Bools
    seconds: float
    batch: int
    device: str


def write_chunk(file: Path, result: ChunkResult, facts: Facts) -> None:
    """Writes what an attack did, whole or not at all; ``facts`` tell whose it is."""
    measured = {name: getattr(result, name) for name in MEASURED}
    table = pa.table({"index": result.rows, "held": result.held})
    write(file, described(table, {**facts, **measured}))


def read_chunk(file: Path, rows: Indices, facts: Facts) -> ChunkResult | None:
    """What an attack did to these images, with these facts; None where there is none, with a
    warning if the file is another.

    The file may tell of more images, of a ladder with fewer attacks before this one: what becomes
    of an image does not depend on those beside it.
    """
    if not file.exists():
        return None
    try:
        table, written = read(file)
        index = table["index"].to_numpy()
        same = {name: written[name] for name in facts} == facts
        if same and np.isin(rows, index).all():
            held = table["held"].to_numpy()[np.isin(index, rows)]
            return ChunkResult(rows, held, *(written[name] for name in MEASURED))
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
    table = read_parquet(file)
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
