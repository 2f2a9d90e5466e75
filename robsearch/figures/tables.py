"""What a trial's folder holds for its figures, read into plain arrays; what is not there is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robsearch.files import DamagedError, read_json, read_parquet, unless_damaged

Values: TypeAlias = NDArray[np.float64]
Splits: TypeAlias = Mapping[str, pa.Table]
"""``train`` and ``test``, or one of them: one row per image."""


class Tables(NamedTuple):
    """A trial's folder: what was measured per image, per layer and per rung of the ladder."""

    splits: dict[str, pa.Table]
    layers: pa.Table | None
    ladder: list[dict[str, Any]]


class About(NamedTuple):
    """Kind, unit, norm and source as they stand in the file; empty where they do not."""

    kind: str = ""
    unit: str = ""
    norm: str = ""
    source: str = ""


class Column(NamedTuple):
    """One measure of one split: its values in the order of the images, without those it was not taken on."""

    name: str
    about: About
    values: Values


class LayerRow(NamedTuple):
    """One measure of one layer: all its values, or none where only ``mean`` and ``std`` were kept."""

    measure: str
    layer: str
    about: About
    values: Values
    mean: float
    std: float


def read(folder: Path) -> Tables:
    """The files of a trial's folder that are there; of those that are damaged a warning tells."""
    splits = {name: unless_damaged(read_parquet, folder / f"{name}.parquet") for name in ("train", "test")}
    return Tables(
        {name: table for name, table in splits.items() if table is not None},
        unless_damaged(read_parquet, folder / "layers.parquet"),
        unless_damaged(_standings, folder / "ladder.json") or [],
    )


def _standings(file: Path) -> list[dict[str, Any]]:
    found = read_json(file)
    standings = found.get("standings") if isinstance(found, dict) else None
    if not isinstance(standings, list) or not all(isinstance(each, dict) for each in standings):
        raise DamagedError(file, "has no standings")
    return standings


def column(table: pa.Table, name: str) -> Values | None:
    """A column's numbers, NaN where it is null; None where there is none, or nothing in it."""
    if name not in table.column_names:
        return None
    values = np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)
    return values if np.isfinite(values).any() else None


def columns(splits: Splits, family: str) -> dict[str, dict[str, Column]]:
    """By measure and then by split, the columns ``family/...`` that hold any finite number."""
    found: dict[str, dict[str, Column]] = {}
    for split, table in splits.items():
        for field in table.schema:
            values = column(table, field.name) if field.name.startswith(f"{family}/") else None
            if values is not None:
                kept = Column(field.name, _about(field.metadata or {}), values[~np.isnan(values)])
                found.setdefault(field.name, {})[split] = kept
    return found


def _about(metadata: Mapping[bytes, bytes]) -> About:
    return About(*(metadata.get(key.encode(), b"").decode() for key in About._fields))


def by_layer(layers: pa.Table | None, family: str) -> dict[str, list[LayerRow]]:
    """By measure ``family/...`` its layers in the model's order, those without any finite number left out."""
    found: dict[str, list[LayerRow]] = {}
    for row in _rows(layers, family):
        if row.layer and np.isfinite(row.mean):
            found.setdefault(row.measure, []).append(row)
    return found


def whole_model(layers: pa.Table | None, family: str) -> list[LayerRow]:
    """The rows ``family/...`` that speak of the whole model."""
    return [row for row in _rows(layers, family) if not row.layer and np.isfinite(row.mean)]


def _rows(layers: pa.Table | None, family: str) -> Iterator[LayerRow]:
    if layers is None:
        return
    kept = {name: layers[name].to_pylist() for name in layers.column_names if name != "values"}
    places = kept.get("position") or list(range(len(layers)))
    for i in sorted(range(len(layers)), key=lambda i: (places[i] is None, places[i] or 0)):
        if kept["measure"][i].startswith(f"{family}/"):
            about = About(*(str((kept.get(key) or {i: None})[i] or "") for key in About._fields))
            values = _values(layers, i)
            mean, std = (_statistic(kept, key, i, values) for key in ("mean", "std"))
            yield LayerRow(kept["measure"][i], kept["layer"][i] or "", about, values, mean, std)


def _values(layers: pa.Table, row: int) -> Values:
    held = layers["values"][row].values if "values" in layers.column_names else None
    values = np.asarray([] if held is None else held.to_numpy(zero_copy_only=False), dtype=np.float64)
    return values[np.isfinite(values)]


def _statistic(kept: Mapping[str, Sequence[Any]], name: str, row: int, values: Values) -> float:
    """As it stands in the file, otherwise from the values; NaN where there is neither."""
    stands = kept[name][row] if name in kept else None
    if stands is not None and np.isfinite(stands):
        return float(stands)
    return float(getattr(values, name)()) if len(values) else float("nan")
