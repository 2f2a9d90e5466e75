"""What MLflow shows of each run: written down where nothing else remembers it, and put together
from there.

The driver writes ``run.json`` (``trials.run_facts``) when a run begins, ends or changes. The record
of a run follows from that file and those beside it (``Recorder.record_of``), so that it can be made
again at any time.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from robsearch.data import content_digest, load
from robsearch.errors import counted, shortened
from robsearch.metrics import VALUE
from robsearch.protocols import Dataset, Metrics
from robsearch.search.result import Search
from robsearch.search.strongest import STRONGEST, ladder_of, strongest
from robsearch.search.summary import answer_lines, regret_lines
from robsearch.search.tables import write_csv
from robsearch.study import COLUMN, RecordedTrial, SearchRecord, Suggestion, plain_name
from robsearch.tracking import SEARCH, SEARCH_ID, RunRecord, Tracker
from robsearch.training.costs import Cost, cost_of
from robsearch.trials.files import replacing
from robsearch.trials.ladder.results import ladder_metrics
from robsearch.trials.loading import MeasuredTrials, best_epoch, read_history, read_test
from robsearch.trials.paths import stays_inside
from robsearch.trials.provenance import (
    Facts,
    commit_text,
    output_of,
    read_attempts,
    read_search,
    versions_text,
)
from robsearch.trials.run_facts import RUN, RunFacts, read_run, write_run

BEST = "robsearch.best"
SUGGESTION = "robsearch.suggestion"
"""The tag that all trials of one suggestion share: its replicates, and its widths where it has
several. MLflow groups runs by it, and shows the mean of a group."""
DROPPED_TAG = "robsearch.dropped"
"""Why a person took a trial out of the results; empty where that was undone."""
ASKED = "robsearch.trials"
"""The tag of the search's own run with the total that its last driver was asked for."""
ENDED = ("COMPLETE", "PRUNED", "FAIL")
MODEL = "model"
"""The folder of a trial's MLflow model, in the trial's own."""
NOT_COMPARED = re.compile(
    r"(train_set|val_raw|test_raw)/.*|test_last/(?!robust_accuracy$).*|gap/loss"
    r"|(val|test)/(wrong_to_right|confidence|loss|epoch)|time/(train_seconds|images_per_second)"
    r"|.*(_se|/(se|min|q05|q50|q95|max|spread|std|condition))|ladder/[^/]+/(?!robust_accuracy$).*"
)
"""What a trial's folder keeps and MLflow is not told: its pages draw a chart for every name."""

NO_TAGS: Mapping[str, str] = {}

Summary = dict[str, tuple[float, float]]
"""Metrics that have one value, each with its time."""


class Recorder:
    """The records of one search's runs. Everything may be said twice; MLflow keeps it once.

    Args:
        tracker: the search's record in MLflow.
        trials: the folder of the trials' folders.
        record: of the search, for the tags that all its runs share.
    """

    def __init__(self, tracker: Tracker, trials: Path, record: SearchRecord | None = None) -> None:
        self.tracker = tracker
        self.trials = trials
        self._shared = shared_tags(record) if record else {}
        self._setting = record.setting if record else {}
        self._of_all_widths = record is not None and record.per_trial == "all"
        self._data: dict[Dataset, dict[str, str]] = {}
        self._unwritten: dict[str, RunFacts] = {}
        # What the runs of trials say of their being dropped, as far as it was read: whoever records
        # is the only writer.
        self._dropped: dict[str, str] = {}
        tracker.follow(self.record_of)

    # --- the search's own run ---

    def begin_search(self, record: SearchRecord, started: float | None = None) -> None:
        """The run of the search itself, which holds its summary, its report and, if asked for, the
        machine's load."""
        before = self.facts(SEARCH)
        facts = before or RunFacts("", started=started or time.time())
        tags = {
            **facts.tags,
            **self._shared,
            **_driver_tags(read_search(self.trials.parent)),
            "robsearch.kind": "search",
            "robsearch.seed": str(record.seed),
            ASKED: str(record.trials),
            "mlflow.note.content": _described(record),
        }
        begun = replace(
            facts,
            name=f"search {record.name}",
            state="RUNNING",
            ended=None,
            params={"space": record.space},
            tags=tags,
        )
        self._write(SEARCH, begun, before)

    def answer(self, search: Search) -> None:
        """What the search found in words, in its own run."""
        law = search.ridge.sentence()
        bullets = [f"- {as_text(line)}" for line in (*answer_lines(search), *regret_lines(search))]
        answer = "\n".join([f"__{as_text(law)}__", "", *bullets])
        summary = f"{answer}\n\n{_described(search.record)}"
        self.tag(SEARCH, {"robsearch.law": law, "mlflow.note.content": summary})

    def conclude(self, search: Search) -> None:
        """The answer, all trials and epochs as tables, and which trials are best."""
        folder = search.folder / "tables"
        folder.mkdir(exist_ok=True)
        for name in ("trials", "epochs"):
            with replacing(folder / f"{name}.parquet") as unfinished:
                pq.write_table(search.table(name), unfinished)
        write_csv(search.trials, folder / "trials.csv")
        self.mark_best({str(best["trial"]) for best in search.bests})
        self.answer(search)
        self._change(SEARCH, metrics=search.cost.metrics)

    def mark_best(self, best: set[str]) -> None:
        """Tags the best trials, and takes the tag from those that were best before."""
        for trial in sorted(folder.name for folder in self.trials.glob("*")):
            facts = self.facts(trial)
            if facts and (trial in best or facts.tags.get(BEST) == "true"):
                tags = {**facts.tags, BEST: "true" if trial in best else "false"}
                self._write(trial, replace(facts, tags=tags), facts)

    # --- trials ---

    def begin(self, suggestion: Suggestion) -> None:
        """A trial starts, or goes on after an interruption."""
        dataset = suggestion.recipe.resolved_data
        if dataset not in self._data:
            self._data[dataset] = logged_data(dataset)
        before = self.facts(suggestion.trial)
        stage = suggestion.stage
        recipe = suggestion.recipe
        row = {
            **vars(suggestion),
            "control": stage.control,
            "rung": stage.rung,
            "seed": recipe.seed,
        }
        begun = self._begun(row, recipe.flat(), suggestion.params)
        started = before.started if before else time.time()
        facts = replace(begun, started=started, data=self._data[dataset])
        self._write(suggestion.trial, facts, before)

    def changed(self, trial: str) -> None:
        """There is something new in a trial's folder: epochs, or another attempt."""
        self.tracker.nudge(trial)

    def ended(self, recorded: RecordedTrial, history: Sequence[Metrics]) -> None:
        """A trial ended; what a full disk kept from its folder is noted in its run."""
        facts = self.facts(recorded.trial)
        if facts:
            # The worker saves its history; on a full disk the file lacks epochs that were heard.
            saved = read_history(self._folder(recorded.trial))
            ended = _ended(facts, recorded, history, {})
            self._write(recorded.trial, replace(ended, unsaved=list(history[len(saved) :])), facts)

    def stopped(self, trial: str, state: str, when: float) -> None:
        """Nothing more comes of a run: INTERRUPTED or, of a search, COMPLETE.

        INTERRUPTED is no end for Optuna: a driver will go on with it.
        """
        facts = self.facts(trial)
        if facts and facts.state == "RUNNING":
            self._write(trial, replace(facts, state=state, ended=when), facts)

    def measured(self, trial: str, cost: Cost) -> None:
        """A trial's measures and tables are in its folder, and it took more than before."""
        self._change(trial, metrics=cost.metrics)

    def tag(self, trial: str, tags: Mapping[str, str]) -> None:
        """Facts that may change go to tags, because MLflow's parameters are immutable."""
        self._change(trial, tags)

    def tag_dropped(self, dropped: Mapping[str, str]) -> bool:
        """Tags every trial that a person took out of the results, and says of those that were put
        back that they were.

        Args:
            dropped: the trials, each with the reason.

        Returns:
            Whether any tag said something else before.
        """
        changed = False
        for trial in sorted(os.listdir(self.trials) if self.trials.exists() else ()):
            why = dropped.get(trial, "")
            if self._dropped.get(trial) == why:
                continue
            facts = self.facts(trial)
            if facts and facts.tags.get(DROPPED_TAG, "") != why:
                self.tag(trial, {DROPPED_TAG: why})
                changed = True
        return changed

    def settle(
        self, rows: Iterable[Mapping[str, Any]], interrupted: float | None = None
    ) -> set[str]:
        """Writes down what a driver that was killed had not, and what an earlier version never did.

        Args:
            rows: of the search's trials (``recorded_trials``); Optuna's word on a state is the
                last.
            interrupted: when the driver that is gone last wrote, if nobody drives the search: then
                trials that have not ended are interrupted. Else they are left as they are.

        Returns:
            Trials that are interrupted only now.
        """
        newly = set()
        measured = MeasuredTrials(self.trials)
        for row in rows:
            trial = row["trial"]
            recorded: RecordedTrial = row["recorded"]
            running = recorded.state == "RUNNING"
            if not recorded.recipe or (running and interrupted is None):
                continue  # the space failed to define it, or its driver will begin it again
            before = self.facts(trial)
            facts = before or self._known(row)
            if not running:
                folder = self.trials / trial
                recorded = replace(recorded, reason=row["reason"])
                # Of most trials this was noted, and nothing of thousands of histories is needed.
                was_noted = facts.state == recorded.state and facts.ended is not None
                is_known = was_noted and recorded.tells_its_end
                history = [] if is_known else read_history(folder)
                facts = _ended(facts, recorded, history, measured.read(trial))
            elif facts.state != "INTERRUPTED":
                facts = replace(facts, state="INTERRUPTED", ended=interrupted)
                newly.add(trial)
            if facts.started is None:
                facts = replace(facts, started=facts.ended)
            self._write(trial, facts, before)
            self._dropped[trial] = facts.tags.get(DROPPED_TAG, "")
        measured.keep()
        return newly

    def _begun(
        self, row: Mapping[str, Any], flat: Mapping[str, Any], suggested: Mapping[str, Any]
    ) -> RunFacts:
        label = row["trial"].partition("-")[0].removeprefix("w")
        tags = {
            **self._shared,
            "robsearch.kind": "control" if row["control"] else "trial",
            "robsearch.width": label,
            "robsearch.control": row["control"] or "none",
            "robsearch.fidelity": row["rung"] or "full",
            "robsearch.seed": str(row["seed"]),
            SUGGESTION: self._suggestion_of(row),
        }
        name = run_name(row, label, flat.get("lam"))
        return RunFacts(name, params=params(flat, row["width"], suggested), tags=tags)

    def _suggestion_of(self, row: Mapping[str, Any]) -> str:
        """The name of a trial without its replicate, such as ``w4-017``; ``all-017`` where a
        suggestion is trained at all widths."""
        name = str(row["trial"])
        if row["replicate"] is not None:
            name = name.removesuffix(f"-r{row['replicate']}")
        if self._of_all_widths and not row["control"]:
            name = f"all-{name.partition('-')[2]}"
        return name

    def _known(self, row: Mapping[str, Any]) -> RunFacts:
        """What can be known of a training for which there is no ``run.json``."""
        folder = self.trials / row["trial"]
        attempts = read_attempts(folder)
        history = read_history(folder)
        suggested = {}
        for name, value in row.items():
            if name.startswith(COLUMN):
                suggested[name.removeprefix(COLUMN)] = value
        lam = row["recorded"].lam
        flat = {"lam": lam} if lam else {}
        started = history[0]["time"] if history else None
        # An attempt wrote down its whole recipe; of that the storage has lambda alone.
        if attempts:
            flat = attempts[-1]["recipe"]
            started = attempts[0].get("started", started)
        return replace(self._begun(row, flat, suggested), started=started)

    # --- run.json ---

    def _folder(self, trial: str) -> Path:
        return self.trials.parent if trial == SEARCH else self.trials / trial

    def facts(self, trial: str) -> RunFacts | None:
        """What ``run.json`` of a trial, or of ``search``, says; None before it has begun."""
        return self._unwritten.get(trial) or read_run(self._folder(trial))

    def _change(self, trial: str, tags: Mapping[str, str] = NO_TAGS, **changes: Any) -> None:
        facts = self.facts(trial)
        if facts:
            changed = replace(facts, tags={**facts.tags, **tags}, **changes)
            self._write(trial, changed, facts)

    def _write(self, trial: str, facts: RunFacts, before: RunFacts | None = None) -> None:
        """What a full disk refuses waits in memory, and is tried again with the next change.

        Args:
            trial: or ``search``.
            facts: of its run.
            before: what ``facts`` said of it until now.
        """
        folder = self._folder(trial)
        self._dropped.pop(trial, None)
        if facts != before or trial in self._unwritten:
            try:
                write_run(folder, facts)
                self._unwritten.pop(trial, None)
            except OSError as error:
                logging.getLogger(__name__).warning(f"{folder / RUN} was not written: {error}")
                self._unwritten[trial] = facts
        self.changed(trial)

    def write_waiting(self) -> None:
        """Tries once more to write what a full disk refused."""
        for trial, facts in list(self._unwritten.items()):
            self._write(trial, facts)

    # --- what MLflow is to show ---

    def record_of(self, trial: str) -> RunRecord | None:
        """The record of a run, from its folder; None where none has begun."""
        facts = self.facts(trial)
        if facts is None:
            return None
        folder = self._folder(trial)
        history = [*read_history(folder), *facts.unsaved]
        tags = {**facts.tags, **attempt_tags(read_attempts(folder))}
        summary: Summary = {}
        if facts.ended is not None:
            summary |= _at(facts.ended, facts.metrics)
        # While it runs its last values are those of its curves.
        if facts.state in ENDED:
            summary |= self._summary(folder, history, tags)
        model = folder / MODEL
        home = folder if trial == SEARCH else self.trials
        return RunRecord(
            trial,
            replace(facts, tags=tags),
            curves=[compared(entry) for entry in history],
            summary=summary,
            artifacts=_artifacts(folder, home),
            model=model if model.exists() and stays_inside(model, home) else None,
        )

    def _summary(self, folder: Path, history: list[Metrics], tags: dict[str, str]) -> Summary:
        """What has one value in a trial that has ended, each with its time: its best epoch, because
        MLflow compares last values, its measures, and the strongest known robust accuracy.

        That one's attack, n and interval go into a tag.
        """
        test = read_test(folder)
        ladder = ladder_of(folder)
        summary: Summary = {}
        best: Metrics = {}
        latest = 0.0
        if history:
            entry = history[best_epoch(history) - 1]
            epoch = entry["epoch"]
            value = entry[VALUE]
            best = {"best_epoch": epoch, "value": value}
            latest = history[-1]["time"]
            summary |= _at(latest, {"val/best_robust_accuracy": value, "val/best_epoch": epoch})
        if test:
            when = (folder / "test.json").stat().st_mtime
            latest = max(latest, when)
            summary |= _at(when, test)
        if ladder is not None:
            when = (folder / "ladder.parquet").stat().st_mtime
            latest = max(latest, when)
            summary |= _at(when, ladder_metrics(ladder))
        figure = strongest(ladder, {**test, **best}, self._setting)
        if figure:
            summary |= _at(latest, {STRONGEST[0]: figure.robust_accuracy})
            tags["robsearch.strongest"] = figure.text
        return summary


def is_concluded(folder: Path, record: SearchRecord) -> bool:
    """Whether a search's last driver did all that there was to do for this total, and said so in
    ``run.json``; False also where that is not known.

    Args:
        folder: of the search.
        record: of the search.
    """
    facts = read_run(folder)
    if facts is None or facts.state != "COMPLETE":
        return False
    return facts.tags.get(ASKED) == str(record.trials)


def _ended(
    facts: RunFacts, recorded: RecordedTrial, history: Sequence[Metrics], test: Metrics
) -> RunFacts:
    """The facts of a run that has ended, with its last epoch."""
    if history:
        ended = history[-1]["time"]
    elif facts.state == recorded.state and facts.ended:
        ended = facts.ended
    else:
        ended = time.time()
    tags = dict(facts.tags)
    if recorded.reason:
        tags["robsearch.reason"] = shortened(recorded.reason)
    if recorded.collapsed:
        tags["robsearch.collapsed"] = "true"
    metrics = cost_of(history, test, vars(recorded)).metrics
    now = (recorded.state, ended, tags, metrics)
    # Of most of a search's trials nothing is new, and facts that are made anew are checked anew.
    if (facts.state, facts.ended, facts.tags, facts.metrics) == now:
        return facts
    return replace(facts, state=recorded.state, ended=ended, tags=tags, metrics=metrics)


def _artifacts(folder: Path, home: Path) -> dict[Path, str]:
    """The files that a run shows, and in which folder: of a search its report with its data, its
    tables and the verdicts that rest on it, of a trial its measures and figures, once they are
    complete.

    A link that leads out of ``home`` would show a file of the user's to all who see the record.
    """
    artifacts = {folder / "report.html": "", folder / "masking.json": ""}
    tables = [*folder.glob("tables/*"), folder / "test.json"]
    if (folder / "test.json").exists() or (folder / "masking.json").exists():
        tables += folder.glob("*.parquet")
        artifacts |= dict.fromkeys(folder.glob("figures/*.png"), "figures")
    artifacts |= dict.fromkeys(tables, "tables")
    # The report links to them.
    artifacts |= dict.fromkeys(folder.glob("report-data/*.parquet"), "report-data")
    artifacts |= dict.fromkeys(folder.glob("claims/*"), "claims")
    files = [file for file in sorted(artifacts) if file.is_file() and stays_inside(file, home)]
    return {file: artifacts[file] for file in files}


def compared(metrics: Metrics) -> Metrics:
    """Those by which a person compares trials; ``load_search`` has all of them, from the trials'
    folders.

    NaN and infinity are left out: MLflow's stores would show 1.8e308.
    """
    return {
        name: value
        for name, value in metrics.items()
        if value is not None and math.isfinite(value) and is_compared(name)
    }


@cache
def is_compared(name: str) -> bool:
    """Whether MLflow is told of a metric."""
    return NOT_COMPARED.fullmatch(name) is None


def _at(when: float, metrics: Metrics) -> Summary:
    """What of the metrics is compared, with the time at which it was known."""
    return {name: (value, when) for name, value in compared(metrics).items()}


def _described(record: SearchRecord) -> str:
    """How a search was made, as Markdown."""
    setting = record.setting.items()
    return "\n".join(f"- **{as_text(label)}**: {as_text(text)}" for label, text in setting)


def as_text(text: str) -> str:
    """A text in Markdown in which nothing is emphasis (``lambda*``), a link, code or HTML."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)


def shared_tags(record: SearchRecord) -> dict[str, str]:
    """The tags that all runs of a search share."""
    return {
        "robsearch.search": record.name,
        SEARCH_ID: record.identity,
        "mlflow.source.name": record.space,
    }


def attempt_tags(attempts: Sequence[Facts]) -> dict[str, str]:
    """What each attempt at a trial ran on, and of the last one also tags by which runs can be
    compared."""
    if not attempts:
        return {}
    last = attempts[-1]
    tags = {
        **_code_tags(last),
        "robsearch.hardware": f"{last['node']}, {last['device']}",
        "robsearch.node": last["node"],
        "robsearch.device": last["device"],
    }
    for attempt in attempts:
        parts = [attempt["node"], attempt["device"], commit_text(attempt), versions_text(attempt)]
        tags[f"robsearch.attempt.{attempt['attempt']}"] = "; ".join(parts)
    return tags


def _driver_tags(search: Facts) -> dict[str, str]:
    """What the newest driver of a search runs on."""
    drivers = search.get("drivers")
    if not drivers:
        return {}
    last = drivers[-1]
    hardware = [last["node"], counted(os.cpu_count() or 1, "CPU"), driver_gpus()]
    return {**_code_tags(last), "robsearch.hardware": ", ".join(filter(None, hardware))}


def _code_tags(facts: Facts) -> dict[str, str]:
    clean = {True: "true", False: "false"}.get(facts["clean"], "unknown")
    return {
        "robsearch.commit": facts["commit"],
        "robsearch.clean": clean,
        "robsearch.versions": versions_text(facts),
    }


@cache
def driver_gpus() -> str:
    """The names of the driver's GPUs, such as ``2 x NVIDIA H200``; empty where there are none."""
    asked = output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    counts = Counter((asked or "").splitlines())
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def logged_data(dataset: Dataset) -> dict[str, str]:
    """A data set as the fields of an ``mlflow.entities.Dataset``: its name, digest, source, sizes
    and shape."""
    sizes = {split: len(part.labels) for split, part in load(dataset).items()}
    spec = dataset.spec
    schema = {"images": ["uint8", *spec.shape], "labels": ["int64", spec.num_classes]}
    return {
        "name": type(dataset).__name__,
        "digest": content_digest(dataset),
        "source_type": "robsearch",
        "source": json.dumps({"dataset": repr(dataset)}),
        "schema": json.dumps(schema),
        "profile": json.dumps({"num_rows": sum(sizes.values()), **sizes}),
    }


def run_name(row: Mapping[str, Any], label: str, lam: object) -> str:
    """What the runs table shows: ``w4 lam 6.31 #017``, or ``w4 standard`` for a control."""
    parts = [f"w{label}"]
    if row["control"]:
        return f"{parts[0]} {row['control']}"
    if row["rung"]:
        parts.append(row["rung"])
    if isinstance(lam, float):
        parts.append(f"lam {lam:.3g}")
    parts.append(f"#{row['number']:03d}")
    if row["replicate"] is not None:
        parts.append(f"r{row['replicate']}")
    return " ".join(parts)


def params(
    flat: Mapping[str, Any], width: float, suggested: Mapping[str, Any]
) -> dict[str, str | float]:
    """The recipe's flat view, what was suggested, and width and lambda on the log scale, which
    MLflow's axes lack."""
    parameters = {**flat, "width": width, "log2_width": math.log2(width)}
    lam = flat.get("lam")
    if isinstance(lam, float) and lam > 0:
        parameters["log10_lam"] = math.log10(lam)
    for name, value in suggested.items():
        parameters[f"{COLUMN}{plain_name(name)}"] = value
    return parameters
