"""What the search spaces that users copy ask of their user."""

from __future__ import annotations

from pathlib import Path

import pytest

from robsearch import InputError
from robsearch.search import ResultsStore
from robsearch.study import SearchRecord, open_storage
from search_spaces.war import target


def test_war_says_that_the_thin_search_must_have_finished_a_trial(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path / "thin")
    SearchRecord("thin", "search_spaces.war:thin", (16.0,), 0, 10, "", {}).create(storage)
    with (
        ResultsStore(tmp_path).current(),
        pytest.raises(InputError, match="a finished trial of width 16 in thin, got none: run"),
    ):
        target()
