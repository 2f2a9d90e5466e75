"""Commands of robsearch, each in a process of its own or in this one."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from robsearch import cli

STARTED: list[subprocess.Popen] = []
"""Since ``end_all`` was called last."""


def started(results, *arguments):
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": here, "ROBSEARCH_RESULTS": str(results)}
    code = "from robsearch.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def end_all():
    """Ends what a test left running, which would take the cores of those after it."""
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    STARTED.clear()


def wait_until(condition, process, seconds=400.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def in_this_process(results, *words):
    """A command's exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["robsearch", *words, "--results", str(results)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return left.value.code or 0


@contextlib.contextmanager
def when(condition, act):
    """Acts in a thread, once, as soon as a condition holds while the body runs."""
    ended, errors = threading.Event(), []

    def watch():
        while not ended.wait(0.02):
            if condition():
                try:
                    return act()
                except Exception as error:
                    return errors.append(error)
        return errors.append(AssertionError("it never came to pass"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not errors
