"""Where a Ray of one machine keeps its temporary files, and what to do about a Ray that did not start."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir  # there is no public way to ask

from robsearch.errors import InputError, refusal

SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket."""
SOCKET = "session_2026-01-31_12-00-00_000000_{pid}/sockets/plasma_store"
"""The longest of Ray's own sockets, below its temporary folder (seen in Ray 2.60)."""

SHORTER = "set RAY_TMPDIR, or TMPDIR, to a short path such as /tmp"
WRITABLE = "set RAY_TMPDIR, or TMPDIR, to a folder on a local disk with room that you may write, of a short path"
TOKEN = "run on a node of that cluster, with its versions of Ray and Python; if it asks for a token, set "
TOKEN += "RAY_AUTH_MODE=token"

CAUSES = (
    (("No space left", "Disk quota", "Read-only file system", "Permission denied"), WRITABLE),
    (("object store", "/dev/shm"), "give /dev/shm more room (docker run --shm-size 4g), or free some memory"),
    (("Address already in use", "free port", "unused port"), "end other programs that listen on this machine's ports"),
    (("Resource temporarily unavailable", "can't start new thread"), "raise the limit of processes (ulimit -u)"),
    (("Too many open files",), "raise the limit of open files (ulimit -n)"),
)
"""What an error of a Ray on this machine says, and what to do then."""


def check_temporary() -> None:
    """Tries out the folder in which a Ray of this machine would keep its sockets and logs.

    Raises:
        InputError: its path is too long for a socket, or it cannot be written.
    """
    folder = Path(get_default_ray_temp_dir())
    socket = folder / SOCKET.format(pid=os.getpid())
    if (excess := len(os.fsencode(socket)) - SOCKET_BYTES) > 0:
        long = len(os.fsencode(folder.parent))
        expected = f"a path of at most {long - excess} bytes for temporary files, because Ray's sockets lie there"
        raise InputError(refusal(expected, f"{folder.parent}, {long} bytes", SHORTER))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        expected = f"a writable folder {folder} for Ray's temporary files"
        raise InputError(refusal(expected, error.strerror or error, WRITABLE)) from error


def not_started(address: str | None, error: Exception) -> InputError:
    """The refusal for a Ray that could not be joined, or did not start here, with the advice that fits."""
    where = f"a Ray cluster at {address}" if address else "a Ray that starts on this machine"
    return InputError(refusal(where, error, TOKEN if address else _advice(str(error))))


def _advice(text: str) -> str:
    logs = Path(get_default_ray_temp_dir()) / "session_latest" / "logs"
    known = (do for words, do in CAUSES if any(word in text for word in words))
    return next(known, f"its logs say why: {logs}")
