"""The connected cluster's nodes: how much room they have, and whether they see the same results folder."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from robsearch.errors import InputError, refusal
from robsearch.resources import Resources

SHARED_SECONDS = 60
"""How long all nodes together have to write into the results folder: a node's first worker starts in some seconds."""
ELSEWHERE = "another folder there"


def total(resource: str) -> float:
    """How many of a resource (``CPU``, ``GPU``) the connected cluster has."""
    return float(ray.cluster_resources().get(resource, 0))


def most(resource: str) -> float:
    """How many of a resource the connected node that has most of it has."""
    return max((float(node["Resources"].get(resource, 0)) for node in _nodes()), default=0.0)


def node_count() -> int:
    """How many living nodes can run jobs."""
    return len(_nodes())


def slots(resources: Resources) -> int:
    """How many such jobs fit on the empty cluster at once: a job lies on one node, and a share of a GPU on one GPU."""
    return sum(_fits(node["Resources"], resources) for node in _nodes())


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def _fits(has: dict[str, float], takes: Resources) -> int:
    room = [has.get("CPU", 0) / (takes.cpus * takes.processes)]
    if takes.gpus:
        gpus = has.get("GPU", 0)
        room.append(int(gpus) * int(1 / takes.gpus + 1e-9) if takes.gpus < 1 else gpus / takes.gpus)
    return int(min(room) + 1e-9)


def check_shared(folder: Path) -> None:
    """Sees that every node that can run jobs reads and writes the same folder, and can import robsearch.

    Each node reads a token that the driver wrote, and writes one that the driver reads.

    Args:
        folder: exists on the driver; not resolved, so that each node follows its own links.

    Raises:
        InputError: one sentence per node that sees another folder, cannot write it, or does not answer.
    """
    nodes, folder, token = _nodes(), folder.absolute(), uuid.uuid4().hex
    place = folder / f".shared-{token}"
    do = "put the results on storage that is mounted at the same path on every node (--results)"
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise InputError(refusal(f"to write in {folder}", error, do)) from error
    try:
        (place / "driver").write_text(token)
        seen = {node["NodeID"]: _exchange(place, node["NodeID"]) for node in nodes}
        ray.wait(list(seen.values()), num_returns=len(seen), timeout=SHARED_SECONDS)
        problems = {_label(node): _problem(seen[node["NodeID"]], place / node["NodeID"], token) for node in nodes}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    wrong = [refusal(f"node {label} to share {folder}", problem, do) for label, problem in problems.items() if problem]
    if wrong:
        raise InputError(*wrong)


def _label(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"


def _exchange(place: Path, node: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    task: Any = ray.remote(_answer)
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(place, node)


def _answer(place: Path, node: str) -> str | None:
    """On a node: what is wrong, or None if the driver's token was there and now lies in a file named like the node."""
    try:
        (place / node).write_text((place / "driver").read_text())
    except FileNotFoundError:
        return ELSEWHERE
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return None


def _problem(answer: Any, file: Path, token: str) -> str | None:
    try:
        said: str | None = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {SHARED_SECONDS} s"
    except Exception as error:  # the node cannot import robsearch, or died: Ray says so
        return str(error).strip().splitlines()[-1]
    return said or (None if file.exists() and file.read_text() == token else ELSEWHERE)
