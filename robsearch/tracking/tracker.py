"""The single writer of a search's record in MLflow.

What is said is written to the spool by one thread and delivered by another, so training waits neither for the tracking
server nor for the disk. Every record keeps its original time, so sending it twice leaves one; what an outage keeps
back is sent when the server is there again, or by ``robsearch sync``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from robsearch.errors import InputError, refusal
from robsearch.protocols import Metrics
from robsearch.tracking.beside import opened
from robsearch.tracking.machine import Machine
from robsearch.tracking.sending import STATE, Sender, first_line
from robsearch.tracking.spool import Record, Spool
from robsearch.tracking.store import TRIAL, all_runs, open_experiment, run_page, shown

logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: False)  # tracebacks: ``trouble`` is one line

FLUSH_SECONDS = 1.0
RETRY_SECONDS = 5.0


class Tracker:
    """Writes one search's record to MLflow. Every record is idempotent, so it may be sent again.

    Args:
        uri: of the tracking store.
        search: its name, and the experiment's.
        results: the results folder; with a database store the artifacts go there too.
        identity: of the search; that of its experiment must be the same.
        adopt: whether an experiment without an identity becomes the search's (see ``open_experiment``).
        patient: whether a server that does not answer is waited for, as in an outage, and not refused.

    Raises:
        InputError: the store refuses to make or open the experiment, or it is another search's, or deleted.
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
    ) -> None:
        self.uri, self.search, self._results = uri, search, results
        self._identity, self._adopt = identity, adopt
        self.experiment: str | None = None
        self._sender: Sender | None = None
        self.trouble: str | None = None
        try:
            self._client = opened(uri, results)
            self.trouble = self._opened()
        except InputError:
            raise
        except Exception as error:
            raise _refused(uri, first_line(error)) from error
        if self.trouble and not patient:
            raise _refused(uri, self.trouble)
        self._spool = Spool()
        self._said: list[Record] = []
        self._changed = threading.Condition()
        self._closed = self._all_spooled = self._left_off = False
        self._machine: Machine | None = None
        self._spooling = threading.Thread(target=self._write, name="spooling", daemon=True)
        self._delivering = threading.Thread(target=self._deliver, name="tracking", daemon=True)
        self._spooling.start()
        self._delivering.start()

    def spool_into(self, folder: Path) -> None:
        """From now on records wait in a search's folder, behind those that an earlier process left there.

        Only for the one process that holds the search's lease, and before it says anything.
        """
        with self._changed:
            self._spool = Spool(folder)
            self._changed.notify_all()

    # -- what is said ------------------------------------------------------------------------------------------

    def begin(
        self,
        trial: str,
        run_name: str,
        params: dict[str, str | float],
        tags: dict[str, str],
        data: dict[str, str] | None = None,
    ) -> None:
        """A trial starts, or goes on: its run is found by its trial tag, or made.

        Args:
            trial: such as ``w4-017``; ``search`` for the run of the search itself.
            run_name: what the table of runs shows.
            params: flat; they are immutable in MLflow.
            tags: of the run.
            data: the data set, as the fields of an ``mlflow.entities.Dataset``.
        """
        plain = {name: shown(value) if isinstance(value, str) else value for name, value in params.items()}
        tags = {TRIAL: trial, STATE: "RUNNING", **_shown(tags)}
        when = int(time.time() * 1000)
        self._say(kind="begin", trial=trial, name=run_name, params=plain, tags=tags, data=data, when=when)

    def epochs(self, trial: str, entries: Iterable[Metrics]) -> None:
        """Metrics of epochs, each entry with ``epoch`` (its step) and ``time`` (when it was measured)."""
        points = [
            (name, float(value), int(entry["time"] * 1000), int(entry["epoch"]))
            for entry in entries
            for name, value in entry.items()
            if name not in {"epoch", "time"}
        ]
        if points:
            self._say(kind="metrics", trial=trial, points=points)

    def log(self, trial: str, values: Metrics, step: int, when: float) -> None:
        """Metrics at one step, at their original time (Unix seconds)."""
        self.epochs(trial, [{"epoch": step, "time": when, **values}])

    def artifact(self, trial: str, file: Path, under: str | None = None) -> None:
        """A file of the trial, such as its per-example results, in a folder ``under`` the run's artifacts."""
        self._say(kind="artifact", trial=trial, file=str(file), under=under)

    def model(self, trial: str, folder: Path) -> None:
        """A model that ``save_model`` wrote, as a logged model of the trial's run."""
        self._say(kind="model", trial=trial, folder=str(folder))

    def end(self, trial: str, state: str, when: float, tags: dict[str, str] | None = None) -> None:
        """A trial reached a state: COMPLETE, PRUNED, FAIL or INTERRUPTED."""
        tags = {STATE: state, **_shown(tags or {})}
        self._say(kind="end", trial=trial, state=state, when=int(when * 1000), tags=tags)

    def tag(self, trial: str, tags: dict[str, str]) -> None:
        """Facts that may change go to tags, because MLflow's parameters are immutable."""
        self._say(kind="tags", trial=trial, tags=_shown(tags))

    def mark_best(self, best: set[str]) -> None:
        """Tags the best trials, and takes the tag from those that were best before."""
        self._say(kind="best", trials=sorted(best))

    def watch_machine(self) -> None:
        """Records this machine's load in the run of the search, if ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING`` asks."""
        self._machine = Machine.asked_for(lambda values, step, when: self.log("search", values, step, when))

    # -- what is known, and the end ----------------------------------------------------------------------------

    def statuses(self) -> dict[str, str]:
        """The state tag and MLflow status of each trial's run, as ``COMPLETE FINISHED``; none before it answered."""
        if self.experiment is None:
            return {}
        return {
            run.data.tags[TRIAL]: f"{run.data.tags.get(STATE)} {run.info.status}"
            for run in all_runs(self._client, self.experiment)
            if TRIAL in run.data.tags
        }

    @property
    def pages(self) -> dict[str, str]:
        """The address in the MLflow UI of each trial's run, as far as it is known; nothing is asked."""
        if self._sender is None or self.experiment is None:
            return {}
        return {trial: run_page(self.uri, self.experiment, run) for trial, run in self._sender.runs.items()}

    @property
    def left(self) -> int:
        """How many records are not in MLflow yet."""
        with self._changed:
            return len(self._said) + self._spool.left

    def drain(self) -> bool:
        """Waits until what an earlier process left is in MLflow, or a delivery fails; returns whether it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._spool.empty or self.trouble is not None)
            return self._spool.empty

    def close(self, patience: float = 30.0) -> int:
        """Sends what is waiting; returns how many records could not be sent within ``patience`` seconds.

        These stay in the spool, if there is one.
        """
        deadline = time.monotonic() + patience
        if self._machine is not None:
            self._machine.stop()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._spooling.join(patience)
        with self._changed:
            self._all_spooled = True
            self._changed.notify_all()
        self._delivering.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._left_off = True
            self._changed.notify_all()
        left = self.left
        self._spool.close()
        return left

    def _say(self, **record: object) -> None:
        with self._changed:
            self._said.append(record)
            self._changed.notify_all()

    # -- the two threads ---------------------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._said or self._closed)
                said, self._said = self._said, []
                spool = self._spool
            if not said:
                return
            spool.append(said)
            with self._changed:
                self._changed.notify_all()

    def _deliver(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._all_spooled or self._left_off or not self._spool.empty)
                if self._left_off or self._spool.empty:
                    return
                self._changed.wait_for(lambda: self._closed, timeout=FLUSH_SECONDS)
            self.trouble = self._sent(self._spool)
            with self._changed:
                self._changed.notify_all()
                if self.trouble is not None:
                    self._changed.wait_for(lambda: self._left_off, timeout=RETRY_SECONDS)

    def _opened(self) -> str | None:
        """Opens the experiment if that is still to do; returns why it could not, in one line.

        Raises:
            InputError: the experiment is another search's, or deleted.
        """
        try:
            if self._sender is None:
                self.experiment = open_experiment(
                    self._client, self.uri, self.search, self._results, self._identity, self._adopt
                )
                self._sender = Sender(self._client, self.experiment)
        except InputError:
            raise
        except Exception as error:
            return first_line(error)
        return None

    def _sent(self, spool: Spool) -> str | None:
        try:
            trouble = self._opened()
        except InputError as error:  # it shows only now, after an outage: the records stay where they are
            trouble = "; ".join(error.problems)
        if trouble:
            return f"nothing recorded in MLflow yet: {trouble}"
        assert self._sender is not None
        while records := spool.take():
            trouble = self._sender.send(records, lambda: not self._left_off)
            if trouble is not None or self._left_off:
                return trouble
            spool.delivered()
        return None


def _refused(uri: str, got: str) -> InputError:
    do = "check the address, its credentials and its --allowed-hosts, or choose another --tracking URI"
    return InputError(refusal(f"an MLflow store at {shown(uri)}", got, do))


def _shown(tags: dict[str, str]) -> dict[str, str]:
    return {name: shown(value) for name, value in tags.items()}
