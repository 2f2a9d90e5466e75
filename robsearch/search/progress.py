"""The live table: what a person who watches a search sees. On a terminal a table, elsewhere plain
lines."""

from __future__ import annotations

import contextlib
import heapq
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from robsearch.drawing.notebook import in_notebook
from robsearch.errors import counted
from robsearch.metrics import LAM
from robsearch.search.background import repeated
from robsearch.search.driver import Driver, RunningTrial
from robsearch.search.grid import Grid, Row, html_of, printer, rows_table, underway_table
from robsearch.study import Study, others_than_lam, params_text
from robsearch.training.costs import Cost, total
from robsearch.trials.underway import Underway, underway

LINE_SECONDS = 30.0
"""In a log, how often rows that have changed are said again."""
CELL_SECONDS = 1.0
"""Between two drawings of the table in a notebook."""
QUIET_SECONDS = 600.0
"""In a log, after how long without a change the search is said to go on."""


@contextlib.contextmanager
def watched(driver: Driver, console: Console) -> Iterator[None]:
    """Shows a search's progress while the body runs: on a terminal and in a notebook a table,
    elsewhere lines."""
    if in_notebook() and console.file is sys.stdout:
        with _redrawn_in_cell(lambda: html_of(live_blocks(driver))):
            yield
        return
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(get_renderable=lambda: live_table(driver), console=console, refresh_per_second=2):
            yield
        return
    ended = threading.Event()
    lines = threading.Thread(target=_print_lines, args=(driver, console, ended), daemon=True)
    lines.start()
    try:
        yield
    finally:
        ended.set()
        lines.join()


def _print_lines(driver: Driver, console: Console, ended: threading.Event) -> None:
    say = printer(console)
    printed: set[str] = set()
    when = time.monotonic()
    while not ended.wait(LINE_SECONDS):
        lines = list(row_lines(driver))
        changed = [line for line in lines if line not in printed]
        if changed or time.monotonic() - when >= QUIET_SECONDS:
            printed = set(lines)
            when = time.monotonic()
            for line in [*changed, progress(driver)]:
                say(line)


def row_lines(driver: Driver) -> Iterator[str]:
    """The rows as lines of a log: ``width 16  running 2  done 31 ...``."""
    rows = list(live_rows(driver))
    gpu = any(row.gpu_seconds for row in rows)
    for row in rows:
        parts = [row.label if row.label == "controls" else f"width {row.label}"]
        for head, cell in row.cells(gpu).items():
            parts.append(f"{head} {cell}")
        for name, value in others_than_lam(row.params).items():
            parts.append(f"best {params_text({name: value})}")
        yield "  ".join(parts)


@contextlib.contextmanager
def _redrawn_in_cell(html: Callable[[], str]) -> Iterator[None]:
    """Shows HTML in the cell that runs, and draws it anew every second until the body has ended.

    It needs no widgets, so the last of it stays in a notebook that is saved.
    """
    from IPython.display import HTML, display

    shown = display(HTML(html()), display_id=True)

    def redraw() -> None:
        shown.update(HTML(html()))

    try:
        with repeated(redraw, CELL_SECONDS, "notebook"):
            yield
    finally:
        redraw()


def live_table(driver: Driver) -> Group:
    """What a terminal shows."""
    return Group(*live_blocks(driver))


def live_blocks(driver: Driver) -> Iterator[Grid | Text]:
    """One row per width and rung, under what is known of the whole; beneath, each training that
    runs."""
    title = Text(progress(driver), style="default")
    yield from rows_table(list(live_rows(driver)), title)
    yield from underway_table(list(_underway(driver)))


def _underway(driver: Driver) -> Iterator[Underway]:
    # Ray's answers come in another thread, and change it.
    for name, trial in list(driver.running.items()):
        suggestion = trial.suggestion
        history = list(trial.history)
        lam = history[-1][LAM] if history else float(suggestion.params.get("lam", math.nan))
        epochs = suggestion.recipe.epochs
        yield underway(name, suggestion.width, lam, epochs, history)


def live_rows(driver: Driver) -> Iterator[Row]:
    """Each searched study, in the order in which they stand; then the controls, together."""
    scheduler = driver.scheduler
    for study, counts in scheduler.counts_of.items():
        if study.stage.control is None:
            order, lam, params = counts.best or (None, None, {})
            value = order.value if order else None
            label = study.label.removeprefix("w")
            yield Row(label, counts.states, lam, value, *counts.total, params)
    controls = [scheduler.counts_of[study] for study in scheduler.controls]
    if controls:
        states = sum((counts.states for counts in controls), start=Counter[str]())
        cost = total(counts.total for counts in controls)
        yield Row("controls", states, None, None, *cost)


def progress(driver: Driver) -> str:
    """Trials ended and asked for, time elapsed, time to go, and trouble with the record if there is
    any."""
    scheduler = driver.scheduler
    trainings = scheduler.space.trainings
    trials = counted(trainings * scheduler.suggestions, "trial")
    elapsed = _clock(time.time() - driver.started)
    text = f"{_ended(driver)} of {trials}, elapsed {elapsed}"
    left = time_left(driver)
    if left is not None:
        bound = "about" if left.known else "at least"
        text += f", {bound} {_clock(left.seconds)} to go"
    if driver.free_space.text:
        text += f"; {driver.free_space.text}"
    trouble = driver.recorder.tracker.trouble
    if trouble:
        text += f"; {trouble} (training goes on)"
    return text


def _ended(driver: Driver) -> int:
    """Trials of full suggestions that have ended or will not be trained, and those that have ended
    of suggestions whose others are at work."""
    scheduler = driver.scheduler
    at_work = Counter(trial.study for trial in [*driver.running.values(), *driver.waiting])
    ended_already = sum(study.begun - at_work[study] for study in scheduler.full)
    return scheduler.space.trainings * scheduler.ended + ended_already


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


# --- the time to go, from how long workers were taken by what has ended ---


class TimeLeft(NamedTuple):
    """An estimate of the time to go.

    ``known`` if every study that has something left has finished a training and, where it is due, a
    measuring.
    """

    seconds: float
    known: bool


class WorkerTime(NamedTuple):
    """How long a worker is taken, in seconds, for a training of one study, and for measuring it.

    ``share`` of its trainings are not pruned, and so are measured.
    """

    training: float
    measuring: float
    share: float

    @property
    def both(self) -> float:
        """One after the other."""
        return self.training + self.share * self.measuring


def time_left(driver: Driver) -> TimeLeft | None:
    """Until the last trial is trained and measured; None before the first training has ended.

    What is running, waits to be measured or continued, and is yet to be asked for is put on as many
    workers as run at once, in the order in which they take it.
    """
    counts_of = driver.scheduler.counts_of
    walls = {}
    measuring_walls = {}
    for study, counts in counts_of.items():
        walls[study] = counts.wall
        # What a rung trains only chooses: it is not measured.
        if study.stage.rung is None:
            measuring_walls[study] = counts.measuring
    training = _known(walls)
    if not training:
        return None
    measuring = _known(measuring_walls)
    longest = max(training.values())
    longest_measuring = max(measuring.values(), default=0.0)
    times = {}
    for study, counts in counts_of.items():
        time_to_measure = 0.0
        if study in measuring_walls:
            time_to_measure = measuring.get(study, longest_measuring)
        times[study] = WorkerTime(
            training=training.get(study, longest),
            measuring=time_to_measure,
            share=len(counts.training_seconds) / counts.counted if counts.counted else 1.0,
        )
    left = {study: count for study, count in driver.scheduler.left.items() if count}
    # Who draws this is another thread than the driver, so its collections are copied.
    unmeasured = {trial.study for trial in list(driver.unmeasured)}
    due = unmeasured | (left.keys() & measuring_walls.keys())
    known = left.keys() <= training.keys() and due <= measuring.keys()
    seconds = _end(_jobs(driver, left, times), driver.parallel)
    return TimeLeft(seconds, known)


def _known(seconds: Mapping[Study, float | None]) -> dict[Study, float]:
    """Those that are known; a control without one takes as long as a trial of its width.

    Another study without one is not here. It counts as the dearest: usually it trains a wider net.
    """
    known = {study: value for study, value in seconds.items() if value is not None}
    of_width = {study.stage.width: value for study, value in known.items() if study.stage.deciding}
    for study in seconds:
        width = study.stage.width
        if study.stage.control is not None and width in of_width:
            known.setdefault(study, of_width[width])
    return known


def _jobs(
    driver: Driver, left: Mapping[Study, int], times: Mapping[Study, WorkerTime]
) -> Iterator[float]:
    """Seconds of each thing that is left to do: what runs, what waits, what is not yet asked
    for."""
    now = time.time()
    for trial in list(driver.measuring.values()):
        yield max(0.0, times[trial.study].measuring - (now - trial.started))
    running = list(driver.running.values())
    waiting = list(driver.waiting)
    for trial in running:
        yield _rest(trial, times[trial.study], trial.before + now - trial.started)
    for trial in list(driver.unmeasured):
        yield times[trial.study].measuring
    for trial in waiting:
        spent = driver.scheduler.counts_of[trial.study].spent
        done = spent.get(trial.suggestion.trial, Cost())
        yield _rest(trial, times[trial.study], done.seconds)
    suggestions = {(trial.study, trial.suggestion.number) for trial in (*running, *waiting)}
    begun = Counter(study for study, _ in suggestions)
    for study, count in left.items():
        unbegun = count - begun[study]
        both = times[study].both
        trainings = len(study.members)
        if study.side_by_side:
            yield from [both] * (unbegun * trainings + study.unbegun)
        else:
            yield from [both * trainings] * unbegun


def _rest(trial: RunningTrial, times: WorkerTime, done: float) -> float:
    """Of a suggestion: the rest of the training that it is at, its measuring, and the trainings
    that follow it and cannot run beside it."""
    rest = times.both - min(done, times.training)
    if trial.study.side_by_side:
        return rest
    members = trial.study.members
    suggestion = trial.suggestion
    before = members.index((suggestion.width, suggestion.replicate))
    return (len(members) - before - 1) * times.both + rest


def _end(jobs: Iterator[float], workers: int) -> float:
    """When the last of them has ended, if each goes to the worker that is free first."""
    free = [0.0] * max(1, workers)
    for seconds in jobs:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
