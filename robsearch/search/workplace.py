"""Where and how much: the places a search lies in, the cluster it runs on, and how it is stopped."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, TypeVar, cast

from rich.console import Console

from robsearch import cluster
from robsearch.errors import InputError, refusal, refuse_unless
from robsearch.paths import absolute
from robsearch.resources import Resources
from robsearch.search.place import Place
from robsearch.spaces import Space
from robsearch.study import SearchRecord, without_password
from robsearch.tracking import default_uri, exact, found_again, shown, to_remember
from robsearch.wording import counted

AUTO: Literal["auto"] = "auto"
WHOLE = Resources(1, 1)
"""What measuring for ``auto`` takes."""

Call = TypeVar("Call", bound=Callable[..., Any])


@dataclass(frozen=True)
class Means:
    """Where and how much; nothing of science.

    Attributes:
        results: the results folder; by default ``ROBSEARCH_RESULTS``, else ``robsearch-results`` here.
        storage: an Optuna storage URL; by default ``ROBSEARCH_STORAGE``, else a journal file in the search's folder.
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


def in_place(call: Call) -> Call:
    """A call with the keyword ``means``: a space that it asks, and that names no place, means that of the call."""

    @functools.wraps(call)
    def placed(*args: Any, **options: Any) -> Any:
        with (options.get("means") or Means()).place.current():
            return call(*args, **options)

    return cast("Call", placed)


@contextlib.contextmanager
def joined(means: Means, space: Space, folder: Path, console: Console) -> Iterator[None]:
    """A cluster to run a space on, after everything that only it can tell; one that is joined is named in a line.

    Args:
        means: where and how much.
        space: for each width of which there must be room.
        folder: that all nodes must share.
        console: where it is said.

    Raises:
        InputError: no cluster answers, or it has no room, or one of its nodes does not share the folder.
    """
    variables = {"ROBSEARCH_RESULTS": str(means.place.results)}  # workers may import a module that reads a search
    with cluster.connected(means.address, cpus_of_own(means, space), variables):
        nodes = cluster.node_count()
        if means.address:
            console.print(f"joined the Ray cluster at {cluster.at()}: {has()}", soft_wrap=True, highlight=False)
        if nodes > 1:
            cluster.check_shared(folder)
        check_room(means, space)
        yield


def has() -> str:
    """What the connected cluster has, in words."""
    nodes, cpus, gpus = cluster.node_count(), cluster.total("CPU"), cluster.total("GPU")
    return f"{counted(cpus, 'CPU')}, {counted(gpus, 'GPU')} on {counted(nodes, 'node')}"


def cpus_of_own(means: Means, space: Space) -> int | None:
    """The CPUs of a Ray that is started on this machine: what ``parallel`` trials take; None for all there are.

    As ``parallel`` is explicit, these may be more than the machine has.
    """
    if means.parallel is None:
        return None
    takes = [space.resources(width) if space.resources else Resources() for width in space.widths]
    if means.gpus_per_trial is not None and not isinstance(means.gpus_per_trial, str):
        takes = [replace(one, gpus=means.gpus_per_trial) for one in takes]
    return math.ceil(means.parallel * max(one.cpus * one.processes for one in takes))


def check_room(means: Means, space: Space, shares: Mapping[float, float] | None = None) -> None:
    """Refuses a space that the connected cluster has no room for.

    Args:
        means: an explicit ``gpus_per_trial`` has the last word over what the space asks for.
        space: that is searched.
        shares: of a GPU by width, as measured for ``auto``.

    Raises:
        InputError: there is no room for one trial of some width, or no GPU that ``auto`` could measure on.
    """
    problems = []
    if means.gpus_per_trial == AUTO and not cluster.slots(WHOLE):
        do = "leave the option out to train on CPUs, or join a cluster that has GPUs (--address)"
        problems.append(refusal("a GPU to measure on for --gpus-per-trial auto", has(), do))
    for width in space.widths:
        takes = _resources(means, space, width, shares or {})
        if not cluster.slots(takes):
            problems.append(_no_room(means, width, takes))
    if problems:
        raise InputError(*problems)


def _no_room(means: Means, width: float, takes: Resources) -> str:
    cpus = takes.cpus * takes.processes
    wants = f"{counted(cpus, 'CPU')} and {counted(takes.gpus, 'GPU')}"
    got = f"at most {counted(cluster.most('CPU'), 'CPU')} and {counted(cluster.most('GPU'), 'GPU')} on a node"
    ways = []
    if takes.gpus > cluster.most("GPU"):
        given = means.gpus_per_trial is not None and means.gpus_per_trial != AUTO
        ways.append("lower --gpus-per-trial" if given else "lower the GPUs of the space's resources")
    if cpus > cluster.most("CPU") or not ways:
        ways.append("lower the CPUs (or workers) of the space's resources")
        if not means.address and means.parallel is None:
            ways.append("pass --parallel 1, for which the CPUs of this machine are shared")
    ways.append(f"join {'a larger' if means.address else 'a'} cluster with --address")
    do = ", or ".join(ways)
    return refusal(f"room on one node for a trial of width {width:g} ({wants})", got, do)


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
    check_room(means, space, shares)
    takes = {width: _resources(means, space, width, shares or {}) for width in space.widths}
    most = max(cluster.slots(one) for one in takes.values())
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
