"""What a notebook shows: tables and sentences as HTML, and figures as pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from robsearch.printing import printable


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    # IPython in a terminal has no kernel.
    return hasattr(shell, "kernel")


def show_figures() -> None:
    """Has a notebook show figures of matplotlib as pictures: by itself it does so only once pyplot
    is imported."""
    if in_notebook():
        from IPython.core.pylabtools import select_figure_formats

        shell = sys.modules["IPython"].get_ipython()
        select_figure_formats(shell, {"png"})


def table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> Markup:
    """A table as pandas writes one, which notebooks have a style for; cells are text."""
    head = _row("th", heads)
    body = Markup("").join(_row("td", row) for row in rows)
    return Markup('<table class="dataframe"><thead>{}</thead><tbody>{}</tbody></table>').format(
        head, body
    )


def _row(tag: str, cells: Iterable[object]) -> Markup:
    inside = Markup("").join(
        Markup("<{0}>{1}</{0}>").format(Markup(tag), _text(cell)) for cell in cells
    )
    return Markup("<tr>{}</tr>").format(inside)


def paragraph(text: object, title: object = "") -> Markup:
    """A paragraph of text, behind a title in bold if there is one."""
    strong = Markup("<b>{}</b> ").format(_text(title)) if title else ""
    return Markup("<p>{}{}</p>").format(strong, _text(text))


def _text(cell: object) -> Markup:
    return cell if isinstance(cell, Markup) else escape(printable(str(cell)))
