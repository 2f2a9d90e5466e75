"""The data sets: which images, which splits. Read from scikit-learn or torchvision, never
downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
from jaxtyping import UInt8

from robsearch.data.remote import is_remote, local_copy, root_problems
from robsearch.data.splits import (
    Indices,
    count_problem,
    draw,
    drawn_conditions,
    seeded,
    take,
    with_wrong_labels,
)
from robsearch.errors import InputError, counted, problems_of, refusal, refuse
from robsearch.identity import LATER, sparse_repr
from robsearch.protocols import ImageSpec, Split

_CLASSES = 10
_ROOT = "ROBSEARCH_DATA"
_IDX = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


@final
@dataclass(frozen=True)
class Digits:
    """Handwritten digits (scikit-learn's ``load_digits``): 1,797 grey images of 8x8 pixels, 10
    classes.

    Small enough for a laptop and part of scikit-learn, so nothing is downloaded. The source's
    values 0..16 become ``round(255 * value / 16)``. The split is stratified with a fixed seed; its
    images are in random order.

    Attributes:
        train: training images, 10 to 1,777; the rest is halved into ``val`` and ``test`` (one more
            if odd).
        label_noise: share of the training labels replaced by another class, uniformly at random, 0
            to 1. Exactly ``round(label_noise * train)`` labels; images and other splits do not
            depend on it.
        noisy_val: whether the same share of the labels of ``val`` is wrong too.
        draw: which draw of ``train``, ``val`` and wrong labels; ``test`` is the same in all (see
            ``robsearch.data``).

    Raises:
        InputError: a field is out of its range.
    """

    train: int = 500
    label_noise: int | float = 0.0
    noisy_val: bool = field(default=False, metadata=LATER)
    draw: int | Literal["seed"] = field(default=0, metadata=LATER)

    IMAGES: ClassVar[int] = 1797

    __repr__ = sparse_repr

    def __post_init__(self) -> None:
        most = self.IMAGES - 2 * _CLASSES
        why = "leave at least one image of each class to every split"
        problems = count_problem("train", self.train, _CLASSES, most, why)
        drawn = drawn_conditions(self.label_noise, self.draw, self.noisy_val)
        refuse(problems + problems_of(*drawn))

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
        random = seeded(0)
        train, others = draw(labels, np.arange(len(labels)), self.train, random)
        val, test = draw(labels, others, len(others) // 2, random)
        test = random.permutation(test)
        if self.draw != 0:
            # What is not in test is shared out anew.
            random = seeded(0, self.draw)
            pool = np.sort(np.concatenate([train, val]))
            train, val = draw(labels, pool, self.train, random)
            val = random.permutation(val)
        splits = {
            "train": take(images, labels, train),
            "val": take(images, labels, val),
            "test": take(images, labels, test),
        }
        return with_wrong_labels(splits, self)


@dataclass(frozen=True)
class _FromTorchvision:
    """What the sets of torchvision share; a subclass bears torchvision's name for the set.

    ``FILES`` lie in ``FOLDER`` of the root; ``PARTS`` and ``LABELS`` are torchvision's names for
    the training and test set and for the labels; ``DOWNLOADS`` holds the arguments of each call
    that downloads a part.

    A file in the store is named by the source of the subclass, docstring and all, among others; so
    what is new to all of them is said here, lest every node builds its files anew:

    Attributes:
        label_noise: share of the labels of ``train`` that is another class, uniformly at random, 0
            to 1: exactly ``round(label_noise * images)``. Images do not depend on it.
        noisy_val: whether the same share of the labels of ``val`` is wrong too. Those of ``test``
            never are.
        draw: which draw of ``train``, ``val`` and wrong labels; ``test`` is the same in all (see
            ``robsearch.data``).
    """

    root: str | None = field(default=None, compare=False)
    train: int | None = None
    val: int = 5000
    test: int | None = None
    label_noise: float = field(default=0.0, metadata=LATER)
    noisy_val: bool = field(default=False, metadata=LATER)
    draw: int | Literal["seed"] = field(default=0, metadata=LATER)

    TRAIN_IMAGES: ClassVar[int]
    TEST_IMAGES: ClassVar[int] = 10_000
    FOLDER: ClassVar[str]
    FILES: ClassVar[tuple[str, ...]]
    SPEC: ClassVar[ImageSpec]
    PARTS: ClassVar[tuple[Mapping[str, object], Mapping[str, object]]] = (
        {"train": True},
        {"train": False},
    )
    LABELS: ClassVar[str] = "targets"
    DOWNLOADS: ClassVar[tuple[str, ...]] = ("",)

    def __init_subclass__(cls) -> None:
        # A dataclass leaves a ``__repr__`` alone that it finds in the class itself.
        cls.__repr__ = sparse_repr  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        total = self.TRAIN_IMAGES
        least = self.SPEC.num_classes
        images = counted(total, "image")
        why = f"train (None: all that val leaves) and val share {images}, at least {least} each"
        problems = count_problem("val", self.val, least, total - least, why)
        if self.train is not None:
            most = total - least if problems else total - self.val
            problems += count_problem("train", self.train, least, most, why)
        if self.test is not None:
            most = self.TEST_IMAGES
            problems += count_problem("test", self.test, least, most, "None keeps them all")
        drawn = drawn_conditions(self.label_noise, self.draw, self.noisy_val)
        refuse(problems + problems_of(*drawn) + root_problems(self.root))

    @property
    def spec(self) -> ImageSpec:
        """Shape, classes and the customary mean and deviation per channel of the full training
        set."""
        return self.SPEC

    def read(self) -> Mapping[str, Split]:
        """The splits ``train``, ``val`` and ``test`` (whole, torchvision's test set in its own
        order).

        Raises:
            InputError: the data is not there; names the folder looked in and how to get the data.
        """
        root = self.root or os.environ.get(_ROOT)
        if not root:
            raise InputError(self._missing("neither root nor ROBSEARCH_DATA", "/data"))
        if is_remote(root):
            files = [f"{self.FOLDER}/{file}".lstrip("/") for file in self.FILES]
            folder = local_copy(root, files)
        else:
            folder = Path(root).expanduser().absolute()
        images, labels = self._source(root, folder, 0)
        random = seeded(0, self.draw)
        # val is drawn first, so that it is the same whatever train.
        val, pool = draw(labels, np.arange(len(labels)), self.val, random)
        train, _ = draw(labels, pool, len(pool) if self.train is None else self.train, random)
        test_images, test_labels = self._source(root, folder, 1)
        test = np.arange(len(test_labels))
        if self.test is not None:
            test, _ = draw(test_labels, test, self.test, seeded(0))
        splits = {
            "train": take(images, labels, train),
            "val": take(images, labels, val),
            "test": take(test_images, test_labels, test),
        }
        return with_wrong_labels(splits, self)

    def _source(
        self, root: str, folder: Path, part: int
    ) -> tuple[UInt8[np.ndarray, "n c h w"], Indices]:
        import torchvision

        make: Any = getattr(torchvision.datasets, type(self).__name__)
        try:
            source = make(folder, **self.PARTS[part])
        except RuntimeError as problem:
            got = f"no complete copy in {folder / self.FOLDER}"
            if is_remote(root):
                got = f"no complete copy in {root} (copied to {folder / self.FOLDER})"
            raise InputError(self._missing(got, root)) from problem
        images = np.asarray(source.data)
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[1:] != self.SPEC.shape:
            images = images.transpose(0, 3, 1, 2)
        return images, np.asarray(getattr(source, self.LABELS), dtype=np.int64)

    def _missing(self, got: str, root: str) -> str:
        name = type(self).__name__
        holds = self.FOLDER or " and ".join(self.FILES)
        to = "/data" if is_remote(root) else Path(root).expanduser().absolute()
        calls = "; ".join(
            f"torchvision.datasets.{name}('{to}', {part}download=True)" for part in self.DOWNLOADS
        )
        do = (
            f"set {_ROOT} (or pass root=...) to a folder that has it, or download it: "
            f'python -c "import torchvision; {calls}"'
        )
        if is_remote(root):
            do += " and copy it there"
        return refusal(f"{name} in a folder that holds {holds}", got, do)


@final
@dataclass(frozen=True)
class MNIST(_FromTorchvision):
    """Handwritten digits: 60,000 + 10,000 grey images of 28x28 pixels, 10 classes.

    Attributes:
        root: the folder that holds ``MNIST/raw``, or its URI (``s3://bucket/folder``, ``gs://...``;
            see ``robsearch.data.remote``), whose files are copied once to the node's cache; None:
            the environment variable ROBSEARCH_DATA. Where the data lies is not what it is: two sets
            that differ in ``root`` are equal.
        train: keep only this many training images, stratified; None: all that ``val`` leaves.
        val: images of torchvision's training set that form ``val``, stratified; the same whatever
            ``train``.
        test: keep only this many test images, stratified; None: all.

    Raises:
        InputError: ``train``, ``val`` or ``test`` do not fit the set, or ``root`` has a password in
            it.
    """

    TRAIN_IMAGES: ClassVar[int] = 60_000
    FOLDER: ClassVar[str] = "MNIST/raw"
    FILES: ClassVar[tuple[str, ...]] = _IDX
    SPEC: ClassVar[ImageSpec] = ImageSpec((1, 28, 28), _CLASSES, (0.1307,), (0.3081,))


@final
@dataclass(frozen=True)
class FashionMNIST(_FromTorchvision):
    """Clothes (arXiv 1708.07747): 60,000 + 10,000 grey images of 28x28 pixels, 10 classes.

    Attributes and errors are those of ``MNIST``; ``root`` holds ``FashionMNIST/raw``.
    """

    TRAIN_IMAGES: ClassVar[int] = 60_000
    FOLDER: ClassVar[str] = "FashionMNIST/raw"
    FILES: ClassVar[tuple[str, ...]] = _IDX
    SPEC: ClassVar[ImageSpec] = ImageSpec((1, 28, 28), _CLASSES, (0.2860,), (0.3530,))


@final
@dataclass(frozen=True)
class CIFAR10(_FromTorchvision):
    """Small photographs (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels, 10
    classes.

    Attributes and errors are those of ``MNIST``; ``root`` holds ``cifar-10-batches-py``.
    """

    TRAIN_IMAGES: ClassVar[int] = 50_000
    FOLDER: ClassVar[str] = "cifar-10-batches-py"
    FILES: ClassVar[tuple[str, ...]] = (
        *(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        "batches.meta",
    )
    SPEC: ClassVar[ImageSpec] = ImageSpec(
        (3, 32, 32), _CLASSES, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    )


@final
@dataclass(frozen=True)
class CIFAR100(_FromTorchvision):
    """Small photographs (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels, 100
    (fine) classes.

    Attributes and errors are those of ``MNIST``; ``root`` holds ``cifar-100-python``. Mean and
    deviation are those of github.com/weiaicunzai/pytorch-cifar100, over all training pixels; its
    means are whole numbers of grey levels divided by 255 * 50,000 * 1024, as they must be.
    """

    TRAIN_IMAGES: ClassVar[int] = 50_000
    FOLDER: ClassVar[str] = "cifar-100-python"
    FILES: ClassVar[tuple[str, ...]] = ("train", "test", "meta")
    SPEC: ClassVar[ImageSpec] = ImageSpec(
        (3, 32, 32), 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    )


@final
@dataclass(frozen=True)
class SVHN(_FromTorchvision):
    """Street View house numbers (Netzer et al. 2011): 73,257 + 26,032 colour images of 32x32
    pixels, 10 digits.

    Attributes and errors are those of ``MNIST``; ``root`` itself holds ``train_32x32.mat`` and
    ``test_32x32.mat`` (``extra`` is not used). The class is the digit. Mean and deviation, over all
    training pixels, are those of github.com/PatrickZH/DeepCore.
    """

    TRAIN_IMAGES: ClassVar[int] = 73_257
    TEST_IMAGES: ClassVar[int] = 26_032
    FOLDER: ClassVar[str] = ""
    FILES: ClassVar[tuple[str, ...]] = ("train_32x32.mat", "test_32x32.mat")
    SPEC: ClassVar[ImageSpec] = ImageSpec(
        (3, 32, 32), _CLASSES, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    )
    PARTS: ClassVar[tuple[Mapping[str, object], Mapping[str, object]]] = (
        {"split": "train"},
        {"split": "test"},
    )
    LABELS: ClassVar[str] = "labels"
    DOWNLOADS: ClassVar[tuple[str, ...]] = ("split='train', ", "split='test', ")
