"""How a search stands: for a person as a table and sentences, for a machine as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
from rich.text import Text

from robsearch.drawing.formatting import names_of
from robsearch.errors import counted
from robsearch.laws import RegretMap
from robsearch.metrics import VAL_NATURAL
from robsearch.search.free_space import lacking_bytes, waiting_text
from robsearch.search.grid import Grid, Row, duration, rows_table, underway_table
from robsearch.search.result import Search
from robsearch.search.strongest import figure_of
from robsearch.search.summary import regret_lines, strongest_text
from robsearch.search.tables import DROPPED, searched, spent
from robsearch.study import (
    Failures,
    failures_of,
    owner_text,
    params_of,
    seconds_since_renewal,
)
from robsearch.study.lease import EXPIRE_SECONDS
from robsearch.training.costs import Cost
from robsearch.trials.selection import collapsed_among
from robsearch.trials.underway import trainings_underway

STATES = ("RUNNING", "INTERRUPTED", "COMPLETE", "PRUNED", "FAIL")
NAMES_SHOWN = 3


def status_rows(search: Search) -> Iterator[Row]:
    """The rows of the live table from the storage: each width, its rungs, and the controls; without
    a driver, nothing runs. Where one look cannot tell whether it lives, the storage's states
    stand."""
    trials = search.trials
    if search.unfinished and search.driver is None:
        trials = trials.assign(state=trials["state"].replace("RUNNING", "INTERRUPTED"))
    full = searched(trials)
    names = names_of(search.widths)
    for width in search.widths:
        row = _row(names[width], full[full["width"] == width])
        best = search.best(width)
        if best is not None:
            row = row._replace(
                lam=float(best["lam"]), value=float(best["value"]), params=params_of(best)
            )
        yield row
    rungs = trials[trials["rung"].notna()]
    for key, of_rung in rungs.groupby(["width", "rung"], sort=False):
        of_width, rung = cast(tuple[float, str], key)
        yield _row(f"{names[of_width]}-{rung}", of_rung)
    controls = trials[trials["control"].notna()]
    if len(controls):
        yield _row("controls", controls)


def _row(label: str, trials: pd.DataFrame) -> Row:
    return Row(label, Counter(trials["state"]), None, None, *spent(trials))


def status_lines(search: Search) -> Iterator[Grid | Text | str]:
    """A search as the storage knows it, with or without a driver at work; a ``str`` is not to be
    wrapped."""
    yield Text(f"{search.name} ({search.space})", style="bold")
    names = names_of(search.widths)
    for width, name in names.items():
        best = search.best(width)
        if best is not None:
            yield Text(f"width {name}: {best['trial']} {strongest_text(search, width)}")
    yield from rows_table(list(status_rows(search)))
    if search.unfinished and search.driver is not None:
        yield from underway_table(trainings_underway(search.trials, search.epochs))
    yield f"{search.ended} of {counted(search.record.trials, 'trial')} ended"
    yield Text(_cost_text(search.cost))
    for failures in failures_of(search.trials):
        yield from _failure_lines(failures, search.folder / "trials")
    for _, trial in search.trials[search.trials["state"] == DROPPED].iterrows():
        yield Text(f"{trial['trial']} is dropped: {trial['reason']}")
    yield from _collapsed_lines(search)
    for width, name in names.items():
        why = search.all_collapsed(width)
        if why:
            yield Text(f"width {name}: {why}")
    yield Text(search.ridge.sentence())
    yield from map(Text, regret_lines(search))


def _cost_text(cost: Cost) -> str:
    text = f"trained {duration(cost.seconds)}, measured on test {duration(cost.measure_seconds)}"
    if cost.gpu_seconds:
        text += f", GPU time {duration(cost.gpu_seconds)}"
    if cost.failed_seconds > 0:
        failed = duration(cost.failed_seconds)
        text += f"; trials that failed took {failed}, with what came after their last epochs"
    return text


def _collapsed_lines(search: Search) -> Iterator[Text]:
    """Which nets give nearly all images one class, and what that means."""
    trials = search.trials[collapsed_among(search.trials)]
    if trials.empty:
        return
    rates = zip(trials["trial"], trials[VAL_NATURAL], strict=True)
    nets = [f"{trial} (natural {rate:.1%})" for trial, rate in rates]
    text = f"collapsed: {', '.join(nets[:NAMES_SHOWN])}"
    if len(nets) > NAMES_SHOWN:
        text += f" and {len(nets) - NAMES_SHOWN} more"
    text += " gives" if len(nets) == 1 else " give"
    text += " nearly all images one class; such a net is never the best, and the law leaves it out"
    yield Text(text)


def _failure_lines(failures: Failures, folder: Path) -> Iterator[Text | str]:
    """Why trials failed, with what they tried, and where to read on: the last one's traceback, or
    what it saved."""
    *others, last = failures.trials
    before = ""
    if others:
        more = ", ..." if len(others) > NAMES_SHOWN else ""
        before = f" (so did {len(others)} before: {', '.join(others[:NAMES_SHOWN])}{more})"
    yield Text(f"{last} failed: {failures.reason}{before}")
    errors = sorted((folder / last).glob("a*/error.txt"), key=lambda file: file.stat().st_mtime)
    if errors:
        yield f"  traceback: {errors[-1]}"
    elif (folder / last).exists():
        yield f"  saved: {folder / last}"
    if failures.ranges:
        yield Text(f"  {'they' if others else 'it'} had {failures.ranges}")


def driver_line(search: Search) -> str:
    """Who drives the search, or what to do where nobody does and trials are left."""
    owner = search.driver
    if owner is not None and owner["alive"]:
        age = seconds_since_renewal(owner) or 0.0
        line = f"driven by process {owner['pid']} on {owner['host']}, last heard of {age:.0f} s ago"
        lacking = lacking_space(search)
        return f"{line}; {waiting_text(lacking, search.folder)}" if lacking else line
    if owner is not None:
        resume = search.store.command("resume", search.name)
        watches = f"`{resume}` sees within {EXPIRE_SECONDS:.0f} s, and takes over from a dead one"
        return f"held by the driver {owner_text(owner)}; {hint_of_life(owner)}: {watches}"
    if search.ended >= search.record.trials and not search.unfinished:
        return "complete"
    return f"nobody drives it; go on with: {search.store.command('resume', search.name)}"


def lacking_space(search: Search) -> int:
    """How many bytes the driver of a search lacks for its next trial; 0 without a driver, or where
    none is left."""
    left = search.ended < search.record.trials or search.unfinished
    if search.driver is None or not left:
        return 0
    return lacking_bytes(search.folder / "trials", search.unfinished)


def hint_of_life(owner: Mapping[str, Any]) -> str:
    """What a look may say of an owner whose process is not in this process table."""
    age = seconds_since_renewal(owner)
    unknown = "whether it lives, one look cannot tell"
    if age is None:
        return unknown
    if age < -EXPIRE_SECONDS:
        return f"{unknown} (its clock was {duration(-age)} ahead of this machine's)"
    likely = "probably not" if age > EXPIRE_SECONDS else "probably yes"
    heard = f"last heard of {duration(max(age, 0.0))} ago by the two clocks"
    return f"{unknown} ({likely}: {heard})"


def status_json(search: Search) -> dict[str, Any]:
    """What ``robsearch status --json`` prints.

    Rates are shares, times seconds, and what is not known is None. ``rows`` has a row per width,
    rung and for all controls (``label``), with counts of suggestions by state and what they took
    (``costs.Cost``; ``cost`` is that of the search); ``lam``, ``value`` and ``params`` are those of
    the best trial. ``best`` has of each width's best trial the strongest known figure
    (``strongest.Figure``), and the one on ``val`` by which it was selected. ``driver`` is None if
    nobody drives it; its ``alive`` is True if its process is on this machine, and None if this look
    cannot tell whether it lives (``robsearch.study.living_owner``). ``underway`` has each training
    that runs: how far it is (``trials.underway.Underway``). ``lacking_bytes`` are those
    that the results folder lacks for its next trial. ``failure_groups`` has
    each reason once, with the trials that failed for it, and for each searched parameter its values
    among them and among the trials that ended without a failure. ``law`` has the exponent by each
    family of curves, the p of the test whether one shape fits all widths, and ``regret``: what at
    one width the lambda* of another loses.
    """
    failed = search.trials[search.trials["state"] == "FAIL"]
    failures = []
    for _, trial in failed.iterrows():
        facts = {"trial": trial["trial"], "reason": trial["reason"], "params": params_of(trial)}
        failures.append(facts)
    rows = []
    for row in status_rows(search):
        states = {name: row.states[name] for name in STATES}
        rows.append({**row._asdict(), "states": states})
    return {
        "name": search.name,
        "space": search.space,
        "folder": search.folder,
        "ended": search.ended,
        "asked": search.record.trials,
        "unfinished": search.unfinished,
        "underway": _underway_json(search),
        "driver": search.driver,
        "lacking_bytes": lacking_space(search),
        "rows": rows,
        "cost": search.cost._asdict(),
        "best": [_best_json(search, width) for width in search.widths],
        "collapsed": list(search.trials.loc[collapsed_among(search.trials), "trial"]),
        "dropped": list(search.trials.loc[search.trials["state"] == DROPPED, "trial"]),
        "failures": failures,
        "failure_groups": [vars(group) for group in failures_of(search.trials)],
        "law": law_json(search),
        "report": search.report if search.report.exists() else None,
        "tracking": search.record.tracking,
    }


def _underway_json(search: Search) -> list[dict[str, Any]]:
    if search.driver is None:
        return []
    return [each._asdict() for each in trainings_underway(search.trials, search.epochs)]


def law_json(search: Search) -> dict[str, Any]:
    """The law in words and numbers; what is not determined is None."""
    ridge = search.ridge
    families = [
        {"family": family, "exponent": exponent, "interval": (low, high)}
        for family, (exponent, low, high) in ridge.slopes.items()
    ]
    return {
        "sentence": ridge.sentence(),
        "group": ridge.group or None,
        "exponent": ridge.slope,
        "interval": ridge.slope_interval,
        "optima": [ridge.optimum(width)._asdict() for width in search.widths],
        "families": families,
        "one_shape_p": None if ridge.shape is None else ridge.shape.p,
        "regret": _regret_json(ridge.regret),
    }


def _regret_json(regret: RegretMap | None) -> list[dict[str, Any]]:
    """A row for each pair of different widths; rates, not points."""
    if regret is None:
        return []
    lams = dict(zip(regret.widths, regret.lams, strict=True))
    placed = dict(zip(regret.widths, regret.placed, strict=True))
    return [
        {
            "width": width,
            "lam_star_of": other,
            "lam": lams[other],
            "placed": placed[other],
            **loss._asdict(),
        }
        for (width, other), loss in regret.losses.items()
        if width != other
    ]


def _best_json(search: Search, width: float) -> dict[str, Any]:
    best = search.best(width)
    figure = None if best is None else figure_of(best)
    selection = search.selection(width)
    if best is None or figure is None or selection is None:
        return {"width": width, "why_none": search.all_collapsed(width) or None}
    return {
        "width": width,
        "trial": best["trial"],
        "strongest": figure._asdict(),
        "selected_by": {
            **selection.val._asdict(),
            "best_of": selection.trials,
            "optimism": selection.optimism,
        },
        "lam": best["lam"],
        "value": best["value"],
        "feasible": best["feasible"],
        "params": params_of(best),
        "why_none": None,
    }
