"""A disk without room."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def disk_of(size: str, folder: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of a size such as ``24m``; skips where none can be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        yield folder
    finally:
        # Lazily: a process that still ends may have a file open there.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def ballast(disk):
    """Takes all room that is left, and gives it back when it is removed."""
    file = disk / "ballast"
    with file.open("wb", buffering=0) as filled, contextlib.suppress(OSError):
        while filled.write(bytes(4096)):
            pass
    assert shutil.disk_usage(disk).free == 0
    return file
