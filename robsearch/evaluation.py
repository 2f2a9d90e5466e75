"""Judging a model on a split: in chunks that fit into memory, each image from a start of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from robsearch.draws import own_draws
from robsearch.measures import Rates, rates
from robsearch.memory import free, free_bytes, kept_for_gradients, out_of_memory
from robsearch.modes import NonFiniteLogitsError, evaluating
from robsearch.protocols import Attack, Images, Labels, Metrics, Split
from robsearch.wording import counted

EVAL_SEED = 0
"""Every trial is judged from the same attack starts, so that trials are compared like with like."""
EVAL_CHUNK = 1000
"""The most images that are judged at once."""
ROOM = {"cpu": 2**30, "cuda": 2**33}
"""The most bytes that one chunk shall take of each kind of device; of what is free, at most a quarter."""
RATES = {
    "natural_accuracy": "natural",
    "robust_accuracy": "robust",
    "stability": "stable",
    "wrong_to_right": "wrong_to_right",
}
"""Metric names of the accuracy family, and the fields of ``Rates`` they average."""

LEAST_ROOM = 2**26
COPIES = 16
"""Tensors as large as the images that an attack holds, about."""

T = TypeVar("T")


class Sample(NamedTuple):
    """Some images of a split, and where in the split they stand."""

    rows: Tensor
    split: Split


def judge(model: nn.Module, split: Split, attack: Attack) -> Metrics:
    """Natural accuracy, robust accuracy, stability and wrong-to-right flips, as shares of the split."""
    found = all_rates(model, split, attack)
    shares: Metrics = {name: getattr(found, field).double().mean().item() for name, field in RATES.items()}
    natural, robust, stable = (shares[name] for name in ("natural_accuracy", "robust_accuracy", "stability"))
    slack = 1e-9
    assert natural + stable - 1 - slack <= robust <= min(natural, stable) + slack, f"the rates contradict: {shares}"
    return shares


def judged_or_told(prefix: str, model: nn.Module, test: Split, attack: Attack, problems: list[str]) -> Metrics:
    """The rates of one network on ``test``; none, but a sentence among the problems, if its logits are not finite."""
    try:
        return {f"{prefix}/{name}": rate for name, rate in judge(model, test, attack).items()}
    except NonFiniteLogitsError as error:
        problems.append(f"{prefix} left out: {error}")
        return {}


def all_rates(model: nn.Module, split: Split, attack: Attack) -> Rates:
    """The rates of each image of a split; without the perturbed images, of which there may be too many."""

    def without_images(x: Images, y: Labels) -> Rates:
        return rates(model, x, y, attack)._replace(x_adv=x[:0])

    found = in_chunks(split, without_images, images_at_once(model, split))
    return Rates(*map(torch.cat, zip(*found, strict=True)))


def in_chunks(
    split: Split, work: Callable[[Images, Labels], T], size: int = EVAL_CHUNK, at_once: int | None = None
) -> list[T]:
    """What ``work`` makes of images (as floats) and labels, chunk by chunk.

    Each image is attacked from its own start (``robsearch.draws``), whatever the chunk. torch's global generator is
    seeded by ``EVAL_SEED`` before the first chunk: what a user's attack draws from it depends on the chunks.

    Args:
        split: the images, as bytes.
        work: called with one chunk after the other, in order.
        size: images in a chunk; where the device's memory has no room for them, it is halved, with a warning.
        at_once: tells ``work`` how many images memory has room for, where that is less than a chunk; chunks then stay,
            and this is halved.
    """
    done, first = [], 0
    with seeded(split.images.device):
        while first < len(split.labels):
            part, state = slice(first, first + size), torch.get_rng_state()
            try:
                with own_draws(EVAL_SEED, at_once or size):
                    done.append(work(to_float(split.images[part]), split.labels[part]))
                first += size
                continue
            except RuntimeError as error:
                if 1 in (size, at_once) or not out_of_memory(error):
                    raise
            torch.set_rng_state(state)
            half = min(at_once or size, size, len(split.labels) - first) // 2 or 1
            size, at_once = (size, half) if at_once else (half, None)
            warnings.warn(f"out of memory: going on with {counted(half, 'image')} at a time", stacklevel=2)
            free()
    return done


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Inside the block torch's generators begin at ``EVAL_SEED``; afterwards they are where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(EVAL_SEED)
        yield


def images_at_once(model: nn.Module, split: Split, most: int = EVAL_CHUNK) -> int:
    """How many images the model can be attacked on at once in the memory of the images' device (see ``ROOM``).

    From what a small forward keeps for the gradient. On the CPU a chunk that is too large would not raise an error:
    the system would end the process.
    """
    few = to_float(split.images[:4])
    try:
        with evaluating(model), seeded(few.device):
            kept = kept_for_gradients(model, few)
    except Exception:  # the model's fault, which shows where the model is judged
        return most
    device = few.device.type
    room = min(ROOM.get(device, ROOM["cuda"]), max(free_bytes(few.device) // 4, LEAST_ROOM))
    each = (kept + COPIES * few.nbytes) / max(len(few), 1)
    return int(min(max(room // max(each, 1), 1), most))


def sampled(split: Split, n: int | None) -> Sample:
    """The same ``n`` images of a split for every model, drawn once at random; all of them if there are no more."""
    total = len(split.labels)
    if n is None or n >= total:
        return Sample(torch.arange(total), split)
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(EVAL_SEED))[:n].sort().values
    here = drawn.to(split.labels.device)
    return Sample(drawn, Split(split.images[here], split.labels[here]))


def to_float(images: Tensor) -> Images:
    """Bytes 0..255 as floats in [0, 1]."""
    return images.float() / 255


def to_device(split: Split, device: torch.device) -> Split:
    """The split on a device; on the CPU it stays the read-only memory map."""
    return Split(split.images.to(device), split.labels.to(device))


def best_device() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
