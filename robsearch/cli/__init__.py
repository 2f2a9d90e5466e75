"""The command line: parses, calls, prints. What is heavy is imported inside the commands, so help is quick."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robsearch.child import warm_up
from robsearch.cli.claims import validate
from robsearch.cli.data import data_app
from robsearch.cli.looking import check, compare, doctor, report, status, ui
from robsearch.cli.options import (
    Address,
    DiskBudget,
    Gpus,
    GpusOrAuto,
    HangAfter,
    NameArgument,
    Parallel,
    Results,
    SpaceArgument,
    SpaceOption,
    Storage,
    Tracking,
)
from robsearch.disk import DiskFullError
from robsearch.errors import InputError, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from robsearch.search import Means, Search

app = typer.Typer(
    help="Distributed hyperparameter search for adversarial training: lambda as a function of width.",
    epilog="Start with: robsearch launch search_spaces.quickstart:digits",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"robsearch {version('robsearch')}")
        raise typer.Exit


@app.callback()
def _program(
    asked: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_tell_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Options of the program itself."""


app.add_typer(data_app, name="data")
app.command()(check)


@app.command()
def launch(
    space: SpaceArgument,
    name: Annotated[str | None, typer.Option(help="of the search (default: the space's name and a number)")] = None,
    trials: Annotated[int | None, typer.Option(help="in all widths together (default: 10 per width)")] = None,
    seed: Annotated[int, typer.Option(help="from which every trial's seed derives")] = 0,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    parallel: Parallel = None,
    gpus_per_trial: GpusOrAuto = None,
    hang_after: HangAfter = 7200.0,
    disk_budget: DiskBudget = None,
) -> None:
    """Search a space: train on Ray, decide with Optuna, record in MLflow, end with a law and a report."""
    warm_up()
    from robsearch.search import Means
    from robsearch.search import launch as launch_search

    means = Means(results, storage, tracking, address, parallel, gpus_per_trial, hang_after, disk_budget)
    _conclude(launch_search(space, name=name, trials=trials, seed=seed, means=means), means)


@app.command()
def resume(
    name: NameArgument,
    trials: Annotated[int, typer.Option(help="to add to those asked for before")] = 0,
    space: SpaceOption = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    parallel: Parallel = None,
    gpus_per_trial: GpusOrAuto = None,
    hang_after: HangAfter = 7200.0,
    disk_budget: DiskBudget = None,
) -> None:
    """Go on with a search that was interrupted or killed, or give it more trials."""
    warm_up()
    from robsearch.search import Means
    from robsearch.search import resume as resume_search

    means = Means(results, storage, tracking, address, parallel, gpus_per_trial, hang_after, disk_budget)
    _conclude(resume_search(name, trials=trials, space=space, means=means), means)


@app.command()
def stop(name: NameArgument, results: Results = None, storage: Storage = None) -> None:
    """End a search that runs in another terminal or on another machine, cleanly; `resume` goes on."""
    from robsearch.search import Means
    from robsearch.search.stopping import stop as stop_search

    stop_search(name, Means(results, storage), typer.echo)


@app.command()
def evaluate(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="NAME (its best trials), NAME/TRIAL, a checkpoint's folder, or a run id"),
    ],
    rung: Annotated[str, typer.Option(help="how far to go: pgd, apgd-ce, apgd or autoattack")] = "apgd",
    top: Annotated[int, typer.Option(help="trials of each width, when a whole search is meant")] = 1,
    space: SpaceOption = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    parallel: Parallel = None,
    gpus_per_trial: Gpus = None,
    hang_after: HangAfter = 7200.0,
) -> None:
    """Attack finalists harder, up to AutoAttack, and look for gradient masking; goes on where it was stopped."""
    from robsearch.search import Means
    from robsearch.search import evaluate as evaluate_networks
    from robsearch.search.evaluation_table import shown
    from robsearch.search.grid import printed

    console = printed()
    means = Means(results, storage, tracking, address, parallel, gpus_per_trial, hang_after)
    evaluation = evaluate_networks(target, rung=rung, top=top, space=space, means=means, console=console)
    for part in shown(evaluation):
        console.print(part, highlight=False)
    if evaluation.problems:
        raise typer.Exit(1)


for _look in (status, compare, report, ui, doctor, validate):
    app.command()(_look)


@app.command()
def sync(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="of the search; without one, all")] = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Deliver to MLflow what an outage, or the death of a driver, kept back."""
    from robsearch.search import Means
    from robsearch.search.syncing import sync as sync_search
    from robsearch.search.syncing import sync_all

    means = Means(results, storage, tracking)
    if sync_search(name, means, typer.echo) if name is not None else sync_all(means, typer.echo):
        raise typer.Exit(1)


@app.command()
def promote(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="NAME (the best trial of each width), NAME/TRIAL, or a run id")
    ],
    name: Annotated[str | None, typer.Option("--as", help="of the registered model (default: NAME-wWIDTH)")] = None,
    space: SpaceOption = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Register the best networks in MLflow's model registry; they load without robsearch."""
    from robsearch.search import Means
    from robsearch.search.promoting import promote as promote_networks

    means = Means(results, storage, tracking)
    promote_networks(target, name=name, space=space, means=means, say=typer.echo)


def _conclude(search: Search, means: Means) -> None:
    from robsearch.search.opening import closing_lines

    for line in closing_lines(search, means):
        typer.echo(line)
    if search.ended < search.record.trials:
        failed = (search.trials["state"] == "FAIL").any()
        raise typer.Exit(1 if failed and not search.unfinished else 130)


def _told_once(elsewhere: Callable[..., None]) -> Callable[..., None]:
    """Prints each warning of robsearch once, as one line; those of other packages go where they always go."""
    told: set[str] = set()

    def tell(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
        if category is not UserWarning or "robsearch" not in filename:
            elsewhere(message, category, filename, *where, **more)
        elif str(message) not in told:
            told.add(str(message))
            typer.echo(f"warning: {message}", err=True)

    return tell


def main() -> None:
    """The entry point: bad input is one clear message and exit code 2; a search taken over, or a full disk, code 1."""
    warnings.showwarning = _told_once(warnings.showwarning)
    try:
        app()
    except InputError as error:
        problems = error.problems
        head = "error: " if len(problems) == 1 else f"{len(problems)} errors:\n  "
        typer.echo(head + "\n  ".join(problems), err=True)
        sys.exit(2)
    except (LeaseLostError, DiskFullError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
