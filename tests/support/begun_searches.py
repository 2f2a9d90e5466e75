"""Searches that were begun, and driven in this process without Ray."""

import contextlib

import optuna
from search_records import search_record
from small_spaces import recipe

from robsearch.search.driver import Driver
from robsearch.search.recording import Recorder
from robsearch.search.results_store import ResultsStore, claim_folder, note_driver
from robsearch.search.scheduling import scheduler_of
from robsearch.spaces import Space
from robsearch.study import Lease, open_storage
from robsearch.tracking import Tracker

ONE = "1" * 32


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


SPACE = Space(define, (4,), sampler=optuna.samplers.RandomSampler(seed=0))


def begun(results, name="s", storage=None, **changes):
    """A search that was launched in a results folder, with nothing trained."""
    store = ResultsStore(results, storage)
    record = search_record(name=name, identity=ONE, widths=(4,), **changes)
    claim_folder(store.folder(name), record, storage)
    record.create(open_storage(storage, store.folder(name)))
    note_driver(store.folder(name), record)
    return store


@contextlib.contextmanager
def driven(store, uri, say=print):
    """The driver of a search that was begun, while it holds the lease."""
    storage, record = store.search("s")
    trials = store.folder("s") / "trials"
    tracker = Tracker(uri, "s", store.results, ONE)
    with Lease.acquire(storage, "s") as lease:
        scheduler = scheduler_of(SPACE, record, storage, recipe(4))
        yield Driver(scheduler, Recorder(tracker, trials, record), lease, trials, say)
    tracker.close()
