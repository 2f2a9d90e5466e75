"""The load of this machine, as MLflow names and shows it: CPU, memory, disk, network and, with
NVML, GPUs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Self

from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from robsearch.protocols import Metrics

DEFAULT_SECONDS = 10.0

Log = Callable[[Metrics, int, float], None]
"""Takes values, a step and Unix seconds."""


class Machine:
    """Takes samples in a thread of its own until it is stopped.

    Args:
        log: is given each sample, under names ``system/...``; the step counts samples.
        seconds: between two samples.
    """

    def __init__(self, log: Log, seconds: float) -> None:
        self._log, self._seconds = log, seconds
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
            self._monitors.append(GPUMonitor())
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="machine", daemon=True)
        self._thread.start()

    @classmethod
    def asked_for(cls, log: Log) -> Self | None:
        """One, if ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING`` is true; MLflow's own variable says how
        often."""
        if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            return None
        return cls(log, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or DEFAULT_SECONDS)

    def stop(self) -> None:
        """Takes no more samples."""
        self._stopped.set()
        self._thread.join(1.0)

    def _watch(self) -> None:
        step = 0
        while not self._stopped.wait(self._seconds):
            step += 1
            self._log(self._sample(), step, time.time())

    def _sample(self) -> Metrics:
        sample = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            for name, value in monitor.aggregate_metrics().items():
                sample[f"system/{name}"] = value
            # A monitor keeps its samples until it is told to forget them.
            monitor.clear_metrics()
        return sample
