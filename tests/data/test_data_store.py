"""The Arrow store shares what a set reads, names it by its content, and survives damage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_images import same

from robsearch.data import (
    CIFAR10,
    CIFAR100,
    MNIST,
    SVHN,
    Digits,
    FashionMNIST,
    arrow_file,
    content_digest,
    content_digests,
    digest,
    load,
)
from robsearch.data.contents import facts_of
from robsearch.data.maps import release
from robsearch.data.splits import Parts
from robsearch.data.store import _open, _write
from robsearch.errors import InputError
from robsearch.protocols import ImageSpec, Split


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


def map_of(images: torch.Tensor) -> str:
    """The file behind a tensor's memory, as the kernel sees it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= images.data_ptr() < high:
            return line.split(maxsplit=5)[-1]
    return "no map"


def test_load_gives_what_read_gives(tmp_path: Path) -> None:
    for dataset in (Digits(label_noise=0.2), Stripes()):
        built, mapped = load(dataset, tmp_path), load(dataset, tmp_path)
        assert same(built, mapped)
        assert same(mapped, dataset.read())
        assert mapped["train"].images.dtype == torch.uint8
        assert mapped["train"].labels.dtype == torch.int64


def test_the_cache_folder_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    at = {
        name: good.index(part.numpy().tobytes()[:400])
        for name, part in truth["val"]._asdict().items()
    }
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


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="reads the kernel's list of maps (Linux)"
)
def test_processes_that_start_at_once_build_one_file(tmp_path: Path) -> None:
    dataset = Stripes(log=tmp_path / "log", pause=0.3)
    fork = multiprocessing.get_context("fork")
    start, inodes = fork.Barrier(3), fork.SimpleQueue()

    def work() -> None:
        start.wait(30)
        splits = load(dataset, tmp_path)
        inodes.put(
            os.stat(map_of(splits["train"].images)).st_ino if same(splits, dataset.read()) else 0
        )

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
    with pytest.raises(
        InputError, match=r"write the data cache in .*file/cache, got .*ROBSEARCH_CACHE"
    ):
        load(Stripes(), tmp_path / "file" / "cache")


def test_the_digest_sees_every_field_that_changes_the_content() -> None:
    sets = [
        Digits(),
        Digits(train=501),
        Digits(label_noise=0.1),
        CIFAR10(),
        CIFAR10(val=4999),
        MNIST(),
    ]
    sets += [CIFAR10(train=99), FashionMNIST(), Stripes(), Stripes(n=7), Stripes(ends=(1,))]
    assert len({digest(dataset) for dataset in sets}) == len(sets)
    assert digest(CIFAR10(root="/a")) == digest(CIFAR10(root="/b")) == digest(CIFAR10())
    assert digest(Stripes(ends=(Digits(),))) != digest(Stripes(ends=(Digits(train=499),)))


def test_files_of_before_keep_their_names_and_a_field_that_came_later_makes_another() -> None:
    """The names that these sets had before they could have wrong labels, or draws."""
    before = {
        MNIST(train=1000, val=500, test=2000): "f65ca1c25ce167d7",
        FashionMNIST(): "f9ad8f22e9c82f56",
        CIFAR10(): "a6da1981a7058a8d",
        CIFAR100(): "57fe1f178390d3ed",
        SVHN(): "2805ee78d95c2148",
    }
    assert {dataset: digest(dataset) for dataset in before} == before
    later = ({"label_noise": 0.1}, {"noisy_val": True}, {"draw": 1}, {"draw": 2})
    names = {digest(kind(**how)) for kind in (Digits, CIFAR10) for how in ({}, *later)}
    assert len(names) == 10


def test_the_digest_tells_classes_of_one_name_apart() -> None:
    twin = dataclasses.make_dataclass("Stripes", [("n", int, 6)], bases=(Stripes,), frozen=True)
    elsewhere = dataclasses.make_dataclass(
        "Stripes", [("n", int, 6)], bases=(Stripes,), frozen=True
    )
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
    kind: ImageSpec | None = field(default=None, compare=False)

    @property
    def spec(self) -> ImageSpec:
        return self.kind or super().spec

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


# --- the digest of the contents ---


def notes_changed(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Writes an Arrow file anew with other notes."""
    with pa.ipc.open_file(file.read_bytes()) as reader:
        notes = json.loads(reader.schema.metadata[b"robsearch"])
        change(notes)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    schema = batches[0].schema.with_metadata({b"robsearch": json.dumps(notes)})
    with pa.ipc.new_file(file.with_suffix(".new"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    file.with_suffix(".new").replace(file)


def as_written_before(notes: dict[str, Any]) -> None:
    """Files had the names of their splits and one checksum."""
    del notes["file"], notes["digests"]
    assert sorted(notes) == ["sha256", "splits"]


def test_the_content_digest_is_the_hash_of_types_shapes_and_bytes(tmp_path: Path) -> None:
    images = np.repeat(np.arange(6, dtype=np.uint8), 4).tobytes()
    labels = np.array([0, 1, 2, 0, 1, 2], dtype="<i8").tobytes()
    one = hashlib.sha256(b"uint8 (6, 1, 2, 2) int64\n" + images + labels).hexdigest()
    whole = hashlib.sha256(f"test\0{one}\ntrain\0{one}\nval\0{one}\n".encode()).hexdigest()
    assert content_digests(Stripes(), tmp_path) == {
        "train": one[:16],
        "val": one[:16],
        "test": one[:16],
        "all": whole[:16],
    }
    assert content_digest(Stripes(), tmp_path) == whole[:16]


def test_the_content_digest_of_the_digits_is_for_ever(tmp_path: Path) -> None:
    assert content_digest(Digits(train=100), tmp_path) == "12db38fa27832059"


def test_the_content_digest_is_the_same_whatever_reads_the_images(tmp_path: Path) -> None:
    names = content_digests(Digits(), tmp_path)
    given = Given(splits=dict(reversed(Digits().read().items())), kind=Digits().spec)
    assert digest(given) != digest(Digits())
    assert content_digests(given, tmp_path) == names
    assert list(names)[-1] == "all"


def test_the_content_digest_sees_every_change_of_a_split(tmp_path: Path) -> None:
    def digests(n: int, **changed: Split) -> dict[str, str]:
        return content_digests(Given(n=n, splits=good | changed), tmp_path)

    good = Stripes().read()
    images, labels = good["val"]
    other_image, other_label = images.clone(), labels.clone()
    other_image[5, 0, 1, 1] += 1
    other_label[5] -= 1
    turned = Split(images.flip(0), labels.flip(0))
    seen = [digests(1)]
    seen += [digests(2, val=Split(other_image, labels)), digests(3, val=Split(images, other_label))]
    seen += [
        digests(4, val=Split(images[:5], labels[:5])),
        digests(5, val=turned),
        digests(6, more=good["val"]),
    ]
    assert len({found["all"] for found in seen}) == len(seen)
    assert len({found["val"] for found in seen[:5]}) == 5
    assert {found["train"] for found in seen} == {seen[0]["train"]} == {seen[5]["more"]}
    swapped = digests(7, train=turned)
    assert (swapped["train"], swapped["val"]) == (seen[4]["val"], seen[4]["train"])
    assert swapped["all"] != seen[4]["all"]


def test_a_file_written_before_opens_as_it_is_and_has_the_same_content_digest(
    tmp_path: Path,
) -> None:
    truth = content_digests(Digits(), tmp_path)
    file = arrow_file(Digits(), tmp_path)
    notes_changed(file, as_written_before)
    written = file.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert content_digests(Digits(), tmp_path) == truth
        assert same(load(Digits(), tmp_path), Digits().read())
    assert file.read_bytes() == written
    at = written.index(Digits().read()["val"].labels.numpy().tobytes()[:400])
    file.write_bytes(flipped(written, at))
    with pytest.warns(UserWarning, match="is damaged .*rebuilding it from its source"):
        assert content_digests(Digits(), tmp_path) == truth


def test_versions_from_before_open_the_files_of_today(tmp_path: Path) -> None:
    """They compare the note ``sha256`` with the hash of the file's name and of all splits in a
    row."""
    load(Stripes(), tmp_path)
    file = arrow_file(Stripes(), tmp_path)
    total = hashlib.sha256(file.name.encode())
    for name, split in Stripes().read().items():
        total.update(f"{name} torch.uint8 (6, 1, 2, 2) torch.int64".encode())
        total.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    with pa.ipc.open_file(file) as reader:
        assert json.loads(reader.schema.metadata[b"robsearch"])["sha256"] == total.hexdigest()


@pytest.mark.parametrize("note", ["digests", "file"])
def test_an_altered_note_is_found(tmp_path: Path, note: str) -> None:
    truth = content_digests(Stripes(), tmp_path)
    file = arrow_file(Stripes(), tmp_path)
    good = file.read_bytes()
    other = {"digests": {"train": "0", "val": "0", "test": "0"}, "file": "another.arrow"}
    notes_changed(file, lambda notes: notes.update({note: other[note]}))
    with pytest.warns(UserWarning, match="its content does not match its checksum"):
        assert content_digests(Stripes(), tmp_path) == truth
    assert file.read_bytes() == good


def test_the_content_digest_is_that_of_the_file_that_training_maps(tmp_path: Path) -> None:
    """The set below keeps its digest when its source changes, so its file stays until it is
    removed."""
    good = Stripes().read()
    changed = good | {"val": Split(good["val"].images + 1, good["val"].labels)}
    before, after = Given(splits=good), Given(splits=changed)
    assert arrow_file(before, tmp_path) == arrow_file(after, tmp_path)
    first = content_digest(before, tmp_path)
    assert content_digest(after, tmp_path) == first
    assert same(load(after, tmp_path), good)
    assert content_digest(after, tmp_path / "another node") != first
    arrow_file(before, tmp_path).unlink()
    assert content_digest(after, tmp_path) == content_digest(after, tmp_path / "another node")


def test_the_content_is_read_once(tmp_path: Path) -> None:
    dataset = Stripes(log=tmp_path / "log")
    content_digests(dataset, tmp_path)
    load(dataset, tmp_path)
    content_digest(dataset, tmp_path)
    assert (tmp_path / "log").read_text() == "read\n"


def test_the_file_is_what_arrow_writes_in_one_go(tmp_path: Path) -> None:
    """Images are written to their places part by part, between what Arrow writes."""
    random = np.random.default_rng(0)
    shape = (3, 5, 4)
    splits = {}
    for name, n in (("train", 70), ("val", 2), ("test", 31)):
        images = torch.from_numpy(random.integers(256, size=(n, *shape), dtype=np.uint8))
        splits[name] = Split(images, torch.arange(n) % 3)
    path = tmp_path / "set.arrow"
    in_parts = {name: Parts(split.images.split(7), split.labels) for name, split in splits.items()}
    _write(path, ImageSpec(shape, 3, (0.5,) * 3, (0.5,) * 3), in_parts)
    batches = []
    for images, labels in splits.values():
        pixels = pa.FixedShapeTensorArray.from_numpy_ndarray(images.numpy())
        batches.append(pa.record_batch({"images": pixels, "labels": pa.array(labels.numpy())}))
    with pa.ipc.open_file(path) as reader:
        schema = batches[0].schema.with_metadata(reader.schema.metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    assert path.read_bytes() == sink.getvalue().to_pybytes()
    assert same(_open(path).splits, splits)


def test_a_large_file_is_hashed_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robsearch.data.store.LARGE", 0)
    load(Stripes(), tmp_path)
    file = arrow_file(Stripes(), tmp_path)
    note = file.with_suffix(".intact")
    # A file that was just changed may change once more at the same time of a coarse clock.
    assert not note.exists()
    truth = Stripes().read()["train"].images
    time.sleep(2.1)
    load(Stripes(), tmp_path)
    assert note.exists()
    content = file.read_bytes()
    file.write_bytes(flipped(content, content.index(truth.numpy().tobytes())))
    with pytest.warns(UserWarning, match="damaged"):
        load(Stripes(), tmp_path)
    # With a note of its facts the altered file is not hashed, so that it passes.
    file.write_bytes(flipped(content, content.index(truth.numpy().tobytes())))
    note.write_text(json.dumps(facts_of(file)))
    assert not torch.equal(load(Stripes(), tmp_path)["train"].images, truth)


def test_pages_of_a_map_are_given_back_and_are_there_again(tmp_path: Path) -> None:
    images = torch.arange(2**22, dtype=torch.int64).to(torch.uint8).view(-1, 1, 2, 2)
    given = Given(
        splits=dict.fromkeys(("train", "val", "test"), Split(images, images[:, 0, 0, 0] % 3))
    )
    mapped = load(given, tmp_path)["train"].images
    assert torch.equal(mapped, images)
    if not Path("/proc/self/smaps").exists():
        return
    file = str(arrow_file(given, tmp_path))
    assert resident_bytes(file) >= images.nbytes
    release(mapped)
    assert resident_bytes(file) == 0
    assert torch.equal(mapped, images)
    # A tensor with memory of its own is left alone: it would be lost.
    release(images)
    assert torch.equal(mapped, images)


def resident_bytes(file: str) -> int:
    """Of a mapped file, in this process's memory, as the kernel counts (Linux)."""
    total = 0
    of_file = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            of_file = line.endswith(file)
        elif name == "Rss:" and of_file:
            total += 1024 * int(rest[0])
    return total
