"""Judging a model on a split: in chunks that fit into memory, each image from a start of its
own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from robsearch.measures import Rates, rates
from robsearch.metrics import RATES
from robsearch.network.draws import own_draws
from robsearch.network.modes import evaluating
from robsearch.protocols import Attack, Images, Labels, Metrics, Split
from robsearch.training.memory import bytes_for_gradients, free_bytes, halve_until_it_fits
from robsearch.training.streaming import StreamedImages, in_order, streamed, too_large

EVAL_SEED = 0
"""Every trial is judged from the same attack starts, so that trials are compared like with like."""
EVAL_CHUNK = 1000
"""The most images that are judged at once."""
ROOM = {"cpu": 2**30, "cuda": 2**33}
"""The most bytes that one chunk shall take of each kind of device; of what is free, at most a
quarter."""
LEAST_ROOM = 2**26
COPIES = 16
"""Tensors as large as the images that an attack holds, about."""

T = TypeVar("T")


class Sample(NamedTuple):
    """Some images of a split, and where in the split they stand."""

    rows: Tensor
    split: Split


def judge(model: nn.Module, split: Split, attack: Attack) -> Metrics:
    """Natural accuracy, robust accuracy, stability and wrong-to-right flips, as shares of the
    split."""
    return shares_of(all_rates(model, split, attack))


def shares_of(by_image: Rates) -> Metrics:
    """The rates of ``judge`` from those of each image."""
    shares: Metrics = {}
    for name, field in RATES.items():
        of_images = getattr(by_image, field)
        shares[name] = of_images.double().mean().item()
    natural, robust, stable, *_ = shares.values()
    slack = 1e-9  # of rounding
    # Robust is right and stable: no more than either, no less than they must overlap.
    least = natural + stable - 1
    most = min(natural, stable)
    consistent = least - slack <= robust <= most + slack
    assert consistent, f"the rates contradict each other: {shares}"
    return shares


def all_rates(model: nn.Module, split: Split, attack: Attack) -> Rates:
    """The rates of each image of a split; without the perturbed images, of which there may be too
    many."""

    def without_images(x: Images, y: Labels) -> Rates:
        return rates(model, x, y, attack)._replace(x_adv=x[:0])

    chunks = in_chunks(split, without_images, images_at_once(model, split))
    fields = zip(*chunks, strict=True)
    return Rates(*map(torch.cat, fields))


def in_chunks(
    split: Split,
    work: Callable[[Images, Labels], T],
    size: int = EVAL_CHUNK,
    at_once: int | None = None,
) -> list[T]:
    """What ``work`` makes of images (as floats) and labels, chunk by chunk.

    Each image is attacked from its own start (``robsearch.network.draws``), whatever the chunk.
    torch's global generator is seeded by ``EVAL_SEED`` before the first chunk: what a user's attack
    draws from it depends on the chunks.

    Args:
        split: the images, as bytes.
        work: called with one chunk after the other, in order.
        size: images in a chunk; where the device's memory has no room for them, it is halved, with
            a warning.
        at_once: tells ``work`` how many images memory has room for, where that is less than a
            chunk; chunks then stay, and this is halved.
    """
    device = split.labels.device
    whole_chunks = at_once is not None
    images = at_once or size
    results: list[T] = []
    first = 0

    def attempt(images: int) -> T:
        chunk = size if whole_chunks else images
        part = slice(first, first + chunk)
        with own_draws(EVAL_SEED, images):
            return work(to_float(read(part)), split.labels[part])

    def smaller(images: int) -> int:
        return min(images, size, len(split.labels) - first) // 2

    with seeded(device), in_order(split) as read:
        while first < len(split.labels):
            result, images = halve_until_it_fits(attempt, images, smaller, device)
            results.append(result)
            first += size if whole_chunks else images
    return results


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Inside the block torch's generators begin at ``EVAL_SEED``, and what is computed has the
    precision of the weights, also where the caller trains in another; afterwards both are what they
    were."""
    gpus = [device] if device.type == "cuda" else []
    full = torch.autocast(device.type, enabled=False)
    with torch.random.fork_rng(devices=gpus), full:
        torch.manual_seed(EVAL_SEED)
        yield


def in_batches(
    work: Callable[[Images, Labels], Tensor],
    x: Images,
    y: Labels,
    batch: int,
) -> tuple[Tensor, int]:
    """``work`` of all images, each from its own start, and how many images at a time fitted into
    memory.

    Where memory runs out, it begins anew with half as many at a time, until not even one fits.
    """

    def attempt(images: int) -> Tensor:
        results = []
        batches = zip(x.split(images), y.split(images), strict=True)
        with seeded(x.device):
            for part, labels in batches:
                with own_draws(EVAL_SEED, images):
                    results.append(work(part, labels))
        return torch.cat(results)

    def smaller(images: int) -> int:
        return min(images, len(x)) // 2

    return halve_until_it_fits(attempt, batch, smaller, x.device)


def images_at_once(
    model: nn.Module,
    split: Split,
    most: int = EVAL_CHUNK,
) -> int:
    """How many images the model can be attacked on at once in the memory of the images' device (see
    ``ROOM``).

    From what a small forward keeps for the gradient. On the CPU a chunk that is too large would not
    raise an error: the system would end the process.
    """
    few = to_float(split.images[:4])
    try:
        with evaluating(model), seeded(few.device):
            for_gradients = bytes_for_gradients(model, few)
    except Exception:  # the model's fault, which shows where the model is judged
        return most
    most_bytes = ROOM.get(few.device.type, ROOM["cuda"])
    budget = min(most_bytes, max(free_bytes(few.device) // 4, LEAST_ROOM))
    # The attack holds copies of the images beside what autograd keeps of the forward.
    bytes_per_image = (for_gradients + COPIES * few.nbytes) / max(len(few), 1)
    fitting = max(budget // max(bytes_per_image, 1), 1)
    return int(min(fitting, most))


def sampled(split: Split, n: int | None) -> Sample:
    """The same ``n`` images of a split for every model, drawn once at random; all of them if there
    are no more."""
    total = len(split.labels)
    if n is None or n >= total:
        return Sample(torch.arange(total), split)
    generator = torch.Generator().manual_seed(EVAL_SEED)
    rows = torch.randperm(total, generator=generator)[:n].sort().values
    return Sample(rows, taken(split, rows))


def taken(split: Split, rows: Tensor) -> Split:
    """Some images of a split and their labels, by their rows; of a streamed split without the
    bytes."""
    on_device = rows.to(split.labels.device)
    labels = split.labels[on_device]
    images = streamed(split)
    if images is not None:
        return _streamed_split(images.at(rows), labels)
    return Split(split.images[on_device], labels)


def to_float(images: Tensor | StreamedImages) -> Images:
    """Bytes 0..255 as floats in [0, 1]."""
    return images[:].float() / 255


def to_device(split: Split, device: torch.device) -> Split:
    """The split on a device; on the CPU it stays the read-only memory map.

    Images that are more than a share of the device's free memory stay in the map on any device, and
    are streamed (``robsearch.training.streaming``).
    """
    labels = split.labels.to(device)
    if too_large(split.images, device):
        return _streamed_split(StreamedImages(split.images, device), labels)
    return Split(split.images.to(device), labels)


def _streamed_split(images: StreamedImages, labels: Labels) -> Split:
    # Where a split's images are looked at they are indexed, as a tensor is.
    return Split(cast(Tensor, images), labels)


def best_device() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
