"""A storage made noted from what could be read of a damaged one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from robsearch.errors import refused
from robsearch.spaces import Space, Stage
from robsearch.study.condensed import LinesInMemory, Record
from robsearch.study.journal import Examined
from robsearch.study.params import plain_name
from robsearch.study.record import SearchRecord
from robsearch.study.recorded import (
    IMPORTED,
    RISEN_FROM,
    TRAININGS,
    RecordedTrial,
    recorded_studies,
    trials_of,
    without_imported,
)
from robsearch.study.replaying import recipe_changes
from robsearch.study.suggestions import Study, Suggestion, TrialEnd, begun_record, define
from robsearch.trials.provenance import read_attempts

LOST = "its line of the journal is lost, and its folder does not say how it ended"
DOUBLED = "made by lines of the journal that repeat others"


@dataclass(frozen=True)
class FolderTrial:
    """What a trial's folder says, where the storage says less.

    Attributes:
        stage: of its study.
        width: of the net.
        number: of its suggestion.
        replicate: which of the suggestion's seeds; None where it has one.
        params: that were suggested, under the names that MLflow takes.
        end: how it ended, or that it runs.
    """

    stage: Stage
    width: float
    number: int
    replicate: int | None
    params: Mapping[str, Any]
    end: TrialEnd


class _AskedParams(dict[str, Any]):
    """Parameters by the names that MLflow takes, for a space that asks by its own."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(plain_name(str(name)))

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(plain_name(name))


def place_of(space: Space, trial: str) -> tuple[Stage, float, int, int | None] | None:
    """The stage, width, number and replicate of a trial by its name; None where the space has no
    such trial."""
    parts = re.fullmatch(r"(.+)-(\d{3,})(?:-r(\d+))?", trial)
    if parts is None:
        return None
    for stage in space.stages():
        widths = space.widths if stage.width is None else (stage.width,)
        for width in widths:
            if replace(stage, width=width).label == parts[1]:
                replicate = None if parts[3] is None else int(parts[3])
                return stage, width, int(parts[2]), replicate
    return None


class Rebuilding:
    """The storage of a search, made noted in memory.

    Args:
        examined: what could be read.
        record: of the search.
    """

    def __init__(self, examined: Examined, record: SearchRecord) -> None:
        self._examined = examined
        self._record = record
        self._lines = LinesInMemory()
        self._rebuilt: dict[tuple[str, int], dict[str, Any]] = {}
        self._ends: dict[tuple[str, int], dict[str, TrialEnd]] = {}
        self._stages: dict[str, tuple[Stage, Suggestion]] = {}
        self._attributes: dict[str, Any] = {}
        self._below = self._rungs_below()

    def restore_attribute(self, key: str, value: Any) -> None:
        """Has an attribute of the search's own study noted in place of what could be read."""
        self._attributes[key] = value

    def rebuild(self, space: Space, trial: FolderTrial, folder: Path) -> None:
        """Has a trial's begin, its parameters and its end noted as its folder has them.

        Args:
            space: of the search.
            trial: what its folder says.
            folder: the trial's.

        Raises:
            InputError: the space now defines another recipe than it was trained with.
        """
        params = _AskedParams({plain_name(name): value for name, value in trial.params.items()})
        fixed = FixedTrial(params, number=trial.number)
        member = trial.width, trial.replicate
        suggestion = define(space, self._record.seed, trial.stage, fixed, *member)
        recipe = suggestion.recipe
        attempts = read_attempts(folder)
        changes = list(recipe_changes(attempts[-1]["recipe"], recipe)) if attempts else []
        if changes:
            got = "; ".join(f"{change.what} {change.now}" for change in changes)
            was = "; ".join(f"{change.what} {change.was}" for change in changes)
            do = "undo the change in the space, or leave the trial out"
            raise refused(f"the recipe that {suggestion.trial} was trained with, {was}", got, do)
        begun = begun_record(suggestion)
        study = f"{self._record.name}@{trial.stage.label}"
        key = study, trial.number
        facts = self._rebuilt.setdefault(key, {"params": {}, "distributions": {}, "begun": {}})
        facts["params"].update(fixed.params)
        facts["distributions"].update(fixed.distributions)
        facts["begun"][begun.trial] = begun
        self._stages.setdefault(study, (trial.stage, suggestion))
        self._ends.setdefault(key, {})[begun.trial] = trial.end

    def records(self, space: Space | None) -> list[Record]:
        """The records of a journal that has all of it."""
        storage = JournalStorage(self._lines)
        for study in self._examined.storage.get_all_studies():
            if re.fullmatch(r"lost-\d+", study.study_name):
                continue
            number = storage.create_new_study(study.directions, study.study_name)
            restored = self._attributes if study.study_name == self._record.name else {}
            for key, value in {**study.user_attrs, **restored}.items():
                storage.set_study_user_attr(number, key, value)
            for key, value in study.system_attrs.items():
                storage.set_study_system_attr(number, key, value)
            self._copy_trials(storage, study.study_name, study._study_id, number)
        if space is not None:
            self._restore(storage, space)
        return self._lines.records

    def _rungs_below(self) -> dict[str, str]:
        """Of each study above a rung the name of that rung's."""
        ladders: dict[float | None, list[str]] = {}
        # The studies of a width were made cheapest first.
        for stage, _, _ in recorded_studies(self._examined.storage, self._record.name):
            if stage.control is None:
                ladders.setdefault(stage.width, []).append(f"{self._record.name}@{stage.label}")
        rungs = self._record.fidelity
        below: dict[str, str] = {}
        for ladder in ladders.values():
            if rungs is None or len(ladder) == len(rungs) + 1:
                below.update((upper, lower) for lower, upper in pairwise(ladder))
        return below

    def _with_number_below(self, study: str, trial: FrozenTrial) -> FrozenTrial:
        """A suggestion with its number in the rung below, from which all above a rung have risen.

        It is part of the line that made the suggestion; the parameters have lines of their own.
        """
        below = self._below.get(study)
        if below is None or not trial.params or {RISEN_FROM, IMPORTED} & trial.user_attrs.keys():
            return trial
        for number, params in self._params_of(below).items():
            if params == trial.params:
                trial.user_attrs = {**trial.user_attrs, RISEN_FROM: number}
                break
        return trial

    def _params_of(self, study: str) -> dict[int, dict[str, Any]]:
        """The parameters of a study's suggestions, by number."""
        storage = self._examined.storage
        trials = storage.get_all_trials(storage.get_study_id_from_name(study), deepcopy=False)
        params = {trial.number: trial.params for trial in without_imported(trials)}
        for (of, number), noted in self._rebuilt.items():
            if of == study:
                params[number] = {**noted["params"], **params.get(number, {})}
        return params

    def _copy_trials(self, storage: BaseStorage, name: str, before: int, now: int) -> None:
        trials = self._examined.storage.get_all_trials(before)
        while (
            trials
            and self._is_double(trials[-1])
            and (name, trials[-1].number) not in self._rebuilt
        ):
            trials.pop()
        for trial in trials:
            noted = self._rebuilt.get((name, trial.number))
            if noted is not None:
                trial = _begun_again(trial, noted)
            elif self._is_double(trial):
                trial = _failed(trial, DOUBLED)
            elif trial._trial_id in self._examined.missing and not trials_of(trial):
                trial = _failed(trial, LOST)
            storage.create_new_trial(now, self._with_number_below(name, trial))

    def _is_double(self, trial: FrozenTrial) -> bool:
        untouched = not (trial.params or trial.user_attrs)
        return trial._trial_id in self._examined.doubles and untouched

    def _restore(self, storage: BaseStorage, space: Space) -> None:
        for name, (stage, suggestion) in self._stages.items():
            study = Study(
                storage,
                self._record.name,
                space,
                stage,
                trials=self._record.trials,
                full=suggestion.recipe,
                seed=self._record.seed,
            )
            study_id = storage.get_study_id_from_name(name)
            numbers = sorted(number for of, number in self._rebuilt if of == name)
            for number in numbers:
                there = len(storage.get_all_trials(study_id, deepcopy=False))
                for missing in range(there, number + 1):
                    noted = self._rebuilt.get((name, missing))
                    empty = _empty(missing)
                    trial = _begun_again(empty, noted) if noted else _failed(empty, LOST)
                    storage.create_new_trial(study_id, self._with_number_below(name, trial))
                study.restore(number, self._ends.get((name, number), {}))


def _begun_again(trial: FrozenTrial, noted: Mapping[str, Any]) -> FrozenTrial:
    """A suggestion as it was before it was told, with what the folders of its trials know."""
    trials: dict[str, RecordedTrial] = {each.trial: each for each in trials_of(trial)}
    for name, begun in noted["begun"].items():
        before = trials.get(name)
        if before is None or before.state == "RUNNING":
            trials[name] = begun
    ordered = sorted(trials.values(), key=lambda each: (each.width, each.replicate or 0))
    return _template(
        trial,
        TrialState.RUNNING,
        params={**noted["params"], **trial.params},
        distributions={**noted["distributions"], **trial.distributions},
        user_attrs={**trial.user_attrs, TRAININGS: [each.stored for each in ordered]},
    )


def _failed(trial: FrozenTrial, reason: str) -> FrozenTrial:
    facts = {**trial.user_attrs, "reason": reason}
    return _template(trial, TrialState.FAIL, user_attrs=facts)


def _empty(number: int) -> FrozenTrial:
    # Each has a time of its own, by which two records are told apart.
    started = datetime.now() + timedelta(microseconds=number)
    return FrozenTrial(
        number=number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=started,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=-1,
    )


def _template(
    trial: FrozenTrial,
    state: TrialState,
    *,
    params: dict[str, Any] | None = None,
    distributions: dict[str, BaseDistribution] | None = None,
    user_attrs: dict[str, Any],
) -> FrozenTrial:
    ended = trial.datetime_complete or trial.datetime_start or datetime.now()
    return FrozenTrial(
        number=trial.number,
        state=state,
        value=None,
        datetime_start=trial.datetime_start,
        datetime_complete=ended if state.is_finished() else None,
        params=trial.params if params is None else params,
        distributions=trial.distributions if distributions is None else distributions,
        user_attrs=user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
        trial_id=trial._trial_id,
    )


def lacks_facts(suggestion: FrozenTrial, params: Sequence[str], end: TrialEnd) -> bool:
    """Whether the storage lacks parameters of a suggestion, or epochs of its only trial.

    Args:
        suggestion: as the storage has it.
        params: that its folder has, under the names that MLflow takes.
        end: how its trial stands by its folder.
    """
    if IMPORTED in suggestion.user_attrs:
        return False
    if set(params) - {plain_name(name) for name in suggestion.params}:
        return True
    reported = suggestion.intermediate_values
    trials = trials_of(suggestion)
    # The steps of a suggestion of several trials are no epochs.
    if not reported or len(trials) > 1 or trials[0].replicate is not None:
        return False
    until = len(end.history) if end.state == "COMPLETE" else max(reported)
    return any(epoch not in reported for epoch in range(1, min(until, len(end.history)) + 1))
