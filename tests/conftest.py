"""The environment of every test, set before anything imports Ray or MLflow, and inherited by what
tests start."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import full_disks
import jaxtyping
import pytest
import shared_ray
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["ROBSEARCH_CACHE"] = tempfile.mkdtemp(
    prefix="robsearch-tests-"
)  # not the developer's own
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # small tensors: more threads only wait for each other


def pytest_collection_finish() -> None:
    """What was imported stays: collectors need not walk through it again and again."""
    gc.collect()
    gc.freeze()


MODULE = pytest.StashKey[Path]()
"""Of the last test."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Function) -> None:
    """A module whose first test does not ask for the shared Ray finds none."""
    first = item.session.stash.get(MODULE, None) != item.path
    item.session.stash[MODULE] = item.path
    if first and "two_cpus" not in item.fixturenames:
        shared_ray.end()


@pytest.fixture(scope="module")
def two_cpus() -> None:
    """A local Ray with two CPUs: one for all modules that ask for it one after another."""
    shared_ray.start()


def pytest_unconfigure() -> None:
    shared_ray.end()
    shutil.rmtree(os.environ["ROBSEARCH_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real images, laid out as torchvision does."""
    root = os.environ.get("ROBSEARCH_DATA")
    if not root:
        pytest.skip("ROBSEARCH_DATA names no folder with the real images")
    return Path(root)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users run it: without the test run's type checks, which would refuse a bad value first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def tiny(tmp_path):
    """A disk of 256 KiB."""
    with full_disks.disk_of("256k", tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def empty_database() -> Path:
    """MLflow takes seconds to make one, so they are copies of this."""
    import mlflow_stores

    return mlflow_stores.empty_database()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Of an MLflow database in the test's folder."""
    from mlflow_stores import new_store

    return new_store(tmp_path)
