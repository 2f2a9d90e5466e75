"""The time to go, from how long workers were taken by what has ended: start-up, epochs, waiting, measuring."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from robsearch.search.driver import Driver
from robsearch.search.live import Live
from robsearch.study import Study


class Left(NamedTuple):
    """An estimate of the time to go.

    ``known`` if every study that has something left has finished a training and, where it is due, a measuring.
    """

    seconds: float
    known: bool


class Takes(NamedTuple):
    """How long a worker is taken, in seconds, for a training of one study, and for measuring it.

    ``share`` of its trainings are not pruned, and so are measured.
    """

    training: float
    measuring: float
    share: float

    @property
    def both(self) -> float:
        """One after the other."""
        return self.training + self.share * self.measuring


def time_left(driver: Driver) -> Left | None:
    """Until the last trial is trained and measured; None before the first training has ended.

    What is running, waits to be measured or continued, and is yet to be asked for is put on as many workers as run at
    once, in the order in which they take it.
    """
    tallies = driver.turns.tallies
    training = _known({study: tally.wall for study, tally in tallies.items()})
    if not training:
        return None
    measured = [study for study in tallies if study.stage.rung is None]
    measuring = _known({study: tallies[study].measuring for study in measured})
    takes = {
        study: Takes(
            training.get(study, max(training.values())),
            measuring.get(study, max(measuring.values(), default=0.0)) if study in measured else 0.0,
            len(tally.costs) / tally.counted if tally.counted else 1.0,
        )
        for study, tally in tallies.items()
    }
    left = {study: count for study, count in driver.turns.left.items() if count}
    stages = {suggestion.stage for suggestion in list(driver.unmeasured)}
    due = left.keys() | {study for study in tallies if study.stage in stages}
    known = left.keys() <= training.keys() and due & set(measured) <= measuring.keys()
    return Left(_ends(_jobs(driver, left, takes), driver.parallel), known)


def _known(seconds: Mapping[Study, float | None]) -> dict[Study, float]:
    """Those that are known; a control without one takes as long as a trial of its width.

    Another study without one is not here. It counts as the dearest: usually it trains a wider net.
    """
    known = {study: value for study, value in seconds.items() if value is not None}
    of_width = {study.stage.width: value for study, value in known.items() if study.stage.deciding}
    controls = (study for study in seconds if study.stage.control is not None and study.stage.width in of_width)
    return {**{study: of_width[study.stage.width] for study in controls}, **known}


def _jobs(driver: Driver, left: Mapping[Study, int], takes: Mapping[Study, Takes]) -> Iterator[float]:
    """Seconds of each thing that is left to do: what runs, what waits, what is not yet asked for."""
    now, of_stage = time.time(), {study.stage: study for study in takes}
    for stage, started in list(driver.measuring.values()):
        yield max(0.0, takes[of_stage[stage]].measuring - (now - started))
    running, waiting = list(driver.live.values()), list(driver.waiting)
    for live in running:
        yield _rest(live, takes[live.study], live.before + now - live.started)
    for suggestion in list(driver.unmeasured):
        yield takes[of_stage[suggestion.stage]].measuring
    for live in waiting:
        spent = driver.turns.tallies[live.study].spent.get(live.suggestion.trial)
        yield _rest(live, takes[live.study], spent.seconds if spent else 0.0)
    for study, count in left.items():
        begun = sum(live.study is study for live in (*running, *waiting))
        for _ in range(count - begun):
            yield takes[study].both * _trainings(study)


def _rest(live: Live, takes: Takes, done: float) -> float:
    """Of a suggestion: the rest of the training that it is at, its measuring, and the trainings that follow."""
    study, suggestion = live.study, live.suggestion
    place = study.widths.index(suggestion.width) * study.replicates + (suggestion.replicate or 0)
    return (_trainings(study) - place) * takes.both - min(done, takes.training)


def _trainings(study: Study) -> int:
    """Of each suggestion, one after the other."""
    return len(study.widths) * study.replicates


def _ends(jobs: Iterator[float], workers: int) -> float:
    """When the last of them has ended, if each goes to the worker that is free first."""
    free = [0.0] * max(1, workers)
    for seconds in jobs:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
