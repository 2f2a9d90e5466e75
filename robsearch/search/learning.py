"""Where a space learns from: the finished trials of other searches, or tables of such trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robsearch.errors import InputError, refusal
from robsearch.search.result import Place
from robsearch.spaces import Space
from robsearch.study import Found, SearchRecord, Storage, bring_in, found_in


def found(space: Space, place: Place) -> list[Found]:
    """The finished trials that ``space.learn_from`` names.

    Raises:
        InputError: no such search or table, other metrics, or missing columns; all at once.
    """
    trials: list[Found] = []
    problems: list[str] = []
    for source in space.learn_from:
        try:
            trials += _table(Path(source), space.maximise) if source.endswith(".csv") else _search(source, space, place)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    return trials


def teach(
    storage: Storage,
    search: str,
    space: Space,
    trials: Sequence[Found],
    known: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Makes a new search's samplers know finished trials, and says how many of them fit (see ``study.bring_in``)."""
    if trials:
        fitting = bring_in(storage, search, space, trials, known)
        say(f"samplers know {fitting} of {len(trials)} trials from elsewhere")


def _search(name: str, space: Space, place: Place) -> list[Found]:
    storage = place.open(name)
    SearchRecord.load(storage, name)
    return list(found_in(storage, name, space.maximise))


def _table(file: Path, metrics: Sequence[str]) -> list[Found]:
    try:
        rows = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise InputError(refusal(f"a table to learn from, {file}", error, "mend learn_from")) from error
    if len(metrics) == 1:
        rows = rows.rename(columns={"value": metrics[0]})
    needed = ["width", *metrics]
    if missing := [name for name in needed if name not in rows]:
        got = f"{', '.join(rows.columns)}"
        raise InputError(refusal(f"columns {', '.join(needed)} in {file}", got, f"add {', '.join(missing)}"))
    params = [name for name in rows.columns if name not in needed]
    whole = rows.dropna(subset=needed).astype(dict.fromkeys(needed, float))
    records: list[dict[str, Any]] = whole.to_dict("records")  # type: ignore[assignment]  # columns have text names
    return [
        Found(
            row["width"],
            {name: row[name] for name in params if pd.notna(row[name])},
            tuple(row[metric] for metric in metrics),
            str(file),
        )
        for row in records
    ]
