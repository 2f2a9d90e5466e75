"""A job's share of a GPU: waits until its memory is free, and keeps the job within it."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
import torch

from robsearch.errors import refusal
from robsearch.memory import CONTEXT_GIB, GIB
from robsearch.resources import Resources

WAIT_SECONDS = 30
PAUSE_SECONDS = 0.5
ENOUGH = 0.9
"""Of a job's share of the GPU's memory: the driver and the contexts of other processes take some."""


def gpu_kinds() -> list[str]:
    """The kinds of GPU in the connected cluster, as Ray names them, such as ``H100``; it does not know their memory."""
    prefix = "accelerator_type:"
    return sorted(name.removeprefix(prefix) for name in ray.cluster_resources() if name.startswith(prefix))


def free_share() -> float:
    """The least part of a visible GPU's memory, 0 to 1, that is free or that this process holds without using it.

    Raises:
        RuntimeError: torch sees none.
    """
    torch.cuda.empty_cache()
    if not (devices := range(torch.cuda.device_count())):
        do = "install torch with CUDA, and NVIDIA's driver, on every node"
        raise RuntimeError(refusal("a GPU that torch can use where Ray has one", "none", do))
    return min(_free(device) for device in devices)


def wait_for_memory(
    resources: Resources,
    free: Callable[[], float] = free_share,
    seconds: float = WAIT_SECONDS,
) -> bool:
    """Waits until a job's share of its GPU's memory is free, as a process that was killed a moment ago may hold it.

    On a CPU it returns at once.

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


def limit_memory(resources: Resources) -> None:
    """Keeps torch within the job's share of its GPU's memory: it then runs out itself, and not its neighbour.

    Training that runs out goes on in smaller micro-batches, so the share decides these, never what the neighbours
    happen to take. A job of whole GPUs has no limit.
    """
    for device in range(torch.cuda.device_count()) if resources.gpus else ():
        total = torch.cuda.mem_get_info(device)[1] / GIB
        torch.cuda.set_per_process_memory_fraction(tensor_share(resources.gpus, total), device)


def tensor_share(gpus: float, total: float) -> float:
    """The part of a GPU's memory, 0 to 1, for the tensors of a job: its share without the CUDA context.

    Args:
        gpus: the job's share; its tensors get at least half of that.
        total: memory of the GPU in GiB.
    """
    return 1.0 if gpus >= 1 else max(gpus - CONTEXT_GIB / total, gpus / 2)


def _free(device: int) -> float:
    free, all_there_is = torch.cuda.mem_get_info(device)
    return float((free + torch.cuda.memory_reserved(device)) / all_there_is)
