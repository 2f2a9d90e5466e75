"""How a search stands, as facts for a machine, and who drives it."""

from __future__ import annotations

import time
from typing import Any

from robsearch.search.place import Place
from robsearch.search.result import Search
from robsearch.search.strongest import figure_of
from robsearch.search.table import status_rows
from robsearch.selection import collapsed_among
from robsearch.study import failures_of, living_owner, params_of

STATES = ("RUNNING", "INTERRUPTED", "COMPLETE", "PRUNED", "FAIL")


def standing(search: Search, place: Place) -> dict[str, Any]:
    """What ``robsearch status --json`` prints.

    Rates are shares, times seconds, and what is not known is None. ``widths`` has a row per width, rung and for all
    controls (``label``), with counts of suggestions by state and what they took (``costs.Cost``; ``cost`` is that of
    the search); ``lam``, ``value`` and ``params`` are those of the best trial. ``best`` has of each width's best trial
    the strongest known figure (``strongest.Figure``), and the one on ``val`` by which it was selected.
    ``failure_groups`` has each reason once, with the trials that failed for it, and for each searched parameter its
    values among them and among the trials that ended without a failure.
    """
    failed = search.trials[search.trials["state"] == "FAIL"]
    failures = [
        {"trial": row["trial"], "reason": row["reason"], "params": params_of(row)} for _, row in failed.iterrows()
    ]
    return {
        "name": search.name,
        "space": search.space,
        "folder": search.folder,
        "ended": search.ended,
        "asked": search.record.trials,
        "unfinished": search.unfinished,
        "driver": living_owner(place.open(search.name), search.name),
        "rows": [
            {**row._asdict(), "states": {name: row.states[name] for name in STATES}} for row in status_rows(search)
        ],
        "cost": search.cost._asdict(),
        "best": [_best(search, width) for width in search.widths],
        "collapsed": list(search.trials.loc[collapsed_among(search.trials), "trial"]),
        "failures": failures,
        "failure_groups": [vars(group) for group in failures_of(search.trials)],
        "law": {
            "sentence": search.ridge.sentence(),
            "group": search.ridge.group or None,
            "exponent": search.ridge.slope,
            "interval": search.ridge.slope_interval,
            "optima": [search.ridge.optimum(width)._asdict() for width in search.widths],
        },
        "report": search.report if search.report.exists() else None,
        "tracking": search.record.tracking,
    }


def driver_line(search: Search, place: Place) -> str:
    """Who drives the search, or what to do where nobody does and trials are left."""
    owner = living_owner(place.open(search.name), search.name)
    if owner is not None:
        age = time.time() - owner["renewed"]
        return f"driven by process {owner['pid']} on {owner['host']}, last heard of {age:.0f} s ago"
    if search.ended >= search.record.trials and not search.unfinished:
        return "complete"
    return f"nobody drives it; go on with: {place.command('resume', search.name)}"


def _best(search: Search, width: float) -> dict[str, Any]:
    best = search.best(width)
    figure, chosen = (None, None) if best is None else (figure_of(best), search.selection(width))
    if best is None or figure is None or chosen is None:
        return {"width": width, "why_none": search.all_collapsed(width) or None}
    return {
        "width": width,
        "trial": best["trial"],
        "strongest": figure._asdict(),
        "selected_by": {**chosen.val._asdict(), "best_of": chosen.trials, "optimism": chosen.optimism},
        **{name: best[name] for name in ("lam", "value", "feasible")},
        "params": params_of(best),
        "why_none": None,
    }
