"""The only door to Ray: places jobs on workers, retries those whose process died, and passes
reports on."""

from robsearch.cluster.connection import (
    asks_for_token,
    check_address,
    connected,
    head_address,
    user_of,
)
from robsearch.cluster.jobs import Job, JobQueue, Jobs, Stoppable, Work
from robsearch.cluster.joining import JoiningNodes
from robsearch.cluster.node_probe import installed_version
from robsearch.cluster.nodes import (
    Node,
    NodeAnswer,
    capacity,
    check_nodes,
    examine_nodes,
    gpu_kinds,
    most_on_a_node,
    node_count,
    node_problems,
    total,
)
from robsearch.cluster.running import run

__all__ = [
    "Job",
    "JobQueue",
    "Jobs",
    "JoiningNodes",
    "Node",
    "NodeAnswer",
    "Stoppable",
    "Work",
    "asks_for_token",
    "capacity",
    "check_address",
    "check_nodes",
    "connected",
    "examine_nodes",
    "gpu_kinds",
    "head_address",
    "installed_version",
    "most_on_a_node",
    "node_count",
    "node_problems",
    "run",
    "total",
    "user_of",
]
