"""In the process that asks: starts the server, and hears what became of its tasks."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from threading import Lock
from typing import Any

import cloudpickle

from robsearch.errors import refused
from robsearch.trials.child.server import Limits, Lost, TaskList
from robsearch.trials.variables import needed_environment

_SERVE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from "
    "robsearch.trials.child.server import serve; serve()"
)


def in_child(work: Callable[[Any], Any], tasks: Sequence[Any], limits: Limits) -> list[Any]:
    """What ``work`` makes of each task, in a child; ``Lost`` for one that ended the child: the next
    has a fresh one.

    Args:
        work: a function of robsearch.
        tasks: anything that Ray could hand to a worker.
        limits: for each task.
    """
    if not tasks:
        return []
    with _ONE_AT_A_TIME:
        job = TaskList(
            [cloudpickle.dumps((work, task)) for task in tasks],
            limits,
            os.getcwd(),
            needed_environment(),
            _import_path(),
        )
        try:
            return list(_answers(job))
        except BaseException:  # such as Ctrl-C: what the child was at ends with it
            _end_server()
            raise


def warm_up() -> None:
    """Starts the server, if there is none, while the caller imports other things."""
    with _ONE_AT_A_TIME:
        _server()


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    connection: Connection
    owner: int


_SERVER: _Server | None = None
_ONE_AT_A_TIME = Lock()


def _answers(job: TaskList) -> Iterator[Any]:
    """Where the server itself was ended, the task at hand is lost, and a new server goes on with
    the next."""
    server = _server_with(job)
    for i in range(len(job.tasks)):
        try:
            yield pickle.loads(server.connection.recv_bytes())
        except (EOFError, OSError):
            yield Lost("the process that watches it was killed")
            _end_server()
            # The task at hand may be what ended the server, so it is not tried again.
            if left := job.tasks[i + 1 :]:
                server = _server_with(job._replace(tasks=left))


def _server_with(job: TaskList) -> _Server:
    """A server that has taken the job; one that went idle in this moment is followed by another."""
    for _ in range(2):
        server = _server()
        with contextlib.suppress(EOFError, OSError):
            server.connection.send(job)
            server.connection.recv_bytes()
            return server
        _end_server()
    do = "look at what it said above, and run this Python by hand"
    raise refused(
        f"{sys.executable} to start a process that tries recipes", "one that ends at once", do
    )


def _server() -> _Server:
    global _SERVER
    if _SERVER is not None and _SERVER.owner == os.getpid() and _SERVER.process.poll() is None:
        return _SERVER
    _end_server()
    connection, of_server = Pipe()
    with of_server:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                _SERVE,
                str(of_server.fileno()),
                json.dumps(_import_path()),
            ],
            pass_fds=[of_server.fileno()],
            env=needed_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process that asks
        )
    _SERVER = _Server(process, connection, os.getpid())
    return _SERVER


def _import_path() -> list[str]:
    """Python, too, passes over what is no text, such as a ``Path``."""
    return [folder for folder in sys.path if isinstance(folder, str)]


@atexit.register
def _end_server() -> None:
    global _SERVER
    if _SERVER is None:
        return
    server, _SERVER = _SERVER, None
    server.connection.close()
    if server.owner != os.getpid():  # this process was forked from the one whose it is
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
