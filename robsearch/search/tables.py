"""A search as tables: one row per trial, one row per epoch, read from the storage and the trials'
folders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from robsearch.errors import refused
from robsearch.laws import Point
from robsearch.metrics import LAM, MEASURE_SECONDS, TEST_ROBUST, VAL_NATURAL, VALUE, Metrics
from robsearch.printing import printable
from robsearch.search.strongest import STRONGEST, ladder_of, strongest
from robsearch.study import (
    COLUMN,
    RecordedTrial,
    SearchRecord,
    Storage,
    dropped_trials,
    is_number,
    recorded_trials,
)
from robsearch.training.costs import COLUMNS, Cost, cost_of
from robsearch.trials.files import read_parquet, replacing, unless_damaged
from robsearch.trials.kept_histories import KeptHistories
from robsearch.trials.ladder.results import ladder_metrics
from robsearch.trials.loading import MeasuredTrials, read_test
from robsearch.trials.provenance import read_attempts
from robsearch.trials.selection import candidates, has_collapsed, sound

DROPPED = "DROPPED"
"""The state, in the tables, of a trial that ended and that a person took out of the results; the
storage has its own."""
TRIAL_COLUMNS = [
    "trial",
    "width",
    "number",
    "replicate",
    "control",
    "rung",
    "state",
    "suggestion",
    "feasible",
    "collapsed",
    "choices",
    "lam",
    "value",
    "best_epoch",
    "epochs",
    "recipe_epochs",
    "seconds",
    "gpu_seconds",
    "failed_seconds",
    "reason",
    "seed",
    "recipe",
    *STRONGEST,
]
SHOWN_AT_A_GLANCE = {TEST_ROBUST, "test/epoch", MEASURE_SECONDS}
"""The columns of a measured trial where a search is only glanced at."""
EPOCH_COLUMNS = ["trial", "width", "control", "rung", "epoch", "time", LAM, VALUE]


def load_tables(
    storage: Storage, record: SearchRecord, trials: Path, *, brief: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and the epochs of a search.

    Args:
        storage: that it is in.
        record: of the search.
        trials: the folder of the trials' folders.
        brief: whether the epochs are left out of trials whose end the storage tells. Of their best
            epoch the first table then has the rates that the storage has, and of what was measured
            ``SHOWN_AT_A_GLANCE``.
    """
    rows: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    dropped = dropped_trials(storage, record.name)
    measured = MeasuredTrials(trials)
    histories = KeptHistories(trials, is_used=not brief)
    for row in recorded_trials(storage, record):
        folder = trials / row["trial"]
        if row["trial"] in dropped:
            row |= {"state": DROPPED, "reason": dropped[row["trial"]]}
        recorded: RecordedTrial = row.pop("recorded")
        history = [] if brief and recorded.tells_its_end else histories.read(row["trial"])
        test = measured.read(row["trial"]) if brief else read_test(folder)
        ladder = ladder_of(folder)
        shared = {name: row[name] for name in ("trial", "width", "control", "rung")}
        epochs += [{**shared, **entry} for entry in history]
        if recorded.epochs > len(history):  # what is left of a damaged history
            row |= _from_storage(recorded, history)
        else:
            row |= _from_history(history)
        row["recipe_epochs"] = recorded.recipe_epochs or _epochs_of_attempt(folder)
        row["commonest"] = recorded.commonest
        row |= zip(COLUMNS, cost_of(history, test, vars(recorded)), strict=True)
        row |= {name: test[name] for name in SHOWN_AT_A_GLANCE & test.keys()} if brief else test
        if ladder is not None:
            row |= ladder_metrics(ladder)
        figure = strongest(ladder, row, record.setting)
        if figure is not None:
            row |= figure.columns
        rows.append(row)
    measured.keep()
    histories.keep()
    _judge_collapses(rows, trials)
    _name_choices(rows)
    return _frame(rows, TRIAL_COLUMNS), _frame(epochs, EPOCH_COLUMNS)


def table_of(trials: Path, name: str, names: list[str]) -> pa.Table:
    """One of the trials' Parquet tables, of all the named trials that have it, with a first column
    ``trial``.

    Raises:
        InputError: none of them has it; names the tables there are.
    """
    tables = tables_of(trials, name, names)
    if not tables:
        others: set[str] = set()
        for trial in names:
            others.update(file.stem for file in (trials / trial).glob("*.parquet"))
        got = ", ".join(sorted(others)) or "none"
        measured = "measured trials have test, train, layers and histograms"
        do = f"{measured}; ladder comes with `robsearch evaluate`"
        raise refused(f"a measured trial with {name}.parquet", got, do)
    return pa.concat_tables(tables.values(), promote_options="default")


def tables_of(trials: Path, name: str, names: list[str]) -> dict[str, pa.Table]:
    """As ``table_of``, by trial, without those that do not have it; one that is damaged is left out
    with a warning."""
    tables = {}
    for trial in names:
        table = unless_damaged(read_parquet, trials / trial / f"{name}.parquet")
        if table is not None:
            column = pa.array([trial] * table.num_rows, pa.string())
            tables[trial] = table.add_column(0, "trial", column)
    return tables


def searched(trials: pd.DataFrame) -> pd.DataFrame:
    """Without controls and without trials of lower fidelity."""
    return trials[trials["control"].isna() & trials["rung"].isna()]


def spent(trials: pd.DataFrame) -> Cost:
    """What these trials took."""
    sums = [float(trials[name].sum()) if name in trials else 0.0 for name in COLUMNS]
    return Cost(*sums)


def may_be_fitted(trials: pd.DataFrame) -> pd.DataFrame:
    """Finished searched trials with a positive lambda that have not collapsed, whatever choices
    they made."""
    trials = sound(searched(trials))
    complete = (trials["state"] == "COMPLETE") & trials["value"].notna()
    return trials[complete & (trials["lam"] > 0)]


def fitted(trials: pd.DataFrame) -> pd.DataFrame:
    """What the law is fitted from: finished searched trials, never only the best ones, and none
    that has collapsed.

    Of a search with categorical choices those that share the choices of the best trial of all.
    """
    trials = may_be_fitted(trials)
    if trials.empty or "choices" not in trials:
        return trials
    best_first = candidates(trials).sort_values("value", ascending=False, kind="stable")
    alike: pd.DataFrame = trials[trials["choices"] == best_first["choices"].iloc[0]]
    return alike


def points(trials: pd.DataFrame) -> list[Point]:
    """Trials that the law is fitted from, as it takes them."""
    columns = trials[["width", "lam", "value"]]
    return [Point(*row) for row in columns.itertuples(index=False)]


def searched_beside_lam(trials: pd.DataFrame) -> dict[str, list[float]]:
    """The numbers that were searched beside lambda, as far as they vary among these trials: by
    name that of each.

    None where lambda itself was not suggested: what it was made from is no covariate of it. A
    number that some trials were not asked for is left out.
    """
    if f"{COLUMN}lam" not in trials or trials[f"{COLUMN}lam"].isna().any():
        return {}
    numbers = {}
    for column in map(str, trials.columns):
        name = column.removeprefix(COLUMN)
        if column == name or name == "lam":
            continue
        values = trials[column].tolist()
        are_numbers = all(is_number(value) and not math.isnan(value) for value in values)
        if are_numbers and len(set(values)) > 1:
            numbers[name] = [float(value) for value in values]
    return numbers


def _epochs_of_attempt(trial: Path) -> int | None:
    """The epochs of the recipe that an attempt was given, where an older robsearch did not record
    them."""
    for facts in read_attempts(trial):
        epochs = facts["recipe"].get("epochs")
        if isinstance(epochs, int):
            return epochs
    return None


def _judge_collapses(rows: list[dict[str, Any]], trials: Path) -> None:
    """Says of each trial whether it has collapsed.

    The share of the commonest class of ``val`` is recorded with a trial. For those of an older
    robsearch it is that of ``test``, from the labels that measuring wrote down; where there are
    none, no trial counts as collapsed.
    """
    # It is looked for once, and only where a trial needs it: a look reads a Parquet file.
    of_test: float | None = None
    for row in rows:
        natural = row.get(VAL_NATURAL)
        commonest = row.pop("commonest")
        if natural is not None and commonest is None:
            if of_test is None:
                of_test = _commonest_of_test(rows, trials)
            commonest = of_test
        row["collapsed"] = natural is not None and has_collapsed(natural, commonest)


def _commonest_of_test(rows: list[dict[str, Any]], trials: Path) -> float:
    """The share of the commonest class of ``test``; NaN where no trial was measured."""
    labels = labels_of_test(trials, [row["trial"] for row in rows])
    return math.nan if labels is None else float(np.bincount(labels).max() / len(labels))


def labels_of_test(trials: Path, names: Iterable[str]) -> np.ndarray | None:
    """The labels of ``test``, which any measured trial has; None where none was measured."""
    for name in names:
        for table in tables_of(trials, "test", [name]).values():
            labels: np.ndarray = table["label"].to_numpy()
            return labels
    return None


def _name_choices(rows: list[dict[str, Any]]) -> None:
    """Each trial's categorical choices in words, without a parameter that is lambda itself."""
    trained = [row for row in rows if math.isfinite(row["lam"])]
    names = set().union(*(row["choices"] for row in rows))
    lams = set()
    for name in names:
        if all(_is_lam(row["choices"].get(name), row["lam"]) for row in trained):
            lams.add(name)
    for row in rows:
        choices = row["choices"]
        shown = sorted(choices.keys() - lams)
        row["choices"] = ", ".join(f"{name} {choices[name]}" for name in shown)


def _is_lam(choice: object, lam: float) -> bool:
    """Whether a choice is this lambda: 4, or ``lam 4`` as an experiment calls it."""
    try:
        return math.isclose(float(str(choice).removeprefix("lam ")), lam)
    except ValueError:
        return False


def _from_history(history: list[Metrics]) -> dict[str, Any]:
    if not history:
        return {"lam": math.nan, "value": math.nan, "best_epoch": math.nan, "epochs": 0}
    best = max(history, key=lambda entry: entry[VALUE])
    return {
        **_rates(best),
        "lam": history[-1].get(LAM, math.nan),
        "value": best[VALUE],
        "best_epoch": best["epoch"],
        "epochs": len(history),
    }


def _from_storage(recorded: RecordedTrial, history: list[dict[str, float]]) -> dict[str, Any]:
    best = recorded.best_epoch or 0
    return {
        **_rates(history[best - 1] if best <= len(history) else recorded.metrics),
        "value": recorded.metrics[VALUE],
        "lam": recorded.lam,
        "best_epoch": best,
        "epochs": recorded.epochs,
    }


def _rates(facts: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in facts if name.startswith("val/") and name != VALUE]
    return {name: facts[name] for name in names}


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    # Those that each table has come first, also where it has no rows.
    return frame.reindex(columns=list(dict.fromkeys([*columns, *frame.columns])))


def write_csv(table: pd.DataFrame, file: Path) -> None:
    """Writes a table whole or not at all; its words are printable, as people look at it in a
    terminal."""
    shown = table.rename(columns=lambda name: printable(str(name)))
    for name in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[name]):
            shown[name] = shown[name].map(_printable_cell)
    with replacing(file) as unfinished:
        shown.to_csv(unfinished, index=False)


def _printable_cell(cell: object) -> object:
    return printable(cell) if isinstance(cell, str) else cell
