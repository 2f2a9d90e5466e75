"""Commands that look and change nothing of a search: for a person as text, for a machine as
JSON."""

from __future__ import annotations

import gc
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robsearch.cli.options import Address, NameArgument, Results, SpaceArgument, Storage, Tracking
from robsearch.cli.submitting import JobAddress
from robsearch.errors import InputError, counted, refused
from robsearch.printing import echo

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robsearch.search import Search
    from robsearch.spaces import Draw, Price

Watch = Annotated[
    bool,
    typer.Option("--watch", help="go on until the search has ended or Ctrl-C, as trials report"),
]
Json = Annotated[bool, typer.Option("--json", help="for machines: JSON instead of text")]


def check(
    space: SpaceArgument, results: Results = None, storage: Storage = None, as_json: Json = False
) -> None:
    """Draw suggestions from a space, try a first step of each kind, and say all that is wrong with
    it."""
    from robsearch.trials.child.client import warm_up

    warm_up()
    from robsearch.spaces import check as check_space, load_space, prices

    notes: list[str] = []
    try:
        with _read_in(results, storage):
            loaded = load_space(space)
            draws = check_space(loaded, say=notes.append)
            costs = list(prices(loaded, draws))
    except InputError as error:
        if not as_json:
            raise
        print_json({"space": space, "ready": False, "problems": error.problems})
        raise typer.Exit(2) from error
    if as_json:
        print_json(
            {
                "space": space,
                "ready": True,
                "problems": [],
                **_draws_json(draws),
                "notes": notes,
                "costs": [cost._asdict() for cost in costs],
            }
        )
    else:
        print_parts(_draw_lines(space, draws, notes, costs))


def _read_in(results: Path | None, storage: str | None) -> AbstractContextManager[None]:
    """Where a space finds the other searches that it reads; without one named, nothing of Ray's is
    imported."""
    if results is None and storage is None:
        return nullcontext()
    from robsearch.search import ResultsStore

    return ResultsStore.of(results, storage).current()


def _draws_json(draws: list[Draw]) -> dict[str, Any]:
    from robsearch.spaces import distributions

    ranges = distributions(draws)
    return {
        "widths": list(dict.fromkeys(draw.width for draw in draws)),
        "searched": {
            name: {"kind": type(values).__name__, **values._asdict()}
            for name, values in ranges.items()
        },
        "draws": [{"width": draw.width, "params": draw.params} for draw in draws],
    }


def _draw_lines(
    space: str, draws: list[Draw], notes: list[str], costs: list[Price]
) -> Iterator[str]:
    from robsearch.spaces import distributions, price_lines
    from robsearch.spaces.checking.recipes import WITHOUT_DATA
    from robsearch.study import range_text

    for draw in draws:
        drawn = ", ".join(
            f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
            for name, value in draw.params.items()
        )
        yield f"width {draw.width:g}: {drawn or 'nothing is searched'}"
    for name, distribution in distributions(draws).items():
        yield f"searches {name}: {range_text(distribution)}"
    yield from (f"note: {text}" for text in notes)
    yield from price_lines(costs)
    widths = counted(len({draw.width for draw in draws}), "width")
    if any(WITHOUT_DATA in text for text in notes):
        yield f"{space} is sound ({widths}); it cannot be launched here, where its data is missing"
    else:
        yield f"{space} is ready to launch: {widths}"


def status(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="of the search; without one, all are listed"),
    ] = None,
    results: Results = None,
    storage: Storage = None,
    address: JobAddress = None,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Show how a search stands: trials by width and state, failures with their reasons, the law so
    far."""
    if watch and (as_json or name is None):
        do = "leave --watch out, or name one search"
        raise refused("the name of a search, and no --json, with --watch", name or "none", do)
    with nullcontext() if watch else _uncollected():
        _show_status(name, results, storage, as_json, watch)


def _show_status(
    name: str | None, results: Path | None, storage: str | None, as_json: bool, watch: bool
) -> None:
    from robsearch.search import ResultsStore, search_names
    from robsearch.search.commands.status import driver_line, status_json, status_lines
    from robsearch.search.result import glance_at

    store = ResultsStore.of(results, storage)
    if name is None:
        names = search_names(store)
        if as_json:
            print_json({"results": store.results, "searches": names})
        else:
            print_parts(names or [f"no searches in {store.results}"])
        return
    if as_json:
        print_json(status_json(glance_at(name, results, storage)))
        return

    def parts(search: Search) -> list[Any]:
        return [*status_lines(search), driver_line(search)]

    if not watch:
        print_parts(parts(glance_at(name, results, storage)))
        return
    from robsearch.search.commands.watch import looks, show_anew
    from robsearch.search.grid import printed

    searches = looks(partial(glance_at, name, results, storage))
    show_anew(searches, parts, printed(), print_parts)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Does without the search for unused cycles of objects, which costs a sixth of a single look:
    nearly all that it makes it needs to its end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def compare(
    names: Annotated[list[str], typer.Argument(metavar="SEARCH...", help="names of searches")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder for comparison.csv and comparison.parquet (default: the results folder)"
        ),
    ] = None,
    results: Results = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Put searches side by side: lambda*, rates, Lipschitz, margin and cost by width, with
    intervals; of two, say which is better."""
    from rich.text import Text

    from robsearch.claims.better import better, difference_lines
    from robsearch.search import ResultsStore, compare as compare_searches, load_search
    from robsearch.search.commands.compare import comparison_parts

    searches = [load_search(name, results, storage) for name in names]
    comparison = compare_searches(*searches)
    # Under a rung of the ladder the table has the figures; image by image it is not paired here.
    paired = len(searches) == 2 and not comparison.rung
    differences = better(*searches) if paired else []
    files: Sequence[Path] = ()
    unwritten = None
    try:
        files = comparison.write(out or ResultsStore.of(results, storage).results)
    except InputError as error:
        unwritten = error
    if as_json:
        print_json(
            {
                "rows": comparison.rows.to_dict("records"),
                "better": [{**each._asdict(), "answer": each.answer} for each in differences],
                "differences": comparison.differences,
                "notes": comparison.notes,
                "files": files,
            }
        )
    else:
        sentences = map(Text, difference_lines(differences))
        written = (f"written: {file}" for file in files)
        print_parts([*comparison_parts(comparison), *sentences, *written])
    # Who looks at results that others keep has what was asked for; who named a folder has not.
    if unwritten and out:
        raise unwritten
    if unwritten:
        echo(f"note: {unwritten}", err=True)


def doctor(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPACE]", help="module:name; with one, its recipes and data are tried too"
        ),
    ] = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    connect: Annotated[
        bool,
        typer.Option(
            "--connect",
            help=(
                "also join the Ray cluster, or start one here: its room, and what each node "
                "has: versions, GPUs, clock, disk, results, data"
            ),
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Try out results folder, storage, tracking, cluster, GPUs and data before a launch; exit code
    1 if one fails."""
    from robsearch.doctor import examine, finding_lines
    from robsearch.search import RunOptions

    findings = examine(
        RunOptions(results=results, storage=storage, tracking=tracking, address=address),
        space,
        connect,
    )
    ok = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": ok, "findings": [finding.facts for finding in findings]})
    else:
        print_parts(finding_lines(findings))
    if not ok:
        raise typer.Exit(1)


def report(
    name: NameArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            help="file for the report, or - for standard output (default: report.html in the "
            "search's folder)"
        ),
    ] = None,
    results: Results = None,
    storage: Storage = None,
    address: JobAddress = None,
    watch: Watch = False,
) -> None:
    """Write a search's HTML report anew, from whatever is there."""
    if watch and out == Path("-"):
        raise refused("a file to --watch", "--out -", "leave one of the two out")
    with nullcontext() if watch else _uncollected():
        _write_report(name, out, results, storage, watch)


def _write_report(
    name: str, out: Path | None, results: Path | None, storage: str | None, watch: bool
) -> None:
    from robsearch.report import page, write
    from robsearch.search import RunOptions, load_search
    from robsearch.tracking import may_have_runs

    options = RunOptions(results=results, storage=storage)

    def pages(search: Search) -> Mapping[str, str]:
        uri = options.uri(search.record.tracking)
        if not may_have_runs(uri):
            return {}
        from robsearch.tracking import run_pages  # it needs MLflow, which takes a second to import

        return run_pages(uri, name, search.record.identity)

    def write_page(search: Search, refresh: int | None = None) -> None:
        file = out or search.report
        write(search, file, pages(search), follow_link=out is not None, refresh=refresh)

    search = load_search(name, results, storage)
    if out == Path("-"):
        echo(page(search, pages(search)))
        return
    if watch:
        from robsearch.search.commands.watch import looks, write_anew

        echo(f"report: {out or search.report}, written anew as trials report; Ctrl-C ends it")
        write_anew(looks(partial(load_search, name, results, storage)), write_page)
        return
    write_page(search)
    echo(f"report: {out or search.report}")


def plot(
    name: NameArgument,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="importance, slice, contour, parallel or rank; law, or another figure of the "
            "report: an unknown one lists them",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="file, .png, .pdf or .svg (default: NAME-KIND.png in this folder)"),
    ] = None,
    results: Results = None,
    storage: Storage = None,
) -> None:
    """Write one figure of a search into a file."""
    from robsearch.errors import refuse
    from robsearch.report.plots import kind_problems, suffix_problems
    from robsearch.search import load_search

    file = out or Path(f"{name}-{kind}.png")
    # A large search takes a while to be read.
    refuse([*kind_problems(kind), *(suffix_problems(file) if out else ())])
    written = load_search(name, results, storage).plots.save(kind, file)
    echo(f"figure: {written}")


def ui(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="of the search to open at")
    ] = None,
    port: Annotated[int, typer.Option(help="to serve on")] = 5000,
    host: Annotated[
        str,
        typer.Option(
            help="to serve on: this machine only, or such as 0.0.0.0 for all who can reach it"
        ),
    ] = "127.0.0.1",
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
) -> None:
    """Serve the MLflow UI on a search's runs until Ctrl-C, and print the address that compares
    them."""
    from robsearch.search import RunOptions
    from robsearch.search.commands.ui import serve_ui

    sys.exit(
        serve_ui(name, port, RunOptions(results=results, storage=storage, tracking=tracking), host)
    )


def print_parts(parts: Iterable[Any]) -> None:
    """Text wraps on a terminal only: in a file, or behind a pipe, a sentence is one line; so is a
    ``str`` anywhere."""
    from rich.text import Text

    from robsearch.search.grid import printed

    console = printed()
    for part in parts:
        shown: RenderableType = Text(part) if isinstance(part, str) else part
        # A grid folds its own cells; only sentences wrap.
        wrap = isinstance(part, Text) and console.is_terminal
        console.print(shown, highlight=False, soft_wrap=isinstance(part, str | Text) and not wrap)


def print_json(content: Any) -> None:
    """As JSON; what is not a finite number is null."""
    echo(json.dumps(_plain(content), indent=2, allow_nan=False))


def _plain(content: Any) -> Any:
    """As JSON has it: what is not a finite number is null."""
    if isinstance(content, dict):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    # NumPy's numbers are no numbers for JSON.
    if hasattr(content, "item"):
        content = content.item()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if content is None or isinstance(content, bool | int | float | str):
        return content
    return str(content)
