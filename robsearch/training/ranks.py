"""The processes that train one model together: shares of a batch, sums over all, and one fate.

Every collective operation is preceded by an agreement that no rank has failed, so that ranks never
wait for one that went another way. A rank that fails anywhere inside ``Ranks.fail_together`` takes
part in one agreement with its error; the others hear of it at their next one, and all leave the
block. One process alone agrees with itself at no cost.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_KNOWN = "_robsearch_all_ranks_know"


class RankError(RuntimeError):
    """Another rank failed, and all ranks know it; quotes that rank's error, with its traceback as a
    note."""


class RankLostError(RuntimeError):
    """Another rank does not answer: its process or its node died."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model together.

    Attributes:
        rank: from 0; rank 0 leads: it writes checkpoints and reports.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """As torch's default process group says; one process alone where there is none.

        The group has to serve the CPU too: ``gloo``, or with GPUs ``cpu:gloo,cuda:nccl``.
        """
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This rank's part of a batch ``(n, ...)``: nearly ``n / size`` rows, the first ranks'
        being the larger ones.

        With fewer rows than ranks, the last ranks' parts are empty.
        """
        if self.size == 1:
            return batch
        return batch.tensor_split(self.size)[self.rank]

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum over ranks of each tensor, the same on all ranks; what came in is left as it was.

        Tensors of one device and type travel in one piece.

        Raises:
            RankError: another rank failed before it came here.
            RankLostError: another rank does not answer.
        """
        if self.size == 1:
            return list(tensors)
        by_kind: dict[object, list[int]] = {}
        for i, tensor in enumerate(tensors):
            by_kind.setdefault((tensor.device, tensor.dtype), []).append(i)
        # A rank that failed would not come to all_reduce, and the others would wait for it.
        self._agree(None)
        sums = list(tensors)
        for rows in by_kind.values():
            flat = torch.cat([tensors[i].detach().reshape(-1) for i in rows])
            with _answered():
                dist.all_reduce(flat)
            parts = flat.split([tensors[i].numel() for i in rows])
            for i, part in zip(rows, parts, strict=True):
                sums[i] = part.view(tensors[i].shape)
        return sums

    def on_leader(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on rank 0, which alone does it; anything that can be pickled.

        Raises:
            RankError: it failed, on the other ranks; rank 0 raises its own error.
        """
        if self.size == 1:
            return work()
        with self.fail_together():
            result = [work() if self.leads else None]
        with _answered():
            dist.broadcast_object_list(result, src=0)
        return result[0]  # type: ignore[return-value]  # rank 0's

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """All ranks come to the block's end, or none does: what one raises makes every other raise
        ``RankError``.

        If several fail at once, all act on the error of the first of them. Blocks may be nested.
        Being closed counts as failing: a generator that nobody asks for more leaves the others,
        too.
        """
        try:
            yield
        except BaseException as error:
            shared = isinstance(error, RankError | RankLostError) or hasattr(error, _KNOWN)
            if self.size > 1 and not shared:
                setattr(error, _KNOWN, True)
                self._agree(error)
            raise
        if self.size > 1:
            self._agree(None)

    @contextlib.contextmanager
    def random_of_rank(self, seed: int, device: torch.device) -> Iterator[None]:
        """Random numbers of this rank alone, from a seed that all ranks share; afterwards those of
        before.

        So all ranks draw the same outside of the block (order and augmentation of images), whatever
        each draws in it.
        """
        if self.size == 1:
            yield
            return
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed((seed * 10_007 + self.rank + 1) % 2**63)
            yield

    def _agree(self, error: BaseException | None) -> None:
        """Every rank says whether it failed.

        Raises:
            RankError: the first rank that failed is not this one.
        """
        failed = torch.tensor(float(error is not None))
        with _answered():
            dist.all_reduce(failed)
            if not failed:
                return
            errors: list[Any] = [None] * self.size
            text = None
            if error is not None:
                trace = "".join(traceback.format_exception(error))
                text = f"{type(error).__name__}: {error}", trace
            dist.all_gather_object(errors, text)
        rank = next(rank for rank, text in enumerate(errors) if text)
        if rank != self.rank:
            message, trace = errors[rank]
            problem = RankError(f"rank {rank}: {message}")
            problem.add_note(trace)
            raise problem from None


ALONE = Ranks()
"""One process that trains a model by itself."""


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Around collective operations alone: what they raise means that another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(f"another process of this training does not answer: {error}") from error
