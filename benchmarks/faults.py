"""What a search keeps when something breaks, at random times.

Each fault is really done to a search of its own, with a Ray, a results folder and an MLflow store
of its own: a process is killed or stopped, a database is locked, a server goes away, a disk is
full, a journal is damaged. It is done at ``--times`` random times: the length of a search to which
nothing happens is cut into as many parts, and a time is drawn in each, so the start, the middle and
the end have their share. Afterwards the same command, ``robsearch launch ... --or-resume``, is
given again until it ends with 0, as an operator's loop, a spot job or Kubernetes would do it.

Then Optuna's storage, MLflow and the trials' folders are asked. A case agrees if each of the trials
that were asked for is there once in all three, ended, with each of its epochs once, if all were
measured on test, if no command printed a traceback, and if no process is left.

Prints a line for each case and at last ``faults: ratio=`` the share of the cases that agree. No
process is touched that the script did not start. Filling a disk takes the right to mount one;
without it that fault is left out, which is said.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psutil
from nodes import count, ended_by_signals, judged, tiny, wait_for_answer

from robsearch import TRADES, Recipe, space
from robsearch.protocols import Labels, Logits
from robsearch.study import JOURNAL
from robsearch.tracking import default_uri, ui_command

NAME = "s"
WIDTHS = (2, 4)
EPOCHS = 8
STEP_SECONDS = 0.25
"""That each step waits; an epoch has two. So a trial lasts some seconds, while its net is tiny."""
TRIALS = 6
LAUNCHES = 4
"""How often the command is given at most, the first time included."""
AWAY = 15.0
"""Seconds for which a server, a database or a disk's room is away."""


# --- the space ---


@dataclasses.dataclass(frozen=True)
class Slow(TRADES):
    """TRADES, of which each step waits."""

    def terms(self, clean_logits: Logits, adv_logits: Logits, y: Labels) -> object:
        time.sleep(STEP_SECONDS)
        return super().terms(clean_logits, adv_logits, y)


@space(
    widths=WIDTHS,
    sampler=optuna.samplers.RandomSampler(seed=0),
    pruner=optuna.pruners.NopPruner(),
)
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width."""
    return tiny(width, trial.suggest_float("lam", 0.5, 32.0, log=True), Slow(), EPOCHS)


# --- one search, and the processes around it ---


class Search:
    """A search in a folder of its own, and all processes that work for it.

    Args:
        folder: short, because Ray's sockets lie in it.
        rng: for what a fault draws.
        trials: that are asked for.
    """

    def __init__(self, folder: Path, rng: random.Random, trials: int) -> None:
        self.folder = folder
        self.rng = rng
        self.trials = trials
        self.results = folder / "results"
        self.results.mkdir()
        self.storage: str | None = None
        self.tracking = default_uri(self.results)
        self.more: list[str] = []
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.server = ServerOfMLflow(self)
        self.repairs = ""
        home = folder / "home"
        home.mkdir()
        self.mark = secrets.token_hex(8)
        kept = ("PATH", "LANG", "VIRTUAL_ENV", "ROBSEARCH_CACHE")
        self._environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).resolve().parents[:2])),
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "ROBSEARCH_PASS_ENV": "FAULTS_MARK",
            "FAULTS_MARK": self.mark,
        }

    @property
    def driver(self) -> subprocess.Popen[bytes]:
        """That was started last."""
        return self.drivers[-1]

    @property
    def said(self) -> str:
        """What all drivers printed."""
        files = sorted(self.folder.glob("driver-*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def launch(self) -> subprocess.Popen[bytes]:
        """Gives the command, once more if it was given before."""
        words = ["launch", "faults:digits", "--name", NAME, "--or-resume", "--parallel", "2"]
        words += ["--trials", str(self.trials), "--results", str(self.results)]
        words += ["--tracking", self.tracking, *self.more]
        if self.storage:
            words += ["--storage", self.storage]
        driver = self.start(f"driver-{len(self.drivers)}", "robsearch", *words)
        self.drivers.append(driver)
        return driver

    def start(self, log: str, *module: str) -> subprocess.Popen[bytes]:
        """A module of Python that runs on and prints into a file."""
        with (self.folder / f"{log}.log").open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", *module],
                env=self._environment,
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *words: str) -> str:
        """What a command of robsearch prints, once it has ended."""
        done = subprocess.run(
            [sys.executable, "-m", "robsearch", *words, "--results", str(self.results)],
            env=self._environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return done.stdout

    def until_it_ends(self) -> None:
        """Gives the command again until it ends with 0."""
        while self.ended() != 0 and len(self.drivers) < LAUNCHES:
            self.launch()

    def ended(self, seconds: float = 300.0) -> int:
        """The exit status of the driver that was started last, once it has ended."""
        return self.driver.wait(seconds)

    def of_ray(self, *names: str) -> list[psutil.Process]:
        """The driver's processes whose program or title begins so; waits for one to come, and is
        empty if the search ends before."""
        while self.driver.poll() is None:
            processes = [each for each in self.below() if title(each).startswith(names)]
            if processes:
                return processes
            time.sleep(0.05)
        return []

    def below(self) -> list[psutil.Process]:
        """All processes that the driver started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.driver.pid).children(recursive=True)
        return []

    def left(self) -> list[psutil.Process]:
        """The processes that still work for this search."""
        return [each for each in psutil.process_iter() if self._has_mark(each)]

    def end(self) -> None:
        """Kills all that is left."""
        for process in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for driver in self.drivers:
            driver.wait()
        if self.server.process:
            self.server.process.wait()

    def _has_mark(self, process: psutil.Process) -> bool:
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            return self.mark.encode() in environment or str(self.folder).encode() in environment
        return False


def title(process: psutil.Process) -> str:
    """``raylet`` and the like for a program, ``ray::...`` for a worker."""
    with contextlib.suppress(psutil.Error, IndexError):
        first = process.cmdline()[0]
        return first if first.startswith("ray::") else Path(first).name
    return ""


# --- the faults ---


class ServerOfMLflow:
    """On a sqlite store of its own, once it is started."""

    def __init__(self, search: Search) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._search = search
        self._store = f"sqlite:///{search.folder / 'server.db'}"
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns once it answers."""
        command = ui_command(self._store, self._port)[2:]
        artifacts = ["--artifacts-destination", str(self._search.folder / "artifacts")]
        self.process = self._search.start("mlflow", *command, *artifacts)
        wait_for_answer(f"{self.uri}/health")

    def kill(self) -> None:
        """Its worker, too."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to a search.

    Args:
        do: to a search that runs, at the random time.
        prepare: before it is launched.
        restore: once it has ended with 0, before anything is counted.
    """

    do: Callable[[Search], None]
    prepare: Callable[[Search], None] = lambda search: None
    restore: Callable[[Search], None] = lambda search: None


def send(number: signal.Signals) -> Callable[[Search], None]:
    """A signal to the driver."""

    def do(search: Search) -> None:
        search.driver.send_signal(number)

    return do


def kill_twice(search: Search) -> None:
    """Kills the driver, and at a random time the one that goes on."""
    search.driver.kill()
    search.driver.wait()
    driver = search.launch()
    with contextlib.suppress(subprocess.TimeoutExpired):
        driver.wait(search.rng.uniform(1, 25))
    driver.kill()


def cut_power(search: Search) -> None:
    """Kills the driver and all its processes at once, as far as that goes."""
    processes = search.below()
    search.driver.kill()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def stop_and_take_over(search: Search) -> None:
    """Stops the driver as a machine that hangs does, lets another one take over, and lets the first
    one go on when that has ended."""
    first = search.driver
    first.send_signal(signal.SIGSTOP)
    search.launch()
    search.until_it_ends()
    first.send_signal(signal.SIGCONT)
    first.wait(300)


def signal_one(number: signal.Signals, *names: str) -> Callable[[Search], None]:
    """A signal to one of Ray's processes."""

    def do(search: Search) -> None:
        processes = search.of_ray(*names)
        if processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                search.rng.choice(processes).send_signal(number)

    return do


def short_of_patience(search: Search) -> None:
    """A worker that says nothing for this long counts as hung."""
    search.more += ["--hang-after", "20"]


def on_sqlite(search: Search) -> None:
    """Optuna's storage is a database instead of a journal."""
    search.storage = f"sqlite:///{search.folder / 'optuna.db'}"


def lock(search: Search) -> None:
    """Another process holds Optuna's database for a while."""
    hold(search.folder / "optuna.db", search)


def lock_record(search: Search) -> None:
    """Another process holds MLflow's database for a while."""
    hold(search.results / "mlflow.db", search)


def hold(file: Path, search: Search) -> None:
    """Locks a database of sqlite, once it is there, if the search does not end before."""
    while not file.exists() and search.driver.poll() is None:
        time.sleep(0.1)
    with contextlib.closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(AWAY)
        connection.execute("ROLLBACK")


def with_server(search: Search) -> None:
    """MLflow is a server."""
    search.server.start()
    search.tracking = search.server.uri


def server_away(search: Search) -> None:
    """MLflow's server is killed, and comes back."""
    search.server.kill()
    time.sleep(AWAY)
    search.server.start()


def server_gone(search: Search) -> None:
    """MLflow's server is killed, and stays away until the search has ended."""
    search.server.kill()


def server_back(search: Search) -> None:
    """What MLflow lacks is delivered."""
    search.server.start()
    deliver(search)


def deliver(search: Search) -> None:
    """Does what the driver says at its end where MLflow lacks something."""
    if "delivers what waits" in search.said:
        search.repairs += search.run("sync", NAME, "--tracking", search.tracking)


def on_small_disk(search: Search) -> None:
    """The results lie on a disk of 64 MB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(search.results)]
    subprocess.run(mount, check=True)


def fill(search: Search) -> None:
    """The disk is full for a while."""
    ballast = search.results / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    time.sleep(AWAY)
    ballast.unlink()


def tear(search: Search) -> None:
    """Kills the driver, and its last line is written in half."""
    search.driver.kill()
    search.driver.wait()
    journal = search.results / NAME / JOURNAL
    if journal.exists():
        lines = journal.read_bytes().splitlines(keepends=True)
        if lines:
            journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])


def damage(search: Search) -> None:
    """Kills the driver, and a line of its journal is zeros; then does what every command says."""
    search.driver.kill()
    search.driver.wait()
    journal = search.results / NAME / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    if not lines:
        return
    place = search.rng.randrange(len(lines))
    lines[place] = bytes(len(lines[place]) - 1) + b"\n"
    journal.write_bytes(b"".join(lines))
    search.repairs += search.run("repair", NAME, "--apply", "--space", "faults:digits")


WORKER = ("ray::ImplicitFunc", "ray::IDLE")
AGENT = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
FAULTS = {
    "driver killed": Fault(send(signal.SIGKILL)),
    "driver killed, and the next": Fault(kill_twice),
    "driver terminated": Fault(send(signal.SIGTERM)),
    "driver interrupted": Fault(send(signal.SIGINT)),
    # A process that is stopped may hold a lock on MLflow's database.
    "driver stopped, taken over": Fault(stop_and_take_over, restore=deliver),
    "all processes killed": Fault(cut_power),
    "worker killed": Fault(signal_one(signal.SIGKILL, *WORKER)),
    "worker stopped": Fault(signal_one(signal.SIGSTOP, *WORKER), short_of_patience),
    "agent of Ray killed": Fault(signal_one(signal.SIGKILL, *AGENT)),
    "raylet killed": Fault(signal_one(signal.SIGKILL, "raylet")),
    "GCS killed": Fault(signal_one(signal.SIGKILL, "gcs_server")),
    "sqlite locked": Fault(lock, on_sqlite),
    "MLflow's sqlite locked": Fault(lock_record, restore=deliver),
    "MLflow away": Fault(server_away, with_server),
    "MLflow gone, then synced": Fault(server_gone, with_server, server_back),
    "disk full": Fault(fill, on_small_disk),
    "journal torn": Fault(tear),
    "journal damaged, repaired": Fault(damage),
}


# --- a case ---


def run_case(
    fault: Fault, at: float, rng: random.Random, trials: int = TRIALS
) -> tuple[str, list[str]]:
    """Does a fault to a search of so many trials, at a time in seconds after the launch, and waits
    until it has ended.

    Returns:
        What was counted, and what is wrong with it.
    """
    with tempfile.TemporaryDirectory(prefix="rs", ignore_cleanup_errors=True) as temporary:
        search = Search(Path(temporary).resolve(), rng, trials)
        try:
            fault.prepare(search)
            driver = search.launch()
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(at)
            try:
                fault.do(search)
                search.until_it_ends()
            except subprocess.TimeoutExpired as late:
                return "hangs", [f"a command did not end within {late.timeout:.0f} s", search.said]
            fault.restore(search)
            return outcome(search)
        finally:
            search.end()
            if os.path.ismount(search.results):
                # Lazily: a process that still ends may have a file open there.
                subprocess.run(["umount", "--lazy", str(search.results)], check=True)


def outcome(search: Search) -> tuple[str, list[str]]:
    """What a search that has ended has, and what is wrong with that."""
    statuses = [driver.poll() for driver in search.drivers]
    counts = count(search.results, search.storage, search.tracking, WIDTHS)
    rows, ratio, problems = judged(counts, EPOCHS)
    if ratio < 1:
        problems += [" ".join(row) for row in rows if row[-1] != "yes"]
    if statuses[-1] != 0 and 0 not in statuses:
        problems.append(f"no command ended with 0: {statuses}")
    if "Traceback" in search.said + search.repairs:
        problems.append("a traceback was printed")
    if counts["asked"] != search.trials:
        problems.append(f"{counts['asked']} trials are asked for, not {search.trials}")
    problems += [f"a process is left: {words}" for words in left_after(search, 30)]
    if problems:
        problems.append(search.said)
    attempts = sum(len(nodes) for _, nodes in counts["folders"].values())
    exits = ", ".join(map(str, statuses))
    return f"exits {exits}; {attempts} attempts; {ratio:.0%} agree", problems


def left_after(search: Search, seconds: float) -> list[str]:
    """The commands of the processes that are still there so much later."""
    search.server.kill()
    end = time.monotonic() + seconds
    while (processes := search.left()) and time.monotonic() < end:
        time.sleep(0.5)
    commands = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            commands.append(" ".join(process.cmdline())[:120])
    return commands


# --- the script ---


def cases(
    names: list[str], times: int, length: float, rng: random.Random
) -> Iterator[tuple[str, float]]:
    """Fault by fault, with a time in each part of a search."""
    for name in names:
        for part in range(times):
            yield name, length * (part + rng.random()) / times


def length_of_a_search(rng: random.Random) -> float:
    """Seconds of a search to which nothing happens.

    Raises:
        RuntimeError: it does not agree by itself.
    """
    ends = []

    def wait(search: Search) -> None:
        search.ended()
        ends.append(time.monotonic())

    begun = time.monotonic()
    counted, problems = run_case(Fault(wait), 0.0, rng)
    if problems:
        raise RuntimeError(f"a search to which nothing happened: {counted}; {problems}")
    return ends[0] - begun


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="kills one driver, once")
    options.add_argument("--times", type=int, default=3, help="of each fault (3)")
    options.add_argument("--only", nargs="+", choices=FAULTS, metavar="FAULT", help="some faults")
    options.add_argument("--seed", type=int, default=0, help="of the times (0)")
    asked = options.parse_args()
    rng = random.Random(asked.seed)
    names = asked.only or list(FAULTS)
    if "disk full" in names and (os.geteuid() != 0 or shutil.which("mount") is None):
        print("left out: disk full, for no disk can be mounted here")
        names.remove("disk full")
    agreeing = number = 0
    with ended_by_signals():
        trials = 2 if asked.quick else TRIALS
        if asked.quick:
            names, asked.times, length = ["driver killed"], 1, 14.0
        else:
            length = length_of_a_search(rng)
            print(f"a search to which nothing happens takes {length:.0f} s", flush=True)
        for name, at in cases(names, asked.times, length, rng):
            counted, problems = run_case(FAULTS[name], at, rng, trials)
            agrees = "agrees" if not problems else "DOES NOT AGREE"
            print(f"{name:28} after {at:4.1f} s  {agrees}: {counted}", flush=True)
            for problem in problems:
                print("   ", problem.replace("\n", "\n    "), flush=True)
            agreeing += not problems
            number += 1
    print(f"faults: ratio={agreeing / number:.2f} goal=1 n={number}")


if __name__ == "__main__":
    main()
