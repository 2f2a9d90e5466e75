"""A cluster's job server: commands of robsearch that run there, asked for from another machine.

It is part of the dashboard of Ray's head, on port 8265. What is sent there is run: so it is asked
with Ray's token where the cluster has one, and never over a line that others can read.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from robsearch.cluster.connection import ANSWER_SECONDS, LOOPBACK, environment
from robsearch.errors import InputError, refused

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where one of these is set, Ray asks there, whatever it is told."""
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that tell a person of packages and sockets."""
BEGINS = re.compile(r"^Running entrypoint for job .*\n", re.MULTILINE)
"""The last line of Ray's before those of a job's command."""
LOOK_SECONDS = 1.0
"""Between two looks at a job whose output is not passed on any more, though it runs."""
SUCCEEDED = "SUCCEEDED"
"""Ray's word for a job whose command ended with 0."""
UNKNOWN_EXIT = 1
"""Of a job of which Ray does not know how its command ended, as where it was killed."""


class JobServer:
    """The job server at the head of a cluster.

    Args:
        url: ``https://HEAD:8265``, or ``http://`` on this machine, as the end of a tunnel.

    Raises:
        InputError: http to another machine; nothing answers there, or it is no Ray, or refuses the
            token.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        _check_line(self.url)
        _check_answer(self.url)
        self._client = self._connect()

    def submit(self, words: Sequence[str], code: Path | None = None) -> str:
        """Runs a command of robsearch in the head's home folder, with the environment that the head
        was started with.

        Args:
            words: behind ``robsearch``.
            code: a folder to put on the import path there, on all nodes.

        Returns:
            The job's id.

        Raises:
            InputError: the server does not take it.
        """
        command = f"exec python -m robsearch {shlex.join(words)}"
        # A job begins in its code's folder, which goes with it; results are to stay.
        steps = ["cd", command]
        if code is not None:
            steps.insert(0, 'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"')
        runtime = {} if code is None else {"working_dir": str(code)}
        try:
            return str(self._client.submit_job(entrypoint=" && ".join(steps), runtime_env=runtime))
        except Exception as error:
            raise self._refusal(error) from error

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Passes on what a job's command prints until it ends.

        Args:
            job: its id.
            write: is given pieces of text, of any length.

        Returns:
            The exit status of the command.

        Raises:
            InputError: the server is gone; the job goes on without it.
        """
        try:
            return self._follow(job, _Output(write))
        except Exception as error:
            expected = f"{self.url} to answer until job {job} ends"
            do = "the job goes on if its cluster does: see to the line, and look with `status`"
            raise refused(expected, _first_line(error), do) from error

    def _follow(self, job: str, output: _Output) -> int:
        # The server ends the stream of a job that prints nothing for a while; a new one begins with
        # the job's first line.
        while True:
            asyncio.run(self._stream(job, output))
            details = self._client.get_job_info(job)
            if details.status.is_terminal():
                break
            time.sleep(LOOK_SECONDS)
        output.restart()
        output.add(self._client.get_job_logs(job))
        output.end()
        if str(details.status) == SUCCEEDED:
            return 0
        if details.driver_exit_code is None:
            output.write(f"{details.message or 'the job ended, and Ray does not say why'}\n")
        return UNKNOWN_EXIT if details.driver_exit_code is None else int(details.driver_exit_code)

    async def _stream(self, job: str, output: _Output) -> None:
        output.restart()
        async for text in self._client.tail_job_logs(job):
            output.add(text)

    def _connect(self) -> JobSubmissionClient:
        # Its modules set levels of their loggers when they are imported.
        from ray.job_submission import JobSubmissionClient

        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with environment(dict.fromkeys(ADDRESSES)):
                return JobSubmissionClient(self.url)
        except Exception as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> InputError:
        expected = f"the job server of a Ray cluster at --address {self.url}"
        do = (
            "give the address of the head's dashboard, usually with port 8265, and where the "
            "cluster has a token, set RAY_AUTH_MODE=token and put it into ~/.ray/auth_token"
        )
        return refused(expected, _first_line(error), do)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


class _Output:
    """What a job's command prints, each piece once and without Ray's own lines before it."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self._before: str | None = ""  # what Ray printed; None once the command has begun
        self._passed = 0
        self._position = 0

    def restart(self) -> None:
        """What is added next is the job's first line, as at the beginning of each stream."""
        self._position = 0

    def add(self, text: str) -> None:
        """Passes on what is new of the text that follows the one before."""
        new = text[max(0, self._passed - self._position) :]
        self._position += len(text)
        self._passed = max(self._passed, self._position)
        if self._before is not None:
            self._before += new
            begins = BEGINS.search(self._before)
            if begins is None:
                return
            new = self._before[begins.end() :]
            self._before = None
        self.write(new)

    def end(self) -> None:
        """Passes on what Ray said where it did not run the command."""
        if self._before:
            self.write(self._before)


def _check_line(url: str) -> None:
    """What is sent is code and a token: others must be able neither to read nor to change it."""
    if url.startswith("http://") and urlsplit(url).hostname not in LOOPBACK:
        do = (
            "use https://, or a tunnel: `ssh -NL 8265:127.0.0.1:8265 HEAD`, then --address "
            "http://127.0.0.1:8265"
        )
        raise refused("--address https://HOST:PORT, or http:// on this machine", url, do)


def _check_answer(url: str) -> None:
    """Ray's own client waits for ever for an answer."""
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers, if only to ask for a token
    except (OSError, ValueError) as error:
        expected = f"a job server that answers at --address {url}"
        do = (
            "start the head with its dashboard (`ray start --head --include-dashboard=true`), or "
            "the tunnel to it"
        )
        raise refused(expected, getattr(error, "reason", error), do) from error
