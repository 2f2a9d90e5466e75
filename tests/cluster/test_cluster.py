import contextlib
import copy
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures

import grpc
import psutil
import pytest
import ray
from ray._private import ray_constants, worker
from small_jobs import Listed, alive, notes, soon, steps, tells_environment

from robsearch import InputError, cluster
from robsearch.cluster import connection, watching
from robsearch.cluster.jobs import Job
from robsearch.cluster.running import in_one_line
from robsearch.cluster.watching import Watchdog
from robsearch.cluster.worker import wait_for_memory
from robsearch.spaces.resources import Resources
from robsearch.trials.trial import Report
from robsearch.trials.variables import PASSED

# --- small jobs: (count, seconds) is what they are given as a recipe ---


def hangs(recipe, folder):
    """Reports once, and then sleeps for ever."""
    folder.mkdir(exist_ok=True)
    with (folder / "notes").open("a") as file:
        file.write(f"0 {os.getpid()} - {time.time()}\n")
    yield Report(epochs=[{"epoch": 0.0}])
    time.sleep(1e6)


def stops(recipe, folder):
    """Is stopped by a signal as soon as it begins: not one thread of its process answers."""
    folder.mkdir(exist_ok=True)
    with (folder / "notes").open("a") as file:
        file.write(f"0 {os.getpid()} - {time.time()}\n")
    yield from () if os.kill(os.getpid(), signal.SIGSTOP) else [Report(ended="COMPLETE")]


def hangs_once(recipe, folder):
    """Hangs in its second step, at the first attempt only."""
    if (folder / "notes").exists():
        yield from steps(recipe, folder)
    else:
        for report in steps(recipe, folder):
            yield report
            time.sleep(1e6)


# --- connecting ---


def test_a_local_cluster_is_on_loopback_and_workers_do_not_see_the_drivers_secrets(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@host")
    monkeypatch.setenv("ROBSEARCH_STORAGE", "postgresql://me:hidden@host/db")
    monkeypatch.setenv("SOME_API_TOKEN", "hidden")
    monkeypatch.setenv("ROBSEARCH_DATA", "/seen")
    with cluster.connected(None, cpus=1):
        seen = ray.get(ray.remote(lambda: dict(os.environ)).remote())
        nodes = [node["NodeManagerAddress"] for node in ray.nodes()]
    assert nodes == ["127.0.0.1"]
    assert seen["ROBSEARCH_DATA"] == "/seen"
    assert not [name for name, value in seen.items() if "hidden" in value]
    assert os.environ["SOME_API_TOKEN"] == "hidden"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "ray job submit"),
        ("127.0.0.1:1", "expected a Ray cluster at --address 127.0.0.1:1, got .*refused"),
        ("127.0.0.1:99999", "expected --address auto or HOST:PORT, got '127.0.0.1:99999'"),
        ("nonsense", "expected --address auto or HOST:PORT, got 'nonsense'"),
        ("https://head:8265", "launch, resume, status, stop and report take a URL"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address, said, capfd):
    with pytest.raises(InputError, match=said), cluster.connected(address, None):
        pass
    assert capfd.readouterr() == ("", "")  # not a line of Ray's log


@contextlib.contextmanager
def silent():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def web():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    asked, _ = server.accept()
                    with asked:
                        asked.recv(1000)
                        asked.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


@contextlib.contextmanager
def other_grpc():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0)


@contextlib.contextmanager
def head_with_token():
    """A server that answers as the head of a cluster does that has a token."""

    class Asks(grpc.GenericRpcHandler):
        def service(self, details):
            def answer(request, context):
                if ("authorization", "Bearer right") not in details.invocation_metadata:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Asks()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0)


@pytest.mark.parametrize(
    ("token", "mode", "said"),
    [
        ("right", "token", None),
        ("right", None, None),  # Ray sends one that is there, if none is switched off
        ("wrong", "token", "got another one, which it refuses: put that cluster's token"),
        (None, "token", "got none: put that cluster's token"),
        ("right", "disabled", "got none: .*set RAY_AUTH_MODE=token"),
    ],
)
def test_a_cluster_whose_token_is_not_here_is_refused_and_ray_is_not_heard(
    token, mode, said, monkeypatch, tmp_path, capfd
):
    """Ray itself prints twenty lines of its log in twenty seconds."""
    for name, value in (("RAY_AUTH_MODE", mode), ("RAY_AUTH_TOKEN", token)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    with head_with_token() as port:
        address = f"127.0.0.1:{port}"
        if said is None:
            assert cluster.check_address(address) == address
        else:
            expected = f"expected the token of the Ray cluster at --address {address}, {said}"
            with pytest.raises(InputError, match=expected), cluster.connected(address, None):
                pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("listener", [silent, web, other_grpc])
def test_an_address_where_something_else_answers_is_refused_within_seconds(listener, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 1)
    with listener() as port:
        began = time.monotonic()
        with pytest.raises(InputError, match=r"something else that listens there.*6379"):
            cluster.check_address(f"127.0.0.1:{port}")
        assert time.monotonic() - began < 8


def test_an_address_in_the_environment_is_checked_too(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1, got .*refused"):
        cluster.check_address("auto")


# --- resources ---


@pytest.mark.slow
def test_never_more_runs_at_once_than_there_are_cpus_and_equal_neighbours_share_a_process(
    two_cpus, tmp_path
):
    sizes = [1, 1, 2, 2, 1]
    jobs = [
        Job(f"j{i}", steps, (2, 0.2), tmp_path / f"j{i}", Resources(cpus))
        for i, cpus in enumerate(sizes)
    ]
    listed = Listed(jobs, parallel=5)
    cluster.run(listed, tmp_path, max_retries=0)
    assert listed.ended == dict.fromkeys(["j0", "j1", "j2", "j3", "j4"])
    events = []
    for job in jobs:
        moments = [moment for *_, moment in notes(job.folder)]
        events += [(moments[0] - 0.2, job.resources.cpus), (moments[-1], -job.resources.cpus)]
    taken = [sum(cpus for at, cpus in events if at <= moment) for moment, _ in events]
    assert max(taken) <= 2
    assert [float((job.folder / "assigned").read_text()) for job in jobs] == sizes
    begun = [notes(job.folder)[0][3] for job in jobs]
    assert begun[2] < begun[3] < begun[4]  # the large ones were not overtaken
    pids = [notes(job.folder)[0][1] for job in jobs]
    assert pids[2] == pids[3]
    assert pids[2] not in pids[:2]
    assert pids[4] not in pids[:4]


@pytest.mark.parametrize(
    ("takes", "has", "fits"),
    [
        (Resources(1), {"CPU": 3.0}, 3),
        (Resources(2), {"CPU": 3.0}, 1),
        (Resources(0.1), {"CPU": 1.0}, 10),
        (Resources(1, 1), {"CPU": 8.0, "GPU": 2.0}, 2),
        (Resources(1, 1), {"CPU": 8.0}, 0),
        (Resources(1, 4), {"CPU": 8.0, "GPU": 2.0}, 0),
        (Resources(1, 0.5), {"CPU": 8.0, "GPU": 2.0}, 4),
        (Resources(1, 0.4), {"CPU": 8.0, "GPU": 1.0}, 2),
        (Resources(1, 0.4), {"CPU": 8.0, "GPU": 2.0}, 4),  # a fifth would lie on both
        (Resources(1, 0.2), {"CPU": 8.0, "GPU": 1.0}, 5),
    ],
)
def test_how_many_jobs_fit_on_a_node(takes, has, fits):
    from robsearch.cluster.nodes import jobs_on

    assert jobs_on(has, takes) == fits


def test_how_many_jobs_fit_on_the_cluster(two_cpus):
    assert [cluster.capacity(Resources(cpus)) for cpus in (0.5, 1, 2, 3)] == [4, 2, 1, 0]
    assert cluster.capacity(Resources(1, 1)) == 0
    assert cluster.total("CPU") == 2
    assert cluster.node_count() == 1


# --- secrets ---


def test_a_job_does_not_see_secrets_that_its_node_was_started_with(monkeypatch, tmp_path):
    with cluster.connected(None, cpus=1):
        monkeypatch.setenv("A_PASSWORD", "hidden")
        tell = Job("tell", tells_environment, None, tmp_path / "tell")
        env = {"env_vars": {"A_PASSWORD": "hidden", "SEEN": "yes", PASSED: "SEEN"}}
        assert (
            ray.get(ray.remote(lambda: os.environ["A_PASSWORD"]).options(runtime_env=env).remote())
            == "hidden"
        )

        from robsearch.cluster.running import _work

        with contextlib.suppress(Exception):  # no Tune around it
            ray.get(ray.remote(_work).options(runtime_env=env).remote({"job": tell}))
    seen = (tmp_path / "tell" / "environment").read_text()
    assert "SEEN=yes" in seen
    assert "hidden" not in seen


# --- why a job's process broke down ---

DIED = """The actor died because of an error raised in its creation task, \
\x1b[36mray::ImplicitFunc.__init__()\x1b[39m (pid=1, ip=10.0.0.7, actor_id=09, repr=_work)
  File "a.py", line 1
ModuleNotFoundError: No module named 'pyarrow'

The above exception was the direct cause of the following exception:

ImportError: Can't import ray.tune as some dependencies are missing."""


def test_of_a_process_that_could_not_begin_the_package_and_the_node_are_said():
    said = in_one_line(DIED)
    assert said.startswith("expected the node 10.0.0.7 to import what a trial takes, got No module")
    assert "got No module named 'pyarrow': install it there" in said
    other = DIED.replace("ModuleNotFoundError", "ValueError")
    assert in_one_line(other) == other.splitlines()[0]
    assert in_one_line("ray::x\nValueError: no") == "ValueError: no"


LOST = (
    "The node with node id: bce1bd7a and address: 10.213.7.2 and node name: 10.213.7.2 has been "
    "marked dead because the detector has missed too many heartbeats from it. This can happen when "
    "a \t(1) raylet crashes unexpectedly (OOM, etc.) \n\t(2) raylet has lagging heartbeats due to "
    "slow network or busy workload."
)
ENDED = (
    "Raylet is terminated. Termination is unexpected. Possible reasons include: (1) SIGKILL by the "
    "user or system OOM killer. Last 20 lines of the Raylet logs:\n    [state-dump] \tx - 1 total\n"
)


def test_what_ray_says_of_a_lost_node_is_one_line_without_guesses_and_logs(capsys):
    said = {"lines": [LOST, ENDED], "pid": "raylet", "is_err": False}
    with connection._short_messages():
        worker.print_to_stdstream(said, ignore_prefix=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Ray: The node with node id: bce1bd7a and address: 10.213.7.2 and node name: 10.213.7.2 "
        "has been marked dead because the detector has missed too many heartbeats from it.",
        "Ray: Raylet is terminated. Termination is unexpected.",
    ]


# --- patience ---


@pytest.mark.slow
def test_a_job_that_hangs_is_ended_and_tried_again_while_others_go_on(two_cpus, tmp_path):
    jobs = [
        Job("hung", hangs, None, tmp_path / "hung"),
        *(Job(f"j{i}", steps, (5, 0.1), tmp_path / f"j{i}") for i in range(3)),
    ]
    listed = Listed(jobs)
    cluster.run(listed, tmp_path, max_retries=1, patience_s=2)
    assert listed.ended.pop("hung") in ("no report for 2 s", "no report for 3 s")
    assert listed.ended == dict.fromkeys(["j0", "j1", "j2"])
    assert [len(notes(tmp_path / f"j{i}")) for i in range(3)] == [5, 5, 5]
    pids = [pid for _, pid, *_ in notes(tmp_path / "hung")]
    assert len(set(pids)) == 2
    assert soon(lambda: not any(map(alive, pids)))


@pytest.mark.slow
def test_a_job_that_hung_once_goes_on_where_it_was(two_cpus, tmp_path):
    listed = Listed([Job("once", hangs_once, (3, 0), tmp_path / "once")])
    cluster.run(listed, tmp_path, max_retries=1, patience_s=2)
    assert listed.ended == {"once": None}
    assert [step for step, *_ in notes(tmp_path / "once")] == [0, 1, 2]


@pytest.mark.slow
def test_a_process_of_which_no_thread_runs_is_ended_too(two_cpus, tmp_path):
    listed = Listed([Job("stopped", stops, None, tmp_path / "stopped")])
    cluster.run(listed, tmp_path, max_retries=0, patience_s=2)
    assert listed.ended["stopped"].startswith("no report for")
    assert soon(lambda: not alive(notes(tmp_path / "stopped")[0][1]))


def test_without_patience_and_within_five_of_the_longest_waits_nothing_is_ended(monkeypatch):
    class Trial:
        trial_id, temporary_state = "a", None  # asking for its process would raise

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def after(patience, seconds):
        for _ in range(seconds):
            clock[0] += 1
            patience.on_step_begin(0, [])
        return patience

    never = Watchdog(None)
    never.on_trial_start(0, [], Trial)
    assert after(never, 1000).limit is None
    patience = Watchdog(3)
    patience.on_trial_start(0, [], Trial)
    after(patience, 2).heard(Trial)
    assert patience.limit == 10
    after(patience, 10)
    with pytest.raises(AttributeError):
        after(patience, 1)
    other = Watchdog(3)
    other.on_trial_start(0, [], Trial)
    clock[0] += 1000  # the driver was busy, not the worker
    other.on_step_begin(0, [])
    other.heard(Trial)
    assert other.limit == 5


# --- memory of a GPU ---


def test_a_job_waits_until_its_share_of_the_memory_is_free(monkeypatch):
    naps = []
    monkeypatch.setattr(time, "sleep", naps.append)
    readings = iter([0.1, 0.3, 0.44, 0.46, 0.0])
    assert wait_for_memory(Resources(1, 0.5), lambda: next(readings))
    assert len(naps) == 3
    assert next(readings) == 0.0
    assert wait_for_memory(Resources(1, 2), iter([0.89, 0.91]).__next__)
    assert len(naps) == 4


def test_a_job_waits_for_memory_no_longer_than_it_is_told_and_never_without_a_gpu():
    began = time.monotonic()
    assert not wait_for_memory(Resources(1, 1), lambda: 0.5, seconds=1)
    assert 1 <= time.monotonic() - began < 3
    assert wait_for_memory(Resources(1, 0))  # reads nothing: there is no GPU here


# --- auto ---


def test_auto_is_the_named_cluster_or_the_only_one_and_never_a_guess(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert connection.resolve_address("auto") == "192.0.2.1:6379"
    assert connection.resolve_address("192.0.2.2:6379") == "192.0.2.2:6379"
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # as some set it: no name
    me = psutil.Process()
    own = rf"got none \(h:0 belongs to process {me.pid}, .+\): start one"
    for running, said in (
        ((), "got none: start one"),
        (("h:1", "h:2"), "got h:1, h:2: pass one"),
        (("h:0",), own),
    ):
        found = [
            connection.LocalCluster(at, me if at == "h:0" else None, me.username())
            for at in running
        ]
        monkeypatch.setattr(connection, "local_clusters", lambda found=found: found)
        with pytest.raises(InputError, match=f"expected one Ray that .* --address auto, {said}"):
            connection.resolve_address("auto")
    found = [
        connection.LocalCluster("h:0", me, me.username()),
        connection.LocalCluster("h:1", None, me.username()),
        connection.LocalCluster("h:1", None, me.username()),
        connection.LocalCluster("h:2", None, "somebody"),
    ]
    monkeypatch.setattr(connection, "local_clusters", lambda: found)
    assert connection.resolve_address("auto") == "h:1"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process as another user")
def test_auto_is_never_the_cluster_of_another_user(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    others = subprocess.Popen(
        ["raylet", "-c", "sleep 60; true", "--gcs-address=192.0.2.9:6379"],
        executable="/bin/sh",
        user="nobody",
    )
    running = connection.local_clusters
    try:
        assert connection.user_of("192.0.2.9:6379") == "nobody"
        # Another Ray may run on the machine of these tests.
        monkeypatch.setattr(
            connection,
            "local_clusters",
            lambda: [each for each in running() if each.address == "192.0.2.9:6379"],
        )
        with pytest.raises(InputError, match=r"got none .*192.0.2.9:6379 belongs to user nobody"):
            connection.resolve_address("auto")
    finally:
        others.kill()
        others.wait()


def test_a_ray_that_a_program_started_for_itself_has_that_program_as_its_owner(two_cpus):
    (owner,) = (
        one.owner for one in connection.local_clusters() if one.address == cluster.head_address()
    )
    assert owner.pid == os.getpid()
    with pytest.raises(
        InputError, match=rf"{cluster.head_address()} belongs to process {os.getpid()}, "
    ):
        connection.resolve_address(
            "auto"
        )  # where nobody else's runs here, as on a machine of one's own


# --- a process that is in a cluster already ---


def test_another_address_than_that_of_the_ray_that_is_up_is_refused(two_cpus):
    up, port = cluster.head_address(), cluster.head_address().rpartition(":")[2]
    for same in (None, "auto", up, f"localhost:{port}"):
        with cluster.connected(same, None):
            assert cluster.head_address() == up
    said = (
        "expected the Ray of this process to be the one at --address 192.0.2.1:6379, got "
        f"one at {up}"
    )
    for ask in (
        lambda: cluster.check_address("192.0.2.1:6379"),
        cluster.connected("192.0.2.1:6379", 1).__enter__,
    ):
        with pytest.raises(InputError, match=said):
            ask()


def test_a_cluster_of_several_machines_can_be_joined_after_one_of_this_machine(monkeypatch):
    monkeypatch.delenv(cluster.connection.SWITCH, raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    with cluster.connection._on_loopback():
        assert (os.environ[cluster.connection.SWITCH], ray_constants.ENABLE_RAY_CLUSTER) == (
            "0",
            False,
        )
    assert cluster.connection.SWITCH not in os.environ
    assert ray_constants.ENABLE_RAY_CLUSTER


# --- waiting ---


def test_a_search_that_waits_for_room_says_so_and_can_be_stopped(two_cpus, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "IDLE_SECONDS", 0.3)
    taken = ray.remote(lambda: time.sleep(600)).options(num_cpus=1.5).remote()
    said = []
    listed = Listed([Job("j", steps, (1, 0), tmp_path / "j")])

    def say(line):
        said.append(line)
        listed.stopping = True

    give_up = threading.Timer(
        30, lambda: setattr(listed, "stopping", True)
    )  # where nothing is said
    give_up.start()
    try:
        cluster.run(listed, tmp_path, max_retries=0, say=say)
    finally:
        give_up.cancel()
        ray.cancel(taken, force=True)
    assert said == [
        "waiting for room on the cluster: others take 1.5 of its 2 CPUs, and this needs 1 CPU "
        "on one node"
    ]
    assert not (tmp_path / "j").exists()


@contextlib.contextmanager
def head_that_answers_nothing_else():
    """A server that looks like a cluster's head, and keeps whoever joins it waiting."""

    over = threading.Event()

    class Alive(grpc.GenericRpcHandler):
        def service(self, details):
            def answer(request, context):
                if details.method != connection.FIRST_CALL:
                    over.wait()
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(30), handlers=[Alive()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        over.set()
        server.stop(0)


@pytest.mark.slow
def test_a_term_ends_a_process_that_waits_for_ray_to_connect():
    code = "from robsearch import cluster; import sys; print('begins', flush=True)\n"
    code += "with cluster.connected(sys.argv[1], None): print('joined')"
    with head_that_answers_nothing_else() as port:
        words = [sys.executable, "-c", code, f"127.0.0.1:{port}"]
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as joining:
            assert joining.stdout.readline() == "begins\n"
            time.sleep(3)  # what happens before Ray's own wait ends by a TERM anyway
            joining.terminate()
            assert joining.wait(timeout=5) == 128 + signal.SIGTERM
            assert "ended while Ray was connecting" in joining.stderr.read()


# --- memory ---


class Counting(Listed):
    """Counts the reports that are alive in this process each time a job ends."""

    def gone(self, job, error):
        super().gone(job, error)
        gc.collect()
        self.alive = [
            *getattr(self, "alive", []),
            sum(type(thing) is Report for thing in gc.get_objects()),
        ]


@pytest.mark.slow
def test_a_job_that_ended_leaves_no_report_behind_and_tune_prints_nothing(
    two_cpus, tmp_path, capfd
):
    """And two processes at most do eight jobs, and Ray's own folders of jobs have short names."""
    names = [f"w4-00{n}" for n in range(8)]
    jobs = Counting([Job(name, steps, (3, 0.0), tmp_path / name) for name in names])
    cluster.run(jobs, tmp_path, max_retries=0)
    assert set(jobs.ended.values()) == {None}
    assert set(jobs.reports.values()) == {4}
    assert max(jobs.alive[-4:]) <= max(jobs.alive[:4]) + 2
    assert capfd.readouterr().out == ""
    assert len({notes(tmp_path / name)[0][1] for name in names}) <= 2
    folders = [path.name for path in (tmp_path / "ray").iterdir() if path.is_dir()]
    assert sorted(folder[:7] for folder in folders) == [f"{name}-" for name in names]
    assert all(len(folder) < 40 for folder in folders)


def test_a_job_is_never_copied(tmp_path):
    job = Job("j", steps, (1, 0.0), tmp_path)
    assert copy.deepcopy({"job": job})["job"] is job
