"""A folder of one's own images: what ``ImageFolder`` finds, split as promised, named by its files, refused when odd."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import rows, same, write_image
from torchvision.datasets import ImageFolder

from robsearch.data import Folder, digest, load
from robsearch.errors import InputError
from robsearch.testing import check_dataset

PER_CLASS = {"train/ant": 30, "train/bee": 60, "test/ant": 2, "test/bee": 3}


def write(root: Path, per_class: dict[str, int], shape: tuple[int, ...] = (5, 4, 3)) -> None:
    """Random images; no two are alike."""
    random = np.random.RandomState(len(list(root.rglob("*.png"))))
    for place, n in per_class.items():
        for i in range(n):
            write_image(root / place / f"{i:03}.png", random.randint(256, size=shape).astype(np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "pets", PER_CLASS)
    return tmp_path / "pets"


def refused(root: Path, *expected: str, **options: object) -> None:
    """``Folder`` or its ``read`` raises exactly these problems, in this order."""
    with pytest.raises(InputError) as caught:
        Folder(str(root), **{"size": (5, 4), **options}).read()
    assert len(caught.value.problems) == len(expected), caught.value
    for part, problem in zip(expected, caught.value.problems, strict=True):
        assert part in problem


# --- what it holds ---


def test_it_keeps_the_contract_of_data_sets(root: Path) -> None:
    check_dataset(Folder(str(root), size=(5, 4)))
    check_dataset(Folder(str(root), size=(3, 3), grey=True, resize=True, mean=(0.4,), std=(0.2,), train=9, val=9))


@pytest.mark.parametrize("val_folder", [False, True])
def test_it_holds_what_torchvision_s_image_folder_holds(root: Path, val_folder: bool) -> None:
    if val_folder:
        write(root, {"val/ant": 4, "val/bee": 5})
    (root / "train" / "bee" / "more").mkdir()
    (root / "train" / "bee" / "000.png").rename(root / "train" / "bee" / "more" / "000.png")
    (root / "train" / "bee" / "notes.txt").write_text("not an image")
    splits = Folder(str(root), size=(5, 4)).read()
    for name in ("train", "val", "test") if val_folder else ("test",):
        assert rows(splits[name]) == rows_of(root / name)
    if not val_folder:
        assert rows(splits["train"], splits["val"]) == rows_of(root / "train")
        assert [splits["val"].labels.bincount().tolist(), splits["train"].labels.bincount().tolist()] == [
            [3, 6],
            [27, 54],
        ]
    assert splits["test"].labels.tolist() == [0, 0, 1, 1, 1]
    assert splits["train"].labels.unique_consecutive().numel() > 10


def rows_of(folder: Path) -> list[bytes]:
    return sorted(
        np.asarray(image).transpose(2, 0, 1).tobytes() + bytes([label]) for image, label in ImageFolder(folder)
    )


def test_fewer_training_images_are_stratified_and_leave_val_alone(root: Path) -> None:
    all_, some = (Folder(str(root), size=(5, 4), val=12, train=train).read() for train in (None, 30))
    assert same({"val": some["val"]}, {"val": all_["val"]})
    assert some["train"].labels.bincount().tolist() == [10, 20]
    assert all_["val"].labels.bincount().tolist() == [4, 8]
    assert set(rows(some["train"])) <= set(rows(all_["train"]))
    write(root, {"val/ant": 4, "val/bee": 8})
    kept = Folder(str(root), size=(5, 4), val=6).read()
    assert [split.labels.bincount().tolist() for split in kept.values()] == [[30, 60], [2, 4], [2, 3]]


def test_spec_is_known_from_the_listing(root: Path) -> None:
    assert Folder(str(root), size=(5, 4)).spec == ((3, 5, 4), 2, (0.5,) * 3, (0.5,) * 3)
    grey = Folder(str(root), size=(5, 4), grey=True, mean=(0.1,), std=(0.2,))
    assert grey.spec == ((1, 5, 4), 2, (0.1,), (0.2,))


def test_colours_become_their_luma_and_grey_becomes_three_equal_channels(root: Path) -> None:
    write_image(root / "test" / "ant" / "000.png", np.full((5, 4, 3), (255, 0, 0), dtype=np.uint8))
    write_image(root / "test" / "ant" / "001.png", np.full((5, 4), 77, dtype=np.uint8))
    assert Folder(str(root), size=(5, 4), grey=True).read()["test"].images[0].unique().tolist() == [76]  # 0.299 * 255
    colours = Folder(str(root), size=(5, 4)).read()["test"].images
    assert colours[0, :, 0, 0].tolist() == [255, 0, 0]
    assert colours[1].unique().tolist() == [77]


def test_resize_keeps_the_shape_and_cuts_evenly(root: Path) -> None:
    """A 6x12 image of four 3-pixel stripes, made half as large and square, keeps the middle half: two of them."""
    stripes = np.repeat([0, 100, 200, 255], 3).astype(np.uint8)
    write_image(root / "test" / "ant" / "000.png", np.tile(stripes, (6, 1)))
    image = Folder(str(root), size=(6, 6), resize=True, grey=True).read()["test"].images[0, 0]
    assert torch.equal(image, torch.tensor([100] * 3 + [200] * 3, dtype=torch.uint8).expand(6, 6))


# --- what it is ---


def test_a_copy_with_the_same_times_is_the_same_set(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    here, there = Folder(str(root), size=(5, 4)), Folder(str(tmp_path / "copy"), size=(5, 4))
    assert here == there
    assert digest(here) == digest(there)
    assert same(here.read(), there.read())
    (tmp_path / "copy" / "README.txt").write_text("beside the splits")
    assert Folder(str(tmp_path / "copy"), size=(5, 4)) == here


def test_a_relative_root_is_found_from_any_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    dataset = Folder(root.name, size=(5, 4))
    monkeypatch.chdir("/")
    assert dataset.root == str(root)
    assert len(dataset.read()["test"].labels) == 5


def test_any_change_of_a_file_makes_another_set(root: Path) -> None:
    def identity() -> str:
        return digest(Folder(str(root), size=(5, 4)))

    file = root / "test" / "bee" / "000.png"
    seen = [identity()]
    os.utime(file, (1, 1))
    seen.append(identity())
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, (1, 1))
    seen.append(identity())
    file.rename(file.with_name("renamed.png"))
    seen.append(identity())
    shutil.copy2(file.with_name("renamed.png"), file)
    seen.append(identity())
    file.rename(root / "test" / "ant" / "moved.png")
    seen.append(identity())
    assert len(set(seen)) == len(seen) == 6


def test_options_that_change_the_images_make_another_set(root: Path) -> None:
    sets = [Folder(str(root), size=size) for size in ((5, 4), (4, 5))]
    sets += [replace(sets[0], **change) for change in ({"grey": True}, {"resize": True}, {"train": 20}, {"val": 20})]
    assert len({digest(dataset) for dataset in sets}) == len(sets)


def test_the_store_gives_new_images_after_a_change(root: Path, tmp_path: Path) -> None:
    before = load(Folder(str(root), size=(5, 4)), tmp_path / "cache")
    write_image(root / "test" / "ant" / "000.png", np.zeros((5, 4, 3), dtype=np.uint8))
    after = load(Folder(str(root), size=(5, 4)), tmp_path / "cache")
    assert before["test"].images[0].any()
    assert not after["test"].images[0].any()


def test_an_object_made_before_a_change_refuses_to_read_what_it_is_not(root: Path) -> None:
    sent = pickle.dumps(Folder(str(root), size=(5, 4)))
    assert same(pickle.loads(sent).read(), Folder(str(root), size=(5, 4)).read())
    (root / "train" / "ant" / "000.png").unlink()
    with pytest.raises(InputError, match=r"expected the files in .*pets as they were, got other names.*rsync -a"):
        pickle.loads(sent).read()


# --- what is refused ---


def test_missing_folders_and_images_are_refused_all_at_once(tmp_path: Path) -> None:
    refused(
        tmp_path, f"images in {tmp_path}/train, got no such folder", f"images in {tmp_path}/test, got no such folder"
    )
    write(tmp_path, {"train/ant": 3, "train/bee": 3})
    (tmp_path / "val" / "ant").mkdir(parents=True)
    refused(tmp_path, f"images in {tmp_path}/val, got none", f"images in {tmp_path}/test, got no such folder")


def test_one_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train/ant": 3, "test/ant": 3})
    refused(tmp_path, f"expected at least two class folders in {tmp_path}/train, got only ant")


def test_class_folders_that_differ_among_splits_are_named(root: Path) -> None:
    write(root, {"val/ant": 2, "val/bee": 2, "val/wasp": 2})
    (root / "test" / "bee").rename(root / "test" / "fly")
    (root / "train" / "empty").mkdir()
    refused(
        root,
        f"images in every class folder of {root}/train, got none in empty",
        "the same class folders in train and val, got empty, wasp in one of them only",
        "the same class folders in train and test, got bee, empty, fly in one of them only",
    )


def test_an_unreadable_image_is_named(root: Path) -> None:
    for name, content in (("cut", (root / "train/ant/000.png").read_bytes()[:60]), ("odd", b"text"), ("nil", b"")):
        (root / "test" / "bee" / f"{name}.png").write_bytes(content)
    (root / "test" / "bee" / "link.png").symlink_to(root / "nowhere.png")
    names = ("cut", "link", "nil", "odd")
    refused(root, *(f"expected a readable image in {root}/test/bee/{name}.png, got " for name in names))


def test_another_size_without_resize_is_refused_and_long_lists_are_cut(root: Path) -> None:
    write_image(root / "test" / "bee" / "wide.png", np.zeros((5, 9, 3), dtype=np.uint8))
    refused(root, f"expected images of 5x4 pixels, got 5x9 in {root}/test/bee/wide.png: pass resize=True")
    refused(root, *["got 5x4 in "] * 5, "and 90 more images like these", size=(5, 9))


def test_sixteen_bits_are_refused(root: Path) -> None:
    Image.fromarray(np.full((5, 4), 40_000, dtype=np.uint16)).save(root / "test" / "ant" / "deep.png")
    refused(root, f"expected an 8-bit image in {root}/test/ant/deep.png, got mode I;16", grey=True)


def test_bad_fields_are_refused_before_a_look_at_the_disk() -> None:
    with pytest.raises(InputError) as caught:
        Folder("s3://bucket/pets", size=(0, 4), grey=True, mean=(0.5, 0.5, 0.5), std=(0.0,))
    assert [problem.split(", got")[0] for problem in caught.value.problems] == [
        "expected a local folder",
        "expected size as (height, width) in pixels",
        "expected mean as 1 number",
        "expected std as 1 number > 0",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val": 1}, "val to be a whole number from 2 to 88, got 1"),
        ({"val": 89}, "val to be a whole number from 2 to 88, got 89"),
        ({"train": 1}, "train to be a whole number from 2 to 81, got 1"),
        ({"train": 82}, "train to be a whole number from 2 to 81, got 82"),
        ({"train": 41, "val": 50}, "train to be a whole number from 2 to 40, got 41"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(root: Path, options: dict[str, int], said: str) -> None:
    refused(root, said, **options)


def test_numbers_of_a_val_folder_are_its_own(root: Path) -> None:
    write(root, {"val/ant": 2, "val/bee": 3})
    refused(root, "val to be a whole number from 2 to 5, got 6", val=6)
    refused(root, "train to be a whole number from 2 to 90, got 91", train=91)
