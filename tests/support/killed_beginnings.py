"""Begins one search after another, each in a process that is killed a step later than the one
before, until one comes to its end. A step is a file or a database that is opened, made or renamed
in the search's results folder.

Run in a process of its own with the arguments ``FOLDER journal|sqlite``; the n-th search is in
``FOLDER/n``.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from mlflow_stores import empty_database, new_store
from search_records import search_record
from small_spaces import pair

from robsearch.search.beginning import begun
from robsearch.search.imported_trials import import_trials
from robsearch.search.results_store import ResultsStore, new_identity
from robsearch.spaces import Draw, distributions, suggestions
from robsearch.study import Observation
from robsearch.tracking import Tracker, default_uri

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.symlink", "sqlite3.connect"}
KNOWN = [Observation(4, {"lam": 1.0 + i}, (0.5,), "elsewhere") for i in range(3)]


def store_of(folder: Path, kind: str) -> ResultsStore:
    return ResultsStore(folder, None if kind == "journal" else f"sqlite:///{folder / 'optuna.db'}")


def beginning(store: ResultsStore, draws: list[Draw]):
    """The same steps as a launch takes, without its cluster."""
    uri = default_uri(store.results)
    learn = partial(
        import_trials,
        search="s",
        space=pair,
        trials=KNOWN,
        ranges=distributions(draws),
        say=lambda text: None,
    )

    def tracker_of(record):
        return Tracker(uri, "s", store.results, record.identity)

    return begun(search_record(identity=new_identity()), store, tracker_of, learn, print)


def _die_after(steps: int, folder: Path) -> None:
    left = [steps]

    def count(event: str, facts: tuple) -> None:
        if event in STEPS and str(facts[0]).startswith(str(folder)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    empty_database()
    draws = list(suggestions(pair))
    for step in range(1000):
        results = folder / str(step)
        new_store(results)
        process = os.fork()
        if not process:
            _die_after(step, results)
            with beginning(store_of(results, kind), draws):
                os._exit(0)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(os.waitstatus_to_exitcode(status))
