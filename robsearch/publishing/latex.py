"""Tables in LaTeX, with the package ``booktabs``; any text becomes text."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
        """The table, in an environment of its own."""
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(self.caption)}}}",
            rf"\label{{tab:{self.label}}}",
            # The first column names a row; numbers stand at the right.
            rf"\begin{{tabular}}{{l{'r' * (len(self.heads) - 1)}}}",
            r"\toprule",
            _line(self.heads),
            r"\midrule",
            *map(_line, self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def escaped(text: str) -> str:
    """Any text as LaTeX prints it; ``lambda*`` becomes the symbol, and lines become one."""
    one_line = " ".join(text.split())
    # The symbol is put in last: its own signs are commands.
    plain = _STAR.sub("λ*", one_line)
    return _SPECIAL.sub(lambda match: SPECIAL[match[0]], plain).replace(
        r"$\lambda$*", r"$\lambda^*$"
    )
