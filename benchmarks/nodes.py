"""What a search keeps of its trials while the machines under it come and go: a node dies, another
one joins, one is cut off for a while and comes back, and the database restarts.

Each node is a Linux network namespace with an address and a host name of its own. A veth pair
connects it to a bridge, which lies in one more namespace together with PostgreSQL and an MLflow
server, so nothing outside is touched and nothing outside is reached. The nodes share the file
system, which stands for shared storage; one that is cut off goes on writing there, as a machine
would whose storage has a network of its own. Each runs ``ray start`` with token authentication: a
head without CPUs, on which ``robsearch launch --address`` runs, and three workers of one CPU each.

Ray gives a node up that it does not hear of for some 20 seconds. One that is cut off for longer
finds that out when it comes back, and ends; the script then starts Ray there again, as Slurm,
Kubernetes or systemd would.

After the search Optuna's storage, MLflow and the trials' folders are asked what they have. A trial
agrees if all three have it once, ended and with each of its epochs once. Prints a line for each
event and each trial, and at last ``nodes: ratio=`` the share of the trials asked for that agree;
it is 0 where anything is left over or runs on.

It needs Linux, the rights of root, ``ip``, ``unshare`` and PostgreSQL (Debian's ``iproute2``,
``util-linux`` and ``postgresql``), and says so where one is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from robsearch import MLP, PGD, SGD, TRADES, Digits, Fixed, LogitMargin, Recipe, load_search, space
from robsearch.metrics import VALUE
from robsearch.protocols import Labels, Logits, Objective
from robsearch.study import JOURNAL
from robsearch.trials.loading import read_history
from robsearch.trials.provenance import read_attempts

NAME = "s"
WIDTHS = (2, 4, 8)
EPOCHS = "NODES_EPOCHS"
"""The variable that says how many epochs the trials of this run have."""
DONE = "NODES_DONE"
"""The variable that names the file which is there once all has happened that was to happen."""
STEP_SECONDS = 2.0
"""That a step lasts at least until then; an epoch has two. So trials last, while the nets stay
tiny."""
STARTS = 10
"""How often a node is tried to be started."""
NET = "10.213.7"
HUB = f"{NET}.254"
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
ADDRESSES = {"head": 1, "n1": 2, "n2": 3, "n3": 4}
"""The last number of each node's address."""
PROGRAMS = ("ip", "unshare", "runuser")


# --- the space ---


@dataclasses.dataclass(frozen=True)
class Paced(TRADES):
    """TRADES, of which a step lasts some seconds until a file is there."""

    until: str = ""

    def terms(self, clean_logits: Logits, adv_logits: Logits, y: Labels) -> Any:
        if self.until and not os.path.exists(self.until):
            time.sleep(STEP_SECONDS)
        return super().terms(clean_logits, adv_logits, y)


def tiny(width: float, lam: float, objective: Objective, epochs: int) -> Recipe:
    """Two steps an epoch, each in milliseconds beside what its objective waits."""
    attack = PGD(eps=0.1, step_size=0.05, steps=2)
    return Recipe(
        model=MLP(width=width, depth=1),
        data=Digits(train=100),
        attack=attack,
        eval_attack=attack,
        objective=objective,
        lam=Fixed(lam),
        optimiser=SGD(lr=0.1),
        measures=(LogitMargin(),),
        epochs=epochs,
        batch_size=50,
    )


@space(
    widths=WIDTHS,
    sampler=optuna.samplers.RandomSampler(seed=0),
    pruner=optuna.pruners.NopPruner(),
)
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width."""
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    return tiny(width, lam, Paced(until=os.environ.get(DONE, "")), int(os.environ.get(EPOCHS, 20)))


# --- what is asked once the search has ended ---


def once(steps: list[int], epochs: int) -> bool:
    """Whether each epoch is there once."""
    return sorted(steps) == list(range(1, epochs + 1))


def in_optuna(
    storage: optuna.storages.BaseStorage, widths: Sequence[float]
) -> dict[str, tuple[str, list[int]]]:
    """The state of each trial and the epochs that have a value; a second value of one epoch has no
    place in Optuna's tables."""
    trials = {}
    for width in widths:
        study = optuna.load_study(study_name=f"{NAME}@w{width}", storage=storage)
        for trial in study.get_trials():
            key = f"w{width}-{trial.number:03d}"
            trials[key] = trial.state.name, sorted(trial.intermediate_values)
    return trials


def in_mlflow(uri: str) -> list[tuple[str, str, list[int]]]:
    """The trial and the status of each run, and the epochs of its curve."""
    from mlflow import MlflowClient

    from robsearch.tracking import TRIAL
    from robsearch.tracking.store import all_runs

    client = MlflowClient(uri)
    rows = []
    for run in all_runs(client, client.get_experiment_by_name(NAME).experiment_id):
        points = client.get_metric_history(run.info.run_id, VALUE)
        # Step 0 has the value of the best epoch.
        steps = [point.step for point in points if point.step > 0]
        rows.append((run.data.tags[TRIAL], run.info.status, steps))
    return rows


def count(results: Path, url: str | None, uri: str, widths: Sequence[float]) -> dict[str, Any]:
    """What Optuna, MLflow and the folders have; runs where their servers can be reached.

    Args:
        url: of Optuna's storage; None for the journal in the search's folder.
    """
    search = load_search(NAME, results, url)
    if url:
        storage = optuna.storages.get_storage(url)
    else:
        storage = JournalStorage(JournalFileBackend(str(results / NAME / JOURNAL)))
    folders = {}
    for folder in sorted((results / NAME / "trials").iterdir()):
        epochs = [int(entry["epoch"]) for entry in read_history(folder)]
        folders[folder.name] = epochs, [facts["node"] for facts in read_attempts(folder)]
    return {
        "asked": search.record.trials,
        "optuna": in_optuna(storage, widths),
        "mlflow": in_mlflow(uri),
        "folders": folders,
        "measured": int(search.trials["test/robust_accuracy"].notna().sum()),
    }


def judged(counts: dict[str, Any], epochs: int) -> tuple[list[tuple[str, ...]], float, list[str]]:
    """A row for each trial, the share of the trials asked for that agree, and what is wrong with
    the whole."""
    rows = []
    agreeing = 0
    runs = Counter(trial for trial, _, _ in counts["mlflow"])
    by_trial = {trial: (status, steps) for trial, status, steps in counts["mlflow"]}
    names = {*counts["optuna"], *counts["folders"], *by_trial} - {"search"}
    for name in sorted(names):
        state, told = counts["optuna"].get(name, ("none", []))
        status, logged = by_trial.get(name, ("none", []))
        saved, nodes = counts["folders"].get(name, ([], []))
        fits = state == "COMPLETE" and status == STATUS[state] and runs[name] == 1
        fits = fits and all(once(steps, epochs) for steps in (told, logged, saved))
        agreeing += fits
        lengths = f"{len(told)} {len(logged)} {len(saved)}"
        rows.append((name, state, status, lengths, " > ".join(nodes), "yes" if fits else "NO"))
    asked = counts["asked"]
    problems = []
    totals = {
        "Optuna": len(counts["optuna"]),
        "MLflow": sum(runs.values()) - runs["search"],
        "folders": len(counts["folders"]),
        "measured on test": counts["measured"],
    }
    problems += [f"{asked} asked, {n} {where}" for where, n in totals.items() if n != asked]
    if runs["search"] != 1 or by_trial["search"][0] != "FINISHED":
        problems.append(f"the run of the search: {runs['search']}, {by_trial.get('search')}")
    return rows, agreeing / asked, problems


# --- namespaces, and what runs in them ---


def lacking() -> str | None:
    """What keeps this machine from running the script; None if nothing does."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "it takes Linux and the rights of root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    missing += [name for name in ("initdb", "pg_ctl") if postgresql(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    try:
        import psycopg2  # noqa: F401  # whether it is there
    except ImportError:
        return "the driver psycopg2 is not installed"
    probe = f"rsprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespace can be made ({made.stderr.strip()})"
    bridge = ["ip", "-n", probe, "link", "add", "bridge", "type", "bridge"]
    bridged = subprocess.run(bridge, capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return f"no bridge can be made ({bridged.stderr.strip()})" if bridged.returncode else None


def postgresql(name: str) -> str | None:
    """Where a program of PostgreSQL's server is; Debian has them on no path."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


class Network:
    """Namespaces around a bridge, and the processes in them, all of which end with it.

    Args:
        folder: for Ray's files, the databases and the results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"rs{os.getpid()}"
        self.names: list[str] = []
        home = folder / "home"
        (home / ".ray").mkdir(parents=True, mode=0o700)
        token = home / ".ray" / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        kept = ("PATH", "LANG", "ROBSEARCH_DATA", "ROBSEARCH_CACHE", "VIRTUAL_ENV")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self.names):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.kill(name)
            subprocess.run(["ip", "netns", "del", self._full(name)])
        self.names.clear()

    def add(self, name: str, address: str) -> None:
        """A namespace; all but the first hang on the bridge, which is in the first."""
        full = self._full(name)
        ip("netns", "add", full)
        self.names.append(name)
        ip("-n", full, "link", "set", "lo", "up")
        hub = self._full(self.names[0])
        if full == hub:
            card = "bridge"
            ip("-n", full, "link", "add", card, "type", "bridge")
        else:
            card = "eth0"
            peer = ("type", "veth", "peer", "name", card, "netns", full)
            ip("-n", hub, "link", "add", name, *peer)
            ip("-n", hub, "link", "set", name, "master", "bridge", "up")
        ip("-n", full, "addr", "add", f"{address}/24", "dev", card)
        ip("-n", full, "link", "set", card, "up")

    def link(self, name: str, state: str) -> None:
        """Cuts a node off (``down``), or connects it again (``up``)."""
        ip("-n", self._full(self.names[0]), "link", "set", name, state)

    def command(self, name: str, *words: str) -> list[str]:
        """A command as it runs in a namespace, under its host name."""
        hostname = f'echo {name} > /proc/sys/kernel/hostname && exec "$@"'
        inside = ("unshare", "--uts", "sh", "-c", hostname, "sh", *words)
        return ["ip", "netns", "exec", self._full(name), *inside]

    def run(self, name: str, *words: str, seconds: float = 300.0, **more: str) -> str:
        """What a command in a namespace prints, once it has ended."""
        done = subprocess.run(
            self.command(name, *words),
            env={**self.environment, **more},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def start(self, name: str, log: str, *words: str, **more: str) -> subprocess.Popen[bytes]:
        """A command that runs on in a namespace and prints into a file."""
        with (self.folder / log).open("wb") as file:
            return subprocess.Popen(
                self.command(name, *words),
                env={**self.environment, **more},
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self, name: str) -> list[int]:
        """The ids of all processes in a namespace."""
        return [int(line) for line in ip("netns", "pids", self._full(name)).split()]

    def is_up(self, name: str) -> bool:
        """Whether Ray's main process of a node runs."""
        commands = []
        for process in self.processes(name):
            with contextlib.suppress(OSError):
                commands.append(Path(f"/proc/{process}/cmdline").read_bytes().partition(b"\0")[0])
        return any(Path(os.fsdecode(command)).name == "raylet" for command in commands)

    def kill(self, name: str) -> None:
        """Kills all processes in a namespace at once."""
        end = time.monotonic() + 30
        while processes := self.processes(name):
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if time.monotonic() > end:
                raise RuntimeError(f"processes of {name} do not end: {processes}")
            time.sleep(0.2)

    def _full(self, name: str) -> str:
        return f"{self.prefix}-{name}"


def ip(*words: str) -> str:
    """What ``ip`` prints."""
    done = subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


class Database:
    """PostgreSQL in the hub: one database for Optuna, one for MLflow."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._folder = network.folder / "postgresql"
        self._folder.mkdir()
        shutil.chown(self._folder, "postgres")
        self._run("initdb", "-A", "trust", "-U", "me", "--no-sync")
        with (self._folder / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {NET}.0/24 trust\n")
        self.start()
        import psycopg2.extensions  # noqa: F401  # the server's programs lack createdb on some systems

        script = (
            "import psycopg2; c = psycopg2.connect(host={host!r}, user='me', dbname='postgres'); "
            "c.autocommit = True; s = c.cursor(); "
            "s.execute('CREATE DATABASE optuna'); s.execute('CREATE DATABASE mlflow')"
        )
        network.run("hub", sys.executable, "-c", script.format(host=HUB))

    def start(self) -> None:
        """Returns once it takes connections."""
        how = f"-k {self._folder} -c listen_addresses={HUB}"
        self._run("pg_ctl", "-o", how, "-l", str(self._folder / "log"), "-w", "start")

    def stop(self) -> None:
        """Closes all connections, as an administrator's restart does."""
        self._run("pg_ctl", "-m", "fast", "-w", "stop")

    def _run(self, program: str, *words: str) -> None:
        data = ("-D", str(self._folder / "data"))
        found = str(postgresql(program))
        # A server keeps the pipe of whoever started it open, and who reads that would wait for it.
        command = ["runuser", "-u", "postgres", "--", found, *data, *words]
        subprocess.run(
            self._network.command("hub", *command),
            check=True,
            cwd=self._folder,
            env=self._network.environment,
            stdout=subprocess.DEVNULL,
            timeout=300,
        )


def url_of(database: str) -> str:
    """Of a database in the hub."""
    return f"postgresql+psycopg2://me@{HUB}/{database}"


def start_mlflow(network: Network) -> str:
    """The address of an MLflow server on PostgreSQL, once it answers."""
    from robsearch.tracking import ui_command

    artifacts = network.folder / "artifacts"
    address = f"http://{HUB}:5000"
    words = [*ui_command(url_of("mlflow"), 5000, HUB), "--artifacts-destination", str(artifacts)]
    # Its address has a user's name in it, so robsearch does not put it among the arguments.
    network.start("hub", "mlflow.log", *words, MLFLOW_BACKEND_STORE_URI=url_of("mlflow"))
    network.run("hub", sys.executable, __file__, "--wait-for", f"{address}/health")
    return address


def wait_for_answer(address: str) -> None:
    """Returns once a server answers."""
    end = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(1)
        else:
            return


def start_ray(network: Network, name: str, address: str) -> None:
    """A node that joins the head, or is it."""
    ray = (sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats")
    sizes = ("--object-store-memory", "100000000", "--node-ip-address", address)
    # Ray ends a node whose agent has not chosen its own port within 15 seconds.
    ports = ("--dashboard-agent-grpc-port", "6400", "--dashboard-agent-listen-port", "6401")
    ports += ("--runtime-env-agent-port", "6402", "--metrics-export-port", "6403")
    at = ("--address", f"{NET}.1:6379", "--num-cpus", "1")
    if name == "head":
        at = ("--head", "--port", "6379", "--num-cpus", "0", "--include-dashboard", "false")
    # It waits for 30 seconds in all, which a busy machine may not keep.
    for _ in range(STARTS):
        log = f"ray-{name}-{time.time():.0f}.log"
        if network.start(name, log, *ray, *sizes, *ports, *at).wait(300) == 0:
            return
        network.kill(name)
    raise RuntimeError(f"Ray did not start on {name}:\n{(network.folder / log).read_text()}")


# --- the search, and what happens to it ---


class Course:
    """A search that runs, and the clock of what happens to it."""

    def __init__(self, network: Network, launch: subprocess.Popen[bytes], epochs: int) -> None:
        self._epochs = epochs
        self._network = network
        self._launch = launch
        self._begun = time.monotonic()

    @property
    def trials(self) -> list[Path]:
        """The folders of its trials."""
        folder = self._network.folder / "results" / NAME / "trials"
        return sorted(folder.iterdir()) if folder.exists() else []

    def say(self, what: str) -> None:
        """Prints when something happened."""
        print(f"{time.monotonic() - self._begun:6.0f} s  {what}", flush=True)

    def busy(self) -> list[str]:
        """The nodes on which a trial trains that has trained for an epoch or more."""
        nodes = set()
        for trial in self.trials:
            attempts = read_attempts(trial)
            if attempts and 0 < len(read_history(trial)) < self._epochs:
                nodes.add(attempts[-1]["node"])
        return sorted(nodes)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 400.0) -> None:
        """Returns once a condition holds; what is waited for must come while the search runs."""
        end = time.monotonic() + seconds
        while not condition():
            if self._launch.poll() is not None:
                raise RuntimeError(f"the search ended before {what}")
            if time.monotonic() > end:
                raise RuntimeError(f"after {seconds:g} s: not yet {what}")
            time.sleep(0.5)

    def pause(self, seconds: float) -> None:
        """Waits while the search runs."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end, "a pause ended", seconds + 60)


def disturb(course: Course, network: Network, database: Database, cut: float, away: float) -> None:
    """All that happens to the search."""
    course.wait(lambda: len(course.busy()) > 1, "trials train on two nodes")
    dies, stays = course.busy()[:2]
    course.say(f"trials train on {', '.join(course.busy())}")
    network.kill(dies)
    course.say(f"{dies} dies: all its processes are killed")
    network.add("n4", f"{NET}.5")
    start_ray(network, "n4", f"{NET}.5")
    course.say("n4 joins")
    course.wait(lambda: "n4" in course.busy(), "a trial trains on n4")
    course.say(f"trials train on {', '.join(course.busy())}")
    course.wait(lambda: stays in course.busy(), f"a trial trains on {stays}")
    network.link(stays, "down")
    back = time.monotonic() + cut
    course.say(f"{stays} is cut off")
    course.pause(5)
    database.stop()
    course.say("PostgreSQL stops")
    course.pause(away)
    database.start()
    course.say("PostgreSQL is back")
    course.pause(max(0.0, back - time.monotonic()))
    network.link(stays, "up")
    course.say(f"{stays} can be reached again, after {cut:g} s")
    course.wait(lambda: not network.is_up(stays), f"Ray ends on {stays}, which it had given up")
    network.kill(stays)
    start_ray(network, stays, f"{NET}.{ADDRESSES[stays]}")
    course.say(f"{stays} is back, with a new Ray")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """A TERM or a hang-up ends the script as Ctrl-C does, so that all is cleaned up."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {name: signal.signal(name, end) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def measure(folder: Path, asked: argparse.Namespace) -> None:
    """Builds the cluster, runs the search on it and counts."""
    # PostgreSQL's user must get to its files.
    folder.chmod(0o755)
    results = folder / "results"
    results.mkdir()
    epochs = 20 if asked.quick else 40
    trials = asked.trials or (9 if asked.quick else 12)
    with Network(folder) as network:
        network.add("hub", HUB)
        for name, number in ADDRESSES.items():
            network.add(name, f"{NET}.{number}")
        database = Database(network)
        tracking = start_mlflow(network)
        for name, number in ADDRESSES.items():
            start_ray(network, name, f"{NET}.{number}")
        print("ready: a head, three workers, PostgreSQL and MLflow", flush=True)
        words = ["launch", "nodes:digits", "--name", NAME, "--trials", str(trials)]
        words += ["--address", f"{NET}.1:6379", "--results", str(results)]
        words += ["--storage", url_of("optuna"), "--tracking", tracking]
        launch = network.start(
            "head",
            "launch.log",
            *(sys.executable, "-m", "robsearch", *words),
            # Where the space is, and this robsearch.
            PYTHONPATH=os.pathsep.join(map(str, Path(__file__).resolve().parents[:2])),
            **{EPOCHS: str(epochs), DONE: str(folder / "done")},
        )
        course = Course(network, launch, epochs)
        try:
            disturb(course, network, database, 30 if asked.quick else 120, 8)
            (folder / "done").touch()
            launch.wait(900)
        finally:
            course.say(f"robsearch launch ended with {launch.poll()}; it printed:")
            said = (folder / "launch.log").read_text()
            print(said, flush=True)
        words = [str(results), url_of("optuna"), tracking]
        counts = json.loads(
            network.run("hub", sys.executable, __file__, "--count", *words).splitlines()[-1]
        )
    rows, ratio, problems = judged(counts, epochs)
    if launch.returncode:
        problems.append(f"robsearch launch ended with {launch.returncode}")
    if "Traceback" in said:
        problems.append("robsearch launch printed a traceback")
    print_table(rows)
    for problem in problems:
        print(f"problem: {problem}")
    ratio = 0.0 if problems else ratio
    print(f"nodes: ratio={ratio:.2f} goal=1 n={counts['asked']}")


def print_table(rows: list[tuple[str, ...]]) -> None:
    """The rows under their heads, in columns."""
    head = ("trial", "Optuna", "MLflow", "epochs in each", "attempts on", "agree")
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--quick", action="store_true", help="9 trials of 20 epochs; cut off for 30 s, not for 120"
    )
    options.add_argument("--trials", type=int, help="that are asked for (12)")
    options.add_argument("--folder", type=Path, help="keeps all files; its path must be short")
    options.add_argument("--count", nargs=3, help=argparse.SUPPRESS)
    options.add_argument("--wait-for", help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.count:
        results, url, uri = asked.count
        print(json.dumps(count(Path(results), url, uri, WIDTHS)))
        return
    if asked.wait_for:
        wait_for_answer(asked.wait_for)
        return
    reason = lacking()
    if reason:
        print(f"nodes: skipped, {reason}")
        return
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="rs") as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measure(folder.resolve(), asked)


if __name__ == "__main__":
    main()
