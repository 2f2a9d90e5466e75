"""A process in which a user's code may take all memory, crash or never end, and the session goes on.

A server imports torch, starts no thread and touches no GPU; it forks a child for each list of tasks. To fork the caller
instead would be unsafe (threads of Ray, torch and CUDA), and a new process for each list would import torch anew, which
takes seconds. Tasks go over as Ray hands them to its workers: classes of a script or a notebook by value, others by
their module. The child has the caller's folder, environment and import path.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from threading import Lock
from typing import Any, NamedTuple

import cloudpickle
import psutil

IDLE_SECONDS = 60.0
"""After which the server ends: a search may run for days after its space was checked."""
PRELOAD = ("robsearch.spaces.first_step", "torch._dynamo", "pandas")
"""What takes seconds to import, once for all children: also what an optimiser's first step and Arrow import late."""
POLL_SECONDS = 0.02
GRACE_SECONDS = 5.0
"""Between the alarm, which says where the child was, and the end of a child that did not hear it."""
GIB = 2**30

_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from robsearch.child import serve; serve()"


class Lost(NamedTuple):
    """A task without a result.

    Attributes:
        reason: what happened, such as ``the process was killed by SIGSEGV``.
        stage: the last that the task told (``stage``).
        memory: whether it took more than it may.
    """

    reason: str
    stage: str = ""
    memory: bool = False


class Limits(NamedTuple):
    """What one task may take: seconds, and GiB of memory beside what processes share."""

    seconds: float
    gib: float


class _Job(NamedTuple):
    tasks: list[bytes]
    limits: Limits
    folder: str
    environment: dict[str, str]
    path: list[str]


def in_child(work: Callable[[Any], Any], tasks: Sequence[Any], limits: Limits) -> list[Any]:
    """What ``work`` makes of each task, in a child; ``Lost`` for one that ended the child: the next has a fresh one.

    Args:
        work: a function of robsearch.
        tasks: anything that Ray could hand to a worker.
        limits: for each task.
    """
    if not tasks:
        return []
    with _ONE_AT_A_TIME:
        job = _Job(
            [cloudpickle.dumps((work, task)) for task in tasks],
            limits,
            os.getcwd(),
            dict(os.environ),
            list(sys.path),
        )
        try:
            return _answers(job)
        except BaseException:  # such as Ctrl-C: what the child was at ends with it
            _end_server()
            raise


def warm_up() -> None:
    """Starts the server, if there is none, while the caller imports other things."""
    with _ONE_AT_A_TIME:
        _server()


def stage(text: str) -> None:
    """Tells what the task is at, for the case that the child ends there."""
    if _ANSWERS is not None:
        _ANSWERS.send(("stage", text))


# -- in the process that asks ---------------------------------------------------------------------------------


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    line: Connection


_SERVER: _Server | None = None
_ONE_AT_A_TIME = Lock()


def _answers(job: _Job) -> list[Any]:
    try:
        server = _server()
        server.line.send(job)
    except OSError:  # it went idle in this moment
        _end_server()
        server = _server()
        server.line.send(job)
    return [pickle.loads(server.line.recv_bytes()) for _ in job.tasks]


def _server() -> _Server:
    global _SERVER
    if _SERVER is not None and _SERVER.process.poll() is None:
        return _SERVER
    _end_server()
    here, there = Pipe()
    with there:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(there.fileno()), json.dumps(sys.path)],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process that asks
        )
    _SERVER = _Server(process, here)
    return _SERVER


@atexit.register
def _end_server() -> None:
    global _SERVER
    if _SERVER is None:
        return
    server, _SERVER = _SERVER, None
    server.line.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()


# -- in the server --------------------------------------------------------------------------------------------

_ANSWERS: Connection | None = None
"""In a child: where its results go."""


def serve() -> None:
    """Answers jobs until the process that asks is gone, or has asked nothing for a while."""
    for name in PRELOAD:
        importlib.import_module(name)
    line = Connection(int(sys.argv[1]))
    while line.poll(IDLE_SECONDS):
        try:
            job = line.recv()
        except EOFError:
            return
        for answer in _outcomes(job):
            line.send_bytes(answer)


def _outcomes(job: _Job) -> Iterator[bytes]:
    done = 0
    while done < len(job.tasks):
        for answer in _of_one_child(job, done):
            yield answer
            done += 1


def _of_one_child(job: _Job, first: int) -> Iterator[bytes]:
    """The answers of a child, in order, from a task on; the last is ``Lost`` if it did not get to the end."""
    answers, own = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        answers.close()
        _work(job, first, own)
        os._exit(0)
    own.close()
    left, at, started, asker = len(job.tasks) - first, "", time.monotonic(), os.getppid()
    try:
        while left:
            if answers.poll(POLL_SECONDS):
                try:
                    kind, content = answers.recv()
                except EOFError:
                    yield pickle.dumps(Lost(_ending(pid), at))
                    return
                if kind == "result":
                    left, at, started = left - 1, "", time.monotonic()
                    yield content
                else:
                    at = content
            elif (excess := _excess(pid, time.monotonic() - started, job.limits)) is not None:
                yield pickle.dumps(excess._replace(stage=at))
                return
            elif os.getppid() != asker:
                sys.exit()
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _ending(pid: int) -> str:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code >= 0:
        return f"the process ended with exit code {code}"
    by_kernel = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return f"the process was killed by {signal.Signals(-code).name}{by_kernel}"


def _excess(pid: int, seconds: float, limits: Limits) -> Lost | None:
    if seconds > limits.seconds + GRACE_SECONDS:
        return Lost(f"no end within {limits.seconds:g} seconds")
    try:
        taken = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    if taken.rss - getattr(taken, "shared", 0) > limits.gib * GIB:
        return Lost(f"more than {limits.gib:.1f} GiB of memory", memory=True)
    return None


# -- in a child -----------------------------------------------------------------------------------------------


def _work(job: _Job, first: int, answers: Connection) -> None:
    global _ANSWERS
    _ANSWERS = answers
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what the user's code prints belongs to no one
        os.dup2(null, stream)
    os.environ.clear()
    os.environ.update(job.environment)
    with contextlib.suppress(OSError):
        os.chdir(job.folder)
    sys.path[:] = job.path
    signal.signal(signal.SIGALRM, _no_end)
    for task in job.tasks[first:]:
        signal.setitimer(signal.ITIMER_REAL, job.limits.seconds)
        answer = _answer(task)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.send(("result", answer))


def _answer(task: bytes) -> bytes:
    try:
        work, given = pickle.loads(task)
        return pickle.dumps(work(given))
    except BaseException as error:  # also SystemExit
        return pickle.dumps(Lost(f"{type(error).__name__}: {error}"))


def _no_end(*_: object) -> None:
    raise TimeoutError("no end within the time limit")
