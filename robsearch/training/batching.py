"""How the images of an epoch are shared out: into batches, over ranks, into micro-batches, always
as evenly as can be.

Under BatchNorm an image that is alone is normalised by itself, and takes as large a step as a whole
batch. So there every share has at least two images, or training is refused.
"""

from __future__ import annotations

from torch import nn

from robsearch.errors import counted, refusal


def even(images: int, parts: int) -> list[int]:
    """The sizes of so many parts that differ by at most one, the larger ones first, as
    ``tensor_split`` makes them."""
    least, larger = divmod(images, parts)
    return [least + 1] * larger + [least] * (parts - larger)


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches, one for each optimiser step: ``ceil(images / batch_size)``
    of them."""
    return even(images, -(-images // batch_size))


def micro_batch_sizes(
    share: int,
    largest: int,
    most: int,
    least: int,
) -> list[int]:
    """The sizes of the micro-batches that a rank's share of a batch is split into; none of an empty
    share.

    All ranks have as many, as far as their images go.

    Args:
        share: images of this rank.
        largest: images of the rank that has most.
        most: images that should go through the model at once. One more do where ``least`` asks for
            it.
        least: images of the smallest micro-batch, where the share has so many (``least_images``).
    """
    if not share:
        return []
    # As many as the largest share takes (rounded up), so that ranks keep in step.
    parts = min(-(-largest // most), share // least)
    return even(share, max(parts, 1))


def at_once(
    batch: int,
    ranks: int,
    most: int,
    least: int,
) -> int:
    """The most images of a batch that go through the model at once, on any rank; see
    ``micro_batch_sizes``."""
    shares = even(batch, ranks)
    sizes: list[int] = []
    for share in set(shares):
        sizes += micro_batch_sizes(share, shares[0], most, least)
    return max(sizes)


def least_images(model: nn.Module) -> int:
    """How many images must go through the model together in training: 2 if a BatchNorm normalises
    by them, else 1."""
    layers = (
        layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    )
    return 2 if any(layer.training or layer.running_mean is None for layer in layers) else 1


def share_problems(
    least: int,
    images: int,
    batch_size: int,
    ranks: int = 1,
) -> list[str]:
    """What is wrong with the shares that ranks would have of an epoch's batches; empty if nothing
    is.

    Without BatchNorm it is enough that each rank has a share of a full batch.

    Args:
        least: images that the model needs together (``least_images``).
        images: of ``train``.
        batch_size: the recipe's.
        ranks: processes that train the model together.
    """
    if least == 1:
        if batch_size >= ranks:
            return []
        do = "train with fewer GPUs, or in larger batches"
        return [refusal(f"batch_size at least {ranks}, a share for each process", batch_size, do)]
    smallest = min(batch_sizes(images, batch_size))
    if smallest // ranks >= least:
        return []
    expected = (
        f"batches of at least {least * ranks} images, {least} for each process, for the "
        "model has BatchNorm"
    )
    shared = f"{counted(images, 'training image')}, {counted(ranks, 'process')}"
    got = f"batches down to {smallest} (batch_size={batch_size}, {shared})"
    do = "pass a larger batch_size, train on more images, or take fewer GPUs or workers"
    return [refusal(expected, got, do)]


def rank_problems(loop: object | None, ranks: int) -> list[str]:
    """What is wrong with several processes that train one model; empty unless the loop is of a
    user's own, which knows of no others.

    Args:
        loop: the recipe's own, or None.
        ranks: processes that train the model together.
    """
    if loop is None or ranks == 1:
        return []
    kind = type(loop).__name__
    do = "ask for one GPU, or part of one, for each training"
    return [refusal(f"one process for a training by {kind}", counted(ranks, "process"), do)]
