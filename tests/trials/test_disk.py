"""A disk that is full: /dev/full, which refuses each byte as a full disk does, and a real tiny one
where mountable."""

import errno
import os
import warnings

import pytest
import torch
from full_disks import ballast
from small_spaces import STEPS, Faulty, recipe

from robsearch import Epoch
from robsearch.errors import DiskFullError
from robsearch.trials import trial
from robsearch.trials.checkpoints import (
    Attempt,
    CheckpointWriter,
    Snapshot,
    StaleAttemptError,
    drop_weights,
)
from robsearch.trials.disk import (
    best_of_each_width,
    is_full,
    to_drop,
    weights,
    weights_of,
)
from robsearch.trials.loading import newest_checkpoint, read_history, read_test
from robsearch.trials.trial import measure, run

VALUE = "val/robust_accuracy"


def used(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def epoch(number, weight=0.0, size=3):
    return Epoch(
        number, {VALUE: 0.0}, {"model": {"w": torch.full((size,), weight)}, "epoch": number}
    )


def history(*values):
    return [{"epoch": n, "time": 0.0, VALUE: value} for n, value in enumerate(values, 1)]


def fill(attempt, number, file="state.pt"):
    """Makes the disk full for one file of an epoch's checkpoint."""
    folder = attempt.folder / f"epoch-{number:04d}"
    folder.mkdir()
    (folder / file).symlink_to("/dev/full")


@pytest.fixture(autouse=True)
def _every_epoch_is_saved_and_faults_count_from_0(monkeypatch):
    STEPS.clear()
    monkeypatch.setattr(trial, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(trial, "FULL_DISK_SECONDS", 0.1)


# --- one checkpoint that finds no room ---


@pytest.mark.parametrize("file", ["state.pt", "history.json", "LATEST.tmp"])
def test_a_checkpoint_without_room_is_refused_with_the_numbers_and_leaves_the_one_before(
    tmp_path, file
):
    attempt = Attempt.claim(tmp_path)
    attempt.write(Snapshot.of(epoch(1), history(0.1)))
    before = sorted(tmp_path.rglob("*"))
    if file == "LATEST.tmp":
        (attempt.folder / file).symlink_to("/dev/full")
    else:
        fill(attempt, 2, file)
    with pytest.raises(
        DiskFullError,
        match=r"expected [\d,]+ bytes free .*a1/epoch-0002, got [\d,]+ \(No space left",
    ):
        attempt.write(Snapshot.of(epoch(2), history(0.1, 0.2)))
    assert sorted(tmp_path.rglob("*")) == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest_checkpoint(tmp_path).state["epoch"] == 1
    assert read_history(tmp_path) == history(0.1)


def test_the_bytes_needed_are_those_of_the_checkpoint(tmp_path):
    attempt = Attempt.claim(tmp_path)
    attempt.write(Snapshot.of(epoch(1, size=1000), history(0.1)))
    needed = used(attempt.folder / "epoch-0001")
    fill(attempt, 2)
    with pytest.raises(DiskFullError, match=f"expected {needed:,} bytes") as error:
        attempt.write(Snapshot.of(epoch(2, size=1000), history(0.1)))
    assert needed > 4000
    assert error.value.__cause__.errno == errno.ENOSPC


def test_another_error_of_the_disk_is_not_called_full(tmp_path):
    attempt = Attempt.claim(tmp_path)
    attempt.folder.rmdir()
    with pytest.raises(FileNotFoundError):
        attempt.write(Snapshot.of(epoch(1), history(0.1)))
    assert is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not is_full(OSError(errno.EIO, "Input/output error"))


# --- a training on such a disk ---


def test_training_goes_on_without_room_and_says_so_once_and_the_next_save_tries_again(tmp_path):
    writer = CheckpointWriter(Attempt.claim(tmp_path))
    writer.save(epoch(1), history(0.5))
    fill(writer.attempt, 2)
    fill(writer.attempt, 3)
    with pytest.warns(
        UserWarning, match=r"goes on without a new checkpoint: expected .*epoch-0002"
    ):
        writer.save(epoch(2), history(0.5, 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.save(epoch(3), history(0.5, 0.1, 0.1))
        assert newest_checkpoint(tmp_path).state["epoch"] == 1
    writer.save(epoch(4), history(0.5, 0.1, 0.1, 0.1))
    assert newest_checkpoint(tmp_path).state["epoch"] == 4
    assert newest_checkpoint(tmp_path).best_state["epoch"] == 1
    assert writer.waiting == []


def test_the_best_epoch_waits_in_memory_with_its_own_weights_until_there_is_room(tmp_path):
    writer, live = CheckpointWriter(Attempt.claim(tmp_path)), epoch(2, 2.0)
    writer.save(epoch(1, 1.0), history(0.5))
    fill(writer.attempt, 2)
    with pytest.warns(UserWarning, match="epoch-0002"):
        writer.save(live, history(0.5, 0.9))
    live.state["model"]["w"].fill_(-1.0)  # training goes on in the same tensors
    writer.save(epoch(3, 3.0), history(0.5, 0.9, 0.1))
    saved = newest_checkpoint(tmp_path)
    assert (saved.state["epoch"], saved.best_state["epoch"]) == (3, 2)
    assert saved.best_state["model"]["w"][0] == 2


def test_no_history_is_saved_whose_best_weights_are_not(tmp_path):
    writer = CheckpointWriter(Attempt.claim(tmp_path))
    writer.save(epoch(1), history(0.5))
    fill(writer.attempt, 2)
    with pytest.warns(UserWarning, match="epoch-0002"):
        writer.save(epoch(2), history(0.5, 0.9))
    fill(writer.attempt, 2)
    writer.save(epoch(3), history(0.5, 0.9, 0.1))
    assert newest_checkpoint(tmp_path).state["epoch"] == 1
    fill(writer.attempt, 2)
    with pytest.raises(DiskFullError, match="epoch-0002"):
        writer.save(epoch(4), history(0.5, 0.9, 0.1, 0.1), last=True)


def test_what_waits_and_is_best_no_more_is_let_go(tmp_path):
    writer = CheckpointWriter(Attempt.claim(tmp_path))
    writer.save(epoch(1), history(0.5))
    fill(writer.attempt, 2)
    with pytest.warns(UserWarning, match="epoch-0002"):
        writer.save(epoch(2), history(0.5, 0.6))
    writer.save(epoch(3), history(0.5, 0.6, 0.9))
    assert sorted(f.name for f in writer.attempt.folder.glob("epoch-*")) == [
        "epoch-0001",
        "epoch-0003",
    ]
    assert newest_checkpoint(tmp_path).best_state["epoch"] == 3


def test_without_any_checkpoint_a_full_disk_ends_the_trial_at_once(tmp_path):
    writer = CheckpointWriter(Attempt.claim(tmp_path))
    fill(writer.attempt, 1)
    with pytest.raises(DiskFullError):
        writer.save(epoch(1), history(0.1))


def test_an_epoch_is_written_once(tmp_path):
    writer = CheckpointWriter(Attempt.claim(tmp_path))
    writer.save(epoch(1), history(0.1))
    (writer.attempt.folder / "epoch-0001" / "state.pt").write_text("not touched again")
    writer.save(epoch(1), history(0.1), last=True)
    assert (writer.attempt.folder / "epoch-0001" / "state.pt").read_text() == "not touched again"


def test_a_trial_on_a_disk_full_for_a_time_loses_nothing(tmp_path):
    whole = [report.epochs for report in run(recipe(8), tmp_path / "whole")]
    trying = run(recipe(8), tmp_path / "full")
    reports = [next(trying)]
    attempt = Attempt(tmp_path / "full", 1)
    fill(attempt, 2)
    with pytest.warns(UserWarning, match="goes on without"):
        reports.append(next(trying))
    fill(attempt, 3)
    reports += trying
    entries = [entry[VALUE] for report in reports for entry in report.epochs]
    assert entries == [entry[VALUE] for epochs in whole for entry in epochs]
    assert reports[-1].ended == "COMPLETE"
    assert len(newest_checkpoint(tmp_path / "full").history) == 4
    assert newest_checkpoint(tmp_path / "full").best_state


def test_a_trial_whose_last_checkpoint_finds_no_room_waits_for_it(tmp_path):
    trying = run(recipe(8), tmp_path)
    for _ in range(3):
        next(trying)
    fill(Attempt(tmp_path, 1), 4)
    with pytest.warns(UserWarning, match="goes on without"):
        next(trying)
    # It is the last epoch: what follows is the end of the trial, which must be on the disk.
    (tmp_path / "a1" / "LATEST.tmp").symlink_to("/dev/full")
    waiting, last = trying
    assert waiting.waiting.needed > 1000
    assert "bytes free for the checkpoint" in waiting.waiting.problem
    assert (waiting.ended, waiting.epochs) == (None, [])
    assert last.ended == "COMPLETE"
    assert len(newest_checkpoint(tmp_path).history) == 4


def test_a_trial_whose_first_checkpoint_finds_no_room_waits_and_trains_no_epoch_twice(tiny):
    full = ballast(tiny)
    trying = run(recipe(8), tiny / "trial")
    for _ in range(2):
        report = next(trying)
        assert (report.ended, report.epochs) == (None, [])
        assert "bytes free for the checkpoint" in report.waiting.problem
    full.unlink()
    reports = list(trying)
    assert [entry["epoch"] for report in reports for entry in report.epochs] == [1, 2, 3, 4]
    assert (reports[-1].ended, reports[-1].attempt) == ("COMPLETE", 1)
    assert read_history(tiny / "trial") == [e for report in reports for e in report.epochs]


def test_what_measuring_writes_waits_for_room_too(tmp_path):
    list(run(recipe(8), tmp_path))
    for file in ("test.parquet.tmp", "test.json.tmp"):
        (tmp_path / file).symlink_to("/dev/full")  # gone after the first try
    *waiting, last = measure(recipe(8), tmp_path)
    assert [report.waiting is not None for report in waiting] == [True, True]
    assert last.ended == "COMPLETE"
    assert read_test(tmp_path)


def test_on_a_real_full_disk_the_older_checkpoint_stays_and_a_resume_goes_on_from_it(tiny):
    folder = tiny / "trial"
    trying = run(recipe(8), folder)
    next(trying)
    full = ballast(tiny)
    with pytest.warns(UserWarning, match=r"got 0 \(No space left on device\)"):
        next(trying)
    trying.close()  # killed here
    assert [entry["epoch"] for entry in newest_checkpoint(folder).history] == [1]
    resumed = run(recipe(8), folder)  # without a byte free: by links
    assert [entry["epoch"] for entry in next(resumed).epochs] == [1]
    full.unlink()
    reports = list(resumed)
    assert [entry["epoch"] for report in reports for entry in report.epochs] == [2, 3, 4]
    assert reports[-1].ended == "COMPLETE"
    assert newest_checkpoint(folder).folder.parent.name == "a2"
    assert newest_checkpoint(folder).best_state


def test_a_full_disk_does_not_hide_another_error(tmp_path):
    trying = run(recipe(8, objective=Faulty(fault="raises", after=3, marker="full")), tmp_path)
    next(trying)
    (tmp_path / "a1" / "error.txt").symlink_to("/dev/full")
    *_, report = trying
    assert "RuntimeError: a fault of the objective (no traceback: [Errno 28]" in report.reason


# --- damaged checkpoints ---


@pytest.mark.parametrize(
    "damage", ["truncated state.pt", "truncated history.json", "empty history.json", "missing"]
)
def test_what_is_damaged_is_passed_over_for_the_one_before_and_said_so(tmp_path, damage):
    first = run(recipe(8), tmp_path)
    for _ in range(3):
        next(first)
    first.close()
    folder = tmp_path / "a1" / "epoch-0003"
    assert (tmp_path / "a1" / "LATEST").read_text() == folder.name
    if damage == "missing":
        (folder / "state.pt").unlink()
    else:
        how, name = damage.split()
        os.truncate(folder / name, 100 if how == "truncated" else 0)
    with pytest.warns(UserWarning, match="epoch-0003 is damaged: going back to the one before"):
        report = next(run(recipe(8), tmp_path))
    assert [entry["epoch"] for entry in report.epochs] == [1, 2]


# --- a worker that comes back late ---


def everything(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("when", ["resume", "save", "keep", "write"])
def test_a_stale_attempt_writes_nothing_anywhere(tmp_path, when):
    Attempt.claim(tmp_path).write(Snapshot.of(epoch(1), history(0.1)))
    stale = Attempt.claim(tmp_path)
    if when != "resume":
        stale.resume()
    Attempt.claim(tmp_path).resume()
    before = everything(tmp_path)
    acts = {
        "resume": stale.resume,
        "save": lambda: stale.write(Snapshot.of(epoch(2), history(0.1, 0.2))),
        "keep": lambda: CheckpointWriter(stale).save(epoch(2), history(0.1, 0.2)),
        "write": lambda: stale.write(trial_snapshot()),
    }
    with pytest.raises(StaleAttemptError, match="attempt 2 was superseded"):
        acts[when]()
    assert everything(tmp_path) == before


def trial_snapshot():
    return Snapshot.of(epoch(2), history(0.1, 0.2))


@pytest.mark.parametrize("fault", ["none", "raises"])
def test_a_late_worker_says_that_it_was_superseded_and_writes_not_even_its_error(tmp_path, fault):
    late = run(recipe(8, objective=Faulty(fault=fault, after=3, marker=f"late {fault}")), tmp_path)
    next(late)
    Attempt.claim(tmp_path).resume()
    before = everything(tmp_path)
    (report,) = late
    assert report.ended == "FAIL"
    assert report.attempt == 1
    assert "attempt 1 was superseded" in report.reason
    assert everything(tmp_path) == before


# --- the budget ---

SIZES = {"worst": 30, "middle": 20, "best": 50, "running": 10}


@pytest.mark.parametrize(
    ("budget", "gone"),
    [
        (110, []),
        (109, ["worst"]),
        (80, ["worst"]),
        (79, ["worst", "middle"]),
        (60, ["worst", "middle"]),
        (0, ["worst", "middle"]),
    ],
)
def test_as_few_as_needed_go_worst_first_and_never_what_is_kept(budget, gone):
    assert to_drop(SIZES, {"best", "running"}, budget) == gone


def test_what_has_no_weights_is_not_dropped_again():
    assert to_drop({"a": 0, "b": 5}, (), 0) == ["b"]


def test_the_best_of_each_width_are_those_of_highest_value():
    values = {"w1-0": 0.1, "w1-1": 0.3, "w1-2": 0.2, "w2-0": 0.05, "w2-1": 0.05}
    widths = {trial: float(trial[1]) for trial in values}
    assert best_of_each_width(values, widths, 1) == {"w1-1", "w2-0"}
    assert best_of_each_width(values, widths, 2) == {"w1-1", "w1-2", "w2-0", "w2-1"}
    assert best_of_each_width(values, widths, 0) == set()


def test_sizes_are_those_of_the_files_and_dropping_frees_them_but_not_the_history(tmp_path):
    for name in ("w4-001", "w4-000"):
        Attempt.claim(tmp_path / name).write(Snapshot.of(epoch(1, size=1000), history(0.1)))
    (tmp_path / "w4-002").mkdir()
    size = (tmp_path / "w4-000/a1/epoch-0001/state.pt").stat().st_size
    assert weights(tmp_path) == {"w4-000": size, "w4-001": size}
    assert list(weights(tmp_path)) == ["w4-000", "w4-001"]
    before = used(tmp_path)
    for name in to_drop(weights(tmp_path), {"w4-001"}, size):
        drop_weights(tmp_path / name)
    assert weights(tmp_path) == {"w4-001": size}
    assert weights_of(tmp_path / "w4-000") == 0
    assert used(tmp_path) == before - size
    assert read_history(tmp_path / "w4-000") == history(0.1)
