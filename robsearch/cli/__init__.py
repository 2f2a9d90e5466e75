"""The command line: parses, calls, prints. What is heavy is imported inside the commands, so help
is quick."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robsearch.cli.claims import validate
from robsearch.cli.data import data_app
from robsearch.cli.evaluating import evaluate
from robsearch.cli.looking import check, compare, doctor, plot, report, status, ui
from robsearch.cli.options import (
    AddressOrUrl,
    DiskBudget,
    DiskPatience,
    GpusOrAuto,
    HangAfter,
    MaxGpuHours,
    MaxHours,
    NameArgument,
    OrResume,
    Parallel,
    PassEnv,
    Results,
    SpaceArgument,
    SpaceOption,
    Storage,
    StoragePatience,
    Tracking,
    TrialMaxHours,
)
from robsearch.cli.publishing import paper, verify
from robsearch.cli.starting import new
from robsearch.cli.steering import clean, delete, drop, list_searches
from robsearch.cli.submitting import Follow, JobAddress, Launching, Looking
from robsearch.cli.usage import run
from robsearch.errors import DiskFullError, InputError, LeaseLostError, StorageAwayError
from robsearch.printing import echo, keep_printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from robsearch.search import RunOptions, Search

app = typer.Typer(
    help=(
        "Distributed hyperparameter search for adversarial training: lambda as a function of width."
    ),
    epilog="Start with: robsearch launch search_spaces.quickstart:digits",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        echo(f"robsearch {version('robsearch')}")
        raise typer.Exit


@app.callback()
def _program(
    asked: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_tell_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


app.add_typer(data_app, name="data")
app.command()(new)
app.command()(check)


@app.command(cls=Launching)
def launch(
    space: SpaceArgument,
    name: Annotated[
        str | None, typer.Option(help="of the search (default: the space's name and a number)")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="in all widths together (default: 10 per width)")
    ] = None,
    seed: Annotated[int, typer.Option(help="from which every trial's seed derives")] = 0,
    or_resume: OrResume = False,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: AddressOrUrl = None,
    follow: Follow = False,
    parallel: Parallel = None,
    gpus_per_trial: GpusOrAuto = None,
    hang_after: HangAfter = 7200.0,
    pass_env: PassEnv = None,
    storage_patience: StoragePatience = 600.0,
    disk_patience: DiskPatience = 86_400.0,
    disk_budget: DiskBudget = None,
    max_hours: MaxHours = None,
    trial_max_hours: TrialMaxHours = None,
    max_gpu_hours: MaxGpuHours = None,
) -> None:
    """Search a space: train on Ray, decide with Optuna, record in MLflow, end with a law and a
    report."""
    _say_loading(space)
    from robsearch.search import RunOptions, launch as launch_search

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
        disk_budget=disk_budget,
        max_hours=max_hours,
        trial_max_hours=trial_max_hours,
        max_gpu_hours=max_gpu_hours,
    )
    search = launch_search(
        space, name=name, trials=trials, seed=seed, options=options, or_resume=or_resume
    )
    # A loop around this command ends once nothing is left to do, whatever failed.
    _conclude(search, options, is_enough=or_resume and not search.stopped)


@app.command(cls=Launching)
def resume(
    name: NameArgument,
    trials: Annotated[int, typer.Option(help="to add to those asked for before")] = 0,
    space: SpaceOption = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: AddressOrUrl = None,
    follow: Follow = False,
    parallel: Parallel = None,
    gpus_per_trial: GpusOrAuto = None,
    hang_after: HangAfter = 7200.0,
    pass_env: PassEnv = None,
    storage_patience: StoragePatience = 600.0,
    disk_patience: DiskPatience = 86_400.0,
    disk_budget: DiskBudget = None,
    max_hours: MaxHours = None,
    trial_max_hours: TrialMaxHours = None,
    max_gpu_hours: MaxGpuHours = None,
) -> None:
    """Go on with a search that was interrupted or killed, or give it more trials."""
    _say_loading(name)
    from robsearch.search import RunOptions, resume as resume_search

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
        disk_budget=disk_budget,
        max_hours=max_hours,
        trial_max_hours=trial_max_hours,
        max_gpu_hours=max_gpu_hours,
    )
    _conclude(resume_search(name, trials=trials, space=space, options=options), options)


@app.command(cls=Looking)
def stop(
    name: NameArgument,
    trial: Annotated[
        str | None, typer.Option(help="end this one alone, such as w4-017: it counts as pruned")
    ] = None,
    results: Results = None,
    storage: Storage = None,
    address: JobAddress = None,
) -> None:
    """End a search that runs in another terminal or on another machine, cleanly; `resume` goes
    on."""
    from robsearch.search import RunOptions
    from robsearch.search.commands.stop import stop as stop_search, stop_trial

    options = RunOptions(results=results, storage=storage)
    if trial is not None:
        stop_trial(name, trial, options, echo)
    else:
        stop_search(name, options, echo)


app.command()(evaluate)
app.command()(drop)
app.command()(clean)
app.command()(delete)
app.command("list")(list_searches)
# Commands stand in the help in the order in which they are added.
app.command(cls=Looking)(status)
app.command()(compare)
app.command()(paper)
app.command()(verify)
app.command(cls=Looking)(report)
app.command()(plot)
for _look in (ui, doctor, validate):
    app.command()(_look)


@app.command()
def sync(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="of the search; without one, all")
    ] = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Bring MLflow's record up to date with what the storage and the folders say."""
    from robsearch.search import RunOptions
    from robsearch.search.syncing import sync as sync_search, sync_all

    options = RunOptions(results=results, storage=storage, tracking=tracking)
    behind = sync_all(options, echo) if name is None else sync_search(name, options, echo)
    if behind:
        raise typer.Exit(1)


@app.command()
def repair(
    name: NameArgument,
    apply: Annotated[
        bool, typer.Option("--apply", help="write it; without this, only say what would be done")
    ] = False,
    space: SpaceOption = None,
    results: Results = None,
) -> None:
    """Mend a damaged journal: leave out what is damaged, and note again what trials' folders
    know."""
    from robsearch.search import RunOptions
    from robsearch.search.commands.repair import repair as repair_search

    options = RunOptions(results=results)
    plan = repair_search(name, options, apply=apply, space=space, say=echo)
    if plan.problems or plan.lost_attributes:
        raise typer.Exit(1)


@app.command()
def promote(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="NAME (the best trial of each width), NAME/TRIAL, or a run id"
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--as", help="of the registered model (default: NAME-wWIDTH)")
    ] = None,
    space: SpaceOption = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Register the best networks in MLflow's model registry; they load without robsearch."""
    from robsearch.search import RunOptions
    from robsearch.search.commands.promote import promote as promote_networks

    options = RunOptions(results=results, storage=storage, tracking=tracking)
    promote_networks(target, name=name, space=space, options=options, say=echo)


def _say_loading(what: str) -> None:
    """Says at once what takes the next seconds, and begins with it."""
    echo(f"loading and checking {what} ...", err=True)
    from robsearch.trials.child.client import warm_up

    warm_up()


def _conclude(search: Search, options: RunOptions, is_enough: bool = False) -> None:
    from robsearch.search.summary import closing_lines

    for line in closing_lines(search, options):
        echo(line)
    if search.ended < search.record.trials and not is_enough:
        # 130 is what a shell gives a command that was interrupted.
        failed = (search.trials["state"] == "FAIL").any()
        raise typer.Exit(1 if failed and not search.unfinished else 130)


def _warn_once(show: Callable[..., None]) -> Callable[..., None]:
    """Prints each warning of robsearch once, as one line; those of other packages go where they
    always go."""
    shown_texts: set[str] = set()

    def tell(
        message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any
    ) -> None:
        if category is not UserWarning or "robsearch" not in filename:
            show(message, category, filename, *where, **more)
        elif str(message) not in shown_texts:
            shown_texts.add(str(message))
            echo(f"warning: {message}", err=True)

    return tell


def main() -> None:
    """The entry point: bad input is one clear message and exit code 2; a search taken over, a
    full disk, or a storage that is away, code 1."""
    # Only the command line changes these: importing robsearch changes nothing.
    keep_printable()
    warnings.showwarning = _warn_once(warnings.showwarning)
    try:
        sys.exit(run(app))
    except InputError as error:
        problems = error.problems
        head = "error: " if len(problems) == 1 else f"{len(problems)} errors:\n  "
        echo(head + "\n  ".join(problems), err=True)
        sys.exit(2)
    except (LeaseLostError, DiskFullError, StorageAwayError) as error:
        echo(f"error: {error}", err=True)
        sys.exit(1)
