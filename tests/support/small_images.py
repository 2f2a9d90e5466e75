"""Small image files as their sources lay them out, and what tests of data compare."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image

from robsearch.protocols import Split


def rows(*splits: Split) -> list[bytes]:
    """Every image with its label, as sortable bytes."""
    return sorted(
        image.tobytes() + bytes([label])
        for images, labels in splits
        for image, label in zip(images.numpy(), labels.tolist(), strict=True)
    )


def same(a: Mapping[str, Split], b: Mapping[str, Split]) -> bool:
    return list(a) == list(b) and all(
        torch.equal(a[k].images, b[k].images) and torch.equal(a[k].labels, b[k].labels) for k in a
    )


def write_cifar100(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Two images of each class for training and one for test, in torchvision's files; it expects no
    MD5 of them."""
    random, wrote = np.random.RandomState(0), {}
    (root / "cifar-100-python").mkdir(parents=True)
    for part, per_class in (("train", 2), ("test", 1)):
        images = random.randint(256, size=(100 * per_class, 3, 32, 32)).astype(np.uint8)
        labels = np.arange(100 * per_class) % 100
        batch = {"data": images.reshape(len(images), -1), "fine_labels": labels.tolist()}
        (root / "cifar-100-python" / part).write_bytes(pickle.dumps(batch))
        monkeypatch.setattr(torchvision.datasets.CIFAR100, f"{part}_list", [[part, None]])
        wrote[part] = images, labels
    meta = {"fine_label_names": [str(i) for i in range(100)]}
    (root / "cifar-100-python" / "meta").write_bytes(pickle.dumps(meta))
    expected = {"filename": "meta", "key": "fine_label_names", "md5": None}
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "meta", expected)
    return wrote


def write_svhn(
    root: Path, monkeypatch: pytest.MonkeyPatch, train: int = 40
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """``train`` + 20 images of digits in MATLAB files: 0 is labelled 10, the image's number is the
    last axis."""
    random, wrote = np.random.RandomState(0), {}
    for part, n in (("train", train), ("test", 20)):
        images, labels = (
            random.randint(256, size=(n, 3, 32, 32)).astype(np.uint8),
            np.arange(n) % 10,
        )
        file = f"{part}_32x32.mat"
        scipy.io.savemat(
            root / file,
            {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels, labels, 10)[:, None]},
        )
        monkeypatch.setitem(torchvision.datasets.SVHN.split_list, part, ["", file, None])
        wrote[part] = images, labels
    return wrote


def write_image(file: Path, pixels: np.ndarray) -> None:
    """An image file of pixels ``(h, w)`` or ``(h, w, 3)``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
