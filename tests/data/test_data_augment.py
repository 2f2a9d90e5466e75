"""Augmentation crops, mirrors and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from robsearch.data import CropFlip
from robsearch.errors import InputError


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror() -> None:
    x = torch.rand(1, 2, 4, 3).expand(2000, -1, -1, -1)
    padded = torch.nn.functional.pad(x[0], [1] * 4)
    windows = [padded[:, i : i + 4, j : j + 3] for i in range(3) for j in range(3)]
    windows += [window.flip(2) for window in windows]
    out = CropFlip(padding=1)(x)
    hits = torch.stack([(out == window).flatten(1).all(1) for window in windows], 1)
    assert bool((hits.sum(1) == 1).all())
    expected = 2000 / 18
    assert (
        float(((hits.sum(0) - expected) ** 2 / expected).sum()) < 40.8
    )  # chi2, 17 degrees, p = 0.001


def test_without_padding_an_image_is_kept_or_mirrored() -> None:
    x = torch.rand(400, 3, 5, 5)
    out = CropFlip(padding=0)(x)
    kept, mirrored = ((out == y).flatten(1).all(1) for y in (x, x.flip(3)))
    assert bool((kept ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


def test_crop_flip_repeats_with_torch_s_seed_and_leaves_its_input() -> None:
    x = torch.rand(16, 1, 8, 8, dtype=torch.float64)
    before = x.clone()
    state = torch.get_rng_state()
    first, second = CropFlip()(x), CropFlip()(x)
    torch.set_rng_state(state)
    assert torch.equal(first, CropFlip()(x))
    assert not torch.equal(first, second)
    assert torch.equal(x, before)
    assert (first.dtype, first.shape) == (x.dtype, x.shape)


def test_without_flip_every_crop_is_an_unmirrored_window() -> None:
    x = torch.rand(1, 2, 4, 3).expand(900, -1, -1, -1)
    padded = torch.nn.functional.pad(x[0], [1] * 4)
    windows = [padded[:, i : i + 4, j : j + 3] for i in range(3) for j in range(3)]
    out = CropFlip(padding=1, flip=False)(x)
    hits = torch.stack([(out == window).flatten(1).all(1) for window in windows], 1).sum(0)
    assert int(hits.sum()) == 900
    assert float(((hits - 100) ** 2 / 100).sum()) < 26.1  # chi2, 8 degrees, p = 0.001


def test_without_padding_and_flip_nothing_changes() -> None:
    x = torch.rand(50, 3, 5, 5)
    assert torch.equal(CropFlip(padding=0, flip=False)(x), x)


def test_crop_flip_refuses_a_negative_padding() -> None:
    with pytest.raises(InputError, match="got -1"):
        CropFlip(padding=-1)
