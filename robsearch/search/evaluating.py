"""``robsearch evaluate``: finalists under ever dearer attacks, as Ray jobs that go on where they were stopped."""

from __future__ import annotations

from collections import deque
from functools import partial

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from robsearch import cluster
from robsearch.checkpoints import read_history
from robsearch.cluster import Job
from robsearch.errors import InputError, refusal
from robsearch.ladder import RUNGS, Flip, flips, read_ladder
from robsearch.masking import Check
from robsearch.resources import Resources
from robsearch.search.finalists import Finalist, load_finalists
from robsearch.search.preflight import check_numbers
from robsearch.search.recording import Recorder, compared
from robsearch.search.result import Search, load_search
from robsearch.search.workplace import Means, in_place, joined, room, stops_on_signal
from robsearch.spaces import Space
from robsearch.tracking import Tracker, check_tracking, experiment_of
from robsearch.trial import Report, evaluate_trial, ladder_folder, read_checks, read_test
from robsearch.wording import counted

MAX_RETRIES = 2


class Evaluation:
    """What came of evaluating finalists.

    Attributes:
        finalists: in the order they are shown.
        ladders: by trial, one row per test image (``robsearch.ladder.read_ladder``).
        checks: by trial, the signs of gradient masking that were looked for.
        problems: by trial, why there is no ladder.
    """

    def __init__(self, finalists: list[Finalist], problems: dict[str, str]) -> None:
        self.finalists, self.problems = finalists, problems
        self.ladders: dict[str, pa.Table] = {}
        self.checks: dict[str, list[Check]] = {}
        for one in finalists:
            folder = ladder_folder(one.folder, one.epoch)
            if one.trial not in problems:
                self.ladders[one.trial] = read_ladder(folder)
                self.checks[one.trial] = read_checks(folder)

    @property
    def flips(self) -> list[Flip]:
        """Pairs of finalists that two rungs order differently."""
        return flips(self.ladders)


@in_place
def evaluate(
    target: str,
    *,
    rung: str = "apgd",
    top: int = 1,
    space: Space | str | None = None,
    means: Means | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Attacks trained networks up to a rung of the ladder, looks for gradient masking, and records both in MLflow.

    What an earlier call finished is not done again.

    Args:
        target: a search (its best trials), ``NAME/w4-017``, the folder of a trial or of a checkpoint, or the id of an
            MLflow run.
        rung: ``pgd``, ``apgd-ce``, ``apgd`` or ``autoattack`` (see ``robsearch.ladder``).
        top: how many trials of each width, the best by their value, when a whole search is meant.
        space: the space or its reference, if it cannot be imported under the one that was recorded.
        means: where and how much.
        console: where progress is shown.

    Raises:
        InputError: no such network or rung, or the record is not there or another search's.
    """
    means, console = means or Means(), console or Console()
    check_numbers(top=(top, 1), **means.bounds)
    if rung not in RUNGS:
        raise InputError(refusal(f"--rung out of {', '.join(RUNGS)}", repr(rung), "pass one of these"))
    cluster.check_address(means.address)
    search, searched, found, means = load_finalists(target, means, top, space)
    uri = _checked_uri(search, means)
    jobs = _Jobs(found, rung)
    with joined(means, searched, search.folder, console), stops_on_signal(jobs, console):
        jobs.parallel, jobs.resources = room(means, searched)
        with jobs.bars(console):
            cluster.run(jobs, search.folder, MAX_RETRIES, means.hang_after, partial(console.print, soft_wrap=True))
    tracker = Tracker(uri, search.name, means.place.results, search.record.identity)
    _record(tracker, jobs, load_search(search.name, means.results, means.storage), console)
    return Evaluation(found, jobs.problems)


def _checked_uri(search: Search, means: Means) -> str:
    """Where the record is kept, which answers and is this search's: before anything is computed."""
    uri = means.uri(search.record.tracking)
    check_tracking(uri)
    experiment_of(uri, search.name, search.record.identity)
    return uri


def _record(tracker: Tracker, jobs: _Jobs, search: Search, console: Console) -> None:
    """Adds what was found at best epochs to the trials' runs and the answer; their other epochs have no run."""
    recorder = Recorder(tracker, search.folder / "trials", search.record)
    for one in jobs.finalists:
        if one.trial in jobs.metrics and one.epoch is None:
            table = one.folder / "ladder.parquet"
            tracker.log(one.trial, compared(jobs.metrics[one.trial]), 0, table.stat().st_mtime)
            recorder.strongest(one.trial, read_test(one.folder), read_history(one.folder))
            tracker.artifact(one.trial, table, "tables")
            tracker.artifact(one.trial, one.folder / "masking.json")
            tracker.artifact(one.trial, one.folder / "figures" / "ladder.png", "figures")
    recorder.answer(search)
    if unsent := tracker.close():
        console.print(
            f"note: {counted(unsent, 'record')} did not reach MLflow; the same command delivers what waits",
            soft_wrap=True,
        )


class _Jobs:
    """Hands the finalists out, widest first (``cluster.Jobs``), and shows how far each is."""

    def __init__(self, found: list[Finalist], rung: str) -> None:
        self.finalists, self.stopping, self.parallel = found, False, 1
        self.resources: dict[float, Resources] = {}
        self.metrics: dict[str, dict[str, float]] = {}
        self.problems = {one.trial: "stopped before its end; the same command goes on" for one in found}
        self._waiting = deque(sorted(found, key=lambda one: -one.width))
        self._running: set[str] = set()
        self._rung = rung
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._progress = Progress(*columns, TimeElapsedColumn())
        self._tasks = {one.trial: self._progress.add_task(one.trial, total=1, text="waiting") for one in found}

    def bars(self, console: Console) -> Progress:
        """The progress bars; on what is not a terminal they are left out."""
        self._progress.live.console = console
        self._progress.disable = not console.is_terminal
        return self._progress

    @property
    def finished(self) -> bool:
        return not (self._waiting or self._running)

    def next(self) -> Job | None:
        if self.stopping or not self._waiting or len(self._running) >= self.parallel:
            return None
        one = self._waiting.popleft()
        self._running.add(one.trial)
        work = partial(evaluate_trial, rung=self._rung, epoch=one.epoch)
        return Job(one.trial, work, one.recipe, one.folder, self.resources[one.width])

    def heard(self, job: Job, report: Report) -> bool:
        for text in report.said:
            self._progress.console.print(f"{job.name}  {text}", soft_wrap=True, highlight=False, markup=False)
        if report.progress is not None:
            self._progress.update(self._tasks[job.name], completed=report.progress.share, text=report.progress.text)
        if report.ended == "COMPLETE":
            self.metrics[job.name] = report.test
            del self.problems[job.name]
        elif report.ended:
            self.problems[job.name] = report.reason or "no reason given"
        return True

    def gone(self, job: Job, error: str | None) -> None:
        self._running.discard(job.name)
        if error:
            self.problems[job.name] = f"the process broke down: {error}"
