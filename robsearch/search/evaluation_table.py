"""An evaluation as a person reads it: the ladder, the signs of gradient masking, and the rank-flip alarm."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from robsearch.ladder import Standing, standings
from robsearch.masking import Check
from robsearch.search.evaluating import Evaluation


def shown(evaluation: Evaluation) -> Iterator[RenderableType]:
    """What ``robsearch evaluate`` prints, in parts."""
    if evaluation.ladders:
        yield ladder_table(evaluation)
    for trial, checks in evaluation.checks.items():
        if not checks:
            continue  # at eps=0 there is no attack to be misled
        yield masking_table(trial, checks)
    for trial, problem in evaluation.problems.items():
        yield Text(f"{trial}: not evaluated: {problem}", style="bold red")
    found = evaluation.flips
    for flip in found:
        yield Text(f"rank flip: {flip}", style="bold yellow")
    if len(evaluation.ladders) > 1 and not found:
        yield Text("no rank flip: every rung orders these networks alike")


def ladder_table(evaluation: Evaluation) -> Table:
    """One row per network and rung: robust accuracy with its interval, and what it took."""
    table = Table(title="robust accuracy on test", title_justify="left")
    for name in ("trial", "lam", "rung"):
        table.add_column(name, justify="right" if name == "lam" else "left", no_wrap=True)
    for name in ("%", "95 %", "tried on", "broken", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in evaluation.finalists:
        if one.trial in evaluation.ladders:
            for i, standing in enumerate(standings(evaluation.ladders[one.trial])):
                head = (one.trial, f"{one.lam:.3g}") if i == 0 else ("", "")
                table.add_row(*head, *_cells(standing))
            table.add_section()
    return table


def _cells(standing: Standing) -> list[str]:
    share, low, high = (f"{100 * value:.1f}" for value in (standing.robust_accuracy, standing.low, standing.high))
    counts = (f"{standing.attacked:,}", f"{standing.broken:,}") if standing.attacked else ("", "")
    return [standing.rung, share, f"{low} - {high}", *counts, f"{standing.seconds:.0f}"]


def masking_table(trial: str, checks: list[Check]) -> Table:
    """One row per sign of gradient masking that was looked for."""
    table = Table(title=f"{trial}: is robustness real, or are gradients masked?", title_justify="left")
    table.add_column("check")
    table.add_column("verdict", no_wrap=True)
    table.add_column("evidence")
    for check in checks:
        verdict = Text("ok", style="green") if check.passed else Text("FAILED", style="bold red")
        table.add_row(check.name, verdict, check.evidence if check.passed else f"{check.evidence}. {check.advice}")
    return table
