"""Ending a search from another process."""

from __future__ import annotations

import time
from collections.abc import Callable

from robsearch.search.options import RunOptions
from robsearch.study import ask_to_stop, living_owner

POLL_SECONDS = 0.5


def stop(name: str, options: RunOptions, say: Callable[[str], None] = print) -> None:
    """Asks the driver of a search to stop as Ctrl-C would, and waits until it has.

    Running trainings are interrupted and go on from their last checkpoints when the search is
    resumed.

    Args:
        name: of the search.
        options: where it is kept.
        say: prints one line.

    Raises:
        InputError: there is no such search, or nobody drives it.
    """
    storage, _ = options.store.search(name)
    started = time.monotonic()
    owner = ask_to_stop(storage, name, options.store.command("status", name))
    driver = f"the driver on {owner['host']}, process {owner['pid']}"
    say(f"asked {driver}, to stop {name}; waiting for it")
    while True:
        driving = living_owner(storage, name)
        # Another one may have taken over meanwhile.
        if driving is None or any(driving[key] != owner[key] for key in ("host", "pid")):
            break
        time.sleep(POLL_SECONDS)
    go_on = options.store.command("resume", name)
    say(f"stopped after {time.monotonic() - started:.0f} s; go on with: {go_on}")
