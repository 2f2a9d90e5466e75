"""Starting a Ray cluster on this machine, or finding and joining one that runs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc  # type: ignore[import-untyped]  # its stubs are a package of their own
import psutil
import ray
from ray._private import (
    ray_constants,  # see _on_loopback
    worker,  # see _short_messages
)

from robsearch.cluster.node_probe import token_file
from robsearch.errors import InputError, counted, refused
from robsearch.printing import echo
from robsearch.trials.variables import PASSED, keep_needed

NOTHING: Mapping[str, str] = MappingProxyType({})
FORWARDED = ("ROBSEARCH_EMULATE_BF16", PASSED)
"""Variables of the driver that trials on a running cluster are to have, too."""
SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
ANSWER_SECONDS = 5
"""How long something at an address has to answer."""
FIRST_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""What whoever joins a Ray cluster asks its head first; without its token the head refuses to
answer."""
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts for which Ray puts the address that other machines know this one by."""
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket."""
SOCKET = "session_2026-01-31_12-00-00_000000_{pid}/sockets/plasma_store"
"""The longest of Ray's own sockets, below its temporary folder (seen in Ray 2.60)."""

SHORTER = "set RAY_TMPDIR, or TMPDIR, to a short path such as /tmp"
WRITABLE = (
    "set RAY_TMPDIR, or TMPDIR, to a folder on a local disk with space that you may write, of a "
    "short path"
)
JOIN = "run on a node of that cluster, with its versions of Ray and Python"
TOKEN = (
    "put that cluster's token into ~/.ray/auth_token, as `ray get-auth-token` prints it on its "
    "head, and set RAY_AUTH_MODE=token"
)
CAUSES = {
    r"No space left|Disk quota|Read-only file system|Permission denied": WRITABLE,
    r"object store|/dev/shm": (
        "make /dev/shm larger (docker run --shm-size 4g), or free some memory"
    ),
    r"Address already in use|free port|unused port": (
        "end other programs that listen on this machine's ports"
    ),
    r"Resource temporarily unavailable|can't start new thread": (
        "raise the limit of processes (ulimit -u)"
    ),
    r"Too many open files": "raise the limit of open files (ulimit -n)",
    r"timed out during startup": (
        "try again with less else running: it had half a minute, and a busy machine takes longer"
    ),
}
"""What an error of a Ray on this machine says, and what to do then."""
GUESSES = re.compile(r"This can happen when|Possible reasons include|Last \d+ lines|\[state-dump\]")
"""Where Ray's guesses begin, behind what it says of a node, or its log."""


@contextlib.contextmanager
def connected(
    address: str | None, cpus: int | None, variables: Mapping[str, str] = NOTHING
) -> Iterator[None]:
    """A Ray cluster to run on: an existing one at ``address`` (``auto``, ``HOST:PORT``), or one on
    this machine.

    Where this process is in a cluster already, that one is used, and stays.

    Workers of an existing one import from the folders on the driver's import path that lie outside
    its Python installation (of the space, and of robsearch if it is not installed), so those must
    be on storage that all nodes share; what is installed here must be installed there. Nothing else
    of the driver's environment is sent.

    Args:
        address: of a running cluster; None starts one here.
        cpus: that a cluster on this machine is given; by default all. Ignored with an address.
        variables: for the environment of the workers of a cluster on this machine. Ignored with an
            address.

    Raises:
        InputError: no cluster answers there, the address is a Ray Client's, or this process is in
            another cluster.
    """
    address = check_address(address)
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False}
    if address:
        paths = os.pathsep.join([*_own_paths(), "${PYTHONPATH}"])
        forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        options = {"runtime_env": {"env_vars": {"PYTHONPATH": paths, **forwarded}}}
        variables = NOTHING
    loopback = not address or _is_only_on_loopback(address)
    if not address:
        _hide_token()
    with _on_loopback() if loopback else contextlib.nullcontext():
        try:
            with _worker_environment(variables), _ended_by_signals():
                ray.init(
                    address or "local", logging_level=logging.ERROR, log_to_driver=False, **options
                )
        except Exception as error:
            raise _not_started(address, error) from error
        if not address:
            _hide_token()
        try:
            with _short_messages():
                yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _short_messages() -> Iterator[None]:
    """What Ray says of its nodes is one line each meanwhile.

    It prints that on standard output, in colours, with guesses at the reason and twenty lines of a
    log. There is no public switch: ``log_to_driver`` is for what workers print.
    """
    before = getattr(worker, "print_to_stdstream", None)
    if before is None:
        # Another Ray says it by another function, and in its own words.
        yield
        return
    worker.print_to_stdstream = _print_message
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _print_message(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
    """In place of Ray's function; what else that is told is how it prints."""
    for line in data["lines"]:
        text = " ".join(GUESSES.split(line)[0].split())
        if text:
            echo(f"Ray: {text}", err=True)


def _hide_token() -> None:
    """Keeps the token that Ray makes for its clusters from other users of this machine, who could
    run code in them: Ray leaves its file readable by all, so its folder keeps them out before Ray
    writes it."""
    token = Path.home() / ".ray" / "auth_token"
    # A home that cannot be written, or another's, is Ray's to refuse.
    with contextlib.suppress(OSError):
        token.parent.mkdir(exist_ok=True)
        token.parent.chmod(0o700)
        token.chmod(0o600)


def head_address() -> str:
    """The address of the connected cluster's head."""
    return str(ray.get_runtime_context().gcs_address)


def asks_for_token() -> bool:
    """Whether the connected cluster's head refuses whoever has no token."""
    return _answer(head_address()) in REFUSALS


def _own_paths() -> list[str]:
    """The folders that the driver imports from, without those of its Python, which another node may
    have elsewhere."""
    installed = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    paths = [Path(path).resolve() for path in sys.path if path]
    return [str(path) for path in paths if not installed & {path, *path.parents}]


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Makes Ray listen, or look, on 127.0.0.1 only.

    Ray has no public switch for that on Linux, and reads the variable when it is imported. A
    cluster of several machines that is joined later is not on loopback.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with environment({SWITCH: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """These variables in the environment, without those that are None; then all have the values
    they had before."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@contextlib.contextmanager
def _worker_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """What workers inherit: what they need, and the import path on which the driver found the
    space."""
    before = dict(os.environ)
    keep_needed()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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

    Ray's own code may wait for minutes there, and Python hears of a signal only after it. A Ray
    that is being started ends with this process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_on_signal, args=(receiver,), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        sender.close()


def _end_on_signal(receiver: socket.socket) -> None:
    interrupts = 0
    with receiver:
        while number := receiver.recv(1):  # a signal's number; nothing, once Ray has connected
            interrupts += number[0] == signal.SIGINT
            if number[0] == signal.SIGTERM or interrupts > 1:
                os.write(2, b"ended while Ray was connecting\n")
                os._exit(128 + number[0])


# --- which cluster an address means, and whether its head answers there ---


def check_address(address: str | None) -> str | None:
    """Asks whether the head of a Ray cluster is there: Ray itself would wait for minutes, or end
    the process.

    Returns:
        Its ``HOST:PORT``; None where a Ray is to be started on this machine.

    Raises:
        InputError: the address is a Ray Client's, not one at all, or something else or nothing
            answers there, or the cluster asks for a token that is not here; for ``auto`` also that
            no Ray runs on this machine that ``ray start`` started, or several do; or this process
            is in another cluster. Without an address, that a Ray of this machine would have no
            place for its temporary files.
    """
    if ray.is_initialized():
        return _own_cluster(address)
    address = resolve_address(address)
    if address is None:
        _check_temporary_folder()
        return None
    if address.startswith("ray://"):
        do = (
            "run robsearch on the cluster itself: ray job submit -- robsearch launch ... "
            "--address auto"
        )
        raise refused("--address auto or HOST:PORT", address, do)
    if address.startswith(("http://", "https://")):
        do = (
            "launch, resume, status, stop and report take a URL; run any other command on the "
            "cluster itself"
        )
        raise refused("--address auto or HOST:PORT", address, do)
    expected = f"a Ray cluster at --address {address}"
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        do = "pass the address that `ray start --head` printed, such as 10.0.0.5:6379, or auto"
        raise refused("--address auto or HOST:PORT", repr(address), do)
    do = "start it with `ray start --head`, or leave --address out for a cluster on this machine"
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise refused(expected, error, do) from error
    answer = _answer(address)
    if answer in REFUSALS:
        _check_token(address)
    elif answer != grpc.StatusCode.OK:
        do = (
            "give the address that `ray start --head` printed, usually with port 6379, not its "
            "dashboard or client"
        )
        raise refused(expected, "something else that listens there", do)
    return address


def resolve_address(address: str | None) -> str | None:
    """The address that was meant: None for a Ray of one's own, ``HOST:PORT`` for ``auto``, others
    as they are.

    ``auto`` is what ``RAY_ADDRESS`` names, else the only cluster that this user's ``ray start``
    started on this machine. A Ray that another program started for itself has no capacity for
    others, and ends when that program does. Another user's cluster runs as that user.

    Raises:
        InputError: ``auto``, and there is no such cluster here, or several; says what there is.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address in (None, "", "local"):
        return None
    if address != "auto":
        return address
    clusters = list(local_clusters())
    private = {cluster.address: cluster.owner for cluster in clusters if cluster.owner is not None}
    users = {cluster.address: cluster.user for cluster in clusters if cluster.owner is None}
    for at in private:
        users.pop(at, None)
    me = psutil.Process().username()
    mine = sorted(at for at, user in users.items() if user == me)
    if len(mine) == 1:
        return mine[0]
    others = [f"{at} belongs to user {user}" for at, user in users.items() if user != me]
    others += [
        f"{at} belongs to process {owner.pid}, {_command(owner)}" for at, owner in private.items()
    ]
    got, do = ", ".join(mine), "pass one as --address"
    if not mine:
        got = f"none ({'; '.join(sorted(others))})" if others else "none"
        do = "start one with `ray start --head`, or leave --address out"
    expected = f"one Ray that `ray start` of user {me} started on this machine, for --address auto"
    raise refused(expected, got, do)


class LocalCluster(NamedTuple):
    """A Ray with a node on this machine.

    Attributes:
        address: of its head.
        owner: the process that started it for itself with ``ray.init``, and with which it ends;
            None where ``ray start`` started it.
        user: whose it is.
    """

    address: str
    owner: psutil.Process | None
    user: str = ""


def local_clusters() -> Iterator[LocalCluster]:
    """Every Ray with a node on this machine: a node's main process has its cluster's address as an
    argument."""
    for process in psutil.process_iter(["cmdline", "username"]):
        words = process.info["cmdline"] or [""]
        options = dict(word.partition("=")[::2] for word in words[1:])
        if Path(words[0]).stem == "raylet" and options.get("--gcs-address"):
            user = process.info["username"] or "somebody else"
            yield LocalCluster(options["--gcs-address"], _owner(process, options), user)


def user_of(address: str) -> str:
    """The user as whom a cluster runs that has a node on this machine; empty for another one."""
    users = {cluster.address: cluster.user for cluster in local_clusters()}
    return users.get(address, "")


def _owner(process: psutil.Process, options: dict[str, str]) -> psutil.Process | None:
    """Whoever started a head with ``ray.init``: its parent, with whose number the session's name
    ends.

    ``ray start`` leaves its processes to the system, or stays as their parent with ``--block``.
    """
    session = options.get("--session-name", "")
    try:
        parent = process.parent()
        if parent is None or "--head" not in options or not session.endswith(f"_{parent.pid}"):
            return None
        words = [Path(word).stem for word in parent.cmdline()]
    except psutil.Error:  # it ended just now, or belongs to somebody else
        return None
    ray_start = re.search(r"(^| )(ray|\S*ray\.scripts\S*) (.* )?start( |$)", " ".join(words))
    return None if ray_start else parent


def _command(process: psutil.Process) -> str:
    """A program and its first argument; those behind it may hold a password."""
    try:
        words = [word for word in process.cmdline() if word != "-m"]
    except psutil.Error:
        return "ended"
    python = len(words) > 1 and Path(words[0]).name.startswith("python")
    if python and not words[1].startswith("-"):
        words = words[1:]
    argument = [word for word in words[1:2] if not word.startswith("-")]
    return " ".join([Path(words[0]).name, *argument]) if words else "?"


def _is_only_on_loopback(address: str) -> bool:
    """Whether a head listens on the loopback interface alone, so that Ray, which puts another host,
    would miss it."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") in LOOPBACK and not _is_head(f"{ray.util.get_node_ip_address()}:{port}")


def _own_cluster(address: str | None) -> str:
    """The address of the cluster that this process is in; refuses that of another one."""
    connected_to = head_address()
    if address in (None, "", "local", "auto") or _endpoint(str(address)) == _endpoint(connected_to):
        return connected_to
    do = "end that one first (ray.shutdown()), or leave --address out to use it"
    expected = f"the Ray of this process to be the one at --address {address}"
    raise refused(expected, f"one at {connected_to}", do)


def _endpoint(address: str) -> tuple[str, str]:
    """Host and port; one host for all names of this machine."""
    host, _, port = address.rpartition(":")
    try:
        number = socket.gethostbyname(host.strip("[]"))
    except OSError:
        return host, port
    cards = psutil.net_if_addrs().values()
    addresses = {address.address for card in cards for address in card}
    return "this machine" if number.startswith("127.") or number in addresses else number, port


def _is_head(address: str) -> bool:
    return _answer(address) in (grpc.StatusCode.OK, *REFUSALS)


def _answer(address: str, token: str | None = None) -> Any:
    """The status with which whoever listens at an address answers the first call of those who join
    a cluster."""
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(FIRST_CALL)(b"", timeout=ANSWER_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def _check_token(address: str) -> None:
    """Refuses a cluster for which there is no token here, or another one.

    Ray would try it twenty times, print a line of its log for each, and not say what to do.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode not in ("token", "disabled"):
        return  # Ray asks another service for the token
    token = _token() if mode == "token" else None
    if token is None or _answer(address, token) in REFUSALS:
        got = "none" if token is None else "another one, which it refuses"
        raise refused(f"the token of the Ray cluster at --address {address}", got, TOKEN)


def _token() -> str | None:
    """The token that Ray sends from here, by the rules of its documentation."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    if token is None:
        try:
            token = token_file().read_text()
        except (OSError, UnicodeDecodeError):
            return None
    return token.strip() or None


# --- a Ray that starts on this machine ---


def _temporary_folder() -> Path:
    """Where a Ray of this machine keeps its sockets and logs; it has no public way to ask."""
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen is None and sys.platform == "linux":
        chosen = os.environ.get("TMPDIR")
    return Path(chosen or "/tmp") / "ray"


def _check_temporary_folder() -> None:
    """Raises InputError if its path is too long for a socket, or it cannot be written."""
    folder = _temporary_folder()
    excess = len(os.fsencode(folder / SOCKET.format(pid=os.getpid()))) - SOCKET_BYTES
    if excess > 0:
        length = len(os.fsencode(folder.parent))
        expected = (
            f"a path of at most {length - excess} bytes for temporary files, because Ray's "
            "sockets lie there"
        )
        raise refused(expected, f"{folder.parent}, {counted(length, 'byte')}", SHORTER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        expected = f"a writable folder {folder} for Ray's temporary files"
        raise refused(expected, error.strerror or error, WRITABLE) from error


def _not_started(address: str | None, error: Exception) -> InputError:
    """The refusal for a Ray that could not be joined, or did not start here, with the advice that
    fits."""
    if address:
        return refused(f"a Ray cluster at {address}", error, JOIN)
    do = f"its logs say why: {_temporary_folder() / 'session_latest' / 'logs'}"
    for pattern, advice in CAUSES.items():
        if re.search(pattern, str(error)):
            do = advice
            break
    return refused("a Ray that starts on this machine", error, do)
