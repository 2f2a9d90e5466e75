"""A study to try things on: in memory, but with a storage that keeps JSON, as a search's own does."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend


def scratch_study(sampler: BaseSampler, *, metrics: int) -> optuna.Study:
    """A new study, which refuses what a search's storage could not keep, and gives back what that would.

    Args:
        sampler: that suggests.
        metrics: how many are maximised.
    """
    storage = JournalStorage(_Lines())
    return optuna.create_study(storage=storage, sampler=sampler, directions=["maximize"] * metrics)


class _Lines(BaseJournalBackend):
    """A journal's lines, in memory."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of them, or nothing."""
        self._lines += [json.dumps(log) for log in logs]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Those from a number on."""
        return [json.loads(line) for line in self._lines[log_number_from:]]
