"""A search's weights on disk, kept within a budget."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from robsearch.checkpoints import drop_weights
from robsearch.disk import best_of_each_width, to_drop, weights
from robsearch.memory import GIB
from robsearch.selection import Order


class Shelf:
    """Where the trials' weights lie, and whose go first when they take too much: failed ones, then the worst.

    Histories and measures stay; a trial without weights cannot be evaluated or trained further.

    Args:
        folder: of the trials' folders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.budget: float | None = None
        self._orders: dict[str, Order] = {}
        self._widths: dict[str, float] = {}

    def finished(self, trial: str, width: float, order: Order) -> None:
        """A trial ended as good as this."""
        self._orders[trial], self._widths[trial] = order, width

    def tidy(self, busy: Collection[str]) -> list[str]:
        """Drops weights until the rest is within the budget; returns whose.

        Args:
            busy: trials being trained or not yet measured, which are left alone.
        """
        if self.budget is None or not self.folder.exists():
            return []
        sizes, worst_first = weights(self.folder), sorted(self._orders, key=lambda trial: self._orders[trial])
        order = [trial for trial in sizes if trial not in self._orders]  # failed ones: nothing is done with them
        order += [trial for trial in worst_first if trial in sizes]
        keep = {*busy, *best_of_each_width(self._orders, self._widths, 1)}
        dropped = to_drop({trial: sizes[trial] for trial in order}, keep, int(self.budget * GIB))
        for trial in dropped:
            drop_weights(self.folder / trial)
        return dropped
