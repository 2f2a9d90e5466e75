"""Sets that are too large for a device: images stay in the memory map, and a thread gathers them
ahead of the step.

The thread only copies bytes of rows that the caller has drawn already, so that the caller draws the
same random numbers whether a set is streamed or not. It gathers into host memory, pinned where the
device is not the CPU; the caller's own thread starts the copy to the device, on its own stream and
without waiting for it. So no two streams have to be kept in order, and no memory of the device is
held for images that are not yet needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from robsearch.data.maps import PIECE, release
from robsearch.protocols import Split
from robsearch.training.costs import held_gpus
from robsearch.training.memory import free_bytes

RESIDENT_SHARE = 0.25
"""Of the device's free memory, and of a shared GPU's of this process's share of it: images of a
split that are more are streamed."""
SMALL = 2**26
"""Bytes of images that are never too many."""
AHEAD = 2
"""Batches that are gathered while the step works on another."""
FAULT = 2**16
"""Bytes that Linux maps around a byte that is looked at, about."""

Rows: TypeAlias = Tensor | slice
"""Which images of a split: their numbers, or a range."""


class StreamedImages:
    """Images that stay where they are stored; those that are asked for come onto the device.

    They take the place of ``Split.images``: indexing gives a tensor on ``device``, as indexing
    images that lie there would.

    Args:
        stored: the images in a memory map.
        device: where they are needed.
        rows: which of them, and in which order; all by default.
    """

    def __init__(self, stored: Tensor, device: torch.device, rows: Tensor | None = None) -> None:
        self.device = device
        self._stored = stored
        self._rows = torch.arange(len(stored)) if rows is None else rows
        self._looked_at = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, c, h, w)``."""
        return (len(self), *self._stored.shape[1:])

    def __getitem__(self, rows: Rows) -> Tensor:
        return self._brought(self.copied(rows))

    def at(self, rows: Rows) -> StreamedImages:
        """Some of the images, which stay where they are, too."""
        return StreamedImages(self._stored, self.device, self._rows[_on_cpu(rows)])

    def ahead(self, parts: Iterable[Rows]) -> Iterator[Tensor]:
        """The images of one part after the other, while a thread gathers those of the next
        ``AHEAD``.

        What is raised in the thread is raised here. When the iterator is at its end, closed, or
        raises, the thread has ended.
        """
        with _gatherer() as thread:
            gathered: deque[Future[Tensor]] = deque()
            for part in parts:
                gathered.append(thread.submit(self._fill, *self._buffer(part)))
                if len(gathered) > AHEAD:
                    yield self._brought(gathered.popleft().result())
            while gathered:
                yield self._brought(gathered.popleft().result())

    def copied(self, rows: Rows) -> Tensor:
        """Some of the images, in host memory."""
        return self._fill(*self._buffer(rows))

    @contextmanager
    def in_order(self) -> Iterator[Callable[[slice], Tensor]]:
        """Inside, ``read(part)`` gives the images of a range, while a thread gathers as many behind
        it.

        For parts that are asked for from the first to the last, of a size that may change.
        """
        with _gatherer() as thread:
            following: dict[tuple[int, int], Future[Tensor]] = {}

            def read(part: slice) -> Tensor:
                start, end, _ = part.indices(len(self))
                gathered = following.pop((start, end), None)
                if gathered is None:
                    gathered = thread.submit(self._fill, *self._buffer(part))
                following.clear()
                after = slice(end, min(2 * end - start, len(self)))
                if end < len(self):
                    following[after.start, after.stop] = thread.submit(
                        self._fill, *self._buffer(after)
                    )
                return self._brought(gathered.result())

            yield read

    def _buffer(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Which of the stored images are meant, and host memory for them.

        The caller's thread makes it: in another one torch would pin memory for the first GPU,
        whichever is the caller's, and take some of that.
        """
        chosen = self._rows[_on_cpu(rows)]
        shape = (len(chosen), *self._stored.shape[1:])
        pinned = self.device.type != "cpu"
        return chosen, torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)

    def _fill(self, chosen: Tensor, buffer: Tensor) -> Tensor:
        # NumPy copies in this thread alone: torch would start as many as the step has beside them.
        # Rows are within range, and with "raise" NumPy would copy everything once more.
        np.take(self._stored.numpy(), chosen.numpy(), axis=0, out=buffer.numpy(), mode="clip")
        self._looked_at += buffer.nbytes + FAULT * len(chosen)
        if self._looked_at > PIECE:
            # A release looks through the whole map, which is too long after each batch.
            release(self._stored)
            self._looked_at = 0
        return buffer

    def _brought(self, images: Tensor) -> Tensor:
        return images.to(self.device, non_blocking=True)


def streamed(split: Split) -> StreamedImages | None:
    """The images of a split that is streamed; None of one whose images are on the device."""
    images: object = split.images
    return images if isinstance(images, StreamedImages) else None


def gathered(split: Split, parts: Iterable[Tensor]) -> Generator[Tensor]:
    """The images of rows ``parts`` of a split, on the device, one part after the other; those of a
    streamed split are gathered ahead."""
    images = streamed(split)
    if images is not None:
        yield from images.ahead(parts)
        return
    for rows in parts:
        yield split.images[rows.to(split.images.device)]


@contextmanager
def in_order(split: Split) -> Iterator[Callable[[slice], Tensor]]:
    """Inside, ``read(part)`` gives the images of a range of a split, on the device; those of a
    streamed split are gathered ahead (``StreamedImages.in_order``)."""
    images = streamed(split)
    if images is None:
        yield lambda part: split.images[part]
        return
    with images.in_order() as read:
        yield read


def too_large(images: Tensor, device: torch.device) -> bool:
    """Whether images are to be streamed to a device, for they are more than a share of what is free
    there (``RESIDENT_SHARE``)."""
    if images.nbytes <= SMALL:
        return False
    share = RESIDENT_SHARE
    if device.type != "cpu":
        share *= held_gpus()
    return images.nbytes > share * free_bytes(device)


@contextmanager
def _gatherer() -> Iterator[ThreadPoolExecutor]:
    """A thread that has ended after the block; what it has not begun by then is not done."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="images")
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)


def _on_cpu(rows: Rows) -> Rows:
    return rows.cpu() if isinstance(rows, Tensor) else rows
