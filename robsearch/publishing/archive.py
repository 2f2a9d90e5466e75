"""Evidence that travels: the trials and epochs behind tables, the plan, versions and commands in
one file, and a check that the tables follow from it to the last byte.

What comes from somebody else is read and never run: a file names no module of whose code anything
would be called, and is not unpacked.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pyarrow.parquet as pq

from robsearch.claims.claim import Evidence
from robsearch.claims.experiment import Findings, PaperStudy, by_experiment, pooled
from robsearch.claims.page import Validation
from robsearch.claims.registration import Registration
from robsearch.claims.running import judge_study
from robsearch.errors import InputError, counted, refused
from robsearch.identity import content_hash
from robsearch.papers.presets import designs
from robsearch.publishing.latex import Table
from robsearch.publishing.tables import search_tables, validation_tables
from robsearch.search import Search
from robsearch.study import SearchRecord
from robsearch.trials.files import replacing

FACTS = "facts.json"
TRIALS = "trials.parquet"
EPOCHS = "epochs.parquet"
PLAN = "registration.json"
TABLES = "tables/"
MOST_BYTES = 4 << 30
"""Of an archive's files together, as they say: more is no evidence of a study."""
DATE = (1980, 1, 1, 0, 0, 0)
"""Of the files in an archive, so that the same evidence makes the same bytes."""


Computed = TypeVar("Computed")


class Checked(NamedTuple):
    """What became of one file of an archive.

    Attributes:
        name: of the file.
        holds: whether it is what it is said to be.
        text: in what way, or why not.
    """

    name: str
    holds: bool
    text: str


def archive_search(search: Search, facts: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a search's evidence, without tables."""
    about = {**facts, "kind": "search", "name": search.name, "record": asdict(search.record)}
    return {
        FACTS: _json(about),
        TRIALS: _parquet(search.table("trials").to_pandas()),
        EPOCHS: _parquet(search.table("epochs").to_pandas()),
    }


def archive_validation(
    name: str,
    findings: Findings,
    study: str,
    plan: bytes,
    facts: Mapping[str, Any],
) -> dict[str, bytes]:
    """The files of a validation's evidence, without tables.

    Args:
        name: of the validation.
        findings: its trials and epochs.
        study: its reference: ``PAPER.PRESET`` or ``PAPER.PRESET.DESIGN`` of a shipped one.
        plan: the content of its ``registration.json``.
        facts: versions and commands.
    """
    trials, epochs = pooled(findings)
    return {
        FACTS: _json({**facts, "kind": "validation", "name": name, "study": study}),
        TRIALS: _parquet(trials),
        EPOCHS: _parquet(epochs),
        PLAN: plan,
    }


def tables_of(files: Mapping[str, bytes], study: PaperStudy | None = None) -> dict[str, Table]:
    """The tables that follow from an archive's files.

    Args:
        files: by name.
        study: that a validation belongs to; by default the shipped one that its facts name.
    """
    facts = json.loads(files[FACTS])
    if facts["kind"] == "search":
        return search_tables(_search_of(files, facts))
    return validation_tables(validation_of(files, study), plan_text(files))


def validation_of(files: Mapping[str, bytes], study: PaperStudy | None = None) -> Validation:
    """The validation whose evidence an archive has, judged; arguments as of ``tables_of``."""
    facts = json.loads(files[FACTS])
    study = study or shipped_study(facts["study"])
    return judge_study(study, facts["name"], _findings_of(files), Path())


def plan_text(files: Mapping[str, bytes]) -> str:
    """When the plan was registered, and which attack judges, in words."""
    registration = Registration(**json.loads(files[PLAN]))
    judge = registration.plan.get("judged by, on test", "not recorded")
    return f"{registration.sentence()}; judged by {judge}"


def shipped_study(reference: str) -> PaperStudy:
    """The shipped study of a reference such as ``war.wrong-labels.main``.

    Raises:
        InputError: it is a user's own, whose code must be named by who runs it, or there is none.
    """
    if ":" in reference:
        do = "pass it yourself with --study, for its code is run"
        raise refused("a study that robsearch ships", reference, do)
    paper, _, rest = reference.partition(".")
    preset, _, design = rest.partition(".")
    studies = designs(paper, preset, design or None)
    if len(studies) != 1:
        raise refused("one study", reference, f"add one of its designs: {', '.join(studies)}")
    (study,) = studies.values()
    return study


def _search_of(files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Search:
    record = SearchRecord.of(facts["record"])
    return Search(record, Path(), _frame(files, TRIALS), _frame(files, EPOCHS))


def _findings_of(files: Mapping[str, bytes]) -> Findings:
    return by_experiment(Evidence(_frame(files, TRIALS), _frame(files, EPOCHS)))


def _frame(files: Mapping[str, bytes], name: str) -> pd.DataFrame:
    frame: pd.DataFrame = pq.read_table(io.BytesIO(files[name])).to_pandas()
    return frame


def _parquet(frame: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    frame.to_parquet(stream, index=False, compression="zstd")
    return stream.getvalue()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


# --- one file ---


def write_archive(files: Mapping[str, bytes], path: Path) -> None:
    """Writes files as one, with the digest of each."""
    digests = {name: _digest(content) for name, content in files.items()}
    every = {**files, "sha256.json": _json(digests)}
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, content in every.items():
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_archive(path: Path) -> dict[str, bytes]:
    """The files of an archive, in memory.

    Raises:
        InputError: it is none of ``robsearch paper``, or larger than evidence is.
    """
    do = "pass the evidence.zip that `robsearch paper` wrote"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MOST_BYTES:
                raise refused(
                    f"at most {MOST_BYTES >> 30} GiB of evidence", counted(size, "byte"), do
                )
            files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        # A RuntimeError is one of an encrypted file, or of a kind of compression.
        raise refused("a file of evidence", f"{path}: {error}", do) from error
    missing = {FACTS, TRIALS, EPOCHS, "sha256.json"} - files.keys()
    if missing:
        got = f"{path} without {', '.join(sorted(missing))}"
        raise refused("a file of evidence", got, do)
    return files


def verify(path: Path, study: PaperStudy | None = None) -> list[Checked]:
    """Checks that each file is the one that was written, and computes each table anew.

    Args:
        path: of an archive.
        study: that a validation belongs to, where it is not a shipped one.

    Raises:
        InputError: it is no such archive, or the study is not known.
    """
    files = read_archive(path)
    checks = list(_whole(files))
    if not all(check.holds for check in checks):
        return checks
    if PLAN in files:
        checks.append(_computed(lambda: _check_plan(files[PLAN]), path))
    tables = _computed(lambda: tables_of(files, study), path)
    written = {name: files[name] for name in files if name.startswith(TABLES)}
    made = {f"{TABLES}{name}.tex": table.latex.encode() for name, table in tables.items()}
    for name in sorted(written.keys() | made.keys()):
        if written.get(name) == made.get(name):
            checks.append(Checked(name, True, "follows from the trials, byte for byte"))
        else:
            why = _why_not(written.get(name), made.get(name))
            checks.append(Checked(name, False, why))
    return checks


def _check_plan(content: bytes) -> Checked:
    registration = json.loads(content)
    holds = content_hash(registration["plan"]) == registration["digest"]
    text = "has the digest of its plan" if holds else "has the digest of another plan"
    return Checked(PLAN, holds, text)


def _computed(compute: Callable[[], Computed], path: Path) -> Computed:
    try:
        return compute()
    except InputError:
        raise
    except Exception as error:  # a stranger's numbers may lead anywhere
        got = f"{path}: {type(error).__name__}: {error}"
        do = "the evidence was changed, or made by another version of robsearch"
        raise refused("evidence from which tables can be computed", got, do) from error


def _whole(files: Mapping[str, bytes]) -> Iterator[Checked]:
    """Whether each file has the digest that was noted when it was written, and none is beside."""
    try:
        digests = json.loads(files["sha256.json"])
    except (ValueError, RecursionError):
        digests = None
    if not isinstance(digests, dict):
        yield Checked("sha256.json", False, "is no list of digests by file")
        return
    for name in sorted(digests.keys() | files.keys() - {"sha256.json"}):
        if name not in files:
            yield Checked(name, False, "is missing")
        elif name not in digests:
            yield Checked(name, False, "was not there when the archive was written")
        else:
            holds = digests[name] == _digest(files[name])
            yield Checked(name, holds, "is as it was written" if holds else "was changed")


def _why_not(written: bytes | None, made: bytes | None) -> str:
    if written is None:
        return "is missing: the trials make it"
    if made is None:
        return "does not follow from the trials"
    before = written.decode(errors="replace").splitlines()
    after = made.decode().splitlines()
    for number, (old, new) in enumerate(zip(before, after, strict=False), start=1):
        if old != new:
            return f"line {number} is {old!r}, and the trials make {new!r}"
    return f"has {len(before)} lines, and the trials make {len(after)}"
