"""Which process this is, so that another one can tell whether it is still there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROC = Path("/proc")
TABLE = ("boot", "pid_namespace", "time_namespace")
"""What says in which process table a number means a process. A host name does not: containers on
their host's network have that of the host, and process tables of their own."""
ENDED = "ZX"
"""States of a process that has ended and that its parent has not asked for yet."""


def this_process() -> dict[str, Any]:
    """This process, in words that JSON keeps: its number ``pid``, the ``start_ticks`` between the
    machine's boot and its start, and the process table in which they hold (``boot``,
    ``pid_namespace``, ``time_namespace``).

    Where the system does not say so (it is no Linux), all but the number are None.
    """
    pid = os.getpid()
    unknown = {"pid": pid, "start_ticks": None, **dict.fromkeys(TABLE)}
    try:
        # With the /proc of another namespace, numbers mean other processes than for ``kill``.
        if os.readlink(PROC / "self") != str(pid):
            return unknown
        _, start_ticks = _state(pid)
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        spaces = [os.readlink(PROC / "self/ns" / kind) for kind in ("pid", "time")]
    except (OSError, ValueError):
        return unknown
    table = dict(zip(TABLE, (boot, *spaces), strict=True))
    return {"pid": pid, "start_ticks": start_ticks, **table}


def is_there(process: Mapping[str, Any]) -> bool | None:
    """Whether a process is still there: None if this one cannot tell, because it has another
    process table, or was not told which.

    Args:
        process: as its ``this_process`` said.
    """
    here = this_process()
    if any(here[key] is None or process.get(key) != here[key] for key in TABLE):
        return None
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    try:
        state, start_ticks = _state(process["pid"])
    except (OSError, ValueError):  # hidden from this user, or just gone
        return None
    # The system gives the numbers of processes that have ended to others.
    return state not in ENDED and start_ticks == process["start_ticks"]


def _state(pid: int) -> tuple[str, int]:
    """A process's state (a letter), and when it started in clock ticks since the machine's boot:
    no change of the wall clock moves that."""
    content = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    # The name, in brackets, may hold brackets and spaces itself.
    fields = content.rpartition(")")[2].split()
    return fields[0], int(fields[19])
