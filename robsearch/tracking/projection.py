"""MLflow as a projection: whatever a run shows follows from a ``RunRecord``, and bringing a run up
to date with its record is all that is ever sent.

The record is made anew from Optuna's storage and the trial's folder each time, so there is nothing
to be delivered in order, and nothing that an outage could lose. One mechanism serves the first
delivery, the time after an outage, ``resume``, ``evaluate``, ``promote`` and ``robsearch sync``:

1. *Find the run* by its trial tag, in the search's experiment. Only where there is none it is made,
   and then looked for again: of several, which a lost answer or two processes at once may have
   made, one stays and the others are deleted. A run that a person deleted is left alone.
2. *Compare* with what the server has: parameters, tags and last values come with the run, the
   points of curves are read once for a run that is behind. A point is its name, step and time.
   A tag has the digest of all files, because the server tells of each no more than its size.
3. *Send what is missing*: artifacts, then parameters, points and tags in few requests, then the
   model, and at last the state. So a run that has ended on the server too, with the same last
   values and tags, has everything; only ``thorough`` asks for its points and files nevertheless.

After any error the server may have acted or not. What was known of the run is then forgotten, and
compared again at the next attempt. Where the server answers, but refuses a batch, smaller ones are
tried, down to the one thing that it refuses. What it has called wrong five times, while it took
others, is left out; whatever else goes wrong is tried again for ever.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from robsearch.protocols import Metrics
from robsearch.tracking.models import upload
from robsearch.tracking.store import NO_ANSWER, TRIAL, all_runs, first_line
from robsearch.trials.run_facts import RunFacts

LOG = logging.getLogger(__name__)
SEARCH = "search"
"""The name of the search's own run, among those of its trials."""
STATE = "robsearch.state"
STATUS = {
    "COMPLETE": "FINISHED",
    "PRUNED": "FINISHED",
    "FAIL": "FAILED",
    "INTERRUPTED": "KILLED",
    "RUNNING": "RUNNING",
}
"""The MLflow status of each state of a trial. The UI shows KILLED as it shows FAILED, by a red
cross, and a trial that was pruned is as it should be: the tag ``robsearch.state`` tells it."""

AT_MOST = {Param: 100, Metric: 850, RunTag: 20}
"""In one request: MLflow takes 1,000 in all, 100 parameters and 1 MB."""
LONGEST_PARAM, LONGEST_TAG = 6000, 5000
REFUSALS = 5
"""How often a thing is tried that the server refuses."""
FINAL = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "ALREADY_EXISTS",
}
"""Error codes of what MLflow would refuse again."""
FILES = "robsearch.files"
"""The tag with the digest of a run's artifacts."""

Item = Param | Metric | RunTag
Identity = tuple[str, int, int]
"""Name, step and time of a point."""
Stamp = tuple[int, int]
"""Size, and time of the last change, of a file."""


class ShownFile(NamedTuple):
    """A file of a run: the folder of the artifacts in which it is shown, and what it holds."""

    source: Path
    folder: str
    content: bytes


@dataclass(frozen=True)
class RunRecord:
    """All that MLflow shows of one run.

    Attributes:
        trial: such as ``w4-017``; ``SEARCH`` for the run of the search itself.
        facts: its name, state, times, parameters, tags and data set.
        curves: metrics of epochs, each entry with ``epoch`` (its step) and ``time`` (Unix seconds).
        summary: metrics that have one value, each with its time.
        artifacts: files, each with the folder of the artifacts in which it is shown ('' for the
            top).
        model: the folder of a model that ``save_model`` wrote.
    """

    trial: str
    facts: RunFacts
    curves: Sequence[Metrics] = ()
    summary: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    artifacts: Mapping[Path, str] = field(default_factory=dict)
    model: Path | None = None

    @property
    def points(self) -> dict[Identity, float]:
        """The curves' points, in their order."""
        points = {}
        for entry in self.curves:
            when = _ms(entry["time"])
            step = int(entry["epoch"])
            for name, value in entry.items():
                if name not in ("epoch", "time"):
                    points[name, step, when] = float(value)
        return points

    @property
    def status(self) -> str:
        """The MLflow status of its state."""
        return STATUS[self.facts.state]

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags as they are sent, the state at last."""
        tags = {TRIAL: self.trial, **self.facts.tags, STATE: self.facts.state}
        return {name: text[:LONGEST_TAG] for name, text in tags.items()}


class _ServerRun:
    """What the server is known to have of one run."""

    def __init__(self, run: Run, is_new: bool = False) -> None:
        self.id = run.info.run_id
        self.trial = run.data.tags[TRIAL]
        self.deleted = _is_deleted(run)
        self.status = run.info.status
        self.end_time = run.info.end_time
        self.params = run.data.params
        self.tags = run.data.tags
        self.values = run.data.metrics
        self.has_data = bool(run.inputs and run.inputs.dataset_inputs)
        self.has_model = False
        self.points: set[Identity] | None = set() if is_new else None
        """Those of curves; None before they were read."""
        self.files: dict[str, bytes] | None = {} if is_new else None
        """What was sent, by path; None before this was asked for."""

    def learn(self, items: Iterable[Item]) -> None:
        """The server has these now."""
        for item in items:
            if isinstance(item, Metric):
                self.values[item.key] = item.value
                if self.points is not None:
                    self.points.add(_identity(item))
            else:
                known = self.params if isinstance(item, Param) else self.tags
                known[item.key] = item.value


class Projection:
    """Brings the runs of one experiment up to date with their records.

    Args:
        client: of the store.
        experiment: its id.
        thorough: whether also runs that seem to have everything are compared point by point, and
            file by file.
    """

    def __init__(self, client: MlflowClient, experiment: str, thorough: bool = False) -> None:
        self._client = client
        self._experiment = experiment
        self._thorough = thorough
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._refused = ""
        self._hashes: dict[Path, tuple[Stamp, bytes]] = {}
        self._runs: dict[str, _ServerRun] = {}
        self._doubtful: set[str] = set()
        copies: dict[str, list[Run]] = {}
        for run in all_runs(client, experiment, ViewType.ALL):
            if TRIAL in run.data.tags:
                copies.setdefault(run.data.tags[TRIAL], []).append(run)
        for trial, runs in copies.items():
            self._runs[trial] = _ServerRun(self._settle_on_one(runs))

    @property
    def run_ids(self) -> dict[str, str]:
        """The id of each trial's run, as far as it is known."""
        # A copy, because another thread may ask.
        runs = list(self._runs.items())
        return {trial: run.id for trial, run in runs if not run.deleted}

    @property
    def refusals(self) -> int:
        """How often the server has refused a single thing."""
        return self._refusals.total()

    def bring_up_to_date(self, record: RunRecord) -> str:
        """Sends what a run lacks.

        Returns:
            What the server refused and is to be tried again, in one line; else ''.

        Raises:
            Exception: the server does not answer, or refuses everything; the run may have some of
            it.
        """
        self._refused = ""
        try:
            self._bring(record)
        except Exception:
            self._runs.pop(record.trial, None)
            self._doubtful.add(record.trial)
            raise
        return self._refused

    def _bring(self, record: RunRecord) -> None:
        run = self._run_of(record)
        if run.deleted:
            return
        facts = record.facts
        status = record.status
        # A trial that is resumed has a run that had ended.
        if status == "RUNNING" and run.status != status:
            self._client.update_run(run.id, status=status)
            run.status = status
        points = record.points
        files = self._files(record)
        digest = _digest(files)
        items = self._missing(run, record, points, digest)
        # MLflow lists a data set twice that is logged twice.
        if facts.data and not run.has_data:
            dataset = Dataset(**facts.data)
            context = InputTag("mlflow.data.context", "train, val, test")
            self._client.log_inputs(run.id, [DatasetInput(dataset, [context])])
            run.has_data = True
        are_sent = self._send_artifacts(run, files, digest)
        # The tag goes last: it says that all files are there.
        if are_sent and files and run.tags.get(FILES) != digest:
            items.append(RunTag(FILES, digest))
        for batch in _batches(items):
            self._send(run, batch)
        # Nobody will ask again for other points than those of the record.
        run.points = (run.points or set()) & points.keys()
        if record.model is not None and not run.has_model:
            ids = (self._experiment, run.id, record.trial)
            send = partial(upload, self._client, *ids, record.model)
            run.has_model = self._is_taken(run, ["model"], send)
        if status == "RUNNING":
            return
        ended = None if facts.ended is None else _ms(facts.ended)
        if run.status != status or ended not in (None, run.end_time):
            self._client.set_terminated(run.id, status, ended)
            run.status = status
            run.end_time = ended

    # --- the run ---

    def _run_of(self, record: RunRecord) -> _ServerRun:
        trial = record.trial
        if trial in self._runs:
            return self._runs[trial]
        # Only after a failure: the answer to an earlier attempt to make one may have been lost.
        runs = self._look_up(trial) if trial in self._doubtful else []
        made = None
        if not runs:
            started = record.facts.started
            made = self._client.create_run(
                self._experiment,
                start_time=None if started is None else _ms(started),
                tags={TRIAL: trial, STATE: "RUNNING"},
                run_name=record.facts.name,
            )
            # Another process may have made one at the same moment.
            runs = self._look_up(trial) or [made]
        run = self._settle_on_one(runs)
        is_new = made is not None and run.info.run_id == made.info.run_id
        self._runs[trial] = _ServerRun(run, is_new)
        self._doubtful.discard(trial)
        return self._runs[trial]

    def _look_up(self, trial: str) -> list[Run]:
        of_trial = f"tags.`{TRIAL}` = '{trial}'"
        return list(self._client.search_runs([self._experiment], of_trial, ViewType.ALL))

    def _settle_on_one(self, runs: Sequence[Run]) -> Run:
        """The run of a trial; others, made at the same time or after a lost answer, are deleted.

        Every process has to choose the same one. The server does not say which it made first.
        """
        active = [run for run in runs if not _is_deleted(run)]
        if not active:
            trial = runs[0].data.tags[TRIAL]
            LOG.warning(f"the run of {trial} was deleted in MLflow: it is left alone")
            return runs[0]
        # The oldest run, and of equal ones the one whose id comes first.
        active.sort(key=lambda run: (run.info.start_time, run.info.run_id))
        for run in active[1:]:
            self._client.delete_run(run.info.run_id)
        return active[0]

    # --- what it lacks ---

    def _missing(
        self, run: _ServerRun, record: RunRecord, points: Mapping[Identity, float], digest: str
    ) -> list[Item]:
        """The parameters, points and tags that are to be sent."""
        items: list[Item] = []
        for name, param in record.facts.params.items():
            # MLflow refuses another value for a parameter that it has.
            if name not in run.params:
                items.append(Param(name, str(param)[:LONGEST_PARAM]))
        for name, (value, when) in record.summary.items():
            if not _has_value(run, name, value):
                items.append(self._newest(run, Metric(name, value, _ms(when), 0)))
        for name, text in record.all_tags.items():
            if run.tags.get(name) != text:
                items.append(RunTag(name, text))
        if not items and not self._thorough and _seems_whole(run, record, points, digest):
            run.points = set(points)
        items = [*self._missing_points(run, points), *items]
        return [item for item in items if self._refusals[run.trial, _name(item)] < REFUSALS]

    def _missing_points(
        self, run: _ServerRun, points: Mapping[Identity, float]
    ) -> Iterator[Metric]:
        if run.points is None:
            run.points = set()
            for name in {name for name, _, _ in points} & run.values.keys():
                history = self._client.get_metric_history(run.id, name)
                run.points.update(map(_identity, history))
        for (name, step, when), value in points.items():
            if (name, step, when) not in run.points:
                yield Metric(name, value, when, step)

    def _newest(self, run: _ServerRun, metric: Metric) -> Metric:
        """The metric at a time at which it stands for the one that the server has: MLflow shows the
        last one by time."""
        if metric.key not in run.values:
            return metric
        history = self._client.get_metric_history(run.id, metric.key)
        last = max(point.timestamp for point in history)
        return Metric(metric.key, metric.value, max(metric.timestamp, last + 1), 0)

    # --- requests ---

    def _send(self, run: _ServerRun, items: Sequence[Item]) -> None:
        """One request; if the server refuses it, smaller ones, so that only what it refuses is left
        out."""
        names = list(dict.fromkeys(map(_name, items)))
        if self._is_taken(run, names, partial(self._log_batch, run, items)):
            run.learn(items)
        # Halves, so that a thousand good items cost few requests beside one bad item.
        elif len(names) > 1:
            middle = len(names) // 2
            for half in (names[:middle], names[middle:]):
                self._send(run, [item for item in items if _name(item) in half])

    def _log_batch(self, run: _ServerRun, items: Sequence[Item]) -> None:
        self._client.log_batch(
            run.id,
            metrics=[item for item in items if isinstance(item, Metric)],
            params=[item for item in items if isinstance(item, Param)],
            tags=[item for item in items if isinstance(item, RunTag)],
        )

    def _files(self, record: RunRecord) -> dict[str, ShownFile]:
        """The files that a run shows, by their path among its artifacts."""
        files = {}
        for source, folder in record.artifacts.items():
            path = f"{folder}/{source.name}" if folder else source.name
            files[path] = ShownFile(source, folder, self._content_hash(source))
        return files

    def _content_hash(self, file: Path) -> bytes:
        """A file that did not change since is not read again."""
        status = file.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        known, content = self._hashes.get(file, (None, b""))
        if known != stamp:
            content = hashlib.sha256(file.read_bytes()).digest()
            self._hashes[file] = stamp, content
        return content

    def _send_artifacts(self, run: _ServerRun, files: Mapping[str, ShownFile], digest: str) -> bool:
        """Sends files that are new or changed; returns whether the server has all of them now."""
        # A server tells no content, so the digest of all files stands for each of them.
        if run.files is None:
            there = self._files_there(run, files) if run.tags.get(FILES) == digest else []
            run.files = {path: files[path].content for path in there}
        are_sent = True
        for path, file in files.items():
            if run.files.get(path) == file.content:
                continue
            where = (str(file.source), file.folder or None)
            if self._is_taken(run, [path], partial(self._client.log_artifact, run.id, *where)):
                run.files[path] = file.content
            else:
                are_sent = False
        return are_sent

    def _files_there(self, run: _ServerRun, files: Mapping[str, ShownFile]) -> Iterable[str]:
        """The paths of files, whose digest is on the server; ``thorough`` looks for each."""
        if not self._thorough:
            return files
        there = []
        for folder in {file.folder for file in files.values()}:
            there += self._client.list_artifacts(run.id, folder or None)
        sizes = {path: file.source.stat().st_size for path, file in files.items()}
        # Some stores do not tell sizes.
        return [
            file.path
            for file in there
            if file.path in sizes and file.file_size in (None, sizes[file.path])
        ]

    def _is_taken(self, run: _ServerRun, names: Sequence[str], send: Callable[[], object]) -> bool:
        """Sends something; False if the server refuses it, or has done so too often before.

        That it is this which is refused shows in that the server takes what it never refuses: the
        tag that the run has already. A single thing is then tried again with the next attempts.
        """
        is_single = len(names) == 1
        refused = (run.trial, names[0])
        if is_single and self._refusals[refused] >= REFUSALS:
            return False
        try:
            send()
        except (MlflowException, OSError) as error:
            if NO_ANSWER.search(str(error)):
                raise
            # If the server takes not even this, it is no refusal: the error goes to the caller.
            self._client.log_batch(run.id, tags=[RunTag(TRIAL, run.trial)])
            if is_single:
                self._refusals[refused] += _is_final(error)
                text = f"{names[0]} of {run.trial} refused by MLflow: {first_line(error)}"
                if self._refusals[refused] < REFUSALS:
                    self._refused = text
                else:
                    LOG.warning(text)
            return False
        return True


def _is_deleted(run: Run) -> bool:
    return str(run.info.lifecycle_stage) == "deleted"


def _has_value(run: _ServerRun, name: str, value: float) -> bool:
    """Whether the last value of a metric is this one, but for the order in which a sum was
    taken."""
    return math.isclose(run.values.get(name, math.nan), value)


def _seems_whole(
    run: _ServerRun, record: RunRecord, points: Mapping[Identity, float], digest: str
) -> bool:
    """Whether a trial that this process has not seen before ended as the server says."""
    unseen = run.points is None and run.files is None
    # That of a pruned trial was another one in earlier versions; a tag has the state itself.
    ended = "RUNNING" not in (run.status, record.status)
    has_files = not record.artifacts or run.tags.get(FILES) == digest
    if record.trial == SEARCH or not unseen or not ended or not has_files:
        return False
    last = {name: value for (name, _, _), value in points.items()}
    return all(_has_value(run, name, value) for name, value in last.items())


def _digest(files: Mapping[str, ShownFile]) -> str:
    """Of the names and contents of all files that a run shows."""
    whole = hashlib.sha256()
    for path, file in files.items():
        whole.update(f"{path}\0".encode() + file.content)
    return whole.hexdigest()[:16]


def _is_final(error: Exception) -> bool:
    """Whether the same would be refused again, and it is no fault of the server or of the way."""
    if isinstance(error, MlflowException):
        return error.error_code in FINAL
    return isinstance(error, FileNotFoundError)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """What goes into one request each."""
    batch: list[Item] = []
    sizes: Counter[type] = Counter()
    for item in items:
        kind = type(item)
        if sizes[kind] == AT_MOST[kind]:
            yield batch
            batch = []
            sizes.clear()
        batch.append(item)
        sizes[kind] += 1
    if batch:
        yield batch


def _identity(point: Metric) -> Identity:
    return point.key, point.step, point.timestamp


def _name(item: Item) -> str:
    return f"{type(item).__name__.lower()} {item.key}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
