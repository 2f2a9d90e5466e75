"""Which environment variables reach the processes that train: none whose value is a secret."""

from __future__ import annotations

import contextlib
import os
import random
import string
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from command_processes import end_all, started

from robsearch.errors import InputError
from robsearch.trials.child.client import in_child
from robsearch.trials.child.server import Limits
from robsearch.trials.paths import without_password
from robsearch.trials.provenance import output_of
from robsearch.trials.variables import PASSED, keep_needed, needed_environment, passing


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_URL",
        "PGPASSWORD",
        "db_pass",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "ROBSEARCH_STORAGE",
        "MLFLOW_TRACKING_URI",
        "MY_RAY_AUTH_TOKEN",
        "Q7",
    ],
)
def test_a_variable_that_nobody_named_stays_behind(monkeypatch, name) -> None:
    monkeypatch.setenv(name, "hidden")
    assert name not in needed_environment()
    with passing([name]):
        assert needed_environment()[name] == "hidden"
    assert name not in needed_environment()


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "LD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "RAY_AUTH_TOKEN",
        "PYTHONPATH",
        "ROBSEARCH_DATA",
        "NCCL_SOCKET_IFNAME",
        "LOCAL_RANK",
        "LC_ALL",
    ],
)
def test_what_python_ray_and_cuda_need_goes_with_them(monkeypatch, name) -> None:
    monkeypatch.setenv(name, "seen")
    assert needed_environment()[name] == "seen"


@pytest.mark.parametrize("name", ["ROBSEARCH_DATA", "HTTPS_PROXY", "https_proxy"])
def test_a_password_in_a_url_stays_behind_whatever_the_name(monkeypatch, name) -> None:
    monkeypatch.setenv(name, "http://host:3128")
    assert name in needed_environment()
    monkeypatch.setenv(name, "http://me:hidden@host:3128")
    assert name not in needed_environment()
    with passing([name]):
        assert needed_environment()[name].startswith("http://me")


def test_names_are_handed_on_by_name_and_the_environment_is_as_before(monkeypatch) -> None:
    monkeypatch.setenv("FIRST", "1")
    monkeypatch.setenv("SECOND", "2")
    monkeypatch.setenv(PASSED, "FIRST")
    with passing(["SECOND"]):
        assert os.environ[PASSED] == "FIRST,SECOND"
        assert {"FIRST", "SECOND"} <= needed_environment().keys()
    assert os.environ[PASSED] == "FIRST"


def test_a_name_that_is_none_and_one_that_is_not_set_are_refused_at_once() -> None:
    with pytest.raises(InputError) as refused, passing(["A=1", "NOT_THERE", "PATH"]):
        pass
    first, second = refused.value.problems
    assert "'A=1'" in first
    assert "NOT_THERE" in second


def test_a_worker_forgets_what_it_does_not_need(monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ, Q7="hidden"))
    keep_needed()
    assert "Q7" not in os.environ
    assert "PATH" in os.environ


def environment_of(task: object) -> dict[str, str]:
    return dict(os.environ)


def test_a_child_that_tries_recipes_sees_no_more_than_a_worker(monkeypatch) -> None:
    monkeypatch.setenv("Q7", "hidden")
    monkeypatch.setenv("R8", "named")
    with passing(["R8"]):
        (seen,) = in_child(environment_of, [None], Limits(seconds=30.0, gib=2.0))
    assert "Q7" not in seen
    assert seen["R8"] == "named"


def test_a_program_that_is_asked_sees_no_more_than_a_worker(monkeypatch) -> None:
    """As git and nvidia-smi are."""
    monkeypatch.setenv("Q7", "hidden")
    monkeypatch.setenv("R8", "named")
    words = (sys.executable, "-c", "import os; print(os.environ.get('Q7'), os.environ.get('R8'))")
    with passing(["R8"]):
        assert output_of(*words) == "None named"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://host/db?user=me&password=x", "postgresql://host/db?user=me"),
        ("http://host/x?token=x&y=1", "http://host/x?y=1"),
        ("no answer from https://a:x@host/y?api_key=x now", "no answer from https://host/y now"),
        ("https://s3/k?X-Amz-Signature=x&X-Amz-Credential=x&v=2", "https://s3/k?v=2"),
        ("postgresql://host/db?sslkey=/etc/key.pem", "postgresql://host/db?sslkey=/etc/key.pem"),
        ("is it there? a=1", "is it there? a=1"),
    ],
)
def test_a_urls_parameters_are_without_secrets(url, shown) -> None:
    assert without_password(url) == shown


# --- a whole search ---


def made_up(number: int) -> dict[str, str]:
    """Secrets under names of any shape, in values of any shape."""
    rng = random.Random(7)
    letters = string.ascii_letters + string.digits
    shapes = ("{}", "postgresql://me:{}@db/x", "http://proxy?token={}", "-----{}-----", "Bearer {}")
    names = ["DATABASE_URL", "PGPASSWORD", "https_proxy", "AWS_SESSION_TOKEN"]
    names += [
        "".join(rng.choices(string.ascii_letters + "_", k=rng.randint(3, 12)))
        for _ in range(number - len(names))
    ]
    values = ["".join(rng.choices(letters, k=24)) for _ in names]
    return {
        name: shapes[place % len(shapes)].format(value)
        for place, (name, value) in enumerate(zip(names, values, strict=True))
    }


def needles(secrets: dict[str, str]) -> list[bytes]:
    """What is looked for: the 24 letters inside of each value."""
    found = []
    for value in secrets.values():
        words = "".join(each if each.isalnum() else " " for each in value).split()
        found.append(max(words, key=len).encode())
    return found


FOR_MOMENTS = ("ldconfig", "fc-list", "uname")
"""Programs of the machine that torch, matplotlib and Python start in the driver, with its
environment, and that end after some milliseconds."""


def exposed(process: psutil.Process) -> Iterator[tuple[str, bytes]]:
    """The command of each process below one, with its environment and its command line.

    A process that was forked and has not begun its program yet is still the driver itself.
    """
    own = command_of(process)
    for below in process.children(recursive=True):
        words = command_of(below)
        if words in ([], own) or Path(words[0]).name in FOR_MOMENTS:
            continue
        for name in ("environ", "cmdline"):
            with contextlib.suppress(OSError):
                yield " ".join(words)[:200], Path(f"/proc/{below.pid}/{name}").read_bytes()


def command_of(process: psutil.Process) -> list[str]:
    """Empty once it has ended."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_secret_of_the_driver_is_found_anywhere(monkeypatch, tmp_path_factory) -> None:
    """Twelve of them, looked for in every process below the driver, in the results, in Ray's logs
    and in what is printed."""
    results = tmp_path_factory.mktemp("results")
    rays = tmp_path_factory.mktemp("r")
    secrets = made_up(12)
    assert len(secrets) == 12
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    # Ray's sockets take a short path.
    short = Path("/tmp") / f"rs-{os.getpid()}"
    short.symlink_to(rays)
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    # With a token, as a user's Ray has one.
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("RAY_AUTH_MODE")
    wanted = needles(secrets)
    hits = set()
    words = ("launch", "small_spaces:pair", "--trials", "2", "--name", "s", "--parallel", "1")
    process = started(results, *words)
    try:
        driver = psutil.Process(process.pid)
        seen = 0
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for command, text in exposed(driver):
                    seen += 1
                    hits |= {(command, needle) for needle in wanted if needle in text}
            time.sleep(0.2)
        output = process.stdout.read()
        assert process.returncode == 0, output
        assert seen > 20
        files = [path for root in (results, rays) for path in root.rglob("*") if path.is_file()]
        assert any("raylet" in path.name for path in files)
        assert any(path.name == "mlflow.db" for path in files)
        for path in files:
            content = path.read_bytes()
            hits |= {(str(path), needle) for needle in wanted if needle in content}
        hits |= {("what was printed", needle) for needle in wanted if needle in output.encode()}
        assert hits == set()
        assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    finally:
        end_all()
        short.unlink()
