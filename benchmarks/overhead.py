"""What the driver of a search costs: robsearch against plain Ray Tune with OptunaSearch and its
MLflow callback.

Both run trials of five reports that train nothing, two at a time on two CPUs, each from a driver
process of its own, one after the other. Ours is the real thing: ``Driver`` and ``Study`` on a
journal file, ``Recorder`` and ``Tracker`` into a sqlite MLflow, ``cluster.run`` on a local Ray;
only ``train`` is replaced, and trials are not measured on ``test``, for the peer has nothing of the
kind (``--measured`` adds these jobs, one more Ray trial for each). Our time ends when MLflow has
everything.

The peer is ``tune.Tuner`` with the same TPE (``OptunaSearch``, in memory as by default: the journal
is ours alone) and ``MLflowLoggerCallback`` into a sqlite MLflow of its own. It is given what we
have: reused actors, two trials at a time, and neither Tune's snapshots nor its CSV, JSON and
TensorBoard files. Both record the same 53 parameters and 10 metrics per report; what Ray would add
of its own (process, node, time stamps) is not recorded. Both databases exist before the clock
starts, and so does Ray.

Prints, of both, the seconds per trial over all and in the last tenth, the milliseconds of deciding
and recording per report (theirs waits for MLflow, ours hands over to a thread), the CPU seconds of
the driver's process per trial, and the growth of its resident memory per 1,000 trials after the
first tenth, which says nothing with ``--quick``; then ``overhead: ratio=`` our seconds per trial /
theirs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
from mlflow import MlflowClient
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from robsearch import MLP, Digits, Fixed, Recipe, cluster
from robsearch.search.driver import Driver
from robsearch.search.recording import Recorder
from robsearch.search.scheduling import StudyScheduler
from robsearch.spaces import Space, Stage
from robsearch.study import Lease, Study, open_storage
from robsearch.tracking import Tracker, default_uri
from robsearch.tracking.store import all_runs
from robsearch.trials.trial import Report, measure

PARALLEL, EPOCHS = 2, 5
NAMES = (
    "val/robust_accuracy",
    "val/natural_accuracy",
    "val/stability",
    "train/lam",
    "train/natural_loss",
    "train/robust_loss",
    "train/learning_rate",
    "time/train_seconds",
    "time/epoch_seconds",
)
RECIPE = Recipe(model=MLP(16), data=Digits(), epochs=EPOCHS)
LINE = (
    "{name}: {seconds:.3f} s per trial, {late:.3f} s in the last tenth; {report_ms:.2f} ms per "
    "report; "
    "{cpu:.3f} s of CPU per trial; memory {growth_mb:+.1f} MB per 1,000 trials"
)


def metrics(lam: float, epoch: int) -> dict[str, float]:
    """A curve that depends on lambda; its best and worst are so close that no trial is pruned."""
    value = 0.5 + 0.001 * epoch - 0.002 * abs(math.log2(lam / 6))
    return dict.fromkeys(NAMES, 0.25) | {"val/robust_accuracy": value, "train/lam": lam}


class Meter:
    """Of a driver's process: where its time goes, and what it holds, as trials end."""

    def __init__(self, trials: int) -> None:
        self.trials, self.ended, self.reporting = trials, 0, 0.0
        self.memory: dict[int, int] = {}
        self.clock: dict[int, float] = {}
        self.started, self.cpu = time.perf_counter(), self._cpu()

    def count(self) -> None:
        self.ended += 1
        tenth = max(1, self.trials // 10)
        if self.ended in {tenth, self.trials - tenth, self.trials}:
            self.memory[self.ended] = psutil.Process().memory_info().rss
            self.clock[self.ended] = time.perf_counter()

    def result(self) -> dict[str, float]:
        first, late, last = sorted(self.memory)
        return {
            "seconds": (time.perf_counter() - self.started) / self.trials,
            "report_ms": 1000 * self.reporting / self.trials / EPOCHS,
            "cpu": (self._cpu() - self.cpu) / self.trials,
            "growth_mb": (self.memory[last] - self.memory[first]) / 2**20 / (last - first) * 1000,
            "late": (self.clock[last] - self.clock[late]) / (last - late),
        }

    @staticmethod
    def _cpu() -> float:
        times = psutil.Process().cpu_times()
        return float(times.user + times.system)


# --- ours ---


def define(trial: optuna.Trial, width: float) -> Recipe:
    return dataclasses.replace(RECIPE, lam=Fixed(trial.suggest_float("lam", 0.5, 64.0, log=True)))


def instant(recipe: Recipe, folder: Path) -> Iterator[Report]:
    lam = float(recipe.flat()["lam"])
    for epoch in range(1, EPOCHS + 1):
        entry = {"epoch": epoch, "time": time.time(), **metrics(lam, epoch), "val/epochs": epoch}
        yield Report([entry], ended="COMPLETE" if epoch == EPOCHS else None)


def measured(recipe: Recipe, folder: Path) -> Iterator[Report]:
    yield Report(ended="FAIL")


class Metered:
    """A driver whose jobs do nothing (``cluster.Jobs``)."""

    def __init__(self, driver: Driver, meter: Meter, measuring: bool) -> None:
        self.driver, self.meter, self.measuring = driver, meter, measuring
        self.jobs: dict[str, cluster.Job] = {}

    @property
    def finished(self) -> bool:
        return self.driver.finished

    @property
    def stopping(self) -> bool:
        return self.driver.stopping

    def next(self) -> cluster.Job | None:
        job = self.driver.next()
        while job is not None and job.work is measure and not self.measuring:
            self.driver.gone(job, None)
            job = self.driver.next()
        if job is None:
            return None
        self.jobs[job.name] = job
        return dataclasses.replace(job, work=measured if job.work is measure else instant)

    def heard(self, job: cluster.Job, report: Report) -> bool:
        started = time.perf_counter()
        goes_on = self.driver.heard(self.jobs[job.name], report)
        self.meter.reporting += time.perf_counter() - started
        return goes_on

    def gone(self, job: cluster.Job, error: str | None) -> None:
        self.driver.gone(own := self.jobs.pop(job.name), error)
        if own.work is not measure:
            self.meter.count()


def ours(trials: int, folder: Path, measuring: bool) -> dict[str, float]:
    tracker, storage = Tracker(default_uri(folder), "s", folder), open_storage(None, folder)
    lease = Lease.acquire(storage, "s")
    meter = Meter(trials)
    space = Space(define, (16,))
    study = Study(storage, "s", space, Stage(16), trials=trials, full=RECIPE, seed=0)
    scheduler = StudyScheduler(space, [study], trials)
    driver = Driver(
        scheduler, Recorder(tracker, folder / "trials"), lease, folder / "trials", lambda line: None
    )
    driver.parallel = PARALLEL
    cluster.run(Metered(driver, meter, measuring), folder, max_retries=2)
    behind = tracker.close(patience=600)
    result = meter.result()
    lease.release()
    assert not behind, f"{behind} runs are not up to date in MLflow"
    client = MlflowClient(tracker.uri)
    runs = all_runs(client, client.get_experiment_by_name("s").experiment_id)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(study.trials()) == trials, len(study.trials())
    return result


# --- theirs ---


class MeteredSearch(OptunaSearch):
    meter: Meter

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        started = time.perf_counter()
        super().on_trial_result(trial_id, result)
        self.meter.reporting += time.perf_counter() - started

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        super().on_trial_complete(trial_id, result, error)
        self.meter.count()


class MeteredCallback(MLflowLoggerCallback):
    meter: Meter

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        started = time.perf_counter()
        recorded = {
            name: value for name, value in result.items() if name in {*NAMES, "training_iteration"}
        }
        super().log_trial_result(iteration, trial, recorded)
        self.meter.reporting += time.perf_counter() - started


def plain(config: dict[str, Any]) -> None:
    for epoch in range(1, EPOCHS + 1):
        tune.report(metrics(config["lam"], epoch))


def theirs(trials: int, folder: Path, measuring: bool) -> dict[str, float]:
    from mlflow import MlflowClient

    uri = default_uri(folder)
    MlflowClient(uri).create_experiment("s")
    flat = RECIPE.flat() | {"width": 16, "log2_width": 4.0, "log10_lam": 0.0}
    search, callback = MeteredSearch(seed=0), MeteredCallback(uri, experiment_name="s")
    meter = search.meter = callback.meter = Meter(trials)
    tune.Tuner(
        tune.with_resources(plain, {"cpu": 1}),
        param_space=flat | {"lam": tune.loguniform(0.5, 64.0)},
        tune_config=tune.TuneConfig(
            metric="val/robust_accuracy",
            mode="max",
            search_alg=search,
            num_samples=trials,
            max_concurrent_trials=PARALLEL,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[callback]),
    ).fit()
    return meter.result()


# --- both ---


SIDES = {"ours": ours, "theirs": theirs}


def one_side(side: str, trials: int, measuring: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, cluster.connected(None, PARALLEL):
        return SIDES[side](trials, Path(folder), measuring)


def theirs_elsewhere(trials: int) -> dict[str, float]:
    """In a process of its own, so that neither side finds the other's memory or caches."""
    command = [sys.executable, __file__, "--side", "theirs", "--trials", str(trials)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="20 trials each instead of 1,000")
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--measured", action="store_true", help="hand out our measuring jobs too")
    options.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    asked = options.parse_args()
    trials = 20 if asked.quick else asked.trials
    if asked.side:
        print(json.dumps(one_side(asked.side, trials, asked.measured)))
        return
    found = {"theirs": theirs_elsewhere(trials), "ours": one_side("ours", trials, asked.measured)}
    for side, name in (("ours", "robsearch"), ("theirs", "plain Ray Tune")):
        print(LINE.format(name=name, **found[side]))
    print(f"memory: growth={found['ours']['growth_mb']:.1f} MB per 1,000 trials goal=50 n={trials}")
    print(
        f"overhead: ratio={found['ours']['seconds'] / found['theirs']['seconds']:.2f} goal=1.0 "
        f"n={trials}"
    )


if __name__ == "__main__":
    main()
