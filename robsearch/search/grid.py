"""What is shown on a terminal: tables that cut no cell, and in them how searches stand.

However narrow the terminal is, the columns that do not fit go on beneath.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from robsearch.drawing.notebook import in_notebook, paragraph, table
from robsearch.errors import counted
from robsearch.printing import printable
from robsearch.study import others_than_lam, params_text
from robsearch.trials.underway import Underway

UNBOUNDED = 10_000
"""Columns of a file or a pipe: a row of a table is one line there, and so is a sentence."""
NAME = 8
"""The least width of a name, which may go on in the next line."""
BETWEEN = 2
"""What a column takes beside its cells."""


class PlainTextConsole(Console):
    """A console to which a text is no more than that: in it is no style, no link and no emoji, and
    no character of it is a command to the terminal."""

    def __init__(self, **options: Any) -> None:
        # A kernel asks programs for colours, as a terminal would. What is printed there is plain
        # text in one place, and rich's own way is a box of HTML for each line.
        if in_notebook():
            options = {"force_terminal": False, "force_jupyter": False, **options}
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    # All that is printed comes through here, also what a live table draws anew, which no hook sees.
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The parts of what is printed, each with its style."""
        for segment in super().render(renderable, options):
            # A segment with control codes is rich's own, such as that which moves the cursor.
            if segment.control is None:
                yield Segment(printable(segment.text), segment.style)
            else:
                yield segment


def printed() -> Console:
    """Where a command prints: in a file or a pipe as wide as what is printed, unless ``COLUMNS`` is
    set."""
    console = PlainTextConsole()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return PlainTextConsole(width=UNBOUNDED)


def printer(console: Console) -> Callable[[str], None]:
    """What prints a line as it is: unbroken, and nothing in it is a style.

    Args:
        console: ours, or one that a Python program passes.
    """

    def say(text: str) -> None:
        console.print(printable(text), soft_wrap=True, highlight=False, markup=False, emoji=False)

    return say


@dataclass(frozen=True)
class Grid:
    """Heads and rows. Cells wrap between words; where even so they do not fit, the other columns go
    on beneath.

    Attributes:
        heads: of the columns.
        rows: their cells.
        title: stands above.
        keys: how many columns, the first, name a row, and begin each part; a name may be broken.
        left: heads of the columns whose text begins at the left, beside the last key.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    title: Text | None = None
    keys: int = 1
    left: frozenset[str] = frozenset()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The title, and one table or several."""
        if self.title is not None:
            yield self.title
        columns_left = options.max_width - BETWEEN
        for columns in self._parts(columns_left):
            yield self._table(columns, columns_left)

    def _least(self, column: int) -> int:
        words = " ".join(self._cells(column)).split()
        longest = max(map(cell_len, words), default=1)
        # A long name of a row is broken, so that there is room for what the row says.
        return min(longest, NAME) if column < self.keys else longest

    def _cells(self, column: int) -> list[str]:
        return [self.heads[column], *(str(row[column]) for row in self.rows)]

    def _parts(self, columns_left: int) -> Iterator[list[int]]:
        """Columns that fit beside the keys."""
        keys = list(range(self.keys))
        free = columns_left - sum(self._least(key) + BETWEEN for key in keys)
        part: list[int] = []
        taken = 0
        for column in range(self.keys, len(self.heads)):
            size = self._least(column) + BETWEEN
            if part and taken + size > free:
                yield [*keys, *part]
                part = []
                taken = 0
            part.append(column)
            taken += size
        yield [*keys, *part]

    def _table(self, columns: list[int], columns_left: int) -> Table:
        least = {}
        wanted = {}
        for column in columns:
            least[column] = self._least(column)
            wanted[column] = max(map(cell_len, self._cells(column)))
        # What is to spare is shared out by what each column lacks to show its cells in one line.
        taken = sum(least.values())
        spare = columns_left - taken - BETWEEN * len(columns)
        lacking = sum(wanted.values()) - taken
        share = min(1.0, max(spare, 0) / max(lacking, 1))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column in columns:
            head = self.heads[column]
            width = least[column] + int(share * (wanted[column] - least[column]))
            is_last_of_several_keys = column == self.keys - 1 > 0
            begins_left = is_last_of_several_keys or head in self.left
            table.add_column(
                Text(head),
                justify="left" if begins_left else "right",
                width=min(width, columns_left),
                overflow="fold",
            )
        for row in self.rows:
            cells = []
            for column in columns:
                cell = row[column]
                # As a Text a cell is no markup.
                cells.append(Text(cell) if isinstance(cell, str) else cell)
            table.add_row(*cells)
        return table


def html_of(blocks: Iterable[Grid | Text]) -> str:
    """Tables and lines of text as a notebook shows them."""
    parts = []
    for block in blocks:
        if isinstance(block, Text):
            parts.append(paragraph(block.plain))
            continue
        if block.title is not None:
            parts.append(paragraph(block.title.plain))
        parts.append(table(block.heads, block.rows))
    return "".join(parts)


# --- how searches stand ---


class Row(NamedTuple):
    """One width, one of its rungs, or all controls.

    ``states`` counts suggestions by Optuna's name for their state, or as INTERRUPTED; ``value`` is
    the best robust accuracy on ``val``, as a share, ``params`` what Optuna suggested there; the
    seconds are those of ``costs.Cost``.
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

    def cells(self, gpu: bool, unfinished: str = "running") -> dict[str, str]:
        """What is shown, by the head of its column; ``unfinished`` is what a trial does that has
        not ended."""
        states = self.states
        return {
            unfinished: f"{states[unfinished.upper()]}",
            "done": f"{states['COMPLETE']}",
            "pruned": f"{states['PRUNED']}",
            "failed": f"{states['FAIL']}",
            "best lam": "-" if self.lam is None else f"{self.lam:.3g}",
            "val robust": "-" if self.value is None else f"{self.value:.1%}",
            "GPU time" if gpu else "trained": duration(self.gpu_seconds if gpu else self.seconds),
        }


def rows_table(rows: list[Row], title: Text | None = None) -> Iterator[Grid | Text]:
    """The title stands above, because a low terminal cuts off what is below; the parameters of the
    best beneath."""
    gpu = any(row.gpu_seconds for row in rows)
    interrupted = any("INTERRUPTED" in row.states for row in rows)
    unfinished = "interrupted" if interrupted else "running"
    heads = list(Row("", Counter()).cells(gpu, unfinished))
    cells = [[row.label, *row.cells(gpu, unfinished).values()] for row in rows]
    yield Grid(["width", *heads], cells, title)
    for row in rows:
        if others_than_lam(row.params):
            yield Text(f"best at {row.label}: {params_text(row.params)}")


MOST_UNDERWAY = 20
"""Trainings that are listed one by one; a cluster may train a thousand."""


def underway_table(trainings: Sequence[Underway]) -> Iterator[Grid | Text]:
    """How far each training is that has not ended."""
    if not trainings:
        return
    heads = ["training", "lam", "epoch", "val robust", "best", "images/s", "to go"]
    cells = [_underway_cells(training) for training in trainings[:MOST_UNDERWAY]]
    yield Grid(heads, cells)
    if len(trainings) > MOST_UNDERWAY:
        yield Text(f"and {counted(len(trainings) - MOST_UNDERWAY, 'more training')}")


def _underway_cells(training: Underway) -> list[str]:
    asked = f"/{training.epochs:.0f}" if math.isfinite(training.epochs) else ""
    lam, value, best, speed = (
        format(number, kind) if math.isfinite(number) else "-"
        for number, kind in (
            (training.lam, ".3g"),
            (training.value, ".1%"),
            (training.best, ".1%"),
            (training.images_per_second, ",.0f"),
        )
    )
    to_go = duration(training.seconds_to_go)
    return [training.trial, lam, f"{training.epoch}{asked}", value, best, speed, to_go]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best; a dash for what is not known."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
