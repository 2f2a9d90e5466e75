"""One study: what to try there, what became of it, and when to stop a poor trial."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, BruteForceSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from robsearch.data import commonest_share, content_digests
from robsearch.errors import InputError, refused, shortened
from robsearch.identity import mismatch
from robsearch.metrics import LAM, VAL_NATURAL, VALUE
from robsearch.protocols import Dataset, Metrics
from robsearch.recipe import Recipe
from robsearch.spaces import (
    AtLeast,
    Space,
    Stage,
    default_sampler,
    fresh_sampler,
    grid_size,
    training_name,
)
from robsearch.study.pruning import MarginPruner, pruner_of
from robsearch.study.recorded import (
    RISEN_FROM,
    TRAININGS,
    RecordedTrial,
    best_first,
    readable_facts,
    trials_of,
    without_imported,
)
from robsearch.study.storage import name_metrics, open_study
from robsearch.study.width_sampler import Observation, observations_in
from robsearch.trials.loading import best_epoch
from robsearch.trials.selection import has_collapsed


@dataclass(frozen=True)
class Suggestion:
    """One recipe to train, under the name it has everywhere: ``w4-017``; ``params`` are what Optuna
    suggested."""

    trial: str
    width: float
    number: int
    replicate: int | None
    stage: Stage
    recipe: Recipe
    params: Mapping[str, Any] = field(default_factory=dict, compare=False)


class SuggestionOutcome(NamedTuple):
    """What the end of a trial means for its suggestion.

    Attributes:
        state: RUNNING while trials of it are running or left.
        value: the mean of the first metric over those that are complete, NaN after a failure.
        following: the next of its trials.
        trial: the one that has ended, as it was recorded.
    """

    state: str
    value: float
    following: Suggestion | None
    trial: RecordedTrial


class TrialEnd(NamedTuple):
    """How a trial stands, as its folder has it.

    Attributes:
        state: COMPLETE, PRUNED or FAIL; RUNNING of one that has not ended, or whose epochs are
            lost.
        history: its epochs.
        reason: of a failure.
        spent: what it took, under the names of ``RecordedTrial``.
    """

    state: str
    history: list[Metrics]
    reason: str
    spent: Mapping[str, float]


class Study:
    """One stage of one search (``NAME@w4``, ``NAME@all``, ``NAME@w4-standard``).

    Args:
        storage: shared by all studies of the search.
        search: its name.
        space: what is searched, and how.
        stage: which of the search's studies.
        trials: how many suggestions are planned; the default sampler's start-up is sized by it.
        full: one of the space's recipes; the default pruner reads epochs and learning rate from it.
            None for a study that is there and is only read: nothing is written.
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
        self.stage = stage
        self.label = stage.label
        self.space = space
        self._storage = storage
        self._seed = seed
        # Of each suggestion that was not told yet. What became of its trials is in the storage at
        # once, so that a driver that takes over reads it there.
        self._pending: dict[int, optuna.Trial] = {}
        # The width and the replicate of their trials that were not begun yet.
        self._left: dict[int, list[tuple[float, int | None]]] = {}
        self._exhausted = False
        self._metrics = space.maximise if stage.control is None else space.maximise[:1]
        name = f"{search}@{self.label}"
        if full:
            self._study = open_study(storage, name, len(self._metrics))
            place = {"search": search, **vars(stage), "metrics": self._metrics}
            self._study.set_user_attr("place", place)
            name_metrics(self._study, self._metrics)
        else:
            self._study = optuna.load_study(study_name=name, storage=storage)
        self._study_id = storage.get_study_id_from_name(name)
        self._study.sampler = self._sampler(trials)
        self._study.pruner = self._pruner(full)

    @property
    def widths(self) -> tuple[float, ...]:
        """At which each suggestion is trained, thin to wide."""
        if self.stage.width is None:
            return tuple(sorted(self.space.widths))
        return (self.stage.width,)

    def _sampler(self, trials: int) -> BaseSampler:
        # With other seeds after each start, for a sampler would suggest the same again.
        begun = len(self._study.get_trials(deepcopy=False))
        seed = derived_seed(self._seed, self.label, begun)
        if self.stage.control is not None:
            return RandomSampler(seed=seed)
        if self.space.sampler:
            return fresh_sampler(self.space.sampler, seed)
        return default_sampler(trials, seed)

    def _pruner(self, full: Recipe | None) -> BasePruner:
        if full is None or not self.stage.deciding or len(self._metrics) > 1:
            return NopPruner()
        return pruner_of(self.space, full, by_trial=len(self.members) > 1)

    @property
    def members(self) -> list[tuple[float, int | None]]:
        """The width and the replicate of each trial of a suggestion, in their order.

        A suggestion of a rung or a control is trained with one seed.
        """
        has_seeds = self.stage.deciding and self.space.replicates > 1
        replicates = range(self.space.replicates) if has_seeds else [None]
        return [(width, replicate) for width in self.widths for replicate in replicates]

    @property
    def side_by_side(self) -> bool:
        """Whether trials of a suggestion may run at the same time: nothing gives it up between
        them."""
        return len(self.members) > 1 and isinstance(self._study.pruner, NopPruner)

    @property
    def begun(self) -> int:
        """How many trials of suggestions that are running were begun, ended ones too."""
        return len(self._left) * len(self.members) - self.unbegun

    @property
    def unbegun(self) -> int:
        """How many trials of suggestions that are running were not begun."""
        return sum(map(len, list(self._left.values())))

    @property
    def has_following(self) -> bool:
        """Whether ``following`` has a trial to begin."""
        return self.side_by_side and self.unbegun > 0

    # --- what is known, and what to try first ---

    def share_observations(
        self, siblings: Sequence[Study], others: Sequence[Observation] = ()
    ) -> None:
        """Tells a sampler that learns across widths what it may know: the trials of all widths, and
        ``others`` from elsewhere."""
        with_siblings = getattr(self._study.sampler, "with_siblings", None)
        width = self.stage.width
        if width is not None and with_siblings is not None:
            observations = partial(observations_of, siblings, others)
            self._study.sampler = with_siblings(width, observations)

    def observations(self) -> list[Observation]:
        """Its suggestions as a sampler learns from them, those brought in included."""
        return observations_in(self._study.get_trials(deepcopy=False), self.widths[0])

    def enqueue(self, params: dict[str, Any], **facts: Any) -> None:
        """Makes these parameters the next suggestion, once."""
        self._study.enqueue_trial(dict(params), user_attrs=facts, skip_if_exists=True)

    @property
    def waiting(self) -> int:
        """Enqueued suggestions that nobody has asked for yet."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def best_first(self) -> list[tuple[int, dict[str, Any]]]:
        """Numbers and parameters of its finished suggestions, best first."""
        return [(trial.number, trial.params) for trial in best_first(self.trials())]

    def promoted(self) -> set[int]:
        """Numbers, in the rung below, of the suggestions that were enqueued here because they were
        the best there."""
        facts = [trial.user_attrs for trial in self._study.get_trials(deepcopy=False)]
        return {attrs[RISEN_FROM] for attrs in facts if RISEN_FROM in attrs}

    @property
    def exhausted(self) -> bool:
        """Whether its sampler has nothing left to try: all points of a grid were handed out."""
        size = grid_size(self._study.sampler)
        if size is None:
            return self._exhausted
        trials = self._study.get_trials(deepcopy=False)
        return sum("grid_id" in trial.system_attrs for trial in trials) >= size

    @property
    def knows_exhausted(self) -> bool:
        """Whether ``exhausted`` is also known to who has asked for nothing."""
        return not isinstance(self._study.sampler, BruteForceSampler)

    def trials(self) -> list[FrozenTrial]:
        """Every suggestion of this study, in the order of their numbers, without those brought
        in."""
        return without_imported(self._study.get_trials(deepcopy=False))

    def recorded(self) -> Iterator[RecordedTrial]:
        """Every trial that was begun."""
        for suggestion in self.trials():
            yield from trials_of(suggestion)

    # --- suggestions ---

    def ask(self) -> Suggestion | None:
        """The next recipe to train; None if the space failed to define it (the suggestion is told
        FAIL)."""
        trial = self._study.ask()
        self._pending[trial.number] = trial
        self._left[trial.number] = self.members
        suggestion = self._begin_next(trial)
        self._settle(trial)
        return suggestion

    def following(self) -> Suggestion | None:
        """One more trial of a suggestion of which another is running, where trials may run side by
        side."""
        if not self.side_by_side:
            return None
        unbegun = [number for number, left in self._left.items() if left]
        suggestions = (self._begin_next(self._pending[number]) for number in unbegun)
        return next(filter(None, suggestions), None)

    def adopt(self) -> list[Suggestion]:
        """The trials that a dead driver left, to be continued under their own names.

        Raises:
            InputError: the space now defines another recipe than the one a trial was started with.
        """
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        adopted = []
        for orphan in without_imported(running):
            trial = optuna.Trial(self._study, self._trial_id(orphan.number))
            begun = trials_of(trial)
            self._pending[trial.number] = trial
            states = {recorded.state for recorded in begun}
            ends_early = "FAIL" in states and not self.space.paired
            self._left[trial.number] = [] if ends_early else self.members[len(begun) :]
            if "PRUNED" in states:
                self._tell(trial, TrialState.PRUNED)  # a dead driver had noted it, but not told
                continue
            interrupted = [recorded for recorded in begun if recorded.state == "RUNNING"]
            adopted += [self._continued(trial, recorded) for recorded in interrupted]
            if not interrupted:
                following = self._begin_next(trial)
                adopted += [following] if following else []
                self._settle(trial)
        return adopted

    def suggestion_of(self, recorded: RecordedTrial) -> Suggestion:
        """The suggestion of a trial that has ended, with the recipe it was trained with.

        Raises:
            InputError: the space now defines another one.
        """
        # Asked for what was suggested, the space defines the same recipe without a draw.
        params = self._storage.get_trial(self._trial_id(recorded.number)).params
        trial: Any = FixedTrial(params, number=recorded.number)
        member = recorded.width, recorded.replicate
        suggestion = define(self.space, self._seed, self.stage, trial, *member)
        _refuse_another_recipe(recorded, suggestion.recipe)
        return suggestion

    def _continued(self, trial: optuna.Trial, begun: RecordedTrial) -> Suggestion:
        """What was begun and has not ended, as it was."""
        suggestion = self._defined(trial, begun.width, begun.replicate)
        recipe = suggestion.recipe
        _refuse_another_recipe(begun, recipe)
        if None in (begun.commonest, begun.recipe_epochs):
            # An older robsearch did not note these two when it began a trial.
            commonest = commonest_share(recipe.resolved_data, "val")
            _amend(trial, begun.trial, recipe_epochs=recipe.epochs, commonest=commonest)
        return suggestion

    def _begin_next(self, trial: optuna.Trial) -> Suggestion | None:
        """The first of a suggestion's trials that was not begun; None if there is none.

        None too if the space fails to define it: then those that are running are its last.
        """
        left = self._left[trial.number]
        if not left:
            return None
        width, replicate = left.pop(0)
        try:
            suggestion = self._defined(trial, width, replicate)
            begun = begun_record(suggestion)
        except Exception as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            reason = shortened(f"the space failed: {kind}{error}")
            trial.set_user_attr("reason", reason)
            left.clear()
            return None
        _remember(trial, [*trials_of(trial), begun])
        return suggestion

    def _defined(self, trial: optuna.Trial, width: float, replicate: int | None) -> Suggestion:
        return define(self.space, self._seed, self.stage, trial, width, replicate)

    def _trial_id(self, number: int) -> int:
        """The storage's own number; to look for it among all trials would cost more with each
        one."""
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def restore(self, number: int, ends: Mapping[str, TrialEnd]) -> None:
        """Notes anew how trials of a suggestion ended, and tells the suggestion if all have.

        Nothing is begun: what is left of a suggestion is for the next driver.

        Args:
            number: of a suggestion that is RUNNING in the storage.
            ends: by the trial's name, of those whose end is not noted.
        """
        trial = optuna.Trial(self._study, self._trial_id(number))
        self._pending[number] = trial
        self._left[number] = []
        for begun in trials_of(trial):
            end = ends.get(begun.trial)
            if end is not None:
                suggestion = self._defined(trial, begun.width, begun.replicate)
                self._report_missing(trial, end.history)
                self._end_again(trial, suggestion, end)
        noted = trials_of(trial)
        states = {recorded.state for recorded in noted}
        if "PRUNED" in states:
            self._tell(trial, TrialState.PRUNED)
        elif len(noted) == len(self.members) or ("FAIL" in states and not self.space.paired):
            self._settle(trial)
        self._pending.pop(number, None)
        self._left.pop(number, None)

    def _report_missing(self, trial: optuna.Trial, history: Sequence[Metrics]) -> None:
        """Reports the epochs of a trial that the storage lacks, where epochs are a suggestion's
        steps."""
        if len(self.members) > 1 or len(self._metrics) > 1:
            return
        reported = self._storage.get_trial(self._trial_id(trial.number)).intermediate_values
        for entry in history:
            if int(entry["epoch"]) not in reported:
                trial.report(entry[self._metrics[0]], step=int(entry["epoch"]))

    def _end_again(self, trial: optuna.Trial, suggestion: Suggestion, end: TrialEnd) -> None:
        recorded = _recorded(trial, suggestion.trial)
        if end.state == "RUNNING" or recorded.state != "RUNNING":
            return
        if end.state == "FAIL":
            _amend(trial, suggestion.trial, state="FAIL", reason=end.reason, **end.spent)
        else:
            best = end.history[best_epoch(end.history) - 1]
            self._end(trial, suggestion, end.state, best, end.history[-1], end.spent)

    # --- what became of them ---

    def report(self, suggestion: Suggestion, epochs: list[Metrics]) -> bool:
        """Remembers each epoch's value, once, and says whether the pruner would stop the trial.

        Only where a suggestion is one trial and one metric is maximised: else epochs are not its
        steps.
        """
        if not epochs or len(self.members) > 1 or len(self._metrics) > 1:
            return False
        trial = self._pending[suggestion.number]
        reported = self._storage.get_trial(self._trial_id(trial.number)).last_step or 0
        for entry in epochs:
            # A worker that goes on repeats what it had saved.
            if entry["epoch"] > reported:
                trial.report(entry[self._metrics[0]], step=int(entry["epoch"]))
        return trial.should_prune()

    def complete(
        self, suggestion: Suggestion, best: Metrics, last: Metrics, **spent: float
    ) -> SuggestionOutcome:
        """Notes a finished trial; tells its suggestion when this was the last one, or when it is
        given up."""
        trial = self._pending[suggestion.number]
        recorded = self._end(trial, suggestion, "COMPLETE", best, last, spent)
        ended = [each for each in trials_of(trial) if each.state != "RUNNING"]
        value = _mean(ended, self._metrics[0])
        if len(ended) < len(self.members) and self._gives_up(trial, value, len(ended)):
            self._tell(trial, TrialState.PRUNED)
            return SuggestionOutcome("PRUNED", value, None, recorded)
        return self._outcome(trial, value, recorded)

    def prune(
        self, suggestion: Suggestion, best: Metrics, last: Metrics, **spent: float
    ) -> SuggestionOutcome:
        """Tells a trial that was stopped because others at its width were better."""
        trial = self._pending[suggestion.number]
        recorded = self._end(trial, suggestion, "PRUNED", best, last, spent)
        self._tell(trial, TrialState.PRUNED)
        return SuggestionOutcome("PRUNED", math.nan, None, recorded)

    def fail(self, suggestion: Suggestion, reason: str, **spent: float) -> SuggestionOutcome:
        """Tells a failed trial, with the reason; where seeds are paired, the others of its
        suggestion still count."""
        trial = self._pending[suggestion.number]
        recorded = _amend(trial, suggestion.trial, state="FAIL", reason=reason, **spent)
        if not self.space.paired:
            self._left[trial.number].clear()
        return self._outcome(trial, math.nan, recorded)

    def _outcome(
        self, trial: optuna.Trial, value: float, recorded: RecordedTrial
    ) -> SuggestionOutcome:
        """Of a suggestion that is not given up, with its next trial."""
        following = self._begin_next(trial)
        return SuggestionOutcome(self._settle(trial), value, following, recorded)

    def _gives_up(self, trial: optuna.Trial, mean: float, ended: int) -> bool:
        """Between trials the pruner sees their sum as a share of all that are planned, which only
        rises."""
        if len(self._metrics) > 1:
            return False
        trial.report(mean * ended / len(self.members), step=ended)
        return trial.should_prune()

    def _end(
        self,
        trial: optuna.Trial,
        suggestion: Suggestion,
        state: str,
        best: Metrics,
        last: Metrics,
        spent: Mapping[str, float],
    ) -> RecordedTrial:
        """Notes how a trial ended and what it took, with the metrics of its best epoch that
        count."""
        goals = self._goals
        names = {VALUE, VAL_NATURAL, *self._metrics, *(goal.metric for goal in goals)}
        natural = best.get(VAL_NATURAL, math.nan)
        commonest = _recorded(trial, suggestion.trial).commonest
        return _amend(
            trial,
            suggestion.trial,
            state=state,
            best_epoch=int(best["epoch"]),
            epochs=int(last["epoch"]),
            lam=last[LAM],
            metrics={name: best[name] for name in sorted(names & best.keys())},
            feasible=all(goal.shortfall(best[goal.metric]) <= 0 for goal in goals),
            collapsed=has_collapsed(natural, math.nan if commonest is None else commonest),
            **spent,
        )

    @property
    def _goals(self) -> tuple[AtLeast, ...]:
        return self.space.subject_to if self.stage.control is None else ()

    def _settle(self, trial: optuna.Trial) -> str:
        """The state of a suggestion that is not given up; it is told once none of its trials is
        running or left: COMPLETE, or FAIL if one of them did."""
        begun = trials_of(trial)
        if self._left[trial.number] or any(each.state == "RUNNING" for each in begun):
            return "RUNNING"
        if len(begun) < len(self.members) or any(each.state == "FAIL" for each in begun):
            self._tell(trial, TrialState.FAIL)
            return "FAIL"
        for goal in self._goals:
            trial.set_constraint(goal.metric, goal.shortfall(_mean(begun, goal.metric)))
        values = [_mean(begun, metric) for metric in self._metrics]
        self._tell(trial, TrialState.COMPLETE, values)
        return "COMPLETE"

    def _tell(
        self, trial: optuna.Trial, state: TrialState, values: list[float] | None = None
    ) -> None:
        for name, fact in readable_facts(trials_of(trial)).items():
            trial.set_user_attr(name, fact)
        try:
            self._study.tell(trial.number, values, state=state)
        except RuntimeError as error:  # how a sampler that has tried everything says so
            if "stop" not in str(error):
                raise
            self._exhausted = True
        pruner = self._study.pruner
        if isinstance(pruner, MarginPruner):
            ended = self._storage.get_trial(self._trial_id(trial.number))
            pruner.note_end(self._study, ended)
        self._pending.pop(trial.number, None)
        self._left.pop(trial.number, None)


def begun_record(suggestion: Suggestion) -> RecordedTrial:
    """What is noted of a trial when it begins; its data is read."""
    recipe = suggestion.recipe
    return RecordedTrial(
        suggestion.trial,
        suggestion.width,
        suggestion.number,
        suggestion.replicate,
        "RUNNING",
        seed=recipe.seed,
        recipe=recipe.digest,
        data=content_of(recipe.resolved_data),
        recipe_epochs=recipe.epochs,
        commonest=commonest_share(recipe.resolved_data, "val"),
    )


def _recorded(trial: optuna.Trial, name: str) -> RecordedTrial:
    """One of a suggestion's trials."""
    return next(recorded for recorded in trials_of(trial) if recorded.trial == name)


def _amend(trial: optuna.Trial, name: str, **facts: Any) -> RecordedTrial:
    """Notes more of one of a suggestion's trials."""
    trials = {recorded.trial: recorded for recorded in trials_of(trial)}
    trials[name] = replace(trials[name], **facts)
    _remember(trial, list(trials.values()))
    return trials[name]


def _remember(trial: optuna.Trial, trials: Sequence[RecordedTrial]) -> None:
    trial.set_user_attr(TRAININGS, [recorded.stored for recorded in trials])


def _mean(trials: Sequence[RecordedTrial], metric: str) -> float:
    """Of a metric over the trials that are complete."""
    return fmean(trial.metrics[metric] for trial in trials if trial.state == "COMPLETE")


def observations_of(
    studies: Sequence[Study], others: Sequence[Observation] = ()
) -> list[Observation]:
    """What is known of the trials of several studies, after ``others`` from elsewhere."""
    observations = list(others)
    for study in studies:
        observations += study.observations()
    return observations


def define(
    space: Space,
    search_seed: int,
    stage: Stage,
    trial: Any,
    width: float,
    replicate: int | None,
) -> Suggestion:
    """What a space makes of a suggestion: the recipe of one of its trials, with that trial's own
    seed.

    Args:
        space: that is searched.
        search_seed: from which every trial's seed derives.
        stage: of the study.
        trial: Optuna's, or one that gives recorded parameters back.
        width: of the trial.
        replicate: of the trial, or None if a suggestion has one seed.
    """
    # Paired suggestions share their seeds, so neither their label nor their number is a part.
    parts: list[object] = [search_seed]
    if not space.paired:
        parts += [replace(stage, width=width).label, trial.number]
    if replicate:
        parts.append(replicate)
    recipe = space.recipe(stage, trial, width, replicate or 0)
    recipe = recipe.with_seed(derived_seed(*parts))
    name = training_name(stage, width, trial.number, replicate)
    return Suggestion(name, width, trial.number, replicate, stage, recipe, dict(trial.params))


def derived_seed(*parts: object) -> int:
    """A seed below 2**31 that any change of a part changes: (search seed, label, number,
    replicate)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31


def content_of(dataset: Dataset) -> str:
    """The digest of the contents of a data set, as a trial notes it."""
    return content_digests(dataset)["all"]


def difference(
    recorded: RecordedTrial, recipe: Recipe, contents: Callable[[Dataset], str] = content_of
) -> str | None:
    """Why a recipe is not the one that a trial was begun with, in words; None if it is.

    Args:
        recorded: the trial.
        recipe: to be compared.
        contents: gives ``content_of`` a data set; for who compares many recipes, from memory.
    """
    why = mismatch(recorded.recipe, recipe.resolved)
    if why is not None or recorded.data is None:
        return why
    now = contents(recipe.resolved_data)
    if now == recorded.data:
        return None
    data = type(recipe.data).__name__
    return f"other images or labels in {data} (contents {now}, not {recorded.data})"


def _refuse_another_recipe(recorded: RecordedTrial, recipe: Recipe) -> None:
    why = difference(recorded, recipe)
    if why:
        where = "to the space, its data, or the version of robsearch"
        do = f"undo the change ({where}), or launch a new search"
        expected = f"the recipe that {recorded.trial} was started with"
        raise refused(expected, why, do)
