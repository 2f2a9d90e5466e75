"""The only door to Ray: places jobs on workers, retries those whose process died, and passes
reports on."""

from robsearch.cluster.connection import check_address, connected, head_address, user_of
from robsearch.cluster.jobs import Job, JobQueue, Jobs, Stoppable, Work
from robsearch.cluster.nodes import (
    capacity,
    check_shared,
    gpu_kinds,
    most_on_a_node,
    node_count,
    total,
)
from robsearch.cluster.running import run

__all__ = [
    "Job",
    "JobQueue",
    "Jobs",
    "Stoppable",
    "Work",
    "capacity",
    "check_address",
    "check_shared",
    "connected",
    "gpu_kinds",
    "head_address",
    "most_on_a_node",
    "node_count",
    "run",
    "total",
    "user_of",
]
