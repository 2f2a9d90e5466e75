"""The single writer of a search's record in MLflow.

Whoever trains says which run is behind, and never waits: a thread asks for the run's record and
brings MLflow up to date with it (``projection``), again and again until it has succeeded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from mlflow.version import VERSION

from robsearch.errors import InputError, refused
from robsearch.protocols import Metrics
from robsearch.tracking.beside import opened
from robsearch.tracking.machine import Machine
from robsearch.tracking.projection import SEARCH, Projection, RunRecord
from robsearch.tracking.store import (
    NO_ANSWER,
    first_line,
    open_experiment,
    run_page,
)
from robsearch.trials.paths import without_password

FLUSH_SECONDS = 1.0
RETRY_SECONDS = 5.0
ATTEMPTS = 3
"""After so many that helped none, ``drain`` waits no longer."""
TROUBLED_RUNS = 3
"""After so many runs in a row that the server would not take, the others wait too."""
OTHER_SCHEMA = "out-of-date database schema"
"""How MLflow names a database of any other version, also of a later one."""


class Tracker:
    """Keeps one search's record in MLflow up to date.

    ``experiment`` is the id of its experiment, ``trouble`` says in one line why a run is behind,
    ``done`` has the trials whose runs were brought up to date.

    Args:
        uri: of the tracking store.
        search: its name, and the experiment's.
        results: the results folder; with a database store the artifacts go there too.
        identity: of the search; that of its experiment must be the same.
        adopt: whether an experiment without an identity becomes the search's (see
            ``open_experiment``).
        patient: whether a server that does not answer is waited for, as in an outage, and not
            refused.
        thorough: see ``Projection``.

    Raises:
        InputError: the store refuses to make or open the experiment, or it is another search's, or
            deleted.
    """

    def __init__(
        self,
        uri: str,
        search: str,
        results: Path,
        identity: str = "",
        *,
        adopt: bool = False,
        patient: bool = False,
        thorough: bool = False,
    ) -> None:
        self.uri = uri
        self.search = search
        self._thorough = thorough
        self.experiment: str | None = None
        self._projection: Projection | None = None
        try:
            self._client = opened(uri, results)
        except Exception as error:
            raise _refused(uri, first_line(error)) from error
        self._open = partial(
            open_experiment,
            uri=uri,
            search=search,
            results=results,
            identity=identity,
            adopt=adopt,
        )
        self.trouble = self._opened()
        if self.trouble and not patient:
            raise _refused(uri, self.trouble)
        self._record_of: Callable[[str], RunRecord | None] = lambda trial: None
        self.done: set[str] = set()
        self._behind: dict[str, int] = {}
        self._fruitless = 0
        self._changed = threading.Condition()
        self._closing = False
        self._left_off = False
        self._load: list[Metrics] = []
        self._machine: Machine | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def follow(self, record_of: Callable[[str], RunRecord | None]) -> None:
        """Says where records come from: of a trial, or of ``search``; None where there is none."""
        self._record_of = record_of

    def nudge(self, *trials: str) -> None:
        """Says that the runs of these trials are behind; ``search`` is the run of the search
        itself."""
        with self._changed:
            for trial in trials:
                self._behind[trial] = self._behind.get(trial, 0) + 1
            self._changed.notify_all()

    def watch_machine(self) -> None:
        """Records this machine's load in the run of the search, if
        ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING`` asks.

        It is kept nowhere else, so another server that is brought up to date later has none of it.
        """
        self._machine = Machine.asked_for(self._hear_of_load)

    def _hear_of_load(self, values: Metrics, step: int, when: float) -> None:
        self._load.append({"epoch": step, "time": when, **values})
        self.nudge(SEARCH)

    # --- what is known, and the end ---

    @property
    def pages(self) -> dict[str, str]:
        """The address in the MLflow UI of each trial's run, as far as it is known; nothing is
        asked."""
        ids = self._projection.run_ids if self._projection else {}
        return {trial: run_page(self.uri, str(self.experiment), run) for trial, run in ids.items()}

    @property
    def left(self) -> int:
        """How many runs are not up to date in MLflow."""
        return len(self._behind)

    def drain(self) -> None:
        """Waits until all runs are up to date, or several attempts in a row have helped none."""
        with self._changed:
            self._changed.wait_for(lambda: not self._behind or self._fruitless >= ATTEMPTS)

    def close(self, patience: float = 30.0) -> int:
        """Waits at most ``patience`` seconds until all runs are up to date; returns how many are
        not.

        ``robsearch sync`` or the next driver brings these up to date.
        """
        if self._machine is not None:
            self._machine.stop()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(patience)
        with self._changed:
            self._left_off = True
            self._changed.notify_all()
        return self.left

    # --- the thread ---

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._behind or self._closing)
                if not self._behind or self._left_off:
                    return
                # Several epochs that end in quick succession go in one request.
                self._changed.wait_for(lambda: self._closing, timeout=FLUSH_SECONDS)
            before = len(self._behind)
            refusals = self._projection.refusals if self._projection else 0
            self.trouble = self._bring_up_to_date()
            with self._changed:
                helped = self.trouble is None or len(self._behind) < before
                # What is refused often enough is left out.
                was_refused = self._projection and self._projection.refusals > refusals
                self._fruitless = 0 if helped or was_refused else self._fruitless + 1
                self._changed.notify_all()
                if self.trouble is not None:
                    self._changed.wait_for(lambda: self._left_off, timeout=RETRY_SECONDS)

    def _bring_up_to_date(self) -> str | None:
        """Tries each run that is behind; returns in one line why one is still so."""
        try:
            trouble = self._opened()
        except InputError as error:  # it shows only now, after an outage
            trouble = "; ".join(error.problems)
        if trouble:
            return f"nothing recorded in MLflow yet: {trouble}"
        in_a_row = 0
        for trial in list(self._behind):
            if self._left_off:
                # The reason is that of this attempt so far, or of the one before it.
                return trouble or self.trouble or "stopped"
            # If it is nudged while it is sent, it stays behind.
            nudges = self._behind[trial]
            try:
                refused = self._bring(trial)
            except Exception as error:
                trouble = f"{trial} not recorded in MLflow: {first_line(error)}"
                with self._changed:  # the others first, next time
                    self._behind[trial] = self._behind.pop(trial)
                in_a_row += 1
                if in_a_row == TROUBLED_RUNS or NO_ANSWER.search(str(error)):
                    return trouble
                continue
            in_a_row = 0
            trouble = refused or trouble
            with self._changed:
                if not refused and self._behind[trial] == nudges:
                    del self._behind[trial]
                    self.done.add(trial)
        return trouble

    def _bring(self, trial: str) -> str:
        record = self._record_of(trial)
        if record is None or self._projection is None:
            return ""
        load = list(self._load) if trial == SEARCH else []
        record = replace(record, curves=[*record.curves, *load])
        refused = self._projection.bring_up_to_date(record)
        # Another thread may have added to it meanwhile.
        del self._load[: len(load)]
        return refused

    def _opened(self) -> str | None:
        """Opens the experiment if that is still to do; returns why it could not, in one line.

        Raises:
            InputError: the experiment is another search's, or deleted.
        """
        try:
            if self._projection is None:
                self.experiment = self._open(self._client)
                self._projection = Projection(self._client, self.experiment, self._thorough)
        except InputError:
            raise
        except Exception as error:
            return first_line(error)
        return None


def _refused(uri: str, got: str) -> InputError:
    if OTHER_SCHEMA in got:
        store = f"an MLflow database at {without_password(uri)} of the schema of MLflow {VERSION}"
        do = (
            "it is another version's: install that version; or, if it is the older, back the "
            "database up and run `mlflow db upgrade URI`"
        )
        return refused(store, "another schema", do)
    do = (
        "check the address, its credentials and its --allowed-hosts, or choose another "
        "--tracking URI"
    )
    return refused(f"an MLflow store at {without_password(uri)}", got, do)
