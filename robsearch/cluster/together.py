"""Runs one job in several processes with Ray Train, from inside its Tune trial.

Tune reserves the trial's placement group: one bundle for each process, and none for the trial's own, which only waits.
Ray Train starts the processes, joins them in torch's process group, and ends all when one of them dies; the trial
then fails, and Tune starts it again. Ray Train would reserve a second placement group: here it is given the trial's.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Generator
from typing import Any

import ray
import torch
from ray import tune
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.placement_group import PlacementGroup, get_current_placement_group

from robsearch.cluster.device import wait_for_memory
from robsearch.cluster.jobs import Job
from robsearch.cluster.secrets import forget_secrets
from robsearch.cluster.speaking import speaking
from robsearch.costs import hold_gpus
from robsearch.ranks import RankLostError, Ranks
from robsearch.trial import Report

END_SECONDS = 60
"""How long the processes of a job that is stopped have to end."""
LISTEN_SECONDS = 0.5
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(2 * END_SECONDS),
}
"""Read by Ray Train, and by Tune when a trial is stopped, in the trial's process: no helpers that nobody asks."""


def together(job: Job) -> Generator[Report]:
    """The reports of rank 0, which waits after each until the next is asked for; closed, it ends all processes.

    Raises:
        RankLostError: a process died, or raised an error instead of reporting it.
    """
    os.environ.update(SETTINGS)
    actor: Any = ray.remote(num_cpus=0)(_Line)
    line = actor.remote()
    training = _Training(_trainer(job, line))
    training.start()
    try:
        heard = line.hear.remote()
        while training.is_alive():
            if ray.wait([heard], timeout=LISTEN_SECONDS)[0]:
                yield ray.get(heard)
                line.answer.remote(True)
                heard = line.hear.remote()
    finally:
        line.answer.remote(False)
        training.join(END_SECONDS)
        ray.kill(line)
    if training.error is not None:
        raise RankLostError(_in_one_line(training.error)) from training.error


def _trainer(job: Job, line: Any) -> TorchTrainer:
    group = get_current_placement_group()
    assert group is not None, "Tune reserves one for each trial"
    retries = FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)  # they are Tune's
    return _InTrial(
        _rank,
        train_loop_config={"job": job, "line": line},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if job.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.processes,
            use_gpu=job.gpus > 0,
            resources_per_worker={"CPU": job.resources.cpus, **({"GPU": 1} if job.gpus else {})},
        ),
        run_config=RunConfig(
            name="ranks",
            storage_path=tune.get_context().get_trial_dir(),
            failure_config=retries,
            callbacks=[_TrialsPlacementGroup(group)],  # type: ignore[list-item]  # Ray takes its own kind too
        ),
    )


def _rank(config: dict[str, Any]) -> None:
    forget_secrets()
    job, line, ranks = config["job"], config["line"], Ranks.here()
    wait_for_memory(job.resources, _free_share)
    hold_gpus(job.gpus)
    reports = speaking(job.work(job.recipe, job.folder, ranks))
    for report in reports:
        if ranks.leads and not ray.get(line.tell.remote(report)):
            reports.close()


def _free_share() -> float:
    """Of this rank's GPU alone: a look at those of the others, which it sees too, would take memory there."""
    free, total = torch.cuda.mem_get_info()
    return free / total


class _Line:
    """An actor between rank 0 and the trial: who tells waits for an answer, whether to go on."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Report] = asyncio.Queue()
        self._answers: asyncio.Queue[bool] = asyncio.Queue()

    async def tell(self, report: Report) -> bool:
        await self._told.put(report)
        return await self._answers.get()

    async def hear(self) -> Report:
        return await self._told.get()

    async def answer(self, goes_on: bool) -> None:
        await self._answers.put(goes_on)


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
    """Without the detached actor that removes placement groups: this one is Tune's."""

    def _create_default_callbacks(self) -> list[Any]:
        found = super()._create_default_callbacks()
        return [callback for callback in found if not isinstance(callback, PlacementGroupCleanerCallback)]


class _TrialsPlacementGroup(WorkerGroupCallback):
    """In Ray Train's controller: processes are started in the bundles of the trial's placement group."""

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
    said = [f"rank {rank}: {str(failure).strip().splitlines()[0]}" for rank, failure in sorted(failures.items())]
    missing = [words for words in said if RankLostError.__name__ in words]
    return "; ".join([words for words in said if words not in missing] or missing) or str(error)
