"""A validation in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from rich.text import Text

from robsearch.claims.form import Verdict
from robsearch.claims.page import estimated, why
from robsearch.claims.planning import Planned
from robsearch.search.grid import Grid
from robsearch.search.table import duration
from robsearch.wording import counted

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


def frame_lines(tables: Mapping[str, pd.DataFrame]) -> Iterator[Grid]:
    """Data frames as tables."""
    for caption, frame in tables.items():
        rows = list(zip(*(map(str, frame[name]) for name in frame.columns), strict=True))
        yield Grid([str(name) for name in frame.columns], rows, Text(caption, style="bold"))


def plan_lines(planned: Mapping[str, Sequence[Planned]]) -> Iterator[Grid | Text]:
    """What would be trained, by design."""
    heads = ["experiment", "arms", "widths", "seeds", "trainings", "training", "judging ≤"]
    cells = []
    rows = [(design, one) for design, experiments in planned.items() for one in experiments]
    for design, (asked, cost) in rows:
        name = "-".join(part for part in (design, asked.name) if part)
        widths = ", ".join(f"{width:g}" for width in asked.widths)
        counts = [str(len(asked.arms)), widths, str(asked.seeds), str(asked.trainings)]
        cells.append([name, *counts, *map(duration, cost)])
    yield Grid(heads, cells, left=frozenset({"experiment"}))
    trainings = sum(one.experiment.trainings for _, one in rows)
    training, judging = (duration(sum(seconds)) for seconds in zip(*(one.cost for _, one in rows), strict=True))
    told = f"on one device like this one {training}, and up to {judging} of attacks on test"
    yield Text(f"{counted(trainings, 'training')}: {told}")
