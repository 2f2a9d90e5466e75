"""A disk without room."""

import contextlib
import shutil


def ballast(disk):
    """Takes all room that is left, and gives it back when it is removed."""
    file = disk / "ballast"
    with file.open("wb", buffering=0) as filled, contextlib.suppress(OSError):
        while filled.write(bytes(4096)):
            pass
    assert shutil.disk_usage(disk).free == 0
    return file
