"""What Optuna, MLflow and Ray say of a search that has ended, each asked by its own means."""

import json
import re
from collections import Counter

import optuna
import ray
from mlflow import MlflowClient
from optuna.storages.journal import JournalFileBackend
from ray._private.state import actors
from small_jobs import soon

from robsearch.study import JOURNAL
from robsearch.tracking import TRIAL

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
BROKE_DOWN = "broke down more often than it is retried"


def settled(search):
    """Each trial's state, after Optuna, MLflow and Ray were asked: they agree on every trial, and
    nothing runs.

    Ray tells of jobs, not of trials: one to train and one to measure. Its own record of a driver's
    jobs is what Tune writes when the driver ends, so of trials that ended under a driver that was
    killed it has none.
    """
    trials = in_optuna(search)
    states = {trial: state for trial, (state, _) in trials.items()}
    assert set(states.values()) <= set(STATUS)
    assert stated(search) == states
    assert in_mlflow(search) == {trial: STATUS[state] for trial, state in states.items()}
    errors = {(name, "run") for name, (_, reason) in trials.items() if BROKE_DOWN in reason}
    jobs = in_ray(search)
    assert {name for name, work in jobs if work == "run"} <= set(states)
    assert {states[name] for name, work in jobs if work == "measure"} <= {"COMPLETE"}
    assert {work for _, work in jobs} <= {"run", "measure"}
    assert jobs == {job: "ERROR" if job in errors else "TERMINATED" for job in jobs}
    if ray.is_initialized():
        assert soon(lambda: not living_actors())
        assert {group["state"] for group in ray.util.placement_group_table().values()} <= {
            "REMOVED"
        }
        assert soon(
            lambda: ray.available_resources().get("CPU") == ray.cluster_resources().get("CPU")
        )
    return states


def in_optuna(search):
    """State and reason of each trial; every study but the record and the leases is one of
    trials."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(search.folder / JOURNAL)))
    studies = [
        study
        for study in storage.get_all_studies()
        if re.fullmatch(r".*@w[\d.]+", study.study_name)
    ]
    return {
        f"{study.study_name.rpartition('@')[2]}-{trial.number:03d}": (
            trial.state.name,
            trial.user_attrs["trainings"][-1].get("reason", ""),
        )
        for study in studies
        for trial in storage.get_all_trials(study._study_id)
    }


def in_mlflow(search):
    """The status of each trial's run; of every trial there is one, and the search's own has ended
    too."""
    client = MlflowClient(search.record.tracking)
    runs = client.search_runs([client.get_experiment_by_name(search.name).experiment_id])
    assert max(Counter(run.data.tags[TRIAL] for run in runs).values()) == 1
    found = {run.data.tags[TRIAL]: run.info.status for run in runs}
    assert found.pop("search") in ("FINISHED", "KILLED")
    return found


def in_ray(search):
    """The status of each job, (trial, ``run`` or ``measure``), as the Tune of the last driver that
    had it wrote it."""
    found = {}
    *before, last = sorted(search.folder.glob("ray/experiment_state-*.json"))
    for file in (*before, last):
        for written, _ in json.loads(file.read_text())["trial_data"]:
            job = json.loads(written)
            name, work = re.search(
                r"Job_name_(\S+?)_work_function_(\w+?)_at_", job["experiment_tag"]
            ).groups()
            if file == last or job["status"] in (
                "TERMINATED",
                "ERROR",
            ):  # a killed driver wrote down only how it began
                found[name, work] = job["status"]
    return found


def living_actors():
    return [actor for actor in actors().values() if actor["State"] != "DEAD"]


def stated(search):
    return search.trials.set_index("trial")["state"].to_dict()
