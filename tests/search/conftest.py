from collections.abc import Iterator

import command_processes
import pytest
import shared_ray
from mlflow_stores import new_store
from rich.console import Console
from small_spaces import pair

import robsearch
from robsearch import RunOptions
from robsearch.search.result import Search


@pytest.fixture(autouse=True)
def commands_end() -> Iterator[None]:
    """A test that fails leaves no search running."""
    yield
    command_processes.end_all()


@pytest.fixture(scope="session")
def pair_options(tmp_path_factory: pytest.TempPathFactory) -> RunOptions:
    """Where ``pair_search`` is."""
    results = tmp_path_factory.mktemp("pair")
    new_store(results)
    return RunOptions(results=results, parallel=2)


@pytest.fixture(scope="session")
def pair_search(pair_options: RunOptions) -> Search:
    """A search that has ended, for all that is done with one afterwards."""
    shared_ray.start()
    return robsearch.launch(
        pair, name="pair", trials=4, options=pair_options, console=Console(quiet=True)
    )
