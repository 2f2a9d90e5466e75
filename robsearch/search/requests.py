"""What another process asks of the one that drives a search, beside to stop: it is written into the
storage, and the driver looks there every few seconds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from robsearch.search.driver import Driver
from robsearch.study import Storage, asked_to_end, dropped_trials

LOOK_SECONDS = 3.0


@contextlib.contextmanager
def hearing_requests(driver: Driver, storage: Storage, search: str) -> Iterator[None]:
    """Has the driver know, while the body runs, which trials it is asked to end, and which a person
    has dropped."""
    ended = threading.Event()

    def look() -> None:
        while True:
            # A storage that is away for a while must not end this thread.
            with contextlib.suppress(Exception):
                driver.to_end = asked_to_end(storage, search)
                driver.dropped = dropped_trials(storage, search)
            if ended.wait(LOOK_SECONDS):
                return

    thread = threading.Thread(target=look, name="requests", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
