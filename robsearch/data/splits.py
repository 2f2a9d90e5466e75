"""Drawing the splits of a set: stratified, from streams with a fixed seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from robsearch.errors import Condition, is_whole, problems_of, refused, share
from robsearch.protocols import ImageSpec, Split

Indices: TypeAlias = Int[np.ndarray, "_"]


class Parts(NamedTuple):
    """A split whose images are read while they are written: uint8 ``(m, c, h, w)``, part by part,
    in the order of the labels."""

    images: Iterable[Tensor]
    labels: Tensor


Held = TypeVar("Held", Split, Parts)
"""A split whose images are there, or are read part by part."""

BY_SEED = "seed"
"""A ``draw`` of a data set that the recipe's seed resolves."""

_WORD = 2**32


@runtime_checkable
class Drawn(Protocol):
    """A data set whose splits and wrong labels are drawn."""

    @property
    def spec(self) -> ImageSpec:
        """As that of a ``Dataset``."""
        ...

    @property
    def label_noise(self) -> float:
        """The share of the labels of ``train`` that are wrong."""
        ...

    @property
    def noisy_val(self) -> bool:
        """Whether that is so of ``val`` too."""
        ...

    @property
    def draw(self) -> int | str:
        """The number of the draw, or ``seed``."""
        ...


def drawn_conditions(label_noise: Any, draw: Any, noisy_val: Any) -> Iterator[Condition]:
    """What the fields must be that say how a data set is drawn."""
    yield share("label_noise", label_noise, "give the share of wrong labels, such as 0.3")
    fits = draw == BY_SEED or (is_whole(draw) and 0 <= draw < _WORD**2)
    expected = f"draw {BY_SEED!r}, or a whole number from 0 on"
    yield Condition(fits, expected, repr(draw), "0 is the draw of every set by default")
    is_bool = isinstance(noisy_val, bool)
    yield Condition(is_bool, "noisy_val as a bool", repr(noisy_val), "pass True or False")


def seeded(purpose: int, draw: int | str = 0) -> np.random.RandomState:
    """A stream per purpose and draw: 0 splits, 1 wrong labels of ``train``, 2 those of ``val``.
    NumPy promises never to change RandomState's streams.

    Raises:
        InputError: the draw is ``seed``, for only a recipe knows its seed.
    """
    if isinstance(draw, str):
        do = "read recipe.resolved_data, or pass a number"
        raise refused("a data set whose draw has a number", f"draw={draw!r}", do)
    if draw == 0:
        return np.random.RandomState(purpose)
    return np.random.RandomState([purpose, draw % _WORD, draw // _WORD])


def with_wrong_labels(splits: Mapping[str, Held], dataset: Drawn) -> dict[str, Held]:
    """The splits, with exactly ``round(label_noise * images)`` labels of ``train``, and of ``val``
    where it is ``noisy_val``, replaced by another class, uniformly at random."""
    noisy = dict(splits)
    if dataset.label_noise == 0:
        return noisy
    for purpose, name in ((1, "train"), (2, "val")):
        if name == "train" or dataset.noisy_val:
            random = seeded(purpose, dataset.draw)
            labels = splits[name].labels.clone()
            wrong = _wrong(dataset, len(labels), random)
            classes = dataset.spec.num_classes
            # A shift of 1 to classes - 1 places never gives an image its own label.
            shift = torch.from_numpy(random.randint(1, classes, size=len(wrong)))
            labels[wrong] = (labels[wrong] + shift) % classes
            noisy[name] = splits[name]._replace(labels=labels)
    return noisy


def wrong_labels(dataset: object, images: int) -> Bool[Tensor, "n"] | None:
    """Which labels of ``train`` are wrong, in its order; None where none is, or a set of another
    kind does not say.

    Args:
        dataset: that ``train`` is of.
        images: in ``train``.
    """
    if not isinstance(dataset, Drawn) or dataset.label_noise == 0:
        return None
    wrong = torch.zeros(images, dtype=torch.bool)
    wrong[_wrong(dataset, images, seeded(1, dataset.draw))] = True
    return wrong


def _wrong(dataset: Drawn, images: int, random: np.random.RandomState) -> Indices:
    return random.permutation(images)[: round(dataset.label_noise * images)]


def draw(
    labels: Indices,
    pool: Indices,
    n: int,
    random: np.random.RandomState,
) -> tuple[Indices, Indices]:
    """``n`` members of ``pool`` in random order, and the rest sorted.

    Each class gets its proportional share, rounded to a neighbour by the method of largest
    remainders: it is never a whole image off.
    """
    labels_of_pool = labels[pool]
    classes, sizes = np.unique(labels_of_pool, return_counts=True)
    shares, remainders = np.divmod(n * sizes, len(pool))
    # What rounding down left over goes to the classes with the largest remainders.
    left_over = n - shares.sum()
    largest_first = np.argsort(-remainders, kind="stable")
    shares[largest_first[:left_over]] += 1
    by_class = []
    for label, size in zip(classes, shares, strict=True):
        members = pool[labels_of_pool == label]
        by_class.append(random.permutation(members)[:size])
    chosen = random.permutation(np.concatenate(by_class))
    return chosen, np.setdiff1d(pool, chosen)


def take(
    images: UInt8[np.ndarray, "n c h w"],
    labels: Indices,
    chosen: Indices,
) -> Split:
    """The chosen images and their labels as a split."""
    return Split(
        torch.from_numpy(images[chosen]),
        torch.from_numpy(labels[chosen]),
    )


def count_problem(
    name: str,
    value: Any,
    low: int,
    high: int,
    why: str,
) -> list[str]:
    """What is wrong with a number of images, if anything: at most one sentence."""
    fits = is_whole(value) and low <= value <= high
    expected = f"{name} to be a whole number from {low} to {high}"
    return problems_of((fits, expected, repr(value), why))
