"""The batches of an epoch as rows of the training split, or of it and of an extra one
(``robsearch.data.Mixed``).

All that is random here is drawn before the first batch, from torch's global generator, which is
seeded for each epoch. So an epoch that is resumed has the batches of one that was not interrupted.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from robsearch.data.mixed import EXTRA, Mixed
from robsearch.protocols import Dataset, Labels, Split
from robsearch.training.evaluation import to_device
from robsearch.training.streaming import gathered


class Extra(NamedTuple):
    """Images that are added to those of ``train``, on the device, and the share of a batch that
    they are."""

    split: Split
    share: float


class Gathered(NamedTuple):
    """The images of a batch as bytes (n, c, h, w), their labels, and which of these are wrong, (n,)
    on the CPU, where that is known."""

    images: Tensor
    labels: Labels
    wrong: Tensor | None


def extra_of(dataset: Dataset, splits: Mapping[str, Split], device: torch.device) -> Extra | None:
    """The extra images of a data set, brought to the device as ``to_device`` does; None of a set
    that has none."""
    if not isinstance(dataset, Mixed):
        return None
    return Extra(to_device(splits[EXTRA], device), dataset.share)


def extra_counts(sizes: Sequence[int], share: float) -> list[int]:
    """How many images of each batch are extra: of all up to any batch ``share``, rounded.

    So a batch is never a whole image off, and rounding does not add up over an epoch.
    """
    totals = [round(share * images) for images in accumulate(sizes, initial=0)]
    return [after - before for before, after in pairwise(totals)]


def plain_batches(split: Split, sizes: Sequence[int], wrong: Tensor | None) -> Generator[Gathered]:
    """All images of a split in random order, in batches of these sizes, gathered ahead."""
    parts = torch.randperm(len(split.labels)).split(list(sizes))
    with closing(gathered(split, parts)) as ahead:
        for rows, images in zip(parts, ahead, strict=True):
            yield Gathered(images, _labels(split, rows), None if wrong is None else wrong[rows])


def mixed_batches(
    split: Split, extra: Extra, sizes: Sequence[int], wrong: Tensor | None
) -> Generator[Gathered]:
    """Batches of these sizes, a share of each from the extra images, in random order.

    Those of the split are drawn without repetition, the extra ones independently. In a batch they
    are shuffled, for ranks and micro-batches take neighbours.
    """
    from_extra = extra_counts(sizes, extra.share)
    from_split = [size - count for size, count in zip(sizes, from_extra, strict=True)]
    rows = torch.randperm(len(split.labels))[: sum(from_split)].split(from_split)
    added = torch.randint(len(extra.split.labels), (sum(from_extra),)).split(from_extra)
    orders = [torch.randperm(size) for size in sizes]
    with closing(gathered(split, rows)) as ahead, closing(gathered(extra.split, added)) as more:
        for ours, others, order, *images in zip(rows, added, orders, ahead, more, strict=True):
            labels = torch.cat([_labels(split, ours), _labels(extra.split, others)])
            on_device = order.to(labels.device)
            of_batch = None
            if wrong is not None:
                of_batch = torch.cat([wrong[ours], torch.zeros(len(others), dtype=torch.bool)])
                of_batch = of_batch[order]
            yield Gathered(torch.cat(images)[on_device], labels[on_device], of_batch)


def _labels(split: Split, rows: Tensor) -> Labels:
    return split.labels[rows.to(split.labels.device)]
