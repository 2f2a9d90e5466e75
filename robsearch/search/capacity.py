"""The cluster that a search runs on: joining it, what fits on it, how a signal stops it, and how
many trials share a GPU."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import FrameType

from rich.console import Console

from robsearch import cluster
from robsearch.cluster import Job, JobQueue, Stoppable
from robsearch.drawing.formatting import names_of
from robsearch.errors import counted, refusal, refuse, refused
from robsearch.parts.schedules import Fixed
from robsearch.recipe import Recipe
from robsearch.search.grid import printer
from robsearch.search.options import AUTO, RunOptions
from robsearch.search.signals import handled
from robsearch.spaces import Space, suggestions
from robsearch.spaces.resources import Resources
from robsearch.trials.memory_probe import probe_memory
from robsearch.trials.trial import Report

WHOLE = Resources(1, 1)
"""What measuring for ``auto`` takes."""
SPARE = 1.1
"""The peak is taken this many times: other batches fragment memory otherwise."""
MOST = 64
"""Trials on one GPU: its memory may hold more, but they would only wait for each other."""
PROBE_RETRIES = 1
GRACE_SECONDS = 20.0
"""After a TERM, until running epochs are cut off: the notice before a machine is taken away may be
of 30 seconds."""


@contextlib.contextmanager
def joined(
    options: RunOptions,
    space: Space,
    folder: Path,
    recipes: Sequence[Recipe],
    console: Console,
) -> Iterator[None]:
    """A cluster to run a space on, after everything that only it can tell; one that is joined is
    named in a line.

    Args:
        options: where and how much.
        space: for each width of which there must be room.
        folder: that all nodes must share.
        recipes: such as trials will have; every node must be able to import what they are made of.
        console: where it is said.

    Raises:
        InputError: no cluster answers, or it has no room, or one of its nodes does not share the
            folder, or lacks a package that a trial imports.
    """
    # Workers may import a module that reads a search.
    variables = {"ROBSEARCH_RESULTS": str(options.store.results)}
    with cluster.connected(options.address, own_cpus(options, space), variables):
        if options.address:
            at = cluster.head_address()
            whose = f" of user {user}" if (user := cluster.user_of(at)) else ""
            printer(console)(f"joined the Ray cluster{whose} at {at}: {description()}")
        # The one node of a cluster that is joined may have another Python than this process.
        if options.address or cluster.node_count() > 1:
            cluster.check_nodes(folder, recipes)
        check_capacity(options, space)
        yield


def description() -> str:
    """What the connected cluster has, in words."""
    cpus = counted(cluster.total("CPU"), "CPU")
    gpus = counted(cluster.total("GPU"), "GPU")
    return f"{cpus}, {gpus} on {counted(cluster.node_count(), 'node')}"


def own_cpus(options: RunOptions, space: Space) -> int | None:
    """The CPUs of a Ray that is started on this machine: what ``parallel`` trials take; None for
    all there are.

    As ``parallel`` is explicit, these may be more than the machine has.
    """
    if options.parallel is None:
        return None
    most = 0.0
    for width in space.widths:
        resources = space.resources(width) if space.resources else Resources()
        if options.gpus is not None:
            resources = replace(resources, gpus=options.gpus)
        most = max(most, resources.cpus * resources.processes)
    return math.ceil(options.parallel * most)


def requested(space: Space, width: float) -> Resources:
    """What the space asks for at a width, by default one CPU and, where there are any, one GPU."""
    if space.resources:
        return space.resources(width)
    return Resources(1, float(cluster.total("GPU") >= 1))


def check_capacity(
    options: RunOptions, space: Space, shares: Mapping[float, float] | None = None
) -> dict[float, Resources]:
    """What a training of each width takes; refuses a space for which the connected cluster has no
    room.

    Args:
        options: an explicit ``gpus_per_trial`` has the last word over what the space asks for.
        space: that is searched.
        shares: of a GPU by width, as measured for ``auto``.

    Raises:
        InputError: there is no room for one trial of some width, or no GPU that ``auto`` could
            measure on.
    """
    problems = []
    by_width = {}
    if options.gpus_per_trial == AUTO and not cluster.capacity(WHOLE):
        do = "leave the option out to train on CPUs, or join a cluster that has GPUs (--address)"
        expected = "a GPU to measure on for --gpus-per-trial auto"
        problems.append(refusal(expected, description(), do))
    for width in space.widths:
        resources = requested(space, width)
        gpus = options.gpus
        if options.gpus_per_trial == AUTO:
            gpus = (shares or {}).get(width)
        if gpus is not None:
            resources = replace(resources, gpus=gpus)
        by_width[width] = resources
        if not cluster.capacity(resources):
            problems.append(_no_room(options, width, resources))
    refuse(problems)
    return by_width


def _no_room(options: RunOptions, width: float, resources: Resources) -> str:
    cpus = resources.cpus * resources.processes
    most_cpus = cluster.most_on_a_node("CPU")
    most_gpus = cluster.most_on_a_node("GPU")
    ways = []
    if resources.gpus > most_gpus:
        if options.gpus is not None:
            ways.append("lower --gpus-per-trial")
        else:
            ways.append("lower the GPUs of the space's resources")
    if cpus > most_cpus or not ways:
        ways.append("lower the CPUs (or workers) of the space's resources")
        if not options.address and options.parallel is None:
            ways.append("pass --parallel 1, for which the CPUs of this machine are shared")
    ways.append(f"join {'a larger' if options.address else 'a'} cluster with --address")
    wants = f"{counted(cpus, 'CPU')} and {counted(resources.gpus, 'GPU')}"
    expected = f"room on one node for a trial of width {width:g} ({wants})"
    got = f"at most {counted(most_cpus, 'CPU')} and {counted(most_gpus, 'GPU')} on a node"
    return refusal(expected, got, ", or ".join(ways))


def capacity(
    options: RunOptions, space: Space, shares: Mapping[float, float] | None = None
) -> tuple[int, dict[float, Resources]]:
    """How many jobs at once, and what those of each width take, on the connected cluster.

    Args:
        options: an explicit ``gpus_per_trial`` has the last word over what the space asks for.
        space: that is searched.
        shares: of a GPU by width, as measured for ``auto``; the others take what the space asks
            for.

    Raises:
        InputError: there is no room for one of some width, or ``auto`` where nothing was measured.
    """
    if options.gpus_per_trial == AUTO and shares is None:
        do = "pass a number: auto measures training, not other attacks"
        raise refused("--gpus-per-trial as a number here", AUTO, do)
    resources = check_capacity(options, space, shares)
    return jobs_at_once(options, resources), resources


def jobs_at_once(
    options: RunOptions,
    resources: Mapping[float, Resources],
    joining: cluster.JoiningNodes | None = None,
) -> int:
    """How many jobs the connected cluster has room for by now, of what those of each width take; at
    most as many as are allowed, and 0 where its nodes are gone. Nodes that joined and get no jobs
    do not count."""
    without = joining.without_jobs if joining else ()
    most = max(cluster.capacity(of_width, without) for of_width in resources.values())
    return min(options.parallel or most, most)


# --- how a signal stops what runs there ---


@contextlib.contextmanager
def stops_on_signal(
    jobs: Stoppable, console: Console, drain: Callable[[float], None] | None = None
) -> Iterator[None]:
    """Ctrl-C, or a TERM, stops once and cleanly; a second Ctrl-C stops as Python does.

    Args:
        jobs: what is stopped.
        console: where it is said.
        drain: is called at the first TERM, as of a machine that is about to be taken away, with the
            seconds that running epochs have to end; by default they have none.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and drain is not None:
            signal.signal(signal.SIGTERM, stop_now)
            drain(GRACE_SECONDS)
            console.print(
                f"stopping: running epochs have {GRACE_SECONDS:g} s to end (again: at once)"
            )
            return
        stop_now(number, frame)

    def stop_now(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        jobs.stopping = True
        console.print("stopping: waiting for the workers (Ctrl-C again to leave at once)")

    with handled(stop, signal.SIGINT, signal.SIGTERM):
        yield


# --- --gpus-per-trial auto: how many trials share a GPU, by the memory that one of them takes ---


@dataclass(frozen=True)
class MemoryNeed:
    """What a trial takes of a GPU's memory, in GiB, as measured on a whole one.

    Attributes:
        training: the peak of an optimiser step.
        peak: that of training and judging.
        context: beside the tensors: the CUDA context, and other programs on the GPU.
        total: all the memory of the smallest GPU that was measured on.
        micro_batch: images of a batch at a time, fewer than ``batch`` where a batch does not even
            fit into the memory of a whole GPU.
        batch: images per optimiser step.
    """

    training: float
    peak: float
    context: float
    total: float
    micro_batch: float
    batch: int

    @property
    def gib(self) -> float:
        """What is set aside for it: its context, and its peak with something to spare."""
        return SPARE * self.peak + self.context

    @property
    def per_gpu(self) -> int:
        """How many such trials share a GPU; one has it for itself also if there is nothing to
        spare."""
        return max(1, min(MOST, int(self.total / self.gib)))


def measure_gpu_shares(
    options: RunOptions, space: Space, folder: Path, owner: Stoppable, console: Console
) -> dict[float, float]:
    """Tries a step of each width on a GPU of the connected cluster, and says what was measured, one
    line a width.

    A width for which the space asks for no GPU, or for several, is left as it is. Tried are the
    recipes that ``check`` draws there, those that differ only in lambda and seed once; the largest
    decides.

    Args:
        options: how long a probe may be silent.
        space: that is searched.
        folder: of the search.
        owner: of the search; when it stops, so does this.
        console: where it is said.

    Returns:
        The share of a GPU for one trial of each width that was measured: none where it was stopped
        before.

    Raises:
        InputError: training or judging fails on a whole one; names the widths. Or the space trains
            by a loop of its user's own, of which no single step can be tried.
    """
    say = printer(console)
    say("--gpus-per-trial auto: trying a step of each width on a whole GPU")
    resources = {width: requested(space, width) for width in space.widths}
    recipes = distinct_recipes(space)
    refuse(_loop_problems(recipes))
    names = names_of(recipes)
    jobs: dict[float, list[Job]] = {}
    for width, of_width in recipes.items():
        if 0 < resources[width].gpus <= 1:
            jobs[width] = []
            for i, recipe in enumerate(of_width):
                name = f"memory probe of w{names[width]}, {i}"
                jobs[width].append(Job(name, probe_memory, recipe, folder, WHOLE))
    probes = JobQueue(chain.from_iterable(jobs.values()), owner)
    cluster.run(probes, folder, PROBE_RETRIES, options.hang_after, say)
    if owner.stopping:
        return {}
    needs = _needs(jobs, probes)
    for width, need in needs.items():
        shared = replace(resources[width], gpus=1 / need.per_gpu)
        at_once = cluster.capacity(shared)
        # With hardly any CPU, so that GPUs alone are the limit.
        on_gpus = cluster.capacity(replace(shared, cpus=min(shared.cpus, 1e-3)))
        say(need_line(width, need, shared.cpus, at_once, on_gpus))
    kinds = cluster.gpu_kinds()
    if len(kinds) > 1 and needs:
        smallest = min(need.total for need in needs.values())
        suited = f"the shares suit those of {smallest:.1f} GiB or more"
        smaller = "on smaller ones training goes on in micro-batches"
        say(f"GPUs of several kinds ({', '.join(kinds)}): {suited}; {smaller}")
    return {width: 1 / need.per_gpu for width, need in needs.items()}


def need_line(width: float, need: MemoryNeed, cpus: float, at_once: int, on_gpus: int) -> str:
    """What was measured at a width, and how many trials that lets run.

    Args:
        width: of the net.
        need: what was measured.
        cpus: of one trial.
        at_once: how many trials fit on the cluster.
        on_gpus: how many would if there were no end of CPUs.
    """
    text = (
        f"width {width:g}: {need.peak:.1f} GiB (training {need.training:.1f}) and "
        f"{need.context:.1f} beside it of {need.total:.1f} GiB"
    )
    if need.micro_batch < need.batch:
        text += f", with {need.micro_batch:g} of {counted(need.batch, 'image')} at a time"
    text += f": {need.per_gpu} trials share a GPU" if need.per_gpu > 1 else ": a GPU for each trial"
    if at_once < on_gpus:
        each = counted(cpus, "CPU")
        text += f"; CPUs are the limit: {at_once} at once, not {on_gpus}, with {each} each"
    return text


def _needs(jobs: Mapping[float, list[Job]], probes: JobQueue) -> dict[float, MemoryNeed]:
    """By width, the largest need, on the smallest GPU that any was measured on.

    Args:
        jobs: that probed, by width.
        probes: that did them.

    Raises:
        InputError: what failed, one sentence per width.
    """
    measured: dict[float, list[MemoryNeed]] = {}
    problems: dict[float, str] = {}
    for width, of_width in jobs.items():
        for job in of_width:
            report = probes.ended.get(job.name, Report())
            if job.name in probes.broken:
                expected = f"a training step and a judging of width {width:g} on a whole GPU"
                do = "correct the space, or see what its trials say without auto"
                problems[width] = refusal(expected, probes.broken[job.name], do)
            elif report.ended == "COMPLETE":
                need = MemoryNeed(**report.test, batch=job.recipe.batch_size)
                measured.setdefault(width, []).append(need)
            else:
                problems[width] = f"at width {width:g}: {report.reason}"
    refuse([problems[width] for width in sorted(problems)])
    smallest = min((need.total for needs in measured.values() for need in needs), default=0.0)
    largest = {}
    for width, needs in sorted(measured.items()):
        need = max(needs, key=lambda need: need.gib)
        largest[width] = replace(need, total=smallest)
    return largest


def _loop_problems(recipes: Mapping[float, Sequence[Recipe]]) -> Iterator[str]:
    loops = [recipe.loop for recipe in chain.from_iterable(recipes.values()) if recipe.loop]
    for kind in dict.fromkeys(type(loop).__name__ for loop in loops):
        expected = f"--gpus-per-trial as a number for {kind}, of which no single step can be tried"
        yield refusal(
            expected, "auto", "pass the share of a GPU that a training needs, such as 0.5"
        )


def distinct_recipes(space: Space) -> dict[float, list[Recipe]]:
    """By width, the recipes drawn there without those that differ from another in lambda and seed
    only."""
    by_width: dict[float, dict[str, Recipe]] = {}
    for draw in suggestions(space):
        # Neither lambda nor the seed changes what a step takes.
        key = repr(replace(draw.recipe, lam=Fixed(1.0), seed=0))
        by_width.setdefault(draw.width, {}).setdefault(key, draw.recipe)
    return {width: list(recipes.values()) for width, recipes in by_width.items()}
