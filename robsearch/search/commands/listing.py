"""All searches of a results folder, one row each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.text import Text

from robsearch.errors import InputError
from robsearch.search.grid import Grid, duration
from robsearch.search.result import glance_at
from robsearch.search.results_store import ResultsStore, is_half_made, names_here
from robsearch.study import JOURNAL
from robsearch.training.memory import GIB
from robsearch.trials.disk import size_of
from robsearch.trials.provenance import SEARCH
from robsearch.trials.run_facts import RUN

SIGNS = (JOURNAL, SEARCH, RUN)
"""Files that whoever drives a search writes all the time."""


class ListedSearch(NamedTuple):
    """One search.

    Attributes:
        name: of the search.
        state: ``running``, ``complete``, ``interrupted``, ``half made`` (a launch was ended before
            the search had begun), or ``unreadable``.
        ended: trials that are over, of those asked for.
        asked: for, in all.
        failed: trials.
        best: the trial of the highest value of all widths.
        value: its robust accuracy on ``val``, as a share.
        bytes: of its folder on disk.
        seen: when it was last written to (Unix seconds).
        problem: why it cannot be read.
    """

    name: str
    state: str
    ended: int | None = None
    asked: int | None = None
    failed: int | None = None
    best: str | None = None
    value: float | None = None
    bytes: int = 0
    seen: float | None = None
    problem: str | None = None


def listed_searches(store: ResultsStore) -> list[ListedSearch]:
    """Every search that has a folder in a store; one that cannot be read is among them, with the
    reason."""
    names = set(names_here(store))
    for file in store.results.glob("*/*"):
        if file.name in (JOURNAL, SEARCH) and is_half_made(store, file.parent.name):
            names.add(file.parent.name)
    return [_listed(name, store) for name in sorted(names)]


def _listed(name: str, store: ResultsStore) -> ListedSearch:
    folder = store.folder(name)
    facts: dict[str, Any] = {"bytes": size_of(folder), "seen": _last_seen(folder)}
    if is_half_made(store, name):
        return ListedSearch(name, "half made", **facts)
    try:
        search = glance_at(name, store.results, store.storage)
    except InputError as error:
        return ListedSearch(name, "unreadable", problem="; ".join(error.problems), **facts)
    driver = search.driver
    if driver is not None:
        state = "running"
        facts["seen"] = driver["renewed"]
    elif search.ended >= search.record.trials and not search.unfinished:
        state = "complete"
    else:
        state = "interrupted"
    best = max(search.bests, key=lambda trial: float(trial["value"]), default=None)
    if best is not None:
        facts |= {"best": str(best["trial"]), "value": float(best["value"])}
    failed = int((search.trials["state"] == "FAIL").sum())
    return ListedSearch(name, state, search.ended, search.record.trials, failed, **facts)


def _last_seen(folder: Path) -> float | None:
    times = [(folder / sign).stat().st_mtime for sign in SIGNS if (folder / sign).exists()]
    return max(times, default=None)


def listing_parts(searches: Sequence[ListedSearch]) -> list[Grid | Text]:
    """The list for a person: a table, and beneath what cannot be read."""
    now = time.time()
    heads = ["search", "state", "ended", "failed", "best", "val robust", "on disk", "last seen"]
    rows = []
    for search in searches:
        cells = [
            search.name,
            search.state,
            "-" if search.ended is None else f"{search.ended} of {search.asked}",
            "-" if search.failed is None else f"{search.failed}",
            search.best or "-",
            "-" if search.value is None else f"{search.value:.1%}",
            f"{search.bytes / GIB:.2f} GiB",
            "-" if search.seen is None else f"{duration(max(0.0, now - search.seen))} ago",
        ]
        rows.append(cells)
    parts: list[Grid | Text] = [Grid(heads, rows, left=frozenset({"state", "best"}))]
    unreadable = [search for search in searches if search.problem]
    return [*parts, *(Text(f"{search.name}: {search.problem}") for search in unreadable)]
