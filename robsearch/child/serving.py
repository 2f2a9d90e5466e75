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
PRELOAD = ("robsearch.spaces.first_step", "torch._dynamo", "pandas")
"""What takes seconds to import, once for all children: also what an optimiser's first step and Arrow import late."""
POLL_SECONDS = 0.02
GRACE_SECONDS = 5.0
"""Between the alarm, which says where the child was, and the end of a child that did not hear it."""
WAITING = 4
"""Times a task's seconds of computing, for one that waits: others may be at work on this machine."""
IMPORTING = 4
"""Times a task's seconds, to import the modules that it needs: the process that asks has imported them, too."""
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
    """What one task may take: seconds of computing, and GiB of memory beside what processes share."""

    seconds: float
    gib: float


class Job(NamedTuple):
    """Tasks, pickled, and what the child has of the process that asks: its folder, environment and import path."""

    tasks: list[bytes]
    limits: Limits
    folder: str
    environment: dict[str, str]
    path: list[str]


def stage(text: str) -> None:
    """Tells what the task is at, for the case that the child ends there."""
    global _AT
    _AT = text
    if _ANSWERS is not None and os.getpid() == _CHILD:
        _ANSWERS.send(("stage", text))


# -- in the server --------------------------------------------------------------------------------------------

_ANSWERS: Connection | None = None
"""In a child: where its results go."""
_CHILD = 0
"""Its process: a fork of it has nothing to say."""
_AT = ""
_BROKEN_OFF = False
"""Whether a task had no end."""


def serve() -> None:
    """Answers jobs until the process that asks is gone, or has asked nothing for a while."""
    sys.path.sort(key=lambda folder: folder in ("", os.getcwd()))  # a user's profile.py does not hide Python's
    for name in PRELOAD:
        importlib.import_module(name)
    line = Connection(int(sys.argv[1]))
    try:
        while line.poll(IDLE_SECONDS):
            job = line.recv()
            line.send_bytes(b"taken")
            for answer in _outcomes(job):
                line.send_bytes(answer)
    except (EOFError, OSError):
        pass
    finally:  # with all that the children left running
        os.killpg(0, signal.SIGKILL)


def _outcomes(job: Job) -> Iterator[bytes]:
    done = 0
    while done < len(job.tasks):
        for answer in _of_one_child(job, done):
            yield answer
            done += 1


def _of_one_child(job: Job, first: int) -> Iterator[bytes]:
    """The answers of a child, in order, from a task on; the last is ``Lost`` if it did not get to the end."""
    answers, own = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            _work(job, first, own)
        finally:
            os._exit(1)
    own.close()
    left, at, started, asker = len(job.tasks) - first, "", time.monotonic(), os.getppid()
    limits = importing = job.limits._replace(seconds=IMPORTING * job.limits.seconds)
    try:
        while left:
            if answers.poll(POLL_SECONDS):
                try:
                    kind, content = answers.recv()
                except EOFError:
                    yield pickle.dumps(Lost(_ending(pid), at))
                    return
                at, started = (content, started) if kind == "stage" else ("", time.monotonic())
                limits = job.limits if kind in ("stage", "start") else importing
                if kind in ("result", "last"):
                    left = 0 if kind == "last" else left - 1
                    yield content
            elif os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and not answers.poll():
                yield pickle.dumps(Lost(_ending(pid), at))  # what it left running holds the pipe open
                return
            elif (excess := _excess(pid, time.monotonic() - started, limits)) is not None:
                yield pickle.dumps(excess._replace(stage=at))
                return
            elif os.getppid() != asker:
                sys.exit()
    finally:
        _end_with_all_that_it_started(pid)


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


def _excess(pid: int, seconds: float, limits: Limits) -> Lost | None:
    if seconds > WAITING * limits.seconds + GRACE_SECONDS:
        return Lost(f"no end within {WAITING * limits.seconds:g} seconds")
    try:
        taken = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    if taken.rss - getattr(taken, "shared", 0) > limits.gib * GIB:
        return Lost(f"more than {limits.gib:.1f} GiB of memory", memory=True)
    return None


# -- in a child -----------------------------------------------------------------------------------------------


def _work(job: Job, first: int, answers: Connection) -> None:
    global _ANSWERS, _CHILD
    _ANSWERS, _CHILD = answers, os.getpid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what the user's code prints belongs to no one
        os.dup2(null, stream)
    os.environ.clear()
    os.environ.update(job.environment)
    with contextlib.suppress(OSError):
        os.chdir(job.folder)
    sys.path[:] = job.path
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _no_end)
    for task in job.tasks[first:]:
        kind, answer = _answer(task, job.limits.seconds)
        _alarm_after(0)
        if os.getpid() != _CHILD:  # the user's code forked, and went on
            return
        answers.send((kind, answer))
        if kind == "last":
            return


def _answer(task: bytes, seconds: float) -> tuple[str, bytes]:
    """A task's answer, and whether this child may go on: what was broken off may have left anything half done.

    Modules are imported first, in a time of their own.
    """
    global _AT
    assert _ANSWERS is not None
    _AT = ""
    _alarm_after(IMPORTING * seconds)
    try:
        work, given = pickle.loads(task)
        _ANSWERS.send(("start", ""))
        _alarm_after(seconds)
        answer = pickle.dumps(work(given))
    except BaseException as error:  # also SystemExit
        return "last", pickle.dumps(Lost(_text(error), _AT))
    return "last" if _BROKEN_OFF else "result", answer


def _alarm_after(seconds: float) -> None:
    """An alarm after so much computing, or after a few times as long on the clock; 0 takes both back."""
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
