"""One trial, as a worker runs it: train in its folder and report, then measure on ``test``. No Ray in here."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from robsearch.attacks import PGD
from robsearch.checkpoints import Attempt, Saved, StaleAttemptError, checkpoint_of, newest
from robsearch.costs import measured_for
from robsearch.data import load
from robsearch.disk import DiskFullError
from robsearch.evaluation import best_device, images_at_once, judged_or_told, sampled, to_device, to_float
from robsearch.files import DamagedError, make_way, read_json, replacing, unless_damaged, write_json
from robsearch.measurement import Measurement, averages, finite
from robsearch.memory import DeviceFullError
from robsearch.protocols import Checkpoint, Metrics
from robsearch.provenance import note_attempt
from robsearch.ranks import ALONE, RankLostError, Ranks
from robsearch.recipe import Recipe
from robsearch.saving import Keeper
from robsearch.trainer import NonFiniteLossError, train

if TYPE_CHECKING:
    from robsearch.masking import Check

MASKING_EXAMPLES = 500
"""Test images on which signs of gradient masking are looked for."""
REPORT_SECONDS = 0.25
"""Epochs shorter than this share one report and one checkpoint: at most this much training is ever redone."""


class Progress(NamedTuple):
    """How far a long job is, from 0 to 1, and in words."""

    share: float
    text: str


@dataclass(frozen=True)
class Report:
    """What a worker tells the driver.

    Attributes:
        epochs: the metrics of the epochs since the last report, each with ``epoch`` and ``time`` (Unix seconds).
        ended: None while training, then ``COMPLETE`` or ``FAIL``.
        reason: why it failed.
        attempt: the number of this try at the trial.
        test: the averages over ``test`` and others, from a measuring job, or the ladder's figures.
        progress: of a job that evaluates.
        said: what the worker warned of since the last report: a damaged checkpoint, memory or a disk that ran out.
    """

    epochs: list[Metrics] = field(default_factory=list)
    ended: str | None = None
    reason: str | None = None
    attempt: int = 0
    test: Metrics = field(default_factory=dict)
    progress: Progress | None = None
    said: tuple[str, ...] = ()


def run(recipe: Recipe, folder: Path, ranks: Ranks = ALONE) -> Iterator[Report]:
    """Trains the recipe in its folder, from the last valid checkpoint if there is one.

    The first report repeats what earlier attempts had saved, so that a driver that lost a report catches up.
    Errors are reported, not raised: only the death of a process is left for Ray to see. Of several ``ranks`` that
    train one model together, rank 0 alone writes, and only its reports are to be heard.
    """
    attempt = ranks.first(lambda: Attempt.claim(folder))
    try:
        if ranks.leads:
            with contextlib.suppress(OSError):  # a full disk shows at the first checkpoint, which says so
                note_attempt(attempt.folder, attempt.number, recipe)
        with ranks.united():
            yield from _train(recipe, attempt, ranks)
        return
    except RankLostError:
        raise
    except (NonFiniteLossError, DeviceFullError, DiskFullError, StaleAttemptError) as error:
        reason = str(error)
    except Exception as error:
        reason = _own_reason(error, attempt) if ranks.leads else str(error)
    # Out of the except block: while the driver reads this, no traceback holds the trial's tensors.
    yield Report(ended="FAIL", reason=reason, attempt=attempt.number)


def measure(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Takes the full measures of a trained trial: at ``measured_epoch`` on ``test`` and ``train``, briefly at the last.

    Writes the tables (``measurement``) as Parquet, the figures, and then ``test.json`` (the averages) in the
    trial's folder. A measure that fails is left out and named in the report's reason. So are checkpoints that are
    damaged: measured is then the best that is not, whose epoch is ``test/epoch``.
    """
    try:
        metrics, problems = _measure(recipe, folder, _newest(folder))
        yield Report(ended="COMPLETE", test=metrics, reason="; ".join(problems) or None)
    except Exception as error:
        yield Report(ended="FAIL", reason=_reason(error, folder))


def evaluate_trial(recipe: Recipe, folder: Path, rung: str, epoch: int | None = None) -> Iterator[Report]:
    """Takes a trained trial up the evaluation ladder on all of ``test``, and looks for signs of gradient masking.

    Writes ``ladder.parquet``, ``ladder.json`` and ``masking.json`` (see ``ladder_folder``); what is there already is
    not done again.

    Args:
        recipe: of the trial; its ``test_attack``, a ``PGD``, is the lowest rung.
        folder: of the trial.
        rung: how far to go.
        epoch: of the checkpoint; by default the best.
    """
    try:
        yield from _evaluate(recipe, folder, rung, epoch)
    except Exception as error:
        yield Report(ended="FAIL", reason=_reason(error, folder))


def ladder_folder(trial: Path, epoch: int | None = None) -> Path:
    """Where the ladder of a trial's best epoch lies, or of another of its checkpoints."""
    return trial if epoch is None else trial / f"at-epoch-{epoch:04d}"


def read_test(folder: Path) -> Metrics:
    """The averages over ``test`` of a measured trial; empty if it has not been measured, or, with a warning, if the
    file is damaged.
    """
    again = "it is left out, and the trial is measured again when its search is resumed"
    return unless_damaged(_averages, folder / "test.json", again) or {}


def read_checks(folder: Path) -> list[Check]:
    """The gradient-masking checks of an evaluated network; empty if there are none, or, with a warning, if the file
    is damaged.
    """
    return unless_damaged(_checks, folder / "masking.json", "`robsearch evaluate` makes the checks again") or []


def _train(recipe: Recipe, attempt: Attempt, ranks: Ranks) -> Iterator[Report]:
    saved = ranks.first(attempt.resume)
    history = list(saved.history) if saved and ranks.leads else []
    if history:
        yield Report(list(history), attempt=attempt.number)
    sent, due = len(history), time.monotonic() + REPORT_SECONDS
    epoch, keeper = None, Keeper(attempt, saved=len(history))
    for epoch in train(recipe, saved.state if saved else None, ranks=ranks):
        if not ranks.leads:
            continue
        history.append({"epoch": epoch.number, "time": time.time(), **epoch.metrics})
        report = time.monotonic() >= due
        if not report:
            keeper.hold(epoch, history)
        else:
            keeper.save(epoch, history)
            yield Report(history[sent:], attempt=attempt.number)
            sent, due = len(history), time.monotonic() + REPORT_SECONDS
    if epoch is not None and ranks.leads:
        keeper.finish(epoch, history)
    yield Report(history[sent:], ended="COMPLETE", attempt=attempt.number)


def _measure(recipe: Recipe, folder: Path, last: Saved) -> tuple[Metrics, list[str]]:
    from robsearch.figures import draw  # here and below: a worker that only trains need not load matplotlib or scipy

    started, device, attack = time.perf_counter(), best_device(), recipe.resolved_test_attack
    splits = {name: to_device(split, device) for name, split in load(recipe.data).items() if name != "val"}
    model = recipe.model.build(recipe.data.spec).to(device)

    metrics, problems = Metrics(), list[str]()
    model.load_state_dict(last.state["judged"])
    metrics |= judged_or_told("test_last", model, splits["test"], attack, problems)
    measured = last.best if recipe.measured_epoch == "best" else last
    state = measured.state
    if recipe.averaging is not None:
        model.load_state_dict(state["model"])
        metrics |= judged_or_told("test_raw", model, splits["test"], attack, problems)
    model.load_state_dict(state["judged"])
    measurement = Measurement(model, attack, recipe.resolved_measures, recipe.measured_examples)
    tables = measurement.tables(splits)
    for name, table in tables.items():
        with replacing(folder / f"{name}.parquet") as unfinished:
            pq.write_table(table, unfinished)
    draw(folder)
    metrics, infinite = finite(metrics | averages(tables))
    metrics |= {"test/epoch": measured.number, **measured_for(time.perf_counter() - started, device.type == "cuda")}
    write_json(folder / "test.json", metrics)
    problems += [f"{name} left out: {problem}" for name, problem in measurement.problems.items()]
    return metrics, _fallen_back(measured, last) + problems + infinite


def _fallen_back(measured: Saved, last: Saved) -> list[str]:
    """What a reader of the averages has to know, if checkpoints were damaged."""
    damaged = dict.fromkeys(f"{folder.parent.name}/{folder.name}" for folder in (*last.damaged, *measured.damaged))
    if not damaged:
        return []
    epochs = f"epoch {measured.number} is measured, and epoch {last.number} as the last"
    return [f"checkpoints are damaged or missing ({', '.join(damaged)}): {epochs}"]


def _evaluate(recipe: Recipe, folder: Path, rung: str, epoch: int | None) -> Iterator[Report]:
    from robsearch.figures import draw
    from robsearch.ladder import RUNGS, climb, read_ladder
    from robsearch.masking import checks

    device, here, pgd = best_device(), ladder_folder(folder, epoch), recipe.resolved_test_attack
    assert isinstance(pgd, PGD), "finalists are refused without"
    model = recipe.model.build(recipe.data.spec).to(device)
    model.load_state_dict(_checkpoint(folder, epoch)["judged"])
    test = to_device(load(recipe.data)["test"], device)
    for step in climb(model, test, pgd, rung, here):
        rungs = list(RUNGS)[: list(RUNGS).index(rung) + 1]
        attacks = ["natural", *(attack for name in rungs for attack in RUNGS[name])]
        before = attacks.index("apgd-t" if step.attack == "apgd-dlr" else step.attack)
        share = (before + step.done / step.total) / len(attacks)
        yield Report(progress=Progress(share, f"{step.attack} {step.done}/{step.total}, {step.robust:.1%} stand"))
    if pgd.eps > 0 and not read_checks(here):
        yield Report(progress=Progress(1.0, "looking for gradient masking"))
        few = sampled(test, MASKING_EXAMPLES).split
        at_once = images_at_once(model, few, 250)
        found = checks(model, to_float(few.images), few.labels, pgd, batch=at_once)
        write_json(here / "masking.json", [check._asdict() for check in found])
    draw(here)
    yield Report(ended="COMPLETE", test=ladder_metrics(read_ladder(here)))


def _checkpoint(folder: Path, epoch: int | None) -> Checkpoint:
    return _newest(folder).best_state if epoch is None else checkpoint_of(folder, epoch).state


def _newest(folder: Path) -> Saved:
    saved = newest(folder)
    if saved is None:
        raise FileNotFoundError(f"no valid checkpoint in {folder}")
    return saved


def ladder_metrics(ladder: pa.Table) -> Metrics:
    """The figures of a finished ladder, as ``ladder/RUNG/robust_accuracy`` and others."""
    from robsearch.ladder import standings

    found: Metrics = {}
    for standing in standings(ladder):
        values = {name: getattr(standing, name) for name in ("robust_accuracy", "low", "high", "attacked", "seconds")}
        found |= {f"ladder/{standing.rung}/{name}": float(value) for name, value in values.items()}
    return found


def _averages(file: Path) -> Metrics:
    found = read_json(file)
    if not isinstance(found, dict) or not all(value is None or _is_number(value) for value in found.values()):
        raise DamagedError(file, "is not a table of numbers")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checks(file: Path) -> list[Check]:
    from robsearch.masking import Check

    found = read_json(file)
    if not isinstance(found, list) or not all(_is_check(each) for each in found):
        raise DamagedError(file, "is not a list of checks")
    return [Check(**each) for each in found]


def _is_check(found: Any) -> bool:
    from robsearch.masking import Check

    return isinstance(found, dict) and found.keys() == set(Check._fields)


def _own_reason(error: Exception, attempt: Attempt) -> str:
    """Of a trial's own attempt; one that was superseded writes no file."""
    try:
        attempt.refuse_if_stale()
    except StaleAttemptError as stale:
        return f"{stale}, after {type(error).__name__}: {error}"
    return _reason(error, attempt.folder)


def _reason(error: Exception, folder: Path) -> str:
    text, file = traceback.format_exc(), folder / "error.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make_way(file)
        file.write_text(text)
    except OSError as unwritten:  # a full disk must not hide what went wrong
        return f"{type(error).__name__}: {error} (no traceback: {unwritten})"
    return f"{type(error).__name__}: {error} (traceback: {file})"
