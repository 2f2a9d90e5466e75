"""Ending one trial of a search, by whoever drives it or, where nobody does, by another process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from robsearch.metrics import LAM, VAL_NATURAL, VALUE, Metrics
from robsearch.study.recorded import (
    TRAININGS,
    RecordedTrial,
    readable_facts,
    recorded_studies,
    trials_of,
)
from robsearch.study.storage import refused_if_read_only

END = "end "
"""Begins the attribute of the search's own study that asks for the end of a trial."""


def ask_to_end(storage: BaseStorage, search: str, trial: str) -> None:
    """Asks the process that drives a search, or the next one, to end a trial as pruned.

    Raises:
        InputError: the storage cannot be written.
    """
    study = storage.get_study_id_from_name(search)
    with refused_if_read_only():
        storage.set_study_user_attr(study, f"{END}{trial}", time.time())


def asked_to_end(storage: BaseStorage, search: str) -> set[str]:
    """The trials that somebody asked to end."""
    attrs = storage.get_study_user_attrs(storage.get_study_id_from_name(search))
    return {name.removeprefix(END) for name in attrs if name.startswith(END)}


def prune_interrupted(
    storage: BaseStorage, search: str, trial: str, history: Sequence[Metrics], best: int
) -> bool:
    """Tells a trial that was interrupted as pruned; for the holder of the search's lease, where a
    suggestion is one trial.

    Args:
        storage: of the search.
        search: its name.
        trial: such as ``w4-017``.
        history: its epochs, as they were saved; it may have none.
        best: the number of the best of them, from 1.

    Returns:
        Whether it had begun and had not ended. One of which only the suggestion is there is left to
        the next driver.
    """
    for stage, _, suggestions in recorded_studies(storage, search):
        for suggestion in suggestions:
            begun = [each for each in trials_of(suggestion) if each.trial == trial]
            if not begun or begun[0].state != "RUNNING":
                continue
            study = optuna.load_study(study_name=f"{search}@{stage.label}", storage=storage)
            pruned = _pruned(begun[0], history, best)
            number = storage.get_study_id_from_name(study.study_name)
            trial_id = storage.get_trial_id_from_study_id_trial_number(number, suggestion.number)
            storage.set_trial_user_attr(trial_id, TRAININGS, [pruned.stored])
            for name, fact in readable_facts([pruned]).items():
                storage.set_trial_user_attr(trial_id, name, fact)
            study.tell(suggestion.number, state=TrialState.PRUNED)
            return True
    return False


def _pruned(recorded: RecordedTrial, history: Sequence[Metrics], best: int) -> RecordedTrial:
    if not history:
        return replace(recorded, state="PRUNED")
    entry = history[best - 1]
    return replace(
        recorded,
        state="PRUNED",
        best_epoch=best,
        epochs=len(history),
        lam=history[-1][LAM],
        metrics={name: entry[name] for name in (VALUE, VAL_NATURAL) if name in entry},
    )
