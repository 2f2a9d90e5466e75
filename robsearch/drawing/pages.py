"""Pages from templates: all extend ``templates/page.html``, whose style they share, and are one
file that opens offline."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robsearch.drawing import formatting
from robsearch.drawing.style import theme
from robsearch.errors import counted
from robsearch.printing import printable


@cache
def environment(package: str) -> Environment:
    """The templates of a package, and those that all share; values are escaped."""
    loaders = [PackageLoader(package), PackageLoader("robsearch.drawing")]
    # A name that is missing in a template is an error, and no empty text.
    templates = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        "percent",
        "percentage_points",
        "number",
        "whole",
        "duration",
    )
    templates.filters.update({name: getattr(formatting, name) for name in names})
    templates.filters["counted"] = counted
    return templates


def render(package: str, template: str, **values: Any) -> Markup:
    """One template of a package, filled in."""
    return Markup(environment(package).get_template(template).render(values))


def render_page(
    package: str,
    template: str,
    widths: int,
    refresh: int | None = None,
    **values: Any,
) -> str:
    """A whole page.

    Args:
        package: that has the template.
        template: its name.
        widths: how many colours its figures need.
        refresh: seconds after which a browser that has it open reads it again; None: never.
        values: what the template takes.
    """
    themes = {"light": theme(widths, dark=False), "dark": theme(widths, dark=True)}
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = render(
        package,
        template,
        **themes,
        written=written,
        refresh=refresh,
        **values,
    )
    # A bidi override turns a sentence round in a browser, too; figures have texts as well.
    return printable(page)
