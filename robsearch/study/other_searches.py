"""Finished trials from elsewhere, another search or a table, that samplers know from the start."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from robsearch.drawing.formatting import alike
from robsearch.errors import refused
from robsearch.spaces import Space, Stage, contains
from robsearch.spaces.checking.draws import scratch_study
from robsearch.spaces.space_trial import recipe_of
from robsearch.study.dropping import dropped_trials
from robsearch.study.recorded import IMPORTED, recorded_studies, trials_of
from robsearch.study.replaying import range_text
from robsearch.study.storage import add_finished
from robsearch.study.width_sampler import Observation, observation

Distributions = Mapping[str, BaseDistribution]

DRAWS = 32
"""Suggestions that are drawn to learn which parameters a space asks for together."""
OTHERS = "elsewhere"
"""Names the study of what was brought in at widths that are not searched."""
_MISSING = ("", "nan", "na", "n/a", "none", "null")


class WarmStart(NamedTuple):
    """What became of the trials from elsewhere.

    Attributes:
        added: how many were added to the search's studies.
        unknown: by source, how many the samplers do not know, for each reason in words that follow
            a count.
    """

    added: int
    unknown: dict[str, Counter[str]]


def finished_observations(
    storage: BaseStorage, search: str, metrics: Sequence[str], source: str | None = None
) -> Iterator[Observation]:
    """The finished suggestions of another search, at full fidelity.

    Those that it was given from elsewhere itself are left out: nothing says under which attack they
    were judged. So are those whose trials a person has all dropped.

    Args:
        storage: that it is remembered in.
        search: its name.
        metrics: that are maximised.
        source: what the trials are said to come from; by default the search's name.

    Raises:
        InputError: that search maximised other metrics.
    """
    dropped = dropped_trials(storage, search)
    for stage, recorded, suggestions in recorded_studies(storage, search):
        # A control is no suggestion, and a rung's values are those of another recipe.
        if not stage.deciding:
            continue
        if recorded is not None and list(recorded) != list(metrics):
            do = f"maximise the same in both, or take {search!r} out of learn_from"
            expected = f"a search for {', '.join(metrics)}"
            raise refused(expected, ", ".join(recorded), do)
        for suggestion in suggestions:
            if suggestion.state == TrialState.COMPLETE and not _is_dropped(suggestion, dropped):
                values = tuple(suggestion.values)
                yield Observation(stage.width, suggestion.params, values, source or search)


def dropped_suggestions(storage: BaseStorage, search: str) -> int:
    """How many finished suggestions of a search, at full fidelity, are not learned from because a
    person has dropped all their trials."""
    dropped = dropped_trials(storage, search)
    return sum(
        suggestion.state == TrialState.COMPLETE and _is_dropped(suggestion, dropped)
        for stage, _, suggestions in recorded_studies(storage, search)
        if stage.deciding
        for suggestion in suggestions
    )


def _is_dropped(suggestion: FrozenTrial, dropped: Container[str]) -> bool:
    trials = trials_of(suggestion)
    return bool(trials) and all(trial.trial in dropped for trial in trials)


def warm_start(
    storage: BaseStorage,
    search: str,
    space: Space,
    observations: Sequence[Observation],
    known: Distributions,
) -> WarmStart:
    """Adds what fits to a new search's studies, all of it or nothing.

    What is at a width of the space goes to that width's study; the rest is kept for samplers that
    learn across widths. What the space does not ask for is left out of the parameters; a value
    outside the space's range, or a parameter that is missing, leaves out the trial.

    Args:
        storage: of the new search.
        search: its name.
        space: of the new search.
        observations: from elsewhere.
        known: the distribution of each parameter of the space.
    """
    fitting = _Fitting(space, known)
    added: dict[str, list[FrozenTrial]] = {}
    unknown: dict[str, Counter[str]] = {observed.source: Counter() for observed in observations}
    for observed in observations:
        distributions = {name: known[name] for name in observed.params if name in known}
        params = {}
        for name, distribution in distributions.items():
            params[name] = _typed(distribution, observed.params[name])
        label, reason = fitting.fit(observed.width, params)
        if reason:
            unknown[observed.source][reason] += 1
        if label:
            trial = optuna.create_trial(
                params=params,
                distributions=distributions,
                values=list(observed.values),
                user_attrs={IMPORTED: observed.source, "width": observed.width},
            )
            added.setdefault(f"{search}@{label}", []).append(trial)
    add_finished(storage, len(space.maximise), added)
    return WarmStart(sum(map(len, added.values())), unknown)


def observations_of_other_widths(storage: BaseStorage, search: str) -> list[Observation]:
    """What a search was given of widths that it does not search itself."""
    try:
        study = storage.get_study_id_from_name(f"{search}@{OTHERS}")
    except KeyError:
        return []
    return [
        observation(trial.user_attrs["width"], trial, *trial.values)
        for trial in storage.get_all_trials(study, deepcopy=False)
        if trial.values
    ]


class _Fitting:
    """Says of trials from elsewhere whether a space could have suggested them, and who learns from
    them."""

    def __init__(self, space: Space, known: Distributions) -> None:
        self._space = space
        self._known = known
        self._asked_together = cache(self._draw)

    def fit(self, width: float | None, params: Mapping[str, Any]) -> tuple[str, str]:
        """The label of the study that a trial goes to, and why the samplers do not know it.

        The label is empty if the space could not have suggested it, the reason if they do know it.

        Args:
            width: of the trial; None for one at all widths of the space.
            params: those that the space asks for.
        """
        outside = []
        for name, value in params.items():
            distribution = self._known[name]
            if not contains(distribution, value):
                whole = "whole numbers " if isinstance(distribution, IntDistribution) else ""
                outside.append(f"{name} {whole}{range_text(distribution)}")
        if outside:
            return "", f"outside {' and '.join(outside)}"
        if not params:
            return "", f"without {' or '.join(self._known) or 'a parameter'}"
        if width is not None and width not in self._space.widths:
            return OTHERS, self._not_learned(params)
        missing = self._missing(width, params)
        if missing:
            return "", f"without {' and '.join(missing)}"
        return Stage(width, exact=alike(self._space.widths)).label, ""

    def _not_learned(self, params: Mapping[str, Any]) -> str:
        """Why a trial at a width that is not searched tells a sampler nothing; empty if it tells
        something."""
        sampler = self._space.sampler
        if not hasattr(sampler, "with_siblings"):
            name = type(sampler).__name__ if sampler else "TPESampler"
            return f"at a width that is not searched ({name} learns at each width by itself)"
        parameter = getattr(sampler, "parameter", None)
        return f"without {parameter}" if parameter and parameter not in params else ""

    def _missing(self, width: float | None, params: Mapping[str, Any]) -> list[str]:
        """What a trial lacks to be whole. Samplers that model parameters together cannot use a part
        of them.

        A space may ask for some parameters only in some cases: a trial is whole if it has all that
        a suggestion has.
        """
        if params.keys() == self._known.keys():
            return []
        asked = self._asked_together(min(self._space.widths) if width is None else width)
        lacking = [sorted(names - params.keys()) for names in asked]
        return min(lacking, key=len, default=[])

    def _draw(self, width: float) -> set[frozenset[str]]:
        """The parameters of each of some suggestions."""
        study = scratch_study(RandomSampler(seed=0), metrics=1)
        drawn = set()
        for _ in range(DRAWS):
            trial = study.ask()
            # What a space cannot define, it says when it is searched.
            with contextlib.suppress(Exception):
                recipe_of(self._space.define, trial, width)
                drawn.add(frozenset(trial.params))
        return drawn


def read_as(distribution: BaseDistribution, text: str) -> Any:
    """What a cell of a table means for a parameter; None for an empty cell.

    A choice is meant by its text or by its number: ``2.0`` means 2, and 1 means True where that is
    a choice.

    Raises:
        ValueError: it is not a number, and must be one.
    """
    text = text.strip()
    missing = text.lower() in _MISSING
    if not isinstance(distribution, CategoricalDistribution):
        return None if missing else _typed(distribution, number(text))
    for choice in distribution.choices:
        name = str(choice)
        if text == name or (isinstance(choice, bool) and text.lower() == name.lower()):
            return choice
    if missing:
        return None
    with contextlib.suppress(ValueError):
        value = number(text)
        for choice in distribution.choices:
            if choice == value and not isinstance(choice, str):
                return choice
    return text


def number(text: str) -> float:
    """The number that a text means to everybody, not to Python alone. Raises ValueError if it is
    none."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _typed(distribution: BaseDistribution, value: Any) -> Any:
    """A whole number as an int where the space asks for one: tables and other spaces may have it as
    a float."""
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole and isinstance(distribution, IntDistribution) else value
