"""The study of one width: what to try there, what became of it, and when to stop a poor trial."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from robsearch.errors import InputError, refusal
from robsearch.protocols import Metrics
from robsearch.recipe import Recipe
from robsearch.spaces import Define
from robsearch.study.pruning import MarginPruner
from robsearch.study.storage import SearchRecord
from robsearch.trainer import VALUE


def trial_label(width: float, control: str | None = None) -> str:
    """The part of a trial's name that names its study: ``w4``, or ``w4-standard`` for a control."""
    return f"w{width:g}-{control}" if control else f"w{width:g}"


@dataclass(frozen=True)
class Suggestion:
    """One recipe to train, under the name it has everywhere: ``w4-017``."""

    trial: str
    width: float
    number: int
    control: str | None
    recipe: Recipe


class _Running(NamedTuple):
    """A trial that has not been told yet, and the epochs whose values the storage has."""

    trial: optuna.Trial
    epochs: set[int]


class Study:
    """One width of one search (``NAME@w4``), or one of its controls (``NAME@w4-standard``).

    Args:
        storage: shared by all studies of the search.
        search: its name.
        width: of every net in this study.
        control: the control's name, or None for the searched trials.
        define: from (suggestion, width) to a recipe.
        trials: how many are planned at this width; the sampler's start-up is sized by it.
        epochs: of one training; none is pruned in the first two thirds.
        seed: of the search.
    """

    def __init__(
        self,
        storage: BaseStorage,
        search: str,
        width: float,
        control: str | None,
        define: Define,
        *,
        trials: int,
        epochs: int,
        seed: int,
    ) -> None:
        self.width, self.control = width, control
        self.label = trial_label(width, control)
        self._define, self._seed = define, seed
        self._live: dict[int, _Running] = {}
        self._study = optuna.create_study(
            storage=storage,
            study_name=f"{search}@{self.label}",
            direction="maximize",
            load_if_exists=True,
        )
        self._study.set_user_attr("place", {"search": search, "width": width, "control": control})
        self._study.sampler = self._sampler(trials)
        self._study.pruner = NopPruner() if control else default_pruner(epochs)

    def _sampler(self, trials: int) -> BaseSampler:
        known = len(self._study.get_trials(deepcopy=False))
        seed = derived_seed(self._seed, self.label, known)
        return RandomSampler(seed=seed) if self.control else default_sampler(trials, seed)

    def ask(self) -> Suggestion | None:
        """The next recipe to train; None if the space failed to define it (the trial is told FAIL)."""
        return self._suggestion(self._study.ask())

    def adopt(self) -> list[Suggestion]:
        """The trials that a dead driver left running, to be continued under their own numbers.

        Raises:
            InputError: the space now defines another recipe than the one a trial was started with.
        """
        left = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        adopted = [
            self._suggestion(optuna.Trial(self._study, trial._trial_id), trial.intermediate_values) for trial in left
        ]
        return [suggestion for suggestion in adopted if suggestion]

    def again(self, number: int) -> Suggestion:
        """The suggestion of a trial that has ended, with the recipe it was trained with.

        Raises:
            InputError: the space now defines another one.
        """
        frozen = self._study._storage.get_trial(self._id(number))
        trial = optuna.trial.FixedTrial(frozen.params)
        recipe = self._seeded(self._define(trial, self.width), number)  # type: ignore[arg-type]
        self._refuse_another(frozen.user_attrs["recipe"], recipe, number)
        return Suggestion(self.name(number), self.width, number, self.control, recipe)

    def _suggestion(self, trial: optuna.Trial, epochs: Iterable[int] = ()) -> Suggestion | None:
        try:
            recipe = self._seeded(self._define(trial, self.width), trial.number)
        except Exception as error:
            self.fail(trial.number, f"the space failed: {type(error).__name__}: {error}")
            return None
        if "recipe" in trial.user_attrs:
            self._refuse_another(trial.user_attrs["recipe"], recipe, trial.number)
        trial.set_user_attr("recipe", recipe.digest)
        trial.set_user_attr("seed", recipe.seed)
        self._live[trial.number] = _Running(trial, set(epochs))
        return Suggestion(self.name(trial.number), self.width, trial.number, self.control, recipe)

    def _seeded(self, recipe: Recipe, number: int) -> Recipe:
        return dataclasses.replace(recipe, seed=derived_seed(self._seed, self.label, number))

    def _refuse_another(self, started_with: str, recipe: Recipe, number: int) -> None:
        if started_with != recipe.digest:
            do = "undo the change to the space (or the version of robsearch), or launch a new search"
            raise InputError(refusal(f"the recipe that {self.name(number)} was started with", "another one", do))

    def report(self, number: int, epochs: list[Metrics]) -> bool:
        """Remembers each epoch's value, once, and says whether the pruner would stop the trial."""
        trial, known = self._live[number]
        for entry in epochs:
            if (epoch := int(entry["epoch"])) not in known:
                trial.report(entry[VALUE], step=epoch)
                known.add(epoch)
        return bool(epochs) and trial.should_prune()

    def complete(self, number: int, best: Metrics, last: Metrics) -> None:
        """Tells a finished training, with the value of its best epoch."""
        self._facts(number, best_epoch=int(best["epoch"]), epochs=int(last["epoch"]), lam=last["train/lam"])
        self._tell(number, TrialState.COMPLETE, best[VALUE])

    def prune(self, number: int, best: Metrics, last: Metrics) -> None:
        """Tells a trial that was stopped because others at its width were better."""
        self._facts(number, best_epoch=int(best["epoch"]), epochs=int(last["epoch"]), lam=last["train/lam"])
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Tells a failed trial, with the reason."""
        self._facts(number, reason=reason)
        self._tell(number, TrialState.FAIL)

    def _facts(self, number: int, **facts: Any) -> None:
        trial_id = self._id(number)
        for key, value in facts.items():
            self._study._storage.set_trial_user_attr(trial_id, key, value)

    def _tell(self, number: int, state: TrialState, value: float | None = None) -> None:
        self._study.tell(number, value, state=state)
        self._live.pop(number, None)

    def name(self, number: int) -> str:
        """The trial's name everywhere: ``w4-017``."""
        return f"{self.label}-{number:03d}"

    def trials(self) -> list[FrozenTrial]:
        """Every trial of this study, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def _id(self, number: int) -> int:
        """The storage's own number; to look for it among all trials would cost more with each one."""
        return self._study._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)


def derived_seed(*parts: object) -> int:
    """A seed below 2**31 that any change of a part changes: (search seed, width, number)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31


def default_sampler(trials: int, seed: int) -> BaseSampler:
    """TPE that begins to model after half of the trials planned at this width, ten at most (Optuna's default)."""
    return TPESampler(n_startup_trials=min(10, max(3, trials // 2)), seed=seed)


def default_pruner(epochs: int) -> BasePruner:
    """Stops what is 4 points worse than the best, in the last third of training."""
    return MarginPruner(margin=0.04, startup=2, warmup=math.ceil(2 * epochs / 3))


def recorded_trials(storage: BaseStorage, record: SearchRecord) -> Iterator[dict[str, Any]]:
    """The facts the storage knows of each trial of a search: name, width, number, control, state, reason, seed."""
    for study in storage.get_all_studies():
        place = study.user_attrs.get("place")
        if not place or place["search"] != record.name:
            continue
        label = trial_label(place["width"], place["control"])
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            yield {
                "trial": f"{label}-{trial.number:03d}",
                "width": place["width"],
                "number": trial.number,
                "control": place["control"],
                "state": trial.state.name,
                "reason": trial.user_attrs.get("reason"),
                "seed": trial.user_attrs.get("seed"),
            }
