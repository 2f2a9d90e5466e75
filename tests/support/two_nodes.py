"""One real node on this machine, or two: raylets, each with one CPU, on loopback."""

import contextlib

import ray
from ray._private import ray_constants
from ray.cluster_utils import Cluster


@contextlib.contextmanager
def one_node(monkeypatch, folder, place="."):
    """A cluster that others can join; ``place`` is the node's working directory."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # listens on loopback only
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    monkeypatch.setenv(
        "RAY_TMPDIR", str(folder)
    )  # the address file is not written where `auto` of others looks
    made = Cluster()
    try:
        with contextlib.chdir(place):
            made.add_node(num_cpus=1, include_dashboard=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def joined_by_another(made, monkeypatch, place=".", **variables):
    """A further node of a cluster, with variables that it alone has."""
    with contextlib.chdir(place), monkeypatch.context() as only_there:
        for name, value in variables.items():
            only_there.setenv(name, value)
        return made.add_node(num_cpus=1)


@contextlib.contextmanager
def two_nodes(monkeypatch, folder, places=(".", "."), **of_second):
    """A cluster, and its second node; ``places`` are their working directories, and ``of_second``
    are variables that the second alone has."""
    with one_node(monkeypatch, folder, places[0]) as made:
        yield made, joined_by_another(made, monkeypatch, places[1], **of_second)
