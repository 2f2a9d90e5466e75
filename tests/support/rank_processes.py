"""Processes of this machine that form a torch process group, for tests of training together."""

from __future__ import annotations

import io
import multiprocessing
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from robsearch.training.ranks import Ranks

SECONDS = 120
"""How long a test waits for its processes."""
STARTED: dict[int, Group] = {}


def on_ranks(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``work(ranks, *args)`` returns on each rank, tensors included; ``"died"`` of a rank that
    did.

    An error on any is raised here, with its traceback. Processes are kept for the next test that
    wants as many.
    """
    group = STARTED.pop(size, None) or Group(size)
    try:
        found = group.do(work, args)
    except BaseException:
        group.end()
        raise
    if "died" in found:
        group.end()
    else:
        STARTED[size] = group
    return found


class Group:
    """A process for each rank, which does what it is sent until this process ends."""

    def __init__(self, size: int) -> None:
        spawned = multiprocessing.get_context("spawn")
        self._store = tempfile.TemporaryDirectory()
        pipes = [spawned.Pipe() for _ in range(size)]
        self._ends = [end for end, _ in pipes]
        self._ranks = [
            spawned.Process(target=_serve, args=(other, self._store.name, rank, size), daemon=True)
            for rank, (_, other) in enumerate(pipes)
        ]
        for rank in self._ranks:
            rank.start()
        for _, other in pipes:
            other.close()

    def do(self, work: Callable[..., Any], args: Any) -> list[Any]:
        for end in self._ends:
            end.send((work, _packed(args)))
        return [_answer(end) for end in self._ends]

    def end(self) -> None:
        for rank in self._ranks:
            rank.kill()
            rank.join()
        self._store.cleanup()


def _answer(end: Any) -> Any:
    if not end.poll(SECONDS):
        raise TimeoutError("a rank does not answer: the ranks got out of step")
    try:
        fine, content = end.recv()
    except (EOFError, ConnectionResetError):
        return "died"
    if not fine:
        raise AssertionError(content)
    return _unpacked(content)


def _packed(content: Any) -> bytes:
    """Tensors sent as they are would be shared memory, one for all ranks."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=False)


def _serve(end: Any, folder: str, rank: int, size: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    while True:
        try:
            work, args = end.recv()
            end.send((True, _packed(work(Ranks.here(), *_unpacked(args)))))
        except EOFError:
            sys.exit()
        except BaseException:
            end.send((False, f"rank {rank}\n{traceback.format_exc()}"))
