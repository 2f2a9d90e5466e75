"""What a person who watches sees: the live table, the lines of a log, status; at 80 columns and
with 500 trials."""

import io
import os
import pty
import re
import threading
import time
from collections import Counter
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
from rich.console import Console
from rich.text import Text
from small_spaces import recipe, standard

from robsearch import Rung, load_search
from robsearch.search import progress as tables
from robsearch.search.commands.status import status_lines, status_rows
from robsearch.search.driver import RunningTrial
from robsearch.search.engine import _say_start
from robsearch.search.grid import Grid, Row, html_of, rows_table
from robsearch.search.progress import (
    TimeLeft,
    live_table,
    progress,
    row_lines,
    time_left,
    watched,
)
from robsearch.search.scheduling import scheduler_of
from robsearch.spaces import Space
from robsearch.study import Lease, SearchRecord, failures_of, open_storage
from robsearch.training.costs import Cost
from robsearch.trials.selection import order

WIDTHS = (1, 2, 4, 8, 16)


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


def finish(scheduler, count, seconds=lambda width: 3600.0 * width, measuring=0.0, gpus=0.0):
    """Trains suggestions and measures them, as many as asked or all; each takes so many seconds."""
    for _ in range(count):
        study = scheduler.next()
        if study is None:
            return
        counts, suggestion = scheduler.counts_of[study], study.ask()
        value = 0.5 - 0.01 * abs(suggestion.recipe.lam.value - 3) / 3
        entry = {"epoch": 1, "val/robust_accuracy": value, "train/lam": suggestion.recipe.lam.value}
        study.complete(suggestion, entry, entry)
        takes = seconds(suggestion.width)
        counts.ended(suggestion.trial, "COMPLETE", Cost(takes, takes * gpus), takes)
        counts.measuring_walls.append(measuring)
        counts.states["COMPLETE"] += 1
        counts.finished(order(value), suggestion.recipe.lam.value, suggestion.params)


def driven(trials, widths=WIDTHS, parallel=4, trouble=None, **how):
    """A search in memory, and of its driver what the table reads."""
    space = Space(define, widths, sampler=optuna.samplers.RandomSampler(seed=0), **how)
    record = SearchRecord("s", "m:n", widths, 0, trials, "sqlite:///m.db", {})
    scheduler = scheduler_of(space, record, optuna.storages.InMemoryStorage(), full=recipe(4))
    tracker = SimpleNamespace(trouble=trouble)
    return SimpleNamespace(
        scheduler=scheduler,
        running={},
        waiting=[],
        unmeasured=[],
        measuring={},
        parallel=parallel,
        started=time.time() - 100,
        recorder=SimpleNamespace(tracker=tracker),
        free_space=SimpleNamespace(text=""),
    )


def running(study, seconds, trial="w4-001"):
    """A trial that was handed out so many seconds ago."""
    suggestion = SimpleNamespace(
        trial=trial, width=study.widths[0], number=1, replicate=None, stage=study.stage
    )
    return SimpleNamespace(
        study=study, suggestion=suggestion, started=time.time() - seconds, before=0.0
    )


def text(part, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(part)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def large():
    """Five widths, two rungs, controls, 500 trials asked for and most of them there."""
    driver = driven(
        500, fidelity=(Rung("scout", lambda full: full, keep=0.9),), controls=(standard,)
    )
    for study, counts in driver.scheduler.counts_of.items():
        if study.stage.control is None:
            counts.states.update(
                {"COMPLETE": 112}
                if study.stage.rung
                else {"COMPLETE": 60, "PRUNED": 28, "RUNNING": 2}
            )
            for number in range(60):
                seconds = 3600.0 * study.stage.width
                counts.ended(
                    f"{study.label}-{number:03d}", "COMPLETE", Cost(seconds, seconds), seconds
                )
            counts.measuring_walls.append(0.0)
            counts.best = order(0.5), 12.3456, {}
    return driver


def test_the_table_of_500_trials_fits_into_80_columns_and_24_lines(large):
    large.started = time.time() - 100
    said = text(live_table(large))
    lines = [line.rstrip() for line in said.splitlines()]
    assert max(map(len, lines)) <= 80
    assert len(lines) < 24
    assert "…" not in said
    assert lines[0].startswith("440 of 500 trials, elapsed 1:40, about ")
    assert [line.split()[0] for line in lines if line.strip()][3:] == [
        *(f"{width}{rung}" for width in WIDTHS for rung in ("-scout", "")),
        "controls",
    ]


@pytest.mark.parametrize("width", [40, 200])
def test_no_cell_is_cut_however_narrow_the_terminal(large, width):
    said = text(live_table(large), width)
    assert max(map(len, said.splitlines())) <= width
    assert "…" not in said
    assert said.count("16-scout") == (3 if width == 40 else 1)  # it begins each part of the table
    assert said.count("12.3") == 10


def test_the_parameters_of_the_best_are_in_the_table_the_log_and_a_trials_line(large):
    driver = driven(2, widths=(4,))
    counts = next(iter(driver.scheduler.counts_of.values()))
    counts.finished(order(0.5), 6.0, {"lam": 6.0, "lr": 0.0123456, "objective": "mart"})
    assert "best at 4: lam 6, lr 0.0123, objective mart" in text(live_table(driver))
    assert next(row_lines(driver)).endswith("best lr 0.0123  best objective mart")
    suggestion = SimpleNamespace(trial="w4-000", params={"lam": 6.0, "lr": 0.0123456})
    live = RunningTrial(
        suggestion,
        None,
        history=[
            {"epoch": 1, "train/lam": 6.0, "val/robust_accuracy": 0.5, "val/natural_accuracy": 0.7}
        ],
    )
    assert live.line("COMPLETE", None).startswith(
        "w4-000    done   lam 6      lr 0.0123  val robust 50.0%"
    )
    assert live.line("FAIL", "why") == "w4-000    FAILED lam 6  lr 0.0123 why"


def failed(reasons, **params):
    rows = {"trial": [f"w4-{n:03d}" for n in range(len(reasons))], "reason": reasons}
    return pd.DataFrame(
        {**rows, "state": ["FAIL" if why else "COMPLETE" for why in reasons], **params}
    )


def test_reasons_that_were_cut_are_one_group_and_those_of_former_versions_are_cut_when_read():
    cut = [f"{'x' * 1000} (... more in /w4-00{n}/a1/error.txt)" for n in range(2)]
    old = [f"{'y ' * 2_000_000}(traceback: /w4-002/a1/error.txt)"]
    same, former = failures_of(failed([*cut, *old]))
    assert (same.reason, same.trials) == ("x" * 1000, ("w4-000", "w4-001"))
    assert former.reason == f"{'y ' * 500} (... 3,998,999 more characters)"


def test_failures_are_grouped_by_reason_with_what_was_tried_beside_those_that_did_not_fail():
    reasons = [
        "loss nan at epoch 3 (traceback: /a1/e.txt)",
        "loss 1e9 at epoch 12",
        "no room\nmore",
        None,
        None,
    ]
    lams = {"param/lam": [9.0, 16.0, 1.0, 0.5, 8.0], "param/kind": ["a", "a", "b", "a", "b"]}
    first, second = failures_of(failed(reasons, **lams))
    assert (first.reason, first.trials) == ("loss 1e9 at epoch 12", ("w4-000", "w4-001"))
    assert first.ranges == "lam 9 to 16 (others 0.5 to 8), kind a (others a or b)"
    assert (second.reason, second.ranges) == (
        "no room ...",
        "lam 1 (others 0.5 to 8), kind b (others a or b)",
    )


def test_a_trial_without_a_driver_is_interrupted_not_running(tmp_path):
    storage = open_storage(None, tmp_path / "s")
    record = SearchRecord("s", "m:n", (4,), 0, 2, "", {})
    record.create(storage)
    scheduler = scheduler_of(Space(define, (4,)), record, storage, full=recipe(4))
    scheduler.next().ask()
    lease = Lease.acquire(storage, "s")
    assert next(status_rows(load_search("s", tmp_path))).states == {"RUNNING": 1}
    lease.release()
    search = load_search("s", tmp_path)
    assert next(status_rows(search)).states == {"INTERRUPTED": 1}
    table = next(each for each in status_lines(search) if isinstance(each, Grid))
    assert list(table.heads)[:3] == ["width", "interrupted", "done"]


def test_a_row_has_counts_the_best_and_the_time(large):
    driver = driven(4, widths=(4, 8))
    finish(driver.scheduler, 3, seconds=lambda width: 30.0 * width)
    counts = next(iter(driver.scheduler.counts_of.values()))
    counts.states.update(PRUNED=5, FAIL=2, RUNNING=1)
    head, row = (
        re.split(r"  +", line.strip()) for line in text(live_table(driver)).splitlines()[2:5:2]
    )
    assert head == [
        "width",
        "running",
        "done",
        "pruned",
        "failed",
        "best lam",
        "val robust",
        "trained",
    ]
    assert row[:5] == ["4", "1", "2", "5", "2"]
    assert row[5:] == [f"{counts.best[1]:.3g}", f"{counts.best[0].value:.1%}", "4 min"]


def test_gpu_time_is_the_time_times_the_gpus():
    driver = driven(2, widths=(4,))
    finish(driver.scheduler, 1, seconds=lambda width: 7200.0, gpus=0.5)
    assert "GPU time" in text(live_table(driver))
    assert text(live_table(driver)).splitlines()[-2].split()[-2:] == ["60", "min"]


def test_time_to_go_counts_what_each_width_takes():
    driver = driven(10, widths=(1, 2), parallel=2)
    assert time_left(driver) is None
    finish(driver.scheduler, 1, seconds=lambda width: 10.0 * width)
    assert time_left(driver) == TimeLeft(
        5 * 10, known=False
    )  # 4 and 5, two at a time; the wide ones are not known yet
    assert "at least 0:50 to go" in progress(driver)
    finish(driver.scheduler, 3, seconds=lambda width: 10.0 * width)
    assert time_left(driver) == TimeLeft(
        10 + 20 + 20, known=True
    )  # three of 10 s, then three of 20, two at a time
    assert "about 0:50 to go" in progress(driver)
    finish(driver.scheduler, 5, seconds=lambda width: 10.0 * width)
    assert time_left(driver) == TimeLeft(20.0, known=True)  # one is left, so one worker is enough
    finish(driver.scheduler, 1)
    assert time_left(driver) == TimeLeft(0.0, known=True)


def test_time_to_go_takes_off_what_runs_already_and_adds_the_controls():
    driver = driven(2, widths=(4,), parallel=1, controls=(standard,))
    finish(driver.scheduler, 1, seconds=lambda width: 100.0)
    assert time_left(driver) == TimeLeft(200.0, known=True)  # a trial, and a control as long as one
    study = next(iter(driver.scheduler.counts_of))
    driver.scheduler.counts_of[study].states["RUNNING"] += 1
    driver.running["w4-001"] = running(study, 40)
    assert time_left(driver).seconds == pytest.approx(160, abs=1)
    driver.running["w4-001"].started -= 10_000
    assert time_left(driver).seconds == pytest.approx(100, abs=1)


def test_seeds_and_widths_of_a_suggestion_count_in_the_time_to_go():
    driver = driven(6, widths=(4, 8), parallel=1, per_trial="all")
    study, counts = next(iter(driver.scheduler.counts_of.items()))
    for number, seconds in enumerate((10.0, 20.0)):
        counts.ended(f"w4-{number}", "COMPLETE", Cost(seconds), seconds)
    counts.measuring_walls.append(0.0)
    counts.states["COMPLETE"] += 1
    assert study.label == "all"
    assert time_left(driver) == TimeLeft(2 * 2 * 15.0, known=True)


def test_what_may_run_side_by_side_is_shared_out_in_the_time_to_go():
    driver = driven(6, widths=(4,), parallel=3, replicates=3, pruner=optuna.pruners.NopPruner())
    study, counts = next(iter(driver.scheduler.counts_of.items()))
    counts.ended("w4-000-r0", "COMPLETE", Cost(10.0), 10.0)
    counts.measuring_walls.append(0.0)
    entry = {"epoch": 1, "val/robust_accuracy": 0.5, "train/lam": 3.0}
    outcome = study.complete(driver.scheduler.ask(study), entry, entry)
    counts.settled(outcome.state)
    driver.waiting.append(RunningTrial(outcome.following, study))
    # Two of this suggestion and three of the next, of 10 s each, three at a time.
    assert time_left(driver) == TimeLeft(20.0, known=True)
    driver.parallel = 1
    assert time_left(driver) == TimeLeft(50.0, known=True)
    # The first of the suggestion has ended, whatever became of the others.
    assert progress(driver).startswith("1 of 6 trials")


def test_measuring_counts_in_the_time_to_go_also_what_is_still_due():
    driver = driven(6, widths=(4,), parallel=2)
    finish(driver.scheduler, 1, seconds=lambda width: 10.0, measuring=30.0)
    study, counts = next(iter(driver.scheduler.counts_of.items()))
    assert time_left(driver) == TimeLeft(3 * (10 + 30), known=True)  # five are left, two at a time
    finish(driver.scheduler, 5, seconds=lambda width: 10.0, measuring=30.0)
    assert time_left(driver) == TimeLeft(0.0, known=True)
    driver.measuring["w4-004"] = running(study, 12)
    driver.unmeasured.append(running(study, 0))
    assert time_left(driver).seconds == pytest.approx(
        30, abs=1
    )  # all are trained; two wait for their measures
    counts.measuring_walls.clear()
    assert not time_left(driver).known
    assert "at least 0:00 to go" in progress(driver)


def test_what_failed_and_what_was_pruned_counts_in_the_time_to_go():
    driver = driven(4, widths=(4,), parallel=1)
    finish(driver.scheduler, 1, seconds=lambda width: 10.0, measuring=4.0)
    (counts,) = driver.scheduler.counts_of.values()
    counts.ended("w4-001", "FAIL", Cost(), 6.0)
    assert time_left(driver) == TimeLeft(
        3 * (16 + 4), known=True
    )  # each that counts took 16 s, with its failures
    counts.ended("w4-002", "PRUNED", Cost(), 4.0)
    counts.states["PRUNED"] += 1
    assert time_left(driver) == TimeLeft(
        2 * (20 / 2 + 4 / 2), known=True
    )  # half of them are measured


def test_the_folder_of_a_search_is_shown_as_it_is(tmp_path):
    driver = driven(4, widths=(4,))
    record = SearchRecord("s", "m:n", (4,), 0, 4, "", {})
    console = Console(file=io.StringIO(), width=80)
    _say_start(driver, record, tmp_path / "[bold]", console)
    expected = f"search s: 4 trials; results in {tmp_path / '[bold]'}\n"
    assert console.file.getvalue() == expected


def test_trouble_with_the_record_is_said():
    assert progress(driven(4, trouble="no answer")).endswith("; no answer (training goes on)")


def test_a_log_repeats_only_what_has_changed(monkeypatch):
    monkeypatch.setattr(tables, "LINE_SECONDS", 0.05)
    driver, console = driven(4, widths=(4, 8)), Console(file=io.StringIO(), width=80)
    with watched(driver, console):
        time.sleep(0.4)
        finish(driver.scheduler, 1)
        time.sleep(0.4)
    lines = console.file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("width")] == [
        "width 4",
        "width 8",
        "width 4",
    ]
    assert len([line for line in lines if " trials, elapsed " in line]) == 2
    assert "\x1b" not in console.file.getvalue()


def test_a_log_says_now_and_then_that_the_search_goes_on(monkeypatch):
    monkeypatch.setattr(tables, "LINE_SECONDS", 0.05)
    monkeypatch.setattr(tables, "QUIET_SECONDS", 0.2)
    driver, console = driven(4, widths=(4, 8)), Console(file=io.StringIO(), width=80)
    with watched(driver, console):
        time.sleep(0.8)
    lines = console.file.getvalue().splitlines()
    assert len([line for line in lines if line.startswith("width")]) == 2
    assert len([line for line in lines if " trials, elapsed " in line]) >= 2


def test_a_line_of_a_log_is_one_line_however_long(large):
    for line in row_lines(large):
        assert "\n" not in line
    assert next(row_lines(large)).startswith("width 1-scout  running 0  done ")


@pytest.mark.parametrize(("term", "draws"), [("xterm-256color", True), ("dumb", False)])
def test_on_a_terminal_of_80_columns_the_table_is_drawn_over_itself(
    monkeypatch, large, term, draws
):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(tables, "LINE_SECONDS", 0.1)
    leader, follower = pty.openpty()
    seen = bytearray()

    def read():
        try:
            while chunk := os.read(leader, 65536):
                seen.extend(chunk)
        except OSError:  # how a terminal says that nobody writes to it any more
            return

    reader = threading.Thread(target=read)
    reader.start()
    with (
        os.fdopen(follower, "w") as terminal,
        watched(large, Console(file=terminal, width=80, height=24)),
    ):
        time.sleep(1.2)
    reader.join()
    os.close(leader)
    said = seen.decode()
    assert ("\x1b[1A" in said) == draws  # up a line
    assert said.count("width 16-scout") == (0 if draws else 1)
    assert (said.count("val robust") > 1) if draws else ("\x1b" not in said)
    if draws:
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said)
        assert max(map(len, re.split(r"[\r\n]+", plain))) <= 80


def test_a_notebook_shows_the_same_tables_and_whatever_others_chose_is_text():
    rows = [Row("4", Counter(COMPLETE=2), 6.31, 0.5, params={"lr": 0.1, "<b>": "\x1b[2J"})]
    html = html_of(rows_table(rows, Text("2 of 4 trials")))
    assert html.startswith("<p>2 of 4 trials</p><table")
    assert "<td>4</td><td>0</td><td>2</td><td>0</td><td>0</td><td>6.31</td><td>50.0%</td>" in html
    assert "best at 4: lr 0.1" in html
    assert "<b>" not in html
    assert "\x1b" not in html
