"""What trials cost: one definition in the live table, status, MLflow and ByCost, also after an
interruption."""

from collections import Counter

import optuna
import pytest
import torch
from mlflow import MlflowClient
from optuna.pruners import BasePruner
from small_spaces import STEPS, Faulty, recipe, standard

import robsearch
from robsearch.search.commands.status import status_json, status_lines, status_rows
from robsearch.search.driver import Driver
from robsearch.search.progress import live_rows
from robsearch.search.recording import Recorder
from robsearch.search.result import glance_at
from robsearch.search.scheduling import scheduler_of
from robsearch.spaces import Space
from robsearch.study import Lease, SearchRecord, open_storage
from robsearch.tracking import TRIAL, Tracker
from robsearch.training.costs import hold_gpus
from robsearch.training.trainer import epoch_costs
from robsearch.trials import trial as trials


class Third(BasePruner):
    """Prunes the third suggestion of a width at its second epoch."""

    def prune(self, study, trial):
        return trial.number == 2 and trial.last_step == 2


def define(trial, width):
    """The first trial of a process fails, in its third epoch."""
    return recipe(
        width, trial.suggest_float("lam", 0.5, 32.0, log=True), objective=Faulty(fault="raises")
    )


SPACE = Space(
    define,
    (4,),
    sampler=optuna.samplers.RandomSampler(seed=0),
    pruner=Third(),
    controls=(standard,),
)


def resumed(folder, tracker):
    """A driver of the search ``s``, as it finds it."""
    storage = open_storage(None, folder / "s")
    record = SearchRecord.load(storage, "s")
    recorder = Recorder(tracker, folder / "s" / "trials", record)
    lease = Lease.acquire(storage, "s")
    driver = Driver(
        scheduler_of(SPACE, record, storage, recipe(4)),
        recorder,
        lease,
        folder / "s" / "trials",
        print,
    )
    return driver, lease


def drive(driver, reports=10**9):
    """What Ray does for a driver: one job after the other, until so many reports were heard."""
    while not driver.finished:
        job = driver.next()
        for report in job.work(job.recipe, job.folder):
            reports -= 1
            if not driver.heard(job, report):
                break
            if not reports:
                return
        driver.gone(job, None)


def agree(folder, driver):
    """Live rows and those of status have the same counts and seconds; returns the search."""
    search = robsearch.load_search("s", folder)
    assert list(status_rows(glance_at("s", folder))) == list(status_rows(search))
    live, status = (
        [row for row in live_rows(driver) if row.states.total()],
        list(status_rows(search)),
    )
    assert [row.label for row in live] == [row.label for row in status]
    for one, other in zip(live, status, strict=True):
        states = (
            Counter({"RUNNING": other.states["INTERRUPTED"]}) + other.states
        )  # nobody drives what status reads
        assert +one.states == Counter(
            {state: n for state, n in states.items() if state != "INTERRUPTED"}
        )
        assert one[4:8] == pytest.approx(other[4:8])
        assert dict(one.params) == pytest.approx(dict(other.params))
    return search


def test_live_table_status_mlflow_and_by_cost_agree_also_after_an_interruption(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(trials, "REPORT_SECONDS", 0.0)
    STEPS.clear()
    uri = f"sqlite:///{tmp_path}/m.db"
    SearchRecord("s", "m:n", SPACE.widths, 0, 3, uri, {}).create(open_storage(None, tmp_path / "s"))
    tracker = Tracker(uri, "s", tmp_path)
    driver, lease = resumed(tmp_path, tracker)
    drive(
        driver, reports=3 + 5 + 1 + 1
    )  # w4-000 fails, w4-001 ends and is measured, w4-002 is at its first epoch
    lease.release()
    search = agree(tmp_path, driver)
    assert search.unfinished == ["w4-002"]
    driver, lease = resumed(tmp_path, tracker)
    agree(tmp_path, driver)
    drive(driver)
    search = agree(tmp_path, driver)
    lease.release()
    assert {"COMPLETE", "FAIL", "PRUNED"} == set(search.trials["state"])
    after, lease = resumed(tmp_path, tracker)
    agree(tmp_path, after)
    lease.release()
    assert [counts.cost for counts in after.scheduler.counts_of.values()] == pytest.approx(
        [counts.cost for counts in driver.scheduler.counts_of.values()]
    )

    rows, epochs = (
        search.trials.set_index("trial"),
        search.epochs.groupby("trial")["time/epoch_seconds"].sum(),
    )
    assert rows["seconds"].to_dict() == pytest.approx(
        epochs.to_dict()
    )  # each epoch once, from the history
    (failed,) = rows.index[rows["state"] == "FAIL"]
    assert rows.loc[failed, "failed_seconds"] > rows.loc[failed, "seconds"] > 0
    assert search.cost.seconds == pytest.approx(epochs.sum())
    assert search.cost.measure_seconds == pytest.approx(rows["time/measure_seconds"].sum())
    assert status_json(search)["cost"] == search.cost._asdict()
    said = [line for line in map(str, status_lines(search)) if line.startswith("trained ")]
    assert "trials that failed took" in said[0]

    # Where the storage tells how a trial ended, status reads none of its epochs.
    said = list(map(str, status_lines(glance_at("s", tmp_path))))
    for name in rows.index[rows["state"] != "FAIL"]:
        for history in tmp_path.glob(f"s/trials/{name}/a*/epoch-*/history.json"):
            history.rename(history.with_suffix(".away"))
    glance = glance_at("s", tmp_path)
    assert list(map(str, status_lines(glance))) == said
    assert set(glance.epochs["trial"]) == {failed}
    for history in tmp_path.glob("s/trials/*/a*/epoch-*/history.away"):
        history.rename(history.with_suffix(".json"))

    assert tracker.close() == 0
    client = MlflowClient(uri)
    for run in client.search_runs([client.get_experiment_by_name("s").experiment_id]):
        row = rows.loc[run.data.tags[TRIAL]]
        assert run.data.metrics["time/trained_seconds"] == pytest.approx(row["seconds"])
        assert run.data.metrics.get("time/failed_seconds", 0.0) == pytest.approx(
            row["failed_seconds"]
        )


def test_a_shared_gpu_counts_by_its_share_and_two_ranks_count_two():
    gpu = torch.device("cuda")
    assert epoch_costs(gpu, 100, 1.0, 3.0, devices=2)["time/gpu_seconds"] == 6.0
    hold_gpus(0.25)
    try:
        assert epoch_costs(gpu, 100, 1.0, 3.0)["time/gpu_seconds"] == 0.75
    finally:
        hold_gpus(1.0)
