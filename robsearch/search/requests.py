"""What another process asks of the one that drives a search, beside to stop: it is written into the
storage, and the driver looks there every few seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from robsearch.search.background import repeated
from robsearch.search.driver import Driver
from robsearch.study import Storage, asked_to_end, dropped_trials

LOOK_SECONDS = 3.0


@contextlib.contextmanager
def hearing_requests(driver: Driver, storage: Storage, search: str) -> Iterator[None]:
    """Has the driver know, while the body runs, which trials it is asked to end, and which a person
    has dropped."""

    def look() -> None:
        # A storage that is away for a while must not end the thread.
        with contextlib.suppress(Exception):
            driver.to_end = asked_to_end(storage, search)
            driver.dropped = dropped_trials(storage, search)

    with repeated(look, LOOK_SECONDS, "requests"):
        yield
