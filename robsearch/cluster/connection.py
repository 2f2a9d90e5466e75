"""Starting a cluster on this machine, or joining one that runs."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # its stubs are a package of their own
import ray
from ray._private import ray_constants, services

from robsearch.cluster.secrets import forget_secrets
from robsearch.cluster.temporary import check_temporary, not_started
from robsearch.errors import InputError, refusal

ANSWER_SECONDS = 5
"""How long something at an address has to answer."""
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""What the head of every Ray cluster answers to; also without its token, with a refusal of its own."""


def check_address(address: str | None) -> None:
    """Asks whether the head of a Ray cluster is there: Ray itself would wait for minutes, or end the process.

    Raises:
        InputError: the address is a Ray Client's, not one at all, or something else or nothing answers there; for
            ``auto`` also that no Ray runs on this machine, or several do. Without an address, that a Ray of this
            machine would have no place for its temporary files.
    """
    address = _found(address)
    if address is None or address == "local":
        check_temporary()
        return
    if address.startswith("ray://"):
        do = "run robsearch on the cluster itself: ray job submit -- robsearch launch ... --address auto"
        raise InputError(refusal("--address auto or HOST:PORT", address, do))
    host, _, port = address.rpartition(":")
    do = "start it with `ray start --head`, or leave --address out for a cluster on this machine"
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(refusal(f"a Ray cluster at --address {address}", error, do)) from error
    if not _is_head(address):
        do = "give the address that `ray start --head` printed, usually with port 6379, not its dashboard or client"
        raise InputError(refusal(f"a Ray cluster at --address {address}", "something else that listens there", do))


def _found(address: str | None) -> str | None:
    """The address that ``auto`` stands for: ``RAY_ADDRESS``, or the only Ray of this machine; others as they are."""
    if address != "auto":
        return address
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    running = sorted(services.find_gcs_addresses())
    if len(running) != 1:
        do = "start one with `ray start --head`, or leave --address out" if not running else "pass one as --address"
        raise InputError(refusal("one Ray on this machine for --address auto", ", ".join(running) or "none", do))
    return str(running[0])


def _is_head(address: str) -> bool:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(ALIVE)(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            return error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    return True


@contextlib.contextmanager
def connected(address: str | None, cpus: int | None) -> Iterator[None]:
    """A Ray cluster to run on: an existing one at ``address`` (``auto``, ``HOST:PORT``), or one on this machine.

    Workers of an existing one import from the folders on the driver's import path that lie outside its Python
    installation (of the space, and of robsearch if it is not installed), so those must be on storage that all
    nodes share; what is installed here must be installed there. Nothing else of the driver's environment is sent.

    Args:
        address: of a running cluster; None starts one here.
        cpus: that a cluster on this machine is given; by default all. Ignored with an address.

    Raises:
        InputError: no cluster answers there, or the address is a Ray Client's.
    """
    if ray.is_initialized():
        yield
        return
    check_address(address)
    address = _found(address)
    if not address:
        _stay_on_loopback()
    try:
        with _worker_environment():
            ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **_options(address, cpus))
    except Exception as error:
        raise not_started(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _options(address: str | None, cpus: int | None) -> dict[str, Any]:
    if not address:
        return {"num_cpus": cpus, "include_dashboard": False}
    return {"runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join([*_own_paths(), "${PYTHONPATH}"])}}}


def _own_paths() -> list[str]:
    """The folders that the driver imports from, without those of its Python, which another node may have elsewhere."""
    installed = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    paths = [str(Path(path).resolve()) for path in sys.path if path]
    return [path for path in paths if not installed & {Path(path), *Path(path).parents}]


def _stay_on_loopback() -> None:
    """Makes a one-machine Ray listen on 127.0.0.1 only; Ray has no public switch for it on Linux."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """What workers inherit: no secrets, and the import path on which the driver found the space."""
    before = dict(os.environ)
    forget_secrets()
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
