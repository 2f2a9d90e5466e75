"""Waits until a GPU's memory is free again: a process that was killed a moment ago may still hold it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from robsearch.resources import Resources

WAIT_SECONDS = 30
PAUSE_SECONDS = 0.5
ENOUGH = 0.9
"""Of a job's share of the GPU's memory: the driver and the contexts of other processes take some."""


def free_share() -> float:
    """The least part of a visible GPU's memory, 0 to 1, that is free or that this process holds without using it."""
    torch.cuda.empty_cache()
    return min(_free(device) for device in range(torch.cuda.device_count()))


def wait_for_memory(
    resources: Resources,
    free: Callable[[], float] = free_share,
    seconds: float = WAIT_SECONDS,
) -> bool:
    """Waits until a job's share of its GPU's memory is free; on a CPU returns at once.

    Args:
        resources: of the job; of a whole GPU or several, all memory is its share.
        free: reads the part, 0 to 1, that is free.
        seconds: to wait at most.

    Returns:
        Whether it is free. If not, the job is started all the same: others may hold the memory for good.
    """
    if not resources.gpus:
        return True
    enough, end = ENOUGH * min(1.0, resources.gpus), time.monotonic() + seconds
    while free() < enough:
        if time.monotonic() >= end:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def _free(device: int) -> float:
    free, all_there_is = torch.cuda.mem_get_info(device)
    return float((free + torch.cuda.memory_reserved(device)) / all_there_is)
