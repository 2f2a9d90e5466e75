"""Finished trials from elsewhere, another search or a table, that samplers know from the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from robsearch.errors import InputError, refusal
from robsearch.spaces import Space
from robsearch.study.bulk import add_finished
from robsearch.study.fitting import Fitting
from robsearch.study.trainings import IMPORTED, own
from robsearch.study.width_sampler import Seen


class Found(NamedTuple):
    """One of them: ``values`` are those of the metrics that are maximised; ``width`` is None for one at all widths."""

    width: float | None
    params: Mapping[str, Any]
    values: tuple[float, ...]
    source: str


def found_in(storage: BaseStorage, search: str, metrics: Sequence[str], source: str | None = None) -> Iterator[Found]:
    """The finished suggestions of another search, at full fidelity.

    Those that it was given from elsewhere itself are left out: nothing says under which attack they were judged.

    Args:
        storage: that it is remembered in.
        search: its name.
        metrics: that are maximised.
        source: what the trials are said to come from; by default the search's name.

    Raises:
        InputError: that search maximised other metrics.
    """
    for study in storage.get_all_studies():
        place = study.user_attrs.get("place")
        if not place or place["search"] != search or place["control"] or place.get("rung"):
            continue
        if list(place.get("metrics", metrics)) != list(metrics):
            do = f"maximise the same in both, or take {search!r} out of learn_from"
            raise InputError(refusal(f"a search for {', '.join(metrics)}", ", ".join(place["metrics"]), do))
        for trial in own(storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.COMPLETE,))):
            yield Found(place["width"], trial.params, tuple(trial.values), source or search)


def left_out(space: Space, found: Sequence[Found], known: Mapping[str, BaseDistribution]) -> dict[str, Counter[str]]:
    """By source, how many trials the samplers of a space do not know, for each reason; the others they know."""
    fitting = Fitting(space, known)
    reasons: dict[str, Counter[str]] = {one.source: Counter() for one in found}
    for one in found:
        if reason := fitting.fit(one.width, one.params).reason:
            reasons[one.source][reason] += 1
    return reasons


def bring_in(
    storage: BaseStorage,
    search: str,
    space: Space,
    found: Sequence[Found],
    known: Mapping[str, BaseDistribution],
) -> int:
    """Adds what fits to a new search's studies, all of it or nothing; returns how many did.

    Those at a width of the space go to that width's study; the others are kept for samplers that learn across widths.
    What the space does not ask for is left out of the parameters; a value outside the space's range, or a parameter
    that is missing, leaves out the trial.

    Args:
        storage: of the new search.
        search: its name.
        space: of the new search.
        found: trials from elsewhere.
        known: the distribution of each parameter of the space.
    """
    fitting = Fitting(space, known)
    added: dict[str, list[FrozenTrial]] = {}
    for one in found:
        fit = fitting.fit(one.width, one.params)
        if fit.label is None:
            continue
        trial = optuna.create_trial(
            params=fit.params,
            distributions={name: known[name] for name in fit.params},
            values=list(one.values),
            user_attrs={IMPORTED: one.source, "width": one.width},
        )
        added.setdefault(f"{search}@{fit.label}", []).append(trial)
    add_finished(storage, len(space.maximise), added)
    return sum(map(len, added.values()))


def seen_elsewhere(storage: BaseStorage, search: str) -> list[Seen]:
    """What a search was given of widths that it does not search itself."""
    try:
        study = storage.get_study_id_from_name(f"{search}@elsewhere")
    except KeyError:
        return []
    trials = storage.get_all_trials(study, deepcopy=False)
    return [Seen.of(trial.user_attrs["width"], trial, trial.values[0]) for trial in trials if trial.values]
