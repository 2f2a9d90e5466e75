"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from robsearch.paths import absolute

SpaceArgument = Annotated[
    str, typer.Argument(metavar="SPACE", help="module:name, on the import path or in this folder")
]
SpaceOption = Annotated[
    str | None,
    typer.Option("--space", help="module:name, if the space cannot be imported as it was recorded at the launch"),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="of the search")]


def _for_spaces(context: typer.Context, option: typer.CallbackParam, value: Any) -> Any:
    """While the command runs, a space that reads another search (``load_search("thin")``) looks in the same place.

    A folder is made absolute here, once: a space may change the folder that the process works in.
    """
    value = absolute(value) if isinstance(value, Path) else value
    name = str(option.envvar)
    if value is not None and (before := os.environ.get(name)) != str(value):
        os.environ[name] = str(value)
        context.call_on_close(lambda: _restore(name, before))
    return value


def _restore(name: str, before: str | None) -> None:
    os.environ.pop(name)
    if before is not None:
        os.environ[name] = before


Results = Annotated[
    Path | None,
    typer.Option(
        envvar="ROBSEARCH_RESULTS", callback=_for_spaces, help="results folder (default: ./robsearch-results)"
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="ROBSEARCH_STORAGE",
        callback=_for_spaces,
        help="Optuna storage URL (default: a journal beside the results)",
    ),
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


def _number_or_word(text: str) -> float | str:
    """A word goes on to ``Means``, which knows the one that it takes."""
    try:
        return float(text)
    except ValueError:
        return text


GpusOrAuto = Annotated[
    Any,
    typer.Option(
        parser=_number_or_word,
        metavar="NUMBER|auto",
        help="GPUs per trial, or a share of one; auto: as many trials share a GPU as its memory holds, measured at "
        "each width first (default: the space's, else 1 if there are any)",
    ),
]
DiskBudget = Annotated[
    float | None, typer.Option(help="GiB of weights to keep: those of the worst finished trials go (default: all stay)")
]
HangAfter = Annotated[float, typer.Option(help="seconds without a report until a trial counts as hung")]
