import json
import os
from dataclasses import dataclass

import pyarrow.parquet as pq
import pytest
import torch
from small_spaces import Faulty, recipe

from robsearch import TRADES, Epoch, LogitMargin
from robsearch.trials import trial
from robsearch.trials.checkpoints import Attempt, Snapshot, StaleAttemptError, drop_weights
from robsearch.trials.files import shortened_into
from robsearch.trials.loading import best_epoch, newest_checkpoint, read_history, read_test
from robsearch.trials.trial import measure, run

VALUE = "val/robust_accuracy"


def epoch(number, weight=0.0):
    return Epoch(number, {VALUE: 0.0}, {"model": {"w": torch.full((3,), weight)}, "epoch": number})


def history(*values):
    return [{"epoch": n, "time": 0.0, VALUE: value} for n, value in enumerate(values, 1)]


@pytest.fixture(autouse=True)
def _every_epoch_is_saved(monkeypatch):
    monkeypatch.setattr(trial, "REPORT_SECONDS", 0.0)


def test_the_best_epoch_is_the_first_of_the_highest():
    assert best_epoch(history(0.2, 0.5, 0.5, 0.1)) == 2


def test_each_claim_is_a_new_attempt(tmp_path):
    assert [Attempt.claim(tmp_path).number for _ in range(3)] == [1, 2, 3]


def test_only_last_previous_and_best_checkpoints_are_kept(tmp_path):
    attempt = Attempt.claim(tmp_path)
    values = (0.1, 0.9, 0.2, 0.3, 0.4)
    for number in range(1, 6):
        attempt.write(Snapshot.of(epoch(number, number), history(*values[:number])))
    assert sorted(f.name for f in attempt.folder.glob("epoch-*")) == [
        "epoch-0002",
        "epoch-0004",
        "epoch-0005",
    ]
    saved = newest_checkpoint(tmp_path)
    assert saved.state["model"]["w"][0] == 5
    assert saved.best_state["model"]["w"][0] == 2


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before_and_said_so(tmp_path):
    attempt = Attempt.claim(tmp_path)
    for number in (1, 2, 3):
        attempt.write(Snapshot.of(epoch(number, number), history(*[0.1] * number)))
    os.truncate(attempt.folder / "epoch-0003" / "state.pt", 100)
    with pytest.warns(UserWarning, match="epoch-0003 is damaged"):
        saved = newest_checkpoint(tmp_path)
    assert saved.state["epoch"] == 2
    assert len(saved.history) == 2


def test_a_checkpoint_that_latest_does_not_name_yet_is_used_if_it_was_written_to_its_end(tmp_path):
    attempt = Attempt.claim(tmp_path)
    attempt.write(Snapshot.of(epoch(1), history(0.1)))
    attempt.write(Snapshot.of(epoch(2), history(0.1, 0.2)))
    (attempt.folder / "LATEST").write_text("epoch-0001")
    assert newest_checkpoint(tmp_path).state["epoch"] == 2
    (attempt.folder / "epoch-0002" / "history.json").unlink()
    with pytest.warns(UserWarning, match="epoch-0002 is damaged"):
        assert newest_checkpoint(tmp_path).state["epoch"] == 1


def test_a_stale_attempt_writes_nothing(tmp_path):
    old = Attempt.claim(tmp_path)
    old.write(Snapshot.of(epoch(1), history(0.1)))
    new = Attempt.claim(tmp_path)
    assert new.resume().state["epoch"] == 1
    with pytest.raises(StaleAttemptError, match="attempt 1 was superseded"):
        old.write(Snapshot.of(epoch(2), history(0.1, 0.2)))
    assert newest_checkpoint(tmp_path).folder.parent == new.folder


def test_a_new_attempt_keeps_the_best_weights_of_the_old_one(tmp_path):
    old = Attempt.claim(tmp_path)
    for number in (1, 2, 3):
        old.write(Snapshot.of(epoch(number, number), history(0.9, 0.1, 0.2)[:number]))
    saved = Attempt.claim(tmp_path).resume()
    assert saved.folder.parent.name == "a2"
    assert saved.best_state["epoch"] == 1


def test_dropped_weights_leave_the_history(tmp_path):
    Attempt.claim(tmp_path).write(Snapshot.of(epoch(1), history(0.1)))
    drop_weights(tmp_path)
    assert not list(tmp_path.rglob("state.pt"))
    assert read_history(tmp_path) == history(0.1)


def test_a_trial_reports_every_epoch_once_and_then_its_end(tmp_path):
    reports = list(run(recipe(8), tmp_path))
    assert [entry["epoch"] for report in reports for entry in report.epochs] == [1, 2, 3, 4]
    assert [report.ended for report in reports] == [None] * 4 + ["COMPLETE"]
    assert read_history(tmp_path) == [entry for report in reports for entry in report.epochs]


def test_a_trial_cut_short_goes_on_and_repeats_what_was_saved(tmp_path):
    first = run(recipe(8), tmp_path / "cut")
    next(first), next(first)
    first.close()
    reports = list(run(recipe(8), tmp_path / "cut"))
    assert [[entry["epoch"] for entry in report.epochs] for report in reports] == [
        [1, 2],
        [3],
        [4],
        [],
    ]
    assert {report.attempt for report in reports} == {2}
    whole = list(run(recipe(8), tmp_path / "whole"))
    cut_values, whole_values = (
        [entry[VALUE] for report in each for entry in report.epochs] for each in (reports, whole)
    )
    assert cut_values == whole_values


def test_an_error_is_reported_with_its_traceback_and_not_raised(tmp_path):
    reports = list(
        run(recipe(8, objective=Faulty(fault="raises", after=1, marker="trial")), tmp_path)
    )
    assert reports[-1].ended == "FAIL"
    assert "RuntimeError: a fault of the objective" in reports[-1].reason
    assert "in terms" in (tmp_path / "a1" / "error.txt").read_text()


WORDS = f"these images:\n{'0.123 ' * 900_000}THE END"


@dataclass(frozen=True)
class Wordy(TRADES):
    """An objective that quotes its images when it fails."""

    def terms(self, *arguments):
        raise ValueError(WORDS)


@dataclass(frozen=True)
class WordyMargin(LogitMargin):
    """A measure that does."""

    def __call__(self, *arguments):
        raise ValueError(WORDS)


def test_of_a_message_of_5_mb_the_driver_hears_1000_characters_and_error_txt_has_all(tmp_path):
    reports = list(run(recipe(8, objective=Wordy()), tmp_path))
    file = tmp_path / "a1" / "error.txt"
    reason = reports[-1].reason
    assert reason.startswith("ValueError: these images:\n0.123 0.123")
    assert reason.endswith(f" (... more in {file})")
    assert len(reason) == 1000 + len(f" (... more in {file})")
    whole = file.read_text()
    assert f"ValueError: {WORDS}" in whole


def test_what_measuring_leaves_out_is_told_in_1000_characters_too(tmp_path):
    wordy = recipe(8, measures=(WordyMargin(),))
    list(run(wordy, tmp_path))
    (report,) = measure(wordy, tmp_path)
    assert report.ended == "COMPLETE"
    assert "ValueError: these images" in report.reason
    assert report.reason.endswith(f" (... more in {tmp_path / 'error.txt'})")
    assert len(report.reason) < 1200
    assert "THE END" in (tmp_path / "error.txt").read_text()


def test_an_error_txt_that_cannot_be_written_is_told_in_bounds(tmp_path):
    (tmp_path / "file").write_text("")
    short = shortened_into("x" * 1001, tmp_path / "file" / "error.txt")
    assert short == "x" * 1000 + " (... 1 more character)"
    assert shortened_into("x" * 1000, tmp_path / "error.txt") == "x" * 1000
    assert not (tmp_path / "error.txt").exists()


def test_measures_are_taken_at_the_best_and_the_last_epoch(tmp_path):
    list(run(recipe(8), tmp_path))
    (report,) = measure(recipe(8), tmp_path)
    rows = pq.read_table(tmp_path / "test.parquet")
    assert rows.num_rows == len(recipe(8).data.read()["test"].labels)
    assert {"index", "label", "robust_accuracy", "margin/logit"} <= set(rows.column_names)
    assert rows.schema.field("margin/logit").metadata[b"kind"] == b"exact"
    assert report.test["test/robust_accuracy"] == pytest.approx(
        rows["robust_accuracy"].to_numpy().mean()
    )
    for rate in ("natural_accuracy", "robust_accuracy"):
        share = rows[f"last_{rate}"].to_numpy().mean()
        assert report.test[f"test_last/{rate}"] == pytest.approx(share)
    assert report.test["test/epoch"] == best_epoch(read_history(tmp_path))
    assert {"test_last/robust_accuracy", "test/margin/logit/mean", "gap/robust_error"} <= set(
        report.test
    )
    assert {"train.parquet", "layers.parquet", "histograms.parquet"} <= {
        file.name for file in tmp_path.iterdir()
    }
    assert (tmp_path / "figures" / "margins.png").stat().st_size > 1000
    assert read_test(tmp_path) == report.test == json.loads((tmp_path / "test.json").read_text())


def test_measuring_without_a_checkpoint_fails_with_a_reason(tmp_path):
    (report,) = measure(recipe(8), tmp_path)
    assert report.ended == "FAIL"
    assert "no valid checkpoint" in report.reason
    assert read_test(tmp_path) == {}
