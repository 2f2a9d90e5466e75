"""Judging a model on a split: in chunks that fit into memory, from the same attack starts for every model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from robsearch.measures import Rates, rates
from robsearch.memory import out_of_memory
from robsearch.protocols import Attack, Images, Labels, Metrics, Split
from robsearch.wording import counted

EVAL_SEED = 0
"""Every trial is judged from the same attack starts, so that trials are compared like with like."""
EVAL_CHUNK = 1000
RATES = {
    "natural_accuracy": "natural",
    "robust_accuracy": "robust",
    "stability": "stable",
    "wrong_to_right": "wrong_to_right",
}
"""Metric names of the accuracy family, and the fields of ``Rates`` they average."""

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


def all_rates(model: nn.Module, split: Split, attack: Attack) -> Rates:
    """The rates of each image of a split; without the perturbed images, of which there may be too many."""

    def without_images(x: Images, y: Labels) -> Rates:
        return rates(model, x, y, attack)._replace(x_adv=x[:0])

    return Rates(*map(torch.cat, zip(*in_chunks(split, without_images), strict=True)))


def in_chunks(split: Split, work: Callable[[Images, Labels], T], size: int = EVAL_CHUNK) -> list[T]:
    """What ``work`` makes of images (as floats) and labels, chunk by chunk, with torch seeded by ``EVAL_SEED``.

    Where the device's memory does not do, the chunk is halved, with a warning: from there on attacks start
    elsewhere than for a model that fits.
    """
    done, first = [], 0
    with torch.random.fork_rng(devices=[split.images.device] if split.images.is_cuda else []):
        torch.manual_seed(EVAL_SEED)
        while first < len(split.labels):
            part = slice(first, first + size)
            try:
                done.append(work(to_float(split.images[part]), split.labels[part]))
                first += size
            except RuntimeError as error:
                if size == 1 or not out_of_memory(error):
                    raise
                size = min(size, len(split.labels) - first) // 2 or 1
                warnings.warn(f"out of memory: going on with {counted(size, 'image')} at a time", stacklevel=2)
    return done


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
