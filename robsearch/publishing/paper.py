"""``robsearch paper``: tables, figures and evidence of a search or a validation in one folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.claims.experiment import Findings, PaperStudy
from robsearch.claims.registration import REGISTRATION, plan_of
from robsearch.claims.running import VERDICTS, judge_study
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
    shipped_study,
    tables_of,
    write_archive,
)
from robsearch.publishing.figures import search_figures, validation_figures
from robsearch.search import Search, load_search
from robsearch.search.results_store import ResultsStore
from robsearch.trials.files import read_json, write_text

EVIDENCE = "evidence.zip"
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
        files, figures = _of_validation(name, out, store, study)
    else:
        search = load_search(name, store.results, store.storage)
        files, figures = _of_search(search, out)
    texts = {table.removeprefix(TABLES): text for table, text in _texts(files)}
    for file, text in texts.items():
        write_text(out / TABLES / file, text)
    write_archive(files, out / EVIDENCE)
    tables = [out / TABLES / file for file in texts]
    return [*tables, *figures, out / EVIDENCE]


def _texts(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    for name, content in files.items():
        if name.startswith(TABLES):
            yield name, content.decode()


def _of_search(search: Search, out: Path) -> tuple[dict[str, bytes], list[Path]]:
    if search.finished.empty:
        got = f"{search.name}, of which none of {counted(len(search.trials), 'trial')} has"
        do = "wait for the first, and call this again"
        raise refused("a search with finished trials", got, do)
    files = archive_search(search, _facts(search.name))
    files |= _tables(files, None)
    return files, search_figures(search, _made(out / "figures"))


def _of_validation(
    name: str,
    out: Path,
    store: ResultsStore,
    given: tuple[str, PaperStudy] | None,
) -> tuple[dict[str, bytes], list[Path]]:
    folder = store.folder(name)
    plan = (folder / REGISTRATION).read_bytes() if (folder / REGISTRATION).exists() else None
    if plan is None:
        got = f"{name} without {REGISTRATION}"
        do = "call `robsearch validate` as before with this version: it writes the plan down"
        raise refused("a validation with its plan", got, do)
    registration = read_json(folder / REGISTRATION)
    reference, study = given or _with_the_plan(name, registration)
    planned = registration["plan"]
    if content_hash(plan_of(study, planned["seed"])) != registration["digest"]:
        echo(f"note: {reference} is judged as it is now, and differs from the plan of {name}")
    findings = _findings(folder)
    files = archive_validation(name, findings, reference, plan, _facts(name))
    files |= _tables(files, study)
    validation = judge_study(study, name, findings, folder)
    return files, validation_figures(validation, _made(out / "figures"))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"{folder}: {error.strerror or error}"
        raise refused("a folder for the paper", got, "pass another --out") from error
    return folder


def _tables(files: Mapping[str, bytes], study: PaperStudy | None) -> dict[str, bytes]:
    """Computed from what is written down, as ``verify`` will."""
    tables = tables_of(files, study)
    return {f"{TABLES}{name}.tex": table.latex.encode() for name, table in tables.items()}


def _findings(folder: Path) -> Findings:
    """The evidence that a validation wrote beside its verdicts."""
    trials = pd.read_parquet(folder / TRIALS)
    epochs = pd.read_parquet(folder / EPOCHS)
    return {
        str(name): Evidence(rows, epochs[epochs["experiment"] == name])
        for name, rows in trials.groupby("experiment", sort=False)
    }


def _with_the_plan(name: str, registration: Mapping[str, Any]) -> tuple[str, PaperStudy]:
    """The shipped study whose plan has this digest."""
    planned = registration["plan"]
    for reference in _references():
        study = shipped_study(reference)
        # A plan has the recipes of all trainings; that names differ is seen at once.
        if [each.name for each in study.experiments] != list(planned["experiments"]):
            continue
        if content_hash(plan_of(study, planned["seed"])) == registration["digest"]:
            return reference, study
    got = f"the plan {registration['digest']} of {name}, which none of those that are shipped has"
    do = "pass its study with --study, such as war.wrong-labels.main or my_plan:study"
    raise refused("the plan of a shipped study", got, do)


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
