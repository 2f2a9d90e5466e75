"""The one process that decides: it asks Optuna, hands jobs to Ray, and tells Optuna and MLflow what
came of them."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robsearch.cluster import Job, Work
from robsearch.errors import LeaseLostError, counted
from robsearch.metrics import LAM, VAL_NATURAL, VALUE
from robsearch.protocols import Metrics
from robsearch.search.free_space import FreeSpace
from robsearch.search.recording import DROPPED_TAG, Recorder
from robsearch.search.scheduling import StudyCounts, StudyScheduler
from robsearch.spaces.resources import Resources
from robsearch.study import (
    Lease,
    RecordedTrial,
    Study,
    Suggestion,
    others_than_lam,
    params_text,
    trials_of,
)
from robsearch.training.costs import Cost, cost_of, measuring
from robsearch.training.memory import GIB
from robsearch.trials.checkpoints import drop_weights
from robsearch.trials.disk import best_of_each_width, to_drop, weights
from robsearch.trials.loading import best_epoch, read_test
from robsearch.trials.selection import Order
from robsearch.trials.trial import Report, measure, run

MAX_FAILURES_IN_A_ROW = 5
CAPACITY_SECONDS = 5.0
"""Between two looks at the capacity of a cluster that was joined."""


@dataclass
class RunningTrial:
    """A trial that is being trained or measured, or waits for one of the two.

    Attributes:
        suggestion: what is trained.
        study: whose it is.
        started: when it was last handed out (Unix seconds).
        heard: when it last reported an epoch.
        before: seconds of the epochs that were saved before it was handed out.
        history: its epochs so far.
    """

    suggestion: Suggestion
    study: Study
    started: float = field(default_factory=time.time)
    heard: float = 0.0
    before: float = 0.0
    history: list[Metrics] = field(default_factory=list)

    @property
    def best(self) -> Metrics:
        """The epoch with the best value so far."""
        return self.history[best_epoch(self.history) - 1]

    def spent(self, state: str, gpus: float) -> dict[str, float]:
        """What the storage is to remember of what it took, now that it has ended.

        Args:
            state: how it ended.
            gpus: that it held.
        """
        now = time.time()
        cost = cost_of(self.history, {}, {})
        spent = {"seconds": cost.seconds, "wall_seconds": self.before + now - self.started}
        lost = 0.0
        # What a worker did after the last epoch that it reported is in no history.
        if state == "FAIL":
            lost = now - max(self.started, self.heard)
            spent["lost_seconds"] = lost
        if gpus:
            spent["gpu_seconds"] = cost.gpu_seconds
            spent["lost_gpu_seconds"] = lost * gpus
        return spent

    def line(self, state: str, reason: str | None, collapsed: bool = False) -> str:
        """What is printed when it has ended."""
        words = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "FAILED"}
        start = f"{self.suggestion.trial:<9} {words[state]:<6}"
        params = self.suggestion.params
        if reason:
            parts = [start, params_text(params, "  "), reason]
            return " ".join(filter(None, parts))
        best = self.best
        others = params_text(others_than_lam(params), "  ")
        parts = [f"{start} lam {self.history[-1][LAM]:<6.3g}"]
        if others:
            parts.append(f"{others} ")
        parts.append(f"val robust {best[VALUE]:5.1%} natural {best[VAL_NATURAL]:5.1%}")
        seconds = cost_of(self.history, {}, {}).seconds
        parts.append(f"epoch {best['epoch']:.0f}/{len(self.history)} {seconds:.1f} s")
        line = " ".join(parts)
        return f"{line}, collapsed" if collapsed else line


class WeightBudget:
    """Whose weights go first when they take too much: those of failed and dropped trials, then of
    the worst.

    Histories and measures stay; a trial without weights cannot be evaluated or trained further.

    Args:
        folder: of the trials' folders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gib: float | None = None
        self._orders: dict[str, Order] = {}
        self._widths: dict[str, float] = {}

    def finished(self, trial: str, width: float, order: Order) -> None:
        """A trial ended as good as this."""
        self._orders[trial] = order
        self._widths[trial] = width

    def enforce(self, busy: Collection[str], dropped: Collection[str] = ()) -> list[str]:
        """Drops weights until the rest is within the budget; returns whose.

        Args:
            busy: trials being trained or not yet measured, which are left alone.
            dropped: trials that a person took out of the results.
        """
        if self.gib is None or not self.folder.exists():
            return []
        sizes = weights(self.folder)
        orders = {trial: self._orders[trial] for trial in self._orders if trial not in dropped}
        others = [trial for trial in sizes if trial not in orders]
        finished = [trial for trial in orders if trial in sizes]
        worst_first = sorted(finished, key=lambda trial: orders[trial])
        in_order = {trial: sizes[trial] for trial in [*others, *worst_first]}
        keep = {*busy, *best_of_each_width(orders, self._widths, 1)}
        going = to_drop(in_order, keep, int(self.gib * GIB))
        for trial in going:
            drop_weights(self.folder / trial)
        return going


class Driver:
    """Answers Ray's questions (``cluster.Jobs``) for one search.

    Args:
        scheduler: the search's studies, and which of them is asked next.
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
        scheduler: StudyScheduler,
        recorder: Recorder,
        lease: Lease,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self.scheduler = scheduler
        self.recorder = recorder
        self.lease = lease
        self.folder = folder
        self.say = say
        self.parallel = 1
        self._jobs_at_once: Callable[[], int] | None = None
        self._capacity_noted = 0.0
        self.trial_seconds: float | None = None
        """That the epochs of one training may take."""
        self.to_end: set[str] = set()
        """Trials that somebody asked to end: they are pruned when an epoch has ended."""
        self.dropped: dict[str, str] = {}
        """Trials that a person took out of the results, with the reason, for their MLflow runs."""
        self._tagged: dict[str, str] = {}
        self.weight_budget = WeightBudget(folder)
        self.free_space = FreeSpace(folder, say)
        self.started = time.time()
        self.problem = ""
        self._said_of_measures: set[str] = set()
        self.extension = ""
        """The option that goes on where a budget is used up."""
        self.lost: LeaseLostError | None = None
        self.running: dict[str, RunningTrial] = {}
        self.waiting: deque[RunningTrial] = deque()
        self.unmeasured: deque[RunningTrial] = deque()
        self.measuring: dict[str, RunningTrial] = {}
        self._resources: Mapping[float, Resources] = defaultdict(Resources)
        self._stopping = False
        self._deadline: float | None = None
        self._jobs: dict[str, Job] = {}
        self._failures_in_a_row = 0
        lease.when_asked_to_stop(
            lambda: say("stopping, as `robsearch stop` asked: waiting for the workers")
        )
        for study, counts in scheduler.counts_of.items():
            self._recall(study, counts)

    def _recall(self, study: Study, counts: StudyCounts) -> None:
        self.lease.verify()  # an adopted trial may be told
        for suggestion in study.adopt():
            self.waiting.append(RunningTrial(suggestion, study))
        for recorded in study.trials():
            counts.states[recorded.state.name] += 1
            for trial in trials_of(recorded):
                # From the files themselves: one that was damaged is measured again.
                is_measured = counts.recall(trial, self.folder, self._read_measured)
                if trial.state == "COMPLETE":
                    self._finished(study, trial, recorded.params)
                    if not is_measured and study.stage.rung is None:
                        self.unmeasured.append(RunningTrial(study.suggestion_of(trial), study))

    def _read_measured(self, trial: str) -> Metrics:
        return read_test(self.folder / trial)

    def set_capacity(self, parallel: int, resources: Mapping[float, Resources]) -> None:
        """Says how many jobs run at once, and what those of each width take."""
        self.parallel = parallel
        self._resources = resources
        self.scheduler.one_by_one = len(set(resources.values())) > 1

    def follow_capacity(self, jobs_at_once: Callable[[], int]) -> None:
        """Has it asked every few seconds how many jobs may run at once: the nodes of a cluster that
        was joined come and go."""
        self._jobs_at_once = jobs_at_once

    def _note_capacity(self) -> None:
        now = time.monotonic()
        if self._jobs_at_once is None or now - self._capacity_noted < CAPACITY_SECONDS:
            return
        self._capacity_noted = now
        before = self.parallel
        self.parallel = self._jobs_at_once()
        if self.parallel != before:
            trials = counted(self.parallel, "trial") if self.parallel else "no trial"
            self.say(f"the cluster has room for {trials} at once now; it was {before}")

    @property
    def stopping(self) -> bool:
        """Whether to stop at once: after a signal, at the request of another process, or for a
        problem."""
        return self._stopping or self.lease.stop_asked or self._has_drained

    @stopping.setter
    def stopping(self, stopping: bool) -> None:
        self._stopping = stopping

    def drain(self, seconds: float) -> None:
        """Stops once each running training has come to the end of its epoch, and so to its next
        checkpoint, but not later than in so many seconds."""
        if self._deadline is None:
            self._deadline = time.monotonic() + seconds

    @property
    def _has_drained(self) -> bool:
        if self._deadline is None:
            return False
        return not self._jobs or time.monotonic() >= self._deadline

    @property
    def gpu_seconds(self) -> float:
        """What all trials took of the GPUs so far."""
        return sum(counts.total.gpu_seconds for counts in self.scheduler.counts_of.values())

    # --- what Ray asks ---

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return not (self._jobs or self.waiting or self.unmeasured or self.scheduler.next())

    def next(self) -> Job | None:
        """Measuring first, then what a dead driver left, then new trials, then controls."""
        self.tag_dropped()
        self._note_capacity()
        draining = self._deadline is not None
        if self.stopping or draining or len(self._jobs) >= self.parallel:
            return None
        due = self.unmeasured or self.waiting
        study = None if due else self.scheduler.next()
        if not (due or study) or not self._has_space(begins=due is not self.unmeasured):
            return None
        # The lease is asked last: it is a look into the storage.
        if not self._holds_lease():
            return None
        trial = due.popleft() if study is None else self._asked(study)
        if trial is None:
            return None
        suggestion = trial.suggestion
        name = suggestion.trial
        trial.started = time.time()
        work: Work = measure
        if due is self.unmeasured:
            self.measuring[name] = trial
        else:
            work = run
            # What a trial took before it is continued belongs to its wall time, too.
            saved = self.scheduler.counts_of[trial.study].spent.get(name, Cost())
            trial.before = saved.seconds
            self.running[name] = trial
            self.recorder.begin(suggestion)
        resources = self._resources[suggestion.width]
        job = Job(name, work, suggestion.recipe, self.folder / name, resources)
        self._jobs[name] = job
        return job

    def heard(self, job: Job, report: Report) -> bool:
        """Passes a report on to Optuna and MLflow; returns whether the job goes on."""
        for text in report.warnings:
            self.say(f"{job.name}  {text}")
        self._note_waiting(job, report)
        if job.work is measure:
            if self._holds_lease():
                self._measured(job, report)
            return True  # nothing prunes a measuring
        trial = self.running.get(job.name)
        if trial is not None and self._holds_lease():
            self._trained(trial, report)
        # What a worker reports it has saved before, so this is the moment to stop it.
        return job.name in self.running and self._deadline is None

    def gone(self, job: Job, error: str | None) -> None:
        """A worker is free again."""
        self._jobs.pop(job.name, None)
        self.free_space.workers.pop(job.name, None)
        if not self._holds_lease():
            return
        if job.work is measure:
            if error:
                reason = f"the measuring process broke down: {error}"
                self._measured(job, Report(ended="FAIL", reason=reason))
            self.measuring.pop(job.name, None)
            self._enforce_budget()
        # Of a driver that stops, workers end without a word: their trials go on when it is resumed.
        elif job.name in self.running and not self.stopping and self._deadline is None:
            what = "ended without an error"
            if error:
                what = f"broke down more often than it is retried: {error}"
            reason = f"its worker {what} (what it saved: {job.folder})"
            self._end(self.running[job.name], "FAIL", reason)

    # --- what to do next ---

    def _asked(self, study: Study) -> RunningTrial | None:
        suggestion = study.following() or self.scheduler.ask(study)
        if suggestion is None:
            self._count_failure(f"{study.label}: the space failed to define a recipe")
            return None
        return RunningTrial(suggestion, study)

    def _note_waiting(self, job: Job, report: Report) -> None:
        """Follows which workers wait for room on the disk."""
        if report.waiting is not None:
            self.free_space.workers[job.name] = report.waiting
        else:
            self.free_space.workers.pop(job.name, None)
        if report.waiting is not None or self.free_space.text:
            self._has_space(begins=bool(self.waiting) or self.scheduler.next() is not None)

    def _has_space(self, begins: bool) -> bool:
        """Whether the disk has room for one more trial, or else for measuring one; a search that
        has waited for it too long stops."""
        if self.free_space.suffices(self._jobs, self.running, begins):
            return True
        if self.free_space.is_given_up and not self._stopping:
            patience = counted(round(self.free_space.patience), "second")
            self.problem = f"{self.free_space.text} for {patience} (--disk-patience)"
            self.stopping = True
        return False

    def has_space_to_end(self) -> bool:
        """Whether the disk has room for what the end of the search writes; a search that has waited
        for it too long stops."""
        return self._has_space(begins=False)

    def _holds_lease(self) -> bool:
        try:
            self.lease.verify()
        except LeaseLostError as lost:
            self.lost = lost
            self.stopping = True
        return self.lost is None

    # --- what became of it ---

    def _trained(self, trial: RunningTrial, report: Report) -> None:
        suggestion = trial.suggestion
        fresh = [entry for entry in report.epochs if entry["epoch"] > len(trial.history)]
        if fresh:
            trial.history += fresh
            trial.heard = time.time()
            counts = self.scheduler.counts_of[trial.study]
            counts.spent[suggestion.trial] = cost_of(trial.history, {}, {})
        self.recorder.changed(suggestion.trial)
        prune = trial.study.report(suggestion, fresh)
        asked = suggestion.trial in self.to_end and bool(trial.history)
        if report.ended == "FAIL":
            self._end(trial, "FAIL", report.reason or "no reason given")
        elif report.ended == "COMPLETE":
            self._end(trial, "COMPLETE")
        elif self.trial_seconds is not None and self._seconds(trial) >= self.trial_seconds:
            self._end(trial, "FAIL", _limit_text(self.trial_seconds, trial, self.folder))
        elif asked or (prune and len(trial.history) < suggestion.recipe.epochs):
            self._end(trial, "PRUNED")

    def _seconds(self, trial: RunningTrial) -> float:
        """Of its epochs so far."""
        spent = self.scheduler.counts_of[trial.study].spent
        return spent.get(trial.suggestion.trial, Cost()).seconds

    def _end(self, trial: RunningTrial, state: str, reason: str = "") -> None:
        """Tells everybody that a trial has ended, and keeps for later what follows from that."""
        suggestion = trial.suggestion
        study = trial.study
        name = suggestion.trial
        spent = trial.spent(state, self._resources[suggestion.width].gpus)
        if state == "FAIL":
            outcome = study.fail(suggestion, reason, **spent)
        else:
            tell = study.complete if state == "COMPLETE" else study.prune
            outcome = tell(suggestion, trial.best, trial.history[-1], **spent)
            self._failures_in_a_row = 0
        recorded = outcome.trial
        counts = self.scheduler.counts_of[study]
        cost = cost_of(trial.history, {}, vars(recorded))
        counts.ended(name, state, cost, spent["wall_seconds"])
        counts.settled(outcome.state)
        del self.running[name]
        self.recorder.ended(recorded, trial.history)
        self.say(trial.line(state, reason, bool(recorded.collapsed)))
        if state == "COMPLETE":
            self._finished(study, recorded, suggestion.params)
        # The next seed comes before anything new, so that suggestions end instead of piling up.
        if outcome.following:
            self.waiting.appendleft(RunningTrial(outcome.following, study))
        elif state == "FAIL":
            self._count_failure(f"{name}: {reason}")
        if state == "COMPLETE" and study.stage.rung is None:
            self.unmeasured.append(trial)
        elif state != "FAIL":
            drop_weights(self.folder / name)  # it was pruned, or of a rung, which only chooses

    def _count_failure(self, what: str) -> None:
        self._failures_in_a_row += 1
        # Failed suggestions do not count, so a space that always fails would be asked for ever.
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            self.problem = f"{MAX_FAILURES_IN_A_ROW} trials failed in a row, the last one {what}"
            self.stopping = True

    def _measured(self, job: Job, report: Report) -> None:
        if report.ended == "COMPLETE":
            trial = self.measuring[job.name]
            counts = self.scheduler.counts_of[trial.study]
            counts.measured(job.name, time.time() - trial.started, measuring(report.test))
            self.recorder.measured(job.name, counts.spent[job.name])
        if report.reason:
            self.recorder.tag(job.name, {"robsearch.measures": report.reason})
            self._say_of_measures(job.name, report.reason)

    def _say_of_measures(self, trial: str, reason: str) -> None:
        """A reason is printed once, because most trials may have the same; MLflow has it with
        each."""
        if reason not in self._said_of_measures:
            self._said_of_measures.add(reason)
            self.say(f"{trial}  measuring: {reason} (said once)")

    def _finished(self, study: Study, trial: RecordedTrial, params: Mapping[str, Any]) -> None:
        assert trial.lam is not None, "it has ended"
        self.scheduler.counts_of[study].finished(trial.order, trial.lam, params)
        if study.stage.deciding:
            self.weight_budget.finished(trial.trial, trial.width, trial.order)

    def know_dropped(self, dropped: dict[str, str]) -> None:
        """Takes over what is dropped, and MLflow has been told of."""
        self.dropped = self._tagged = dropped

    def tag_dropped(self) -> None:
        """Tells MLflow what was dropped, or put back, since this was last called."""
        dropped = self.dropped
        if dropped == self._tagged:
            return
        for trial in sorted(dropped.keys() | self._tagged.keys()):
            why = dropped.get(trial, "")
            if why != self._tagged.get(trial, ""):
                self.recorder.tag(trial, {DROPPED_TAG: why})
        self._tagged = dropped

    def _enforce_budget(self) -> None:
        busy = {*self.running, *self._jobs}
        busy.update(trial.suggestion.trial for trial in (*self.unmeasured, *self.waiting))
        busy.update(f"{study.label}-000" for study in self.scheduler.controls)
        going = self.weight_budget.enforce(busy, self.dropped)
        if going:
            self.say(f"disk budget: the weights of {', '.join(going)} were dropped")

    def interrupt(self) -> None:
        """Marks what is still running as interrupted in MLflow; for Optuna it runs on, until a
        driver adopts it."""
        for trial in [*self.running.values(), *self.waiting]:
            self.recorder.stopped(trial.suggestion.trial, "INTERRUPTED", time.time())


def _limit_text(seconds: float, trial: RunningTrial, folder: Path) -> str:
    of = f"{counted(len(trial.history), 'epoch')} of {trial.suggestion.recipe.epochs}"
    saved = folder / trial.suggestion.trial
    return f"its epochs took the --trial-max-hours of {seconds / 3600:g}: {of} (saved: {saved})"
