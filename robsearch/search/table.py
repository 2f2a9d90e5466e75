"""The live table: what a person who watches a search sees. On a terminal a table, elsewhere plain lines."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from robsearch.search.driver import Driver
from robsearch.search.frames import searched
from robsearch.search.result import Search
from robsearch.search.turns import Tally

LINE_SECONDS = 30.0
PLACE = re.compile(r" \((traceback|what it saved): .*\)$")
"""The end of a reason that says where to read on."""


@contextlib.contextmanager
def watched(driver: Driver, console: Console) -> Iterator[None]:
    """Shows a search's progress while the body runs."""
    if console.is_terminal:
        with Live(get_renderable=lambda: table(driver), console=console, refresh_per_second=2):
            yield
        return
    ended = threading.Event()
    lines = threading.Thread(target=_lines, args=(driver, console, ended), daemon=True)
    lines.start()
    try:
        yield
    finally:
        ended.set()
        lines.join()


def _lines(driver: Driver, console: Console, ended: threading.Event) -> None:
    while not ended.wait(LINE_SECONDS):
        for label, cells in rows(driver):
            console.print(label, *cells, sep="  ", soft_wrap=True, highlight=False)
        console.print(progress(driver), soft_wrap=True, highlight=False, markup=False)


def table(driver: Driver) -> Table:
    """One row per width."""
    shown = Table(caption=Text(progress(driver)), caption_justify="left")
    shown.add_column("width", justify="right")
    for name in ("running", "done", "pruned", "failed", "best lam", "val robust"):
        shown.add_column(name, justify="right")
    for label, cells in rows(driver):
        shown.add_row(label, *(cell.split()[-1] for cell in cells))
    return shown


def rows(driver: Driver) -> Iterator[tuple[str, list[str]]]:
    """Each study's label, and its cells as ``name value``."""
    for study, tally in driver.turns.tallies.items():
        if study.stage.control is None:
            yield study.label.removeprefix("w"), _cells(tally)
    controls = [tally for study, tally in driver.turns.tallies.items() if study.stage.control is not None]
    if controls:
        states = sum((tally.states for tally in controls), start=type(controls[0].states)())
        yield "controls", _cells(Tally(states))


def _cells(tally: Tally) -> list[str]:
    states = tally.states
    best = (f"{tally.best_lam:.3g}", f"{tally.best_value:.1%}") if tally.best_value is not None else ("-", "-")
    return [
        f"running {states['RUNNING']}",
        f"done {states['COMPLETE']}",
        f"pruned {states['PRUNED']}",
        f"failed {states['FAIL']}",
        f"lam {best[0]}",
        f"robust {best[1]}",
    ]


def progress(driver: Driver) -> str:
    """Trials ended and asked for, time elapsed, time to go, and trouble with the record if there is any."""
    ended, asked = (driver.turns.space.trainings * n for n in (driver.turns.ended, driver.turns.suggestions))
    text = f"{ended} of {asked} trials, elapsed {_clock(time.time() - driver.started)}"
    if (left := _seconds_left(driver)) is not None:
        text += f", about {_clock(left)} to go"
    trouble = driver.recorder.tracker.trouble
    return f"{text}; {trouble} (training goes on)" if trouble else text


def _seconds_left(driver: Driver) -> float | None:
    tallies = driver.turns.tallies
    known = [tally for tally in tallies.values() if tally.seconds]
    ended = sum(tally.taken - tally.states["RUNNING"] + tally.states["FAIL"] for tally in known)
    if not ended:
        return None
    mean = sum(tally.seconds for tally in known) / ended
    controls = [tally for study, tally in tallies.items() if study.stage.control is not None]
    to_do = driver.turns.suggestions - driver.turns.ended
    to_do += sum(1 for tally in controls if not tally.states["COMPLETE"])
    return max(0.0, mean * to_do / driver.parallel)


def status_lines(search: Search) -> Iterator[Table | Text | str]:
    """A search as the storage knows it, with or without a driver at work; a ``str`` is not to be wrapped."""
    shown = Table(title=f"{search.name} ({search.space})", title_justify="left")
    for name in ("width", "running", "done", "pruned", "failed", "best lam", "val robust"):
        shown.add_column(name, justify="right")
    full = searched(search.trials)
    for width in search.widths:
        of_width = full[full["width"] == width]
        tally = Tally(Counter(of_width["state"]))
        if (best := search.best(width)) is not None:
            tally.best_value, tally.best_lam = best["value"], best["lam"]
        shown.add_row(f"{width:g}", *(cell.split()[-1] for cell in _cells(tally)))
    yield shown
    yield f"{search.ended} of {search.record.trials} trials ended"
    for _, trial in search.trials[search.trials["state"] == "FAIL"].iterrows():
        yield from _failure(trial["trial"], str(trial["reason"]), search.folder / "trials" / trial["trial"])
    yield Text(search.ridge.sentence())


def _failure(trial: str, reason: str, folder: Path) -> Iterator[Text | str]:
    """Why a trial failed, and on a line of its own where to read on: its traceback, else what it saved, if anything."""
    first_line, *more = PLACE.sub("", reason).splitlines() or [""]
    yield Text(f"{trial} failed: {first_line}{' ...' if more else ''}")
    written = sorted(folder.glob("a*/error.txt"), key=lambda file: file.stat().st_mtime)
    if written or folder.exists():
        yield escape(f"  traceback: {written[-1]}" if written else f"  saved: {folder}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
