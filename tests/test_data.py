"""The sets hold what their sources hold, split as promised; the store shares it and survives damage."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.datasets import load_digits

from robsearch.data import CIFAR10, MNIST, CropFlip, Digits, FashionMNIST, digest, load
from robsearch.errors import InputError
from robsearch.protocols import Dataset, ImageSpec, Split

SETS = (MNIST, FashionMNIST, CIFAR10)
DATA = os.environ.get("ROBSEARCH_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="ROBSEARCH_DATA names no folder with the real images")


@dataclass(frozen=True)
class Stripes:
    """Four-pixel images whose value is their number; ``log`` gets a line for every read."""

    n: int = 6
    log: Path | None = field(default=None, compare=False)
    pause: float = field(default=0.0, compare=False)
    ends: tuple[object, ...] = ()

    @property
    def spec(self) -> ImageSpec:
        return ImageSpec((1, 2, 2), 3, (0.5,), (0.5,))

    def read(self) -> Mapping[str, Split]:
        time.sleep(self.pause)
        if self.log:
            with self.log.open("a") as log:
                log.write("read\n")
        images = torch.arange(self.n, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        return dict.fromkeys(("train", "val", "test"), Split(images, torch.arange(self.n) % 3))


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


def map_of(images: torch.Tensor) -> str:
    """The file behind a tensor's memory, as the kernel sees it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= images.data_ptr() < high:
            return line.split(maxsplit=5)[-1]
    return "no map"


# --- sets ---


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
    assert float(((counts[1:] - expected) ** 2 / expected).sum()) < 26.1  # chi2, 8 degrees, p = 0.001


def test_spec_of_digits_is_its_training_pixels() -> None:
    pixels = Digits().read()["train"].images.double() / 255
    assert round(pixels.mean().item(), 4) == Digits().spec.mean[0]
    assert round(pixels.std().item(), 4) == Digits().spec.std[0]


def test_bad_fields_are_refused_all_at_once() -> None:
    with pytest.raises(InputError, match="from 10 to 1777, got 1778") as caught:
        Digits(train=1778, label_noise=1.5)
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError, match="from 10 to 45000, got 45001"):
        CIFAR10(train=45_001)
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
    for part in (str(tmp_path / kind.FOLDER), "ROBSEARCH_DATA", "root=", "download=True"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="elsewhere"):
        kind(root=str(tmp_path / "elsewhere")).read()
    monkeypatch.delenv("ROBSEARCH_DATA")
    with pytest.raises(InputError, match="got neither root nor ROBSEARCH_DATA"):
        kind().read()


@needs_data
@pytest.mark.parametrize("kind", SETS)
def test_real_images_are_split_as_promised(kind: type[CIFAR10]) -> None:
    some, all_ = kind(train=1000).read(), kind().read()
    total = kind.TRAIN_IMAGES
    assert [len(all_[name].labels) for name in ("train", "val", "test")] == [total - 5000, 5000, 10_000]
    assert same({"val": some["val"]}, {"val": all_["val"]})
    assert set(rows(some["train"])) <= set(rows(all_["train"]))
    whole = all_["train"].labels.bincount() + all_["val"].labels.bincount()
    for split in (some["train"], all_["train"], all_["val"]):
        share = whole * len(split.labels) / total
        assert float((split.labels.bincount() - share).abs().max()) < 1.0 + 1e-3


@needs_data
@pytest.mark.parametrize("kind", SETS)
def test_spec_of_real_images_is_their_training_pixels(kind: type[CIFAR10]) -> None:
    splits = kind().read()
    images = torch.cat([splits["train"].images, splits["val"].images])
    assert images.shape[1:] == kind().spec.shape
    for c in range(images.shape[1]):
        pixels = images[:, c].double() / 255
        assert pixels.mean().item() == pytest.approx(kind().spec.mean[c], abs=1e-4)
        assert pixels.std().item() == pytest.approx(kind().spec.std[c], abs=1e-4)


# --- store ---


def test_load_gives_what_read_gives(tmp_path: Path) -> None:
    for dataset in (Digits(label_noise=0.2), Stripes()):
        built, mapped = load(dataset, tmp_path), load(dataset, tmp_path)
        assert same(built, mapped)
        assert same(mapped, dataset.read())
        assert mapped["train"].images.dtype == torch.uint8
        assert mapped["train"].labels.dtype == torch.int64


def test_the_cache_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBSEARCH_CACHE", str(tmp_path / "new" / "cache"))
    load(Stripes())
    assert (tmp_path / "new" / "cache" / f"Stripes-{digest(Stripes())}.arrow").is_file()


def test_loaded_splits_are_maps_of_the_file_and_copy_nothing(tmp_path: Path) -> None:
    load(Digits(), tmp_path)
    before = pa.total_allocated_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = load(Digits(), tmp_path)
    assert pa.total_allocated_bytes() == before
    file = tmp_path / f"Digits-{digest(Digits())}.arrow"
    if Path("/proc/self/maps").exists():
        assert {map_of(part) for split in splits.values() for part in split} == {str(file)}


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", ["image", "label", "truncated", "half", "empty", "foreign"])
def test_a_damaged_file_is_rebuilt_beside_the_old_one(tmp_path: Path, damage: str) -> None:
    truth = Digits().read()
    load(Digits(), tmp_path)
    file = next(tmp_path.glob("*.arrow"))
    good = file.read_bytes()
    at = {name: good.index(part.numpy().tobytes()[:400]) for name, part in truth["val"]._asdict().items()}
    bad = {
        "image": flipped(good, at["images"] + 100),
        "label": flipped(good, at["labels"] + 8),
        "truncated": good[:-1],
        "half": good[: len(good) // 2],
        "empty": b"",
        "foreign": b"not an Arrow file",
    }
    file.write_bytes(bad[damage])
    with file.open("rb") as old:
        with pytest.warns(UserWarning, match="is damaged .*rebuilding it from its source"):
            rebuilt = load(Digits(), tmp_path)
        assert old.read() == bad[damage]
    assert same(rebuilt, truth)
    assert file.read_bytes() == good


def test_a_map_outlives_the_replacement_of_its_file(tmp_path: Path) -> None:
    held = load(Digits(), tmp_path)
    file = next(tmp_path.glob("*.arrow"))
    other = tmp_path / "other"
    other.write_bytes(b"not an Arrow file")
    other.replace(file)
    with pytest.warns(UserWarning, match="damaged"):
        load(Digits(), tmp_path)
    assert same(held, Digits().read())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the kernel's list of maps (Linux)")
def test_processes_that_start_at_once_build_one_file(tmp_path: Path) -> None:
    dataset = Stripes(log=tmp_path / "log", pause=0.3)
    fork = multiprocessing.get_context("fork")
    start, inodes = fork.Barrier(3), fork.SimpleQueue()

    def work() -> None:
        start.wait(30)
        splits = load(dataset, tmp_path)
        inodes.put(os.stat(map_of(splits["train"].images)).st_ino if same(splits, dataset.read()) else 0)

    processes = [fork.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = {inodes.get() for _ in processes}
    assert found == {next(tmp_path.glob("*.arrow")).stat().st_ino}
    reads_to_compare = len(processes)
    assert len((tmp_path / "log").read_text().splitlines()) == 1 + reads_to_compare


def test_a_failed_read_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete copy"):
        load(CIFAR10(root=str(tmp_path)), tmp_path / "cache")
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_a_dead_builder_left_is_removed(tmp_path: Path) -> None:
    name = f".Stripes-{digest(Stripes())}.arrow"
    dead, alive = tmp_path / f"{name}.1-aa.tmp", tmp_path / f"{name}.2-bb.tmp"
    dead.touch()
    alive.touch()
    os.utime(dead, (0, 0))
    load(Stripes(), tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_a_cache_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"write the data cache in .*file/cache, got .*ROBSEARCH_CACHE"):
        load(Stripes(), tmp_path / "file" / "cache")


def test_the_digest_sees_every_field_that_changes_the_content() -> None:
    sets = [Digits(), Digits(train=501), Digits(label_noise=0.1), CIFAR10(), CIFAR10(val=4999), MNIST()]
    sets += [CIFAR10(train=99), FashionMNIST(), Stripes(), Stripes(n=7), Stripes(ends=(1,))]
    assert len({digest(dataset) for dataset in sets}) == len(sets)
    assert digest(CIFAR10(root="/a")) == digest(CIFAR10(root="/b")) == digest(CIFAR10())
    assert digest(Stripes(ends=(Digits(),))) != digest(Stripes(ends=(Digits(train=499),)))


def test_the_digest_tells_classes_of_one_name_apart() -> None:
    twin = dataclasses.make_dataclass("Stripes", [("n", int, 6)], bases=(Stripes,), frozen=True)
    elsewhere = dataclasses.make_dataclass("Stripes", [("n", int, 6)], bases=(Stripes,), frozen=True)
    twin.__module__, elsewhere.__module__ = "here", "there"
    assert len({digest(Stripes()), digest(twin()), digest(elsewhere())}) == 3


def test_a_field_without_a_lasting_name_is_refused() -> None:
    with pytest.raises(InputError, match="lasting name") as caught:
        digest(Stripes(ends=(object(), print)))
    assert len(caught.value.problems) == 2


@dataclass(frozen=True)
class Given(Stripes):
    """Splits handed in, to see them refused."""

    splits: Mapping[str, Split] = field(default_factory=dict, compare=False)

    def read(self) -> Mapping[str, Split]:
        return self.splits


def test_splits_that_do_not_fit_their_spec_are_refused_all_at_once(tmp_path: Path) -> None:
    good = Stripes().read()["train"]
    small = Split(good.images[:, :, :1], good.labels)
    with pytest.raises(InputError) as caught:
        load(Given(splits={"train": small, "val": good._replace(labels=good.labels + 1)}), tmp_path)
    expected = ("no test", "train.images to be torch.uint8 (6, 1, 2, 2)", "val.labels")
    assert len(caught.value.problems) == 3
    for part, problem in zip(expected, caught.value.problems, strict=True):
        assert part in problem
    empty = Split(good.images[:0], good.labels[:0])
    floats = good._replace(labels=good.labels.float())
    with pytest.raises(InputError) as caught:
        load(Given(splits={"train": empty, "val": floats, "test": good}), tmp_path)
    assert len(caught.value.problems) == 2


# --- augmentation ---


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
    assert float(((hits.sum(0) - expected) ** 2 / expected).sum()) < 40.8  # chi2, 17 degrees, p = 0.001


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


def test_crop_flip_refuses_a_negative_padding() -> None:
    with pytest.raises(InputError, match="got -1"):
        CropFlip(padding=-1)
