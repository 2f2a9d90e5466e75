"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SpaceArgument = Annotated[
    str, typer.Argument(metavar="SPACE", help="module:name, on the import path or in this folder")
]
SpaceOption = Annotated[
    str | None,
    typer.Option(
        "--space",
        help="module:name, if the space cannot be imported as it was recorded at the launch",
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="of the search")]
OrResume = Annotated[
    bool,
    typer.Option(
        "--or-resume",
        help="go on with the search --name if there is one, up to --trials in all; nothing, if "
        "nothing is left to do",
    ),
]


Results = Annotated[
    Path | None,
    typer.Option(envvar="ROBSEARCH_RESULTS", help="results folder (default: ./robsearch-results)"),
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="ROBSEARCH_STORAGE",
        help="Optuna storage URL (default: a journal beside the results)",
    ),
]
Tracking = Annotated[
    str | None,
    typer.Option(help="MLflow URI (default: MLFLOW_TRACKING_URI, else sqlite beside the results)"),
]
Address = Annotated[
    str | None,
    typer.Option(help="of a running Ray cluster: auto or HOST:PORT (default: this machine)"),
]
AddressOrUrl = Annotated[
    str | None,
    typer.Option(
        help="of a running Ray cluster: auto or HOST:PORT, or https://HEAD:8265 to send the search "
        "there as a job (default: this machine)"
    ),
]
Parallel = Annotated[
    int | None, typer.Option(help="trainings at once (default: as many as there is room for)")
]
Gpus = Annotated[
    float | None,
    typer.Option(
        help="GPUs per trial, or a share of one (default: the space's, else 1 if there are any)"
    ),
]


def _number_or_word(text: str) -> float | str:
    """A word goes on to ``RunOptions``, which knows the one that it takes."""
    try:
        return float(text)
    except ValueError:
        return text


GpusOrAuto = Annotated[
    Any,
    typer.Option(
        parser=_number_or_word,
        metavar="NUMBER|auto",
        help="GPUs per trial, or a share of one; auto: as many trials share a GPU as its memory "
        "holds, measured at "
        "each width first (default: the space's, else 1 if there are any)",
    ),
]
DiskBudget = Annotated[
    float | None,
    typer.Option(
        help="GiB of weights to keep: those of the worst finished trials go (default: all stay)"
    ),
]
PassEnv = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="an environment variable that workers see, too; may be repeated (or "
        "ROBSEARCH_PASS_ENV=NAME,NAME)",
    ),
]
MaxHours = Annotated[
    float | None,
    typer.Option(help="hours that drivers of this search may be up; then it stops (inf: no limit)"),
]
TrialMaxHours = Annotated[
    float | None,
    typer.Option(help="hours that the epochs of one training may take; then it fails"),
]
MaxGpuHours = Annotated[
    float | None,
    typer.Option(help="GPU hours that all trials together may take; then the search stops"),
]
HangAfter = Annotated[
    float, typer.Option(help="seconds without a report until a trial counts as hung")
]
StoragePatience = Annotated[
    float,
    typer.Option(
        help="seconds for which a database that is away is tried again, at the beginning and while "
        "trials train on"
    ),
]
DiskPatience = Annotated[
    float,
    typer.Option(help="seconds for which a full disk is waited for; then the search stops"),
]
