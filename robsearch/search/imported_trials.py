"""What a space learns from: the finished trials of other searches, or tables of such trials."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robsearch.data import content_digests
from robsearch.errors import InputError, counted, refusal, refuse, refused
from robsearch.identity import DERIVATION, content_hash
from robsearch.recipe import Recipe
from robsearch.search.results_store import ResultsStore
from robsearch.spaces import Draw, Space, distributions
from robsearch.study import (
    COLUMN,
    JOURNAL,
    Distributions,
    Observation,
    SearchRecord,
    Storage,
    dropped_suggestions,
    finished_observations,
    number,
    open_storage,
    read_as,
    record_names,
    warm_start,
)

Say = Callable[[str], None]

JUDGED_BY = {
    "evaluation attack": ("evaluation attack digest", "evaluation attack"),
    "val images": ("val data", "data"),
}
"""What must agree for values to be comparable: the facts that tell it, the surest first."""


def trials_to_import(
    space: Space, store: ResultsStore, draws: Sequence[Draw], name: str, say: Say
) -> list[Observation]:
    """The finished trials that ``space.learn_from`` names.

    Args:
        space: of the new search.
        store: where the searches are that it names; a path of a search's folder may lead elsewhere.
        draws: suggestions of the space.
        name: of the new search.
        say: shows a line, of a search that has not ended or of which trials are dropped.

    Raises:
        InputError: no such search or table, no finished trial, another metric, evaluation attack or
            data set, or a table with other than finite shares, widths and parameters; all at once.
    """
    problems = _source_problems(space, store, name)
    refuse(problems)
    trials: list[Observation] = []
    for source in map(os.fspath, space.learn_from):
        try:
            if _is_table(source):
                trials += read_table(Path(source), space.maximise, distributions(draws))
            else:
                trials += _trials_of_search(source, space, store, draws, say)
        except InputError as error:
            problems += error.problems
    refuse(problems)
    return trials


def import_trials(
    storage: Storage,
    search: str,
    space: Space,
    trials: Sequence[Observation],
    ranges: Mapping[str, Any],
    say: Say,
) -> None:
    """Makes a new search's samplers know finished trials, and says of each source how many, and why
    not the others."""
    if not trials:
        return
    counts = Counter(trial.source for trial in trials)
    for source, reasons in warm_start(storage, search, space, trials, ranges).unknown.items():
        fitting = counts[source] - reasons.total()
        others = "".join(f"; {count} {reason}" for reason, count in reasons.most_common())
        say(f"samplers know {fitting} of {counted(counts[source], 'trial')} from {source}{others}")


def judgement_of(record: SearchRecord) -> Mapping[str, str]:
    """How the values of a search were judged, as far as it remembers: by the facts of
    ``JUDGED_BY``."""
    # An older robsearch recorded two of these facts, and among the settings.
    return {**record.setting, **record.judged_by}


def judgement_of_space(draws: Sequence[Draw]) -> dict[str, str]:
    """The same of a space. Where its suggestions differ, all are named: then no search was judged
    like it."""
    attacks = [draw.recipe.resolved_eval_attack for draw in draws]
    recipes = [draw.recipe for draw in draws]
    return {
        "evaluation attack": _alternatives(map(str, attacks)),
        "evaluation attack digest": _alternatives(map(content_hash, attacks)),
        "data": _alternatives(str(recipe.data) for recipe in recipes),
        "val data": _alternatives(map(_val_data, recipes)),
    }


def _val_data(recipe: Recipe) -> str:
    """What tells the images that judge; where each seed draws its own, those of one of them."""
    digest = content_digests(recipe.resolved_data)["val"]
    is_fixed = recipe.resolved_data == recipe.data
    return digest if is_fixed else f"{digest}, others by seed"


def _alternatives(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))


def _source_problems(space: Space, store: ResultsStore, name: str) -> list[str]:
    """What is wrong with the list of sources, before any of them is opened."""
    texts = [os.fspath(source) for source in space.learn_from]
    problems = []
    if name in texts:
        got = f"{name!r}, which is the new search itself"
        do = "name another search, or take it out of learn_from"
        problems.append(refusal("other searches in learn_from", got, do))
    # The same search may be named by its name, by a path, or through a link.
    paths = [os.path.realpath(text if _is_path(text) else store.folder(text)) for text in texts]
    times = Counter(paths)
    repeated = [text for text, place in zip(texts, paths, strict=True) if times[place] > 1]
    if repeated:
        got = ", ".join(repeated)
        problems.append(refusal("each source of learn_from once", got, "name it once"))
    tables = [text for text in texts if _is_table(text)]
    if tables and space.per_trial == "all":
        expected = "values over all widths, for per_trial='all' asks for these,"
        got = f"{', '.join(tables)}, whose rows are of one width each"
        instead = "a search with per_trial='all' and the same widths can be learned from"
        do = f"take tables out of learn_from; {instead}"
        problems.append(refusal(expected, got, do))
    return problems


def _is_table(source: str) -> bool:
    return source.lower().endswith(".csv")


def _is_path(source: str) -> bool:
    """Whether it is no search's name: that of a search is a folder's name."""
    return _is_table(source) or os.sep in source


# --- the trials of another search ---


def _trials_of_search(
    source: str, space: Space, store: ResultsStore, draws: Sequence[Draw], say: Say
) -> list[Observation]:
    storage, record = _opened(source, store)
    problems = [
        *_judgement_problems(source, record, draws),
        *_width_problems(source, record, space),
    ]
    trials: list[Observation] = []
    try:
        trials += finished_observations(storage, record.name, space.maximise, source)
    except InputError as error:
        problems += error.problems
    else:
        if not trials:
            expected = "a search with finished trials at full fidelity"
            do = f"let it finish some, or take {source!r} out of learn_from"
            problems.append(refusal(expected, f"{source!r} with none", do))
    refuse(problems)
    dropped = dropped_suggestions(storage, record.name)
    if dropped:
        say(f"{source}: {counted(dropped, 'dropped trial')} left out")
    ended = (len(trials) + dropped) * record.trainings
    if ended < record.trials:
        planned = counted(record.trials, "trial")
        say(f"{source} has finished {ended} of its {planned}: only these are learned from")
    return trials


def _opened(source: str, store: ResultsStore) -> tuple[Storage, SearchRecord]:
    """The storage that holds a search, and its record: a path leads to a folder that was moved or
    renamed."""
    if not _is_path(source):
        # Values are in the storage: the results need not be here.
        storage = store.open(source)
        return storage, SearchRecord.load(storage, source)
    folder = Path(source).expanduser().absolute()
    if not (folder / JOURNAL).is_file():
        got = f"{source!r}, where there is no {JOURNAL}"
        instead = "export the trials of a search in a database to a CSV file"
        do = f"correct the path in learn_from, or {instead}"
        raise refused("the folder of a search", got, do)
    storage = open_storage(None, folder)
    names = record_names(storage)
    if len(names) != 1:
        got = f"{', '.join(names) or 'none'} in {folder}"
        raise refused("the folder of one search", got, "correct the path in learn_from")
    return storage, SearchRecord.load(storage, names[0])


def _judgement_problems(source: str, record: SearchRecord, draws: Sequence[Draw]) -> Iterator[str]:
    was = judgement_of(record)
    now = judgement_of_space(draws)
    for label, facts in JUDGED_BY.items():
        common = next((fact for fact in facts if fact in was and fact in now), None)
        if common is None or was[common] == now[common]:
            continue
        # A person reads the text rather than the digest, unless both have the same text.
        shown = facts[-1] if was.get(facts[-1]) != now.get(facts[-1]) else common
        expected = f"the {label} of the new search, {now.get(shown, now[common])}"
        got = f"{was.get(shown, was[common])} in {source!r}"
        do = _way_out(source, record.name)
        derived = any(draw.recipe.eval_attack is None for draw in draws)
        if derived and record.derivation != DERIVATION and label == "evaluation attack":
            do += f"; or judge as it was judged: Recipe(derivation={record.derivation}, ...)"
        yield refusal(expected, got, do)


def _way_out(source: str, name: str) -> str:
    folder = os.path.dirname(os.path.normpath(source))
    results = f", {folder!r}" if _is_path(source) else ""
    export = f"robsearch.load_search({name!r}{results}).finished.to_csv('{name}.csv')"
    return (
        f"take {source!r} out of learn_from, or, if its values are meant to be compared, "
        f"export them: {export}"
    )


def _width_problems(source: str, record: SearchRecord, space: Space) -> Iterator[str]:
    """Values over all widths are no values of one width, nor of other widths."""
    same_widths = space.per_trial == "one" or sorted(record.widths) == sorted(space.widths)
    if record.per_trial == space.per_trial and same_widths:
        return
    got = {"one": "one width each", "all": f"all of the widths {record.widths}"}
    expected = {
        "one": "trials of one width each",
        "all": f"trials of all of the widths {space.widths}",
    }
    do = f"take {source!r} out of learn_from"
    yield refusal(expected[space.per_trial], f"{got[record.per_trial]} in {source!r}", do)


# --- a table of trials: every cell is checked before anything starts ---

SHOWN = 3
"""Lines of one kind that a refusal names; it counts the others."""
SEARCHED = {"state": "COMPLETE", "control": "", "rung": ""}
"""What ``Search.trials`` says of a trial that was searched, at full fidelity, to its end."""
CORRECT = "correct these cells, or delete their lines"


def read_table(file: Path, metrics: Sequence[str], ranges: Distributions) -> list[Observation]:
    """The trials of a CSV file.

    Args:
        file: with a column ``width``, one for each metric, and one for each parameter. The column
            of a single metric may be called ``value``, that of a parameter ``param/NAME`` (as in
            ``Search.trials``). Others do not count.
        metrics: that are maximised, as shares from 0 to 1.
        ranges: the distribution of each parameter of the space. An empty cell of a parameter says
            that the trial was not asked for it.

    Raises:
        InputError: it is no such table; all problems, each with the lines that it is in.
    """
    header, lines = _read(file)
    columns = _columns(file, header, metrics, ranges)
    problems = _CellProblems(file)
    trials = []
    for line, cells in lines:
        if len(cells) != len(header):
            expected = f"{len(header)} cells in each line"
            problems.add(line, expected, str(len(cells)), "correct these lines")
            continue
        row = _Row(line, dict(zip(header, cells, strict=True)), problems)
        row.check_searched()
        params = {}
        for name, distribution in ranges.items():
            value = row.param(columns[name], distribution) if name in columns else None
            if value is not None:
                params[name] = value
        width = row.width(columns["width"])
        values = tuple(row.share(columns[metric]) for metric in metrics)
        trials.append(Observation(width, params, values, str(file)))
    sentences = problems.sentences()
    refuse(sentences)
    return trials


def _read(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and each line that is not empty with its number."""
    expected = f"a table to learn from, {file}"
    lines = []
    try:
        # Spreadsheets write a byte order mark.
        with open(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            for cells in reader:
                stripped = [cell.strip() for cell in cells]
                if any(stripped):
                    lines.append((reader.line_num, stripped))
    except OSError as error:
        do = f"correct the path in learn_from; it was looked for in {file.absolute().parent}"
        raise refused(expected, error.strerror or error, do) from error
    except (ValueError, csv.Error) as error:
        raise refused(expected, error, "save it as CSV in UTF-8") from error
    if len(lines) < 2:
        got = "a header without rows" if lines else "an empty file"
        raise refused(expected, got, "fill it, or take it out of learn_from")
    header = lines[0][1]
    separators = {";": "semicolons", "\t": "tabs"}
    for separator, plural in separators.items():
        if len(header) == 1 and separator in header[0]:
            do = "save it with commas between columns, and points in numbers"
            raise refused(expected, f"{plural} between its columns", do)
    return header, lines[1:]


def _columns(
    file: Path, header: list[str], metrics: Sequence[str], ranges: Distributions
) -> dict[str, str]:
    """The names of the columns of the width, of each metric and of each parameter."""
    columns = {"width": "width", **{metric: metric for metric in metrics}}
    problems = []
    if len(metrics) == 1 and {"value", metrics[0]} <= set(header):
        expected = f"one of the columns value and {metrics[0]} in {file}"
        problems.append(refusal(expected, "both", "delete the column that is not meant"))
    elif len(metrics) == 1 and metrics[0] not in header:
        columns[metrics[0]] = "value"
    got = ", ".join(filter(None, header))
    missing = [column for column in columns.values() if column not in header]
    if missing:
        expected = f"columns {', '.join(columns.values())} in {file}"
        problems.append(refusal(expected, got, f"add {', '.join(missing)}"))
    params: dict[str, str] = {}
    for name in ranges:
        for column in (f"{COLUMN}{name}", name):
            if column in header:
                params.setdefault(name, column)
    if ranges and not params:
        expected = f"a column for a parameter of the space, {', '.join(ranges)}, in {file}"
        do = "name the columns of the parameters as the space does"
        problems.append(refusal(expected, got, do))
    columns |= params
    repeated = [column for column in columns.values() if header.count(column) > 1]
    if repeated:
        got = f"{', '.join(repeated)} twice"
        problems.append(refusal(f"each column once in {file}", got, "delete one of them"))
    refuse(problems)
    return columns


class _CellProblems:
    """What is wrong with the cells of a file: one sentence for each kind, with the first lines of
    it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._kinds: dict[str, tuple[str, list[str]]] = {}

    def add(self, line: int, expected: str, got: str, do: str) -> None:
        """Notes one cell; the first of its kind says what to do."""
        _, cells = self._kinds.setdefault(expected, (do, []))
        cells.append(f"{got or 'nothing'} in line {line}")

    def sentences(self) -> list[str]:
        """One for each kind of problem."""
        sentences = []
        for expected, (do, cells) in self._kinds.items():
            got = ", ".join(cells[:SHOWN])
            if len(cells) > SHOWN:
                got += f" and {len(cells) - SHOWN:,} more"
            sentences.append(refusal(f"{expected} of {self._file}", got, do))
        return sentences


class _Row:
    """One line: each reader notes what is wrong with its cell, and then gives back NaN."""

    def __init__(self, line: int, cells: Mapping[str, str], problems: _CellProblems) -> None:
        self._line = line
        self._cells = cells
        self._problems = problems

    def check_searched(self) -> None:
        """Where a table is that of a search, its lines must be of trials whose values are
        comparable."""
        if not {"trial", *SEARCHED} <= self._cells.keys():
            return
        do = "delete the lines of controls, of rungs and of trials that did not finish"
        for name, expected in SEARCHED.items():
            if self._cells[name] != expected:
                got = self._cells[name]
                self._problems.add(self._line, f"{name} {expected or 'empty'}", got, do)

    def width(self, column: str) -> float:
        """The width of the trial."""
        value = self._number(column)
        return value if 0 < value < math.inf else self._wrong("finite widths above 0", column)

    def share(self, column: str) -> float:
        """The value of a metric."""
        value = self._number(column)
        if 1 < value <= 100:
            do = f"write {self._cells[column]} as a share: {value / 100:.6g}"
            return self._wrong("shares, not percents,", column, do)
        return value if 0 <= value <= 1 else self._wrong("shares from 0 to 1", column)

    def param(self, column: str, distribution: Any) -> Any:
        """The value of a parameter; None if the trial was not asked for it."""
        try:
            value = read_as(distribution, self._cells[column])
        except ValueError:
            value = math.nan
        if isinstance(value, float) and not math.isfinite(value):
            return self._wrong("finite numbers", column)
        return value

    def _number(self, column: str) -> float:
        try:
            return number(self._cells[column])
        except ValueError:
            return math.nan

    def _wrong(self, expected: str, column: str, do: str = CORRECT) -> float:
        text = self._cells[column]
        self._problems.add(self._line, f"{expected} in column {column}", text, do)
        return math.nan
