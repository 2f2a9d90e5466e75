"""Commands of robsearch, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time

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
