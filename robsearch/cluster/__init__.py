"""The only door to Ray: places jobs on workers, retries those whose process died, and passes reports on."""

from __future__ import annotations

import os

# read by Ray when it is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(10**9))

from robsearch.cluster.connection import at, connected
from robsearch.cluster.device import gpu_kinds
from robsearch.cluster.finding import check_address
from robsearch.cluster.jobs import Job, Jobs, Work
from robsearch.cluster.nodes import check_shared, most, node_count, slots, total
from robsearch.cluster.running import run
from robsearch.cluster.secrets import SECRETS

__all__ = [
    "SECRETS",
    "Job",
    "Jobs",
    "Work",
    "at",
    "check_address",
    "check_shared",
    "connected",
    "gpu_kinds",
    "most",
    "node_count",
    "run",
    "slots",
    "total",
]
