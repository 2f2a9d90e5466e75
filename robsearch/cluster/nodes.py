"""The connected cluster's nodes: their capacity, and what each says when it is asked: whether it
sees the same results folder, and has what jobs import."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from robsearch.cluster import node_probe
from robsearch.data import check_source
from robsearch.errors import refusal, refuse, refused
from robsearch.recipe import Recipe
from robsearch.spaces.resources import Resources

ANSWER_SECONDS = 120
"""How long all nodes together have to import torch and write into the results folder: a shared
installation is slow the first time."""
EXAMINE_SECONDS = 60
"""How long they have for ``doctor``."""
CLOCK_SECONDS = 10
"""How long they have to tell the time, once they have answered."""
INSTALL = "install it there as it is here, or put it on storage that all nodes share"
ELSEWHERE = "another folder there"
DO = "put the results on storage that is mounted at the same path on every node (--results)"


def total(resource: str) -> float:
    """How many of a resource (``CPU``, ``GPU``) the connected cluster has."""
    return float(ray.cluster_resources().get(resource, 0))


def most_on_a_node(resource: str) -> float:
    """How many of a resource the connected node that has most of it has."""
    return max((float(node["Resources"].get(resource, 0)) for node in _nodes()), default=0.0)


def node_count() -> int:
    """How many living nodes can run jobs."""
    return len(_nodes())


def gpu_kinds() -> list[str]:
    """The kinds of GPU in the connected cluster, as Ray names them, such as ``H100``; it does not
    know their memory."""
    prefix = "accelerator_type:"
    names = ray.cluster_resources()
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def capacity(resources: Resources, without: Sequence[str] = ()) -> int:
    """How many such jobs fit on the empty cluster at once: a job lies on one node, and a share of a
    GPU on one GPU. Nodes of the numbers ``without`` do not count."""
    return sum(
        jobs_on(node["Resources"], resources) for node in _nodes() if node["NodeID"] not in without
    )


def living_nodes() -> set[str]:
    """Ray's numbers of the living nodes that can run jobs."""
    return {node["NodeID"] for node in _nodes()}


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def jobs_on(node: dict[str, float], resources: Resources) -> int:
    """How many jobs of these resources fit on a node that has so many ``CPU`` and ``GPU``."""
    jobs = node.get("CPU", 0) / (resources.cpus * resources.processes)
    # A share lies on one GPU, so what is left over on several does not add up.
    share = resources.gpus
    gpus = node.get("GPU", 0)
    if share >= 1:
        jobs = min(jobs, gpus / share)
    elif share:
        jobs = min(jobs, int(gpus) * int(1 / share + 1e-9))
    # Shares such as 1/3 are not exact, so a whole number may lie just below itself.
    return int(jobs + 1e-9)


@dataclass(frozen=True)
class Node:
    """A living node that can run jobs.

    Attributes:
        identity: Ray's number of it.
        label: how a person knows it: host name, address and the beginning of the number.
        address: at which others reach it.
        gpus: as Ray counts them.
    """

    identity: str
    label: str
    address: str
    gpus: float


@dataclass(frozen=True)
class NodeAnswer:
    """What a node said of itself.

    Attributes:
        node: which.
        facts: see ``node_probe``; None if there was no answer.
        problem: why there was none; None if there was.
        skew: seconds by which its clock is ahead of the driver's, and how far off that may be; None
            where it was not asked, or answered too late.
    """

    node: Node
    facts: dict[str, Any] | None
    problem: str | None = None
    skew: tuple[float, float] | None = None


def check_nodes(folder: Path, recipes: Sequence[Recipe] = ()) -> None:
    """Sees that every node that can run jobs reads and writes the same folder, and can import all
    that a job takes.

    Each node reads a token that the driver wrote, and writes one that the driver reads.

    Args:
        folder: exists on the driver; not resolved, so that each node follows its own links.
        recipes: that jobs will be given.

    Raises:
        InputError: one sentence per node that sees another folder, cannot write it, lacks a package
            (names it), or does not answer.
    """
    problems = []
    for answer in ask_nodes(folder, recipes, living_nodes()):
        problems += node_problems(answer, folder)
    refuse(problems)


def ask_nodes(folder: Path, recipes: Sequence[Recipe], among: set[str]) -> list[NodeAnswer]:
    """What ``check_nodes`` asks, of the living nodes of these numbers, at the same time.

    Args:
        folder: exists on the driver; not resolved, so that each node follows its own links.
        recipes: that jobs will be given.
        among: Ray's numbers of the nodes.

    Raises:
        InputError: the driver cannot write in the folder.
    """
    carried = cloudpickle.dumps(partial(receive, recipes))
    nodes = [node for node in map(_node, _nodes()) if node.identity in among]
    return _asked(
        nodes, folder.absolute(), node_probe.answer, lambda node: (carried,), ANSWER_SECONDS
    )


def examine_nodes(
    folder: Path, packages: Sequence[str], recipes: Sequence[Recipe]
) -> list[NodeAnswer]:
    """All that a node can say of itself, from every node that can run jobs, at the same time.

    Args:
        folder: for results, on the driver; it exists.
        packages: whose versions are wanted.
        recipes: such as trials will have: what they import is tried, and where their data is there
            is the fact ``result``.

    Raises:
        InputError: the driver cannot write in the folder.
    """
    # Without recipes no node imports torch, which takes seconds.
    carried = cloudpickle.dumps(partial(sources, recipes)) if recipes else None
    answers = _asked(
        [_node(node) for node in _nodes()],
        folder.absolute(),
        node_probe.thorough_answer,
        lambda node: (carried, packages, node.gpus),
        EXAMINE_SECONDS,
    )
    skews = _clock_skews([answer.node for answer in answers if answer.facts is not None])
    return [replace(answer, skew=skews.get(answer.node)) for answer in answers]


def node_problems(answer: NodeAnswer, folder: Path) -> list[str]:
    """A sentence for each thing for which no job could run on a node."""
    label = f"node {answer.node.label}"
    folder = folder.absolute()
    if answer.facts is None:
        do = (
            "see the newest worker-*.err in session_latest/logs of its Ray's temporary folder, or "
            "end that node"
        )
        return [refusal(f"{label} to answer", answer.problem, do)]
    facts = answer.facts
    problems = []
    if facts["lacking"]:
        lacking = f"no module named {facts['lacking']!r}"
        problems.append(refusal(f"{label} to import what a trial takes", lacking, INSTALL))
    if facts["error"]:
        problems.append(refusal(f"{label} to take a trial", facts["error"], "see what it names"))
    if facts["sharing"]:
        problems.append(refusal(f"{label} to share {folder}", facts["sharing"], DO))
    return problems


def sources(recipes: Sequence[Recipe]) -> str:
    """Where this node would take the data of recipes from. Raises InputError as
    ``robsearch.data.check_source`` does."""
    datasets = dict.fromkeys(recipe.resolved_data for recipe in recipes)
    return ", ".join(map(check_source, datasets))


def receive(recipes: Sequence[Recipe]) -> None:
    """Nothing: a node that can call it has imported what jobs import before they begin."""


def _asked(
    nodes: Sequence[Node],
    folder: Path,
    function: Callable[..., dict[str, Any]],
    more: Callable[[Node], tuple[Any, ...]],
    seconds: float,
) -> list[NodeAnswer]:
    """Calls a function of ``node_probe`` on some nodes at the same time; waits for so many seconds
    at most.

    Its first arguments are a folder that the driver shares and the node's number, then ``more``.
    """
    token = uuid.uuid4().hex
    exchange = folder / f".shared-{token}"
    try:
        exchange.mkdir(parents=True)
    except OSError as error:
        raise refused(f"to write in {folder}", error, DO) from error
    try:
        (exchange / "driver").write_text(token)
        pending = []
        with _sent_by_value():
            for node in nodes:
                task = _task_on(node, function)
                pending.append(task.remote(exchange, node.identity, *more(node)))
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=seconds)
        answers = [_received(*pair, seconds) for pair in zip(nodes, pending, strict=True)]
        for answer in answers:
            file = exchange / answer.node.identity
            if answer.facts and not answer.facts["sharing"]:
                is_same = file.exists() and file.read_text() == token
                answer.facts["sharing"] = None if is_same else ELSEWHERE
        return answers
    finally:
        shutil.rmtree(exchange, ignore_errors=True)


def _node(node: dict[str, Any]) -> Node:
    identity = node["NodeID"]
    address = node["NodeManagerAddress"]
    label = f"{node['NodeManagerHostname']} ({address}, {identity[:8]})"
    return Node(identity, label, address, float(node["Resources"].get("GPU", 0)))


@contextlib.contextmanager
def _sent_by_value() -> Iterator[None]:
    """Tasks of ``node_probe`` that are submitted here run also where robsearch is not installed."""
    cloudpickle.register_pickle_by_value(node_probe)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(node_probe)


def _task_on(node: Node, function: Callable[..., Any]) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id=node.identity, soft=False)
    task: Any = ray.remote(function)
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=there)


def _received(node: Node, answer: Any, seconds: float) -> NodeAnswer:
    try:
        return NodeAnswer(node, ray.get(answer, timeout=0))
    except ray.exceptions.GetTimeoutError:
        # It would hold a worker there for as long as the driver lives.
        ray.cancel(answer, force=True)
        return NodeAnswer(node, None, f"no answer within {seconds:g} s")
    except Exception as error:  # the node died, or cannot run a task: Ray says so
        return NodeAnswer(node, None, str(error).strip().splitlines()[-1])


def _clock_skews(nodes: Sequence[Node]) -> dict[Node, tuple[float, float]]:
    """Seconds by which the clock of each node that answers is ahead, and how far off that may be:
    half of the time that its answer took."""
    pending = {}
    with _sent_by_value():
        for node in nodes:
            sent = time.time()
            pending[_task_on(node, node_probe.clock).remote()] = node, sent
    end = time.monotonic() + CLOCK_SECONDS
    skews = {}
    while pending:
        ready, _ = ray.wait(list(pending), timeout=max(0.0, end - time.monotonic()))
        if not ready:
            break
        received = time.time()
        node, sent = pending.pop(ready[0])
        with contextlib.suppress(Exception):  # it died just now
            skews[node] = ray.get(ready[0]) - (sent + received) / 2, (received - sent) / 2
    return skews
