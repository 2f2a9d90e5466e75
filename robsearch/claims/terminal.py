"""A validation in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from rich.text import Text

from robsearch.claims.claim import Verdict, estimated, why
from robsearch.claims.planning import Planned, PowerAnalysis
from robsearch.errors import counted
from robsearch.search.grid import Grid, duration

COLORS = {
    "supported": "green",
    "refuted": "red",
    "negligible": "cyan",
    "inconclusive": "yellow",
}


def result_lines(
    tables: Mapping[str, pd.DataFrame], verdicts: Sequence[Verdict]
) -> Iterator[Grid | Text]:
    """The tables, then each claim with its verdict and a line for each effect."""
    yield from table_lines(tables)
    for verdict in verdicts:
        claim = verdict.claim
        name = (f"{claim.name} ", "bold")
        answer = (verdict.answer, COLORS[verdict.answer])
        yield Text.assemble(name, answer, f"  {claim.sentence}")
        for part in verdict.parts:
            unit = f" {part.effect.unit}" if part.effect.unit else ""
            seeds = f"n = {part.estimate.n}; matters from {part.effect.delta:.3g}"
            yield Text(f"   {part.effect.what}: {estimated(part)}{unit} ({seeds})")
        reason = why(verdict)
        if reason:
            yield Text(f"   {reason}", style="dim")


def table_lines(tables: Mapping[str, pd.DataFrame]) -> Iterator[Grid]:
    """Data frames as tables."""
    for caption, frame in tables.items():
        heads = list(map(str, frame.columns))
        rows = frame.astype(str).to_numpy().tolist()
        yield Grid(heads, rows, Text(caption, style="bold"))


def power_lines(analysis: PowerAnalysis) -> Iterator[Grid | Text]:
    """What a plan can see, by part; then each claim of which that is not known."""
    heads = ["claim", "part", "to be seen", "spread in the pilot", "seeds", "power", "needed"]
    rows = [
        [
            each.claim,
            each.part.effect.what,
            f"{each.effect:.3g} {each.part.effect.unit}".rstrip(),
            f"{each.part.estimate.sd:.3g} (n = {each.part.estimate.n})",
            str(each.seeds),
            f"{each.power:.2f}",
            "> 1,000" if each.needed is None else str(each.needed),
        ]
        for each in analysis.parts
    ]
    yield Grid(heads, rows, left=frozenset({"claim", "part"}))
    for unseen in analysis.unseen:
        yield Text.assemble((f"{unseen.claim.name} ", "bold"), f"cannot be judged: {unseen.reason}")


def plan_lines(designs: Mapping[str, Sequence[Planned]]) -> Iterator[Grid | Text]:
    """What would be trained, by design."""
    heads = ["experiment", "arms", "widths", "seeds", "trainings", "training", "judging ≤"]
    rows = []
    trainings = 0
    training = 0.0
    judging = 0.0
    for design, planned in designs.items():
        for experiment, cost in planned:
            rows.append(
                [
                    f"{design}-{experiment.name}" if design else experiment.name,
                    str(len(experiment.arms)),
                    ", ".join(f"{width:g}" for width in experiment.widths),
                    str(experiment.seeds),
                    str(experiment.trainings),
                    duration(cost.training),
                    duration(cost.judging),
                ]
            )
            trainings += experiment.trainings
            training += cost.training
            judging += cost.judging
    yield Grid(heads, rows, left=frozenset({"experiment"}))
    yield Text(
        f"{counted(trainings, 'training')}: on one device like this one {duration(training)}, "
        f"and up to {duration(judging)} of attacks on test"
    )
