"""Which Ray cluster an address means, and whether its head answers there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc  # type: ignore[import-untyped]  # its stubs are a package of their own
import psutil
import ray

from robsearch.cluster.temporary import check_temporary
from robsearch.errors import InputError, refusal

ANSWER_SECONDS = 5
"""How long something at an address has to answer."""
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""What the head of every Ray cluster answers to; also without its token, with a refusal of its own."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts for which Ray puts the address that other machines know this one by."""


class Running(NamedTuple):
    """A Ray with a node on this machine.

    Attributes:
        address: of its head.
        owner: the process that started it for itself with ``ray.init``, and with which it ends; None where
            ``ray start`` started it.
    """

    address: str
    owner: psutil.Process | None


def meant(address: str | None) -> str | None:
    """The address that was meant: None for a Ray of one's own, ``HOST:PORT`` for ``auto``, others as they are.

    ``auto`` is what ``RAY_ADDRESS`` names, else the only cluster that ``ray start`` started on this machine. A Ray
    that another program started for itself has no room for others, and ends when that program does.

    Raises:
        InputError: ``auto``, and there is no such cluster here, or several; says what there is.
    """
    if address in (None, "", "local"):
        return None
    named = os.environ.get("RAY_ADDRESS")
    if address != "auto":
        return address
    if named and named != "auto":
        return meant(named)
    found = list(running_here())
    private = {one.address: one.owner for one in found if one.owner is not None}
    shared = sorted({one.address for one in found} - private.keys())
    if len(shared) == 1:
        return shared[0]
    taken = [f"{at} belongs to process {by.pid}, {_command(by)}" for at, by in private.items()]
    got = ", ".join(shared) or (f"none ({'; '.join(sorted(taken))})" if taken else "none")
    do = "pass one as --address" if shared else "start one with `ray start --head`, or leave --address out"
    raise InputError(refusal("one Ray that `ray start` started on this machine, for --address auto", got, do))


def running_here() -> Iterator[Running]:
    """Every Ray with a node on this machine: a node's main process has its cluster's address as an argument."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if Path(words[0]).stem != "raylet":
            continue
        options = dict(word.partition("=")[::2] for word in words[1:])
        if address := options.get("--gcs-address"):
            yield Running(address, _owner(process, options))


def _owner(process: psutil.Process, options: dict[str, str]) -> psutil.Process | None:
    """Whoever started a head with ``ray.init``: its parent, with whose number the session's name ends.

    ``ray start`` leaves its processes to the system, or stays as their parent with ``--block``.
    """
    session = options.get("--session-name", "")
    try:
        parent = process.parent()
        if parent is None or "--head" not in options or not session.endswith(f"_{parent.pid}"):
            return None
        return None if _is_ray_start(parent.cmdline()) else parent
    except psutil.Error:  # it ended just now, or belongs to somebody else
        return None


def _is_ray_start(words: list[str]) -> bool:
    commands = [at for at, word in enumerate(words) if Path(word).stem == "ray" or "ray.scripts" in word]
    return bool(commands) and "start" in words[commands[0] :]


def _command(process: psutil.Process) -> str:
    """A program and its first argument; those behind it may hold a password."""
    try:
        words = [word for word in process.cmdline() if word != "-m"]
    except psutil.Error:
        return "ended"
    if len(words) > 1 and Path(words[0]).name.startswith("python") and not words[1].startswith("-"):
        words = words[1:]
    return " ".join([Path(words[0]).name, *(word for word in words[1:2] if not word.startswith("-"))]) if words else "?"


def check_address(address: str | None) -> str | None:
    """Asks whether the head of a Ray cluster is there: Ray itself would wait for minutes, or end the process.

    Returns:
        Its ``HOST:PORT``; None where a Ray is to be started on this machine.

    Raises:
        InputError: the address is a Ray Client's, not one at all, or something else or nothing answers there; for
            ``auto`` also that no Ray runs on this machine that ``ray start`` started, or several do; or this process
            is in another cluster. Without an address, that a Ray of this machine would have no place for its
            temporary files.
    """
    if ray.is_initialized():
        return _own_cluster(address)
    address = meant(address)
    if address is None:
        check_temporary()
        return None
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
    return address


def only_on_loopback(address: str) -> bool:
    """Whether a head listens on the loopback interface alone, so that Ray, which puts another host, would miss it."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") in LOOPBACK and not _is_head(f"{ray.util.get_node_ip_address()}:{port}")


def _own_cluster(address: str | None) -> str:
    """The address of the cluster that this process is in; refuses that of another one."""
    up = str(ray.get_runtime_context().gcs_address)
    if address in (None, "", "local", "auto") or _end(str(address)) == _end(up):
        return up
    do = "end that one first (ray.shutdown()), or leave --address out to use it"
    raise InputError(refusal(f"the Ray of this process to be the one at --address {address}", f"one at {up}", do))


def _end(address: str) -> tuple[str, str]:
    """Host and port; one host for all names of this machine."""
    host, _, port = address.rpartition(":")
    try:
        number = socket.gethostbyname(host.strip("[]"))
    except OSError:
        return host, port
    own = {one.address for of_card in psutil.net_if_addrs().values() for one in of_card}
    return "this machine" if number.startswith("127.") or number in own else number, port


def _is_head(address: str) -> bool:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(ALIVE)(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            return error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    return True
