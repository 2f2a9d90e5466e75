"""The one process that decides: it asks Optuna, hands jobs to Ray, and tells Optuna and MLflow what came of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robsearch.checkpoints import drop_weights
from robsearch.cluster import Job, Work
from robsearch.costs import Cost, cost_of, measuring, total
from robsearch.errors import LeaseLostError
from robsearch.resources import Resources
from robsearch.search.live import Live
from robsearch.search.recording import Recorder
from robsearch.search.shelf import Shelf
from robsearch.search.turns import Tally, Turns
from robsearch.spaces import Stage
from robsearch.study import Lease, Study, Suggestion, order_of, trainings_of
from robsearch.trial import Report, measure, run

MAX_FAILURES_IN_A_ROW = 5


class Driver:
    """Answers Ray's questions (``cluster.Jobs``) for one search.

    Args:
        turns: the search's studies, and which of them is asked next.
        recorder: the search's trials in MLflow.
        lease: verified before everything that is written.
        folder: of the trials' folders.
        say: prints one line to the person who watches.

    Raises:
        InputError: a trial that a dead driver left was started with another recipe.
        LeaseLostError: another driver has taken over.
    """

    def __init__(
        self,
        turns: Turns,
        recorder: Recorder,
        lease: Lease,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self.turns, self.recorder, self.lease, self.parallel = turns, recorder, lease, 1
        self._resources: dict[float, Resources] = {}
        self.shelf = Shelf(folder)
        self.folder, self.say, self.started = folder, say, time.time()
        self.problem, self._stopping = "", False
        self.lost: LeaseLostError | None = None
        self.live: dict[str, Live] = {}
        self._jobs: dict[str, Job] = {}
        self.waiting: deque[Live] = deque()
        self.unmeasured: deque[Suggestion] = deque()
        self.measuring: dict[str, tuple[Stage, float]] = {}
        self._failures_in_a_row = 0
        lease.when_asked_to_stop(lambda: say("stopping, as `robsearch stop` asked: waiting for the workers"))
        for study, tally in turns.tallies.items():
            self._recall(study, tally)

    def _recall(self, study: Study, tally: Tally) -> None:
        self.lease.verify()  # an adopted trial may be told
        self.waiting += [Live(suggestion, study) for suggestion in study.adopt()]
        for trial in study.trials():
            trainings = trainings_of(trial)
            for training in trainings:
                measured = tally.recall(training, self.folder / training.trial)
                if training.state == "COMPLETE":
                    self._finished(study, training.trial, training.width, training.facts, trial.params)
                    if not measured and study.stage.rung is None:
                        self.unmeasured.append(study.again(training))
            tally.states[trial.state.name] += 1

    @property
    def resources(self) -> dict[float, Resources]:
        """What a training takes, by width."""
        return self._resources

    @resources.setter
    def resources(self, resources: dict[float, Resources]) -> None:
        self._resources = resources
        self.turns.one_by_one = len(set(resources.values())) > 1

    @property
    def stopping(self) -> bool:
        """Whether to stop at once: after a signal, at the request of another process, or for a problem."""
        return self._stopping or self.lease.stop_asked

    @stopping.setter
    def stopping(self, stopping: bool) -> None:
        self._stopping = stopping

    @property
    def left(self) -> int:
        """Trials that a dead driver left, not yet handed out again."""
        return len(self.waiting)

    # -- what Ray asks -----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return not (self._jobs or self.waiting or self.unmeasured or self.turns.next())

    def next(self) -> Job | None:
        """Measuring first, then what a dead driver left, then new trials, then controls."""
        if self.stopping or len(self._jobs) >= self.parallel:
            return None
        study = None if self.unmeasured or self.waiting else self.turns.next()
        if not (self.unmeasured or self.waiting or study) or not self._holds_lease():
            return None
        if self.unmeasured:
            suggestion = self.unmeasured.popleft()
            self.measuring[suggestion.trial] = suggestion.stage, time.time()
            return self._handed(suggestion, measure)
        live = self.waiting.popleft() if self.waiting else self._asked(study) if study else None
        if live is None:
            return None
        live.started = time.time()
        live.before = self.turns.tallies[live.study].spent.get(live.suggestion.trial, Cost()).seconds
        self.live[live.suggestion.trial] = live
        self.recorder.begin(live.suggestion)
        return self._handed(live.suggestion, run)

    def heard(self, job: Job, report: Report) -> bool:
        """Passes a report on to Optuna and MLflow; returns whether the job goes on."""
        for text in report.said:
            self.say(f"{job.name}  {text}")
        if job.work is measure:
            if self._holds_lease():
                self._measured(job, report)
            return True
        live = self.live.get(job.name)
        if live is not None:
            self._trained(live, report)
        return job.name in self.live

    def gone(self, job: Job, error: str | None) -> None:
        """A worker is free again."""
        self._jobs.pop(job.name, None)
        if not self._holds_lease():
            return
        if job.work is measure:
            if error:
                self._measured(job, Report(ended="FAIL", reason=f"the measuring process broke down: {error}"))
            self.measuring.pop(job.name, None)
            self._tidy()
        elif (live := self.live.get(job.name)) and not self.stopping:
            what = f"broke down more often than it is retried: {error}" if error else "ended without a word"
            self._fail(live, f"its worker {what} (what it saved: {job.folder})")

    # -- what to do next ---------------------------------------------------------------------------------------

    def _asked(self, study: Study) -> Live | None:
        suggestion = self.turns.ask(study)
        if suggestion is None:
            self.turns.tallies[study].states["FAIL"] += 1
            self._count_failure(f"{study.label}: the space failed to define a recipe")
            return None
        self.turns.tallies[study].states["RUNNING"] += 1
        return Live(suggestion, study)

    def _handed(self, suggestion: Suggestion, work: Work) -> Job:
        folder, takes = self.folder / suggestion.trial, self.resources.get(suggestion.width, Resources())
        job = Job(suggestion.trial, work, suggestion.recipe, folder, takes)
        self._jobs[job.name] = job
        return job

    def _holds_lease(self) -> bool:
        try:
            self.lease.verify()
        except LeaseLostError as lost:
            self.lost, self.stopping = lost, True
        return self.lost is None

    # -- what became of it -------------------------------------------------------------------------------------

    def _trained(self, live: Live, report: Report) -> None:
        if not self._holds_lease():
            return
        suggestion = live.suggestion
        if report.attempt != live.attempt:
            live.attempt = report.attempt
            self.recorder.attempted(suggestion.trial)
        fresh = [entry for entry in report.epochs if entry["epoch"] > len(live.history)]
        if fresh:
            live.history += fresh
            live.heard = time.time()
            self.turns.tallies[live.study].spent[suggestion.trial] = cost_of(live.history, {}, {})
        self.recorder.epochs(suggestion.trial, fresh)
        prune = live.study.report(suggestion, fresh)
        if report.ended == "FAIL":
            self._fail(live, report.reason or "no reason given")
        elif report.ended == "COMPLETE":
            self._complete(live)
        elif prune and len(live.history) < suggestion.recipe.epochs:
            self._prune(live)

    def _complete(self, live: Live) -> None:
        suggestion, study = live.suggestion, live.study
        spent = live.spent("COMPLETE", self._gpus(suggestion))
        told = study.complete(suggestion, live.best, live.history[-1], **spent)
        self._failures_in_a_row = 0
        self._finished(study, suggestion.trial, suggestion.width, told.facts, suggestion.params)
        self._ended(live, "COMPLETE", spent, collapsed=told.facts["collapsed"])
        self._counted(live, told.state)
        if told.following:
            self.waiting.appendleft(Live(told.following, study))
        if study.stage.rung is None:
            self.unmeasured.append(suggestion)
        else:
            drop_weights(self.folder / suggestion.trial)  # what a rung trains only chooses

    def _prune(self, live: Live) -> None:
        spent = live.spent("PRUNED", self._gpus(live.suggestion))
        facts = live.study.prune(live.suggestion, live.best, live.history[-1], **spent)
        self._failures_in_a_row = 0
        self._ended(live, "PRUNED", spent, collapsed=facts["collapsed"])
        self._counted(live, "PRUNED")
        drop_weights(self.folder / live.suggestion.trial)

    def _fail(self, live: Live, reason: str) -> None:
        if not self._holds_lease():
            return
        spent = live.spent("FAIL", self._gpus(live.suggestion))
        told = live.study.fail(live.suggestion, reason, **spent)
        self._ended(live, "FAIL", spent, reason)
        if told.following:
            self.waiting.appendleft(Live(told.following, live.study))
            return
        self._counted(live, "FAIL")
        self._count_failure(f"{live.suggestion.trial}: {reason}")

    def _count_failure(self, what: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            self.problem = f"{MAX_FAILURES_IN_A_ROW} trials failed in a row, the last one {what}"
            self.stopping = True

    def _gpus(self, suggestion: Suggestion) -> float:
        return self.resources.get(suggestion.width, Resources()).gpus

    def _ended(
        self, live: Live, state: str, spent: dict[str, float], reason: str | None = None, collapsed: bool = False
    ) -> None:
        trial, cost = live.suggestion.trial, cost_of(live.history, {}, {"state": state, **spent})
        self.turns.tallies[live.study].ended(trial, state, cost, spent["wall_seconds"])
        del self.live[trial]
        self.recorder.cost(trial, cost)
        self.recorder.ended(trial, state, live.history, reason, collapsed)
        self.say(live.line(state, reason, collapsed))

    def _counted(self, live: Live, state: str) -> None:
        """Counts a suggestion that is no longer running; one with trainings left is."""
        if state == "RUNNING":
            return
        states = self.turns.tallies[live.study].states
        states["RUNNING"] -= 1
        states[state] += 1

    def _measured(self, job: Job, report: Report) -> None:
        if report.ended == "COMPLETE":
            self.recorder.measured(job.name, report.test)
            stage, started = self.measuring[job.name]
            tally = next(tally for study, tally in self.turns.tallies.items() if study.stage == stage)
            tally.judging.append(time.time() - started)
            tally.spent[job.name] = total([tally.spent[job.name], measuring(report.test)])
            self.recorder.cost(job.name, tally.spent[job.name])
        if report.reason:
            self.recorder.not_measured(job.name, report.reason)
            self.say(f"{job.name}  measuring: {report.reason}")

    def _finished(
        self, study: Study, trial: str, width: float, facts: Mapping[str, Any], params: Mapping[str, Any]
    ) -> None:
        order = order_of(facts)
        self.turns.tallies[study].trained(order, facts["lam"], params)
        if study.stage.deciding:
            self.shelf.finished(trial, width, order)

    def _tidy(self) -> None:
        controls = (study.label for study in self.turns.tallies if study.stage.control is not None)
        waiting = (one.trial for one in self.unmeasured)
        left = (live.suggestion.trial for live in self.waiting)
        busy = {*self.live, *self._jobs, *waiting, *left, *(f"{label}-000" for label in controls)}
        if dropped := self.shelf.tidy(busy):
            self.say(f"disk budget: the weights of {', '.join(dropped)} were dropped")

    def interrupt(self) -> None:
        """Marks what is still running as interrupted in MLflow; for Optuna it runs on, until a driver adopts it."""
        for live in self.live.values():
            self.recorder.tracker.end(live.suggestion.trial, "INTERRUPTED", time.time())
