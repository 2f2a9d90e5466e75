"""Commands on searches that are there: listing them, dropping a trial, deleting one."""

from __future__ import annotations

from typing import Annotated

import typer

from robsearch.cli.looking import Json, print_json, print_parts
from robsearch.cli.options import NameArgument, Results, Storage, Tracking
from robsearch.errors import refused
from robsearch.printing import echo, printable


def list_searches(results: Results = None, storage: Storage = None, as_json: Json = False) -> None:
    """List all searches of a results folder: how they stand, their best trial, their size on disk,
    when they were last written to."""
    from robsearch.search import ResultsStore
    from robsearch.search.commands.listing import listed_searches, listing_parts

    store = ResultsStore.of(results, storage)
    searches = listed_searches(store)
    if as_json:
        rows = [search._asdict() for search in searches]
        print_json({"results": store.results, "searches": rows})
    else:
        print_parts(listing_parts(searches) if searches else [f"no searches in {store.results}"])


def drop(
    name: NameArgument,
    trial: Annotated[str, typer.Option(help="such as w4-017")],
    why: Annotated[str | None, typer.Option(help="the reason, for status and MLflow")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="put it back")] = False,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Take a trial out of best, law and report, with a reason; its files stay, and --undo puts it
    back."""
    from robsearch.search import RunOptions
    from robsearch.search.commands.drop import drop as drop_trial

    if undo == (why is not None):
        got = "both" if undo else "neither"
        raise refused("--why TEXT, or --undo", got, "say why it is dropped, or put it back")
    options = RunOptions(results=results, storage=storage, tracking=tracking)
    drop_trial(name, trial, why, options, echo)


def delete(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="without asking")] = False,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Delete a search that nobody drives: its folder, what the storage has of it, its MLflow
    runs."""
    from robsearch.search import RunOptions
    from robsearch.search.commands.delete import deletion

    going = deletion(name, RunOptions(results=results, storage=storage, tracking=tracking))
    for line in going.lines():
        echo(line)
    if not yes:
        typer.confirm(printable(f"delete {name} for good?"), abort=True)
    going.carry_out(echo)
    echo(f"deleted {name}")


def clean(
    name: NameArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what may go, and how much that is")
    ] = False,
    top: Annotated[
        int | None,
        typer.Option(help="keep the weights of so many trials of each width alone (default: all)"),
    ] = None,
    results: Results = None,
    storage: Storage = None,
) -> None:
    """Remove what no command needs any more: superfluous checkpoints, Ray's notes, half-written
    files."""
    from robsearch.search import RunOptions
    from robsearch.search.commands.clean import clean as clean_search

    options = RunOptions(results=results, storage=storage)
    clean_search(name, options, dry_run=dry_run, top=top, say=echo)
