"""``robsearch validate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robsearch.cli.options import (
    Address,
    DiskPatience,
    Gpus,
    HangAfter,
    Parallel,
    PassEnv,
    Results,
    Storage,
    StoragePatience,
    Tracking,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.text import Text

    from robsearch.claims.planning import PowerAnalysis
    from robsearch.search import RunOptions
    from robsearch.search.grid import Grid


def validate(
    paper: Annotated[
        str,
        typer.Argument(
            metavar="PAPER", help="war, norms, margins, regularization, or module:name of a study"
        ),
    ],
    preset: Annotated[
        str,
        typer.Option(help="digits, fashion, cifar10 or paper; of war also wrong-labels and drift"),
    ] = "digits",
    design: Annotated[
        str | None, typer.Option(help="one of a preset's several designs (default: all)")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="of the validation (default: PAPER-PRESET, or MODULE-NAME)")
    ] = None,
    seed: Annotated[int, typer.Option(help="from which every training's seed derives")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan and its cost, train nothing")
    ] = False,
    pilot: Annotated[
        str | None,
        typer.Option(
            help="with --dry-run: a finished validation of fewer seeds, or its folder; what could "
            "be seen at its spread, with exit code 2 where the power for a primary claim is below "
            "0.8 or not known"
        ),
    ] = None,
    from_table: Annotated[
        Path | None,
        typer.Option(help="judge H1 and H2 on a CSV of somebody else's trainings, train nothing"),
    ] = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    parallel: Parallel = None,
    gpus_per_trial: Gpus = None,
    hang_after: HangAfter = 7200.0,
    pass_env: PassEnv = None,
    storage_patience: StoragePatience = 600.0,
    disk_patience: DiskPatience = 86_400.0,
) -> None:
    """Test a paper's claims: train its experiments as ordinary trials, and give a verdict on
    each."""
    from robsearch.claims.page import REPORT
    from robsearch.claims.planning import plan, power_analysis, read_pilot
    from robsearch.claims.running import validate as validate_study
    from robsearch.claims.terminal import plan_lines, result_lines
    from robsearch.papers.presets import designs
    from robsearch.search import RunOptions
    from robsearch.search.grid import printed

    console = printed()

    def show(lines: Iterator[Grid | Text]) -> None:
        for line in lines:
            console.print(line, highlight=False)

    if from_table is not None:
        show(_lines_of_table(paper, from_table))
        return
    options = RunOptions(
        results=results,
        storage=storage,
        tracking=tracking,
        address=address,
        parallel=parallel,
        gpus_per_trial=gpus_per_trial,
        hang_after=hang_after,
        pass_env=pass_env or (),
        storage_patience=storage_patience,
        disk_patience=disk_patience,
    )
    with options.store.current():  # where a study finds the searches that it reads
        studies = designs(paper, preset, design)
        if dry_run:
            powers = []
            # A pilot that does not fit is refused before minutes of measuring.
            if pilot is not None:
                seen = read_pilot(_pilot_folder(pilot, options))
                powers = [power_analysis(study, seen) for study in studies.values()]
            with console.status("measuring an epoch at each width"):
                planned = {suffix: plan(study) for suffix, study in studies.items()}
            show(plan_lines(planned))
            _show_powers(powers, show)
            return
        # A colon has no place in the name of a folder.
        stem = name or (paper.replace(":", "-") if ":" in paper else f"{paper}-{preset}")
        for suffix, study in studies.items():
            full_name = f"{stem}-{suffix}" if suffix else stem
            validation = validate_study(
                study, full_name, seed=seed, options=options, console=console
            )
            if validation is None:
                console.print("stopped before its end; the same command goes on")
                raise typer.Exit(130)
            console.print(full_name, style="bold")
            show(result_lines(validation.tables, validation.verdicts))
            report = validation.folder / REPORT
            console.print(f"Report: {report}", soft_wrap=True, highlight=False)


def _pilot_folder(pilot: str, options: RunOptions) -> Path:
    """A folder as it is; a name in the results folder."""
    return Path(pilot) if Path(pilot).is_dir() else options.store.folder(pilot)


def _show_powers(
    powers: Sequence[PowerAnalysis],
    show: Callable[[Iterator[Grid | Text]], None],
) -> None:
    """What each claim's parts could see, by design.

    Raises:
        InputError: a primary claim has less than 80 % power, or none that is known.
    """
    from robsearch.claims.terminal import power_lines
    from robsearch.errors import refuse

    for analysis in powers:
        show(power_lines(analysis))
    refuse(problem for analysis in powers for problem in analysis.refusals)


def _lines_of_table(paper: str, file: Path) -> Iterator[Grid | Text]:
    from robsearch.claims.terminal import result_lines
    from robsearch.errors import refused
    from robsearch.papers.war.from_table import judged_table, read_table

    if paper != "war":
        do = "its H1 and H2 are what a table can tell"
        raise refused("war with --from-table", repr(paper), do)
    verdicts, tables = judged_table(read_table(file))
    return result_lines(tables, verdicts)
