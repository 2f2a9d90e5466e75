"""The sets hold what their sources hold, split as promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from small_images import rows, same, write_cifar100, write_svhn

from robsearch import MLP, Recipe
from robsearch.data import CIFAR10, CIFAR100, MNIST, SVHN, Digits, FashionMNIST
from robsearch.errors import InputError
from robsearch.protocols import Dataset, Split

SETS = (MNIST, FashionMNIST, CIFAR10, CIFAR100, SVHN)


@pytest.fixture(params=SETS)
def real(request: pytest.FixtureRequest, data_root: Path) -> type[CIFAR10]:
    """Each set whose real images are there."""
    kind: type[CIFAR10] = request.param
    if not (data_root / kind.FOLDER / kind.FILES[0]).exists():
        pytest.skip(f"ROBSEARCH_DATA has no {kind.__name__}")
    return kind


@pytest.mark.parametrize("dataset", [Digits(), *(kind() for kind in SETS)], ids=repr)
def test_a_set_fits_the_protocol(dataset: Dataset) -> None:
    assert isinstance(dataset, Dataset)
    assert len(dataset.spec.mean) == len(dataset.spec.std) == dataset.spec.shape[0]


@pytest.mark.parametrize("train", [10, 123, 500, 1777])
def test_digits_are_all_of_the_source_once(train: int) -> None:
    source = load_digits()
    values = np.array([round(v * 255 / 16) for v in range(17)], dtype=np.uint8)
    splits = Digits(train=train).read()
    images = torch.from_numpy(values[source.images.astype(int)][:, None])
    assert rows(*splits.values()) == rows(Split(images, torch.from_numpy(source.target)))
    sizes = [len(split.labels) for split in splits.values()]
    assert sizes == [train, (1797 - train) // 2, (1798 - train) // 2]


@pytest.mark.parametrize("train", [10, 123, 500, 1777])
def test_digits_splits_are_stratified_within_one_image(train: int) -> None:
    whole = np.bincount(load_digits().target)
    for split in Digits(train=train).read().values():
        share = whole * len(split.labels) / 1797
        assert np.abs(split.labels.bincount(minlength=10).numpy() - share).max() < 1.0 + 1e-9


def test_digits_read_the_same_each_time_in_no_special_order() -> None:
    assert same(Digits().read(), Digits().read())
    labels = Digits().read()["val"].labels
    assert labels[:100].unique().numel() == 10
    assert not torch.equal(labels, labels.sort().values)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.333, 1.0])
def test_label_noise_changes_exactly_its_share_of_train(share: float) -> None:
    clean, noisy = Digits().read(), Digits(label_noise=share).read()
    assert int((clean["train"].labels != noisy["train"].labels).sum()) == round(share * 500)
    assert torch.equal(clean["train"].images, noisy["train"].images)
    for name in ("val", "test"):
        assert same({name: clean[name]}, {name: noisy[name]})


def test_wrong_labels_are_uniform_over_the_other_classes() -> None:
    clean, noisy = Digits(train=1777).read(), Digits(train=1777, label_noise=1.0).read()
    shift = (noisy["train"].labels - clean["train"].labels) % 10
    counts = shift.bincount(minlength=10)
    assert counts[0] == 0
    expected = 1777 / 9
    assert (
        float(((counts[1:] - expected) ** 2 / expected).sum()) < 26.1
    )  # chi2, 8 degrees, p = 0.001


# --- draws and wrong labels ---


def small(kind: type[CIFAR10], **how: Any) -> Any:
    return kind(train=200, val=100, test=50, **how)


@pytest.fixture(params=["Digits", "SVHN"])
def drawn(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Makes one of the sets with given fields; SVHN has 400 made-up images to draw from."""
    if request.param == "Digits":
        return partial(Digits, train=200)
    write_svhn(tmp_path, monkeypatch, train=400)
    return partial(SVHN, root=str(tmp_path), train=200, val=100)


def test_val_is_noisy_where_it_is_told_to_be_and_test_never_is(drawn: Callable[..., Any]) -> None:
    clean = drawn().read()
    for noisy_val, wrong in ((False, 0), (True, round(0.3 * len(clean["val"].labels)))):
        noisy = drawn(label_noise=0.3, noisy_val=noisy_val).read()
        changed = {name: int((noisy[name].labels != clean[name].labels).sum()) for name in clean}
        assert changed == {"train": 60, "val": wrong, "test": 0}
        assert all(torch.equal(noisy[name].images, clean[name].images) for name in clean)


def test_a_draw_shares_out_the_same_images_anew_and_leaves_test_alone(
    drawn: Callable[..., Any],
) -> None:
    draws = [drawn(draw=draw, label_noise=0.3, noisy_val=True).read() for draw in (0, 1, 2, 2**33)]
    clean = [drawn(draw=draw).read() for draw in (0, 1, 2, 2**33)]
    for made, truth in zip(draws, clean, strict=True):
        assert same({"test": made["test"]}, {"test": clean[0]["test"]})
        assert same({"": truth["train"]}, {"": truth["train"]})
        used = rows(truth["train"], truth["val"])
        assert len(set(used)) == len(used)
        assert not set(used) & set(rows(truth["test"]))
        assert len(truth["train"].labels) == 200
        assert int((made["train"].labels != truth["train"].labels).sum()) == 60
    assert len({tuple(rows(made["train"])) for made in clean}) == len(clean)
    whole = [rows(truth["train"], truth["val"]) for truth in clean]
    if drawn.func is Digits:
        assert whole[0] == whole[1] == whole[2]
    repeated = drawn(draw=1, label_noise=0.3, noisy_val=True).read()
    assert same(repeated, draws[1])


def test_draws_of_one_set_share_few_training_images(data_root: Path) -> None:
    """200 of 60,000 images, drawn twice: 200 * 200 / 60,000 = 0.7 in common on average."""
    if not (data_root / MNIST.FOLDER / MNIST.FILES[0]).exists():
        pytest.skip("ROBSEARCH_DATA has no MNIST")
    first, other = (small(MNIST, draw=draw).read() for draw in (0, 1))
    common = set(rows(first["train"])) & set(rows(other["train"]))
    assert len(common) < 10
    assert same({"test": first["test"]}, {"test": other["test"]})


@pytest.mark.usefixtures("unchecked")
def test_whether_val_is_noisy_is_a_bool() -> None:
    for value in ("no", 1):
        with pytest.raises(InputError, match="noisy_val as a bool"):
            Digits(noisy_val=value)  # type: ignore[arg-type]


def test_the_draw_of_a_seed_is_a_recipes_to_resolve(drawn: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"read recipe\.resolved_data, or pass a number"):
        drawn(draw="seed").read()
    made = Recipe(model=MLP(8), data=drawn(draw="seed", label_noise=0.3), seed=7)
    assert made.resolved_data == drawn(draw=7, label_noise=0.3)
    assert replace(made, seed=0).resolved_data == drawn(label_noise=0.3)
    given = replace(made, data=drawn(draw=7, label_noise=0.3))
    assert made.digest == given.digest != replace(made, seed=8).digest
    assert made.flat()["data.draw"] == 7


def test_the_text_of_a_set_of_before_is_what_it_was() -> None:
    assert repr(Digits()) == "Digits(train=500, label_noise=0.0)"
    assert repr(MNIST()) == "MNIST(root=None, train=None, val=5000, test=None)"
    assert repr(SVHN(draw="seed")).endswith("test=None, draw='seed')")


def test_spec_of_digits_is_its_training_pixels() -> None:
    pixels = Digits().read()["train"].images.double() / 255
    assert round(pixels.mean().item(), 4) == Digits().spec.mean[0]
    assert round(pixels.std().item(), 4) == Digits().spec.std[0]


def test_bad_fields_are_refused_all_at_once() -> None:
    with pytest.raises(InputError, match="from 10 to 1777, got 1778") as caught:
        Digits(train=1778, label_noise=1.5, draw=-1)
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError) as caught:
        CIFAR10(train=45_001, label_noise=-0.1, draw=-1)
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError, match="from 10 to 45000, got 45001"):
        CIFAR10(train=45_001)
    with pytest.raises(InputError, match="test to be a whole number from 10 to 26032, got 26033"):
        SVHN(test=26_033)
    with pytest.raises(InputError) as caught:
        MNIST(train=0, val=0)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("kind", SETS)
def test_missing_data_says_where_it_looked_and_what_to_do(
    kind: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBSEARCH_DATA", str(tmp_path))
    with pytest.raises(InputError) as caught:
        kind().read()
    for part in (
        str(tmp_path / kind.FOLDER),
        "ROBSEARCH_DATA",
        "root=",
        f"{kind.__name__}('{tmp_path}', ",
    ):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="elsewhere"):
        kind(root=str(tmp_path / "elsewhere")).read()
    monkeypatch.delenv("ROBSEARCH_DATA")
    with pytest.raises(InputError, match="got neither root nor ROBSEARCH_DATA"):
        kind().read()


@pytest.mark.parametrize("kind", SETS)
def test_the_files_of_a_set_are_those_torchvision_reads(kind: type[CIFAR10]) -> None:
    source = getattr(torchvision.datasets, kind.__name__)
    if kind is SVHN:
        expected = {source.split_list[part][1] for part in ("train", "test")}
    elif kind in (CIFAR10, CIFAR100):
        expected = {name for name, _ in source.train_list + source.test_list} | {
            source.meta["filename"]
        }
        assert source.base_folder == kind.FOLDER
    else:
        expected = {name.removesuffix(".gz") for name, _ in source.resources}
    assert set(kind.FILES) == expected


def test_cifar100_has_its_hundred_fine_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote = write_cifar100(tmp_path, monkeypatch)
    splits = CIFAR100(root=str(tmp_path), val=100).read()
    train, test = (Split(*map(torch.from_numpy, wrote[part])) for part in ("train", "test"))
    assert rows(splits["train"], splits["val"]) == rows(train)
    assert same({"": splits["test"]}, {"": test})
    assert splits["val"].labels.bincount().tolist() == [1] * 100
    with pytest.raises(InputError, match="val to be a whole number from 100 to 49900, got 99"):
        CIFAR100(val=99)


def test_svhn_has_upright_images_and_the_digit_as_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote = write_svhn(tmp_path, monkeypatch)
    splits = SVHN(root=str(tmp_path), val=10).read()
    train, test = (Split(*map(torch.from_numpy, wrote[part])) for part in ("train", "test"))
    assert rows(splits["train"], splits["val"]) == rows(train)
    assert same({"": splits["test"]}, {"": test})
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(
        InputError,
        match=r"holds train_32x32.mat and test_32x32.mat.*SVHN\(.*'train'.*SVHN\(.*'test'",
    ):
        SVHN(root=str(tmp_path), val=10).read()


def test_real_images_are_split_as_promised(real: type[CIFAR10]) -> None:
    some, all_ = real(train=1000, test=500).read(), real().read()
    total = real.TRAIN_IMAGES
    tested = 26_032 if real.__name__ == "SVHN" else 10_000
    assert [len(all_[name].labels) for name in ("train", "val", "test")] == [
        total - 5000,
        5000,
        tested,
    ]
    assert same({"val": some["val"]}, {"val": all_["val"]})
    assert set(rows(some["train"])) <= set(rows(all_["train"]))
    whole = all_["train"].labels.bincount() + all_["val"].labels.bincount()
    for split in (some["train"], all_["train"], all_["val"]):
        share = whole * len(split.labels) / total
        assert float((split.labels.bincount() - share).abs().max()) < 1.0 + 1e-3
    assert len(some["test"].labels) == 500
    assert set(rows(some["test"])) <= set(rows(all_["test"]))
    share = all_["test"].labels.bincount() * 500 / tested
    assert float((some["test"].labels.bincount() - share).abs().max()) < 1.0 + 1e-3


def test_spec_of_real_images_is_their_training_pixels(real: type[CIFAR10]) -> None:
    splits = real().read()
    images = torch.cat([splits["train"].images, splits["val"].images])
    assert images.shape[1:] == real().spec.shape
    for c in range(images.shape[1]):
        pixels = images[:, c].double() / 255
        assert pixels.mean().item() == pytest.approx(real().spec.mean[c], abs=1e-4)
        assert pixels.std().item() == pytest.approx(real().spec.std[c], abs=1e-4)
