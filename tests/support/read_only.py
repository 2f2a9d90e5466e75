"""Results that may be read and not written, also by root, for commands run as processes."""

import os
import subprocess
import sys

import pytest

MOUNT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def run_read_only(folder, *words):
    """Runs a robsearch command while nothing below ``folder`` may be written; returns how it
    ended."""
    before = ()
    if os.geteuid() == 0:  # whom permissions do not bind
        before = ("unshare", "--mount", "sh", "-c", MOUNT, str(folder))
        if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
            pytest.skip("root may write everywhere, and may not mount anything here")
    command = [*before, sys.executable, "-m", "robsearch", *map(str, words)]
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)
