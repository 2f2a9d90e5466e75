"""Where and how much: the places a search lies in, the cluster it runs on, and how it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from rich.console import Console

from robsearch import cluster
from robsearch.errors import InputError, refusal
from robsearch.search.result import Place
from robsearch.tracking import default_uri


@dataclass(frozen=True)
class Means:
    """Where and how much; nothing of science.

    Attributes:
        results: the results folder; by default ``ROBSEARCH_RESULTS``, else ``robsearch-results`` here.
        storage: an Optuna storage URL; by default a journal file in the search's folder.
        tracking: an MLflow URI; by default ``MLFLOW_TRACKING_URI``, else a sqlite file in the results folder.
        address: of a running Ray cluster (``auto``, ``HOST:PORT``); by default one on this machine.
        parallel: trainings at once; by default as many as the cluster has room for.
        gpus_per_trial: GPUs or a share of one; by default 1 where the cluster has any.
    """

    results: str | Path | None = None
    storage: str | None = None
    tracking: str | None = None
    address: str | None = None
    parallel: int | None = None
    gpus_per_trial: float | None = None

    @property
    def place(self) -> Place:
        """Where searches are kept."""
        return Place.of(self.results, self.storage)

    @property
    def bounds(self) -> dict[str, tuple[float | None, float]]:
        """The numbers among them, each with its least value."""
        return {"parallel": (self.parallel, 1), "gpus_per_trial": (self.gpus_per_trial, 0)}

    def uri(self, remembered: str | None = None) -> str:
        """The MLflow URI: as given, else as remembered from the launch, else from the environment."""
        found = [self.tracking, remembered, os.environ.get("MLFLOW_TRACKING_URI"), default_uri(self.place.results)]
        return next(uri for uri in found if uri)


class Stoppable(Protocol):
    """What a signal stops."""

    stopping: bool


def room(means: Means) -> tuple[int, cluster.Resources]:
    """How many jobs at once, and what each takes, on the connected cluster.

    Raises:
        InputError: there is no room for one.
    """
    cpus, gpus = cluster.total("CPU"), cluster.total("GPU")
    per_trial = means.gpus_per_trial if means.gpus_per_trial is not None else float(gpus >= 1)
    fits = int(min(cpus, gpus / per_trial) if per_trial else cpus)
    if not fits:
        got = f"a cluster of {cpus:g} CPUs and {gpus:g} GPUs"
        raise InputError(refusal(f"room for one trial (1 CPU, {per_trial:g} GPUs)", got, "lower --gpus-per-trial"))
    return min(means.parallel or fits, fits), cluster.Resources(1, per_trial)


@contextlib.contextmanager
def stops_on_signal(jobs: Stoppable, console: Console) -> Iterator[None]:
    """Ctrl-C, or a TERM, stops once and cleanly; a second Ctrl-C stops as Python does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        jobs.stopping = True
        console.print("stopping: waiting for the workers (Ctrl-C again to leave at once)")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
