"""What trials cost. Whatever shows, records or decides by a cost takes it from here.

Seconds are those of the epochs: training, and judging on ``val``. An epoch that several attempts
did counts once. GPU seconds are those of epochs and of measuring times the GPUs that were held: a
GPU that two trials share counts half for each, two ranks count two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from robsearch.metrics import (
    EPOCH_GPU_SECONDS,
    EPOCH_SECONDS,
    MEASURE_GPU_SECONDS,
    MEASURE_SECONDS,
    Metrics,
)

COLUMNS = ("seconds", "gpu_seconds", MEASURE_SECONDS, "failed_seconds")
"""Of ``Search.trials``, in the order of the fields of ``Cost``."""
# A dict, so that ``hold_gpus`` changes what all modules see.
_process = {"gpus": 1.0}


class Cost(NamedTuple):
    """What one trial took, or several.

    Attributes:
        seconds: of the epochs.
        gpu_seconds: of epochs and measuring, times the GPUs held; 0 without one.
        measure_seconds: of measuring on ``test``.
        failed_seconds: of trials that failed: their epochs, and what came after the last of these.
    """

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    measure_seconds: float = 0.0
    failed_seconds: float = 0.0

    @property
    def metrics(self) -> Metrics:
        """As MLflow has them, without those that are 0."""
        names = (
            "time/trained_seconds",
            "time/total_gpu_seconds",
            MEASURE_SECONDS,
            "time/failed_seconds",
        )
        return {name: value for name, value in zip(names, self, strict=True) if value}


def total(costs: Iterable[Cost]) -> Cost:
    """The sum."""
    # With a cost of nothing, so that there is a sum of none.
    fields = zip(Cost(), *costs, strict=True)
    return Cost(*map(sum, fields))


def cost_of(
    history: Sequence[Metrics],
    test: Metrics,
    facts: Mapping[str, Any],
) -> Cost:
    """What one trial took.

    Args:
        history: its epochs.
        test: the averages over ``test``; empty before it is measured.
        facts: what the storage remembers of the training. Where the history was damaged, these
            stand in for it.
    """
    seconds = _sum(history, EPOCH_SECONDS)
    gpu_seconds = _sum(history, EPOCH_GPU_SECONDS)
    if facts.get("epochs", 0) > len(history):
        seconds = facts["seconds"]
        gpu_seconds = facts.get("gpu_seconds", 0.0)
    gpu_seconds += facts.get("lost_gpu_seconds", 0.0)
    failed = 0.0
    if facts.get("state") == "FAIL":
        failed = seconds + facts.get("lost_seconds", 0.0)
    training = Cost(seconds, gpu_seconds, failed_seconds=failed)
    return total([training, measuring(test)])


def measuring(test: Metrics) -> Cost:
    """What it took to measure a trial on ``test``, by the averages that came of it."""
    return Cost(
        gpu_seconds=test.get(MEASURE_GPU_SECONDS, 0.0),
        measure_seconds=test.get(MEASURE_SECONDS, 0.0),
    )


def measuring_cost(seconds: float, on_gpu: bool) -> Metrics:
    """The same as a trial writes it down, in the process that measured it."""
    costs = {MEASURE_SECONDS: seconds}
    if on_gpu:
        costs[MEASURE_GPU_SECONDS] = gpu_seconds(seconds)
    return costs


def hold_gpus(gpus: float) -> None:
    """Says how much of a GPU, at most one, this process holds from now on."""
    _process["gpus"] = gpus


def held_gpus() -> float:
    """How much of a GPU, at most one, this process holds."""
    return _process["gpus"]


def gpu_seconds(seconds: float, processes: int = 1) -> float:
    """Seconds of several processes that hold as much of a GPU as this one."""
    return seconds * _process["gpus"] * processes


def _sum(entries: Iterable[Metrics], name: str) -> float:
    return sum(entry.get(name, 0.0) for entry in entries)
