"""The device's memory: whether it ran out, how to get it back, how much of it was in use at the peak."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor, nn

from robsearch.protocols import Images, Metrics

GIB = 2**30
CONTEXT_GIB = 0.75
"""What a process takes of a GPU beside torch's tensors, at least: the CUDA context, and the kernels loaded."""
CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""Of version 2 and of version 1: the limit, what is used, and where cached files are counted."""
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


def free_bytes(device: torch.device) -> int:
    """What is free of the device's memory: of a GPU's with what torch keeps for later, of a machine's in its cgroup."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return min(int(psutil.virtual_memory().available), *_cgroup_rests())


def _cgroup_rests() -> Iterator[int]:
    """What this process's container may still take; a lot, if nothing is said. Cached files count as free."""
    yield sys.maxsize
    for limit, used, stat, cache in _CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            stats = dict(line.split() for line in (CGROUP / stat).read_text().splitlines())
            taken = int((CGROUP / used).read_text()) - int(stats.get(cache, 0))
            yield max(int((CGROUP / limit).read_text()) - taken, 0)


def kept_for_gradients(model: nn.Module, x: Images) -> int:
    """Bytes that a forward of ``x`` keeps for a gradient in the images, and three times the largest tensor of them."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    held: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # or the next tensor may get its place
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(x.requires_grad_())
    return sum(sizes.values()) + 3 * max(sizes.values(), default=0)


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
