"""What a person who watches sees: the live table, the lines of a log, status; at 80 columns and with 500 trials."""

import io
import os
import pty
import re
import threading
import time
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
from rich.console import Console
from small_spaces import recipe, standard

from robsearch import Resources, Rung, load_search
from robsearch.search import table as tables
from robsearch.search.live import Live as LiveTrial
from robsearch.search.planning import turns_of
from robsearch.search.table import Left, live_table, progress, row_lines, status_lines, status_rows, time_left, watched
from robsearch.spaces import Space
from robsearch.study import Lease, SearchRecord, failures_of, open_storage

WIDTHS = (1, 2, 4, 8, 16)


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


def finish(turns, count, seconds=lambda width: 3600.0 * width):
    """Trains suggestions, as many as asked or all; a training takes so many seconds."""
    for _ in range(count):
        study = turns.next()
        if study is None:
            return
        tally, suggestion = turns.tallies[study], study.ask()
        value = 0.5 - 0.01 * abs(suggestion.recipe.lam.value - 3) / 3
        entry = {"epoch": 1, "val/robust_accuracy": value, "train/lam": suggestion.recipe.lam.value}
        study.complete(suggestion, entry, entry)
        tally.costs.append(seconds(suggestion.width))
        tally.seconds += seconds(suggestion.width)
        tally.complete(value, suggestion.recipe.lam.value)


def driven(trials, widths=WIDTHS, parallel=4, gpus=0.0, trouble=None, **how):
    """A search in memory, and of its driver what the table reads."""
    space = Space(define, widths, sampler=optuna.samplers.RandomSampler(seed=0), **how)
    record = SearchRecord("s", "m:n", widths, 0, trials, "sqlite:///m.db", {})
    turns = turns_of(space, record, optuna.storages.InMemoryStorage(), full=recipe(4))
    tracker = SimpleNamespace(trouble=trouble)
    return SimpleNamespace(
        turns=turns, live={}, parallel=parallel, started=time.time() - 100, recorder=SimpleNamespace(tracker=tracker),
        resources={width: Resources(1, gpus) for width in widths},
    )  # fmt: skip


def text(part, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(part)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def large():
    """Five widths, two rungs, controls, 500 trials asked for and most of them there."""
    driver = driven(500, fidelity=(Rung("scout", lambda full: full, keep=0.9),), controls=(standard,), gpus=1.0)
    for study, tally in driver.turns.tallies.items():
        if study.stage.control is None:
            tally.states.update({"COMPLETE": 112} if study.stage.rung else {"COMPLETE": 60, "PRUNED": 28, "RUNNING": 2})
            tally.costs += [3600.0 * study.stage.width] * 60
            tally.seconds, tally.best_value, tally.best_lam = sum(tally.costs), 0.5, 12.3456
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
        *(f"{width}{rung}" for width in WIDTHS for rung in ("-scout", "")), "controls",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 200])
def test_no_cell_is_cut_however_narrow_the_terminal(large, width):
    said = text(live_table(large), width)
    assert max(map(len, said.splitlines())) <= width
    assert "…" not in said
    assert said.count("16-scout") == (3 if width == 40 else 1)  # it begins each part of the table
    assert said.count("12.3") == 10


def test_the_parameters_of_the_best_are_in_the_table_the_log_and_a_trials_line(large):
    driver = driven(2, widths=(4,))
    tally = next(iter(driver.turns.tallies.values()))
    tally.complete(0.5, 6.0, {"lam": 6.0, "lr": 0.0123456, "objective": "mart"})
    assert "best at 4: lam 6, lr 0.0123, objective mart" in text(live_table(driver))
    assert next(row_lines(driver)).endswith("best lr 0.0123  best objective mart")
    suggestion = SimpleNamespace(trial="w4-000", params={"lam": 6.0, "lr": 0.0123456})
    live = LiveTrial(suggestion, None, history=[
        {"epoch": 1, "train/lam": 6.0, "val/robust_accuracy": 0.5, "val/natural_accuracy": 0.7}
    ])  # fmt: skip
    assert live.line("COMPLETE", None).startswith("w4-000    done   lam 6      lr 0.0123  val robust 50.0%")
    assert live.line("FAIL", "why") == "w4-000    FAILED lam 6  lr 0.0123 why"


def failed(reasons, **params):
    rows = {"trial": [f"w4-{n:03d}" for n in range(len(reasons))], "reason": reasons}
    return pd.DataFrame({**rows, "state": ["FAIL" if why else "COMPLETE" for why in reasons], **params})


def test_failures_are_grouped_by_reason_with_what_was_tried_beside_those_that_did_not_fail():
    reasons = ["loss nan at epoch 3 (traceback: /a1/e.txt)", "loss 1e9 at epoch 12", "no room\nmore", None, None]
    lams = {"param/lam": [9.0, 16.0, 1.0, 0.5, 8.0], "param/kind": ["a", "a", "b", "a", "b"]}
    first, second = failures_of(failed(reasons, **lams))
    assert (first.reason, first.trials) == ("loss 1e9 at epoch 12", ("w4-000", "w4-001"))
    assert first.ranges == "lam 9 to 16 (others 0.5 to 8), kind a (others a or b)"
    assert (second.reason, second.ranges) == ("no room ...", "lam 1 (others 0.5 to 8), kind b (others a or b)")


def test_a_trial_without_a_driver_is_interrupted_not_running(tmp_path):
    storage = open_storage(None, tmp_path / "s")
    record = SearchRecord("s", "m:n", (4,), 0, 2, "", {})
    record.create(storage)
    turns = turns_of(Space(define, (4,)), record, storage, full=recipe(4))
    turns.next().ask()
    lease = Lease.acquire(storage, "s")
    assert next(status_rows(load_search("s", tmp_path))).states == {"RUNNING": 1}
    lease.release()
    search = load_search("s", tmp_path)
    assert next(status_rows(search)).states == {"INTERRUPTED": 1}
    assert text(next(status_lines(search))).splitlines()[2].split()[:3] == ["width", "interrupted", "done"]


def test_the_table_is_made_in_no_time(large):
    started = time.perf_counter()
    for _ in range(5):
        text(live_table(large))
    assert (time.perf_counter() - started) / 5 < 0.2  # it is drawn twice a second


def test_a_row_has_counts_the_best_and_the_time(large):
    driver = driven(4, widths=(4, 8))
    finish(driver.turns, 3, seconds=lambda width: 30.0 * width)
    tally = next(iter(driver.turns.tallies.values()))
    tally.states.update(PRUNED=5, FAIL=2, RUNNING=1)
    head, row = (re.split(r"  +", line.strip()) for line in text(live_table(driver)).splitlines()[2:5:2])
    assert head == ["width", "running", "done", "pruned", "failed", "best lam", "val robust", "trained"]
    assert row[:5] == ["4", "1", "2", "5", "2"]
    assert row[5:] == [f"{tally.best_lam:.3g}", f"{tally.best_value:.1%}", "4 min"]


def test_gpu_time_is_the_time_times_the_gpus():
    driver = driven(2, widths=(4,), gpus=0.5)
    finish(driver.turns, 1, seconds=lambda width: 7200.0)
    assert "GPU time" in text(live_table(driver))
    assert text(live_table(driver)).splitlines()[-2].split()[-2:] == ["60", "min"]


def test_time_to_go_counts_what_each_width_takes():
    driver = driven(10, widths=(1, 2), parallel=2)
    assert time_left(driver) is None
    finish(driver.turns, 1, seconds=lambda width: 10.0 * width)
    assert time_left(driver) == Left((4 * 10 + 5 * 10) / 2, known=False)  # the wide ones are not known yet
    assert "at least 0:45 to go" in progress(driver)
    finish(driver.turns, 3, seconds=lambda width: 10.0 * width)
    assert time_left(driver) == Left((3 * 10 + 3 * 20) / 2, known=True)
    assert "about 0:45 to go" in progress(driver)
    finish(driver.turns, 5, seconds=lambda width: 10.0 * width)
    assert time_left(driver) == Left(20.0, known=True)  # one is left, so one worker is enough
    finish(driver.turns, 1)
    assert time_left(driver) == Left(0.0, known=True)


def test_time_to_go_takes_off_what_runs_already_and_adds_the_controls():
    driver = driven(2, widths=(4,), parallel=1, controls=(standard,))
    finish(driver.turns, 1, seconds=lambda width: 100.0)
    assert time_left(driver) == Left(200.0, known=True)  # a trial, and a control as long as one
    study = next(iter(driver.turns.tallies))
    driver.turns.tallies[study].states["RUNNING"] += 1
    driver.live["w4-001"] = SimpleNamespace(study=study, started=time.time() - 40)
    assert time_left(driver).seconds == pytest.approx(160, abs=1)
    driver.live["w4-001"].started -= 10_000
    assert time_left(driver).seconds == pytest.approx(100, abs=1)


def test_seeds_and_widths_of_a_suggestion_count_in_the_time_to_go():
    driver = driven(6, widths=(4, 8), parallel=1, per_trial="all")
    study, tally = next(iter(driver.turns.tallies.items()))
    tally.costs += [10.0, 20.0]
    tally.complete(0.5, 1.0)
    assert study.label == "all"
    assert time_left(driver) == Left(2 * 2 * 15.0, known=True)


def test_judging_on_test_counts_in_the_time_to_go():
    driver = driven(6, widths=(4,), parallel=2)
    finish(driver.turns, 1, seconds=lambda width: 10.0)
    next(iter(driver.turns.tallies.values())).judging += [25.0, 35.0]
    assert time_left(driver) == Left(5 * (10 + 30) / 2, known=True)


def test_trouble_with_the_record_is_said():
    assert progress(driven(4, trouble="no answer")).endswith("; no answer (training goes on)")


def test_a_log_repeats_only_what_has_changed(monkeypatch):
    monkeypatch.setattr(tables, "LINE_SECONDS", 0.05)
    driver, console = driven(4, widths=(4, 8)), Console(file=io.StringIO(), width=80)
    with watched(driver, console):
        time.sleep(0.4)
        finish(driver.turns, 1)
        time.sleep(0.4)
    lines = console.file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("width")] == ["width 4", "width 8", "width 4"]
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
def test_on_a_terminal_of_80_columns_the_table_is_drawn_over_itself(monkeypatch, large, term, draws):
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
    with os.fdopen(follower, "w") as terminal, watched(large, Console(file=terminal, width=80, height=24)):
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
