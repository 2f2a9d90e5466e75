"""Where and how much: the places a search lies in, the cluster it runs on, and how it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol

from rich.console import Console

from robsearch import cluster
from robsearch.errors import InputError, refusal, refuse_unless
from robsearch.paths import absolute
from robsearch.resources import Resources
from robsearch.search.result import Place
from robsearch.spaces import Space
from robsearch.study import SearchRecord, without_password
from robsearch.tracking import default_uri, exact, found_again, shown, to_remember

AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True)
class Means:
    """Where and how much; nothing of science.

    Attributes:
        results: the results folder; by default ``ROBSEARCH_RESULTS``, else ``robsearch-results`` here.
        storage: an Optuna storage URL; by default a journal file in the search's folder.
        tracking: an MLflow URI; by default ``MLFLOW_TRACKING_URI``, else a sqlite file in the results folder.
        address: of a running Ray cluster (``auto``, ``HOST:PORT``); by default one on this machine.
        parallel: trainings at once; by default as many as the cluster has room for.
        gpus_per_trial: GPUs or a share of one; ``auto`` for the share that a trial's memory needs, measured at each
            width before the search begins; by default what the space asks for, else 1 where the cluster has any.
        hang_after: seconds without a report after which a trial counts as hung and its worker is started again,
            but never less than five times the longest time between two reports so far; None: never.
        disk_budget: GiB that the weights of this search may take; above it, those of finished and measured trials
            go, worst first, never the best of a width. None: no limit.
        models: whether the best network of each width is exported as an MLflow model when the search ends; that takes
            some seconds each, and ``robsearch promote`` can do it later.

    Raises:
        InputError: ``gpus_per_trial`` is a word other than ``auto``.
    """

    results: str | Path | None = None
    storage: str | None = None
    tracking: str | None = None
    address: str | None = None
    parallel: int | None = None
    gpus_per_trial: float | Literal["auto"] | None = None
    hang_after: float | None = 7200.0
    disk_budget: float | None = None
    models: bool = True

    def __post_init__(self) -> None:
        if self.results is not None:  # once: the process may go to another folder meanwhile
            object.__setattr__(self, "results", absolute(self.results))
        gpus = self.gpus_per_trial
        known = gpus == AUTO or not isinstance(gpus, str)
        refuse_unless((known, "--gpus-per-trial as a number or auto", repr(gpus), "pass such as 1, 0.25 or auto"))

    @property
    def place(self) -> Place:
        """Where searches are kept."""
        return Place.of(self.results, self.storage)

    @property
    def bounds(self) -> dict[str, tuple[float | None, float]]:
        """The numbers among them, each with its least value."""
        gpus = None if isinstance(self.gpus_per_trial, str) else self.gpus_per_trial
        least = {"parallel": (self.parallel, 1), "gpus_per_trial": (gpus, 0)}
        return {**least, "hang_after": (self.hang_after, 1), "disk_budget": (self.disk_budget, 0)}

    def uri(self, remembered: str | None = None) -> str:
        """The MLflow URI: as given, else as remembered from the launch, else from the environment.

        What is remembered has no password; where the environment has the same URI with one, that is meant.
        """
        around = os.environ.get("MLFLOW_TRACKING_URI")
        same = around if around and shown(around) == remembered else None
        given = next((uri for uri in (self.tracking, same, remembered, around) if uri), None)
        return exact(given) if given else default_uri(self.place.results)

    def uri_of(self, record: SearchRecord) -> str:
        """The MLflow URI of an existing search: as given, else as it remembers, where its results lie now."""
        return self.uri(found_again(record.tracking, record.name, self.place.results))

    @property
    def to_remember(self) -> str:
        """What a new search remembers of the MLflow URI: no password, and no path of the default store."""
        return without_password(to_remember(self.uri(), self.place.results))


class Stoppable(Protocol):
    """What a signal stops."""

    stopping: bool


def room(means: Means, space: Space, shares: Mapping[float, float] | None = None) -> tuple[int, dict[float, Resources]]:
    """How many jobs at once, and what those of each width take, on the connected cluster.

    Args:
        means: an explicit ``gpus_per_trial`` has the last word over what the space asks for.
        space: that is searched.
        shares: of a GPU by width, as measured for ``auto``; the others take what the space asks for.

    Raises:
        InputError: there is no room for one of some width, or ``auto`` where nothing was measured.
    """
    if means.gpus_per_trial == AUTO and shares is None:
        do = "pass a number: auto measures training, not other attacks"
        raise InputError(refusal("--gpus-per-trial as a number here", AUTO, do))
    takes = {width: _resources(means, space, width, shares or {}) for width in space.widths}
    fits = {width: cluster.slots(resources) for width, resources in takes.items()}
    nodes = cluster.node_count()
    got = f"{cluster.total('CPU'):g} CPUs and {cluster.total('GPU'):g} GPUs on {nodes} node{'s' * (nodes != 1)}"
    do = "lower --gpus-per-trial, or the space's resources"
    problems = [
        refusal(f"room on one node for a trial of width {width:g} ({one.cpus:g} CPUs, {one.gpus:g} GPUs)", got, do)
        for width, one in takes.items()
        if not fits[width]
    ]
    if problems:
        raise InputError(*problems)
    most = max(fits.values())
    return min(means.parallel or most, most), takes


def asked(space: Space, width: float) -> Resources:
    """What the space asks for at a width, by default one CPU and, where there are any, one GPU."""
    return space.resources(width) if space.resources else Resources(1, float(cluster.total("GPU") >= 1))


def _resources(means: Means, space: Space, width: float, shares: Mapping[float, float]) -> Resources:
    gpus = means.gpus_per_trial
    share = shares.get(width) if isinstance(gpus, str) else gpus
    return asked(space, width) if share is None else replace(asked(space, width), gpus=share)


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
