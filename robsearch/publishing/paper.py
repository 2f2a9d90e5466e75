"""``robsearch paper``: tables, figures and evidence of a search or a validation in one folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.claims.experiment import PaperStudy, by_experiment
from robsearch.claims.registration import REGISTRATION, plan_of
from robsearch.claims.running import VERDICTS
from robsearch.errors import counted, refused
from robsearch.identity import content_hash
from robsearch.papers.presets import PRESETS
from robsearch.printing import echo
from robsearch.publishing.archive import (
    EPOCHS,
    TABLES,
    TRIALS,
    archive_search,
    archive_validation,
    plan_text,
    shipped_study,
    tables_of,
    validation_of,
    write_archive,
)
from robsearch.publishing.figures import search_figures, validation_figures
from robsearch.publishing.latex import Table
from robsearch.publishing.tables import validation_tables
from robsearch.search import Search, load_search
from robsearch.search.results_store import ResultsStore
from robsearch.trials.files import read_json, write_text

EVIDENCE = "evidence.zip"
Contents: TypeAlias = tuple[dict[str, bytes], dict[str, Table], list[Path]]
"""The files of the evidence, the tables that follow from them by name, and the figures."""
PACKAGES = ("robsearch", "torch", "numpy", "scipy", "pandas", "pyarrow")
"""Whose versions the numbers of a table depend on."""


def write_paper(
    name: str,
    out: Path,
    store: ResultsStore,
    study: tuple[str, PaperStudy] | None = None,
) -> list[Path]:
    """Writes what a publication takes: ``tables/*.tex``, whose captions have n, seeds, attack and
    versions, ``figures/*.pdf``, and ``evidence.zip``, from which ``verify`` computes the tables
    anew.

    Args:
        name: of a search or of a validation.
        out: the folder; what it has of these names is written over.
        store: where it is.
        study: of a validation, its reference and the study, where no shipped one has its plan.

    Returns:
        The files.

    Raises:
        InputError: there is none of that name, nothing has finished, or the study is not known.
    """
    if (store.folder(name) / VERDICTS).exists():
        files, tables, figures = _of_validation(name, out, store, study)
    else:
        search = load_search(name, store.results, store.storage)
        files, tables, figures = _of_search(search, out)
    texts = {f"{TABLES}{table}.tex": tables[table].latex for table in tables}
    for file, text in texts.items():
        write_text(out / file, text)
    written = {file: text.encode() for file, text in texts.items()}
    write_archive({**files, **written}, out / EVIDENCE)
    return [*(out / file for file in texts), *figures, out / EVIDENCE]


def _of_search(search: Search, out: Path) -> Contents:
    if search.finished.empty:
        got = f"{search.name}, of which none of {counted(len(search.trials), 'trial')} has"
        do = "wait for the first, and call this again"
        raise refused("a search with finished trials", got, do)
    files = archive_search(search, _facts(search.name))
    # From what is written down, as ``verify`` computes them.
    return files, tables_of(files), search_figures(search, _made(out / "figures"))


def _of_validation(
    name: str,
    out: Path,
    store: ResultsStore,
    given: tuple[str, PaperStudy] | None,
) -> Contents:
    folder = store.folder(name)
    file = folder / REGISTRATION
    if not file.exists():
        got = f"{name} without {REGISTRATION}"
        do = "call `robsearch validate` as before with this version: it writes the plan down"
        raise refused("a validation with its plan", got, do)
    registration = read_json(file)
    if given is None:
        reference, study = _with_the_plan(name, registration)
    else:
        reference, study = given
        if not _has_plan(study, registration):
            echo(f"note: {reference} is judged as it is now, and differs from the plan of {name}")
    findings = by_experiment(
        Evidence(*(pd.read_parquet(folder / part) for part in (TRIALS, EPOCHS)))
    )
    files = archive_validation(name, findings, reference, file.read_bytes(), _facts(name))
    validation = validation_of(files, study)
    tables = validation_tables(validation, plan_text(files))
    return files, tables, validation_figures(validation, _made(out / "figures"))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"{folder}: {error.strerror or error}"
        raise refused("a folder for the paper", got, "pass another --out") from error
    return folder


def _with_the_plan(name: str, registration: Mapping[str, Any]) -> tuple[str, PaperStudy]:
    """The shipped study whose plan has this digest."""
    planned = registration["plan"]
    for reference in _references():
        study = shipped_study(reference)
        # A plan has the recipes of all trainings; that names differ is seen at once.
        if [each.name for each in study.experiments] != list(planned["experiments"]):
            continue
        if _has_plan(study, registration):
            return reference, study
    got = f"the plan {registration['digest']} of {name}, which none of those that are shipped has"
    do = "pass its study with --study, such as war.wrong-labels.main or my_plan:study"
    raise refused("the plan of a shipped study", got, do)


def _has_plan(study: PaperStudy, registration: Mapping[str, Any]) -> bool:
    seed = registration["plan"]["seed"]
    return bool(content_hash(plan_of(study, seed)) == registration["digest"])


def _references() -> Iterator[str]:
    for paper, presets in PRESETS.items():
        for preset, studies in presets.items():
            if isinstance(studies, Mapping):
                yield from (f"{paper}.{preset}.{design}" for design in studies)
            else:
                yield f"{paper}.{preset}"


def _facts(name: str) -> dict[str, Any]:
    versions = {package: version(package) for package in PACKAGES}
    python = ".".join(map(str, sys.version_info[:3]))
    commands = [f"robsearch paper {name} --out DIR", f"robsearch verify {EVIDENCE}"]
    return {"versions": {"python": python, **versions}, "commands": commands}
