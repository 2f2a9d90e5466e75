"""What a search may take: hours of its drivers, hours of GPUs. The clock of its drivers is kept in
the storage, and stands still while none is up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from robsearch.search.background import repeated
from robsearch.search.capacity import GRACE_SECONDS
from robsearch.search.driver import Driver
from robsearch.study import Storage

HOUR = 3600.0
LOOK_SECONDS = 1.0
SAVE_SECONDS = 30.0
"""What a driver that is killed was up at most without its being remembered."""
DRIVEN = "driven_seconds"
"""The attribute of the search's own study that has the seconds."""


class DriverClock:
    """How long drivers of a search have been up, over all of them; for the holder of its lease.

    Args:
        storage: of the search.
        search: its name.
    """

    def __init__(self, storage: Storage, search: str) -> None:
        self._storage = storage
        self._study = storage.get_study_id_from_name(search)
        self._before = driven_seconds(storage, search)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Those of earlier drivers, and of this one so far."""
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        """Remembers them; a storage that is away for a while does so later."""
        with contextlib.suppress(Exception):
            self._storage.set_study_user_attr(self._study, DRIVEN, self.seconds)


def driven_seconds(storage: Storage, search: str) -> float:
    """How long drivers of a search have been up, as far as it is remembered."""
    study = storage.get_study_id_from_name(search)
    return float(storage.get_study_user_attrs(study).get(DRIVEN, 0.0))


class UsedUpBudget(NamedTuple):
    """A budget of a search that is used up.

    Attributes:
        name: of the option, as in ``RunOptions``.
        hours: that the search was given.
        more: hours that would go on.
    """

    name: str
    hours: float
    more: float

    @property
    def text(self) -> str:
        """In words."""
        return f"its {_option(self.name)} {self.hours:g} are used up"

    @property
    def extension(self) -> str:
        """The option of the command line that goes on."""
        return f"{_option(self.name)} {self.more:.3g}"


def used_up(
    budgets: Mapping[str, float], seconds: float, gpu_seconds: float
) -> UsedUpBudget | None:
    """Which budget of a search is used up, if any.

    Args:
        budgets: in hours (``SearchRecord.budgets``).
        seconds: that drivers were up.
        gpu_seconds: of all trials.
    """
    spent = {"max_hours": seconds / HOUR, "max_gpu_hours": gpu_seconds / HOUR}
    for name, hours in spent.items():
        if name in budgets and hours >= budgets[name]:
            return UsedUpBudget(name, budgets[name], max(2 * budgets[name], hours + 1))
    return None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def trial_seconds(budgets: Mapping[str, float]) -> float | None:
    """What the epochs of one training may take; None without a limit."""
    hours = budgets.get("trial_max_hours")
    return None if hours is None else hours * HOUR


@contextlib.contextmanager
def within_budgets(
    driver: Driver, clock: DriverClock, budgets: Mapping[str, float]
) -> Iterator[None]:
    """Keeps the clock while the body runs, and has the driver stop when a budget is used up.

    Args:
        driver: of the search.
        clock: of its drivers.
        budgets: in hours.
    """
    saved = [time.monotonic()]

    def look() -> None:
        if time.monotonic() - saved[0] >= SAVE_SECONDS and driver.lost is None:
            clock.save()
            saved[0] = time.monotonic()
        used = used_up(budgets, clock.seconds, driver.gpu_seconds)
        if used and not driver.extension:
            driver.extension = used.extension
            driver.problem = used.text
            driver.say(f"stopping: {driver.problem}")
            driver.drain(GRACE_SECONDS)

    with repeated(look, LOOK_SECONDS, "budgets"):
        yield
    if driver.lost is None:
        clock.save()
