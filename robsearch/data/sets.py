"""The data sets: which images, which splits. Read from scikit-learn or torchvision, never downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Int, UInt8

from robsearch.errors import InputError, refusal
from robsearch.protocols import ImageSpec, Split

Indices: TypeAlias = Int[np.ndarray, "_"]

_CLASSES = 10
_ROOT = "ROBSEARCH_DATA"


def _seeded(purpose: int) -> np.random.RandomState:
    """A stream per purpose: 0 splits, 1 label noise. NumPy promises never to change RandomState's streams."""
    return np.random.RandomState(purpose)


def _draw(labels: Indices, pool: Indices, n: int, random: np.random.RandomState) -> tuple[Indices, Indices]:
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


def _split(images: UInt8[np.ndarray, "n c h w"], labels: Indices, chosen: Indices) -> Split:
    return Split(torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]))


def _count_problem(name: str, value: object, low: int, high: int, why: str) -> list[str]:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return []
    return [refusal(f"{name} to be a whole number from {low} to {high}", repr(value), why)]


@final
@dataclass(frozen=True)
class Digits:
    """Handwritten digits (scikit-learn's ``load_digits``): 1,797 grey images of 8x8 pixels, 10 classes.

    Small enough for a laptop and part of scikit-learn, so nothing is downloaded. The source's values 0..16
    become ``round(255 * value / 16)``. The split is stratified with a fixed seed; its images are in random
    order.

    Attributes:
        train: training images, 10 to 1,777; the rest is halved into ``val`` and ``test`` (one more if odd).
        label_noise: share of the training labels replaced by another class, uniformly at random, 0 to 1.
            Exactly ``round(label_noise * train)`` labels; images and other splits do not depend on it.

    Raises:
        InputError: a field is out of its range.
    """

    train: int = 500
    label_noise: int | float = 0.0

    IMAGES: ClassVar[int] = 1797

    def __post_init__(self) -> None:
        most = self.IMAGES - 2 * _CLASSES
        why = "leave at least one image of each class to every split"
        problems = _count_problem("train", self.train, _CLASSES, most, why)
        if not (isinstance(self.label_noise, int | float) and 0 <= self.label_noise <= 1):
            do = "give the share of wrong labels, such as 0.3"
            problems.append(refusal("label_noise in [0, 1]", repr(self.label_noise), do))
        if problems:
            raise InputError(*problems)

    @property
    def spec(self) -> ImageSpec:
        """One channel of 8x8; mean and deviation of the pixels of the default training split."""
        return ImageSpec((1, 8, 8), _CLASSES, (0.3033,), (0.3745,))

    def read(self) -> Mapping[str, Split]:
        """The splits ``train``, ``val`` and ``test``, from scikit-learn's own copy."""
        from sklearn.datasets import load_digits

        source = load_digits()
        images = np.rint(source.images * 255 / 16).astype(np.uint8)[:, None]
        labels = source.target.astype(np.int64)
        random = _seeded(0)
        train, rest = _draw(labels, np.arange(len(labels)), self.train, random)
        val, rest = _draw(labels, rest, len(rest) // 2, random)
        noisy = self._with_noise(labels, train)
        return {
            "train": _split(images, noisy, train),
            "val": _split(images, labels, val),
            "test": _split(images, labels, random.permutation(rest)),
        }

    def _with_noise(self, labels: Indices, train: Indices) -> Indices:
        random = _seeded(1)
        wrong = random.permutation(train)[: round(self.label_noise * len(train))]
        noisy = labels.copy()
        noisy[wrong] = (labels[wrong] + random.randint(1, _CLASSES, size=len(wrong))) % _CLASSES
        return noisy


@dataclass(frozen=True)
class _FromTorchvision:
    """What MNIST, FashionMNIST and CIFAR10 share; a subclass bears torchvision's name for the set."""

    root: str | None = field(default=None, compare=False)
    train: int | None = None
    val: int = 5000

    TRAIN_IMAGES: ClassVar[int]
    FOLDER: ClassVar[str]
    SPEC: ClassVar[ImageSpec]

    def __post_init__(self) -> None:
        total = self.TRAIN_IMAGES
        why = f"train (None: all that val leaves) and val share {total} images, at least {_CLASSES} each"
        problems = _count_problem("val", self.val, _CLASSES, total - _CLASSES, why)
        if self.train is not None:
            left = total - _CLASSES if problems else total - self.val
            problems += _count_problem("train", self.train, _CLASSES, left, why + " (None: all that val leaves)")
        if problems:
            raise InputError(*problems)

    @property
    def spec(self) -> ImageSpec:
        """Shape, classes and the customary mean and deviation per channel of the full training set."""
        return self.SPEC

    def read(self) -> Mapping[str, Split]:
        """The splits ``train``, ``val`` and ``test`` (torchvision's test set in its own order).

        Raises:
            InputError: the data is not there; names the folder looked in and how to get the data.
        """
        images, labels = self._source(train=True)
        random = _seeded(0)
        val, rest = _draw(labels, np.arange(len(labels)), self.val, random)
        train, _ = _draw(labels, rest, len(rest) if self.train is None else self.train, random)
        test_images, test_labels = self._source(train=False)
        return {
            "train": _split(images, labels, train),
            "val": _split(images, labels, val),
            "test": _split(test_images, test_labels, np.arange(len(test_labels))),
        }

    def _source(self, *, train: bool) -> tuple[UInt8[np.ndarray, "n c h w"], Indices]:
        import torchvision

        root = self.root or os.environ.get(_ROOT)
        if not root:
            raise InputError(self._missing("neither root nor ROBSEARCH_DATA", "/data"))
        folder = Path(root).expanduser().absolute()
        try:
            source: Any = getattr(torchvision.datasets, type(self).__name__)(folder, train=train, download=False)
        except RuntimeError as problem:
            got = f"no complete copy in {folder / self.FOLDER}"
            raise InputError(self._missing(got, str(folder))) from problem
        images = np.asarray(source.data)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        return images, np.asarray(source.targets, dtype=np.int64)

    def _missing(self, got: str, root: str) -> str:
        name = type(self).__name__
        return refusal(
            f"{name} in a folder that holds {self.FOLDER}",
            got,
            f"set {_ROOT} (or pass root=...) to a folder that has it, or download it: "
            f"python -c \"import torchvision; torchvision.datasets.{name}('{root}', download=True)\"",
        )


@final
@dataclass(frozen=True)
class MNIST(_FromTorchvision):
    """Handwritten digits: 60,000 + 10,000 grey images of 28x28 pixels, 10 classes.

    Attributes:
        root: the folder that holds ``MNIST/raw``; None: the environment variable ROBSEARCH_DATA. Where the
            data lies is not what it is: two sets that differ in ``root`` are equal.
        train: keep only this many training images, stratified; None: all that ``val`` leaves.
        val: images of torchvision's training set that form ``val``, stratified; the same whatever ``train``.

    Raises:
        InputError: ``train`` and ``val`` do not fit the set.
    """

    TRAIN_IMAGES: ClassVar[int] = 60_000
    FOLDER: ClassVar[str] = "MNIST/raw"
    SPEC: ClassVar[ImageSpec] = ImageSpec((1, 28, 28), _CLASSES, (0.1307,), (0.3081,))


@final
@dataclass(frozen=True)
class FashionMNIST(_FromTorchvision):
    """Clothes (arXiv 1708.07747): 60,000 + 10,000 grey images of 28x28 pixels, 10 classes.

    Attributes and errors are those of ``MNIST``; ``root`` holds ``FashionMNIST/raw``.
    """

    TRAIN_IMAGES: ClassVar[int] = 60_000
    FOLDER: ClassVar[str] = "FashionMNIST/raw"
    SPEC: ClassVar[ImageSpec] = ImageSpec((1, 28, 28), _CLASSES, (0.2860,), (0.3530,))


@final
@dataclass(frozen=True)
class CIFAR10(_FromTorchvision):
    """Small photographs (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels, 10 classes.

    Attributes and errors are those of ``MNIST``; ``root`` holds ``cifar-10-batches-py``.
    """

    TRAIN_IMAGES: ClassVar[int] = 50_000
    FOLDER: ClassVar[str] = "cifar-10-batches-py"
    SPEC: ClassVar[ImageSpec] = ImageSpec((3, 32, 32), _CLASSES, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
