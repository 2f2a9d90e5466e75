"""In the server and in the children that it forks: tasks in, answers out."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from typing import NamedTuple

import psutil

IDLE_SECONDS = 60.0
"""After which the server ends: a search may run for days after its space was checked."""
PRELOAD = ("robsearch.spaces.checking.first_step", "torch._dynamo", "pandas")
"""What takes seconds to import, once for all children: also what an optimiser's first step and
Arrow import late."""
POLL_SECONDS = 0.02
GRACE_SECONDS = 5.0
"""Between the alarm, which says where the child was, and the end of a child that did not hear
it."""
WAITING = 4
"""Times a task's seconds of computing, for one that waits: others may be at work on this
machine."""
IMPORTING = 4
"""Times a task's seconds, to import the modules that it needs: the process that asks has imported
them, too."""
GIB = 2**30


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
    """What one task may take: seconds of computing, and GiB of memory beside what processes
    share."""

    seconds: float
    gib: float


class TaskList(NamedTuple):
    """Tasks, pickled, and what the child has of the process that asks: its folder, environment and
    import path."""

    tasks: list[bytes]
    limits: Limits
    folder: str
    environment: dict[str, str]
    path: list[str]


def stage(text: str) -> None:
    """Tells what the task is at, for the case that the child ends there."""
    if _ANSWERS is not None and os.getpid() == _CHILD:
        _ANSWERS.send(("stage", text))


# --- in the server ---

_ANSWERS: Connection | None = None
"""In a child: where its results go."""
_CHILD = 0
"""Its process: a fork of it has nothing to say."""
_BROKEN_OFF = False
"""Whether a task had no end."""


def serve() -> None:
    """Answers jobs until the process that asks is gone, or has asked nothing for a while."""
    # A profile.py of the user does not hide Python's.
    sys.path.sort(key=lambda folder: folder in ("", os.getcwd()))
    for name in PRELOAD:
        importlib.import_module(name)
    connection = Connection(int(sys.argv[1]))
    try:
        while connection.poll(IDLE_SECONDS):
            job = connection.recv()
            connection.send_bytes(b"taken")
            for answer in _outcomes(job):
                connection.send_bytes(answer)
    except (EOFError, OSError):
        pass
    finally:
        # With this process ends all that the children left running.
        os.killpg(0, signal.SIGKILL)


def _outcomes(job: TaskList) -> Iterator[bytes]:
    """The answers to all tasks, in order: where a child ends early, the next one goes on behind the
    task at which it ended."""
    left = job.tasks
    while left:
        answers, sender = Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            try:
                _work(job._replace(tasks=left), sender)
            finally:
                os._exit(1)
        sender.close()
        try:
            for answer in _answers_of(pid, answers, job.limits, len(left)):
                yield answer
                left = left[1:]
        finally:
            _end_with_all_that_it_started(pid)


def _answers_of(pid: int, answers: Connection, limits: Limits, left: int) -> Iterator[bytes]:
    """What a child answers to so many tasks, or ``Lost`` for the one at which it ended."""
    client = os.getppid()
    importing = limits._replace(seconds=IMPORTING * limits.seconds)
    limit = importing
    started = time.monotonic()
    at = ""
    while left:
        if not answers.poll(POLL_SECONDS):
            lost = _lost(pid, answers, time.monotonic() - started, limit)
            if lost is not None:
                yield pickle.dumps(lost._replace(stage=at))
                return
            if os.getppid() != client:  # nobody hears the answers any more
                sys.exit()
            continue
        try:
            kind, content = answers.recv()
        except EOFError:
            kind = "error"
            content = _ending(pid)
        # Before a task says that it starts, it imports modules.
        limit = limits if kind in ("stage", "start") else importing
        if kind == "stage":
            at = content
            continue
        if kind == "error":
            yield pickle.dumps(Lost(content, at))
            return
        at = ""
        started = time.monotonic()
        if kind in ("result", "last"):
            left = 0 if kind == "last" else left - 1
            yield content


def _end_with_all_that_it_started(pid: int) -> None:
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if process.pid != os.getpid() and os.getpgid(process.pid) == os.getpid():
                os.kill(process.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _ending(pid: int) -> str:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code >= 0:
        return f"the process ended with exit code {code}"
    by_kernel = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return f"the process was killed by {signal.Signals(-code).name}{by_kernel}"


def _lost(pid: int, answers: Connection, seconds: float, limits: Limits) -> Lost | None:
    """Why a child that is silent is given up; None if it may go on."""
    # What it left running may hold the pipe open, so that its end does not show there.
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended and not answers.poll():
        return Lost(_ending(pid))
    if seconds > WAITING * limits.seconds + GRACE_SECONDS:
        return Lost(f"no end within {WAITING * limits.seconds:g} seconds")
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    # Shared pages are those of the server: torch and all that it imported.
    if memory.rss - getattr(memory, "shared", 0) > limits.gib * GIB:
        return Lost(f"more than {limits.gib:.1f} GiB of memory", memory=True)
    return None


# --- in a child ---


def _work(job: TaskList, answers: Connection) -> None:
    global _ANSWERS, _CHILD
    _ANSWERS, _CHILD = answers, os.getpid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what the user's code prints belongs to no one
        os.dup2(null, stream)
    # The server may have been started with another environment than the caller has now.
    os.environ.clear()
    os.environ.update(job.environment)
    with contextlib.suppress(OSError):
        os.chdir(job.folder)
    sys.path[:] = job.path
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _no_end)
    for task in job.tasks:
        kind, answer = _answer(task, job.limits.seconds)
        _alarm_after(0)
        if os.getpid() != _CHILD:  # the user's code forked, and went on
            return
        answers.send((kind, answer))
        if kind != "result":
            return


def _answer(task: bytes, seconds: float) -> tuple[str, bytes | str]:
    """What a task comes to, and of which kind that is.

    Modules are imported first, in a time of their own.

    Returns:
        ``result`` and the answer, pickled; ``last`` and the answer of a task that had to be broken
        off, which may have left anything half done; or ``error`` and what it raised. After the
        last two a fresh child goes on.
    """
    assert _ANSWERS is not None
    _alarm_after(IMPORTING * seconds)
    try:
        work, argument = pickle.loads(task)
        _ANSWERS.send(("start", ""))
        _alarm_after(seconds)
        answer = pickle.dumps(work(argument))
    except BaseException as error:  # also SystemExit
        return "error", _text(error)
    return "last" if _BROKEN_OFF else "result", answer


def _alarm_after(seconds: float) -> None:
    """An alarm after so much computing, or after a few times as long on the clock; 0 takes both
    back."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)


def _text(error: BaseException) -> str:
    with contextlib.suppress(Exception):  # one of the user's may not be able to say what it is
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


def _no_end(*_: object) -> None:
    global _BROKEN_OFF
    _BROKEN_OFF = True
    raise TimeoutError("no end within the time limit")
