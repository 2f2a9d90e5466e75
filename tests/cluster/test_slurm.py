"""deploy/slurm.sh as Slurm runs it on one node, in namespaces of its own: ``ray symmetric-run``
stops every Ray that it sees.

Slurm is not there. What the script asks it for, to be started again, is written down.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from agreement import in_mlflow, in_optuna
from command_processes import wait_until
from mlflow_stores import new_store

from robsearch import load_search
from robsearch.trials.loading import read_history

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm.sh"
TRIALS = 2


def no_namespaces():
    """Why this machine has none; None if it has."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "unshare or ip is not installed"
    words = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "ip", "link", "set", "lo", "up"]
    return subprocess.run(words, capture_output=True, text=True).stderr.strip() or None


@pytest.fixture
def shared(tmp_path):
    """A shared folder as deploy/README.md makes it, and programs of Slurm that are asked for."""
    folder = tmp_path / "shared"
    programs = folder / "programs"
    programs.mkdir(parents=True)
    answers = {
        "hostname": "echo 127.0.0.1",
        "scontrol": f'echo "$@" >>{folder}/asked',
    }
    for name, line in answers.items():
        program = programs / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    (folder / "robsearch.sh").write_text(
        f"export PATH={programs}:{Path(sys.executable).parent}:$PATH\n"
        "export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled\n"
        f"export ROBSEARCH_RESULTS={folder}/results\n"
    )
    (folder / "results").mkdir()
    new_store(folder / "results")
    script = SCRIPT.read_text().replace("/shared/", f"{folder}/")
    (folder / "slurm.sh").write_text(script)
    return folder


def submitted(shared, rays):
    """The job, as Slurm starts it and starts it again."""
    command = 'ip link set lo up && exec bash "$@"'
    words = ["faulty_spaces:sound", "--name", "s", "--trials", str(TRIALS), "--parallel", "1"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
        "RAY_TMPDIR": str(rays),
        "ROBSEARCH_PASS_ENV": "ROBSEARCH_TEST_TRIALS",
        "ROBSEARCH_TEST_TRIALS": str(shared / "results" / "s" / "trials"),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NUM_NODES": "1",
    }
    isolated = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with (shared / "log").open("ab") as log:
        return subprocess.Popen(
            [*isolated, "sh", "-c", command, "sh", str(shared / "slurm.sh"), *words],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_batch_job_saves_before_its_limit_and_goes_on_when_slurm_starts_it_again(
    shared, tmp_path_factory
):
    reason = no_namespaces()
    if reason:
        pytest.skip(f"no namespaces: {reason}")
    # Ray's sockets take a short path.
    rays = Path("/tmp") / f"rs-{os.getpid()}"
    rays.symlink_to(tmp_path_factory.mktemp("r"))
    results = shared / "results"
    trials = results / "s" / "trials"
    try:
        job = submitted(shared, rays)
        job.stdout = (shared / "log").open()  # what is shown where it ends too early
        wait_until(lambda: len(read_history(trials / "w4-000")) > 4, job)
        (script,) = psutil.Process(job.pid).children()
        script.send_signal(signal.SIGUSR1)
        assert job.wait(200) != 0
        assert (shared / "asked").read_text() == "requeue 17\n"
        saved = len(read_history(trials / "w4-000"))
        assert 4 < saved < 20

        again = submitted(shared, rays)
        assert again.wait(400) == 0, (shared / "log").read_text()
        assert (shared / "asked").read_text() == "requeue 17\n"
        search = load_search("s", results=results)
        states = {trial: state for trial, (state, _) in in_optuna(search).items()}
        assert states == {"w4-000": "COMPLETE", "w4-001": "COMPLETE"}
        assert in_mlflow(search) == dict.fromkeys(states, "FINISHED")
        assert list(search.epochs["epoch"]) == [*range(1, 21)] * TRIALS
        assert sorted(each.name for each in (trials / "w4-000").glob("a*")) == ["a1", "a2"]
        assert sorted(each.name for each in (trials / "w4-001").glob("a*")) == ["a1"]
    finally:
        job.kill()
        rays.unlink()
