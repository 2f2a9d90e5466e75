"""Finished trials from elsewhere, another search or a table, that samplers know from the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from robsearch.errors import InputError, refusal
from robsearch.spaces import Space, contains
from robsearch.study.trainings import IMPORTED
from robsearch.study.width_sampler import Seen


class Found(NamedTuple):
    """One of them: ``values`` are those of the metrics that are maximised."""

    width: float
    params: Mapping[str, Any]
    values: tuple[float, ...]
    source: str


def found_in(storage: BaseStorage, search: str, metrics: Sequence[str]) -> Iterator[Found]:
    """The finished suggestions of another search, at full fidelity.

    Raises:
        InputError: that search maximised other metrics.
    """
    for study in storage.get_all_studies():
        place = study.user_attrs.get("place")
        if not place or place["search"] != search or place["control"] or place.get("rung") or place["width"] is None:
            continue
        if list(place.get("metrics", metrics)) != list(metrics):
            do = f"maximise the same in both, or take {search!r} out of learn_from"
            raise InputError(refusal(f"a search for {', '.join(metrics)}", ", ".join(place["metrics"]), do))
        for trial in storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.COMPLETE,)):
            yield Found(place["width"], trial.params, tuple(trial.values), search)


def bring_in(
    storage: BaseStorage,
    search: str,
    space: Space,
    found: Sequence[Found],
    known: Mapping[str, BaseDistribution],
) -> int:
    """Adds what fits to a new search's studies; returns how many did.

    Those at a width of the space go to that width's study; the others are kept for samplers that learn across widths.
    What the space does not ask for is left out of the parameters; a value outside the space's range leaves out the
    trial.

    Args:
        storage: of the new search.
        search: its name.
        space: of the new search.
        found: trials from elsewhere.
        known: the distribution of each parameter of the space.
    """
    fitting = [(one, params) for one in found if (params := _fitting(one.params, known))]
    for one, params in fitting:
        label = f"w{one.width:g}" if one.width in space.widths else "elsewhere"
        study = optuna.create_study(
            storage=storage,
            study_name=f"{search}@{label}",
            directions=["maximize"] * len(space.maximise),
            load_if_exists=True,
        )
        distributions = {name: known[name] for name in params}
        facts = {IMPORTED: one.source, "width": one.width}
        values = list(one.values)
        study.add_trial(
            optuna.create_trial(params=params, distributions=distributions, values=values, user_attrs=facts)
        )
    return len(fitting)


def seen_elsewhere(storage: BaseStorage, search: str) -> list[Seen]:
    """What a search was given of widths that it does not search itself."""
    try:
        study = storage.get_study_id_from_name(f"{search}@elsewhere")
    except KeyError:
        return []
    trials = storage.get_all_trials(study, deepcopy=False)
    return [Seen(trial.user_attrs["width"], trial.params, trial.values[0]) for trial in trials if trial.values]


def _fitting(params: Mapping[str, Any], known: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    asked = {name: value for name, value in params.items() if name in known}
    return asked if all(contains(known[name], value) for name, value in asked.items()) else {}
