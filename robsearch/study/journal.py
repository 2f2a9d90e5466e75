"""The journal of a search: Optuna's file of one record a line, and what to do where lines of it are
damaged.

A record names studies and trials by numbers that follow from all records before it: the third
``CREATE_TRIAL`` makes trial 2. So a lost record may shift the meaning of those behind it.
``examine`` replays a journal record by record, and puts an empty study or trial where one must have
been.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection

from robsearch.errors import InputError, counted, refusal
from robsearch.spaces import Stage
from robsearch.study.condensed import (
    Beginning,
    LinesInMemory,
    Record,
    condensed_records,
    is_worth_keeping,
    read_beginning,
    write_beginning,
)
from robsearch.study.recorded import TRAININGS

JOURNAL = "optuna.journal"


class Operation(IntEnum):
    """What a record of Optuna's does; the numbers are those of its file format."""

    CREATE_STUDY = 0
    DELETE_STUDY = 1
    STUDY_USER_ATTR = 2
    STUDY_SYSTEM_ATTR = 3
    CREATE_TRIAL = 4
    TRIAL_PARAM = 5
    TRIAL_STATE = 6
    TRIAL_VALUE = 7
    TRIAL_USER_ATTR = 8
    TRIAL_SYSTEM_ATTR = 9
    DISCARD_TRIALS = 10


FIELDS: dict[int, set[str]] = {
    Operation.CREATE_STUDY: {"study_name", "directions"},
    Operation.DELETE_STUDY: {"study_id"},
    Operation.STUDY_USER_ATTR: {"study_id", "user_attr"},
    Operation.STUDY_SYSTEM_ATTR: {"study_id", "system_attr"},
    Operation.CREATE_TRIAL: {"study_id", "datetime_start"},
    Operation.TRIAL_PARAM: {"trial_id", "param_name", "param_value_internal", "distribution"},
    Operation.TRIAL_STATE: {"trial_id", "state", "values"},
    Operation.TRIAL_VALUE: {"trial_id", "step", "intermediate_value"},
    Operation.TRIAL_USER_ATTR: {"trial_id", "user_attr"},
    Operation.TRIAL_SYSTEM_ATTR: {"trial_id", "system_attr"},
    Operation.DISCARD_TRIALS: set(),
}
"""What Optuna reads of a record, beside its operation and who wrote it."""
STAGE = {each.name for each in fields(Stage)}
BEGIN = b'{"op_code":'
"""How each line begins that Optuna writes."""
EPOCH_VALUE = re.compile(
    BEGIN + rb'7,"worker_id":"[\w-]*","trial_id":\d+,"step":\d+,"intermediate_value":[-+\w.]+}\n'
)
"""A whole line with the value of an epoch."""


class DamagedJournalError(InputError):
    """A journal that cannot be read as it is.

    Attributes:
        journal: the file.
        line: the first damaged one, from 1.
        what: the rest of a sentence that begins with the line: ``is blank``.
    """

    def __init__(self, journal: Path, line: int, what: str, repair: str = "") -> None:
        self.journal = journal
        self.line = line
        self.what = what
        command = repair or f"robsearch repair {journal.parent.name}"
        got = f"line {line} of {journal}, which {what}"
        do = f"`{command}` says what can be kept, and `--apply` keeps it"
        super().__init__(refusal("a journal of whole records", got, do))


# --- the file, as Optuna reads and writes it ---


class WholeLines(JournalFileBackend):
    """A journal file that a full disk leaves as it was.

    Optuna's own would go on behind the part of a line that fitted, and behind one that a process
    which is gone has half written.
    """

    has_values = True
    """Whether the values of epochs are among the records that are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_lock = JournalFileSymlinkLock(str(path))
        self._beginning = read_beginning(path, with_values=self.has_values)
        # Names by number, of deleted studies too: a name may be made again under another number.
        self._studies = [
            record["study_name"]
            for record in self._beginning.records
            if record["op_code"] == Operation.CREATE_STUDY
        ]
        self._deleted: set[int] = set()
        self._is_still = False
        self._last = self._beginning.lines
        # By a digest of each line that makes a trial, its number.
        self._created = dict(self._beginning.makers)
        self._read_to = self._begin
        self._hash = self._beginning.hash
        self._hashed = self._beginning.size
        super().__init__(str(path), self._file_lock)

    @property
    def _begin(self) -> tuple[int, int, int]:
        """Of the last record that is condensed: its number, the number of its line, and where that
        ends."""
        beginning = self._beginning
        return (len(beginning.records), beginning.lines, beginning.size)

    def condense(self, storage: JournalStorage) -> None:
        """Keeps what was read for who opens the journal next, where it is long, and can be kept.

        Args:
            storage: that has read all of it.
        """
        _, lines, size = self._read_to
        records = None
        # A study that was deleted keeps its number, and no record would say so.
        is_whole = size == self._hashed and not self._deleted
        if is_whole and is_worth_keeping(lines, self._beginning.lines):
            # What a driver appends meanwhile is left for who opens the journal next.
            self._is_still = True
            try:
                records = condensed_records(storage)
            finally:
                self._is_still = False
        if records is not None:
            # A folder of others may be read only, and a disk full.
            with suppress(OSError):
                kept = Beginning(records, lines, size, self._created, self.has_values, self._hash)
                write_beginning(self._path, kept)

    def append_logs(self, logs: list[Record]) -> None:
        """Appends all of them, or nothing; a last line without an end is cut off first."""
        lines = "".join(map(_line_of, logs))
        self._file_lock.acquire()
        try:
            # Every writer holds the lock until its lines have their end: nobody living writes this.
            _cut_off_unended(self._path)
            whole = os.path.getsize(self._path)
            try:
                with open(self._path, "ab") as journal:
                    journal.write(lines.encode())
                    journal.flush()
                    os.fsync(journal.fileno())
            except OSError:
                os.truncate(self._path, whole)
                raise
        finally:
            self._file_lock.release()

    def read_logs(self, log_number_from: int) -> Iterator[Record]:  # type: ignore[override]  # Optuna's is a Generator
        """The records from this number on.

        Raises:
            DamagedJournalError: a line that others follow is no record, makes a trial that an
                earlier line made, or is about what no earlier line made.
        """
        yield from self._beginning.records[log_number_from:]
        condensed = len(self._beginning.records)
        for line, record in self._records(max(log_number_from, condensed)):
            what = shape_problem(record) or self._misfit(line, record)
            if what:
                raise DamagedJournalError(self._path, line, what)
            yield record

    def _records(self, log_number_from: int) -> Iterator[tuple[int, Record]]:
        """Each record from this number on that is not condensed, with the number of its line."""
        if self._is_still:
            return
        number, number_of_line, offset = self._read_to
        if number > log_number_from:
            number, number_of_line, offset = self._begin
        problem: ValueError | None = None
        with self._path.open("rb") as journal:
            journal.seek(offset)
            for line in journal:
                # As Optuna does it: the last line may be half written just now.
                if problem is not None:
                    raise DamagedJournalError(
                        self._path, number_of_line + 1, "is no JSON"
                    ) from problem
                if not line.endswith(b"\n"):
                    return
                record: Any = None
                is_left_out = not self.has_values and EPOCH_VALUE.fullmatch(line) is not None
                if not is_left_out:
                    try:
                        record = json.loads(line)
                    except ValueError as error:
                        problem = error
                        continue
                    number += 1
                number_of_line += 1
                if offset == self._hashed:
                    self._hash.update(line)
                    self._hashed += len(line)
                offset += len(line)
                self._read_to = (number, number_of_line, offset)
                # A line of JSON may be null, which is damage, too.
                if not is_left_out and number > log_number_from:
                    yield number_of_line, record

    def _misfit(self, line: int, record: Record) -> str | None:
        """What is wrong if a record does not fit to those before it; None where it does."""
        operation = record["op_code"]
        if line > self._last:  # else it was read before
            self._last = line
            self._note_study(record)
        if record.get("study_id", -1) >= len(self._studies):
            return f"is about study {record['study_id']}, which no line before it makes"
        if record.get("trial_id", -1) >= len(self._created):
            return f"is about trial {record['trial_id']}, which no line before it makes"
        if operation == Operation.CREATE_TRIAL:
            # It has the time at which the trial was made, so that no two are equal.
            maker = hashlib.blake2b(json.dumps(record).encode(), digest_size=8).hexdigest()
            first = self._created.setdefault(maker, line)
            return None if first == line else f"makes the trial of line {first} once more"
        return None

    def _note_study(self, record: Record) -> None:
        """Counts a study that a record makes, as Optuna does: not one whose name is taken."""
        if record["op_code"] == Operation.DELETE_STUDY:
            self._deleted.add(record["study_id"])
        elif record["op_code"] == Operation.CREATE_STUDY:
            names = {
                name for number, name in enumerate(self._studies) if number not in self._deleted
            }
            if record["study_name"] not in names:
                self._studies.append(record["study_name"])


class LinesWithoutValues(WholeLines):
    """The same for who only looks: of each epoch's value it has nothing.

    Most lines are such values, and Optuna copies the trial for each. They steer samplers and
    pruners; whoever wants the epochs themselves reads the trials' folders. The records are numbered
    without those that are left out. What is condensed may have values all the same.
    """

    has_values = False


def _cut_off_unended(journal: Path) -> None:
    """Cuts off a last line without an end, of which a copy is kept; for whoever holds the lock."""
    with journal.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
    content = journal.read_bytes()
    _keep_torn(journal, content, content.rfind(b"\n") + 1)


def _keep_torn(journal: Path, content: bytes, whole: int) -> None:
    """Leaves the first ``whole`` bytes of a journal, and keeps its content as it was beside it."""
    _write_synced(journal.with_suffix(".torn"), content)
    os.truncate(journal, whole)


class UnwrittenLines(BaseJournalBackend):
    """A journal and lines behind it that are not in its file yet, and are written together."""

    def __init__(self, journal: WholeLines) -> None:
        self._journal = journal
        # Read once: a lease that is renewed meanwhile adds lines, which make no study and no trial.
        self._whole = list(journal.read_logs(0))
        self._lines: list[Record] = []

    def append_logs(self, logs: list[Record]) -> None:
        """Behind those that are not written yet."""
        self._lines += logs

    def read_logs(self, log_number_from: int) -> Iterable[Record]:
        """The lines from this number on, those of the file first."""
        yield from self._whole[log_number_from:]
        yield from self._lines[max(0, log_number_from - len(self._whole)) :]

    def write(self) -> None:
        """Appends all of them to the file, or nothing."""
        if self._lines:
            self._journal.append_logs(self._lines)


def _line_of(record: Record) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"


def shape_problem(record: object) -> str | None:
    """What keeps a line's JSON from being a record of Optuna's; None where it is one."""
    if not isinstance(record, dict):
        return f"is no record but {json.dumps(record)[:40]}"
    operation = record.get("op_code")
    if operation not in FIELDS:
        return f"is a record of the operation {operation!r}, which Optuna does not have"
    missing = {"worker_id", *FIELDS[operation]} - record.keys()
    return f"is a record without {', '.join(sorted(missing))}" if missing else None


# --- what is damaged ---


class LostAttribute(NamedTuple):
    """An attribute of a study that a line began to write.

    Attributes:
        line: its number, from 1.
        study: Optuna's number; None where the line is cut before it.
        key: its name; None where the line is cut before its end.
    """

    line: int
    study: int | None
    key: str | None


class Damage(NamedTuple):
    """A line that is not wholly read.

    Attributes:
        line: its number, from 1.
        what: the rest of a sentence that begins with the line.
        creates: the study in which the rest of the line shows that a trial was made; -1 where it
            may have been in any study, None where the line cannot have made one.
        attribute: of a study, which the rest of the line began to write.
    """

    line: int
    what: str
    creates: int | None = -1
    attribute: LostAttribute | None = None


@dataclass
class Examined:
    """What can be read of a journal.

    Attributes:
        storage: with all that was read; in memory, nothing is written.
        damages: the damaged lines.
        repeated: ranges of lines, from 1, which a range of earlier lines has too: (first, last,
            first of the earlier ones).
        missing: Optuna's numbers of trials whose making was lost; they are empty where nothing else
            is known of them.
        doubles: Optuna's numbers of trials that only repeated lines made.
        unmade: names of studies whose making was lost.
        lost_attributes: those of studies that a damaged line began to write, and no later one
            wrote.
    """

    storage: JournalStorage
    damages: list[Damage] = field(default_factory=list)
    repeated: list[tuple[int, int, int]] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    doubles: set[int] = field(default_factory=set)
    unmade: list[str] = field(default_factory=list)
    lost_attributes: list[LostAttribute] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.damages or self.repeated or self.missing or self.unmade)


class _JournalLine(NamedTuple):
    number: int
    records: list[Record]
    damage: Damage | None


def examine(journal: Path) -> Examined:
    """Reads all of a journal that can be read; its file is not changed.

    Lines that repeat earlier ones do not count. A driver may have gone on behind them and have
    numbered its trials behind the doubled ones; it did if its records fit no other way.
    """
    content = journal.read_bytes()
    texts = content.splitlines(keepends=True) if b"\r" not in content else _split(content)
    lines = [_parsed(number, text) for number, text in enumerate(texts, 1)]
    repeated = list(_repeated(lines))
    left_out = {line for first, last, _ in repeated for line in range(first, last + 1)}
    examined = _replayed(lines, left_out, doubled=False)
    if repeated and examined.missing:
        doubled = _replayed(lines, left_out, doubled=True)
        if len(doubled.missing) < len(examined.missing):
            examined = doubled
    examined.repeated = repeated
    # What has no end was cut short before anybody acted on it.
    ended = lines if content.endswith(b"\n") else lines[:-1]
    examined.lost_attributes = list(_lost_attributes(ended))[::-1]
    return examined


def _split(content: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _parsed(number: int, text: bytes) -> _JournalLine:
    """The whole records of a line, wherever in it they begin."""
    bare = text.replace(b"\0", b"").strip()
    try:
        record = json.loads(bare)
    except ValueError:
        return _parsed_in_parts(number, text, bare)
    what = shape_problem(record)
    if what:
        # A record of which fields were lost may have been any.
        return _JournalLine(number, [], Damage(number, what))
    if b"\0" in text:
        return _JournalLine(number, [record], Damage(number, "has NUL bytes", None))
    if not text.endswith(b"\n"):
        return _JournalLine(number, [record], Damage(number, "has no end", None))
    return _JournalLine(number, [record], None)


def _parsed_in_parts(number: int, text: bytes, bare: bytes) -> _JournalLine:
    if not bare:
        return _JournalLine(
            number, [], Damage(number, "has only NUL bytes" if b"\0" in text else "is blank")
        )
    records = []
    rest = b""
    for part in re.split(rb"(?=" + re.escape(BEGIN) + rb")", bare):
        try:
            record = json.loads(part)
        except ValueError:
            rest += part
            continue
        if shape_problem(record) is None:
            records.append(record)
    what = "is cut short" if rest.startswith(BEGIN) else "is no JSON"
    if records and not rest:
        what = "has several records"
    elif records:
        what += f"; {counted(len(records), 'whole record')} of it stays"
    damage = Damage(number, what, _creates(rest), _attribute_begun(number, rest))
    return _JournalLine(number, records, damage)


def _attribute_begun(number: int, rest: bytes) -> LostAttribute | None:
    """The attribute of a study that a part of a line began to write, as far as it says which."""
    if not rest.startswith(BEGIN + b"%d," % Operation.STUDY_USER_ATTR):
        return None
    study = re.search(rb'"study_id":(\d+),', rest)
    key = re.search(rb'"user_attr":\{"([^"]+)":', rest)
    return LostAttribute(
        number,
        int(study[1]) if study else None,
        key[1].decode(errors="replace") if key else None,
    )


def _lost_attributes(lines: Sequence[_JournalLine]) -> Iterator[LostAttribute]:
    """What damaged lines began to write and no later line wrote, the last one first."""
    written: set[tuple[int | None, str | None]] = set()
    for line in reversed(lines):
        for record in line.records:
            if record["op_code"] == Operation.STUDY_USER_ATTR:
                written |= {(record["study_id"], key) for key in record["user_attr"]}
        lost = line.damage.attribute if line.damage else None
        if lost and (lost.study, lost.key) not in written:
            yield lost


def _creates(rest: bytes) -> int | None:
    """What a part of a line says of a trial that it made."""
    if not rest:
        return None
    operation = re.match(re.escape(BEGIN) + rb"(\d+)\D", rest)
    if operation is None:
        return -1
    if int(operation[1]) != Operation.CREATE_TRIAL:
        return None
    study = re.search(rb'"study_id":(\d+)\D', rest)
    return int(study[1]) if study else -1


def _repeated(lines: Sequence[_JournalLine]) -> Iterator[tuple[int, int, int]]:
    """Ranges of lines that an earlier range has too, known by the trials that they make.

    A record that makes a trial has the time at which it was made, so that no two are equal.
    """
    keys = [json.dumps(line.records) if line.records else None for line in lines]
    first: dict[str, int] = {}
    end = 0
    for here, line in enumerate(lines):
        key = keys[here]
        makes = any(record["op_code"] == Operation.CREATE_TRIAL for record in line.records)
        if key is None or not makes or here < end:
            continue
        earlier = first.setdefault(key, here)
        if earlier == here:
            continue
        gap = here - earlier
        begin = here
        while begin > max(end, gap) and keys[begin - 1] == keys[begin - 1 - gap] is not None:
            begin -= 1
        end = here + 1
        while end < len(lines) and keys[end] == keys[end - gap] is not None:
            end += 1
        yield begin + 1, end, begin - gap + 1


def _replayed(lines: Sequence[_JournalLine], left_out: Collection[int], doubled: bool) -> Examined:
    """Replays the records; where a trial must have been made whose line is lost, it is made in the
    place of the damaged line that may have been it, and all is replayed once more."""
    names = _names_of_studies(lines)
    trials = _names_of_trials(lines)
    inserted: Counter[int] = Counter()
    while True:
        replay = _Replay(names, trials, doubled, left_out)
        place = replay.run(lines, inserted)
        if place is None:
            return replay.examined
        inserted[place] += 1


def _names_of_studies(lines: Iterable[_JournalLine]) -> dict[int, tuple[str, int]]:
    """By Optuna's number: the name of a study, and how many metrics it maximises, as its attributes
    say."""
    names: dict[int, tuple[str, int]] = {}
    leases = set()
    search = ""
    for record in _all_records(lines):
        if record["op_code"] != Operation.STUDY_USER_ATTR:
            continue
        number = record["study_id"]
        for key, value in record["user_attr"].items():
            if key == "search":
                search = value["name"]
                names[number] = (search, 1)
            elif key == "place":
                facts = {name: fact for name, fact in value.items() if name in STAGE}
                name = f"{value['search']}@{Stage(**facts).label}"
                names[number] = (name, len(value.get("metrics") or [1]))
            elif key == "owner":
                leases.add(number)
    for count, number in enumerate(sorted(leases), 1):
        names[number] = (f"{search}@lease-{count}", 1)  # as ``lease.Lease`` names them
    return names


def _names_of_trials(lines: Iterable[_JournalLine]) -> dict[int, str]:
    """By Optuna's number: the name of the first trial of a suggestion."""
    names: dict[int, str] = {}
    for record in _all_records(lines):
        begun = record.get("user_attr", {}).get(TRAININGS)
        if begun and record["op_code"] == Operation.TRIAL_USER_ATTR:
            names.setdefault(record["trial_id"], begun[0]["trial"])
    return names


def _all_records(lines: Iterable[_JournalLine]) -> Iterator[Record]:
    for line in lines:
        yield from line.records


class _Replay:
    """One pass over a journal's records.

    Args:
        names: of studies by Optuna's number, as their attributes say.
        trials: of Optuna's numbers, the name of the first of the trials that each consists of.
        doubled: whether repeated lines make trials, as they did for a driver that read them.
        left_out: the numbers of repeated lines.
    """

    def __init__(
        self,
        names: Mapping[int, tuple[str, int]],
        trials: Mapping[int, str],
        doubled: bool,
        left_out: Collection[int],
    ) -> None:
        self._lines = LinesInMemory()
        self.examined = Examined(JournalStorage(self._lines))
        self._names = names
        self._trials = trials
        self._doubled = doubled
        self._left_out = left_out
        self._studies = 0
        self._created = 0
        self._candidate: int | None = None
        self._newest_place: int | None = None

    def run(self, lines: Sequence[_JournalLine], inserted: Mapping[int, int]) -> int | None:
        """Replays all; or stops, and gives the line in whose place a trial must have been made."""
        for line in lines:
            damage = line.damage
            if damage is not None:
                self.examined.damages.append(damage)
                # The last line was cut short before anybody acted on it.
                sure = damage.creates is not None and damage.creates >= 0 and line != lines[-1]
                missing = inserted.get(line.number, 0) or int(sure)
                for _ in range(missing):
                    self._insert(damage.creates)
                if not missing and damage.creates is not None:
                    self._candidate = line.number
            elif line.number in inserted:
                for _ in range(inserted[line.number]):
                    self._insert(-1)
            for record in line.records:
                if line.number in self._left_out:
                    self._repeat(record)
                    continue
                place = self._missing_before(record, line.number)
                if place is not None:
                    return place
                self._apply(record, line.number)
        return None

    def _missing_before(self, record: Record, line: int) -> int | None:
        """The line in whose place a trial must have been made before this record."""
        study = record.get("study_id")
        if isinstance(study, int):
            while study >= self._studies:
                self._create_study(*self._names.get(self._studies, (f"lost-{self._studies}", 1)))
        trial = record.get("trial_id")
        if not isinstance(trial, int):
            return None
        if trial >= self._created:
            return self._candidate or line
        # A trial that is written to as soon as it is made was not shifted by a line before it.
        if trial == self._created - 1 and self._newest_place is not None:
            self._candidate = None
            self._newest_place = None
        return None

    def _apply(self, record: Record, line: int) -> None:
        before = len(self._lines.records)
        self._lines.records.append(record)
        try:
            self._sync()
        except Exception as error:  # whatever a record leads Optuna to
            what = f"is a record that Optuna refuses ({type(error).__name__}: {error})"
            self.examined.damages.append(Damage(line, what, None))
            self._lines.records[before] = {
                "op_code": int(Operation.DISCARD_TRIALS),
                "worker_id": "",
            }
            return
        if record["op_code"] == Operation.CREATE_STUDY:
            self._count_studies()
        elif record["op_code"] == Operation.CREATE_TRIAL:
            self._created += 1
            self._newest_place = line
        elif "trial_id" in record:
            self._newest_place = None

    def _sync(self) -> None:
        if self._studies:
            self.examined.storage.get_study_directions(0)
        else:
            self.examined.storage.get_all_studies()

    def _repeat(self, record: Record) -> None:
        if self._doubled and record["op_code"] == Operation.CREATE_TRIAL:
            self.examined.doubles.add(self._created)
            self._apply({**record, "state": 0, "values": None}, 0)

    def _create_study(self, name: str, metrics: int) -> None:
        if name in {study.study_name for study in self._all_studies()}:
            name = f"lost-{self._studies}"
        self.examined.unmade.append(name)
        self.examined.storage.create_new_study([StudyDirection.MAXIMIZE] * metrics, name)
        self._count_studies()

    def _insert(self, study: int | None) -> None:
        """Makes an empty trial, in the study that its name says, else in the one that is given.

        Where neither is known, in a study that nobody reads, so that those behind it keep their
        numbers.
        """
        storage = self.examined.storage
        number = study
        name = self._trials.get(self._created)
        if name is not None:
            number = self._study_of(name, number)
        if number is None or not 0 <= number < self._studies:
            self._create_study(f"lost-{self._studies}", 1)
            number = self._studies - 1
        self.examined.missing.add(self._created)
        storage.create_new_trial(number)
        self._created += 1

    def _study_of(self, trial: str, otherwise: int | None) -> int | None:
        label = re.sub(r"-\d{3,}(-r\d+)?$", "", trial)
        studies = {study.study_name.partition("@")[2]: study for study in self._all_studies()}
        of_all = re.sub(r"^w[^-]*", "all", label)
        for each in (label, of_all):
            if each in studies:
                return int(studies[each]._study_id)
        return otherwise

    def _count_studies(self) -> None:
        """Of deleted ones the numbers are not given again."""
        numbers = [study._study_id for study in self._all_studies()]
        self._studies = max([self._studies, *(number + 1 for number in numbers)])

    def _all_studies(self) -> list[Any]:
        return self.examined.storage.get_all_studies()


# --- mending ---


def repair_journal(folder: Path) -> None:
    """Mends what a dead driver left: its lock, and a last line that a full disk cut short (a copy
    is kept).

    Only for a driver that found no living one; Optuna cannot append to, or later open, a torn
    journal.
    """
    journal = folder / JOURNAL
    lock = Path(f"{journal}.lock")
    if lock.is_symlink():
        lock.unlink(missing_ok=True)
    if not journal.exists():
        return
    guard = JournalFileSymlinkLock(str(journal))
    guard.acquire()
    try:
        content = journal.read_bytes()
        whole = content.rfind(b"\n", 0, -1) + 1
        if whole < len(content) and _parsed(1, content[whole:]).damage is not None:
            _keep_torn(journal, content, whole)
    finally:
        guard.release()


def replace_journal(folder: Path, records: Iterable[Record]) -> Path:
    """Puts these records into the place of a journal's; returns the copy of it as it was.

    Only for a search that nobody drives.

    Raises:
        OSError: there is no room; the journal is as it was.
    """
    journal = folder / JOURNAL
    number = 1
    while (copy := folder / f"{JOURNAL}.damaged-{number}").exists():
        number += 1
    written = folder / f"{JOURNAL}.new"
    try:
        _write_synced(copy, journal.read_bytes())
        _write_synced(written, "".join(map(_line_of, records)).encode())
    except OSError:
        copy.unlink(missing_ok=True)
        written.unlink(missing_ok=True)
        raise
    written.replace(journal)
    Path(f"{journal}.lock").unlink(missing_ok=True)
    return copy


def _write_synced(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
