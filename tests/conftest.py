"""The environment of every test, set before anything imports Ray or MLflow, and inherited by what tests start."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["ROBSEARCH_CACHE"] = tempfile.mkdtemp(prefix="robsearch-tests-")  # not the developer's own
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: more threads only wait for each other


def pytest_unconfigure() -> None:
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
