"""What was read of one small file of each of many trials, kept in a single file.

To open thousands of files takes a second, and those of trials that have ended do not change any
more. What is kept is a copy: it counts for a file only as long as that has the size, the times and
the number that it had when it was read, and it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from robsearch.trials.files import replacing

FORMAT = 2
SETTLED_NS = 2_000_000_000
"""A file is kept that was last written so long before it was read: within a tick of a clock it
could be written once more, and look the same."""
FEW = 100
"""So many files are read each time without being kept."""

Signature = list[int]


class KeptFacts:
    """Facts from files of trials.

    Args:
        file: that keeps them; there need not be one.
        read: what is kept of a file, as JSON; empty for what shall not be kept, such as of a file
            that is missing or damaged.
    """

    def __init__(self, file: Path, read: Callable[[Path], dict[str, Any]]) -> None:
        self._file = file
        self._read = read
        self._kept = _load(file)
        self._fresh = 0

    def of(self, trial: str, file: Path) -> dict[str, Any]:
        """The facts of a trial's file: those that are kept, or as they are read from it now."""
        signature = signature_of(file)
        kept = self._kept.get(trial)
        if kept is not None and kept[0] == signature:
            facts: dict[str, Any] = kept[1]
            return dict(facts)
        facts = self._read(file)
        if facts and is_settled(signature):
            self._kept[trial] = [signature, facts]
            self._fresh += 1
        return dict(facts)

    def keep(self) -> None:
        """Writes down what is new, where that is much and the folder can be written."""
        if self._fresh >= max(FEW, len(self._kept) // 20):
            content = {"format": FORMAT, "facts": self._kept}
            body = json.dumps(content, separators=(",", ":")).encode()
            with suppress(OSError), replacing(self._file, is_shared=True) as unfinished:
                unfinished.write_bytes(_digest(body) + b"\n" + body)
            self._fresh = 0


def _load(file: Path) -> dict[str, list[Any]]:
    """What a file keeps; empty where it is missing or is not as it was written."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        head, _, body = file.read_bytes().partition(b"\n")
        if _digest(body) != head:
            return {}
        content = json.loads(body)
        facts: dict[str, list[Any]] = content["facts"]
        if content["format"] == FORMAT and all(map(_is_kept, facts.values())):
            return facts
    return {}


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _is_kept(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], dict)


def signature_of(file: Path) -> Signature:
    """What tells whether a file was written since: its size, times and number; empty without it."""
    try:
        stat = os.stat(file)
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def is_settled(signature: Signature) -> bool:
    """Whether a file that has just been read was last written some time before."""
    if not signature:
        return False
    _, modified, changed, _ = signature
    return max(modified, changed) < time.time_ns() - SETTLED_NS
