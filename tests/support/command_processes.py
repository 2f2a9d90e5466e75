"""Commands of robsearch, each in a process of its own."""

import os
import subprocess
import sys
import time


def started(results, *arguments):
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": here, "ROBSEARCH_RESULTS": str(results)}
    code = "from robsearch.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(condition, process, seconds=400.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
