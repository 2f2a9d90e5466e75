"""What a person who watches sees: the live table, the lines of a log, status; at 80 columns and with 500 trials."""

import io
import os
import pty
import re
import threading
import time
from types import SimpleNamespace

import optuna
import pytest
from rich.console import Console
from small_spaces import recipe, standard

from robsearch import Resources, Rung
from robsearch.search import table as tables
from robsearch.search.planning import turns_of
from robsearch.search.table import Left, live_table, progress, row_lines, time_left, watched
from robsearch.selection import order
from robsearch.spaces import Space
from robsearch.study import SearchRecord

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
        tally.states["COMPLETE"] += 1
        tally.trained(order(value), suggestion.recipe.lam.value)


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
            tally.seconds, tally.best = sum(tally.costs), (order(0.5), 12.3456)
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
    assert row[5:] == [f"{tally.best[1]:.3g}", f"{tally.best[0].value:.1%}", "4 min"]


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
    tally.states["COMPLETE"] += 1
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
