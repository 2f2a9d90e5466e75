"""The beginning of a journal in few records, kept beside it, so that who opens a long journal need
not replay each of its lines again.

While it lives a trial takes a line for each parameter, attribute and epoch; once it is there, one
record can say all of them. The file ``optuna.journal.condensed`` has such records. It is a copy: it
may be deleted at any time, and counts only where the journal still begins with the very bytes that
it was made from. It holds JSON and nothing that could be run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from robsearch.trials.files import replacing

Record = dict[str, Any]

CREATE_TRIAL = 4
"""Of Optuna's operations (``journal.Operation``)."""
SUFFIX = ".condensed"
FORMAT = 2
CHUNK = 1 << 20
"""Bytes of a journal that are hashed at once."""
LONG = 2000
"""Lines that are read as they are: of a shorter journal, or behind what is condensed."""
SHARE = 8
"""Of a long journal as many lines as one in so many."""


class LinesInMemory(BaseJournalBackend):
    """A journal without a file."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append_logs(self, logs: list[Record]) -> None:
        """Behind those that are there."""
        self.records += logs

    def read_logs(self, log_number_from: int) -> Iterable[Record]:
        """The records from this number on."""
        return self.records[log_number_from:]


@dataclass
class Beginning:
    """The first lines of a journal, condensed.

    Attributes:
        records: that say what these lines say.
        lines: how many there are.
        size: their bytes.
        makers: by a digest of each line that makes a trial, its number, from 1.
        has_values: whether the values of epochs are among the records.
        hash: SHA-256 of these bytes, which goes on with those behind them.
    """

    records: list[Record] = field(default_factory=list)
    lines: int = 0
    size: int = 0
    makers: dict[str, int] = field(default_factory=dict)
    has_values: bool = True
    hash: Any = field(default_factory=hashlib.sha256)


def condensed_file(journal: Path) -> Path:
    """Where the beginning of a journal is kept."""
    return journal.with_name(f"{journal.name}{SUFFIX}")


def read_beginning(journal: Path, *, with_values: bool) -> Beginning:
    """The beginning that is kept of a journal; an empty one where there is none that fits to it.

    Args:
        journal: the file.
        with_values: whether the values of epochs are wanted.
    """
    try:
        head, _, body = condensed_file(journal).read_bytes().partition(b"\n")
        facts = json.loads(head)
        fits = facts["format"] == FORMAT and (facts["has_values"] or not with_values)
        if not fits or hashlib.sha256(body).hexdigest() != facts["body"]:
            return Beginning()
        hashed = _hash_of(journal, facts["size"])
        if hashed.hexdigest() != facts["sha256"]:
            return Beginning()
        content = json.loads(body)
        return Beginning(
            content["records"],
            facts["lines"],
            facts["size"],
            content["makers"],
            facts["has_values"],
            hashed,
        )
    # It is a copy, and whatever is wrong with it, the journal tells all.
    except (OSError, ValueError, KeyError, TypeError):
        return Beginning()


def _hash_of(journal: Path, size: int) -> Any:
    hashed = hashlib.sha256()
    with journal.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, CHUNK))):
            hashed.update(chunk)
            size -= len(chunk)
    return hashed


def write_beginning(journal: Path, beginning: Beginning) -> None:
    """Keeps the beginning of a journal, whole or not at all.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    content = {"records": beginning.records, "makers": beginning.makers}
    body = json.dumps(content, separators=(",", ":")).encode()
    facts = {
        "format": FORMAT,
        "lines": beginning.lines,
        "size": beginning.size,
        "sha256": beginning.hash.hexdigest(),
        "has_values": beginning.has_values,
        "body": hashlib.sha256(body).hexdigest(),
    }
    with replacing(condensed_file(journal), is_shared=True) as unfinished:
        unfinished.write_bytes(json.dumps(facts).encode() + b"\n" + body)


def is_worth_keeping(lines: int, condensed: int) -> bool:
    """Whether so many lines have come behind those that are condensed that it shall be done
    anew."""
    return lines - condensed > max(LONG, lines // SHARE)


def condensed_records(storage: JournalStorage) -> list[Record] | None:
    """Records that make a storage as this one: each study, and each trial as it is now.

    None where they would get other numbers than they have here, as where a study was deleted.
    """
    studies = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    trials = {}
    for study in studies:
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            trials[trial._trial_id] = (study._study_id, trial)
    numbers = [study._study_id for study in studies]
    if numbers != list(range(len(studies))) or sorted(trials) != list(range(len(trials))):
        return None
    lines = LinesInMemory()
    copy = JournalStorage(lines)
    for study in studies:
        number = copy.create_new_study(study.directions, study.study_name)
        for key, fact in study.user_attrs.items():
            copy.set_study_user_attr(number, key, fact)
        for key, fact in study.system_attrs.items():
            copy.set_study_system_attr(number, key, fact)
    made = [_record_of(*trials[number]) for number in range(len(trials))]
    return [*lines.records, *made]


def _record_of(study: int, trial: FrozenTrial) -> Record:
    """The record with which Optuna makes a trial from a template; its own way takes half a second
    for thousands, because it makes each of them, too."""
    values = trial.values or []
    several = len(values) > 1
    record = {
        "op_code": CREATE_TRIAL,
        "worker_id": "",
        "study_id": study,
        "datetime_start": _in_utc(trial.datetime_start),
        "state": int(trial.state),
        "value": values[0] if values and not several else None,
        "values": values if several else None,
        "distributions": {
            name: distribution_to_json(distribution)
            for name, distribution in trial.distributions.items()
        },
        "params": {
            name: trial.distributions[name].to_internal_repr(value)
            for name, value in trial.params.items()
        },
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate_values": trial.intermediate_values,
    }
    if trial.datetime_complete is not None:
        record["datetime_complete"] = _in_utc(trial.datetime_complete)
    return record


def _in_utc(time: datetime | None) -> str | None:
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="microseconds")
