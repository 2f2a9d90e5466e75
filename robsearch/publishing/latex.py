"""Tables in LaTeX, with the package ``booktabs``; any text becomes text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "…": r"\dots{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "ε": r"$\varepsilon$",
    "∞": r"$\infty$",
    "λ": r"$\lambda$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "\u2212": "$-$",
    "\u2013": "--",
    "\u00a0": "~",
    "\u2009": r"\,",
    "\u202f": r"\,",
}
"""Characters that mean something else in LaTeX, or that its fonts lack."""
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL)))
_STAR = re.compile(r"\blambda\*")
_POWER = re.compile(r"\bwidth\\textasciicircum\{\}(?P<exponent>-?[\d.]+\d)")
_PARTS = re.compile("^(\\S+)[ \u202f]((?:\\[|±).*)$")
"""A number, and its interval or its error."""

COLUMN = 225.0
"""Points: of a column of a page with two."""
PAGE = 345.0
"""Points: of the text of a page with one column, as the class ``article`` has it."""
POINTS = 4.3
"""Of a mean letter of ``\\footnotesize``."""
GAP = 8.0
"""Points between two columns."""
LETTERS = 28
"""A cell with more is a sentence, and gets several lines ..."""
TEXT = 100.0
"""... which are at least as long as this, in points."""


class Table(NamedTuple):
    """A table as it is printed: cells are texts, and nothing in them is a command.

    Attributes:
        caption: says n, seeds, attack and where it comes from.
        label: of its reference: ``\\ref{tab:LABEL}``.
        heads: of the columns.
        rows: one text for each column.
    """

    caption: str
    label: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def latex(self) -> str:
        """The table, in an environment of its own.

        One that is wider than a column spans both. One that is wider than a page of text gets its
        rows as columns, or its intervals below its numbers, whichever is the first that fits.
        """
        forms = [Form(self.heads, self.rows), Form(self.heads, self.rows).turned]
        forms += [form.stacked for form in forms]
        fitting = [form for form in forms if form.width <= PAGE]
        form = fitting[0] if fitting else min(forms, key=lambda each: each.width)
        environment = "table" if form.width <= COLUMN else "table*"
        lines = [
            rf"\begin{{{environment}}}",
            r"\centering",
            rf"\caption{{{escaped(self.caption)}}}",
            rf"\label{{tab:{self.label}}}",
            r"\footnotesize",
            rf"\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}",
            rf"\begin{{tabular}}{{{form.columns}}}",
            r"\toprule",
            form.head,
            r"\midrule",
            *form.lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\end{{{environment}}}",
        ]
        return "\n".join(lines) + "\n"


class Form(NamedTuple):
    """One way to set a table: its texts, line by line.

    Attributes:
        heads: of the columns.
        rows: one text for each column; a line break is one on paper.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def turned(self) -> Form:
        """With the rows as columns; the first column becomes the heads."""
        first, *others = zip(self.heads, *self.rows, strict=True)
        return Form(first, others)

    @property
    def stacked(self) -> Form:
        """With intervals and errors below their numbers."""
        rows = [[_PARTS.sub(r"\1\n\2", cell) for cell in row] for row in self.rows]
        return Form(self.heads, rows)

    @property
    def width(self) -> float:
        """In points, about."""
        return sum(self._points(column) for column in range(len(self.heads)))

    @property
    def columns(self) -> str:
        """Their kinds: the first one names a row, numbers stand at the right, sentences have
        lines."""
        kinds = ["r" if column else "l" for column in range(len(self.heads))]
        texts = [column for column in range(len(self.heads)) if self._is_text(column)]
        free = PAGE - self.width + TEXT * len(texts)
        for column in texts:
            kinds[column] = f"p{{{free / len(texts):.0f}pt}}"
        return "".join(kinds)

    @property
    def head(self) -> str:
        """The line of the heads; a long one has several lines."""
        cells = []
        for column, text in enumerate(self.heads):
            lines = textwrap.wrap(text, self._letters(column), break_long_words=False)
            cells.append(_stack(lines or [""], self._kind(column), "b"))
        return _line(cells)

    @property
    def lines(self) -> list[str]:
        """The other lines; rows of several lines keep apart."""
        lines = [_line(map(self._cell, range(len(row)), row)) for row in self.rows]
        is_high = any("\n" in cell for row in self.rows for cell in row)
        is_high = is_high or any(map(self._is_text, range(len(self.heads))))
        return "\n\\addlinespace\n".join(lines).splitlines() if is_high else lines

    def _cell(self, column: int, text: str) -> str:
        if self._is_text(column):
            return rf"\raggedright\let\\\tabularnewline {escaped(text)}"
        return _stack(text.splitlines() or [""], self._kind(column), "t")

    def _kind(self, column: int) -> str:
        return "r" if column and not self._is_text(column) else "l"

    def _is_text(self, column: int) -> bool:
        return self._letters(column) > LETTERS

    def _points(self, column: int) -> float:
        return GAP + (TEXT if self._is_text(column) else POINTS * self._letters(column))

    def _letters(self, column: int) -> int:
        """Of the widest line of a column, whose head may be broken between words."""
        lines = [line for row in self.rows for line in row[column].splitlines()]
        return max(map(len, [*lines, *self.heads[column].split()]), default=0)


def _stack(lines: Sequence[str], side: str, place: str) -> str:
    """Lines above each other, of which the first (``t``) or the last (``b``) is in line with the
    other cells."""
    texts = [escaped(line) for line in lines]
    if len(texts) == 1:
        return texts[0]
    # After a line break a bracket would be its length.
    text = r"\\{}".join(texts)
    return rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}{text}\end{{tabular}}"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def escaped(text: str) -> str:
    """Any text as LaTeX prints it; ``lambda*`` becomes the symbol, ``width^0.3`` a power, and lines
    become one."""
    one_line = " ".join(text.split())
    # The symbol is put in last: its own signs are commands.
    plain = _STAR.sub("λ*", one_line)
    latex = _SPECIAL.sub(lambda match: SPECIAL[match[0]], plain)
    latex = latex.replace(r"$\lambda$*", r"$\lambda^*$")
    return _POWER.sub(r"width$^{\g<exponent>}$", latex)
