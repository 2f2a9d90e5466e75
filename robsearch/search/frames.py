"""A search as tables: one row per trial, one row per epoch, read from the storage and the trials' folders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from robsearch.checkpoints import read_history
from robsearch.errors import InputError, refusal
from robsearch.laws import Point
from robsearch.study import SearchRecord, Storage, recorded_trials
from robsearch.trainer import VALUE
from robsearch.trial import read_test

TRIAL_COLUMNS = [
    "trial", "width", "number", "replicate", "control", "rung", "state", "suggestion", "feasible", "lam", "value",
    "best_epoch", "epochs", "seconds", "reason", "seed", "recipe",
]  # fmt: skip
EPOCH_COLUMNS = ["trial", "width", "control", "rung", "epoch", "time", "train/lam", VALUE]


def frames(storage: Storage, record: SearchRecord, trials: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and the epochs of a search."""
    rows: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    for facts in recorded_trials(storage, record):
        history = read_history(trials / facts["trial"])
        rows.append({**facts, **_from_history(history), **read_test(trials / facts["trial"])})
        keys = {name: facts[name] for name in ("trial", "width", "control", "rung")}
        epochs += [{**keys, **entry} for entry in history]
    return _frame(rows, TRIAL_COLUMNS), _frame(epochs, EPOCH_COLUMNS)


def table_of(trials: Path, name: str, names: list[str]) -> pa.Table:
    """One of the trials' Parquet tables, of all the named trials that have it, with a first column ``trial``.

    Raises:
        InputError: none of them has it; names the tables there are.
    """
    files = {trial: trials / trial / f"{name}.parquet" for trial in names}
    found = [_marked(trial, pq.read_table(file)) for trial, file in files.items() if file.exists()]
    if not found:
        known = sorted({file.stem for trial in names for file in (trials / trial).glob("*.parquet")})
        do = "measured trials have test, train, layers and histograms; ladder comes with `robsearch evaluate`"
        raise InputError(refusal(f"a measured trial with {name}.parquet", ", ".join(known) or "none", do))
    return pa.concat_tables(found, promote_options="default")


def _marked(trial: str, table: pa.Table) -> pa.Table:
    return table.add_column(0, "trial", pa.array([trial] * table.num_rows, pa.string()))


def searched(trials: pd.DataFrame) -> pd.DataFrame:
    """Without controls and without trials of lower fidelity."""
    return trials[trials["control"].isna() & trials["rung"].isna()]


def points(trials: pd.DataFrame) -> list[Point]:
    """What the law is fitted from: every finished searched trial, never only the best ones."""
    found = searched(trials)
    found = found[(found["state"] == "COMPLETE") & (found["lam"] > 0)]
    return [
        Point(width, lam, value) for width, lam, value in zip(found["width"], found["lam"], found["value"], strict=True)
    ]


def _from_history(history: list[dict[str, float]]) -> dict[str, Any]:
    if not history:
        return {"lam": math.nan, "value": math.nan, "best_epoch": math.nan, "epochs": 0, "seconds": 0.0}
    best = max(history, key=lambda entry: entry[VALUE])
    return {
        **{name: value for name, value in best.items() if name.startswith("val/") and name != VALUE},
        "lam": history[-1]["train/lam"],
        "value": best[VALUE],
        "best_epoch": best["epoch"],
        "epochs": len(history),
        "seconds": sum(entry["time/epoch_seconds"] for entry in history),
    }


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    first = [*columns, *(name for name in frame.columns if name not in columns)]
    return frame.reindex(columns=first)
