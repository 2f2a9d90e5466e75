"""The live table: what a person who watches a search sees. On a terminal a table, elsewhere plain lines."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from robsearch.costs import Cost, total
from robsearch.naming import names_of
from robsearch.search.driver import Driver
from robsearch.search.frames import NATURAL, searched, spent
from robsearch.search.grid import Grid
from robsearch.search.place import Place
from robsearch.search.remaining import time_left
from robsearch.search.result import Search
from robsearch.search.strongest import strongest_text
from robsearch.selection import collapsed_among
from robsearch.study import Failures, failures_of, living_owner, others_than_lam, params_of, params_text
from robsearch.wording import counted

LINE_SECONDS = 30.0
"""In a log, how often rows that have changed are said again."""
QUIET_SECONDS = 600.0
"""In a log, after how long without a change the search is said to go on."""
NAMES_SHOWN = 3


class Row(NamedTuple):
    """One width, one of its rungs, or all controls.

    ``states`` counts suggestions by Optuna's name for their state, or as INTERRUPTED; ``value`` is the best robust
    accuracy on ``val``, as a share, ``params`` what Optuna suggested there; the seconds are those of ``costs.Cost``.
    """

    label: str
    states: Counter[str]
    lam: float | None = None
    value: float | None = None
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    measure_seconds: float = 0.0
    failed_seconds: float = 0.0
    params: Mapping[str, Any] = {}

    def cells(self, gpu: bool, going: str = "running") -> dict[str, str]:
        """What is shown, by the head of its column; ``going`` is what a trial does that has not ended."""
        states = self.states
        return {
            going: f"{states[going.upper()]}",
            "done": f"{states['COMPLETE']}",
            "pruned": f"{states['PRUNED']}",
            "failed": f"{states['FAIL']}",
            "best lam": "-" if self.lam is None else f"{self.lam:.3g}",
            "val robust": "-" if self.value is None else f"{self.value:.1%}",
            "GPU time" if gpu else "trained": duration(self.gpu_seconds if gpu else self.seconds),
        }


@contextlib.contextmanager
def watched(driver: Driver, console: Console) -> Iterator[None]:
    """Shows a search's progress while the body runs."""
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(get_renderable=lambda: live_table(driver), console=console, refresh_per_second=2):
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
    said, when = set[str](), time.monotonic()
    while not ended.wait(LINE_SECONDS):
        lines = list(row_lines(driver))
        changed = [line for line in lines if line not in said]
        if changed or time.monotonic() - when >= QUIET_SECONDS:
            said, when = set(lines), time.monotonic()
            for line in [*changed, progress(driver)]:
                console.print(line, soft_wrap=True, highlight=False, markup=False)


def row_lines(driver: Driver) -> Iterator[str]:
    """The rows as lines of a log: ``width 16  running 2  done 31 ...``."""
    rows = list(live_rows(driver))
    gpu = any(row.gpu_seconds for row in rows)
    for row in rows:
        head = row.label if row.label == "controls" else f"width {row.label}"
        more = [f"best {params_text({name: value})}" for name, value in others_than_lam(row.params).items()]
        yield "  ".join([head, *(f"{name} {cell}" for name, cell in row.cells(gpu).items()), *more])


def live_table(driver: Driver) -> Group:
    """One row per width and rung, under what is known of the whole."""
    return Group(*_table(live_rows(driver), Text(progress(driver), style="default")))


def _table(rows: Iterable[Row], title: Text | None = None) -> Iterator[Grid | Text]:
    """The title stands above, because a low terminal cuts off what is below; the parameters of the best beneath."""
    rows = list(rows)
    gpu = any(row.gpu_seconds for row in rows)
    going = "interrupted" if any("INTERRUPTED" in row.states for row in rows) else "running"
    heads = list(Row("", Counter()).cells(gpu, going))
    yield Grid(["width", *heads], [[row.label, *row.cells(gpu, going).values()] for row in rows], title)
    for row in rows:
        if others_than_lam(row.params):
            yield Text(f"best at {row.label}: {params_text(row.params)}")


def live_rows(driver: Driver) -> Iterator[Row]:
    """Each searched study, in the order in which they stand; then the controls, together."""
    tallies = driver.turns.tallies
    for study, tally in tallies.items():
        if study.stage.control is None:
            order, lam, params = tally.best or (None, None, {})
            label = study.label.removeprefix("w")
            yield Row(label, tally.states, lam, order and order.value, *tally.total, params)
    controls = [tally for study, tally in tallies.items() if study.stage.control is not None]
    if controls:
        states = sum((tally.states for tally in controls), start=Counter[str]())
        yield Row("controls", states, None, None, *total(tally.total for tally in controls))


def progress(driver: Driver) -> str:
    """Trials ended and asked for, time elapsed, time to go, and trouble with the record if there is any."""
    ended, asked = (driver.turns.space.trainings * n for n in (driver.turns.ended, driver.turns.suggestions))
    text = f"{ended} of {counted(asked, 'trial')}, elapsed {_clock(time.time() - driver.started)}"
    if (left := time_left(driver)) is not None:
        text += f", {'about' if left.known else 'at least'} {_clock(left.seconds)} to go"
    trouble = driver.recorder.tracker.trouble
    return f"{text}; {trouble} (training goes on)" if trouble else text


def status_rows(search: Search) -> Iterator[Row]:
    """The same from the storage: each width, its rungs, and the controls; without a driver, nothing runs."""
    trials = search.trials
    if (
        search.unfinished
        and living_owner(Place(search.folder.parent, search.storage).open(search.name), search.name) is None
    ):
        trials = trials.assign(state=trials["state"].replace("RUNNING", "INTERRUPTED"))
    full = searched(trials)
    names = names_of(search.widths)
    for width in search.widths:
        best = search.best(width)
        lam, value = (None, None) if best is None else (float(best["lam"]), float(best["value"]))
        params = {} if best is None else params_of(best)
        yield _row(search, names[width], full[full["width"] == width], lam, value)._replace(params=params)
    lower = trials[trials["rung"].notna()]
    labels = [f"{names[width]}-{rung}" for width, rung in zip(lower["width"], lower["rung"], strict=True)]
    for label, own in lower.assign(label=labels).groupby("label", sort=False):
        yield _row(search, str(label), own)
    controls = trials[trials["control"].notna()]
    if len(controls):
        yield _row(search, "controls", controls)


def _spent_text(cost: Cost) -> str:
    told = f"trained {duration(cost.seconds)}, measured on test {duration(cost.measure_seconds)}"
    if cost.gpu_seconds:
        told += f", GPU time {duration(cost.gpu_seconds)}"
    failed = f"; trials that failed took {duration(cost.failed_seconds)}, with what came after their last epochs"
    return told + failed * (cost.failed_seconds > 0)


def _row(search: Search, label: str, trials: pd.DataFrame, lam: float | None = None, value: float | None = None) -> Row:
    return Row(label, Counter(trials["state"]), lam, value, *spent(trials))


def status_lines(search: Search) -> Iterator[Grid | Text | str]:
    """A search as the storage knows it, with or without a driver at work; a ``str`` is not to be wrapped."""
    yield Text(f"{search.name} ({search.space})", style="bold")
    for width, name in names_of(search.widths).items():
        if (best := search.best(width)) is not None:
            yield Text(f"width {name}: {best['trial']} {strongest_text(search, width)}")
    yield from _table(status_rows(search))
    yield f"{search.ended} of {counted(search.record.trials, 'trial')} ended"
    yield Text(_spent_text(search.cost))
    for failures in failures_of(search.trials):
        yield from _failed(failures, search.folder / "trials")
    yield from _collapsed_lines(search)
    yield Text(search.ridge.sentence())


def _collapsed_lines(search: Search) -> Iterator[Text]:
    """Which nets give nearly all images one class, and what that means."""
    trials = search.trials[collapsed_among(search.trials)]
    if len(trials):
        nets = [f"{trial} (natural {rate:.1%})" for trial, rate in zip(trials["trial"], trials[NATURAL], strict=True)]
        more = f" and {len(nets) - NAMES_SHOWN} more" if len(nets) > NAMES_SHOWN else ""
        gives = "gives" if len(nets) == 1 else "give"
        told = f"collapsed: {', '.join(nets[:NAMES_SHOWN])}{more} {gives} nearly all images one class"
        yield Text(f"{told}; such a net is never the best, and the law leaves it out")
    for width, name in names_of(search.widths).items():
        if why := search.all_collapsed(width):
            yield Text(f"width {name}: {why}")


def _failed(failures: Failures, folder: Path) -> Iterator[Text | str]:
    """Why trials failed, with what they tried, and where to read on: the last one's traceback, or what it saved."""
    *others, last = failures.trials
    more = ", ..." if len(others) > NAMES_SHOWN else ""
    told = f" (so did {len(others)} before: {', '.join(others[:NAMES_SHOWN])}{more})" if others else ""
    yield Text(f"{last} failed: {failures.reason}{told}")
    written = sorted((folder / last).glob("a*/error.txt"), key=lambda file: file.stat().st_mtime)
    if written or (folder / last).exists():
        yield f"  traceback: {written[-1]}" if written else f"  saved: {folder / last}"
    if failures.ranges:
        yield Text(f"  they had {failures.ranges}" if others else f"  it had {failures.ranges}")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best; a dash for what is not known."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
