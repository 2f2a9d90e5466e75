"""Ladders as a terminal shows them: how far they are, what each rung leaves standing, and whether
gradients are masked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, Progress as ProgressBars, TextColumn, TimeElapsedColumn
from rich.text import Text

from robsearch.search.grid import Grid
from robsearch.trials.evaluating import Progress
from robsearch.trials.ladder.results import rank_reversals, rung_results
from robsearch.trials.masking import Check


@contextlib.contextmanager
def progress_bars(
    names: Sequence[str], console: Console
) -> Iterator[Callable[[str, Progress], None]]:
    """A bar that shows how far each network's evaluation is; on what is not a terminal there are
    none."""
    bars = ProgressBars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks = {name: bars.add_task(name, total=1, text="waiting") for name in names}

    def update(name: str, now: Progress) -> None:
        bars.update(tasks[name], completed=now.share, text=now.text)

    with bars:
        yield update


def ladder_table(
    ladders: Mapping[str, pa.Table],
    more: Mapping[str, Mapping[str, str]],
    head: str = "trial",
) -> Grid:
    """One row per network and rung: robust accuracy with its interval, and what it took.

    Args:
        ladders: by the networks' names, in the order in which they are shown.
        more: columns behind the rung: by head, a text for each network.
        head: of the names.
    """
    rows: list[list[str]] = []
    for name, ladder in ladders.items():
        for result in rung_results(ladder):
            row = [
                name,
                result.rung,
                *(texts[name] for texts in more.values()),
                f"{100 * result.robust_accuracy:.1f}",
                f"{100 * result.low:.1f}..{100 * result.high:.1f}",
                f"{result.attacked:,}" if result.attacked else "",
                f"{result.broken:,}" if result.attacked else "",
                f"{result.seconds:.0f}",
            ]
            rows.append(row)
    heads = [head, "rung", *more, "%", "95 %", "tried on", "broken", "s"]
    title = Text("robust accuracy on test", style="bold")
    return Grid(heads, rows, title, keys=2, left=frozenset({head}))


def masking_tables(checks: Mapping[str, list[Check]]) -> Iterator[Grid]:
    """For each network that was looked over, one row per sign of gradient masking."""
    for name, of_network in checks.items():
        if of_network:  # at eps=0 there is no attack to be misled
            yield _masking_table(name, of_network)


def _masking_table(name: str, checks: list[Check]) -> Grid:
    rows: list[list[str | Text]] = []
    for check in checks:
        if check.passed:
            rows.append([check.name, Text("ok", style="green"), check.evidence])
        else:
            evidence = f"{check.evidence}. {check.advice}"
            rows.append([check.name, Text("FAILED", style="bold red"), evidence])
    title = Text(f"{name}: is robustness real, or are gradients masked?", style="bold")
    heads = ["check", "verdict", "evidence"]
    return Grid(heads, rows, title, left=frozenset(heads))


def rank_flips(ladders: Mapping[str, pa.Table]) -> Iterator[Text]:
    """The pairs of networks that two rungs order differently, or that there are none."""
    flips = rank_reversals(ladders)
    for flip in flips:
        yield Text(f"rank flip: {flip}", style="bold yellow")
    if len(ladders) > 1 and not flips:
        yield Text("no rank flip: every rung orders these networks alike")
