"""Two real nodes on this machine: two raylets, each with one CPU, on loopback."""

import contextlib

import ray
from ray._private import ray_constants
from ray.cluster_utils import Cluster


@contextlib.contextmanager
def two_nodes(monkeypatch, folder, places=(".", "."), **of_second):
    """The address of a cluster, and its second node; ``places`` are their working directories, and
    ``of_second`` are variables that the second alone has."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # listens on loopback only
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    monkeypatch.setenv(
        "RAY_TMPDIR", str(folder)
    )  # the address file is not written where `auto` of others looks
    made = Cluster()
    try:
        with contextlib.chdir(places[0]):
            made.add_node(num_cpus=1, include_dashboard=False)
        with contextlib.chdir(places[1]), monkeypatch.context() as only_there:
            for name, value in of_second.items():
                only_there.setenv(name, value)
            second = made.add_node(num_cpus=1)
        yield made, second
    finally:
        ray.shutdown()
        made.shutdown()
