"""One local Ray with two CPUs for all tests that need none of their own."""

import contextlib

STARTED = contextlib.ExitStack()
"""Ends it, if it is up."""


def start() -> None:
    """Starts it, if it is not up."""
    import ray

    from robsearch import cluster

    if not ray.is_initialized():
        STARTED.close()
        STARTED.enter_context(cluster.connected(None, cpus=2))


def end() -> None:
    STARTED.close()
