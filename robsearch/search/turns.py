"""Whose turn it is: which study the next suggestion goes to, and which suggestions rise to the next rung."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

from robsearch.checkpoints import read_history
from robsearch.costs import Cost, cost_of, total
from robsearch.selection import Order
from robsearch.spaces import Space, apportion
from robsearch.study import Study, Suggestion, Training
from robsearch.trial import read_test

Planned = tuple[Study, int]
"""A rung, and how many suggestions it takes."""


@dataclass
class Tally:
    """What has become of one study's suggestions, kept in memory: deciding and drawing cost no storage access."""

    states: Counter[str] = field(default_factory=Counter)
    best: tuple[Order, float, Mapping[str, Any]] | None = None
    """The order, lambda and searched parameters of the best training."""
    spent: dict[str, Cost] = field(default_factory=dict)
    """By trial, running ones too."""
    costs: list[float] = field(default_factory=list)
    """Seconds of each finished training."""
    walls: list[float] = field(default_factory=list)
    """Of each training that has ended, failed ones too, from handing it out to its end."""
    judging: list[float] = field(default_factory=list)
    """The same of measuring a trial on ``test``."""
    counted: int = 0
    """Trainings that are complete or pruned."""

    def trained(self, order: Order, lam: float, params: Mapping[str, Any]) -> None:
        """A training was finished; one that has collapsed is never the best."""
        if order.sound and (self.best is None or order > self.best[0]):
            self.best = order, lam, params

    def ended(self, trial: str, state: str, cost: Cost, wall: float) -> None:
        """Counts what a training took that has ended."""
        self.spent[trial] = cost
        self.walls.append(wall)
        if state == "COMPLETE":
            self.costs.append(cost.seconds)
        if state != "FAIL":
            self.counted += 1

    def recall(self, training: Training, folder: Path) -> bool:
        """Counts what a training took that an earlier driver followed; returns whether it is measured."""
        test = read_test(folder)
        cost = cost_of(read_history(folder), test, training.facts)
        if training.state == "RUNNING":
            self.spent[training.trial] = cost
        else:
            wall = training.facts.get("wall_seconds", max(cost.seconds, cost.failed_seconds))
            self.ended(training.trial, training.state, cost, wall)
        if test:
            self.judging.append(cost.measure_seconds)
        return bool(test)

    @property
    def taken(self) -> int:
        """Suggestions that count towards the total: failed ones are tried again."""
        return self.states["COMPLETE"] + self.states["PRUNED"] + self.states["RUNNING"]

    @property
    def total(self) -> Cost:
        """What all its trials took so far."""
        return total(list(self.spent.values()))  # a copy: who draws it is another thread

    @property
    def cost(self) -> float | None:
        """Seconds of one finished training, on average; None where there is none."""
        return sum(self.costs) / len(self.costs) if self.costs else None

    @property
    def wall(self) -> float | None:
        """How long a worker is taken for one training that counts, with the failures before it; None before one."""
        return sum(self.walls) / self.counted if self.counted else None

    @property
    def measuring(self) -> float | None:
        """How long a worker is taken for measuring one trial; None before one is measured."""
        return sum(self.judging) / len(self.judging) if self.judging else None


class Turns:
    """Shares a search's suggestions out over its studies.

    Args:
        space: whose allocation and rungs count.
        studies: all of the search.
        total: trainings with the full recipe that were asked for, rounded up to whole suggestions.
    """

    def __init__(self, space: Space, studies: list[Study], total: int) -> None:
        self.space, self.suggestions = space, -(-total // space.trainings)
        self.tallies = {study: Tally() for study in studies}
        self.one_by_one = False
        """Whether a width begins when another has ended, because a process is only reused for equal resources."""
        searched = [study for study in studies if study.stage.control is None]
        self._ladders = {w: list(of) for w, of in groupby(searched, key=lambda study: study.stage.width)}

    @property
    def deciding(self) -> list[Tally]:
        """The tallies of the searched studies at full fidelity."""
        return [self.tallies[ladder[-1]] for ladder in self._ladders.values()]

    @property
    def ended(self) -> int:
        """Full suggestions that are complete or pruned."""
        return sum(tally.taken - tally.states["RUNNING"] for tally in self.deciding)

    @property
    def left(self) -> dict[Study, int]:
        """How many suggestions of each study have yet to end, those that are running among them."""
        wanted = self._wanted()
        planned = {
            study: count
            for width, ladder in self._ladders.items()
            for study, count in zip(ladder, self._counts(wanted[width]), strict=True)
        }
        left = {study: planned[study] - self._ended(study) for study in planned}
        left |= {study: 1 - self._ended(study) for study in self.tallies if study.stage.control is not None}
        return {study: max(0, count) for study, count in left.items()}

    def _ended(self, study: Study) -> int:
        """A control that failed is not tried again."""
        tally = self.tallies[study]
        failed = tally.states["FAIL"] if study.stage.control is not None else 0
        return tally.taken - tally.states["RUNNING"] + failed

    def next(self) -> Study | None:
        """The study to ``ask`` next; None if nothing is to be done, or not before something else ends.

        Looks only: nothing is written. Controls come last, or while a rung waits for its last trials.
        """
        wanted = self._wanted()
        ladders = {width: study for width in wanted if (study := self._rung(width, wanted[width]))}
        if ladders:
            in_order = self.one_by_one or self.space.allocation.thin_first
            shares = {width: self._lowest(width).taken / wanted[width] for width in ladders}
            return ladders[min(ladders, key=lambda width: 0.0 if in_order else shares[width])]
        controls = (study for study in self.tallies if study.stage.control is not None)
        return next((study for study in controls if not self.tallies[study].states.total()), None)

    def ask(self, study: Study) -> Suggestion | None:
        """The next suggestion of a study, which is the best of the rung below where those rise; see ``Study.ask``."""
        width = study.stage.width
        if study.stage.control is None and not study.waiting:
            for lower, higher in self._steps(width, self._wanted()[width]):
                if higher[0] is study:
                    for number, params in self._rising(lower, higher):
                        study.enqueue(params, risen_from=number)
        return study.ask()

    def _wanted(self) -> dict[float | None, int]:
        """Full suggestions for each width, thin to wide; never fewer than were taken before costs were known."""
        if None in self._ladders:
            return {None: self.suggestions}
        tallies = {width: self.tallies[self._ladders[width][-1]] for width in sorted(self.space.widths)}
        weights = self.space.allocation.weights({width: tally.cost for width, tally in tallies.items()})
        shares = apportion(self.suggestions, weights)
        over = {width: tally.taken for width, tally in tallies.items() if tally.taken > shares[width]}
        if rest := {width: weights[width] for width in weights if width not in over}:
            shares = {**over, **apportion(self.suggestions - sum(over.values()), rest)}
        return {width: shares[width] for width in tallies}

    def _lowest(self, width: float | None) -> Tally:
        return self.tallies[self._ladders[width][0]]

    def _rung(self, width: float | None, wanted: int) -> Study | None:
        """Of one width's studies, from the full recipe down, the first that can be asked now."""
        ladder, counts = self._ladders[width], self._counts(wanted)
        for lower, higher in reversed(self._steps(width, wanted)):
            if higher[0].waiting or self._rising(lower, higher):
                return higher[0]
        room = self.tallies[ladder[0]].taken < counts[0] and not ladder[0].exhausted
        return ladder[0] if room else None

    def _steps(self, width: float | None, wanted: int) -> list[tuple[Planned, Planned]]:
        """Each rung of one width with the next higher one."""
        return list(pairwise(zip(self._ladders[width], self._counts(wanted), strict=True)))

    def _counts(self, wanted: int) -> list[int]:
        """How many suggestions each rung takes so that enough are left at the top."""
        counts = [wanted]
        for rung in reversed(self.space.fidelity):
            counts.insert(0, -int(-counts[0] // rung.keep))
        return counts

    def _rising(self, lower: Planned, higher: Planned) -> list[tuple[int, dict[str, Any]]]:
        """Numbers and parameters of the best of a rung that has ended, as many as the next one lacks."""
        study, count = lower
        below = self.tallies[study]
        if (below.taken < count and not study.exhausted) or below.states["RUNNING"]:
            return []
        above, wanted = higher
        lacking, risen = wanted - self.tallies[above].taken, above.risen()
        best_first = ((number, params) for number, params in study.ranked() if number not in risen)
        return list(islice(best_first, max(lacking, 0)))
