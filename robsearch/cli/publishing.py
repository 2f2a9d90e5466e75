"""``robsearch paper`` and ``robsearch verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robsearch.cli.options import Results, Storage
from robsearch.printing import echo

if TYPE_CHECKING:
    from robsearch.claims.experiment import PaperStudy

Study = Annotated[
    str | None,
    typer.Option(
        help="of a validation: PAPER.PRESET.DESIGN of a shipped study, or module:name of one of "
        "your own (default: the shipped one with its plan)"
    ),
]


def paper(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="of a search, or of a validation that has ended")
    ],
    out: Annotated[Path, typer.Option(help="folder for tables, figures and evidence.zip")],
    study: Study = None,
    results: Results = None,
    storage: Storage = None,
) -> None:
    """Write what a publication takes: LaTeX tables, PDF figures, and evidence that anyone can
    compute the tables from."""
    from robsearch.publishing import write_paper
    from robsearch.search import ResultsStore

    given = None if study is None else (study, _study(study))
    for file in write_paper(name, out, ResultsStore.of(results, storage), given):
        echo(f"written: {file}")


def verify(
    file: Annotated[
        Path, typer.Argument(metavar="ZIP", help="the evidence.zip of `robsearch paper`")
    ],
    study: Study = None,
) -> None:
    """Compute the tables of somebody's evidence anew, and compare them byte for byte."""
    from robsearch.publishing import verify as verify_archive

    checks = verify_archive(file, None if study is None else _study(study))
    for check in checks:
        echo(f"{'ok  ' if check.holds else 'FAIL'} {check.name} {check.text}")
    wrong = sum(not check.holds for check in checks)
    if wrong:
        echo(f"{wrong} of {len(checks)} do not hold", err=True)
        raise typer.Exit(1)
    echo("every table follows from the trials")


def _study(reference: str) -> PaperStudy:
    from robsearch.papers.presets import designs
    from robsearch.publishing.archive import shipped_study

    if ":" in reference:
        # The code of a study of one's own is run: only who calls this may name it.
        (study,) = designs(reference, "").values()
        return study
    return shipped_study(reference)
