"""Which study the next suggestion goes to, and which suggestions rise to the next rung."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from robsearch.metrics import Metrics
from robsearch.recipe import Recipe
from robsearch.spaces import Space, apportion
from robsearch.study import (
    RecordedTrial,
    SearchRecord,
    Storage,
    Study,
    Suggestion,
    observations_of_other_widths,
    study_names,
    trials_of,
)
from robsearch.training.costs import Cost, cost_of, total
from robsearch.trials.loading import MeasuredTrials, read_history
from robsearch.trials.selection import Order


@dataclass
class StudyCounts:
    """What has become of one study's suggestions, kept in memory: deciding and drawing cost no
    storage access.

    Attributes:
        states: suggestions by Optuna's name for their state.
        best: the order, lambda and searched parameters of the best trial.
        spent: what each trial took, running ones too.
        training_seconds: of each finished trial.
        walls: seconds from handing a trial out to its end, failed ones too.
        measuring_walls: the same of measuring a trial on ``test``.
        counted: trials that are complete or pruned.
    """

    states: Counter[str] = field(default_factory=Counter)
    best: tuple[Order, float, Mapping[str, Any]] | None = None
    spent: dict[str, Cost] = field(default_factory=dict)
    training_seconds: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    measuring_walls: list[float] = field(default_factory=list)
    counted: int = 0

    def finished(self, order: Order, lam: float, params: Mapping[str, Any]) -> None:
        """A trial is complete; one that has collapsed is never the best."""
        if order.sound and (self.best is None or order > self.best[0]):
            self.best = (order, lam, params)

    def ended(self, trial: str, state: str, cost: Cost, wall: float) -> None:
        """A trial has ended, in whatever state."""
        self.spent[trial] = cost
        self.walls.append(wall)
        if state == "COMPLETE":
            self.training_seconds.append(cost.seconds)
        if state != "FAIL":
            self.counted += 1

    def settled(self, state: str) -> None:
        """A trial of a suggestion has ended: ``state`` is RUNNING where others of it are left."""
        self.states["RUNNING"] -= 1
        self.states[state] += 1

    def measured(self, trial: str, wall: float, cost: Cost) -> None:
        """A trial was measured on ``test``."""
        self.measuring_walls.append(wall)
        self.spent[trial] = total([self.spent[trial], cost])

    def recall(
        self,
        trial: RecordedTrial,
        trials: Path,
        read_measured: Callable[[str], Metrics],
    ) -> bool:
        """Counts a trial that an earlier driver followed; returns whether it is measured.

        Args:
            trial: to be counted.
            trials: the folder of the trials' folders.
            read_measured: gives the averages over ``test`` of a trial, by its name.
        """
        test = read_measured(trial.trial)
        history = [] if trial.tells_its_end else read_history(trials / trial.trial)
        cost = cost_of(history, test, vars(trial))
        if trial.state == "RUNNING":
            self.spent[trial.trial] = cost
        else:
            wall = trial.wall_seconds
            if wall is None:  # an older robsearch did not note it
                wall = max(cost.seconds, cost.failed_seconds)
            self.ended(trial.trial, trial.state, cost, wall)
        if test:
            self.measuring_walls.append(cost.measure_seconds)
        return bool(test)

    @property
    def taken(self) -> int:
        """Suggestions that count towards the total: failed ones are tried again."""
        return self.states["COMPLETE"] + self.states["PRUNED"] + self.states["RUNNING"]

    @property
    def over(self) -> int:
        """Suggestions that are complete or pruned."""
        return self.taken - self.states["RUNNING"]

    @property
    def total(self) -> Cost:
        """What all its trials took so far."""
        return total(list(self.spent.values()))  # a copy: who draws it is another thread

    @property
    def cost(self) -> float | None:
        """Seconds of one finished training, on average; None where there is none."""
        return _mean(self.training_seconds)

    @property
    def wall(self) -> float | None:
        """How long a worker is taken for one training that counts, with the failures before it;
        None before one."""
        return sum(self.walls) / self.counted if self.counted else None

    @property
    def measuring(self) -> float | None:
        """How long a worker is taken for measuring one trial; None before one is measured."""
        return _mean(self.measuring_walls)


def _mean(seconds: list[float]) -> float | None:
    return sum(seconds) / len(seconds) if seconds else None


class StudyScheduler:
    """Shares a search's suggestions out over its studies.

    Args:
        space: whose allocation and rungs count.
        studies: all of the search.
        total: trainings with the full recipe that were asked for, rounded up to whole suggestions.
    """

    def __init__(self, space: Space, studies: list[Study], total: int) -> None:
        self.space = space
        self.suggestions = -(-total // space.trainings)
        self.counts_of = {study: StudyCounts() for study in studies}
        self.one_by_one = False
        """Whether a width begins when another has ended, because a process is only reused for equal
        resources."""
        self.controls: list[Study] = []
        self._ladders: dict[float | None, list[Study]] = {}
        """The studies of each width, from the cheapest rung to the full recipe; one ladder under
        None where every suggestion is trained at all widths."""
        for study in studies:
            if study.stage.control is None:
                self._ladders.setdefault(study.stage.width, []).append(study)
            else:
                self.controls.append(study)

    @property
    def full(self) -> list[Study]:
        """The studies whose recipes are trained in full."""
        return [ladder[-1] for ladder in self._ladders.values()]

    @property
    def ended(self) -> int:
        """Full suggestions that are complete or pruned."""
        return sum(self.counts_of[study].over for study in self.full)

    @property
    def left(self) -> dict[Study, int]:
        """How many suggestions of each study have yet to end, those that are running among them."""
        left = {}
        planned = self._planned()
        for study, counts in self.counts_of.items():
            if study in planned:
                left[study] = max(0, planned[study] - counts.over)
            else:  # a control: one that failed is not tried again
                left[study] = max(0, 1 - counts.over - counts.states["FAIL"])
        return left

    def next(self) -> Study | None:
        """The study to ``ask`` next; None if nothing is left, or if we must wait for a running
        trial.

        Looks only: nothing is written. The rest of a suggestion comes before a new one, so that
        suggestions end instead of piling up. Controls come last, or while a rung waits for its last
        trials.
        """
        for begun in self.counts_of:
            if begun.has_following:
                return begun
        planned = self._planned()
        ready: dict[Study, float] = {}
        # A space may name its widths in any order.
        for width in sorted(self._ladders, key=lambda width: width or 0.0):
            ladder = self._ladders[width]
            study = self._ready(ladder, planned)
            if study is not None:
                taken = self.counts_of[ladder[0]].taken
                ready[study] = taken / planned[ladder[-1]]
        if ready and (self.one_by_one or self.space.allocation.thin_first):
            return next(iter(ready))
        if ready:  # the width that has the smallest share of its suggestions
            return min(ready, key=lambda study: ready[study])
        for control in self.controls:
            if not self.counts_of[control].states.total():
                return control
        return None

    def ask(self, study: Study) -> Suggestion | None:
        """The next suggestion of a study, which is the best of the rung below where those rise; see
        ``Study.ask``. It counts as running, or as failed if the space failed to define it."""
        ladder = self._ladders.get(study.stage.width, [])
        if study in ladder[1:] and not study.waiting:
            below = ladder[ladder.index(study) - 1]
            for number, params in self._rising(below, study, self._planned()):
                study.enqueue(params, risen_from=number)
        suggestion = study.ask()
        self.counts_of[study].states["RUNNING" if suggestion else "FAIL"] += 1
        return suggestion

    def _wanted(self) -> dict[float | None, int]:
        """Full suggestions for each width, thin to wide; never fewer than were taken before costs
        were known."""
        if None in self._ladders:
            return {None: self.suggestions}
        full = {}
        costs = {}
        for width in sorted(self.space.widths):
            full[width] = self.counts_of[self._ladders[width][-1]]
            costs[width] = full[width].cost
        weights = self.space.allocation.weights(costs)
        shares = apportion(self.suggestions, weights)
        # What was asked for before costs were known cannot be given back.
        over = {}
        others = {}
        for width, counts in full.items():
            if counts.taken > shares[width]:
                over[width] = counts.taken
            else:
                others[width] = weights[width]
        if others:
            rest = self.suggestions - sum(over.values())
            shares = {**over, **apportion(rest, others)}
        return {width: shares[width] for width in full}

    def _planned(self) -> dict[Study, int]:
        """How many suggestions each searched study takes, so that enough are left at the top."""
        planned: dict[Study, int] = {}
        for width, wanted in self._wanted().items():
            counts = [wanted]
            # From the top down: each rung lets a share of its suggestions go on.
            for rung in reversed(self.space.fidelity):
                counts.insert(0, -int(-counts[0] // rung.keep))
            planned.update(zip(self._ladders[width], counts, strict=True))
        return planned

    def _ready(self, ladder: list[Study], planned: Mapping[Study, int]) -> Study | None:
        """Of one width's studies, from the full recipe down, the first that can be asked now."""
        for below, above in reversed(list(pairwise(ladder))):
            if above.waiting or self._rising(below, above, planned):
                return above
        cheapest = ladder[0]
        more = self.counts_of[cheapest].taken < planned[cheapest] and not cheapest.exhausted
        return cheapest if more else None

    def _rising(
        self, below: Study, above: Study, planned: Mapping[Study, int]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Numbers and parameters of the best of a rung that has ended, as many as the one above
        lacks."""
        counts = self.counts_of[below]
        # They rise by their rank, so all of the rung must have ended.
        unfinished = counts.taken < planned[below] and not below.exhausted
        if unfinished or counts.states["RUNNING"]:
            return []
        lacking = max(planned[above] - self.counts_of[above].taken, 0)
        promoted = above.promoted()
        rising = [best for best in below.best_first() if best[0] not in promoted]
        return rising[:lacking]


def scheduler_of(
    space: Space, record: SearchRecord, storage: Storage, full: Recipe
) -> StudyScheduler:
    """All studies of a search, each made if it is not there yet, and which of them is asked next.

    For the process that holds the search's lease; whoever only reads takes ``studies_of``.

    Args:
        space: what is searched.
        record: of the search.
        storage: that it is remembered in.
        full: one of the space's recipes.
    """
    planned = -(-record.trials // (len(space.widths) * space.replicates))
    studies = [
        Study(storage, record.name, space, stage, trials=planned, full=full, seed=record.seed)
        for stage in space.stages()
    ]
    for study in studies:
        _enqueue_first(space, study)
    imported = observations_of_other_widths(storage, record.name)
    searched = [study for study in studies if study.stage.control is None]
    # Values of different fidelity never meet.
    for study in searched:
        siblings = [other for other in searched if other.stage.rung == study.stage.rung]
        study.share_observations(siblings, imported if study.stage.rung is None else [])
    return StudyScheduler(space, studies, record.trials)


def studies_of(space: Space, record: SearchRecord, storage: Storage) -> list[Study]:
    """Those of a search's studies that were made, to be read: nothing is written."""
    made = study_names(storage)
    return [
        Study(storage, record.name, space, stage, trials=record.trials, full=None, seed=record.seed)
        for stage in space.stages()
        if f"{record.name}@{stage.label}" in made
    ]


def is_work_left(space: Space, record: SearchRecord, storage: Storage, trials: Path) -> bool:
    """Whether a suggestion of a search has yet to end, or to be asked for; nothing is written.

    Args:
        space: what is searched.
        record: of the search.
        storage: that it is remembered in.
        trials: the folder of the trials' folders.
    """
    studies = studies_of(space, record, storage)
    if len(studies) < len(space.stages()):
        return True
    scheduler = StudyScheduler(space, studies, record.trials)
    measured = MeasuredTrials(trials)
    for study, counts in scheduler.counts_of.items():
        for suggestion in study.trials():
            counts.states[suggestion.state.name] += 1
            for trial in trials_of(suggestion):
                counts.recall(trial, trials, measured.read)
    if any(counts.states["RUNNING"] for counts in scheduler.counts_of.values()):
        return True
    if not all(study.knows_exhausted for study in studies):
        return False
    return scheduler.next() is not None


def finished_recipes(studies: Iterable[Study]) -> dict[str, Callable[[], Recipe]]:
    """What gives the recipe of each trial of these studies that is complete, by name.

    It raises InputError where the space now defines another recipe than was trained.
    """

    def recipe_of(study: Study, trial: RecordedTrial) -> Recipe:
        return study.suggestion_of(trial).recipe

    recipes: dict[str, Callable[[], Recipe]] = {}
    for study in studies:
        for trial in study.recorded():
            if trial.state == "COMPLETE":
                recipes[trial.trial] = partial(recipe_of, study, trial)
    return recipes


def _enqueue_first(space: Space, study: Study) -> None:
    """Enqueues what a space wants tried first, in a new study of its cheapest rung."""
    cheapest = space.fidelity[0].name if space.fidelity else None
    if study.stage.control is None and study.stage.rung == cheapest and not study.trials():
        for params in space.start_with:
            study.enqueue(dict(params))
