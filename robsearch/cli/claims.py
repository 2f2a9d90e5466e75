"""``robsearch validate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robsearch.cli.options import Address, Gpus, HangAfter, Parallel, Results, Storage, Tracking

if TYPE_CHECKING:
    from rich.console import Console

    from robsearch.claims.presets import Designs
    from robsearch.search import Means


def validate(
    paper: Annotated[
        str, typer.Argument(metavar="PAPER", help="war, norms, margins, regularization, or module:name of a study")
    ],
    preset: Annotated[str, typer.Option(help="digits, fashion, cifar10 or paper")] = "digits",
    design: Annotated[str | None, typer.Option(help="one of a preset's several designs (default: all)")] = None,
    name: Annotated[str | None, typer.Option(help="of the validation (default: PAPER-PRESET, or MODULE-NAME)")] = None,
    seed: Annotated[int, typer.Option(help="from which every training's seed derives")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and its cost, train nothing")] = False,
    from_table: Annotated[
        Path | None, typer.Option(help="judge H1 and H2 on a CSV of somebody else's trainings, train nothing")
    ] = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    parallel: Parallel = None,
    gpus_per_trial: Gpus = None,
    hang_after: HangAfter = 7200.0,
) -> None:
    """Test a paper's claims: train its experiments as ordinary trials, and give a verdict on each."""
    from robsearch.claims.presets import designs
    from robsearch.search import Means
    from robsearch.search.grid import printed

    console = printed()
    if from_table is not None:
        _judge_table(paper, from_table, console)
        return
    means = Means(results, storage, tracking, address, parallel, gpus_per_trial, hang_after)
    with means.place.current():  # where a study finds the searches that it reads
        chosen = _chosen(designs(paper, preset), design)
        if dry_run:
            _show_plan(chosen, console)
        else:
            stem = name or (paper.replace(":", "-") if ":" in paper else f"{paper}-{preset}")
            _validate_all(chosen, stem, seed, means, console)


def _chosen(found: Designs, design: str | None) -> Designs:
    from robsearch.errors import InputError, refusal

    if design is None:
        return found
    if design not in found:
        known = ", ".join(found).strip(", ") or "none: it is one design"
        raise InputError(refusal(f"--design out of {known}", repr(design), "pass one of these, or leave it out"))
    return {design: found[design]}


def _show_plan(chosen: Designs, console: Console) -> None:
    from robsearch.claims.planning import plan
    from robsearch.claims.showing import plan_lines

    with console.status("measuring an epoch at each width"):
        planned = {suffix: plan(study) for suffix, study in chosen.items()}
    for part in plan_lines(planned):
        console.print(part, highlight=False)


def _validate_all(chosen: Designs, stem: str, seed: int, means: Means, console: Console) -> None:
    from robsearch.claims.running import validate as validate_study
    from robsearch.claims.showing import frame_lines, verdict_lines

    for suffix, study in chosen.items():
        name = "-".join(part for part in (stem, suffix) if part)
        found = validate_study(study, name, seed=seed, means=means, console=console)
        if found is None:
            console.print("stopped before its end; the same command goes on")
            raise typer.Exit(130)
        console.print(name, style="bold")
        for part in (*frame_lines(found.tables), *verdict_lines(found.verdicts)):
            console.print(part, highlight=False)
        console.print(f"Report: {found.folder / 'report.html'}", soft_wrap=True, highlight=False)


def _judge_table(paper: str, file: Path, console: Console) -> None:
    from robsearch.claims.public import judged_table, read_table
    from robsearch.claims.showing import frame_lines, verdict_lines
    from robsearch.errors import InputError, refusal

    if paper != "war":
        raise InputError(refusal("war with --from-table", repr(paper), "its H1 and H2 are what a table can tell"))
    verdicts, tables = judged_table(read_table(file))
    for part in (*frame_lines(tables), *verdict_lines(verdicts)):
        console.print(part, highlight=False)
