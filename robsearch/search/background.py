"""What a driver's process does every few seconds beside its work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(look: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Calls ``look`` in a thread while the body runs: at once, and then every so many seconds.

    Args:
        look: raises nothing.
        seconds: between the end of a call and the next.
        name: of the thread.
    """
    ended = threading.Event()

    def run() -> None:
        while True:
            look()
            if ended.wait(seconds):
                return

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
