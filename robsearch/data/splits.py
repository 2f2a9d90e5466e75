"""Drawing the splits of a set: stratified, from streams with a fixed seed."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt8

from robsearch.errors import refusal
from robsearch.protocols import Split

Indices: TypeAlias = Int[np.ndarray, "_"]


def seeded(purpose: int) -> np.random.RandomState:
    """A stream per purpose: 0 splits, 1 label noise. NumPy promises never to change RandomState's streams."""
    return np.random.RandomState(purpose)


def draw(labels: Indices, pool: Indices, n: int, random: np.random.RandomState) -> tuple[Indices, Indices]:
    """``n`` members of ``pool`` in random order, and the rest sorted.

    Each class gets its proportional share, rounded to a neighbour by the method of largest remainders: it is
    never a whole image off.
    """
    classes, sizes = np.unique(labels[pool], return_counts=True)
    shares, remainders = np.divmod(n * sizes, len(pool))
    shares[np.argsort(-remainders, kind="stable")[: n - shares.sum()]] += 1
    members = (random.permutation(pool[labels[pool] == c]) for c in classes)
    chosen = random.permutation(np.concatenate([m[:k] for m, k in zip(members, shares, strict=True)]))
    return chosen, np.setdiff1d(pool, chosen)


def take(images: UInt8[np.ndarray, "n c h w"], labels: Indices, chosen: Indices) -> Split:
    """The chosen images and their labels as a split."""
    return Split(torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]))


def count_problem(name: str, value: object, low: int, high: int, why: str) -> list[str]:
    """What is wrong with a number of images, if anything: at most one sentence."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return []
    return [refusal(f"{name} to be a whole number from {low} to {high}", repr(value), why)]
