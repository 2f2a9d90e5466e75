"""Runs one job in several processes with Ray Train, from inside its Tune trial.

Tune reserves the trial's placement group: one bundle for each process, and none for the trial's
own, which only waits. Ray Train starts the processes, joins them in torch's process group, and ends
all when one of them dies; the trial then fails, and Tune starts it again. Ray Train would reserve a
second placement group: here it is given the trial's. That takes five of its private modules and one
patch, for it has no public way to run in bundles that exist (seen in Ray 2.60; ``pyproject.toml``
caps the version).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Generator
from typing import Any

import ray
import torch
from ray import cloudpickle, tune
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
)
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.placement_group import PlacementGroup, get_current_placement_group

from robsearch.cluster.jobs import Job
from robsearch.cluster.worker import wait_for_memory, with_warnings
from robsearch.training.costs import hold_gpus
from robsearch.training.ranks import RankLostError, Ranks
from robsearch.trials.trial import Report
from robsearch.trials.variables import keep_needed

END_SECONDS = 60
"""How long the processes of a job that is stopped have to end."""
LISTEN_SECONDS = 0.5
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(2 * END_SECONDS),
}
"""Read by Ray Train, and by Tune when a trial is stopped, in the trial's process: no helpers that
nobody asks."""


def data_parallel(job: Job) -> Generator[Report]:
    """The reports of rank 0, which waits after each until the next is asked for; closed, it ends
    all processes.

    Raises:
        RankLostError: a process died, or raised an error instead of reporting it.
    """
    os.environ.update(SETTINGS)
    channel = _report_channel()
    training = _Training(_trainer(job, channel))
    training.start()
    try:
        pending = channel.receive.remote()
        while training.is_alive():
            if ray.wait([pending], timeout=LISTEN_SECONDS)[0]:
                yield cloudpickle.loads(ray.get(pending))
                channel.answer.remote(True)
                pending = channel.receive.remote()
    finally:
        channel.answer.remote(False)
        training.join(END_SECONDS)
        ray.kill(channel)
    if training.error is not None:
        raise RankLostError(_in_one_line(training.error)) from training.error


def _trainer(job: Job, channel: Any) -> TorchTrainer:
    group = get_current_placement_group()
    assert group is not None, "Tune reserves one for each trial"
    # It is Tune that starts a trial again.
    no_retries = FailureConfig(
        max_failures=0, controller_failure_limit=0, max_preemption_failures=0
    )
    return _InTrial(
        _rank,
        train_loop_config={"job": job, "channel": channel},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if job.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.processes,
            use_gpu=job.gpus > 0,
            resources_per_worker=job.bundles[0],
        ),
        run_config=RunConfig(
            name="ranks",
            storage_path=tune.get_context().get_trial_dir(),
            failure_config=no_retries,
            callbacks=[_TrialsPlacementGroup(group)],  # type: ignore[list-item]  # Ray takes its own kind too
        ),
    )


def _rank(config: dict[str, Any]) -> None:
    keep_needed()
    job = config["job"]
    channel = config["channel"]
    ranks = Ranks.here()
    wait_for_memory(job.resources, _free_share)
    hold_gpus(job.gpus)
    reports = with_warnings(job.work(job.recipe, job.folder, ranks))
    for report in reports:
        if ranks.leads and not ray.get(channel.send.remote(cloudpickle.dumps(report))):
            reports.close()


def _free_share() -> float:
    """Of this rank's GPU alone: a look at those of the others, which it sees too, would take memory
    there."""
    free, total = torch.cuda.mem_get_info()
    return free / total


def _report_channel() -> Any:
    """Starts an actor between rank 0 and the trial: who sends a report waits for the answer,
    whether to go on.

    Its process would take as long to import robsearch, with torch, as a rank's. It need not: the
    class is made here, so that it is sent as it is and not by its name, and reports pass as bytes.
    """

    class _ReportChannel:
        def __init__(self) -> None:
            self._reports: asyncio.Queue[bytes] = asyncio.Queue()
            self._answers: asyncio.Queue[bool] = asyncio.Queue()

        async def send(self, report: bytes) -> bool:
            await self._reports.put(report)
            return await self._answers.get()

        async def receive(self) -> bytes:
            return await self._reports.get()

        async def answer(self, goes_on: bool) -> None:
            await self._answers.put(goes_on)

    actor: Any = ray.remote(num_cpus=0)(_ReportChannel)
    return actor.remote()


class _Training(threading.Thread):
    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._trainer = trainer

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:
            self.error = error


class _InTrial(TorchTrainer):
    """Without two actors of Ray Train's: the detached one that removes placement groups, for this
    one is Tune's, and the one that hands out Ray's datasets, for there are none."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        needless = PlacementGroupCleanerCallback, DatasetsCallback
        return [callback for callback in callbacks if not isinstance(callback, needless)]


class _TrialsPlacementGroup(WorkerGroupCallback):
    """In Ray Train's controller: processes are started in the bundles of the trial's placement
    group."""

    def __init__(self, group: PlacementGroup) -> None:
        self._group = group

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        WorkerGroup._create_placement_group = lambda *_: _Held(self._group)  # type: ignore[method-assign]


class _Held(DefaultPlacementGroupHandle):
    def shutdown(self) -> None:
        """Nothing: Tune removes it."""


def _in_one_line(error: Exception) -> str:
    """What the processes died of: first those that did not merely miss another one."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    causes: list[str] = []
    missing: list[str] = []
    for rank, failure in sorted(failures.items()):
        text = f"rank {rank}: {str(failure).strip().splitlines()[0]}"
        (missing if RankLostError.__name__ in text else causes).append(text)
    return "; ".join(causes or missing) or str(error)
