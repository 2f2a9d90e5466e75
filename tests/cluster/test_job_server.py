"""A search that is sent to a cluster's job server, and looked at and ended from where it was
sent."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import typer
from command_processes import wait_until

from robsearch import InputError
from robsearch.cli import app
from robsearch.cli.submitting import words_of
from robsearch.cluster.job_server import JobServer, _Output
from robsearch.spaces import local_code
from robsearch.spaces.local_code import copy_code

NETS = "WIDTHS = (4.0,)\n"
SPACE = '''
import time

import optuna

from job_nets.widths import WIDTHS
from robsearch import MLP, PGD, SGD, TRADES, Digits, Fixed, Recipe, space


class Slow(TRADES):
    """Each step takes a tenth of a second."""

    def terms(self, clean_logits, adv_logits, y):
        time.sleep(0.1)
        return super().terms(clean_logits, adv_logits, y)


@space(widths=WIDTHS)
def slow(trial: optuna.Trial, width: float) -> Recipe:
    return Recipe(
        model=MLP(width=width),
        data=Digits(train=100),
        attack=PGD(eps=0.1, step_size=0.05, steps=1, start="gaussian"),
        objective=Slow(),
        lam=Fixed(trial.suggest_float("lam", 0.5, 8.0, log=True)),
        optimiser=SGD(lr=0.05),
        epochs=1000,
        batch_size=50,
    )
'''


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    """A folder with a space, and a package that it imports; the current one."""
    folder = tmp_path / "laptop"
    (folder / "job_nets").mkdir(parents=True)
    (folder / "job_nets" / "__init__.py").touch()
    (folder / "job_nets" / "widths.py").write_text(NETS)
    (folder / "job_nets" / "later.txt").write_text("read when a trial begins")
    (folder / "job_nets" / ".secret").write_text("a token")
    (folder / "job_space.py").write_text(SPACE)
    (folder / "notes.py").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("job_")]:
        del sys.modules[name]


# --- what is sent ---


def test_the_module_of_a_space_is_sent_with_the_packages_that_it_imports(laptop, tmp_path):
    sent = copy_code("job_space:slow", tmp_path / "sent")
    package = ["job_nets/__init__.py", "job_nets/later.txt", "job_nets/widths.py"]
    assert sorted(sent) == [*package, "job_space.py"]
    assert (tmp_path / "sent" / "job_nets" / "widths.py").read_text() == NETS


def test_what_is_larger_than_code_is_not_sent(laptop, tmp_path, monkeypatch):
    monkeypatch.setattr(local_code, "MOST_BYTES", 2**20)
    (laptop / "job_nets" / "weights.pt").write_bytes(bytes(3 * 2**20))
    with pytest.raises(
        InputError, match=r"at most 1 MiB .* got 3 MiB, of which .*weights.pt has 3"
    ):
        copy_code("job_space:slow", tmp_path / "sent")


def words(*arguments):
    """As a job is given them."""
    command = typer.main.get_command(app)
    context = command.make_context("robsearch", list(arguments), resilient_parsing=False)
    name, inner, rest = command.resolve_command(context, list(arguments))
    return words_of(inner.make_context(name, rest, parent=context))


def test_a_job_is_given_the_words_of_the_command_line_and_nothing_of_this_machine(monkeypatch):
    monkeypatch.setenv("ROBSEARCH_RESULTS", "/here")
    url = "--address=https://head:8265"
    assert words("launch", "m:s", "--name", "a b", "--trials", "3", "--or-resume", url) == [
        "launch",
        "m:s",
        "--name=a b",
        "--trials=3",
        "--or-resume",
    ]
    assert words("status", "a b", "--json", url) == ["status", "a b", "--json"]
    with pytest.raises(InputError, match=r"without a password, got --storage=postgresql://h/db:"):
        words("launch", "m:s", "--storage", "postgresql://me:hidden@h/db", url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "http://192.0.2.1:8265",
            "expected --address https://HOST:PORT, or http:// on this machine",
        ),
        ("http://127.0.0.1:1", "answers at --address http://127.0.0.1:1, got .*refused"),
    ],
)
def test_a_job_server_is_asked_over_a_safe_line_and_must_answer(url, said):
    with pytest.raises(InputError, match=said):
        JobServer(url)


def test_what_a_command_prints_is_passed_on_once_without_rays_lines():
    pieces = []
    output = _Output(pieces.append)
    head = "2026 INFO job_manager.py -- set up\nRunning entrypoint for job raysubmit_1: cd\n"
    output.add(head[:10])
    output.add(head[10:] + "abc")
    # The stream ended, and begins anew.
    output.restart()
    output.add(head + "ab")
    output.add("cdef")
    output.end()
    assert "".join(pieces) == "abcdef"
    failed = _Output(pieces.append)
    failed.add("no room")
    failed.end()
    assert pieces[-1] == "no room"


# --- a whole search ---


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(tmp_path):
    """The head of a cluster with a token and a job server on loopback: its URL, and the environment
    of whoever knows the token."""
    # Sockets lie below: their paths are short.
    temporary = Path("/tmp") / f"rj{os.getpid()}"
    temporary.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    knows = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_TMPDIR": str(temporary),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    knows.pop("ROBSEARCH_RESULTS", None)
    port, agent, client = free_port(), free_port(), free_port()
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    subprocess.run(
        [*ray, "get-auth-token", "--generate"], env=knows, check=True, capture_output=True
    )
    start = [
        "start",
        "--head",
        "--port=0",
        "--num-cpus=1",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=true",
        f"--dashboard-port={port}",
        f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}",
        "--block",
    ]
    process = subprocess.Popen(
        [*ray, *start],
        # Its jobs begin in its home, and keep their results where it says.
        env={**knows, "ROBSEARCH_RESULTS": str(home / "results")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(url), process)
    yield url, knows
    process.terminate()
    process.wait(timeout=60)
    shutil.rmtree(temporary, ignore_errors=True)


def answers(url):
    """Whether a server is there, which asks for a token."""
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def begun(environment, *arguments):
    code = "from robsearch.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done(environment, *arguments):
    process = begun(environment, *arguments)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    return printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_is_sent_looked_at_ended_and_shown_from_another_folder(head, laptop):
    url, environment = head
    stranger = {**environment, "RAY_AUTH_MODE": "disabled"}
    refused = begun(stranger, "status", "s", "--address", url)
    assert "set RAY_AUTH_MODE=token" in refused.communicate(timeout=300)[0]
    assert refused.returncode == 2

    asked = ("launch", "job_space:slow", "--name", "s", "--trials", "1", "--address", url)
    launch = begun(environment, *asked, "--follow")

    def runs():
        state = begun(environment, "status", "s", "--json", "--address", url)
        printed = state.communicate(timeout=300)[0]
        return state.returncode == 0 and json.loads(printed)["rows"][0]["states"]["RUNNING"] == 1

    wait_until(runs, launch)
    assert "stopped" in done(environment, "stop", "s", "--address", url)
    followed = launch.communicate(timeout=300)[0]
    assert launch.returncode == 130, followed
    assert "sending job_nets/__init__.py, job_nets/later.txt, job_nets/widths.py, job_space.py" in (
        followed
    )
    assert "w4-000" in followed
    assert "INFO" not in followed
    assert done(environment, "report", "s", "--address", url) == "report: s-report.html\n"
    page = Path("s-report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "w4-000" in page
