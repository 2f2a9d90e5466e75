"""Ending a search from another process."""

from __future__ import annotations

import time
from collections.abc import Callable

from robsearch.search.workplace import Means
from robsearch.study import ask_to_stop, living_owner

POLL_SECONDS = 0.5


def stop(name: str, means: Means, say: Callable[[str], None] = print) -> None:
    """Asks the driver of a search to stop as Ctrl-C would, and waits until it has.

    Running trainings are interrupted and go on from their last checkpoints when the search is resumed.

    Args:
        name: of the search.
        means: where it is kept.
        say: prints one line.

    Raises:
        InputError: there is no such search, or nobody drives it.
    """
    storage, _ = means.place.search(name)
    started, owner = time.monotonic(), ask_to_stop(storage, name, means.place.command("status", name))
    say(f"asked the driver on {owner['host']}, process {owner['pid']}, to stop {name}; waiting for it")
    while (now := living_owner(storage, name)) and (now["host"], now["pid"]) == (owner["host"], owner["pid"]):
        time.sleep(POLL_SECONDS)
    go_on = means.place.command("resume", name)
    say(f"stopped after {time.monotonic() - started:.0f} s; go on with: {go_on}")
