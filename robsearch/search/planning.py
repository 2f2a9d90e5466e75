"""The studies that a search consists of."""

from __future__ import annotations

from itertools import groupby

from robsearch.recipe import Recipe
from robsearch.search.turns import Turns
from robsearch.spaces import Space
from robsearch.study import SearchRecord, Storage, Study, all_seen, seen_elsewhere, study_names


def turns_of(space: Space, record: SearchRecord, storage: Storage, full: Recipe) -> Turns:
    """All studies of a search, each made if it is not there yet, and which of them is asked next.

    For the process that holds the search's lease; whoever only reads takes ``studies_of``.

    Args:
        space: what is searched.
        record: of the search.
        storage: that it is remembered in.
        full: one of the space's recipes.
    """
    planned = -(-record.trials // (len(space.widths) * space.replicates))
    studies = [
        Study(storage, record.name, space, stage, trials=planned, full=full, seed=record.seed)
        for stage in space.stages()
    ]
    for study in studies:
        begin(space, study)
    elsewhere = seen_elsewhere(storage, record.name)
    searched = sorted((s for s in studies if s.stage.control is None), key=lambda s: s.stage.rung or "")
    for rung, of_rung in groupby(searched, key=lambda study: study.stage.rung):
        siblings = list(of_rung)
        for study in siblings:
            study.meet(all_seen(siblings, elsewhere if rung is None else []))
    return Turns(space, studies, record.trials)


def studies_of(space: Space, record: SearchRecord, storage: Storage) -> list[Study]:
    """Those of a search's studies that were made, to be read: nothing is written."""
    made = study_names(storage)
    return [
        Study(storage, record.name, space, stage, trials=record.trials, full=None, seed=record.seed)
        for stage in space.stages()
        if f"{record.name}@{stage.label}" in made
    ]


def begin(space: Space, study: Study) -> None:
    """Enqueues what a space wants tried first, in a new study of its cheapest rung."""
    cheapest = space.fidelity[0].name if space.fidelity else None
    if study.stage.control is None and study.stage.rung == cheapest and not study.trials():
        for params in space.start_with:
            study.enqueue(dict(params))
