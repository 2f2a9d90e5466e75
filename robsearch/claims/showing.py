"""A validation in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

from robsearch.claims.form import Verdict
from robsearch.claims.page import estimated, why
from robsearch.claims.planning import Planned
from robsearch.search.table import duration

COLORS = {"supported": "green", "refuted": "red", "inconclusive": "yellow"}


def verdict_lines(verdicts: Sequence[Verdict]) -> Iterator[Text]:
    """Each claim with its verdict, then a line for each effect."""
    for verdict in verdicts:
        claim = verdict.claim
        yield Text.assemble((f"{claim.name} ", "bold"), (verdict.answer, COLORS[verdict.answer]), f"  {claim.sentence}")
        for part in verdict.parts:
            unit = f" {part.effect.unit}" if part.effect.unit else ""
            seeds = f"n = {part.found.n}; matters from {part.effect.delta:.3g}"
            yield Text(f"   {part.effect.what}: {estimated(part)}{unit} ({seeds})")
        if told := why(verdict):
            yield Text(f"   {told}", style="dim")


def frame_lines(tables: Mapping[str, pd.DataFrame], room: float = math.inf) -> Iterator[Table | Text]:
    """Data frames as tables; one that ``room`` columns do not hold, even a word to a line, is left to the page."""
    for caption, frame in tables.items():
        cells = [[str(name), *map(str, frame[name])] for name in frame.columns]
        least = [max(len(word) for cell in own for word in cell.split()) for own in cells]
        wanted = [max(map(len, own)) - width for own, width in zip(cells, least, strict=True)]
        spare = room - sum(least) - 2 * len(least)
        if spare < 0:
            yield Text(f"{caption}: {len(frame)} rows, too wide for this terminal; see the report", style="dim")
            continue
        share = min(1.0, spare / max(sum(wanted), 1))
        table = Table(title=caption, title_justify="left", title_style="bold", box=None, header_style="dim")
        for own, width, more in zip(cells, least, wanted, strict=True):
            table.add_column(own[0], width=width + int(share * more))
        for row in zip(*(own[1:] for own in cells), strict=True):
            table.add_row(*row)
        yield table


def plan_lines(planned: Mapping[str, Sequence[Planned]]) -> Iterator[Table | Text]:
    """What would be trained, by design."""
    table = Table(box=None, header_style="dim")
    for name in ("experiment", "arms", "widths", "seeds", "trainings", "training", "judging ≤"):
        table.add_column(name, justify="left" if name == "experiment" else "right")
    rows = [(design, one) for design, experiments in planned.items() for one in experiments]
    for design, (asked, cost) in rows:
        name = "-".join(part for part in (design, asked.name) if part)
        widths = ", ".join(f"{width:g}" for width in asked.widths)
        counts = [str(len(asked.arms)), widths, str(asked.seeds), str(asked.trainings)]
        table.add_row(name, *counts, *map(duration, cost))
    yield table
    trainings = sum(one.experiment.trainings for _, one in rows)
    training, judging = (duration(sum(seconds)) for seconds in zip(*(one.cost for _, one in rows), strict=True))
    yield Text(f"{trainings} trainings: on one device like this one {training}, and up to {judging} of attacks on test")
