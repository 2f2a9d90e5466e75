"""Trials that a person has taken out of a search's results, with the reason: a note beside the
trial, which Optuna's samplers do not look at."""

from __future__ import annotations

from optuna.storages import BaseStorage

from robsearch.study.storage import refused_if_read_only

DROP = "drop "
"""Begins the attribute of the search's own study with the reason; empty where it was undone."""


def drop_trial(storage: BaseStorage, search: str, trial: str, why: str) -> None:
    """Notes that a trial is dropped, or, without a reason, that it is not.

    Raises:
        InputError: the storage cannot be written.
    """
    study = storage.get_study_id_from_name(search)
    with refused_if_read_only():
        storage.set_study_user_attr(study, f"{DROP}{trial}", why)


def dropped_trials(storage: BaseStorage, search: str) -> dict[str, str]:
    """The trials of a search that are dropped, each with the reason."""
    attrs = storage.get_study_user_attrs(storage.get_study_id_from_name(search))
    return {
        name.removeprefix(DROP): str(why)
        for name, why in attrs.items()
        if name.startswith(DROP) and why
    }
