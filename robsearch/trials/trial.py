"""One trial, as a worker runs it: train in its folder and report, then measure on ``test``. No Ray
in here."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from robsearch.data import load
from robsearch.errors import shortened
from robsearch.measures import Rates
from robsearch.metrics import TEST_EPOCH
from robsearch.network.modes import NonFiniteLogitsError
from robsearch.parts.attacks import standing_pgd
from robsearch.protocols import Metrics
from robsearch.recipe import Recipe
from robsearch.training.costs import measuring_cost
from robsearch.training.evaluation import (
    all_rates,
    best_device,
    shares_of,
    to_device,
)
from robsearch.training.memory import DeviceFullError
from robsearch.training.ranks import ALONE, RankLostError, Ranks
from robsearch.training.trainer import Epoch, NonFiniteLossError, train
from robsearch.trials.checkpoints import Attempt, CheckpointWriter, StaleAttemptError
from robsearch.trials.disk import Waiting, full_behind
from robsearch.trials.evaluating import Progress, evaluate_network
from robsearch.trials.files import (
    ERROR,
    replacing,
    shortened_into,
    write_json,
    write_text,
)
from robsearch.trials.loading import Saved, checkpoint_of, newest_checkpoint
from robsearch.trials.measurement import Measurement, averages, finite, with_last_epoch
from robsearch.trials.provenance import write_attempt

T = TypeVar("T")

REPORT_SECONDS = 0.25
"""Epochs shorter than this share one report and one checkpoint: at most this much training is ever
redone."""
FULL_DISK_SECONDS = 2.0
"""Between two tries to write where the disk is full."""


@dataclass(frozen=True)
class Report:
    """What a worker tells the driver.

    Attributes:
        epochs: the metrics of the epochs since the last report, each with ``epoch`` and ``time``
            (Unix seconds).
        ended: None while training, then ``COMPLETE`` or ``FAIL``.
        reason: why it failed.
        attempt: the number of this try at the trial.
        test: the averages over ``test`` and others, from a measuring job, or the ladder's figures.
        progress: of a job that evaluates.
        warnings: what the worker warned of since the last report: a damaged checkpoint, memory or a
            disk that ran out.
        waiting: that it waits for room on the disk, and tries again; nothing is lost meanwhile.
    """

    epochs: list[Metrics] = field(default_factory=list)
    ended: str | None = None
    reason: str | None = None
    attempt: int = 0
    test: Metrics = field(default_factory=dict)
    progress: Progress | None = None
    warnings: tuple[str, ...] = ()
    waiting: Waiting | None = None


# --- training ---


def run(recipe: Recipe, folder: Path, ranks: Ranks = ALONE) -> Iterator[Report]:
    """Trains the recipe in its folder, from the last valid checkpoint if there is one.

    The first report repeats what earlier attempts had saved, so that a driver that lost a report
    catches up. Errors are reported, not raised: only the death of a process is left for Ray to see.
    What finds no room on the disk is tried again until it does, and a report every few seconds says
    so (``Report.waiting``): whoever hears it decides for how long.
    Of several ``ranks`` that train one model together, rank 0 alone writes, and only its reports
    are to be heard.
    """
    # If each rank claimed an attempt, they would supersede one another.
    attempt = yield from _once_there_is_room(partial(Attempt.claim, folder), ranks)
    try:
        if ranks.leads:
            # A full disk shows at the first checkpoint, which says so.
            with suppress(OSError):
                write_attempt(attempt.folder, attempt.number, recipe)
        with ranks.fail_together():
            yield from _train(recipe, attempt, ranks)
        return
    except RankLostError:
        raise
    except (NonFiniteLossError, DeviceFullError, StaleAttemptError) as error:
        reason = shortened(str(error))
    except Exception as error:
        reason = _reason_of_attempt(error, attempt) if ranks.leads else shortened(str(error))
    # Outside of the except block no traceback holds the trial's tensors while the driver reads
    # this.
    yield Report(ended="FAIL", reason=reason, attempt=attempt.number)


def _train(recipe: Recipe, attempt: Attempt, ranks: Ranks) -> Iterator[Report]:
    number = attempt.number
    saved = yield from _once_there_is_room(attempt.resume, ranks, number)
    history = list(saved.history) if saved and ranks.leads else []
    if history:
        yield Report(list(history), attempt=number)
    writer = CheckpointWriter(attempt, saved=len(history))
    reported = len(history)
    due = time.monotonic() + REPORT_SECONDS
    epoch = None
    for epoch in train(recipe, saved.state if saved else None, ranks=ranks):
        # All ranks have the same weights: one of them writes.
        if ranks.leads:
            history.append({"epoch": epoch.number, "time": time.time(), **epoch.metrics})
        is_due = time.monotonic() >= due
        save = partial(_save, writer, epoch, history, is_due)
        # The others wait with it: none comes to the next step alone.
        yield from _once_there_is_room(save, ranks, number)
        if is_due and ranks.leads:
            yield Report(history[reported:], attempt=number)
            reported = len(history)
            due = time.monotonic() + REPORT_SECONDS
    if epoch is not None:
        yield from _once_there_is_room(partial(writer.finish, epoch, history), ranks, number)
    yield Report(history[reported:], ended="COMPLETE", attempt=number)


def _save(writer: CheckpointWriter, epoch: Epoch, history: list[Metrics], is_due: bool) -> None:
    if is_due:
        writer.save(epoch, history)
    else:
        writer.hold_in_memory(epoch, history)


def _once_there_is_room(
    write: Callable[[], T], ranks: Ranks = ALONE, attempt: int = 0
) -> Generator[Report, None, T]:
    """What ``write`` returns on rank 0, which alone does it; where the disk is full it is tried
    again, after a report of each try."""
    while True:
        result = ranks.on_leader(partial(_unless_full, write))
        if not isinstance(result, Waiting):
            return result
        yield Report(attempt=attempt, waiting=result)
        time.sleep(FULL_DISK_SECONDS)


def _unless_full(write: Callable[[], T]) -> T | Waiting:
    try:
        return write()
    except OSError as error:
        if full_behind(error) is None:
            raise
        return Waiting(getattr(error, "needed", 0), shortened(str(error)))


def _reason_of_attempt(error: Exception, attempt: Attempt) -> str:
    """An attempt that was superseded writes no file."""
    try:
        attempt.refuse_if_stale()
    except StaleAttemptError as stale:
        return shortened(f"{stale}, after {type(error).__name__}: {error}")
    return _reason(error, attempt.folder)


def _reason(error: Exception, folder: Path) -> str:
    """For the driver; the traceback is written into a file of the folder, with all of a message
    that is too long for the driver."""
    file = folder / ERROR
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError):  # perhaps only there
        text += f" on {platform.node()}"
    try:
        write_text(file, traceback.format_exc())
    except OSError as unwritten:  # a full disk must not hide what went wrong
        return f"{shortened(text)} (no traceback: {unwritten})"
    short = shortened(text, file)
    return short if short != text else f"{text} (traceback: {file})"


# --- measuring ---


def measure(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Takes the full measures of a trained trial: at ``measured_epoch`` on ``test`` and ``train``,
    briefly at the last.

    Writes the tables (``measurement``) as Parquet, the figures, and then ``test.json`` (the
    averages) in the trial's folder. A measure that fails is left out and named in the report's
    reason. So are checkpoints that are damaged: measured is then the best that is not, whose epoch
    is ``test/epoch``.
    """
    try:
        metrics, problems = yield from _measure(recipe, folder)
        reason = shortened_into("; ".join(problems), folder / ERROR)
        yield Report(ended="COMPLETE", test=metrics, reason=reason or None)
    except Exception as error:
        yield Report(ended="FAIL", reason=_reason(error, folder))


def _measure(recipe: Recipe, folder: Path) -> Generator[Report, None, tuple[Metrics, list[str]]]:
    # A worker that only trains need not load matplotlib or scipy.
    from robsearch.trials.figures import draw

    last = _newest(folder)
    started = time.perf_counter()
    device = best_device()
    attack = recipe.resolved_test_attack
    data = load(recipe.resolved_data)
    splits = {name: to_device(data[name], device) for name in ("train", "test")}
    model = recipe.model.build(recipe.data.spec).to(device)
    problems = []

    def rates_of(prefix: str, weights: Mapping[str, Any]) -> tuple[Metrics, Rates | None]:
        """The averages, and what is known of each image: nothing, but a sentence among the
        problems, if the logits are not finite."""
        model.load_state_dict(weights)
        try:
            by_image = all_rates(model, splits["test"], attack)
        except NonFiniteLogitsError as error:
            problems.append(f"{prefix} left out: {error}")
            return {}, None
        shares = shares_of(by_image)
        return {f"{prefix}/{name}": share for name, share in shares.items()}, by_image

    metrics, of_last = rates_of("test_last", last.state["judged"])
    measured = last.best if recipe.measured_epoch == "best" else last
    state = measured.state
    if recipe.averaging is not None:
        of_raw, _ = rates_of("test_raw", state["model"])
        metrics |= of_raw
    model.load_state_dict(state["judged"])
    measurement = Measurement(model, attack, recipe.resolved_measures, recipe.measured_examples)
    tables = measurement.tables(splits)
    if of_last is not None:
        tables["test"] = with_last_epoch(tables["test"], of_last)
    for name, table in tables.items():
        yield from _once_there_is_room(partial(_write, table, folder / f"{name}.parquet"))
    yield from _once_there_is_room(partial(draw, folder))
    metrics, infinite = finite(metrics | averages(tables))
    metrics[TEST_EPOCH] = measured.number
    metrics |= measuring_cost(time.perf_counter() - started, device.type == "cuda")
    # Last, because this file says that the trial is measured.
    yield from _once_there_is_room(partial(write_json, folder / "test.json", metrics))
    problems += [f"{name} left out: {problem}" for name, problem in measurement.problems.items()]
    return metrics, [*_damage(measured, last), *problems, *infinite]


def _write(table: pa.Table, file: Path) -> None:
    with replacing(file) as unfinished:
        pq.write_table(table, unfinished)


def _damage(measured: Saved, last: Saved) -> list[str]:
    """What a reader of the averages has to know, if checkpoints were damaged."""
    folders = dict.fromkeys((*last.damaged, *measured.damaged))
    if not folders:
        return []
    names = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in folders)
    epochs = f"epoch {measured.number} is measured, and epoch {last.number} as the last"
    return [f"checkpoints are damaged or missing ({names}): {epochs}"]


def _newest(folder: Path) -> Saved:
    saved = newest_checkpoint(folder)
    if saved is None:
        raise FileNotFoundError(f"no valid checkpoint in {folder}")
    return saved


# --- evaluating ---


def evaluate_trial(
    recipe: Recipe, folder: Path, rung: str, epoch: int | None = None
) -> Iterator[Report]:
    """Takes a trained trial up the evaluation ladder on all of ``test``, and looks for signs of
    gradient masking.

    Writes ``ladder.parquet``, ``ladder.json`` and ``masking.json`` (see ``ladder_folder``); what is
    there already is not done again.

    Args:
        recipe: of the trial; the ``PGD`` that its ``test_attack`` is or has is the lowest rung.
        folder: of the trial.
        rung: how far to go.
        epoch: of the checkpoint; by default the best.
    """
    try:
        yield from _evaluate(recipe, folder, rung, epoch)
    except Exception as error:
        yield Report(ended="FAIL", reason=_reason(error, folder))


def _evaluate(recipe: Recipe, folder: Path, rung: str, epoch: int | None) -> Iterator[Report]:
    from robsearch.trials.figures import draw
    from robsearch.trials.ladder.results import ladder_metrics, read_ladder

    device, pgd = best_device(), standing_pgd(recipe.resolved_test_attack)
    assert pgd is not None, "finalists are refused without"
    ladder = ladder_folder(folder, epoch)
    state = _newest(folder).best_state if epoch is None else checkpoint_of(folder, epoch).state
    model = recipe.model.build(recipe.data.spec).to(device)
    model.load_state_dict(state["judged"])
    test = to_device(load(recipe.resolved_data)["test"], device)
    for progress in evaluate_network(model, test, pgd, rung, ladder):
        yield Report(progress=progress)
    draw(ladder)
    yield Report(ended="COMPLETE", test=ladder_metrics(read_ladder(ladder)))


# --- what lies in a trial's folder ---


def ladder_folder(trial: Path, epoch: int | None = None) -> Path:
    """Where the ladder of a trial's best epoch lies, or of another of its checkpoints."""
    return trial if epoch is None else trial / f"at-epoch-{epoch:04d}"
