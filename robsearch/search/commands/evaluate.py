"""``robsearch evaluate``: finalists under ever dearer attacks, as Ray jobs that go on where they
were stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from rich.console import Console, RenderableType
from rich.text import Text

from robsearch import cluster
from robsearch.cluster import Job, JobQueue
from robsearch.errors import counted, refused
from robsearch.search.capacity import capacity, joined, stops_on_signal
from robsearch.search.commands.ladders import (
    ladder_table,
    masking_tables,
    progress_bars,
    rank_flips,
)
from robsearch.search.commands.targets import Finalist, load_finalists
from robsearch.search.grid import PlainTextConsole, printer
from robsearch.search.options import RunOptions, in_store, takes_options
from robsearch.search.result import load_search
from robsearch.search.syncing import bring_up_to_date
from robsearch.spaces import Space
from robsearch.tracking import check_tracking, experiment_of
from robsearch.trials.evaluating import read_checks
from robsearch.trials.ladder.results import (
    RankReversal,
    rank_reversals,
    read_ladder,
    rung_results,
)
from robsearch.trials.ladder.running import RUNGS
from robsearch.trials.masking import Check
from robsearch.trials.trial import Report, evaluate_trial, ladder_folder

MAX_RETRIES = 2


class Evaluation:
    """What came of evaluating finalists.

    Attributes:
        finalists: in the order they are shown.
        ladders: by trial, one row per test image (``ladder.results.read_ladder``).
        checks: by trial, the signs of gradient masking that were looked for.
        problems: by trial, why there is no ladder.
    """

    def __init__(self, finalists: list[Finalist], problems: dict[str, str]) -> None:
        self.finalists = finalists
        self.problems = problems
        self.ladders: dict[str, pa.Table] = {}
        self.checks: dict[str, list[Check]] = {}
        for finalist in finalists:
            if finalist.trial not in problems:
                folder = ladder_folder(finalist.folder, finalist.epoch)
                self.ladders[finalist.trial] = read_ladder(folder)
                self.checks[finalist.trial] = read_checks(folder)

    @property
    def flips(self) -> list[RankReversal]:
        """Pairs of finalists that two rungs order differently."""
        return rank_reversals(self.ladders)


@takes_options
@in_store
def evaluate(
    target: str,
    *,
    rung: str = "apgd",
    top: int = 1,
    space: Space | str | None = None,
    options: RunOptions | None = None,
    console: Console | None = None,
    **where: Any,
) -> Evaluation:
    """Attacks trained networks up to a rung of the ladder, looks for gradient masking, and records
    both in MLflow.

    What an earlier call finished is not done again.

    Args:
        target: a search (its best trials), ``NAME/w4-017``, the folder of a trial or of a
            checkpoint, or the id of an MLflow run.
        rung: ``pgd``, ``two-losses``, ``apgd-ce``, ``apgd`` or ``autoattack`` (see
            ``robsearch.trials.ladder``).
        top: how many trials of each width, the best by their value, when a whole search is meant.
        space: the space or its reference, if it cannot be imported under the one that was recorded.
        options: where and how much.
        console: where progress is shown.
        where: fields of ``RunOptions`` by their names, as for ``launch``.

    Raises:
        InputError: no such network or rung, or the record is not there or another search's.
    """
    options = options or RunOptions()
    console = console or PlainTextConsole()
    options.check(top=(top, 1))
    if rung not in RUNGS:
        expected = f"--rung out of {', '.join(RUNGS)}"
        raise refused(expected, repr(rung), "pass one of these")
    cluster.check_address(options.address)
    search, space, finalists, options = load_finalists(target, options, top, space)
    # Before anything is computed: the record answers, and is this search's.
    uri = options.uri(search.record.tracking)
    check_tracking(uri)
    experiment_of(uri, search.name, search.record.identity)
    owner = SimpleNamespace(stopping=False)
    say = printer(console)
    recipes = [finalist.recipe for finalist in finalists]
    with (
        joined(options, space, search.folder, recipes, console),
        stops_on_signal(owner, console),
    ):
        parallel, resources = capacity(options, space)
        jobs = []
        for finalist in sorted(finalists, key=lambda finalist: -finalist.width):
            work = partial(evaluate_trial, rung=rung, epoch=finalist.epoch)
            of_width = resources[finalist.width]
            job = Job(finalist.trial, work, finalist.recipe, finalist.folder, of_width)
            jobs.append(job)
        with _shown(finalists, console) as show:
            queue = JobQueue(jobs, owner, parallel, show)
            cluster.run(queue, search.folder, MAX_RETRIES, options.hang_after, say)
    problems = _problems(finalists, queue)
    evaluated = load_search(search.name, options.results, options.storage)
    # Of other epochs than the best MLflow has no run.
    of_best_epoch = [finalist.trial for finalist in finalists if finalist.epoch is None]
    trials = [trial for trial in of_best_epoch if trial not in problems]
    storage = options.store.open(search.name)
    behind = bring_up_to_date(search.record, storage, uri, options, trials, evaluated)
    if behind:
        runs = f"{counted(behind, 'run')} in MLflow could not be brought up to date"
        say(f"note: {runs}; the same command delivers what waits")
    return Evaluation(finalists, problems)


def _problems(finalists: list[Finalist], queue: JobQueue) -> dict[str, str]:
    """By trial, why its job has not come to a good end."""
    problems = {}
    for finalist in finalists:
        trial = finalist.trial
        report = queue.ended.get(trial)
        if trial in queue.broken:
            problems[trial] = f"the process broke down: {queue.broken[trial]}"
        elif report is None:
            problems[trial] = "stopped before its end; the same command goes on"
        elif report.ended != "COMPLETE":
            problems[trial] = report.reason or "no reason given"
    return problems


@contextlib.contextmanager
def _shown(finalists: list[Finalist], console: Console) -> Iterator[Callable[[Job, Report], None]]:
    """What shows how far each evaluation is, and prints what workers warn of."""
    say = printer(console)
    with progress_bars([finalist.trial for finalist in finalists], console) as update:

        def show(job: Job, report: Report) -> None:
            for text in report.warnings:
                say(f"{job.name}  {text}")
            if report.progress is not None:
                update(job.name, report.progress)

        yield show


# --- what is printed ---


def evaluation_parts(evaluation: Evaluation) -> Iterator[RenderableType]:
    """What ``robsearch evaluate`` prints: the ladder, the signs of gradient masking, and the
    rank-flip alarm."""
    if evaluation.ladders:
        lams = {finalist.trial: f"{finalist.lam:.3g}" for finalist in evaluation.finalists}
        yield ladder_table(evaluation.ladders, {"lam": lams})
    yield from masking_tables(evaluation.checks)
    for trial, problem in evaluation.problems.items():
        yield Text(f"{trial}: not evaluated: {problem}", style="bold red")
    yield from rank_flips(evaluation.ladders)


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """The same as JSON has it."""
    networks = []
    for finalist in evaluation.finalists:
        ladder = evaluation.ladders.get(finalist.trial)
        rungs = [] if ladder is None else rung_results(ladder)
        networks.append(
            {
                "name": finalist.trial,
                "width": finalist.width,
                "lam": finalist.lam,
                "folder": finalist.folder,
                "rungs": [rung._asdict() for rung in rungs],
                "checks": [check._asdict() for check in evaluation.checks.get(finalist.trial, [])],
                "problem": evaluation.problems.get(finalist.trial),
            }
        )
    flips = [str(flip) for flip in evaluation.flips]
    return {"networks": networks, "rank_flips": flips}
