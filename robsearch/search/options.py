"""Where and how much: what a user may choose about running a search."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from robsearch.errors import refusal, refuse, refuse_unless, refused
from robsearch.search.grid import PlainTextConsole, printer
from robsearch.search.results_store import ResultsStore
from robsearch.study import SearchRecord, waiting_for_storage
from robsearch.tracking import default_uri, exact, found_again, to_remember
from robsearch.trials.paths import absolute, without_password
from robsearch.trials.variables import passing

AUTO: Literal["auto"] = "auto"
DISK_PATIENCE = 86_400.0
"""Seconds: a day, because a person has to make room."""

BUDGETS = ("max_hours", "trial_max_hours", "max_gpu_hours")

Call = TypeVar("Call", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how much; nothing of science.

    Attributes:
        results: the results folder; by default ``ROBSEARCH_RESULTS``, else ``robsearch-results``
            here.
        storage: an Optuna storage URL; by default ``ROBSEARCH_STORAGE``, else a journal file in the
            search's folder.
        tracking: an MLflow URI; by default ``MLFLOW_TRACKING_URI``, else a sqlite file in the
            results folder.
        address: of a running Ray cluster (``auto``, ``HOST:PORT``); by default one on this machine.
        parallel: trainings at once; by default as many as the cluster has room for.
        gpus_per_trial: GPUs or a share of one; ``auto`` for the share that a trial's memory needs,
            measured at each width before the search begins; by default what the space asks for,
            else 1 where the cluster has any.
        hang_after: seconds without a report after which a trial counts as hung and its worker is
            started again, but never less than five times the longest time between two reports so
            far; None: never.
        disk_budget: GiB that the weights of this search may take; above it, those of finished and
            measured trials go, worst first, never the best of a width. None: no limit.
        max_hours: that drivers of this search may be up, all of them together; then it stops as on
            ``robsearch stop``. These three are remembered with the search until others are given;
            infinity lifts one.
        trial_max_hours: that the epochs of one training may take, over all its attempts; it then
            ends as FAIL when an epoch has ended, because its learning rate has not come to its end
            and its best epoch compares with nobody's.
        max_gpu_hours: as ``max_hours``, of the GPU time of all trials (``training.costs``).
        storage_patience: seconds for which a database that is away is tried again, before a search
            begins or goes on as well as while its trials train on; then the search stops.
        disk_patience: seconds for which a full disk is waited for while nothing can be trained;
            then the search stops.
        models: whether the best network of each width is exported as an MLflow model when the
            search ends; that takes some seconds each, and ``robsearch promote`` can do it later.
        pass_env: names of environment variables that workers and child processes see beside those
            that Ray, CUDA and Python need; those that ``ROBSEARCH_PASS_ENV`` names are seen, too.

    Raises:
        InputError: ``gpus_per_trial`` is a word other than ``auto``.
    """

    results: str | Path | None = None
    storage: str | None = None
    tracking: str | None = None
    address: str | None = None
    parallel: int | None = None
    gpus_per_trial: float | Literal["auto"] | None = None
    hang_after: float | None = 7200.0
    disk_budget: float | None = None
    max_hours: float | None = None
    trial_max_hours: float | None = None
    max_gpu_hours: float | None = None
    storage_patience: float = 600.0
    disk_patience: float = DISK_PATIENCE
    models: bool = True
    pass_env: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.results is not None:  # once: the process may go to another folder meanwhile
            object.__setattr__(self, "results", absolute(self.results))
        gpus = self.gpus_per_trial
        fits = gpus == AUTO or not isinstance(gpus, str)
        expected = "--gpus-per-trial as a number or auto"
        do = "pass such as 1, 0.25 or auto"
        refuse_unless((fits, expected, repr(gpus), do))

    @property
    def store(self) -> ResultsStore:
        """Where searches are kept."""
        return ResultsStore.of(self.results, self.storage)

    @property
    def gpus(self) -> float | None:
        """GPUs for each trial where a number was given."""
        return None if isinstance(self.gpus_per_trial, str) else self.gpus_per_trial

    def check(self, **least: tuple[float | None, float]) -> None:
        """Refuses numbers below their least value, all at once; None is a default and passes.

        Args:
            least: of other options, each with its least value.

        Raises:
            InputError: names the options.
        """
        least |= {
            "parallel": (self.parallel, 1),
            "gpus_per_trial": (self.gpus, 0),
            "hang_after": (self.hang_after, 1),
            "disk_budget": (self.disk_budget, 0),
            **{name: (getattr(self, name), 0) for name in BUDGETS},
            "storage_patience": (self.storage_patience, 0),
            "disk_patience": (self.disk_patience, 0),
        }
        problems = []
        for name, (value, low) in least.items():
            # From Python a text may come, and NaN is refused too.
            fits = isinstance(value, Real) and value >= low
            if value is not None and not fits:
                expected = f"--{name.replace('_', '-')} of at least {low:g}"
                got = repr(value) if isinstance(value, str) else value
                problems.append(refusal(expected, got, f"pass {low:g} or more"))
        refuse(problems)

    def budgets(self, record: SearchRecord) -> dict[str, float]:
        """The budgets of a search, in hours by their names here: those given, else those that it
        remembers."""
        given = {name: getattr(self, name) for name in BUDGETS}
        chosen = {name: hours for name, hours in given.items() if hours is not None}
        both = {**record.budgets, **chosen}
        return {name: hours for name, hours in both.items() if math.isfinite(hours)}

    def uri(self, remembered: str | None = None) -> str:
        """The MLflow URI: as given, else as remembered from the launch, else from the environment.

        What is remembered has no password; where the environment has the same URI with one, that is
        meant.
        """
        environment = os.environ.get("MLFLOW_TRACKING_URI")
        uri = self.tracking or remembered or environment
        if not self.tracking and environment and without_password(environment) == remembered:
            uri = environment
        return exact(uri) if uri else default_uri(self.store.results)

    def uri_of(self, record: SearchRecord) -> str:
        """The MLflow URI of an existing search: as given, else as it remembers, where its results
        lie now."""
        return self.uri(found_again(record.tracking, record.name, self.store.results))

    @property
    def to_remember(self) -> str:
        """What a new search remembers of the MLflow URI: no password, and no path of the default
        store."""
        return without_password(to_remember(self.uri(), self.store.results))

    def command(self, command: str, record: SearchRecord) -> str:
        """A command for a search as a person pastes it, without what the search remembers, and
        without passwords."""
        remembered = found_again(record.tracking, record.name, self.store.results)
        tracking = self.tracking
        if tracking is not None and without_password(tracking) == remembered:
            tracking = None
        return self.store.command(command, record.name, tracking=tracking)


def takes_options(call: Call) -> Call:
    """A call with the keyword ``options`` that takes each field of ``RunOptions`` as a keyword,
    too; such a keyword has the last word.

    Raises:
        InputError: of that call, for a keyword that it does not take.
    """
    fields = {field.name for field in dataclasses.fields(RunOptions)}
    parameters = inspect.signature(call).parameters.values()
    named = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]

    @functools.wraps(call)
    def with_options(*args: Any, **keywords: Any) -> Any:
        if strange := sorted(keywords.keys() - fields - set(named)):
            known = [*named, *sorted(fields)]
            near = difflib.get_close_matches(strange[0], known, n=1)
            do = f"write {near[0]}" if near else f"it takes {', '.join(known)}"
            raise refused(f"keywords of {call.__name__}", ", ".join(strange), do)
        given = {name: keywords.pop(name) for name in fields & keywords.keys()}
        if given:
            keywords["options"] = replace(keywords.get("options") or RunOptions(), **given)
        return call(*args, **keywords)

    return cast("Call", with_options)


def in_store(call: Call) -> Call:
    """A call with the keyword ``options``: a space that reads other searches finds them in its
    store, and processes that train see the variables that it names."""

    @functools.wraps(call)
    def placed(*args: Any, **keywords: Any) -> Any:
        options = keywords.get("options") or RunOptions()
        with options.store.current(), passing(options.pass_env):
            return call(*args, **keywords)

    return cast("Call", placed)


def waits_for_storage(call: Call) -> Call:
    """A call with the keywords ``options`` and ``console``: what it reads before it drives a search
    waits for a storage that is away as long as its driver would, and says so."""

    @functools.wraps(call)
    def patient(*args: Any, **keywords: Any) -> Any:
        options = keywords.get("options") or RunOptions()
        console = keywords.get("console") or PlainTextConsole()
        with waiting_for_storage(options.storage_patience, printer(console)):
            return call(*args, **keywords)

    return cast("Call", patient)
