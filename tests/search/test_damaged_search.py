"""A search some of whose files are damaged: status, report and tables go on without them, and name
each once."""

import sys
import warnings

import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_spaces import recipe

import robsearch
from robsearch import Epoch, InputError, cli
from robsearch.report import write
from robsearch.search.driver import Driver
from robsearch.search.recording import Recorder
from robsearch.search.scheduling import scheduler_of
from robsearch.spaces import Space, Stage
from robsearch.study import Lease, SearchRecord, Study, open_storage
from robsearch.tracking import Tracker, default_uri
from robsearch.trials.checkpoints import Attempt, Snapshot
from robsearch.trials.files import write_json
from robsearch.trials.trial import measure

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
VALUE, NATURAL = "val/robust_accuracy", "val/natural_accuracy"


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


SPACE = Space(define, (4,), sampler=optuna.samplers.RandomSampler(seed=1))


def entries(*values):
    more = {
        "train/lam": 2.0,
        "time/epoch_seconds": 1.5,
        "train/natural_loss": 1.0,
        "train/robust_loss": 0.5,
    }
    return [
        {"epoch": n, "time": float(n), VALUE: value, NATURAL: 0.9, "val/stability": 0.8, **more}
        for n, value in enumerate(values, 1)
    ]


@pytest.fixture
def results(tmp_path):
    """The search ``s`` of one width, with three finished and measured trials of three epochs
    each."""
    folder = tmp_path / "s"
    storage = open_storage(None, folder)
    setting = {"data": "Digits(train=100)"}
    record = SearchRecord(
        "s", "small_spaces:pair", (4,), 0, 3, f"sqlite:///{tmp_path}/m.db", setting
    )
    record.create(storage)
    study = Study(storage, "s", SPACE, Stage(4), trials=3, full=recipe(4), seed=0)
    for number in range(3):
        suggestion = study.ask()
        history = entries(0.1, 0.5 + number / 10, 0.2)
        place = folder / "trials" / suggestion.trial
        attempt = Attempt.claim(place)
        for last in (1, 2, 3):
            attempt.write(Snapshot.of(Epoch(last, {}, {"epoch": last}), history[:last]))
        study.complete(suggestion, history[1], history[2])
        write_json(place / "test.json", {"test/robust_accuracy": 0.4, "test/epoch": 2})
        layer = {
            "measure": ["norms/linf"],
            "layer": ["fc"],
            "values": [[1.0]],
            "mean": [1.0],
            "max": [1.0],
        }
        pq.write_table(pa.table(layer), place / "layers.parquet")
    return tmp_path


def damage_all(trials, name):
    for file in trials.glob(name):
        file.write_bytes(b"\xff\xfe\x00")


def test_a_trial_whose_history_is_damaged_keeps_the_value_that_optuna_remembers(results):
    whole = robsearch.load_search("s", results)
    damage_all(results / "s" / "trials", "w4-002/a1/*/history.json")
    (results / "s" / "trials" / "w4-001" / "a1" / "epoch-0003" / "history.json").write_text("[]")
    with pytest.warns(UserWarning, match="w4-002/a1/epoch-0003/history.json is not JSON"):
        search = robsearch.load_search("s", results)
    columns = ["trial", "state", "lam", "value", "best_epoch", "epochs", "test/robust_accuracy"]
    pd.testing.assert_frame_equal(search.trials[columns], whole.trials[columns], check_dtype=False)
    assert search.trials[NATURAL].to_list() == [
        0.9,
        0.9,
        0.9,
    ]  # the storage knows what decides, and whether it collapsed
    assert search.trials["val/stability"].fillna(0.0).to_list() == [0.8, 0.8, 0.0]  # no more
    assert search.best(4)["trial"] == "w4-002"
    assert search.best(4)["value"] == pytest.approx(0.7)
    assert list(search.epochs.groupby("trial").size().items()) == [("w4-000", 3), ("w4-001", 2)]


def test_nothing_of_what_is_measured_ends_a_report(results):
    trials = results / "s" / "trials"
    (trials / "w4-000" / "test.json").write_text("[1, 2")
    (trials / "w4-001" / "test.json").unlink()
    (trials / "w4-001" / "test.json").mkdir()
    damage_all(trials, "w4-002/layers.parquet")
    search = robsearch.load_search("s", results)
    with pytest.warns(
        UserWarning, match=r"w4-002/layers.parquet is not a Parquet file that can be read"
    ):
        assert write(search, search.report, {}).stat().st_size > 1000
    assert search.layers.empty
    assert search.trials.set_index("trial")["test/robust_accuracy"].isna().to_dict() == {
        "w4-000": True,
        "w4-001": True,
        "w4-002": False,
    }
    assert set(search.table("layers")["trial"].to_pylist()) == {"w4-000", "w4-001"}
    damage_all(trials, "*/layers.parquet")
    with pytest.raises(InputError, match=r"expected a measured trial with layers.parquet"):
        search.table("layers")


def test_a_trial_whose_averages_are_damaged_is_measured_again_by_the_next_driver(results):
    trials = results / "s" / "trials"
    (trials / "w4-001" / "test.json").write_text('{"test/robust_accuracy": 0.')
    storage = open_storage(None, results / "s")
    scheduler = scheduler_of(SPACE, SearchRecord.load(storage, "s"), storage, recipe(4))
    lease = Lease.acquire(storage, "s")
    recorder = Recorder(Tracker(default_uri(results), "s", results), trials)
    driver = Driver(scheduler, recorder, lease, trials, print)
    assert [(job.name, job.work) for job in [driver.next()]] == [("w4-001", measure)]
    assert driver.next() is None
    assert recorder.tracker.close() == 0
    lease.release()


def test_status_names_each_damaged_file_once_in_one_line(results, monkeypatch, capsys):
    trials = results / "s" / "trials"
    (trials / "w4-000" / "test.json").write_bytes(b"\x00")
    (trials / "w4-001" / "a1" / "epoch-0003" / "history.json").write_text("null")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["robsearch", "status", "s", "--results", str(results)])
    warnings.simplefilter("always")
    told = cli._warn_once(warnings.showwarning)
    for _ in range(2):
        told(UserWarning("the same"), UserWarning, "robsearch/files.py", 1)
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    assert end.value.code == 0
    assert "3 of 3 trials ended" in shown.out
    lines = shown.err.splitlines()
    assert lines[0] == "warning: the same"
    assert [line for line in lines if "test.json" in line] == [
        f"warning: {trials}/w4-000/test.json is not JSON: it is left out, and the trial is "
        "measured again when its "
        "search is resumed"
    ]
    assert (
        len(
            [
                line
                for line in lines
                if "history.json is not a history: the history before it is read" in line
            ]
        )
        == 1
    )
    assert len(lines) == 3
