"""Ending a search from another process."""

from __future__ import annotations

import time
from collections.abc import Callable

from robsearch.search.commands.status import hint_of_life
from robsearch.search.options import RunOptions
from robsearch.study import LeaseWatch, ask_to_stop, owner_text

POLL_SECONDS = 0.5


def stop(name: str, options: RunOptions, say: Callable[[str], None] = print) -> None:
    """Asks the driver of a search to stop as Ctrl-C would, and waits until it has.

    Running trainings are interrupted and go on from their last checkpoints when the search is
    resumed. A driver on another machine may be dead: it is asked all the same, and its lease is
    watched while this waits, which ends once that has rested for 60 seconds.

    Args:
        name: of the search.
        options: where it is kept.
        say: prints one line.

    Raises:
        InputError: there is no such search, or nobody drives it.
    """
    storage, _ = options.store.search(name)
    started = time.monotonic()
    watch = LeaseWatch(storage, name)
    owner = ask_to_stop(storage, name, options.store.command("status", name))
    say(f"asked the driver {owner_text(owner)} to stop {name}; waiting for it")
    if owner["alive"] is None:
        say(f"{hint_of_life(owner)}; this waits while it renews its lease")
    while not (watch.free or watch.superseded):
        time.sleep(POLL_SECONDS)
        watch.look()
    go_on = options.store.command("resume", name)
    seconds = time.monotonic() - started
    if watch.expired:
        rest = f"the driver {owner_text(owner)} has not renewed its lease for {watch.rested:.0f} s"
        say(f"{rest}, and holds {name} no longer; go on with: {go_on}")
    else:
        say(f"stopped after {seconds:.0f} s; go on with: {go_on}")
