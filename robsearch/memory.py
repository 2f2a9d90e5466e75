"""The device's memory: whether it ran out, how to get it back, how much of it was in use at the peak."""

from __future__ import annotations

import gc
import resource
import sys
from typing import NamedTuple

import torch

from robsearch.protocols import Metrics

GIB = 2**30
CONTEXT_GIB = 0.75
"""What a process takes of a GPU beside torch's tensors, at least: the CUDA context, and the kernels loaded."""
_WORDS = ("out of memory", "alloc_failed", "can't allocate memory")
"""How the CUDA driver, its libraries (cuBLAS, cuDNN) and torch's CPU allocator say it, in lower case."""


class Footprint(NamedTuple):
    """What a process takes of its GPU, in GiB.

    Attributes:
        peak: the most that torch's allocator held since ``forget_peak``, with what it keeps for later.
        context: what else the GPU holds: the process itself, and other programs if there are any; at least
            ``CONTEXT_GIB``.
        total: all there is.
    """

    peak: float
    context: float
    total: float


class DeviceFullError(RuntimeError):
    """The device's memory does not do for training on even the fewest images at a time."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch's own, or a ``RuntimeError`` of a library below it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def free() -> None:
    """Gives back to the device what nothing refers to any more; call it outside of the ``except`` block."""
    gc.collect()
    torch.cuda.empty_cache()


def forget_peak(device: torch.device) -> None:
    """Begins a new peak on a GPU; that of a process on the CPU cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> Metrics:
    """The most memory in use at once, in GiB.

    On a GPU ``memory/peak_gib``: what torch's tensors took since ``forget_peak`` (the process itself takes a few
    hundred MiB more). On the CPU ``memory/peak_rss_gib``: what the process took since it began, with all that it
    did before this training.
    """
    if device.type == "cuda":
        return {"memory/peak_gib": torch.cuda.max_memory_allocated(device) / GIB}
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB on Linux
    return {"memory/peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}


def footprint() -> Footprint:
    """Reads the first GPU that this process may use; nothing else of the search should be on it."""
    free_bytes, total = torch.cuda.mem_get_info()
    beside = total - free_bytes - torch.cuda.memory_reserved()
    return Footprint(torch.cuda.max_memory_reserved() / GIB, max(beside / GIB, CONTEXT_GIB), total / GIB)
