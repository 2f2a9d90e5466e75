"""The only door to Ray: places jobs on workers, retries those whose process died, and passes reports on."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(10**9))

import ray
from ray import tune
from ray._private import ray_constants
from ray.tune import FailureConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from robsearch.errors import InputError, refusal
from robsearch.recipe import Recipe
from robsearch.trial import Report

SECRETS = re.compile(r"^(MLFLOW|OPTUNA|ROBSEARCH_STORAGE|PG|MYSQL)|PASSWORD|SECRET|TOKEN|CREDENTIAL|API_KEY")
"""Names of environment variables that workers must not see: only the driver talks to MLflow and the storage."""

Work = Callable[[Recipe, Path], Iterator[Report]]


@dataclass(frozen=True)
class Job:
    """One thing for a worker to do: ``work(recipe, folder)``, a generator of reports."""

    name: str
    work: Work
    recipe: Recipe
    folder: Path


class Jobs(Protocol):
    """Who decides what is done next; called in one thread."""

    @property
    def finished(self) -> bool:
        """Whether no job is left to do, now or later."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether running jobs are to be stopped at once."""
        ...

    def next(self) -> Job | None:
        """The next job, or None if there is none at the moment."""
        ...

    def heard(self, job: Job, report: Report) -> bool:
        """A worker reported; returns whether it goes on."""
        ...

    def gone(self, job: Job, error: str | None) -> None:
        """A job's worker is free again; ``error`` if it broke down more often than it is retried."""
        ...


@dataclass(frozen=True)
class Resources:
    """What one trial takes: Ray's CPUs and GPUs, which may be fractions."""

    cpus: float = 1
    gpus: float = 0


def check_address(address: str | None) -> None:
    """Sees whether anything listens there: Ray itself would wait for five minutes.

    Raises:
        InputError: the address is a Ray Client's, not one at all, or nothing answers.
    """
    if address is None or address == "auto":
        return
    if address.startswith("ray://"):
        do = "run robsearch on the cluster itself: ray job submit -- robsearch launch ... --address auto"
        raise InputError(refusal("--address auto or HOST:PORT", address, do))
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        do = "start it with `ray start --head`, or leave --address out for a cluster on this machine"
        raise InputError(refusal(f"a Ray cluster at --address {address}", error, do)) from error


@contextlib.contextmanager
def connected(address: str | None, cpus: int | None) -> Iterator[None]:
    """A Ray cluster to run on: an existing one at ``address`` (``auto``, ``HOST:PORT``), or one on this machine.

    Raises:
        InputError: no cluster answers there, or the address is a Ray Client's.
    """
    if ray.is_initialized():
        yield
        return
    check_address(address)
    if not address:
        _stay_on_loopback()
    local: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        with _worker_environment():
            ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
    except Exception as error:
        do = "check the address; if that cluster asks for a token, set RAY_AUTH_MODE=token"
        raise InputError(refusal(f"a Ray cluster at {address or 'this machine'}", error, do)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _stay_on_loopback() -> None:
    """Makes a one-machine Ray listen on 127.0.0.1 only; Ray has no public switch for it on Linux."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """What workers inherit: no secrets, and the import path on which the driver found the space."""
    before = dict(os.environ)
    for name in filter(SECRETS.search, before):
        del os.environ[name]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def total(resource: str) -> float:
    """How many of a resource (``CPU``, ``GPU``) the connected cluster has."""
    return float(ray.cluster_resources().get(resource, 0))


def run(jobs: Jobs, resources: Resources, folder: Path, max_retries: int) -> None:
    """Runs jobs until none is left, as many at a time as ``jobs.next`` gives out.

    Args:
        jobs: who decides.
        resources: of each job.
        folder: on storage that all nodes share; Ray keeps its own notes there, on which nothing depends.
        max_retries: how often a job whose process died is started again.
    """
    bridge = _Bridge(jobs)
    tuner = Tuner(
        tune.with_resources(_work, {"cpu": resources.cpus, "gpu": resources.gpus}),
        tune_config=TuneConfig(search_alg=bridge, scheduler=_Listener(bridge), num_samples=-1, reuse_actors=True),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder.resolve()),
            verbose=0,
            stop=_Stop(jobs),
            failure_config=FailureConfig(max_failures=max_retries),
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner.fit()


def _work(config: dict[str, Any]) -> None:
    job: Job = config["job"]
    for report in job.work(job.recipe, job.folder):
        tune.report({"report": report})


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
        if job:
            self.jobs.gone(job, self.errors.get(trial_id, "unknown error") if error else None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth, not Tune's snapshots."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""


class _Listener(_Unsaved, FIFOScheduler):
    """What Tune asks whether a trial goes on."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge
        self._last: dict[str, Report] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        job, report = self._bridge.running.get(trial.trial_id), result["report"]
        if job is None or self._last.get(trial.trial_id) is report:
            return str(TrialScheduler.CONTINUE)  # Tune repeats the last result when a function returns
        self._last[trial.trial_id] = report
        goes_on = self._bridge.jobs.heard(job, report)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._bridge.errors[trial.trial_id] = _in_one_line(trial)


def _in_one_line(trial: Any) -> str:
    try:
        text = str(trial.get_pickled_error())
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
