"""PostgreSQL servers for tests, where it is installed."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from mlflow_stores import free_port


class Server:
    """A PostgreSQL of its own, stopped and started as an administrator would."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.as_user = [] if os.getuid() else ["runuser", "-u", "postgres", "--"]
        if self.as_user:
            shutil.chown(folder, "postgres")
        data = str(folder / "data")
        self.run(program("initdb"), "-D", data, "-A", "trust", "-U", "me", "--no-sync")
        self.start()

    def run(self, *words):
        subprocess.run(
            [*self.as_user, *words], check=True, cwd=self.folder, stdout=subprocess.DEVNULL
        )

    def start(self):
        how = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        data = str(self.folder / "data")
        log = str(self.folder / "log")
        self.run(program("pg_ctl"), "-D", data, "-o", how, "-l", log, "-w", "start")

    def stop(self):
        self.run(program("pg_ctl"), "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")

    def end(self):
        """As ``stop``, also where a test left it stopped."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()

    @property
    def url(self):
        return f"postgresql+psycopg2://me@127.0.0.1:{self.port}/postgres"


def program(name):
    """Debian has the server's programs on no path."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


@contextlib.contextmanager
def postgresql():
    """A server that runs; skips the test where none is installed."""
    pytest.importorskip("psycopg2", reason="the driver psycopg2 is not installed")
    if not (program("initdb") and program("pg_ctl")):
        pytest.skip("no PostgreSQL is installed here (initdb, pg_ctl)")
    # Not among pytest's folders, which are nobody's but its user's: the server is another user's.
    with tempfile.TemporaryDirectory(prefix="robsearch-postgresql-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        made = Server(folder)
        try:
            yield made
        finally:
            made.end()
