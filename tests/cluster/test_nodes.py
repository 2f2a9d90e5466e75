"""Two real nodes on this machine: two raylets, each with one CPU, on loopback."""

import contextlib
import os
import subprocess
import sys
from functools import partial

import psutil
import pytest
import ray
from small_jobs import Listed, alive, meets, notes, soon, steps, tells_environment
from two_nodes import two_nodes

from robsearch import InputError, RunOptions, cluster
from robsearch.cluster import connection
from robsearch.cluster.jobs import Job
from robsearch.search.capacity import jobs_at_once
from robsearch.spaces.resources import Resources

pytestmark = pytest.mark.slow


@pytest.fixture(scope="class")
def places(tmp_path_factory):
    """The working directory of the first node, and that of the second."""
    both = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("elsewhere")
    for place in both:
        (place / "results").mkdir()
    return both


@pytest.fixture(scope="class")
def nodes(places, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "A_PASSWORD", "hidden"
        )  # the cluster was started with a secret in its environment
        with two_nodes(patch, tmp_path_factory.mktemp("r"), places) as made:
            yield made


class TestOneCluster:
    """Of two nodes; the last test ends one of them."""

    def test_jobs_run_on_every_node_of_a_cluster_that_is_joined(self, nodes, tmp_path):
        made, _ = nodes
        with cluster.connected(made.address, None):
            assert cluster.node_count() == 2
            assert [cluster.capacity(Resources(cpus)) for cpus in (0.5, 1, 2)] == [
                4,
                2,
                0,
            ]  # no job lies on two nodes
            cluster.check_nodes(tmp_path)
            assert list(tmp_path.iterdir()) == []
            sent = ray.get_runtime_context().runtime_env
            assert set(sent["env_vars"]) == {"PYTHONPATH"}
            jobs = [Job(f"j{i}", meets, (f"j{1 - i}", 1, 0), tmp_path / f"j{i}") for i in range(2)]
            tell = Job("tell", tells_environment, None, tmp_path / "tell")
            listed = Listed([*jobs, tell])
            cluster.run(listed, tmp_path, max_retries=0)
            assert listed.ended == dict.fromkeys(["j0", "j1", "tell"])
        assert not ray.is_initialized()
        (first,), (second,) = ({node for *_, node, _ in notes(job.folder)} for job in jobs)
        assert first != second
        assert "hidden" not in (tmp_path / "tell" / "environment").read_text()

    def test_auto_finds_the_cluster_of_this_machine(self, nodes, monkeypatch):
        made, _ = nodes
        monkeypatch.setenv("RAY_ADDRESS", made.address)
        with cluster.connected("auto", None):
            assert cluster.node_count() == 2

    def test_a_folder_that_the_driver_cannot_write_is_refused(self, nodes, tmp_path):
        made, _ = nodes
        (tmp_path / "file").write_text("")
        with cluster.connected(made.address, None), pytest.raises(InputError, match="to write"):
            cluster.check_nodes(tmp_path / "file")

    @pytest.mark.skipif(not os.path.exists("/proc/self/cwd"), reason="Linux only")
    def test_a_node_that_sees_another_folder_is_named(self, nodes, places, monkeypatch):
        made, second = nodes
        here, _ = places
        monkeypatch.chdir(here)
        folder = type(here)("/proc/self/cwd/results")  # each node's own
        with (
            cluster.connected(made.address, None),
            pytest.raises(
                InputError, match="to share /proc/self/cwd/results, got another folder there"
            ) as refused,
        ):
            cluster.check_nodes(folder)
        assert len(refused.value.problems) == 1
        assert second.node_id[:8] in refused.value.problems[0]
        assert list((here / "results").iterdir()) == []

    def test_a_job_of_a_node_that_dies_goes_on_at_the_other(self, nodes, tmp_path, capsys):
        made, second = nodes
        (raylet,) = (started.process.pid for started in second.all_processes["raylet"])
        killed = []

        def kill(listed, job):
            on_second = notes(job.folder)[-1][2] == second.node_id
            if on_second and listed.reports[job.name] == 3 and not killed:
                killed.append(job.name)
                workers = psutil.Process(raylet).children(recursive=True)
                made.remove_node(second, allow_graceful=False)
                for worker in workers:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        worker.kill()

        with cluster.connected(made.address, None):
            jobs = [
                Job(f"j{i}", meets, (f"j{1 - i}", 8, 0.3), tmp_path / f"j{i}") for i in range(2)
            ]
            jobs.append(Job("j2", steps, (8, 0.3), tmp_path / "j2"))
            listed = Listed(jobs, on_report=kill)
            room = partial(jobs_at_once, RunOptions(), {4.0: Resources()})
            assert room() == 2
            cluster.run(listed, tmp_path, max_retries=1)
            assert listed.ended == dict.fromkeys(["j0", "j1", "j2"])
            assert soon(lambda: room() == 1)
            made.add_node(num_cpus=1)
            assert soon(lambda: room() == 2)
            assert jobs_at_once(RunOptions(parallel=1), {4.0: Resources()}) == 1
        assert len(killed) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Ray: ")]
        assert said
        assert all("(1)" not in line for line in said)
        done = {job.name: notes(job.folder) for job in jobs}
        assert all(
            [step for step, *_ in noted] == list(range(8)) for noted in done.values()
        )  # nothing was done twice
        attempts = {name: len({pid for _, pid, *_ in noted}) for name, noted in done.items()}
        assert attempts == {name: 1 + (name in killed) for name in done}
        moved = [node for *_, node, _ in done[killed[0]]]
        assert moved[0] == second.node_id
        assert moved[-1] != second.node_id
        pids = {pid for noted in done.values() for _, pid, *_ in noted}
        assert soon(lambda: not any(map(alive, pids)))


@pytest.fixture
def started(monkeypatch, tmp_path_factory):
    """The address of a cluster of `ray start`, with one CPU."""
    monkeypatch.setenv(cluster.connection.SWITCH, "0")  # listens on loopback only
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv(
        "RAY_TMPDIR", str(folder)
    )  # the address file is not written where `auto` of others looks
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--port=0",
        "--num-cpus=1",
    ]
    quiet = ["--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    subprocess.run([*command, *quiet], check=True, capture_output=True)
    own = [
        one
        for one in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(one.info["cmdline"] or [])
    ]
    try:
        yield (folder / "ray" / "ray_current_cluster").read_text().strip()
    finally:
        for process in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_auto_joins_what_ray_start_started_beside_the_ray_of_another_program(started):
    code = (
        "import ray, time; ray.init('local', num_cpus=1); print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "up\n"
            here = connection.local_clusters()
            owners = {each.address: each.owner and each.owner.pid for each in here}
            assert owners[started] is None
            assert other.pid in owners.values()
            with cluster.connected("auto", None):
                assert cluster.head_address() == started
                assert cluster.total("CPU") == 1
        finally:
            other.kill()
