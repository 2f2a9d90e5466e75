"""What a worker's process does around a job: it keeps within its share of a GPU, and passes
warnings on."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import torch

from robsearch.errors import refusal
from robsearch.spaces.resources import Resources
from robsearch.training.memory import CONTEXT_GIB, GIB
from robsearch.trials.trial import Report

WAIT_SECONDS = 30
PAUSE_SECONDS = 0.5
ENOUGH = 0.9
"""Of a job's share of the GPU's memory: the driver and the contexts of other processes take
some."""


def with_warnings(reports: Iterator[Report]) -> Generator[Report]:
    """The reports, each with the warnings that robsearch gave since the one before it
    (``Report.warnings``), for the person who watches.

    Those of other packages go where they always go.
    """
    texts: dict[str, None] = {}
    with warnings.catch_warnings(), contextlib.closing(reports):  # type: ignore[type-var]  # works are generators
        show = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category is UserWarning and "robsearch" in str(where[0]):
                texts[str(message)] = None
            else:
                show(message, category, *where, **more)

        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = keep
        for report in reports:
            yield replace(report, warnings=tuple(texts))
            texts.clear()


def free_share() -> float:
    """The least part of a visible GPU's memory, 0 to 1, that is free or that this process holds
    without using it.

    Raises:
        RuntimeError: torch sees none.
    """
    torch.cuda.empty_cache()
    shares = []
    for device in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(device)
        shares.append((free + torch.cuda.memory_reserved(device)) / total)
    if not shares:
        do = "install torch with CUDA, and NVIDIA's driver, on every node"
        raise RuntimeError(refusal("a GPU that torch can use where Ray has one", "none", do))
    return float(min(shares))


def wait_for_memory(
    resources: Resources,
    free: Callable[[], float] = free_share,
    seconds: float = WAIT_SECONDS,
) -> bool:
    """Waits until a job's share of its GPU's memory is free, as a process that was killed a moment
    ago may hold it.

    On a CPU it returns at once.

    Args:
        resources: of the job; of a whole GPU or several, all memory is its share.
        free: reads the part, 0 to 1, that is free.
        seconds: to wait at most.

    Returns:
        Whether it is free. If not, the job is started all the same: others may hold the memory for
        good.
    """
    if not resources.gpus:
        return True
    end = time.monotonic() + seconds
    while free() < ENOUGH * min(1.0, resources.gpus):
        if time.monotonic() >= end:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def limit_memory(resources: Resources) -> None:
    """Keeps torch within the job's share of its GPU's memory: it then runs out itself, and not its
    neighbour.

    Training that runs out goes on in smaller micro-batches, so the share decides these, never what
    the neighbours happen to take. A job of whole GPUs has no limit.
    """
    if resources.gpus:
        for device in range(torch.cuda.device_count()):
            total = torch.cuda.mem_get_info(device)[1] / GIB
            torch.cuda.set_per_process_memory_fraction(tensor_share(resources.gpus, total), device)


def tensor_share(gpus: float, total: float) -> float:
    """The part of a GPU's memory, 0 to 1, for the tensors of a job: its share without the CUDA
    context.

    Args:
        gpus: the job's share; its tensors get at least half of that.
        total: memory of the GPU in GiB.
    """
    return 1.0 if gpus >= 1 else max(gpus - CONTEXT_GIB / total, gpus / 2)
