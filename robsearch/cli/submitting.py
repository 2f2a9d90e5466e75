"""Commands that can be sent to a cluster's job server: the same words are run there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from robsearch.errors import refused
from robsearch.printing import echo

SCHEMES = ("http://", "https://")
HERE = ("address", "follow", "out")
"""Options of which this machine takes care."""
JobAddress = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="https://HEAD:8265 of the cluster on which the search is (default: here)",
    ),
]
Follow = Annotated[
    bool,
    typer.Option("--follow", help="with --address URL: print what the job prints, until its end"),
]


class Launching(TyperCommand):
    """A command that drives a search: as a job it goes on when this machine leaves."""

    def invoke(self, context: Any) -> Any:
        """Runs it here, or, with ``--address URL``, there."""
        address = context.params["address"]
        if not is_url(address):
            if context.params["follow"]:
                do = "leave --follow out: without a URL the search runs in this terminal"
                raise refused("--follow with --address URL", address or "no --address", do)
            return super().invoke(context)
        raise typer.Exit(_launch(context))


class Looking(TyperCommand):
    """A command that is over in seconds: as a job it is waited for."""

    def invoke(self, context: Any) -> Any:
        """Runs it here, or, with ``--address URL``, there."""
        address = context.params["address"]
        if address is None:
            return super().invoke(context)
        if not is_url(address):
            do = "pass such as http://127.0.0.1:8265, or leave it out for results on this machine"
            raise refused("--address as the URL of a job server", repr(address), do)
        if context.params.get("watch"):
            raise refused("one look with --address URL", "--watch", "call it again to look again")
        raise typer.Exit(_look(context))


def is_url(address: str | None) -> bool:
    """Whether an address is that of a job server."""
    return address is not None and address.startswith(SCHEMES)


def _launch(context: Any) -> int:
    from robsearch.cluster.job_server import JobServer
    from robsearch.spaces.local_code import copy_code

    url = context.params["address"]
    name = context.params["name"]
    if name is None:
        do = "choose a name, by which `robsearch status NAME --address URL` finds the search"
        raise refused("--name NAME with --address URL", "none", do)
    words = [*words_of(context), "--address=auto"]
    server = JobServer(url)
    space = context.params["space"]
    with tempfile.TemporaryDirectory() as folder:
        sent = [] if space is None else copy_code(space, Path(folder))
        if sent:
            echo(f"sending {', '.join(sent)}", err=True)
        job = server.submit(words, Path(folder) if sent else None)
    echo(f"job {job} at {server.url}: robsearch {' '.join(words)}")
    if context.params["follow"]:
        return _followed(server, job)
    echo(f"look: robsearch status {name} --address {server.url}")
    echo(f"end:  robsearch stop {name} --address {server.url}")
    return 0


def _followed(server: Any, job: str) -> int:
    """The exit code of a job whose output is printed; Ctrl-C leaves the job alone."""
    try:
        return int(server.follow(job, _write))
    except KeyboardInterrupt:
        echo(f"no longer followed: job {job} goes on")
        return 130


def _look(context: Any) -> int:
    from robsearch.cluster.job_server import JobServer

    words = words_of(context)
    page = None
    if context.info_name == "report":
        page = context.params["out"] or Path(f"{context.params['name']}-report.html")
        words.append("--out=-")
    server = JobServer(context.params["address"])
    job = server.submit(words)
    if page is None:
        return int(server.follow(job, _write))
    pieces: list[str] = []
    code = int(server.follow(job, pieces.append))
    return _save_page("".join(pieces), page, code)


def _save_page(printed: str, file: Path, code: int) -> int:
    """Writes the page among what a job printed to a file, or prints what came instead."""
    start = printed.lower().find("<!doctype html")
    end = printed.rfind("</html>")
    if code or start < 0 or end < start:
        _write(printed)
        return code or 1
    text = printed[start : end + len("</html>")] + "\n"
    if file == Path("-"):
        _write(text)
        return 0
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise refused(
            f"to write the report {file}", error.strerror, "pass another --out"
        ) from error
    echo(f"report: {file}")
    return 0


def _write(text: str) -> None:
    echo(text.expandtabs(), end="")


def words_of(context: Any) -> list[str]:
    """A command as it was given on the command line, without what is this machine's part.

    What the environment says of this machine is not sent: the other one has its own.

    Raises:
        InputError: a URL with a password, which a job's command would show to all who see jobs.
    """
    words = [str(context.info_name)]
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if parameter.name in HERE or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name]
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            words += map(str, values)
        elif value is True:
            words.append(parameter.opts[0])
        else:
            words += [f"{parameter.opts[0]}={each}" for each in values]
    _refuse_passwords(words)
    return words


def _refuse_passwords(words: list[str]) -> None:
    from robsearch.trials.paths import without_password

    for word in words:
        if without_password(word) != word:
            do = "set ROBSEARCH_STORAGE or MLFLOW_TRACKING_URI where the head's Ray is started"
            raise refused("a job's command without a password", without_password(word), do)
