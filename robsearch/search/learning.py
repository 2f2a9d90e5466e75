"""Where a space learns from: the finished trials of other searches, or tables of such trials."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robsearch.data import content_digests
from robsearch.errors import InputError, refusal
from robsearch.identity import content_hash
from robsearch.search.learning_table import read_table
from robsearch.search.place import Place
from robsearch.spaces import Draw, Space, distributions
from robsearch.study import (
    JOURNAL,
    Found,
    SearchRecord,
    Storage,
    bring_in,
    found_in,
    left_out,
    open_storage,
    record_names,
)
from robsearch.wording import counted

Say = Callable[[str], None]

JUDGED_BY = {
    "evaluation attack": ("evaluation attack digest", "evaluation attack"),
    "val images": ("val data", "data"),
}
"""What must agree for values to be comparable: the facts that tell it, the surest first."""


def found(space: Space, place: Place, draws: Sequence[Draw], name: str, say: Say) -> list[Found]:
    """The finished trials that ``space.learn_from`` names.

    Args:
        space: of the new search.
        place: where the searches are that it names; a path of a search's folder may lead elsewhere.
        draws: suggestions of the space.
        name: of the new search.
        say: shows a line, of a search that has not ended.

    Raises:
        InputError: no such search or table, no finished trial, another metric, evaluation attack or data set, or a
            table with other than finite shares, widths and parameters; all at once.
    """
    problems = _source_problems(space, place, name)
    if problems:
        raise InputError(*problems)
    trials: list[Found] = []
    for source in map(os.fspath, space.learn_from):
        try:
            if _is_table(source):
                trials += read_table(Path(source), space.maximise, distributions(draws))
            else:
                trials += _searched(source, space, place, draws, say)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    return trials


def teach(
    storage: Storage, search: str, space: Space, trials: Sequence[Found], known: Mapping[str, Any], say: Say
) -> None:
    """Makes a new search's samplers know finished trials, and says of each source how many, and why not the others."""
    if not trials:
        return
    bring_in(storage, search, space, trials, known)
    counts = Counter(one.source for one in trials)
    for source, reasons in left_out(space, trials, known).items():
        fitting = counts[source] - reasons.total()
        others = "".join(f"; {count} {reason}" for reason, count in reasons.most_common())
        say(f"samplers know {fitting} of {counted(counts[source], 'trial')} from {source}{others}")


def judgement_of(record: SearchRecord) -> Mapping[str, str]:
    """How the values of a search were judged, as far as it remembers: by the facts of ``JUDGED_BY``."""
    setting: dict[str, str] = {
        name: record.setting[name] for name in ("evaluation attack", "data") if name in record.setting
    }
    return {**setting, **record.judged_by}


def judgement_of_space(draws: Sequence[Draw]) -> dict[str, str]:
    """The same of a space. Where its suggestions differ, all are named: then no search was judged like it."""
    attacks = [draw.recipe.resolved_eval_attack for draw in draws]
    datasets = [draw.recipe.data for draw in draws]
    return {
        "evaluation attack": _each(map(str, attacks)),
        "evaluation attack digest": _each(map(content_hash, attacks)),
        "data": _each(map(str, datasets)),
        "val data": _each(content_digests(dataset)["val"] for dataset in datasets),
    }


def _each(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))


def _source_problems(space: Space, place: Place, name: str) -> list[str]:
    """What is wrong with the list of sources, before any of them is opened."""
    sources = space.learn_from
    if isinstance(sources, str | os.PathLike) or not all(isinstance(each, str | os.PathLike) for each in sources):
        do = f"write such as learn_from=({'first'!r}, {'table.csv'!r})"
        return [refusal("learn_from as a tuple of names and paths", repr(sources), do)]
    texts = [os.fspath(each) for each in sources]
    problems = []
    if name in texts:
        do = "name another search, or take it out of learn_from"
        problems.append(refusal("other searches in learn_from", f"{name!r}, which is the new search itself", do))
    where = {each: os.path.realpath(each if _is_path(each) else place.folder(each)) for each in texts}
    times = Counter(where[each] for each in texts)
    if double := [each for each in texts if times[where[each]] > 1]:
        problems.append(refusal("each source of learn_from once", ", ".join(double), "name it once"))
    tables = [each for each in texts if _is_table(each)]
    if tables and space.per_trial == "all":
        got = f"{', '.join(tables)}, whose rows are of one width each"
        do = "take tables out of learn_from; a search with per_trial='all' and the same widths can be learned from"
        problems.append(refusal("values over all widths, for per_trial='all' asks for these,", got, do))
    return problems


def _is_table(source: str) -> bool:
    return source.lower().endswith(".csv")


def _is_path(source: str) -> bool:
    """Whether it is no search's name: that of a search is a folder's name."""
    return _is_table(source) or os.sep in source


def _searched(source: str, space: Space, place: Place, draws: Sequence[Draw], say: Say) -> list[Found]:
    storage, record = _opened(source, place)
    name = record.name
    problems = [*_judgement_problems(source, record, draws), *_manner_problems(source, record, space)]
    trials: list[Found] = []
    try:
        trials += found_in(storage, name, space.maximise, source)
    except InputError as error:
        problems += error.problems
    else:
        if not trials:
            do = f"let it finish some, or take {source!r} out of learn_from"
            problems.append(refusal("a search with finished trials at full fidelity", f"{source!r} with none", do))
    if problems:
        raise InputError(*problems)
    if (ended := len(trials) * record.trainings) < record.trials:
        say(f"{source} has finished {ended} of its {counted(record.trials, 'trial')}: only these are learned from")
    return trials


def _opened(source: str, place: Place) -> tuple[Storage, SearchRecord]:
    """The storage that holds a search, and its record: a path leads to a folder that was moved or renamed."""
    if not _is_path(source):
        storage = place.open(source)  # values are in the storage: the results need not be here
        return storage, SearchRecord.load(storage, source)
    folder = Path(source).expanduser().absolute()
    if not (folder / JOURNAL).is_file():
        got = f"{source!r}, where there is no {JOURNAL}"
        do = "correct the path in learn_from, or export the trials of a search in a database to a CSV file"
        raise InputError(refusal("the folder of a search", got, do))
    storage = open_storage(None, folder)
    names = record_names(storage)
    if len(names) != 1:
        got = f"{', '.join(names) or 'none'} in {folder}"
        raise InputError(refusal("the folder of one search", got, "correct the path in learn_from"))
    return storage, SearchRecord.load(storage, names[0])


def _judgement_problems(source: str, record: SearchRecord, draws: Sequence[Draw]) -> Iterator[str]:
    was, now = judgement_of(record), judgement_of_space(draws)
    for label, facts in JUDGED_BY.items():
        told = next((fact for fact in facts if fact in was and fact in now), None)
        if told is None or was[told] == now[told]:
            continue
        # a person reads the text rather than the digest, unless both have the same text
        shown = facts[-1] if was.get(facts[-1]) != now.get(facts[-1]) else told
        got = f"{was.get(shown, was[told])} in {source!r}"
        yield refusal(f"the {label} of the new search, {now.get(shown, now[told])}", got, _way_out(source, record.name))


def _way_out(source: str, name: str) -> str:
    results = "" if not _is_path(source) else f", {os.path.dirname(os.path.normpath(source))!r}"
    export = f"robsearch.load_search({name!r}{results}).finished.to_csv('{name}.csv')"
    return f"take {source!r} out of learn_from, or, if its values are meant to be compared, export them: {export}"


def _manner_problems(source: str, record: SearchRecord, space: Space) -> Iterator[str]:
    """Values over all widths are no values of one width, nor of other widths."""
    alike = record.per_trial == space.per_trial
    same = space.per_trial == "one" or sorted(record.widths) == sorted(space.widths)
    if not alike or not same:
        of = {"one": "one width each", "all": f"all of the widths {record.widths}"}[record.per_trial]
        expected = {"one": "trials of one width each", "all": f"trials of all of the widths {space.widths}"}
        yield refusal(expected[space.per_trial], f"{of} in {source!r}", f"take {source!r} out of learn_from")
