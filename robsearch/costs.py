"""What trials cost. Whatever shows, records or decides by a cost takes it from here.

Seconds are those of the epochs: training, and judging on ``val``. An epoch that several attempts did counts once. GPU
seconds are those of epochs and of measuring times the GPUs that were held: a GPU that two trials share counts half
for each, two ranks count two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from robsearch.protocols import Metrics

EPOCH, EPOCH_GPU = "time/epoch_seconds", "time/gpu_seconds"
MEASURE, MEASURE_GPU = "time/measure_seconds", "time/measure_gpu_seconds"
COLUMNS = ("seconds", "gpu_seconds", MEASURE, "failed_seconds")
"""Of ``Search.trials``, in the order of the fields of ``Cost``."""
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
        names = ("time/trained_seconds", "time/total_gpu_seconds", MEASURE, "time/failed_seconds")
        return {name: value for name, value in zip(names, self, strict=True) if value}


def total(costs: Iterable[Cost]) -> Cost:
    """The sum."""
    return Cost(*map(sum, zip(Cost(), *costs, strict=True)))


def cost_of(history: Sequence[Metrics], test: Metrics, facts: Mapping[str, Any]) -> Cost:
    """What one trial took.

    Args:
        history: its epochs.
        test: the averages over ``test``; empty before it is measured.
        facts: what the storage remembers of the training. Where the history was damaged, these stand in for it.
    """
    seconds, gpu_seconds = _sum(history, EPOCH), _sum(history, EPOCH_GPU)
    if facts.get("epochs", 0) > len(history):
        seconds, gpu_seconds = facts["seconds"], facts.get("gpu_seconds", 0.0)
    lost, lost_gpu = facts.get("lost_seconds", 0.0), facts.get("lost_gpu_seconds", 0.0)
    failed = seconds + lost if facts.get("state") == "FAIL" else 0.0
    return total([Cost(seconds, gpu_seconds + lost_gpu, 0.0, failed), measuring(test)])


def measuring(test: Metrics) -> Cost:
    """What it took to measure a trial on ``test``, by the averages that came of it."""
    return Cost(gpu_seconds=_sum([test], MEASURE_GPU), measure_seconds=_sum([test], MEASURE))


def measured_for(seconds: float, on_gpu: bool) -> Metrics:
    """The same as a trial writes it down, in the process that measured it."""
    return {MEASURE: seconds, MEASURE_GPU: gpu_seconds(seconds)} if on_gpu else {MEASURE: seconds}


def hold_gpus(gpus: float) -> None:
    """Says how much of a GPU, at most one, this process holds from now on."""
    _process["gpus"] = gpus


def gpu_seconds(seconds: float, processes: int = 1) -> float:
    """Seconds of several processes that hold as much of a GPU as this one."""
    return seconds * _process["gpus"] * processes


def _sum(entries: Iterable[Metrics], name: str) -> float:
    return sum(entry.get(name, 0.0) for entry in entries)
