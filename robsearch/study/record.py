"""What a search is, as its storage remembers it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from robsearch.errors import TakenNameError, refusal, refused
from robsearch.metrics import VALUE

ABOUT = "about"
"""The attribute of a study without trials that says what it is for."""
FOLDER = "folder"
"""The attribute of the search's own study with the folder of its results."""


@dataclass(frozen=True)
class SearchRecord:
    """What a search is, as the storage remembers it: enough to resume it on another day.

    Attributes:
        name: of the search.
        space: its reference, ``module:name``; for one that no other process can import, words in
            ``<...>``.
        widths: that it searches.
        seed: from which every trial's seed derives.
        trials: the total that was asked for; ``resume --trials`` raises it.
        tracking: the MLflow URI, without user name and password (MLflow takes these from the
            environment); empty for the sqlite file beside the results, wherever these lie
            (``Search.record`` has its URI).
        setting: labels and texts for the report: model, data, attack, versions, commit.
        maximise: the metrics that decide.
        per_trial: ``one`` or ``all`` widths.
        trainings: that a suggestion consists of.
        identity: random, given to the search at birth: what tells two searches of one name apart
            wherever they could meet. Empty for a search begun before robsearch 0.2 that was not
            continued since.
        controls: the names of the controls beside the search; None if they were not recorded.
        subject_to: the constraints, as text; None if they were not recorded.
        fidelity: the rungs below the full recipe, as text; None if they were not recorded.
        judged_by: what a value must have in common with another to be compared with it: the
            ``evaluation attack`` as text, its digest, and the digest of the contents of ``val``.
        derivation: the rules by which its recipes derive what is left at None
            (``identity.DERIVATION``); 1 for a search that was begun before it recorded them.
        budgets: in hours, by the names that ``RunOptions`` has for them.
        written_by: the version of robsearch that wrote this record.
    """

    name: str
    space: str
    widths: tuple[float, ...]
    seed: int
    trials: int
    tracking: str
    setting: dict[str, str]
    maximise: tuple[str, ...] = (VALUE,)
    per_trial: str = "one"
    trainings: int = 1
    identity: str = ""
    controls: tuple[str, ...] | None = None
    subject_to: tuple[str, ...] | None = None
    fidelity: tuple[str, ...] | None = None
    judged_by: dict[str, str] = field(default_factory=dict)
    derivation: int = 1
    budgets: dict[str, float] = field(default_factory=dict)
    written_by: str = field(default="", compare=False)

    def create(self, storage: BaseStorage) -> None:
        """Claims the search's name in the storage, and writes the record.

        Raises:
            TakenNameError: says the two ways on.
        """
        self.claim(storage)
        self.save(storage)

    def claim(self, storage: BaseStorage) -> None:
        """Claims the search's name in the storage, atomically; a search is there once the record
        is saved.

        Raises:
            TakenNameError: says the two ways on.
        """
        try:
            study = storage.create_new_study([StudyDirection.MAXIMIZE], self.name)
        except DuplicatedStudyError as error:
            do = "resume that one, or choose another --name"
            problem = refusal("the name of a new search", f"{self.name!r}, which exists", do)
            raise TakenNameError(problem) from error
        what = f"no trials: the record of {self.name!r}, whose trials are in {self.name}@..."
        explain(storage, study, what)

    @classmethod
    def load(cls, storage: BaseStorage, name: str) -> Self:
        """The record of an existing search.

        Raises:
            InputError: there is none of that name; lists those there are. Or a newer robsearch
                wrote it.
        """
        try:
            attrs = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
            facts: dict[str, Any] = dict(attrs["search"])
        except KeyError as error:
            names = ", ".join(record_names(storage)) or "none"
            do = f"searches here: {names}; --results or --storage says where to look"
            raise refused("the name of a search", repr(name), do) from error
        return cls.of(facts)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The record that these facts make, as JSON gives them back.

        Raises:
            InputError: a newer robsearch wrote them.
        """
        unknown = sorted(set(facts) - set(cls.__dataclass_fields__))
        if unknown:
            expected = f"a search that robsearch {version('robsearch')} can read"
            newer = facts.get("written_by") or "a later one"
            recorded = ", ".join(unknown)
            do = (
                f"install that version: the search records {recorded}, which this one does not know"
            )
            raise refused(expected, f"{newer}'s", do)
        known: dict[str, Any] = {}
        for name, fact in facts.items():
            # JSON has lists for tuples.
            known[name] = tuple(fact) if isinstance(fact, list) else fact
        return cls(**known)

    def save(self, storage: BaseStorage) -> None:
        """Writes the record over the one in the storage."""
        study = storage.get_study_id_from_name(self.name)
        facts = {**vars(self), "written_by": version("robsearch")}
        storage.set_study_user_attr(study, "search", facts)


def explain(storage: BaseStorage, study: int, what: str) -> None:
    """Says what a study without trials is for, to a person who comes upon it in optuna-dashboard.

    Args:
        storage: that it is in.
        study: the storage's number of it.
        what: in a sentence.
    """
    storage.set_study_user_attr(study, ABOUT, what)


def note_folder(storage: BaseStorage, search: str, folder: Path) -> None:
    """Notes where a search has its results: a database may have those of several folders."""
    study = storage.get_study_id_from_name(search)
    storage.set_study_user_attr(study, FOLDER, str(folder.resolve()))


def noted_folder(storage: BaseStorage, search: str) -> Path | None:
    """Where the last driver of a search had its results, if that was noted."""
    noted = storage.get_study_user_attrs(storage.get_study_id_from_name(search)).get(FOLDER)
    return None if noted is None else Path(noted)


def discard_half_made(storage: BaseStorage, search: str, is_own: bool) -> None:
    """Removes the studies that a launch left which ended before it had saved the record; for the
    holder of the search's lease.

    Args:
        storage: that the search is to be in.
        search: its name.
        is_own: whether nothing but this search is in the storage. In one that others use, a study
            of this name is left alone if no earlier launch has held the lease.
    """
    studies = {study.study_name: study for study in storage.get_all_studies()}
    prefix = f"{search}@"
    leases = {name for name in studies if name.startswith(f"{prefix}lease-")}
    begun = search in studies and "search" in studies[search].user_attrs
    if begun or (len(leases) < 2 and not is_own):
        return
    for name in studies.keys() - leases:
        if name == search or name.startswith(prefix):
            storage.delete_study(storage.get_study_id_from_name(name))


def delete_search(storage: BaseStorage, search: str) -> None:
    """Removes all that a storage has of a search but its leases, its record first; for the holder
    of its lease."""
    with contextlib.suppress(KeyError):  # a launch that was ended early has left none
        storage.delete_study(storage.get_study_id_from_name(search))
    for study in storage.get_all_studies():
        name = study.study_name
        if name.startswith(f"{search}@") and not name.startswith(f"{search}@lease-"):
            storage.delete_study(storage.get_study_id_from_name(name))


def record_names(storage: BaseStorage) -> list[str]:
    """The names of all searches in a storage, oldest first."""
    return [study.study_name for study in storage.get_all_studies() if "search" in study.user_attrs]
