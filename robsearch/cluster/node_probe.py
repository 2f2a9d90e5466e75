"""What a node says of itself, to a driver that asks: this runs there.

It is sent by value, and imports nothing but Python's own modules and Ray: a node that lacks
robsearch, or torch, says so.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pickle
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

GPU_SECONDS = 40
"""For which torch may look at the GPUs of a node."""
GPUS = """
import json, torch
names = []
for number in range(torch.cuda.device_count()):
    torch.ones(1, device=f"cuda:{number}").add(1).item()
    memory = torch.cuda.get_device_properties(number).total_memory / 2**30
    names.append(f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB")
print(json.dumps(names))
"""
HIDING = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""By these Ray hides all GPUs from a task that takes none."""


def answer(exchange: Path, node: str, carried: bytes | None) -> dict[str, Any]:
    """What a job depends on.

    Args:
        exchange: a folder in the results folder, with a file ``driver``.
        node: the name of the file into which the text of that one is copied.
        carried: a pickled function without arguments, which is called.

    Returns:
        ``sharing``: why the file could not be copied, or None; ``lacking``: the package that could
        not be imported, or None; ``error``: what else went wrong with the function, or None;
        ``result``: what it returned.
    """
    facts: dict[str, Any] = {"sharing": None, "lacking": None, "error": None, "result": None}
    try:
        (exchange / node).write_text((exchange / "driver").read_text())
    except FileNotFoundError:
        facts["sharing"] = "another folder there"
    except OSError as error:
        facts["sharing"] = f"{type(error).__name__}: {error}"
    if carried is not None:
        try:
            facts["result"] = pickle.loads(carried)()
        except Exception as error:
            facts["lacking"] = _lacking(error)
            problems = getattr(error, "problems", (f"{type(error).__name__}: {error}",))
            facts["error"] = None if facts["lacking"] else "; ".join(problems)
    return facts


def thorough_answer(
    exchange: Path,
    node: str,
    carried: bytes | None,
    packages: Sequence[str],
    gpus: float,
) -> dict[str, Any]:
    """All that ``robsearch doctor`` asks; see ``answer``.

    Args:
        exchange: as there.
        node: as there.
        carried: as there.
        packages: whose versions are wanted.
        gpus: of this node, as Ray counts them.

    Returns:
        The same, and ``versions`` by package (None: it is not there), ``python``, ``host``,
        ``gpus`` (names of those that torch uses), ``gpu_error``, ``free`` and ``size`` in bytes of
        the folders ``results``, ``temporary`` and ``cache``, ``folders`` (their paths),
        ``unwritable`` (why the cache cannot be written), ``data`` (ROBSEARCH_DATA),
        ``data_there`` and ``token`` (see ``_token``).
    """
    cache = Path(os.environ.get("ROBSEARCH_CACHE") or "~/.cache/robsearch").expanduser()
    folders = {
        "results": exchange.parent,
        "temporary": Path(ray.get_runtime_context().get_temp_dir()),
        "cache": cache.absolute(),
    }
    usage = {name: shutil.disk_usage(_existing(folder)) for name, folder in folders.items()}
    data = os.environ.get("ROBSEARCH_DATA")
    names, error = _gpus() if gpus or Path("/dev/nvidiactl").exists() else ([], None)
    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {package: installed_version(package) for package in packages},
        "gpus": names,
        "gpu_error": error,
        "folders": {name: str(folder) for name, folder in folders.items()},
        "free": {name: of_disk.free for name, of_disk in usage.items()},
        "size": {name: of_disk.total for name, of_disk in usage.items()},
        "unwritable": _unwritable(_existing(folders["cache"])),
        "data": data,
        "data_there": None if data is None or "://" in data else Path(data).is_dir(),
        "token": _token(),
        **answer(exchange, node, carried),
    }


def clock() -> float:
    """Unix seconds."""
    return time.time()


def _lacking(error: BaseException) -> str | None:
    """The package that was missing when others were imported, if that was the cause."""
    lacking = None
    for cause in _causes(error):
        if isinstance(cause, ImportError):
            lacking = cause.name or str(cause)
    return lacking


def _causes(error: BaseException) -> Iterator[BaseException]:
    """As ``robsearch.errors.causes``, which may not be there."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _unwritable(folder: Path) -> str | None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def installed_version(package: str) -> str | None:
    """The version of a package in this process's installation; None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> tuple[list[str], str | None]:
    """The GPUs that torch can add numbers on, and why it cannot, in a process that sees them."""
    environment = {name: value for name, value in os.environ.items() if name not in HIDING}
    words = [sys.executable, "-c", GPUS]
    try:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=GPU_SECONDS
        )
    except subprocess.TimeoutExpired:
        return [], f"torch did not answer within {GPU_SECONDS} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return [], lines[-1]
    return json.loads(done.stdout.splitlines()[-1]), None


def token_file() -> Path:
    """Where Ray looks for its token here, by the rules of its documentation."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def _token() -> Mapping[str, Any]:
    """Where this node has Ray's token (``where``: a variable's name, a file or None), and whether
    others may read that file (``open``)."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return {"where": "RAY_AUTH_TOKEN", "open": False}
    file = token_file()
    try:
        mode = file.stat().st_mode
        outer = file.parent.stat().st_mode
    except OSError:
        return {"where": None, "open": False}
    readable = bool(stat.S_IMODE(mode) & 0o044) and bool(stat.S_IMODE(outer) & 0o011)
    return {"where": str(file), "open": readable}
