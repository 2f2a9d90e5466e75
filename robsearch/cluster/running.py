"""Runs jobs with Ray Tune: who decides is asked for the next job, and told what came of it."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, FailureConfig, PlacementGroupFactory, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from robsearch.cluster.device import limit_memory, wait_for_memory
from robsearch.cluster.jobs import Job, Jobs
from robsearch.cluster.patience import Patience
from robsearch.cluster.secrets import forget_secrets
from robsearch.cluster.speaking import speaking
from robsearch.cluster.waiting import Waiting, bundles
from robsearch.costs import hold_gpus
from robsearch.trial import Report

NOTHING = Report()


def run(
    jobs: Jobs,
    folder: Path,
    max_retries: int,
    patience_s: float | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Runs jobs until none is left, as many at a time as ``jobs.next`` gives out and the cluster has room for.

    Jobs start in the order in which they are given out. One for which there is no room now waits, and those behind
    it wait with it, so that a large one is not overtaken for ever; one that fits on no node would wait until such a
    node joins: see ``slots``.

    Args:
        jobs: who decides.
        folder: on storage that all nodes share; Ray keeps its own notes there, on which nothing depends.
        max_retries: how often a job whose process died, was ended or whose node died is started again.
        patience_s: of silence after which a job counts as hung and is ended, see ``Patience``; None: never.
        say: prints one line; told when nothing runs because others have taken the cluster's room.
    """
    bridge, patience = _Bridge(jobs), Patience(patience_s)
    listener = _Listener(bridge, patience)
    waiting = [Waiting(bridge.running, say)] if say else []
    tuner = Tuner(
        tune.with_resources(_work, _bundle),
        tune_config=TuneConfig(search_alg=bridge, scheduler=listener, num_samples=-1, reuse_actors=True),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder.resolve()),
            verbose=0,
            stop=_Stop(jobs),
            callbacks=[patience, *waiting, _Forget()],
            failure_config=FailureConfig(max_failures=max_retries),
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner.fit()


def _bundle(config: dict[str, Any]) -> PlacementGroupFactory:
    """One bundle for each process; several lie on one node, and who starts them and waits takes nothing."""
    job: Job = config["job"]
    own = bundles(job)
    return PlacementGroupFactory(own if len(own) == 1 else [{}, *own], strategy="STRICT_PACK")


def _work(config: dict[str, Any]) -> None:
    forget_secrets()
    job: Job = config["job"]
    with contextlib.closing(_reports(job)) as reports:
        for report in reports:
            tune.report({"report": report})


def _reports(job: Job) -> Generator[Report]:
    if job.processes > 1:
        from robsearch.cluster.together import together  # a second: Ray Train is needed nowhere else

        yield from together(job)
    else:
        wait_for_memory(job.resources)
        limit_memory(job.resources)
        hold_gpus(job.gpus)
        yield from speaking(job.work(job.recipe, job.folder))


class _Unsaved:
    """Tune pickles what it is given into its snapshots. Ours hold a live driver, and nothing depends on them."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Bridge(_Unsaved, Searcher):
    """What Tune asks for trials, and tells of their end."""

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self.jobs = jobs
        self.running: dict[str, Job] = {}
        self.errors: dict[str, str] = {}
        self.last: dict[str, Report] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        if self.jobs.finished or self.jobs.stopping:
            return str(Searcher.FINISHED)
        job = self.jobs.next()
        if job is None:
            return None
        self.running[trial_id] = job
        return {"job": job}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self.running.pop(trial_id, None)
        self.last.pop(trial_id, None)
        if job:
            self.jobs.gone(job, self.errors.get(trial_id, "unknown error") if error else None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth, not Tune's snapshots."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""


class _Listener(_Unsaved, FIFOScheduler):
    """What Tune asks whether a trial goes on."""

    def __init__(self, bridge: _Bridge, patience: Patience) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge, self._patience = bridge, patience

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        job, report = self._bridge.running.get(trial.trial_id), result["report"]
        if job is None or self._bridge.last.get(trial.trial_id) is report:
            return str(TrialScheduler.CONTINUE)  # Tune repeats the last result when a function returns
        self._bridge.last[trial.trial_id] = report
        self._patience.heard(trial)
        goes_on = self._bridge.jobs.heard(job, report)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._bridge.errors[trial.trial_id] = self._patience.reasons.get(trial.trial_id) or _in_one_line(trial)


class _Forget(_Unsaved, Callback):
    """Drops what Tune keeps of a job that has ended, which a search of thousands would carry along to its end."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        kept = trial.run_metadata
        kept.metric_analysis, kept.metric_n_steps = {}, {}
        kept.last_result = {**kept.last_result, "report": NOTHING}  # without one, Tune prints that a trial has ended


def _in_one_line(trial: Any) -> str:
    try:
        # Not by ``get_pickled_error``: at this moment Tune has not copied the file to where that looks for it.
        text = str(pickle.loads(Path(trial.pickled_error_file).read_bytes()))
    except Exception as error:  # an exception of the user's may not unpickle here; the trial still fails as one
        return f"an error that the driver cannot read ({type(error).__name__}: {error})"
    lines = [line for line in text.splitlines() if line.strip()] or ["unknown error"]
    raised = lines[0].startswith(("\x1b", "ray::")) or "traceback" in lines[0].lower()
    return lines[-1] if raised else lines[0]


class _Stop(_Unsaved, Stopper):
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._jobs.stopping
