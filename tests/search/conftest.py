import pytest
import shared_ray
from rich.console import Console
from small_spaces import pair

import robsearch
from robsearch import RunOptions
from robsearch.search.result import Search


@pytest.fixture(scope="session")
def pair_options(tmp_path_factory: pytest.TempPathFactory) -> RunOptions:
    """Where ``pair_search`` is."""
    return RunOptions(results=tmp_path_factory.mktemp("pair"), parallel=2)


@pytest.fixture(scope="session")
def pair_search(pair_options: RunOptions) -> Search:
    """A search that has ended, for all that is done with one afterwards."""
    shared_ray.start()
    return robsearch.launch(
        pair, name="pair", trials=4, options=pair_options, console=Console(quiet=True)
    )
