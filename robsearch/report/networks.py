"""Networks of any origin, evaluated side by side, as one page that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robsearch.drawing.pages import render, render_page
from robsearch.errors import counted

PACKAGE = "robsearch.report"


def network_page(
    *,
    setting: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    networks: Sequence[Mapping[str, Any]],
    flips: Sequence[str],
) -> str:
    """The whole page as text.

    Args:
        setting: images and attack, in one line.
        heads: of the comparison's columns.
        rows: its cells.
        networks: of each ``name``, ``facts``, ``rungs``, ``checks`` and ``notes``.
        flips: pairs of networks that two rungs order differently.
    """
    comparison = render(PACKAGE, "networks_compared.html", heads=heads, rows=rows, flips=flips)
    sections = [
        {
            "anchor": "comparison",
            "short": "Comparison",
            "title": "On the same test images",
            "content": comparison,
        }
    ]
    for number, network in enumerate(networks):
        name = network["name"]
        content = render(PACKAGE, "network.html", network=network)
        section = {"anchor": f"network-{number}", "short": name, "title": name, "content": content}
        sections.append(section)
    return render_page(
        PACKAGE,
        "page.html",
        1,
        title=f"Evaluation of {counted(len(networks), 'network')}",
        source=setting,
        sections=sections,
    )
