"""A search as tables: one row per trial, one row per epoch, read from the storage and the trials' folders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from robsearch.checkpoints import read_history
from robsearch.costs import COLUMNS, Cost, cost_of
from robsearch.errors import InputError, refusal
from robsearch.files import read_parquet, unless_damaged
from robsearch.laws import Point
from robsearch.provenance import read_attempts
from robsearch.search.strongest import STRONGEST, ladder_of, strongest
from robsearch.selection import candidates, has_collapsed, sound
from robsearch.study import SearchRecord, Storage, recorded_trials
from robsearch.trainer import VALUE
from robsearch.trial import ladder_metrics, read_test

NATURAL = "val/natural_accuracy"
TRIAL_COLUMNS = [
    "trial", "width", "number", "replicate", "control", "rung", "state", "suggestion", "feasible", "collapsed",
    "choices", "lam", "value", "best_epoch", "epochs", "recipe_epochs", "seconds", "gpu_seconds", "failed_seconds",
    "reason", "seed", "recipe", *STRONGEST,
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
        facts["recipe_epochs"] = told.get("recipe_epochs") or _attempted(trials / facts["trial"])
        facts["commonest"] = told.get("commonest")
        spent = dict(zip(COLUMNS, cost_of(history, test, told), strict=True))
        ladder = ladder_of(trials / facts["trial"])
        row = {**facts, **known, **spent, **test, **({} if ladder is None else ladder_metrics(ladder))}
        figure = strongest(ladder, row, record.setting)
        rows.append({**row, **(figure.columns if figure else {})})
        keys = {name: facts[name] for name in ("trial", "width", "control", "rung")}
        epochs += [{**keys, **entry} for entry in history]
    _judge_collapses(rows, trials)
    _name_choices(rows)
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


def may_be_fitted(trials: pd.DataFrame) -> pd.DataFrame:
    """Finished searched trials with a positive lambda that have not collapsed, whatever choices they made."""
    found = sound(searched(trials))
    return found[(found["state"] == "COMPLETE") & (found["lam"] > 0)]


def fitted(trials: pd.DataFrame) -> pd.DataFrame:
    """What the law is fitted from: finished searched trials, never only the best ones, and none that has collapsed.

    Of a search with categorical choices those that share the choices of the best trial of all.
    """
    found = may_be_fitted(trials)
    if found.empty or "choices" not in found:
        return found
    best = candidates(found)
    shared = best["choices"].iloc[int(best["value"].argmax())]
    alike: pd.DataFrame = found[found["choices"] == shared]
    return alike


def points(trials: pd.DataFrame) -> list[Point]:
    """The same as the law takes them."""
    found = fitted(trials)
    return [
        Point(width, lam, value) for width, lam, value in zip(found["width"], found["lam"], found["value"], strict=True)
    ]


def _attempted(trial: Path) -> int | None:
    """The epochs of the recipe that an attempt was given, where an older robsearch did not record them."""
    epochs = (facts["recipe"].get("epochs") for facts in read_attempts(trial))
    return next((int(each) for each in epochs if isinstance(each, int)), None)


def _judge_collapses(rows: list[dict[str, Any]], trials: Path) -> None:
    """Says of each trial whether it has collapsed.

    The share of the commonest class of ``val`` is recorded with a trial. For those of an older robsearch it is that of
    ``test``, from the labels that measuring wrote down; where there are none, no trial counts as collapsed.
    """
    stand_in: float | None = None
    for row in rows:
        natural, commonest = row.get(NATURAL), row.pop("commonest")
        if natural is not None and commonest is None:
            stand_in = _commonest_of_test(rows, trials) if stand_in is None else stand_in
            commonest = stand_in
        row["collapsed"] = natural is not None and has_collapsed(natural, commonest)


def _commonest_of_test(rows: list[dict[str, Any]], trials: Path) -> float:
    """The share of the commonest class of ``test``; NaN where no trial was measured."""
    for row in rows:
        for table in tables_of(trials, "test", [row["trial"]]).values():
            labels = table["label"].to_numpy()
            return float(np.bincount(labels).max() / len(labels))
    return math.nan


def _name_choices(rows: list[dict[str, Any]]) -> None:
    """Each trial's categorical choices in words, without a parameter that is lambda itself."""
    trained = [row for row in rows if math.isfinite(row["lam"])]
    names = {name for row in rows for name in row["choices"]}
    is_lam = {name for name in names if all(_says(row["choices"].get(name), row["lam"]) for row in trained)}
    for row in rows:
        made = sorted((name, choice) for name, choice in row["choices"].items() if name not in is_lam)
        row["choices"] = ", ".join(f"{name} {choice}" for name, choice in made)


def _says(choice: object, lam: float) -> bool:
    """Whether a choice is this lambda: 4, or ``lam 4`` as an experiment calls it."""
    try:
        return math.isclose(float(str(choice).removeprefix("lam ")), lam)
    except ValueError:
        return False


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
