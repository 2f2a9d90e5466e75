"""The device's memory: what to do when it runs out, and how much of it was in use at the peak."""

from __future__ import annotations

import contextlib
import gc
import re
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil
import torch
from torch import Tensor, nn

from robsearch.errors import counted
from robsearch.protocols import Images, Metrics

T = TypeVar("T")

GIB = 2**30
CONTEXT_GIB = 0.75
"""What a process takes of a GPU beside torch's tensors, at least: the CUDA context, and the kernels
loaded."""
PROCESS_STATUS = Path("/proc/self/status")
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
"""How the CUDA driver, its libraries (cuBLAS, cuDNN) and torch's CPU allocator say it, in lower
case."""


class Footprint(NamedTuple):
    """What a process takes of its GPU, in GiB.

    Attributes:
        peak: the most that torch's allocator held since ``forget_peak``, with what it keeps for
            later.
        context: what else the GPU holds: the process itself, and other programs if there are any;
            at least ``CONTEXT_GIB``.
        total: all there is.
    """

    peak: float
    context: float
    total: float


class DeviceFullError(RuntimeError):
    """Not even the fewest images that can be trained on together fit into the device's memory."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch's own, or a ``RuntimeError`` of a library
    below it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


def warn_of_fewer(images: int) -> None:
    """Warns that the work goes on with so many images at a time."""
    text = f"out of memory: going on with {counted(images, 'image')} at a time"
    warnings.warn(text, stacklevel=3)


def halve_until_it_fits(
    work: Callable[[int], T],
    images: int,
    smaller: Callable[[int], int],
    device: torch.device,
    before_retry: Callable[[int], None] = warn_of_fewer,
) -> tuple[T, int]:
    """What ``work(images)`` returns, and with how many images at a time it fitted into memory.

    Each attempt begins with the same random numbers, on the CPU and on ``device``.

    Args:
        work: is called with ever fewer images for as long as memory runs out.
        images: how many at a time to begin with.
        smaller: the next number to try after one that did not fit; 0 if there is none.
        device: on which the work is done.
        before_retry: is called with the next number. By default it warns.

    Raises:
        RuntimeError: memory ran out, and ``smaller`` is 0; or any other error of ``work``.
    """
    on_cpu = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    while True:
        try:
            return work(images), images
        except RuntimeError as error:
            if not out_of_memory(error) or smaller(images) == 0:
                raise
        # Outside of the except block no traceback holds the tensors of the failed attempt.
        images = smaller(images)
        before_retry(images)
        torch.set_rng_state(on_cpu)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)
        free()


def free() -> None:
    """Gives back to the device what nothing refers to any more; call it outside of the ``except``
    block."""
    gc.collect()
    torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """What is free of the device's memory: of a GPU's with what torch keeps for later, of a
    machine's in its cgroup."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free_on_gpu, _ = torch.cuda.mem_get_info(device)
        return int(free_on_gpu + cached)
    of_machine = int(psutil.virtual_memory().available)
    return min(of_machine, *_cgroup_rests())


def _cgroup_rests() -> Iterator[int]:
    """What this process's container may still take; without a limit, more than any machine has.
    Cached files count as free."""
    yield sys.maxsize
    for limit, used, stat, cache in _CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            lines = (CGROUP / stat).read_text().splitlines()
            stats = dict(line.split() for line in lines)
            taken = int((CGROUP / used).read_text()) - int(stats.get(cache, 0))
            most = int((CGROUP / limit).read_text())
            yield max(most - taken, 0)


def bytes_for_gradients(model: nn.Module, x: Images) -> int:
    """Bytes that a forward of ``x`` keeps for a gradient in the images, and three times the largest
    tensor of them."""
    weights = (*model.parameters(), *model.buffers())
    of_the_model = {weight.untyped_storage().data_ptr() for weight in weights}
    sizes: dict[int, int] = {}
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in of_the_model:
            sizes[storage.data_ptr()] = storage.nbytes()
            saved.append(tensor)  # or the next tensor may get its place
        return tensor

    counting = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.enable_grad(), counting:
        model(x.requires_grad_())
    largest = max(sizes.values(), default=0)
    return sum(sizes.values()) + 3 * largest


def forget_peak(device: torch.device) -> None:
    """Begins a new peak on a GPU; that of a process on the CPU cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> Metrics:
    """The most memory in use at once, in GiB.

    On a GPU ``memory/peak_gib``: what torch's tensors took since ``forget_peak`` (the process
    itself takes a few hundred MiB more). On the CPU ``memory/peak_rss_gib``: what the process took
    since it began, with all that it did before this training.
    """
    if device.type == "cuda":
        return {"memory/peak_gib": torch.cuda.max_memory_allocated(device) / GIB}
    return {"memory/peak_rss_gib": _peak_resident_bytes() / GIB}


def _peak_resident_bytes() -> int:
    # Not getrusage where this is: on Linux that begins at the peak of the process's parent.
    with contextlib.suppress(OSError):
        high_water = re.search(r"VmHWM:\s+(\d+) kB", PROCESS_STATUS.read_text())
        if high_water is not None:  # some sandboxes leave it out
            return int(high_water[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def footprint() -> Footprint:
    """Reads the first GPU that this process may use; nothing else of the search should be on it."""
    free_bytes, total = torch.cuda.mem_get_info()
    # What is taken and not torch's: contexts, and the kernels that are loaded.
    beside = total - free_bytes - torch.cuda.memory_reserved()
    return Footprint(
        torch.cuda.max_memory_reserved() / GIB,
        max(beside / GIB, CONTEXT_GIB),
        total / GIB,
    )
