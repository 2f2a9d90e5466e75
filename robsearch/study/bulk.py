"""Many finished trials into a storage at once: Optuna's own way is one transaction, or one write, for each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from robsearch.study.storage import WholeLines


def add_finished(storage: BaseStorage, objectives: int, added: Mapping[str, Sequence[FrozenTrial]]) -> None:
    """Adds finished trials to studies that maximise, each made if it is not there yet: all trials, or none.

    A journal is written to once, and a database gets one transaction. After an error the storage must not be used any
    more.

    Args:
        storage: of the studies.
        objectives: of each study.
        added: the trials by the study's name.

    Raises:
        ValueError: a trial has more or fewer values than there are objectives.
    """
    if any(len(trial.values) != objectives for trials in added.values() for trial in trials):
        raise ValueError(f"trials with other than {objectives} values")
    with _written_at_once(storage):
        studies = {name: _opened(storage, name, objectives) for name in added}
        # Optuna wraps a database in a cache, and has no public way to what is inside.
        database = getattr(storage, "_backend", None)
        if isinstance(database, RDBStorage):
            _insert(database, {studies[name]._study_id: trials for name, trials in added.items()})
            return
        for name, trials in added.items():
            studies[name].add_trials(trials)


def _opened(storage: BaseStorage, name: str, objectives: int) -> optuna.Study:
    directions = [StudyDirection.MAXIMIZE] * objectives
    return optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)


@contextlib.contextmanager
def _written_at_once(storage: BaseStorage) -> Iterator[None]:
    # The backend is not public either; that of our journals is a class of ours.
    journal = storage._backend if isinstance(storage, JournalStorage) else None
    with journal.at_once() if isinstance(journal, WholeLines) else contextlib.nullcontext():
        yield


def _insert(database: RDBStorage, added: Mapping[int, Sequence[FrozenTrial]]) -> None:
    """One transaction, and one statement for each table: ``add_trials`` takes 8 ms of SQLAlchemy for each trial.

    It goes through Optuna's own models of its tables, whose layout every later version of Optuna must read or upgrade.
    """
    from optuna.storages._rdb import models  # here: it imports SQLAlchemy, which a journal does not need

    kinds: tuple[Any, ...] = (models.TrialValueModel, models.TrialParamModel, models.TrialUserAttributeModel)
    with database.scoped_session() as session, session.begin():
        for study_id, trials in added.items():
            # Optuna numbers the trials of a study by counting them, under this lock.
            study = models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            first = models.TrialModel.count(session, study)
            made: list[Any] = [
                models.TrialModel(
                    study_id=study_id,
                    number=number,
                    state=trial.state,
                    datetime_start=trial.datetime_start,
                    datetime_complete=trial.datetime_complete,
                )
                for number, trial in enumerate(trials, first)
            ]
            session.add_all(made)
            session.flush()  # which numbers them
            of_trials = [_rows(row.trial_id, trial) for row, trial in zip(made, trials, strict=True)]
            for kind, rows in zip(kinds, zip(*of_trials, strict=True), strict=True):
                session.execute(kind.__table__.insert(), [row for of_trial in rows for row in of_trial])


def _rows(trial_id: int, trial: FrozenTrial) -> tuple[list[dict[str, Any]], ...]:
    """The rows of one finished trial in the tables of values (which are finite), parameters and attributes."""
    values = [
        {"trial_id": trial_id, "objective": i, "value": value, "value_type": "FINITE"}
        for i, value in enumerate(trial.values)
    ]
    params = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distribution.to_internal_repr(trial.params[name]),
            "distribution_json": distribution_to_json(distribution),
        }
        for name, distribution in trial.distributions.items()
    ]
    attributes = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in trial.user_attrs.items()
    ]
    return values, params, attributes
