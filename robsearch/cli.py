"""The command line: parses, calls, prints. What is heavy is imported inside the commands, so help is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robsearch.errors import InputError, LeaseLostError

if TYPE_CHECKING:
    from robsearch.protocols import Dataset
    from robsearch.search import Means, Search

app = typer.Typer(
    help="Distributed hyperparameter search for adversarial training: lambda as a function of width.",
    epilog="Start with: robsearch launch search_spaces.quickstart:digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Data sets and the store that the trials of a node share.", no_args_is_help=True)
app.add_typer(data_app, name="data")

SpaceArgument = Annotated[
    str, typer.Argument(metavar="SPACE", help="module:name, on the import path or in this folder")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="of the search")]
Results = Annotated[
    Path | None,
    typer.Option(envvar="ROBSEARCH_RESULTS", help="results folder (default: ./robsearch-results)"),
]
Storage = Annotated[
    str | None,
    typer.Option(envvar="ROBSEARCH_STORAGE", help="Optuna storage URL (default: a journal beside the results)"),
]
Tracking = Annotated[
    str | None,
    typer.Option(help="MLflow URI (default: MLFLOW_TRACKING_URI, else sqlite beside the results)"),
]
Address = Annotated[
    str | None, typer.Option(help="of a running Ray cluster: auto or HOST:PORT (default: this machine)")
]
Parallel = Annotated[int | None, typer.Option(help="trainings at once (default: as many as there is room for)")]
Gpus = Annotated[
    float | None,
    typer.Option(help="GPUs per trial, or a share of one (default: the space's, else 1 if there are any)"),
]
DiskBudget = Annotated[
    float | None, typer.Option(help="GiB of weights to keep: those of the worst finished trials go (default: all stay)")
]
HangAfter = Annotated[float, typer.Option(help="seconds without a report until a trial counts as hung")]


@app.command()
def check(space: SpaceArgument) -> None:
    """Draw suggestions from a space, without training, and say all that is wrong with it."""
    from rich.console import Console

    from robsearch.spaces import check as check_space
    from robsearch.spaces import load_space

    draws = check_space(load_space(space))
    console = Console()
    for draw in draws:
        drawn = ", ".join(
            f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
            for name, value in draw.params.items()
        )
        console.print(f"width {draw.width:g}: {drawn or 'nothing is searched'}", highlight=False)
    for name, distribution in draws[0].distributions.items():
        console.print(f"searches {name} in {distribution}", highlight=False)
    console.print(f"{space} is ready to launch: {len({draw.width for draw in draws})} widths", highlight=False)


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
    gpus_per_trial: Gpus = None,
    hang_after: HangAfter = 7200.0,
    disk_budget: DiskBudget = None,
) -> None:
    """Search a space: train on Ray, decide with Optuna, record in MLflow, end with a law and a report."""
    from robsearch.search import Means
    from robsearch.search import launch as launch_search

    means = Means(results, storage, tracking, address, parallel, gpus_per_trial, hang_after, disk_budget)
    _conclude(launch_search(space, name=name, trials=trials, seed=seed, means=means), means)


@app.command()
def resume(
    name: NameArgument,
    trials: Annotated[int, typer.Option(help="to add to those asked for before")] = 0,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    parallel: Parallel = None,
    gpus_per_trial: Gpus = None,
    hang_after: HangAfter = 7200.0,
    disk_budget: DiskBudget = None,
) -> None:
    """Go on with a search that was interrupted or killed, or give it more trials."""
    from robsearch.search import Means
    from robsearch.search import resume as resume_search

    means = Means(results, storage, tracking, address, parallel, gpus_per_trial, hang_after, disk_budget)
    _conclude(resume_search(name, trials=trials, means=means), means)


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
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    parallel: Parallel = None,
    gpus_per_trial: Gpus = None,
    hang_after: HangAfter = 7200.0,
) -> None:
    """Attack finalists harder, up to AutoAttack, and look for gradient masking; goes on where it was stopped."""
    from rich.console import Console

    from robsearch.search import Means
    from robsearch.search import evaluate as evaluate_networks
    from robsearch.search.evaluation_table import shown

    console = Console()
    means = Means(results, storage, tracking, address, parallel, gpus_per_trial, hang_after)
    evaluation = evaluate_networks(target, rung=rung, top=top, means=means, console=console)
    for part in shown(evaluation):
        console.print(part, highlight=False)
    if evaluation.problems:
        raise typer.Exit(1)


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="of the search; without one, all are listed")
    ] = None,
    results: Results = None,
    storage: Storage = None,
) -> None:
    """Show how a search stands: trials by width and state, failures with their reasons, the law so far."""
    from rich.console import Console

    from robsearch.search import Place, load_search, search_names
    from robsearch.search.table import status_lines

    console, place = Console(), Place.of(results, storage)
    if name is None:
        names = search_names(place)
        console.print("\n".join(names) if names else f"no searches in {place.results}", highlight=False)
        return
    for line in status_lines(load_search(name, results, storage)):
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
def report(name: NameArgument, results: Results = None, storage: Storage = None) -> None:
    """Write a search's HTML report anew, from whatever is there."""
    from robsearch.report import write
    from robsearch.search import load_search

    search = load_search(name, results, storage)
    typer.echo(f"report: {write(search, search.report)}")


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="of the search to open at")] = None,
    port: Annotated[int, typer.Option(help="to serve on, on this machine only")] = 5000,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Serve the MLflow UI on a search's runs until Ctrl-C, and print the address that compares them."""
    from robsearch.search import Means
    from robsearch.search.opening import serve

    sys.exit(serve(name, port, Means(results, storage, tracking)))


@data_app.command()
def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="digits, mnist, fashionmnist, cifar10, cifar100 or svhn")],
    root: Annotated[str | None, typer.Option(help="folder or URI of the images (default: ROBSEARCH_DATA)")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="folder to build in (default: ROBSEARCH_CACHE, else ~/.cache/robsearch)")
    ] = None,
) -> None:
    """Build the Arrow file of a set with its default splits, so that the first trial on this node need not."""
    import time

    from robsearch.data import arrow_file, load

    dataset = _known_set(name, root)
    file = arrow_file(dataset, cache)
    before, start = file.stat().st_mtime_ns if file.exists() else None, time.perf_counter()
    splits = load(dataset, cache)
    done = "checked" if file.stat().st_mtime_ns == before else "built"
    sizes = ", ".join(f"{split} {len(part.labels):,}" for split, part in splits.items())
    typer.echo(f"{file}\n{sizes} images; {done} in {time.perf_counter() - start:.1f} s")


def _known_set(name: str, root: str | None) -> Dataset:
    from robsearch.data import CIFAR10, CIFAR100, MNIST, SVHN, Digits, FashionMNIST
    from robsearch.errors import refusal

    rooted = {kind.__name__.lower(): kind for kind in (MNIST, FashionMNIST, CIFAR10, CIFAR100, SVHN)}
    if name.lower() in rooted:
        return rooted[name.lower()](root=root)
    if name.lower() != "digits":
        raise InputError(refusal("the name of a data set", repr(name), f"one of digits, {', '.join(rooted)}"))
    if root is not None:
        raise InputError(refusal("no --root for digits", root, "they come with scikit-learn"))
    return Digits()


def _conclude(search: Search, means: Means) -> None:
    from robsearch.search.opening import closing_lines

    for line in closing_lines(search, means):
        typer.echo(line)
    if search.ended < search.record.trials:
        failed = (search.trials["state"] == "FAIL").any()
        raise typer.Exit(1 if failed and not search.unfinished else 130)


def main() -> None:
    """The entry point: bad input is one clear message and exit code 2, a search taken over exit code 1."""
    try:
        app()
    except InputError as error:
        problems = error.problems
        head = "error: " if len(problems) == 1 else f"{len(problems)} errors:\n  "
        typer.echo(head + "\n  ".join(problems), err=True)
        sys.exit(2)
    except LeaseLostError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
