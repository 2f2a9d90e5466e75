"""The MLflow UI on a search's runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request

import psutil

from robsearch.errors import refuse_unless, refused
from robsearch.printing import echo
from robsearch.search.options import RunOptions
from robsearch.search.signals import handled
from robsearch.tracking import (
    check_tracking,
    experiment_of,
    experiment_page,
    opened,
    publish_view,
    served,
    ui_command,
)
from robsearch.trials.paths import without_password

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
OPEN_TO_ALL = (
    "it asks for no password: whoever reaches this machine can read and change the record. "
)


def serve_ui(name: str | None, port: int, options: RunOptions, host: str = LOOPBACK) -> int:
    """Runs the MLflow server on a search's store until it is stopped; for a served store, only says
    where it is.

    Returns:
        The exit code.

    Raises:
        InputError: no such search, a store that does not answer, or a port that is taken.
    """
    legal = 0 < port < 2**16
    refuse_unless((legal, "--port from 1 to 65535", port, "pass such as --port 5000"))
    record = options.store.search(name)[1] if name is not None else None
    uri = options.uri_of(record) if record else options.uri()
    check_tracking(uri)
    opened(uri, options.store.results)
    experiment = experiment_of(uri, record.name, record.identity) if record else None
    view = publish_view(uri, experiment) if experiment else None
    if served(uri):
        echo(f"MLflow UI: {experiment_page(without_password(uri), experiment, view)}")
        return 0
    _refuse_taken(host, port)
    names = _machine_names() if host == EVERYWHERE else [host]
    environment = {**os.environ, **_environment(uri, port, names)}
    server = subprocess.Popen(ui_command(uri, port, host), env=environment)
    try:
        # TERM ends it as Ctrl-C does, with the server that it started.
        with handled(signal.default_int_handler, signal.SIGTERM):
            if _answers(server, f"http://{LOOPBACK if host == EVERYWHERE else host}:{port}"):
                page = experiment_page(f"http://{names[0]}:{port}", experiment, view)
                echo(f"MLflow UI: {page}")
                echo(f"{'' if host == LOOPBACK else OPEN_TO_ALL}Ctrl-C ends it")
            return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0


def _machine_names() -> list[str]:
    """The names and addresses of this machine, the one that another machine may know first."""
    names = [socket.gethostname(), socket.getfqdn()]
    for card in psutil.net_if_addrs().values():
        names += [entry.address for entry in card if entry.address.count(".") == 3]
    return names


def _environment(uri: str, port: int, names: list[str]) -> dict[str, str]:
    """Of the server, which refuses browsers that call it by a name it was not told, or that come
    from its own page."""
    variables = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",  # of what MLflow is built on
    }
    if names != [LOOPBACK]:
        hosts = [f"{name}:{port}" for name in names]
        allowed = {
            "MLFLOW_SERVER_ALLOWED_HOSTS": ["localhost:*", "127.0.0.1:*", *hosts],
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": [f"http://{host}" for host in hosts],
        }
        for name, items in allowed.items():
            variables[name] = os.environ.get(name, ",".join(items))
    return variables


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            do = "pass another --port, or --host"
            raise refused(f"a free port {port} on {host}", error, do) from error


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Waits until the server answers; False if it ended before it did."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False
