"""One study: what to try there, what became of it, and when to stop a poor trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from robsearch.data import commonest_share, content_digests
from robsearch.errors import InputError, refusal
from robsearch.protocols import Metrics
from robsearch.recipe import Recipe
from robsearch.spaces import AtLeast, Space, Stage, default_sampler, fresh_sampler, grid_size
from robsearch.study.live import Live
from robsearch.study.pruning import pruner_of
from robsearch.study.replaying import differs
from robsearch.study.storage import make_study
from robsearch.study.trainings import Suggestion, Told, Training, best_first, define, derived_seed, own, trainings_of
from robsearch.study.width_sampler import Seen, seen_in


class Study:
    """One stage of one search (``NAME@w4``, ``NAME@all``, ``NAME@w4-standard``).

    Args:
        storage: shared by all studies of the search.
        search: its name.
        space: what is searched, and how.
        stage: which of the search's studies.
        trials: how many suggestions are planned; the default sampler's start-up is sized by it.
        full: one of the space's recipes; the default pruner reads epochs and learning rate from it. None for a study
            that is there and is only read: nothing is written.
        seed: of the search.
    """

    def __init__(
        self,
        storage: BaseStorage,
        search: str,
        space: Space,
        stage: Stage,
        *,
        trials: int,
        full: Recipe | None,
        seed: int,
    ) -> None:
        self.stage, self.label, self.space = stage, stage.label, space
        self._seed, self._live = seed, dict[int, Live]()
        self._exhausted = False
        metrics = space.maximise if stage.control is None else space.maximise[:1]
        name, place = f"{search}@{self.label}", {"search": search, **vars(stage), "metrics": metrics}
        self._study = make_study(storage, name, place) if full else optuna.load_study(study_name=name, storage=storage)
        self._metrics: tuple[str, ...] = metrics
        self._study.sampler = self._sampler(trials)
        self._study.pruner = self._pruner(full)

    @property
    def widths(self) -> tuple[float, ...]:
        """At which each suggestion is trained, thin to wide."""
        return tuple(sorted(self.space.widths)) if self.stage.width is None else (self.stage.width,)

    @property
    def replicates(self) -> int:
        """Trainings of a suggestion at one width: those of a rung or a control are one each."""
        return self.space.replicates if self.stage.deciding else 1

    def _sampler(self, trials: int) -> BaseSampler:
        seed = derived_seed(self._seed, self.label, len(self._study.get_trials(deepcopy=False)))
        if self.stage.control is not None:
            return RandomSampler(seed=seed)
        return fresh_sampler(self.space.sampler, seed) if self.space.sampler else default_sampler(trials, seed)

    def _pruner(self, full: Recipe | None) -> optuna.pruners.BasePruner:
        if full is None or not self.stage.deciding or len(self._metrics) > 1:
            return NopPruner()
        return pruner_of(self.space, full, by_training=self._several)

    @property
    def _several(self) -> bool:
        return len(self.widths) * self.replicates > 1

    # -- what is known, and what to try first ------------------------------------------------------------------

    def meet(self, siblings: Callable[[], Sequence[Seen]]) -> None:
        """Tells a sampler that learns across widths where to read the trials of all of them."""
        with_siblings = getattr(self._study.sampler, "with_siblings", None)
        if self.stage.width is not None and with_siblings is not None:
            self._study.sampler = with_siblings(self.stage.width, siblings)

    def seen(self) -> list[Seen]:
        """Its suggestions as another study's sampler reads them, those brought in included."""
        return seen_in(self._study.get_trials(deepcopy=False), self.widths[0])

    def enqueue(self, params: dict[str, Any], **facts: Any) -> None:
        """Makes these parameters the next suggestion, once."""
        self._study.enqueue_trial(dict(params), user_attrs=facts, skip_if_exists=True)

    @property
    def waiting(self) -> int:
        """Enqueued suggestions that nobody has asked for yet."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def ranked(self) -> list[tuple[int, dict[str, Any]]]:
        """Numbers and parameters of its finished suggestions, best first."""
        return [(trial.number, trial.params) for trial in best_first(self.trials())]

    def risen(self) -> set[int]:
        """Numbers, in the rung below, of the suggestions that were enqueued here because they were the best there."""
        trials = self._study.get_trials(deepcopy=False)
        return {trial.user_attrs["risen_from"] for trial in trials if "risen_from" in trial.user_attrs}

    @property
    def exhausted(self) -> bool:
        """Whether its sampler has nothing left to try: all points of a grid were handed out."""
        size = grid_size(self._study.sampler)
        if size is None:
            return self._exhausted
        return sum("grid_id" in trial.system_attrs for trial in self._study.get_trials(deepcopy=False)) >= size

    # -- suggestions -------------------------------------------------------------------------------------------

    def ask(self) -> Suggestion | None:
        """The next recipe to train; None if the space failed to define it (the trial is told FAIL)."""
        return self._begun(self._study.ask())

    def adopt(self) -> list[Suggestion]:
        """The trainings that a dead driver left, to be continued under their own names.

        Raises:
            InputError: the space now defines another recipe than the one a training was started with.
        """
        left = own(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
        adopted = [self._begun(optuna.Trial(self._study, trial._trial_id), trial) for trial in left]
        return [suggestion for suggestion in adopted if suggestion]

    def again(self, training: Training) -> Suggestion:
        """The suggestion of a training that has ended, with the recipe it was trained with.

        Raises:
            InputError: the space now defines another one.
        """
        frozen = self._study._storage.get_trial(self._id(training.number))
        trial: Any = optuna.trial.FixedTrial(frozen.params, number=training.number)
        return self._suggestion(trial, training.number, training.width, training.replicate, training.facts)

    def _begun(self, trial: optuna.Trial, left: FrozenTrial | None = None) -> Suggestion | None:
        self._live[trial.number] = Live.of(trial, left)
        return None if self._settled(trial.number) else self._next_training(trial.number)

    def _settled(self, number: int) -> bool:
        """Tells what a dead driver had noted of its last training, but not told."""
        live = self._live[number]
        state = live.trainings[-1]["state"] if live.trainings else "RUNNING"
        if state == "PRUNED" or (state == "FAIL" and not self.space.paired):
            self._tell(number, TrialState[state])
        elif state != "RUNNING" and len(live.trainings) == len(self._members()):
            self._tell_end(number)
        return number not in self._live

    def _next_training(self, number: int) -> Suggestion | None:
        """The training that was begun and has not ended, else the first that was not begun."""
        live = self._live[number]
        begun = live.begun
        width, replicate = (begun["width"], begun["replicate"]) if begun else self._members()[len(live.trainings)]
        try:
            found = self._suggestion(live.trial, number, width, replicate, begun)
            data = content_digests(found.recipe.data)["all"]
            known = {"recipe_epochs": found.recipe.epochs, "commonest": commonest_share(found.recipe.data, "val")}
        except Exception as error:
            if begun:
                raise
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            live.trial.set_user_attr("reason", f"the space failed: {kind}{error}")
            self._tell(number, TrialState.FAIL)
            return None
        if not begun:
            facts = {"trial": found.trial, "width": width, "replicate": replicate, "seed": found.recipe.seed}
            live.begin(**facts, recipe=found.recipe.digest, data=data, **known)
        elif not known.keys() <= begun.keys():  # an older robsearch began it
            live.know(**known)
        return found

    def _members(self) -> list[tuple[float, int | None]]:
        seeds = range(self.replicates) if self.replicates > 1 else [None]
        return [(width, replicate) for width in self.widths for replicate in seeds]

    def _suggestion(
        self, trial: optuna.Trial, number: int, width: float, replicate: int | None, begun: Mapping[str, Any] | None
    ) -> Suggestion:
        """Of a training that is to begin, or that was ``begun`` with these facts."""
        found = define(self.space, self._seed, self.stage, trial, number, width, replicate)
        if begun is not None and (why := differs(begun, found.recipe)):
            do = "undo the change (to the space, its data, or the version of robsearch), or launch a new search"
            raise InputError(refusal(f"the recipe that {found.trial} was started with", why, do))
        return found

    # -- what became of them -----------------------------------------------------------------------------------

    def report(self, suggestion: Suggestion, epochs: list[Metrics]) -> bool:
        """Remembers each epoch's value, once, and says whether the pruner would stop the trial.

        Only where a suggestion is one training and one metric is maximised: else epochs are not its steps.
        """
        live = self._live[suggestion.number]
        if self._several or len(self._metrics) > 1:
            return False
        for entry in epochs:
            if (epoch := int(entry["epoch"])) not in live.epochs:
                live.trial.report(entry[self._metrics[0]], step=epoch)
                live.epochs.add(epoch)
        return bool(epochs) and live.trial.should_prune()

    def complete(self, suggestion: Suggestion, best: Metrics, last: Metrics, **spent: float) -> Told:
        """Notes a finished training; tells its suggestion when this was the last one, or when it is given up."""
        number, live = suggestion.number, self._live[suggestion.number]
        live.end("COMPLETE", best, last, self._metrics, self._goals, spent)
        value, facts = live.mean(self._metrics[0]), live.trainings[-1]
        if len(live.trainings) == len(self._members()):
            return Told(self._tell_end(number), value, None, facts)
        if self._gives_up(live, value):
            self._tell(number, TrialState.PRUNED)
            return Told("PRUNED", value, None, facts)
        following = self._next_training(number)
        return Told("RUNNING" if following else "FAIL", value, following, facts)

    def _gives_up(self, live: Live, mean: float) -> bool:
        """Between trainings the pruner sees their sum as a share of all that are planned, which only rises."""
        if len(self._metrics) > 1:
            return False
        done = len(live.trainings)
        live.trial.report(mean * done / len(self._members()), step=done)
        return live.trial.should_prune()

    def prune(self, suggestion: Suggestion, best: Metrics, last: Metrics, **spent: float) -> Mapping[str, Any]:
        """Tells a trial that was stopped because others at its width were better; returns its facts."""
        live = self._live[suggestion.number]
        live.end("PRUNED", best, last, self._metrics, self._goals, spent)
        self._tell(suggestion.number, TrialState.PRUNED)
        return live.trainings[-1]

    def fail(self, suggestion: Suggestion, reason: str, **spent: float) -> Told:
        """Tells a failed trial, with the reason; where seeds are paired, the others of its suggestion still count."""
        number, live = suggestion.number, self._live[suggestion.number]
        live.fail(reason, spent)
        if self.space.paired and len(live.trainings) < len(self._members()):
            following = self._next_training(number)
            return Told("RUNNING" if following else "FAIL", math.nan, following)
        self._tell(number, TrialState.FAIL)
        return Told("FAIL", math.nan)

    @property
    def _goals(self) -> tuple[AtLeast, ...]:
        return self.space.subject_to if self.stage.control is None else ()

    def _tell_end(self, number: int) -> str:
        """Of a suggestion all of whose trainings have ended: COMPLETE, or FAIL if one of them did."""
        live = self._live[number]
        if any(each["state"] == "FAIL" for each in live.trainings):
            self._tell(number, TrialState.FAIL)
            return "FAIL"
        live.constrain(self._goals)
        self._tell(number, TrialState.COMPLETE, [live.mean(metric) for metric in self._metrics])
        return "COMPLETE"

    def _tell(self, number: int, state: TrialState, values: list[float] | None = None) -> None:
        try:
            self._study.tell(number, values, state=state)
        except RuntimeError as error:  # how a sampler that has tried everything says so
            if "stop" not in str(error):
                raise
            self._exhausted = True
        self._live.pop(number, None)

    def trials(self) -> list[FrozenTrial]:
        """Every suggestion of this study, in the order of their numbers, without those brought in."""
        return own(self._study.get_trials(deepcopy=False))

    def trainings(self) -> Iterator[tuple[FrozenTrial, Training]]:
        """Every training that was begun, with its suggestion."""
        return ((trial, training) for trial in self.trials() for training in trainings_of(trial))

    def _id(self, number: int) -> int:
        """The storage's own number; to look for it among all trials would cost more with each one."""
        return self._study._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)


def all_seen(studies: Sequence[Study], elsewhere: Sequence[Seen]) -> Callable[[], Sequence[Seen]]:
    """What the samplers of several widths may know: the trials of all of them, and those from elsewhere."""
    return lambda: [*elsewhere, *(seen for study in studies for seen in study.seen())]
