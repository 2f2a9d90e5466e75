"""The record of a search of two widths, which nothing has been trained for."""

from __future__ import annotations

from robsearch.study import SearchRecord


def search_record(**changes: object) -> SearchRecord:
    facts: dict[str, object] = {
        "name": "s",
        "space": "m:n",
        "widths": (4, 8),
        "seed": 0,
        "trials": 4,
        "tracking": "",
        "setting": {},
    }
    return SearchRecord(**(facts | changes))
