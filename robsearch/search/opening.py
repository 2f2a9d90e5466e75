"""Where to look once a search has run: the closing lines, and the MLflow UI."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator

import psutil

from robsearch.errors import InputError, refusal
from robsearch.laws import Optimum
from robsearch.naming import names_of
from robsearch.search.result import Search
from robsearch.search.strongest import strongest_text
from robsearch.search.workplace import Means
from robsearch.study import SearchRecord, others_than_lam, params_of, params_text, without_password
from robsearch.tracking import (
    check_tracking,
    experiment_of,
    experiment_page,
    found_again,
    opened,
    publish_view,
    served,
    shown,
    ui_command,
)

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
OPEN_TO_ALL = "it asks for no password: whoever reaches this machine can read and change the record. "


def closing_lines(search: Search, means: Means) -> Iterator[str]:
    """The answer of a search in a few lines, and where the rest is."""
    yield ""
    yield from (f"  {line}" for line in answer_lines(search))
    yield search.ridge.sentence()
    yield f"report: {search.report}"
    yield f"compare the trials: {invocation('ui', search.record, means)}"


def answer_lines(search: Search) -> Iterator[str]:
    """Lambda* and the best trial of each width."""
    for width, name in names_of(search.widths).items():
        yield f"width {name}: {optimum_text(search.ridge.optimum(width))}{_best(search, width)}"


def optimum_text(optimum: Optimum) -> str:
    """Lambda* at one width, with its interval, or the plain words that it is not determined."""
    if optimum.lam is None:
        return "lambda* not determined"
    estimate = f"lambda* = {optimum.lam:.3g} [{optimum.low:.3g}, {optimum.high:.3g}]"
    return estimate + (f" ({optimum.censored})" if optimum.censored else "")


def _best(search: Search, width: float) -> str:
    best = search.best(width)
    if best is None:
        return f"; {why}" if (why := search.all_collapsed(width)) else ""
    told = [f"lam {best['lam']:.3g}", params_text(others_than_lam(params_of(best)))]
    return f"; best trial {best['trial']} with {', '.join(filter(None, told))}, {strongest_text(search, width)}"


def invocation(command: str, record: SearchRecord, means: Means) -> str:
    """A command for a search as a person pastes it, without what the search remembers, and without passwords."""
    remembered = found_again(record.tracking, record.name, means.place.results)
    known = means.tracking is None or without_password(means.tracking) == remembered
    return means.place.command(command, record.name, tracking=None if known else means.tracking)


def serve(name: str | None, port: int, means: Means, host: str = LOOPBACK) -> int:
    """Runs the MLflow server on a search's store until it is stopped; for a served store, only says where it is.

    Returns:
        The exit code.

    Raises:
        InputError: no such search, a store that does not answer, or a port that is taken.
    """
    record = means.place.search(name)[1] if name is not None else None
    uri = means.uri_of(record) if record else means.uri()
    check_tracking(uri)
    opened(uri, means.place.results)
    experiment = experiment_of(uri, record.name, record.identity) if record else None
    view = publish_view(uri, experiment) if experiment else None
    if served(uri):
        print(f"MLflow UI: {experiment_page(shown(uri), experiment, view)}", flush=True)
        return 0
    _refuse_taken(host, port)
    names = _own_names() if host == EVERYWHERE else [host]
    server = subprocess.Popen(ui_command(uri, port, host), env={**os.environ, **_environment(uri, port, names)})
    try:
        with _ended_by_term():
            if _answers(server, f"http://{LOOPBACK if host == EVERYWHERE else host}:{port}"):
                print(f"MLflow UI: {experiment_page(f'http://{names[0]}:{port}', experiment, view)}", flush=True)
                print(f"{'' if host == LOOPBACK else OPEN_TO_ALL}Ctrl-C ends it", flush=True)
            return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0


def _own_names() -> list[str]:
    """The names and addresses of this machine, the one that another machine may know first."""
    addresses = [one.address for of_card in psutil.net_if_addrs().values() for one in of_card]
    return [socket.gethostname(), socket.getfqdn(), *(one for one in addresses if one.count(".") == 3)]


def _environment(uri: str, port: int, names: list[str]) -> dict[str, str]:
    """Of the server, which refuses browsers that call it by a name it was not told, or that come from its own page."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet["PYTHONWARNINGS"] = "ignore"  # of what MLflow is built on
    known = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(["localhost:*", "127.0.0.1:*", *(f"{name}:{port}" for name in names)]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in names),
    }
    chosen = {name: os.environ.get(name, value) for name, value in known.items()}
    return {**quiet, **({} if names == [LOOPBACK] else chosen), "MLFLOW_BACKEND_STORE_URI": uri}


@contextlib.contextmanager
def _ended_by_term() -> Iterator[None]:
    """TERM ends it as Ctrl-C does, with the server that it started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            do = "pass another --port, or --host"
            raise InputError(refusal(f"a free port {port} on {host}", error, do)) from error


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Waits until the server answers; False if it ended before it did."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False
