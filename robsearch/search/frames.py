"""A search as tables: one row per trial, one row per epoch, read from the storage and the trials' folders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from robsearch.checkpoints import read_history
from robsearch.costs import COLUMNS, Cost, cost_of
from robsearch.errors import InputError, refusal
from robsearch.files import read_parquet, unless_damaged
from robsearch.laws import Point
from robsearch.search.strongest import STRONGEST, ladder_figures, strongest
from robsearch.study import SearchRecord, Storage, recorded_trials
from robsearch.trainer import VALUE
from robsearch.trial import read_test

TRIAL_COLUMNS = [
    "trial", "width", "number", "replicate", "control", "rung", "state", "suggestion", "feasible", "lam", "value",
    "best_epoch", "epochs", "seconds", "gpu_seconds", "failed_seconds", "reason", "seed", "recipe",
    *STRONGEST,
]  # fmt: skip
EPOCH_COLUMNS = ["trial", "width", "control", "rung", "epoch", "time", "train/lam", VALUE]


def frames(storage: Storage, record: SearchRecord, trials: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and the epochs of a search."""
    rows: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    for facts in recorded_trials(storage, record):
        history, told = read_history(trials / facts["trial"]), facts.pop("facts")
        cut = told.get("epochs", 0) > len(history)  # what is left of a damaged one
        known = _from_storage(told, history) if cut else _from_history(history)
        test = read_test(trials / facts["trial"])
        spent = dict(zip(COLUMNS, cost_of(history, test, told), strict=True))
        row = {**facts, **known, **spent, **test, **ladder_figures(trials / facts["trial"])}
        figure = strongest(trials / facts["trial"], row, record.setting)
        rows.append({**row, **(figure.columns if figure else {})})
        keys = {name: facts[name] for name in ("trial", "width", "control", "rung")}
        epochs += [{**keys, **entry} for entry in history]
    return _frame(rows, TRIAL_COLUMNS), _frame(epochs, EPOCH_COLUMNS)


def table_of(trials: Path, name: str, names: list[str]) -> pa.Table:
    """One of the trials' Parquet tables, of all the named trials that have it, with a first column ``trial``.

    Raises:
        InputError: none of them has it; names the tables there are.
    """
    found = tables_of(trials, name, names)
    if not found:
        known = sorted({file.stem for trial in names for file in (trials / trial).glob("*.parquet")})
        do = "measured trials have test, train, layers and histograms; ladder comes with `robsearch evaluate`"
        raise InputError(refusal(f"a measured trial with {name}.parquet", ", ".join(known) or "none", do))
    return pa.concat_tables(found.values(), promote_options="default")


def tables_of(trials: Path, name: str, names: list[str]) -> dict[str, pa.Table]:
    """As ``table_of``, by trial, without those that do not have it; one that is damaged is left out with a warning."""
    read = {trial: unless_damaged(read_parquet, trials / trial / f"{name}.parquet") for trial in names}
    return {
        trial: table.add_column(0, "trial", pa.array([trial] * table.num_rows, pa.string()))
        for trial, table in read.items()
        if table is not None
    }


def searched(trials: pd.DataFrame) -> pd.DataFrame:
    """Without controls and without trials of lower fidelity."""
    return trials[trials["control"].isna() & trials["rung"].isna()]


def spent(trials: pd.DataFrame) -> Cost:
    """What these trials took."""
    return Cost(*(float(trials[name].sum()) if name in trials else 0.0 for name in COLUMNS))


def points(trials: pd.DataFrame) -> list[Point]:
    """What the law is fitted from: every finished searched trial, never only the best ones."""
    found = searched(trials)
    found = found[(found["state"] == "COMPLETE") & (found["lam"] > 0)]
    return [
        Point(width, lam, value) for width, lam, value in zip(found["width"], found["lam"], found["value"], strict=True)
    ]


def _from_history(history: list[dict[str, float]]) -> dict[str, Any]:
    if not history:
        return {"lam": math.nan, "value": math.nan, "best_epoch": math.nan, "epochs": 0}
    best = max(history, key=lambda entry: entry[VALUE])
    return {
        **_rates(best),
        "lam": history[-1].get("train/lam", math.nan),
        "value": best[VALUE],
        "best_epoch": best["epoch"],
        "epochs": len(history),
    }


def _from_storage(told: dict[str, Any], history: list[dict[str, float]]) -> dict[str, Any]:
    best = int(told["best_epoch"])
    rates = _rates(history[best - 1]) if best <= len(history) else _rates(told)
    return {**rates, "value": told[VALUE], **{name: told[name] for name in ("lam", "best_epoch", "epochs")}}


def _rates(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name.startswith("val/") and name != VALUE}


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    first = [*columns, *(name for name in frame.columns if name not in columns)]
    return frame.reindex(columns=first)
