"""What a search costs once it has thousands of trials: looking at it, its report, going on with it,
and deciding on what its workers report.

A search of the quickstart's nets, with 20 epochs, is planted at two sizes: the real ``Driver`` on a
journal, with its ``Recorder``, decides on every trial, and what a worker would leave lies in the
trial's folder, made by the project's own writers. Nothing is trained but one template: its epochs,
with the planted curve's values in them, and its measured files, which are linked, stand for all.
The pruner stops what it would stop, and one trial in fifty fails. While it is planted suggestions
are drawn at random, nothing waits for the disk, and nothing is sent to MLflow: ``tracking.py``
measures what that costs.

Then each thing is measured in a process of its own, as CPU seconds of that process and its peak
resident memory, because wall time is that of whatever else a machine does: ``status`` and
``report`` as the commands that a user types, twice each, for the first look keeps what it has read
beside the trials; ``resume`` up to the first job that Ray could be given, without Ray's own start;
and a driver that hears the epochs of some more trials one by one, of which the CPU time of the
deciding thread counts. The last is compared with that of the smaller search in the same run.
The goal of ``status`` is about the second look, because who watches a search looks again and again;
that of ``report`` is about the first.

Prints a line for each thing, and at last ``scale: ratio=`` the largest share of its goal that any
of them takes: at most 1 where all goals are met.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna

from robsearch import TRADES, Recipe, Standard, space
from robsearch.identity import DERIVATION
from robsearch.metrics import LAM, TEST_ROBUST, VALUE
from robsearch.protocols import Metrics, Objective
from robsearch.search.driver import Driver
from robsearch.search.recording import Recorder
from robsearch.search.results_store import ResultsStore, claim_folder, new_identity, note_driver
from robsearch.search.resuming import check_unchanged, load_recorded
from robsearch.search.scheduling import scheduler_of
from robsearch.search.settings import constraints, rungs, space_settings
from robsearch.spaces import check
from robsearch.study import (
    Lease,
    SearchRecord,
    dropped_trials,
    open_storage,
    recorded_trials,
    repair_journal,
)
from robsearch.trials.checkpoints import Attempt, Snapshot
from robsearch.trials.files import write_json
from robsearch.trials.provenance import write_attempt
from robsearch.trials.trial import Report, measure, run
from search_spaces import quickstart

NAME = "planted"
EPOCHS = 20
REPORTS = 4
"""In which a planted worker tells its epochs."""
MORE = 24
"""Trials that the measured driver hears of."""
FAILS = 50
"""One planted trial in so many fails."""
GOALS = {
    "status": (2.0, "s of CPU"),
    "report": (8.0, "s of CPU"),
    "page": (2.0, "MB"),
    "resume": (20.0, "s of CPU"),
    "memory of the driver": (1000.0, "MB"),
    "cost of a worker's report against the smaller search": (1.2, "times"),
}
"""Of 5,000 trials: the most that each may take."""


# --- the space ---


def recipe(width: float, lam: float, objective: Objective = TRADES()) -> Recipe:
    """That of the quickstart, with fewer epochs."""
    return replace(quickstart.recipe(width, lam, objective), epochs=EPOCHS)


def standard(width: float) -> Recipe:
    """The control of the quickstart."""
    return recipe(width, lam=0.0, objective=Standard())


@space(widths=(16, 64, 256), controls=(standard,))
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))


# --- planting ---


class Template(NamedTuple):
    """What one trained and measured trial leaves, for all that are planted."""

    folder: Path
    history: list[Metrics]
    state: bytes
    test: Metrics


def load_template(results: Path) -> Template:
    """One net of the quickstart's thinnest width, trained and measured where it is not there."""
    trial = results.parent / "template" / "trials" / "w16-000"
    if not (trial / "test.json").exists():
        # Each is run to its end.
        list(run(recipe(16, 6.0), trial))
        list(measure(recipe(16, 6.0), trial))
    last = trial / "a1" / f"epoch-{EPOCHS:04d}"
    history = json.loads((last / "history.json").read_text())["epochs"]
    test = json.loads((trial / "test.json").read_text())
    return Template(trial, history, (last / "state.pt").read_bytes(), test)


def value_of(width: float, lam: float, epoch: int, noise: float) -> float:
    """Robust accuracy of a planted trial: lambda* is 2 at width 16 and doubles with each."""
    star = 2.0 * (width / 16) ** 0.5
    at_end = 0.55 + 0.03 * np.log2(width / 16) - 0.01 * np.log(max(lam, 0.1) / star) ** 2 + noise
    return float(at_end * (1 - 0.4 * 0.8**epoch))


def epochs_of(made: Template, width: float, lam: float, random: np.random.Generator) -> list[Any]:
    """The epochs of a planted trial."""
    noise = random.normal(0, 0.005)
    now = time.time()
    entries = []
    for entry in made.history:
        number = int(entry["epoch"])
        value = value_of(width, lam, number, noise + random.normal(0, 0.002))
        jitter = float(random.normal(1, 0.02))
        changed = {
            name: fact * jitter if isinstance(fact, float) else fact for name, fact in entry.items()
        }
        entries.append({**changed, "epoch": int(number), "time": now, VALUE: value, LAM: lam})
    return entries


def save(attempt: Attempt, made: Template, history: list[Any]) -> None:
    """The checkpoints that a worker would leave: the newest, and the one before it."""
    for number in dict.fromkeys((max(1, len(history) - 1), len(history))):
        attempt.write(Snapshot(number, made.state, tuple(history[:number])))


class Unrecorded:
    """Stands for a tracker: nothing goes to MLflow."""

    def follow(self, record_of: object) -> None:
        """It will ask for no record."""

    def nudge(self, *trials: str) -> None:
        """It has no runs to bring up to date."""


UNRECORDED: Any = Unrecorded()


def plant(results: Path, trials: int) -> None:
    """A search of so many trials that has ended."""
    made = load_template(results)
    # A planted search need not outlive a loss of power.
    os.fsync = lambda file: None
    planted = replace(digits, sampler=optuna.samplers.RandomSampler(seed=0))
    store = ResultsStore(results, None)
    folder = store.folder(NAME)
    record = SearchRecord(
        name=NAME,
        space="scale:digits",
        widths=planted.widths,
        seed=0,
        trials=trials,
        tracking="",
        setting=space_settings(planted, {}),
        identity=new_identity(),
        controls=tuple(control.__name__ for control in planted.controls),
        subject_to=constraints(planted),
        fidelity=rungs(planted),
        derivation=DERIVATION,
    )
    claim_folder(folder, record, None)
    storage = open_storage(None, folder)
    record.create(storage)
    note_driver(folder, record)
    random = np.random.default_rng(0)
    with Lease.acquire(storage, NAME) as lease:
        scheduler = scheduler_of(planted, record, storage, recipe(16, 6.0))
        recorder = Recorder(UNRECORDED, folder / "trials", record)
        driver = Driver(scheduler, recorder, lease, folder / "trials", lambda line: None)
        recorder.begin_search(record)
        count = 0
        while not driver.finished:
            job = driver.next()
            assert job is not None, driver.problem
            if job.work is measure:
                lay_measured(driver, job, made, random)
            else:
                count += 1
                train(driver, job, made, random, fails=count % FAILS == 0)
        recorder.stopped("search", "COMPLETE", time.time())


def train(
    driver: Driver, job: Any, made: Template, random: np.random.Generator, fails: bool
) -> None:
    """What a worker does of one training, and says of it."""
    attempt = Attempt.claim(job.folder)
    write_attempt(attempt.folder, attempt.number, job.recipe)
    width = driver.running[job.name].suggestion.width
    history = epochs_of(made, width, float(job.recipe.flat()["lam"]), random)
    heard = 0
    for end in range(EPOCHS // REPORTS, EPOCHS + 1, EPOCHS // REPORTS):
        if not driver.heard(job, Report(history[heard:end], attempt=1)):
            save(attempt, made, history[:end])
            break
        heard = end
    else:
        save(attempt, made, history)
        if fails:
            driver.heard(job, Report(ended="FAIL", reason="RuntimeError: planted", attempt=1))
        else:
            driver.heard(job, Report(ended="COMPLETE", attempt=1))
    driver.gone(job, None)


def lay_measured(driver: Driver, job: Any, made: Template, random: np.random.Generator) -> None:
    """What a worker leaves of measuring: files of the template, and averages about this trial."""
    for file in made.folder.iterdir():
        if file.is_file() and file.name not in ("test.json", "run.json"):
            os.link(file, job.folder / file.name)
    value = driver.measuring[job.name].best[VALUE]
    shift = value - made.test[TEST_ROBUST]
    test = {}
    for name, fact in made.test.items():
        jitter = float(random.normal(1, 0.05))
        test[name] = fact + shift if name.endswith("robust_accuracy") else fact * jitter
    write_json(job.folder / "test.json", test)
    driver.heard(job, Report(ended="COMPLETE", test=test))
    driver.gone(job, None)


# --- measuring, each in a process of its own ---


AS_A_COMMAND = """
import atexit, json, re, runpy
def say_peak():
    kib = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    print(json.dumps({"memory": int(kib) / 1024}))
atexit.register(say_peak)
runpy.run_module("robsearch", run_name="__main__", alter_sys=True)
"""
"""Runs ``robsearch``, and then says the most memory it took, in MB. What the system says of a
process that has ended counts the one that started it as well."""


class Measured(NamedTuple):
    """Of one process: its CPU seconds, and the JSON that it printed last, if it did."""

    cpu: float
    facts: dict[str, float]


def measured(*command: str) -> Measured:
    """Runs a command to its end, with one thread: others that wait for work take CPU, too, and more
    where the machine is busy."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {status}:\n{output}")
    last = output.splitlines()[-1] if output else ""
    facts = json.loads(last) if last.startswith("{") else {}
    return Measured(usage.ru_utime + usage.ru_stime, facts)


def peak_memory() -> float:
    """Of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def prepared(results: Path, lease: Lease, more: int) -> Driver:
    """The driver of a search that goes on, made by the steps of ``resume``."""
    store = ResultsStore(results, None)
    folder = store.folder(NAME)
    storage, record = store.search(NAME)
    repair_journal(folder)
    loaded = load_recorded(record.space, folder)
    draws = check(loaded, needs_data=True)
    check_unchanged(storage, record, loaded, folder)
    record = replace(record, trials=record.trials + more)
    scheduler = scheduler_of(loaded, record, storage, draws[0].recipe)
    recorder: Any = Recorder(UNRECORDED, folder / "trials", record)
    driver = Driver(scheduler, recorder, lease, folder / "trials", lambda line: None)
    recorder.settle(recorded_trials(storage, record))
    driver.know_dropped(dropped_trials(storage, record.name))
    recorder.tag_dropped(driver.dropped)
    driver.parallel = more
    return driver


def go_on(results: Path) -> dict[str, float]:
    """Resumes a search, and hears the epochs of some more trials."""
    storage = open_storage(None, ResultsStore(results, None).folder(NAME))
    made = load_template(results)
    random = np.random.default_rng(1)
    with Lease.acquire(storage, NAME) as lease:
        driver = prepared(results, lease, MORE)
        first = driver.next()
        resumed = time.process_time()
        began = time.thread_time()
        jobs = [first, *(driver.next() for _ in range(MORE - 1))]
        asking = time.thread_time() - began
        histories = {}
        for job in filter(None, jobs):
            width = driver.running[job.name].suggestion.width
            lam = float(job.recipe.flat()["lam"])
            histories[job.name] = epochs_of(made, width, lam, random)
        hearing = []
        for epoch in range(EPOCHS):
            for job in filter(None, jobs):
                if job.name in driver.running:
                    report = Report([histories[job.name][epoch]], attempt=1)
                    began = time.thread_time()
                    driver.heard(job, report)
                    hearing.append(time.thread_time() - began)
    return {
        "memory": peak_memory(),
        "resumed": resumed,
        "suggestion_ms": 1000 * asking / (MORE - 1),
        "report_ms": 1000 * float(np.mean(hearing)),
    }


def driving(results: Path) -> dict[str, Any]:
    """What ``go_on`` measures, in a process of its own."""
    return measured(sys.executable, __file__, "--go-on", str(results)).facts


def costs(results: Path, size: int, again_too: bool) -> dict[str, float]:
    """What each thing takes at one size; ``again_too`` measures second looks as well."""
    cli = [sys.executable, "-c", AS_A_COMMAND]
    look = [*cli, "status", NAME, "--results", str(results)]
    page = results / "page.html"
    write = [*cli, "report", NAME, "--results", str(results), "--out", str(page)]
    first, report = measured(*look), measured(*write)
    status, again = (measured(*look), measured(*write)) if again_too else (first, report)
    facts = driving(results)
    print(
        f"{size} trials: status {first.cpu:.2f} s, again {status.cpu:.2f} s and "
        f"{status.facts['memory']:.0f} MB, report {report.cpu:.2f} s, again {again.cpu:.2f} s and "
        f"{report.facts['memory']:.0f} MB, its page "
        f"{page.stat().st_size / 1e6:.2f} MB; resume {facts['resumed']:.2f} s, driver "
        f"{facts['memory']:.0f} MB; {facts['report_ms']:.2f} ms for a worker's report, "
        f"{facts['suggestion_ms']:.1f} ms for a suggestion",
        flush=True,
    )
    return {
        "status": status.cpu,
        "report": report.cpu,
        "page": page.stat().st_size / 1e6,
        "resume": facts["resumed"],
        "memory of the driver": facts["memory"],
        "report_ms": facts["report_ms"],
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--quick", action="store_true", help="30 and 90 trials; of the smaller search, the driver"
    )
    options.add_argument("--trials", type=int, default=5000, help="of the larger search")
    options.add_argument("--smaller", type=int, default=500, help="trials of the smaller one")
    options.add_argument(
        "--folder", type=Path, help="keeps the planted searches, and takes those that are there"
    )
    options.add_argument("--plant", nargs=2, metavar=("FOLDER", "TRIALS"), help=argparse.SUPPRESS)
    options.add_argument("--go-on", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.plant:
        plant(Path(asked.plant[0]), int(asked.plant[1]))
        return
    if asked.go_on:
        print(json.dumps(go_on(asked.go_on)))
        return
    sizes = (30, 90) if asked.quick else (asked.smaller, asked.trials)
    by_size = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
            # Else each process would compile all that it imports, which a user's commands do once.
            os.environ["PYTHONPYCACHEPREFIX"] = f"{temporary}/bytecode"
        for size in sizes:
            results = folder / str(size)
            if not results.exists():
                measured(sys.executable, __file__, "--plant", str(results), str(size))
            is_glanced_at = asked.quick and size == sizes[0]
            by_size[size] = (
                driving(results) if is_glanced_at else costs(results, size, not asked.quick)
            )
    small, large = sizes
    taken = by_size[large]
    grown = taken["report_ms"] / by_size[small]["report_ms"]
    taken["cost of a worker's report against the smaller search"] = grown
    shares = {}
    for name, (goal, unit) in GOALS.items():
        shares[name] = taken[name] / goal
        print(f"{name}: {taken[name]:.2f} {unit}, goal {goal:g}")
    print(f"scale: ratio={max(shares.values()):.2f} goal=1 n={large}")


if __name__ == "__main__":
    main()
