"""Runs jobs with Ray Tune: who decides is asked for the next job, and told what came of it."""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import (
    Callback,
    CLIReporter,
    FailureConfig,
    PlacementGroupFactory,
    RunConfig,
    Stopper,
    TuneConfig,
    Tuner,
)
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from robsearch.cluster.connection import environment
from robsearch.cluster.jobs import Job, Jobs
from robsearch.cluster.joining import JoiningNodes
from robsearch.cluster.nodes import INSTALL
from robsearch.cluster.watching import CapacityNotice, Unsaved, Watchdog
from robsearch.cluster.worker import limit_memory, wait_for_memory, with_warnings
from robsearch.errors import refusal, shortened
from robsearch.training.costs import hold_gpus
from robsearch.trials.files import ERROR, shortened_into
from robsearch.trials.trial import Report
from robsearch.trials.variables import NEEDED, keep_needed

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
}
"""Read by Tune when it runs: no output, no files beside ours, no handler of Ctrl-C of its own."""
NO_REPORT = Report()
CREATION = "because of an error raised in its creation task"
"""In what Ray says of a process that could not begin."""
LACKING = re.compile(r"(?<=ModuleNotFoundError: )No module named '[^'\n]*'")
"""The first is the cause of those behind it."""
NODE = "ray.io/node-id"
"""The label by which Ray knows a node's number."""
ADDRESS = re.compile(r"\bip=([^,)\s]+)")


def run(
    jobs: Jobs,
    folder: Path,
    max_retries: int,
    patience_s: float | None = None,
    say: Callable[[str], None] | None = None,
    joining: JoiningNodes | None = None,
) -> None:
    """Runs jobs until none is left, as many at a time as ``jobs.next`` gives out and the cluster
    has the capacity for.

    Jobs start in the order in which they are given out. One that does not fit now waits, and those
    behind it wait with it, so that a large one is not overtaken for ever; one that fits on no node
    would wait until such a node joins: see ``capacity``.

    Args:
        jobs: who decides.
        folder: on storage that all nodes share; Ray keeps its own notes there, on which nothing
            depends.
        max_retries: how often a job whose process died, was ended or whose node died is started
            again.
        patience_s: of silence after which a job counts as hung and is ended, see ``Watchdog``;
            None: never.
        say: prints one line; told when nothing runs because others have taken the cluster's
            capacity.
        joining: looks at nodes that join meanwhile; None: they get jobs as others do.
    """
    watchdog = Watchdog(patience_s)
    searcher = _Searcher(jobs, joining)
    callbacks: list[Callback] = [watchdog, _Forget()]
    if say:
        callbacks.append(CapacityNotice(searcher.running, say))
    if joining:
        callbacks.append(joining)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with environment(SETTINGS), _without_keys():
        tuner = Tuner(
            tune.with_resources(_work, _placement),
            tune_config=TuneConfig(
                search_alg=searcher,
                scheduler=_Scheduler(searcher, watchdog),
                num_samples=-1,  # as many as the searcher suggests
                reuse_actors=True,  # a process takes seconds to start
                trial_dirname_creator=_folder_name,
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(folder.resolve()),
                verbose=0,
                stop=_Stop(jobs),
                # The one that Tune takes by itself in a notebook clears the cell, also when it is
                # told to say nothing.
                progress_reporter=CLIReporter(),
                callbacks=callbacks,
                failure_config=FailureConfig(max_failures=max_retries),
            ),
        )
        tuner.fit()


@contextlib.contextmanager
def _without_keys() -> Iterator[None]:
    """While Tune runs it sends workers no variable that they are not known to need.

    Tune has a list of its own, on which the keys of AWS stand, and what is sent is written into
    Ray's logs. There is no public way to change it.
    """
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if NEEDED.fullmatch(name)}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before


def _folder_name(trial: Any) -> str:
    """Of a job's folder among Ray's notes: a job may run again, so its name alone is not enough."""
    return f"{trial.config['job'].name}-{trial.trial_id}"


def _placement(config: dict[str, Any]) -> PlacementGroupFactory:
    """One bundle for each process; several lie on one node, and who starts them and waits takes
    nothing. A job that is started again has the nodes that it was not given when it began."""
    bundles = config["job"].bundles
    without = config["without"]
    more = {}
    if without:
        more["bundle_label_selector"] = [{NODE: f"!in({','.join(without)})"}] * len(bundles)
    return PlacementGroupFactory(
        bundles if len(bundles) == 1 else [{}, *bundles], strategy="STRICT_PACK", **more
    )


def _work(config: dict[str, Any]) -> None:
    keep_needed()
    with contextlib.closing(_reports(config["job"])) as reports:
        for report in reports:
            tune.report({"report": report})


def _reports(job: Job) -> Generator[Report]:
    if job.processes > 1:
        # Ray Train takes a second to import, and is needed nowhere else.
        from robsearch.cluster.data_parallel import data_parallel

        yield from data_parallel(job)
    else:
        wait_for_memory(job.resources)
        limit_memory(job.resources)
        hold_gpus(job.gpus)
        yield from with_warnings(job.work(job.recipe, job.folder))


class _Searcher(Unsaved, Searcher):
    """What Tune asks for trials, and tells of their end."""

    def __init__(self, jobs: Jobs, joining: JoiningNodes | None) -> None:
        super().__init__()
        self.jobs = jobs
        self.joining = joining
        self.running: dict[str, Job] = {}
        self.errors: dict[str, str] = {}
        self.last: dict[str, Report] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        if self.jobs.finished or self.jobs.stopping:
            return str(Searcher.FINISHED)
        if self.joining and self.joining.is_asking:
            return None
        job = self.jobs.next()
        if job is None:
            return None
        self.running[trial_id] = job
        without = self.joining.without_jobs if self.joining else ()
        return {"job": job, "without": without}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        job = self.running.pop(trial_id, None)
        self.last.pop(trial_id, None)
        if job:
            self.jobs.gone(job, self.errors.get(trial_id, "unknown error") if error else None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth, not Tune's snapshots."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""


class _Scheduler(Unsaved, FIFOScheduler):
    """What Tune asks whether a trial goes on."""

    def __init__(self, searcher: _Searcher, watchdog: Watchdog) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher
        self._watchdog = watchdog

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        job = self._searcher.running.get(trial.trial_id)
        report = result["report"]
        # Tune repeats the last result when a function returns.
        if job is None or self._searcher.last.get(trial.trial_id) is report:
            return str(TrialScheduler.CONTINUE)
        self._searcher.last[trial.trial_id] = report
        self._watchdog.heard(trial)
        goes_on = self._searcher.jobs.heard(job, report)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        reason = self._watchdog.reasons.get(trial.trial_id) or _reason(trial)
        job = self._searcher.running.get(trial.trial_id)
        short = shortened_into(reason, job.folder / ERROR) if job else shortened(reason)
        self._searcher.errors[trial.trial_id] = short


class _Forget(Unsaved, Callback):
    """Drops what Tune keeps of a job that has ended, which a search of thousands would carry along
    to its end."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        metadata = trial.run_metadata
        metadata.metric_analysis = {}
        metadata.metric_n_steps = {}
        # Without a report, Tune prints that a trial has ended.
        metadata.last_result = {**metadata.last_result, "report": NO_REPORT}


def _reason(trial: Any) -> str:
    """Why a job's process broke down, in one line."""
    try:
        # Not by ``get_pickled_error``: at this moment Tune has not copied the file to where that
        # looks for it.
        text = str(pickle.loads(Path(trial.pickled_error_file).read_bytes()))
    except Exception as error:  # one of the user's may not unpickle here; the trial still fails
        return f"an error that the driver cannot read ({type(error).__name__}: {error})"
    return in_one_line(text)


def in_one_line(text: str) -> str:
    """Of what Ray says of an error: the package and the node where a process could not import what
    it was given; else the error without its traceback."""
    lacking = LACKING.search(text)
    if lacking and CREATION in text:
        address = ADDRESS.search(text)
        node = f"the node {address[1]}" if address else "a node"
        return refusal(f"{node} to import what a trial takes", lacking[0], INSTALL)
    lines = [line for line in text.splitlines() if line.strip()] or ["unknown error"]
    raised = lines[0].startswith(("\x1b", "ray::")) or "traceback" in lines[0].lower()
    return lines[-1] if raised else lines[0]


class _Stop(Unsaved, Stopper):
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._jobs.stopping
