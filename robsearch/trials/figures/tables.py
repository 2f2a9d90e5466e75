"""What a trial's folder holds for its figures, as data frames; what is not there is left out.

A frame has one row for each measure of a split, or of a layer: ``measure`` (its name), ``split`` or
``layer``, what the file says of it (``kind``, ``unit``, ``norm``, ``source``; empty where it says
nothing), and ``values``, an array of its own in each row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from robsearch.protocols import ABOUT
from robsearch.trials.figures.labels import SPLITS
from robsearch.trials.files import DamagedError, read_json, read_parquet, unless_damaged

Values: TypeAlias = NDArray[np.float64]
Splits: TypeAlias = dict[str, pa.Table]
"""``train`` and ``test``, in this order, or one of them: one row per image."""
STATISTICS: dict[str, Callable[[Values], Any]] = {
    "mean": np.mean,
    "std": np.std,
}
IMAGE_COLUMNS = (
    "measure",
    "split",
    *ABOUT,
    "values",
)
LAYER_COLUMNS = (
    "measure",
    "layer",
    "position",
    *ABOUT,
    "values",
    *STATISTICS,
)


def read_splits(folder: Path) -> Splits:
    """The tables of images that a trial's folder has."""
    tables = {split: unless_damaged(read_parquet, folder / f"{split}.parquet") for split in SPLITS}
    return {split: table for split, table in tables.items() if table is not None}


def read_standings(folder: Path) -> list[dict[str, Any]]:
    """What ``ladder.json`` says of each rung; nothing without that file."""
    return unless_damaged(_standings, folder / "ladder.json") or []


def _standings(file: Path) -> list[dict[str, Any]]:
    facts = read_json(file)
    standings = facts.get("standings") if isinstance(facts, dict) else None
    if isinstance(standings, list) and all(isinstance(rung, dict) for rung in standings):
        return standings
    raise DamagedError(file, "has no standings")


def column(table: pa.Table, name: str) -> Values | None:
    """A column's numbers, NaN where it is null; None where there is none, or nothing in it."""
    if name not in table.column_names:
        return None
    values = np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)
    return values if np.isfinite(values).any() else None


def by_split(splits: Splits, family: str) -> pd.DataFrame:
    """The columns ``family/...`` that hold any finite number, split by split.

    ``values`` are in the order of the images, without those that the measure was not taken on.
    """
    rows = []
    for split, table in splits.items():
        for field in table.schema:
            if not field.name.startswith(f"{family}/"):
                continue
            values = column(table, field.name)
            if values is None:
                continue
            metadata = field.metadata or {}
            row = {name: metadata.get(name.encode(), b"").decode() for name in ABOUT}
            row["measure"] = field.name
            row["split"] = split
            row["values"] = values[~np.isnan(values)]
            rows.append(row)
    return pd.DataFrame(rows, columns=IMAGE_COLUMNS)


def by_layer(layers: pa.Table | None, *families: str, of_whole_model: bool = False) -> pd.DataFrame:
    """The measures ``family/...`` of each layer in the model's order, or those of the whole model.

    There are also the ``mean`` and ``std`` of the values. Where a file lacks them they are computed
    from the values. A file may also have these two and no values; rows without a mean are left out.
    """
    if layers is None:
        return pd.DataFrame(columns=LAYER_COLUMNS)
    rows: pd.DataFrame = layers.to_pandas().reindex(columns=LAYER_COLUMNS)
    prefixes = tuple(f"{family}/" for family in families)
    is_of_family = rows["measure"].str.startswith(prefixes)
    rows = rows[is_of_family].reset_index(drop=True)
    texts = ["layer", *ABOUT]
    rows[texts] = rows[texts].astype(object).fillna("")
    # Without positions the rows of the file are in the model's order.
    positions = rows["position"].astype(float)
    rows["position"] = positions.fillna(rows.index.to_series())
    rows["values"] = rows["values"].map(_finite)
    for name, statistic in STATISTICS.items():
        computed = [statistic(values) if len(values) else np.nan for values in rows["values"]]
        recorded = rows[name].astype(float)
        rows[name] = np.where(np.isfinite(recorded), recorded, computed)
    # The name of the whole model is empty.
    is_wanted = (rows["layer"] == "") == of_whole_model
    rows = rows[is_wanted].dropna(subset="mean")
    return rows.sort_values("position", kind="stable")


def _finite(cell: Any) -> Values:
    """The finite numbers of a cell of ``values``, which may be null."""
    values = np.asarray([] if np.ndim(cell) == 0 else cell, dtype=np.float64)
    return values[np.isfinite(values)]


def some_ranks(n: int, most: int) -> NDArray[np.int64]:
    """At most so many of ``n`` ranks, spread evenly: the first and the last are among them."""
    drawn = np.linspace(0, max(n - 1, 0), min(n, most))
    return np.unique(drawn.round().astype(np.int64))
