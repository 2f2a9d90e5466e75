"""Starting a cluster on this machine, or joining one that runs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray._private import ray_constants

from robsearch.cluster.finding import check_address, only_on_loopback
from robsearch.cluster.secrets import forget_secrets
from robsearch.cluster.temporary import not_started

NOTHING: Mapping[str, str] = MappingProxyType({})
SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextlib.contextmanager
def connected(address: str | None, cpus: int | None, variables: Mapping[str, str] = NOTHING) -> Iterator[None]:
    """A Ray cluster to run on: an existing one at ``address`` (``auto``, ``HOST:PORT``), or one on this machine.

    Where this process is in a cluster already, that one is used, and stays.

    Workers of an existing one import from the folders on the driver's import path that lie outside its Python
    installation (of the space, and of robsearch if it is not installed), so those must be on storage that all
    nodes share; what is installed here must be installed there. Nothing else of the driver's environment is sent.

    Args:
        address: of a running cluster; None starts one here.
        cpus: that a cluster on this machine is given; by default all. Ignored with an address.
        variables: for the environment of the workers of a cluster on this machine. Ignored with an address.

    Raises:
        InputError: no cluster answers there, the address is a Ray Client's, or this process is in another cluster.
    """
    address = check_address(address)
    if ray.is_initialized():
        yield
        return
    loopback = not address or only_on_loopback(address)
    with _on_loopback() if loopback else contextlib.nullcontext():
        try:
            with _worker_environment({} if address else variables), _ended_by_signals():
                options = _options(address, cpus)
                ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **options)
        except Exception as error:
            raise not_started(address, error) from error
        try:
            yield
        finally:
            ray.shutdown()


def at() -> str:
    """The address of the connected cluster's head."""
    return str(ray.get_runtime_context().gcs_address)


def _options(address: str | None, cpus: int | None) -> dict[str, Any]:
    if not address:
        return {"num_cpus": cpus, "include_dashboard": False}
    return {"runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join([*_own_paths(), "${PYTHONPATH}"])}}}


def _own_paths() -> list[str]:
    """The folders that the driver imports from, without those of its Python, which another node may have elsewhere."""
    installed = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    paths = [str(Path(path).resolve()) for path in sys.path if path]
    return [path for path in paths if not installed & {Path(path), *Path(path).parents}]


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Makes Ray listen, or look, on 127.0.0.1 only; it has no public switch for that on Linux."""
    variable, constant = os.environ.get(SWITCH), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[SWITCH] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported
    try:
        yield
    finally:  # a cluster of several machines that is joined later is not on loopback
        ray_constants.ENABLE_RAY_CLUSTER = constant
        os.environ.pop(SWITCH)
        if variable is not None:
            os.environ[SWITCH] = variable


@contextlib.contextmanager
def _worker_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """What workers inherit: no secrets, and the import path on which the driver found the space."""
    before = dict(os.environ)
    forget_secrets()
    os.environ.update(variables)
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """While Ray connects, a TERM or a second Ctrl-C ends the process at once.

    Ray's own code may wait for minutes there, and Python hears of a signal only after it. A Ray that is being started
    ends with this process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told, tell = socket.socketpair()
    tell.setblocking(False)
    before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_when_told, args=(told,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        tell.close()


def _end_when_told(told: socket.socket) -> None:
    interrupts = 0
    with told:
        while number := told.recv(1):  # the number of a signal; nothing, once Ray has connected
            interrupts += number[0] == signal.SIGINT
            if number[0] == signal.SIGTERM or interrupts > 1:
                os.write(2, b"ended while Ray was connecting\n")
                os._exit(128 + number[0])
