"""HTML from plain functions. Everything is escaped on its way in, except what is already ``Html``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

ABSENT = "–"


class Html(str):
    """Text that is already HTML."""

    __slots__ = ()


def html(value: object) -> Html:
    """The value as HTML: escaped unless it is HTML already."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """The parts one after another, each escaped unless it is HTML already."""
    return Html(separator.join(html(part) for part in parts))


def tag(name: str, *children: object, **attributes: str) -> Html:
    """One element: ``tag("td", "<5", class_="number")`` is ``<td class="number">&lt;5</td>``."""
    given = "".join(f' {key.rstrip("_")}="{escape(text)}"' for key, text in attributes.items() if text)
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def left_out(reason: object) -> Html:
    """The one line that stands where a missing piece would be."""
    return tag("p", f"Left out: {str(reason).rstrip('.')}.", class_="absent")


def table(caption: str, head: Sequence[object], bodies: Iterable[Iterable[Html]]) -> Html:
    """A table in its own scrolling box; ``bodies`` are groups of finished rows."""
    header = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in head)))
    groups = join(tag("tbody", *rows) for rows in bodies)
    return tag("div", tag("table", tag("caption", caption), header, groups), class_="scroll")


def row(first: object, cells: Iterable[object]) -> Html:
    """A table row whose first cell names it."""
    return tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells))


def definitions(pairs: Iterable[tuple[object, object]]) -> Html:
    """A definition list."""
    return tag("dl", *(tag("div", tag("dt", term), tag("dd", text)) for term, text in pairs))


def link(label: str, target: str) -> Html:
    """A link where the target is a web address, else the target as a command to copy."""
    if target.startswith(("http://", "https://")):
        return tag("span", tag("a", label, href=target))
    return tag("span", f"{label}: ", tag("code", target))
