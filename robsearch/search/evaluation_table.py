"""An evaluation as a person reads it: the ladder, the signs of gradient masking, and the rank-flip alarm."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from robsearch.ladder import Standing, standings
from robsearch.masking import Check
from robsearch.search.evaluating import Evaluation
from robsearch.search.grid import Grid


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


def ladder_table(evaluation: Evaluation) -> Grid:
    """One row per network and rung: robust accuracy with its interval, and what it took."""
    rows = [
        [one.trial, standing.rung, f"{one.lam:.3g}", *_cells(standing)]
        for one in evaluation.finalists
        if one.trial in evaluation.ladders
        for standing in standings(evaluation.ladders[one.trial])
    ]
    heads = ["trial", "rung", "lam", "%", "95 %", "tried on", "broken", "s"]
    return Grid(heads, rows, Text("robust accuracy on test", style="bold"), keys=2, left=frozenset({"trial"}))


def _cells(standing: Standing) -> list[str]:
    share, low, high = (f"{100 * value:.1f}" for value in (standing.robust_accuracy, standing.low, standing.high))
    counts = (f"{standing.attacked:,}", f"{standing.broken:,}") if standing.attacked else ("", "")
    return [share, f"{low}..{high}", *counts, f"{standing.seconds:.0f}"]


def masking_table(trial: str, checks: list[Check]) -> Grid:
    """One row per sign of gradient masking that was looked for."""
    title = Text(f"{trial}: is robustness real, or are gradients masked?", style="bold")
    heads = ["check", "verdict", "evidence"]
    return Grid(heads, [_finding(check) for check in checks], title, left=frozenset(heads))


def _finding(check: Check) -> list[str | Text]:
    verdict = Text("ok", style="green") if check.passed else Text("FAILED", style="bold red")
    return [check.name, verdict, check.evidence if check.passed else f"{check.evidence}. {check.advice}"]
