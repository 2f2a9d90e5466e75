"""The connected cluster's nodes: their capacity, and whether they see the same results folder."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from robsearch.errors import refusal, refuse, refused
from robsearch.spaces.resources import Resources

SHARED_SECONDS = 60
"""How long all nodes together have to write into the results folder: a node's first worker starts
in some seconds."""
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


def capacity(resources: Resources) -> int:
    """How many such jobs fit on the empty cluster at once: a job lies on one node, and a share of a
    GPU on one GPU."""
    return sum(jobs_on(node["Resources"], resources) for node in _nodes())


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


def check_shared(folder: Path) -> None:
    """Sees that every node that can run jobs reads and writes the same folder, and can import
    robsearch.

    Each node reads a token that the driver wrote, and writes one that the driver reads.

    Args:
        folder: exists on the driver; not resolved, so that each node follows its own links.

    Raises:
        InputError: one sentence per node that sees another folder, cannot write it, or does not
            answer.
    """
    folder = folder.absolute()
    token = uuid.uuid4().hex
    exchange = folder / f".shared-{token}"
    try:
        exchange.mkdir(parents=True)
    except OSError as error:
        raise refused(f"to write in {folder}", error, DO) from error
    try:
        (exchange / "driver").write_text(token)
        nodes = _nodes()
        answers = [_ask(exchange, node["NodeID"]) for node in nodes]
        ray.wait(answers, num_returns=len(answers), timeout=SHARED_SECONDS)
        refusals = []
        for node, answer in zip(nodes, answers, strict=True):
            problem = _problem(answer, exchange / node["NodeID"], token)
            if problem:
                label = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, "
                label += f"{node['NodeID'][:8]})"
                refusals.append(refusal(f"node {label} to share {folder}", problem, DO))
    finally:
        shutil.rmtree(exchange, ignore_errors=True)
    refuse(refusals)


def _ask(exchange: Path, node: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    task: Any = ray.remote(_answer)
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(exchange, node)


def _answer(exchange: Path, node: str) -> str | None:
    """On a node: what is wrong, or None if the driver's token was there and now lies in a file
    named like the node."""
    try:
        (exchange / node).write_text((exchange / "driver").read_text())
    except FileNotFoundError:
        return ELSEWHERE
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return None


def _problem(answer: Any, file: Path, token: str) -> str | None:
    try:
        problem: str | None = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {SHARED_SECONDS} s"
    except Exception as error:  # the node cannot import robsearch, or died: Ray says so
        return str(error).strip().splitlines()[-1]
    shared = file.exists() and file.read_text() == token
    return problem or (None if shared else ELSEWHERE)
