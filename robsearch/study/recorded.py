"""What the storage remembers of each trial. A suggestion is one trial, or several at other widths
or with other seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Any, NamedTuple

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from robsearch.errors import refused
from robsearch.metrics import VALUE
from robsearch.spaces import Stage, training_name
from robsearch.study.params import COLUMN
from robsearch.study.record import SearchRecord
from robsearch.study.width_sampler import choices_of
from robsearch.trials.paths import is_name
from robsearch.trials.selection import Order, order

TRAININGS = "trainings"
"""The Optuna trial's attribute: a list of facts, one for each trial that was begun."""
IMPORTED = "imported from"
"""The attribute of a suggestion that another search, or a table, brought in."""
RISEN_FROM = "risen_from"
"""The attribute of a suggestion above a rung: its number in that rung."""


@dataclass(frozen=True)
class RecordedTrial:
    """One trial that was begun, as the storage remembers it.

    What an older robsearch did not note, and what is not known before the trial has ended, is None,
    or 0 of what the trial took.

    Attributes:
        trial: its name.
        width: of the net.
        number: of its suggestion in the study.
        replicate: which of the suggestion's seeds; None where it has one.
        state: its own: a suggestion that was given up after two good trials has two COMPLETE ones.
        seed: of the recipe.
        recipe: the recipe's digest.
        data: the digest of the contents of its data.
        recipe_epochs: the epochs of the recipe.
        commonest: the share of the commonest class of ``val``.
        lam: at its end.
        best_epoch: the epoch with the best value.
        epochs: that were trained.
        seconds: of these epochs.
        gpu_seconds: the same, times the GPUs that were held (see ``training.costs``).
        wall_seconds: from handing it out to its end.
        lost_seconds: after a failure, the time since its last epoch.
        lost_gpu_seconds: the same, times the GPUs that were held.
        feasible: whether it meets all constraints.
        collapsed: whether it gives nearly all images one class.
        reason: of its failure.
        metrics: of its best epoch: those that are maximised or constrained, and the rates.
    """

    trial: str
    width: float
    number: int
    replicate: int | None
    state: str
    seed: int | None = None
    recipe: str = ""
    data: str | None = None
    recipe_epochs: int | None = None
    commonest: float | None = None
    lam: float | None = None
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    wall_seconds: float | None = None
    lost_seconds: float = 0.0
    lost_gpu_seconds: float = 0.0
    feasible: bool | None = None
    collapsed: bool | None = None
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # It is the name of a folder, and stands in a filter of MLflow's between such quotes. Only
        # a storage that somebody else has written has another.
        if not is_name(self.trial) or "'" in self.trial:
            do = "do not use this storage: robsearch wrote no such name into it"
            raise refused("the name of a trial in the storage", repr(self.trial), do)

    @classmethod
    def load(cls, number: int, stored: Mapping[str, Any]) -> RecordedTrial:
        """From what the storage has of it."""
        facts = {name: fact for name, fact in stored.items() if name in DEFAULTS}
        metrics = {name: fact for name, fact in stored.items() if "/" in name}
        return cls(number=number, metrics=metrics, **facts)

    @property
    def stored(self) -> dict[str, Any]:
        """As the storage has it: the metrics are among the other facts."""
        facts = {name: fact for name, fact in vars(self).items() if fact != DEFAULTS[name]}
        del facts["number"], facts["metrics"]
        return {**facts, **self.metrics}

    @property
    def tells_its_end(self) -> bool:
        """Whether it says how the trial ended and what it took, so that nobody need read the
        epochs."""
        has_ended = self.state in ("COMPLETE", "PRUNED")
        # Before a trial noted its commonest class, its seconds counted other things, too.
        counts_epochs = self.commonest is not None and self.epochs > 0 and self.seconds > 0
        return has_ended and counts_epochs and VALUE in self.metrics

    @property
    def order(self) -> Order:
        """Of a finished one: where it stands among those of its width."""
        return order(self.metrics[VALUE], self.feasible, self.collapsed, self.trial)


DEFAULTS = {attribute.name: attribute.default for attribute in fields(RecordedTrial)}


def trials_of(suggestion: FrozenTrial | Trial) -> list[RecordedTrial]:
    """The trials of one suggestion, in their order; none if the space failed to define one."""
    stored = suggestion.user_attrs.get(TRAININGS, [])
    return [RecordedTrial.load(suggestion.number, facts) for facts in stored]


def readable_facts(trials: Sequence[RecordedTrial]) -> dict[str, str | float]:
    """What a person reads of a suggestion in optuna-dashboard, where ``TRAININGS`` is one long
    text: the names of its trials, the means of their metrics, and their seconds in all."""
    if not trials:
        return {}
    values: dict[str, list[float]] = {}
    for trial in trials:
        for name, value in trial.metrics.items():
            values.setdefault(name, []).append(value)
    return {
        "trials": ", ".join(trial.trial for trial in trials),
        "seconds": sum(trial.seconds for trial in trials),
        **{name: fmean(each) for name, each in values.items()},
    }


def without_imported(suggestions: list[FrozenTrial]) -> list[FrozenTrial]:
    """Without those that were brought in, or wait to be asked for."""
    return [
        suggestion
        for suggestion in suggestions
        if suggestion.state != TrialState.WAITING and IMPORTED not in suggestion.user_attrs
    ]


def best_first(suggestions: list[FrozenTrial]) -> list[FrozenTrial]:
    """The finished suggestions by their value; those that miss a constraint come later, those that
    collapsed last.

    A suggestion of several trials collapsed, or misses a constraint, if one of them did.
    """

    def rank(suggestion: FrozenTrial) -> tuple[bool, bool, float]:
        trials = trials_of(suggestion)
        sound = not any(trial.collapsed for trial in trials)
        feasible = not any(trial.feasible is False for trial in trials)
        return sound, feasible, suggestion.values[0]

    finished = [suggestion for suggestion in suggestions if suggestion.state == TrialState.COMPLETE]
    return sorted(finished, key=rank, reverse=True)


class RecordedStudy(NamedTuple):
    """A study of a search: which one, the metrics that it maximises (None if an older robsearch did
    not record them), and its own suggestions."""

    stage: Stage
    metrics: list[str] | None
    suggestions: list[FrozenTrial]


def recorded_studies(storage: BaseStorage, search: str) -> Iterator[RecordedStudy]:
    """The studies of a search; nothing is written."""
    for study in storage.get_all_studies():
        place = study.user_attrs.get("place")
        if place and place["search"] == search:
            stage = Stage(
                width=place["width"],
                control=place["control"],
                rung=place.get("rung"),
                exact=place.get("exact", False),
            )
            number = storage.get_study_id_from_name(study.study_name)
            suggestions = without_imported(storage.get_all_trials(number, deepcopy=False))
            yield RecordedStudy(stage, place.get("metrics"), suggestions)


def recorded_trials(storage: BaseStorage, record: SearchRecord) -> Iterator[dict[str, Any]]:
    """A row for each trial of a search: name, width, number, state, reason, seed and more.

    What else is known of it is the ``RecordedTrial`` under ``recorded``.
    """
    for stage, _, suggestions in recorded_studies(storage, record.name):
        for suggestion in suggestions:
            params = {f"{COLUMN}{name}": value for name, value in suggestion.params.items()}
            # Also a suggestion that the space failed to define has a row, with the reason.
            for trial in trials_of(suggestion) or [_never_begun(stage, suggestion, record)]:
                yield {
                    "trial": trial.trial,
                    "width": trial.width,
                    "number": trial.number,
                    "replicate": trial.replicate,
                    "control": stage.control,
                    "rung": stage.rung,
                    "state": trial.state,
                    "suggestion": suggestion.state.name,
                    "feasible": trial.feasible,
                    "reason": trial.reason or suggestion.user_attrs.get("reason"),
                    "seed": trial.seed,
                    "recipe": trial.recipe or None,
                    "recorded": trial,
                    "choices": choices_of(suggestion),
                    **params,
                }


def _never_begun(stage: Stage, suggestion: FrozenTrial, record: SearchRecord) -> RecordedTrial:
    width = min(record.widths) if stage.width is None else stage.width
    name = training_name(stage, width, suggestion.number, None)
    return RecordedTrial(name, width, suggestion.number, None, suggestion.state.name)
