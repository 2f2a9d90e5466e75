"""A table that cuts no cell, however narrow the terminal is: the columns that do not fit go on beneath."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000
"""Columns of a file or a pipe: a row of a table is one line there, and so is a sentence."""
NAME = 8
"""The least width of a name, which may go on in the next line."""
BETWEEN = 2
"""What a column takes beside its cells."""


def printed() -> Console:
    """Where a command prints: in a file or a pipe as wide as what is printed, unless ``COLUMNS`` is set."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=UNBOUNDED)


@dataclass(frozen=True)
class Grid:
    """Heads and rows. Cells wrap between words; where even so they do not fit, the other columns go on beneath.

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
        room = options.max_width - BETWEEN
        for columns in self._parts(room):
            yield self._table(columns, room)

    def _least(self, column: int) -> int:
        longest = max((cell_len(word) for cell in self._cells(column) for word in cell.split()), default=1)
        return min(longest, NAME) if column < self.keys else longest

    def _cells(self, column: int) -> list[str]:
        return [self.heads[column], *(str(row[column]) for row in self.rows)]

    def _parts(self, room: int) -> Iterator[list[int]]:
        """Columns that fit beside the keys."""
        keys = list(range(self.keys))
        free = room - sum(self._least(key) + BETWEEN for key in keys)
        part: list[int] = []
        taken = 0
        for column in range(self.keys, len(self.heads)):
            takes = self._least(column) + BETWEEN
            if part and taken + takes > free:
                yield [*keys, *part]
                part, taken = [], 0
            part.append(column)
            taken += takes
        yield [*keys, *part]

    def _table(self, columns: list[int], room: int) -> Table:
        least = [self._least(column) for column in columns]
        wanted = [max(map(cell_len, self._cells(column))) for column in columns]
        spare = room - sum(width + BETWEEN for width in least)
        more = sum(want - width for want, width in zip(wanted, least, strict=True))
        share = min(1.0, max(spare, 0) / max(more, 1))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column, width, want in zip(columns, least, wanted, strict=True):
            head = self.heads[column]
            begins = head in self.left or column == self.keys - 1 > 0
            fits = min(width + int(share * (want - width)), room)
            table.add_column(Text(head), justify="left" if begins else "right", width=fits, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) if isinstance(cell := row[column], str) else cell for column in columns))
        return table
