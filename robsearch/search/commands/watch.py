"""``--watch``: a look at a search that is taken again as trials report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from robsearch.metrics import TEST_ROBUST
from robsearch.search.result import Search
from robsearch.study.lease import EXPIRE_SECONDS
from robsearch.trials.underway import trainings_underway

SECONDS_BETWEEN = 5.0
SHARE = 5
"""Looking may take a fifth of a core: it is done beside trainings."""
REFRESH_SECONDS = 10
"""How often a browser reads a page again that is being rewritten."""


def looks(look: Callable[[], Search]) -> Iterator[Search]:
    """A search each time something in it has changed, until nobody drives it any more.

    A driver of another machine that has died leaves its lease behind: one that was not renewed for
    ``EXPIRE_SECONDS`` of this process's own clock has ended.

    Args:
        look: reads it.
    """
    seen: object = None
    lease: object = None
    renewed = 0.0
    while True:
        began = time.monotonic()
        search = look()
        driver = search.driver
        if driver is not None and lease != driver:
            lease = driver
            renewed = began
        rests = driver is not None and not driver["alive"] and began - renewed > EXPIRE_SECONDS
        is_over = driver is None or rests
        now = _state_of(search)
        if now != seen or is_over:
            seen = now
            yield search
        if is_over:
            return
        time.sleep(max(SECONDS_BETWEEN, SHARE * (time.monotonic() - began)))


def _state_of(search: Search) -> object:
    """What changes when a trial reports, ends or is measured."""
    trials = search.trials
    # Before the first is measured there is no such column.
    measured = int(trials[TEST_ROBUST].notna().sum()) if TEST_ROBUST in trials else 0
    underway = trainings_underway(trials, search.epochs)
    reached = [(training.trial, training.epoch) for training in underway]
    return list(zip(trials["trial"], trials["state"], strict=True)), reached, measured


def show_anew(
    searches: Iterator[Search],
    parts: Callable[[Search], list[Any]],
    console: Console,
    show: Callable[[list[Any]], None],
) -> None:
    """Shows how a search stands, on a terminal in the same place, elsewhere one after another;
    Ctrl-C ends it.

    Args:
        searches: as they are looked at.
        parts: what is shown of one.
        console: the terminal.
        show: prints parts where there is no terminal.
    """
    with contextlib.suppress(KeyboardInterrupt):
        if not console.is_terminal:
            for search in searches:
                show(parts(search))
            return
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            for search in searches:
                live.update(Group(*parts(search)), refresh=True)


def write_anew(searches: Iterator[Search], write: Callable[[Search, int | None], None]) -> None:
    """Writes a page as a search goes on; Ctrl-C ends it.

    Args:
        searches: as they are looked at.
        write: writes the page of one, to be read again after so many seconds; None: never.
    """
    last = None
    with contextlib.suppress(KeyboardInterrupt):
        for search in searches:
            last = search
            write(search, REFRESH_SECONDS)
    if last is not None:
        # A page that nobody rewrites does not ask to be read again.
        write(last, None)
