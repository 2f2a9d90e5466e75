"""A folder of one's own images: what ``ImageFolder`` finds, split as promised, named by contents,
refused when odd."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import rows, same, write_image
from torchvision.datasets import ImageFolder

from robsearch import MLP, Recipe
from robsearch.data import Folder, digest, load
from robsearch.data.folder import parts
from robsearch.errors import InputError
from robsearch.testing import check_dataset

PER_CLASS = {"train/ant": 30, "train/bee": 60, "test/ant": 2, "test/bee": 3}


def write(root: Path, per_class: dict[str, int], shape: tuple[int, ...] = (5, 4, 3)) -> None:
    """Random images; no two are alike."""
    random = np.random.RandomState(len(list(root.rglob("*.png"))))
    for place, n in per_class.items():
        for i in range(n):
            write_image(
                root / place / f"{i:03}.png", random.randint(256, size=shape).astype(np.uint8)
            )


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
    check_dataset(
        Folder(
            str(root), size=(3, 3), grey=True, resize=True, mean=(0.4,), std=(0.2,), train=9, val=9
        )
    )


@pytest.mark.parametrize("val_folder", [False, True])
def test_its_labels_can_be_wrong_and_its_splits_drawn_anew(root: Path, val_folder: bool) -> None:
    if val_folder:
        write(root, {"val/ant": 4, "val/bee": 6})
    folder = Folder(str(root), size=(5, 4), train=40, val=10)
    clean = folder.read()
    noisy = replace(folder, label_noise=0.3, noisy_val=True).read()
    changed = {name: int((noisy[name].labels != clean[name].labels).sum()) for name in clean}
    assert changed == {"train": 12, "val": 3, "test": 0}
    other = replace(folder, draw=1).read()
    assert same({"test": other["test"]}, {"test": clean["test"]})
    assert rows(other["train"]) != rows(clean["train"])
    assert (rows(other["val"]) == rows(clean["val"])) == val_folder
    assert not set(rows(other["train"])) & set(rows(other["val"]))
    assert len({digest(made) for made in (folder, replace(folder, draw=1))}) == 2
    assert "draw" not in repr(folder)


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
        assert [
            splits["val"].labels.bincount().tolist(),
            splits["train"].labels.bincount().tolist(),
        ] == [
            [3, 6],
            [27, 54],
        ]
    assert splits["test"].labels.tolist() == [0, 0, 1, 1, 1]
    assert splits["train"].labels.unique_consecutive().numel() > 10


def rows_of(folder: Path) -> list[bytes]:
    return sorted(
        np.asarray(image).transpose(2, 0, 1).tobytes() + bytes([label])
        for image, label in ImageFolder(folder)
    )


def test_fewer_training_images_are_stratified_and_leave_val_alone(root: Path) -> None:
    all_, some = (
        Folder(str(root), size=(5, 4), val=12, train=train).read() for train in (None, 30)
    )
    assert same({"val": some["val"]}, {"val": all_["val"]})
    assert some["train"].labels.bincount().tolist() == [10, 20]
    assert all_["val"].labels.bincount().tolist() == [4, 8]
    assert set(rows(some["train"])) <= set(rows(all_["train"]))
    write(root, {"val/ant": 4, "val/bee": 8})
    kept = Folder(str(root), size=(5, 4), val=6).read()
    assert [split.labels.bincount().tolist() for split in kept.values()] == [
        [30, 60],
        [2, 4],
        [2, 3],
    ]


def test_spec_is_known_from_the_listing(root: Path) -> None:
    assert Folder(str(root), size=(5, 4)).spec == ((3, 5, 4), 2, (0.5,) * 3, (0.5,) * 3)
    grey = Folder(str(root), size=(5, 4), grey=True, mean=(0.1,), std=(0.2,))
    assert grey.spec == ((1, 5, 4), 2, (0.1,), (0.2,))


def test_colours_become_their_luma_and_grey_becomes_three_equal_channels(root: Path) -> None:
    write_image(root / "test" / "ant" / "000.png", np.full((5, 4, 3), (255, 0, 0), dtype=np.uint8))
    write_image(root / "test" / "ant" / "001.png", np.full((5, 4), 77, dtype=np.uint8))
    assert Folder(str(root), size=(5, 4), grey=True).read()["test"].images[0].unique().tolist() == [
        76
    ]  # 0.299 * 255
    colours = Folder(str(root), size=(5, 4)).read()["test"].images
    assert colours[0, :, 0, 0].tolist() == [255, 0, 0]
    assert colours[1].unique().tolist() == [77]


def test_resize_keeps_the_shape_and_cuts_evenly(root: Path) -> None:
    """A 6x12 image of four 3-pixel stripes, made half as large and square, keeps the middle half:
    two of them."""
    stripes = np.repeat([0, 100, 200, 255], 3).astype(np.uint8)
    write_image(root / "test" / "ant" / "000.png", np.tile(stripes, (6, 1)))
    image = Folder(str(root), size=(6, 6), resize=True, grey=True).read()["test"].images[0, 0]
    assert torch.equal(image, torch.tensor([100] * 3 + [200] * 3, dtype=torch.uint8).expand(6, 6))


# --- what it is ---


def test_a_copy_is_the_same_set_whatever_its_times_and_its_order_on_disk(
    root: Path, tmp_path: Path
) -> None:
    for file in sorted(root.rglob("*.png"), reverse=True):
        copy = tmp_path / "copy" / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        os.utime(copy, (1, 1))
    here, there = Folder(str(root), size=(5, 4)), Folder(str(tmp_path / "copy"), size=(5, 4))
    assert here == there
    assert hash(here) == hash(there)
    assert digest(here) == digest(there)
    assert same(here.read(), there.read())
    (tmp_path / "copy" / "README.txt").write_text("beside the splits")
    assert Folder(str(tmp_path / "copy"), size=(5, 4)) == here


def test_the_fingerprint_is_the_hash_of_names_and_hashes_of_contents(root: Path) -> None:
    total = hashlib.sha256()
    for name in sorted(str(file.relative_to(root)) for file in root.rglob("*.png")):
        total.update(name.encode() + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
    assert Folder(str(root), size=(5, 4)).fingerprint == total.hexdigest()[:16]


def test_a_touched_file_leaves_the_set_and_its_store_as_they_are(
    root: Path, tmp_path: Path
) -> None:
    before = Folder(str(root), size=(5, 4))
    load(before, tmp_path / "cache")
    (built,) = (tmp_path / "cache").glob("*.arrow")
    inode = built.stat().st_ino
    (root / "train" / "ant" / "000.png").touch()
    os.utime(root / "test" / "bee" / "000.png", (1, 1))
    after = Folder(str(root), size=(5, 4))
    assert after == before
    assert same(load(after, tmp_path / "cache"), load(before, tmp_path / "cache"))
    assert [file.stat().st_ino for file in (tmp_path / "cache").glob("*.arrow")] == [inode]


def test_a_relative_root_is_found_from_any_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    flip_last_byte(file)
    seen.append(identity())
    file.write_bytes(file.read_bytes() + b"\0")
    seen.append(identity())
    file.rename(file.with_name("renamed.png"))
    seen.append(identity())
    shutil.copy2(file.with_name("renamed.png"), file)
    seen.append(identity())
    file.rename(root / "test" / "ant" / "moved.png")
    seen.append(identity())
    assert len(set(seen)) == len(seen) == 6


def flip_last_byte(file: Path) -> None:
    """An edit that leaves the size and the time of modification as they were."""
    before = file.stat()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_options_that_change_the_images_make_another_set(root: Path) -> None:
    sets = [Folder(str(root), size=size) for size in ((5, 4), (4, 5))]
    sets += [
        replace(sets[0], **change)
        for change in ({"grey": True}, {"resize": True}, {"train": 20}, {"val": 20})
    ]
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
    flip_last_byte(root / "train" / "ant" / "000.png")
    said = (
        "expected the files in .*pets as they were, got other names or contents: make the Folder "
        "anew"
    )
    with pytest.raises(InputError, match=said):
        pickle.loads(sent).read()
    (root / "train" / "ant" / "000.png").unlink()
    with pytest.raises(InputError, match=said):
        pickle.loads(sent).read()


def test_an_object_reads_a_copy_on_another_node(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Folder(str(root), size=(5, 4))
    sent, truth = pickle.dumps(dataset), dataset.read()
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(root)
    for file in (tmp_path / "copy").rglob("*.png"):
        os.utime(file, (1, 1))
    (tmp_path / "copy").rename(root)
    monkeypatch.setenv("ROBSEARCH_CACHE", str(tmp_path / "the other node's cache"))
    assert pickle.loads(sent) == dataset
    assert same(pickle.loads(sent).read(), truth)


# --- what is read again ---

_OPENED: list[str] = []
_OPENING: list[bool] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _OPENING and str(arguments[0]).endswith(".png"):
        _OPENED.append(os.path.basename(str(arguments[0])))


sys.addaudithook(_note)  # the interpreter's own report of opened files; it cannot be removed


@contextmanager
def opened() -> Iterator[list[str]]:
    """Names of the images that are opened inside."""
    _OPENED.clear()
    _OPENING.append(True)
    yield _OPENED
    _OPENING.clear()


def test_only_new_and_changed_files_are_read_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBSEARCH_CACHE", str(tmp_path / "cache"))
    with opened() as names:
        dataset = Folder(str(root), size=(5, 4))
    assert len(names) == 95
    time.sleep(
        2.1
    )  # a file of less than two seconds may change once more at the same time of its clock
    with opened() as names:
        assert Folder(str(root), size=(5, 4)) == dataset
    assert len(names) == 95
    with opened() as names:
        assert Folder(str(root), size=(5, 4)) == dataset
        assert replace(dataset, train=20) != dataset
    assert names == []
    flip_last_byte(root / "train" / "bee" / "059.png")
    write(root, {"test/bee": 4})
    with opened() as names:
        assert Folder(str(root), size=(5, 4)) != dataset
    assert sorted(names) == ["000.png", "001.png", "002.png", "003.png", "059.png"]


@pytest.mark.parametrize("damage", [b"", b"not a cache", "flip"])
def test_a_damaged_cache_changes_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | str
) -> None:
    monkeypatch.setenv("ROBSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("robsearch.data.contents._YOUNG", 0)  # as if the files were old
    dataset = Folder(str(root), size=(5, 4))
    (kept,) = (tmp_path / "cache" / "contents").glob("*.json")
    good = kept.read_bytes()
    at = good.rindex(
        hashlib.sha256((root / "test" / "bee" / "000.png").read_bytes()).hexdigest().encode()
    )
    other = b"1" if good[at : at + 1] == b"0" else b"0"
    kept.write_bytes(damage if isinstance(damage, bytes) else good[:at] + other + good[at + 1 :])
    assert Folder(str(root), size=(5, 4)) == dataset
    assert kept.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_time_only(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Folder(str(root), size=(5, 4))
    (tmp_path / "file").touch()
    monkeypatch.setattr("robsearch.data.contents._YOUNG", 0)  # as if the files were old
    monkeypatch.setenv("ROBSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    assert Folder(str(root), size=(5, 4)) == dataset
    assert same(dataset.read(), Folder(str(root), size=(5, 4)).read())


# --- what is refused ---


def test_missing_folders_and_images_are_refused_all_at_once(tmp_path: Path) -> None:
    refused(
        tmp_path,
        f"images in {tmp_path}/train, got no such folder",
        f"images in {tmp_path}/test, got no such folder",
    )
    write(tmp_path, {"train/ant": 3, "train/bee": 3})
    (tmp_path / "val" / "ant").mkdir(parents=True)
    refused(
        tmp_path,
        f"images in {tmp_path}/val, got none",
        f"images in {tmp_path}/test, got no such folder",
    )


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


def test_a_draw_by_seed_looks_at_no_file_and_keeps_the_fingerprint(root: Path) -> None:
    made = Recipe(model=MLP(8), data=Folder(str(root), size=(5, 4), draw="seed"), seed=3)
    digest = made.digest
    shutil.rmtree(root)
    drawn: Any = made.resolved_data
    assert (drawn.draw, drawn.fingerprint) == (3, made.data.fingerprint)
    assert made.digest == digest


def test_an_unreadable_image_is_named(root: Path) -> None:
    for name, content in (
        ("cut", (root / "train/ant/000.png").read_bytes()[:60]),
        ("odd", b"text"),
        ("nil", b""),
    ):
        (root / "test" / "bee" / f"{name}.png").write_bytes(content)
    names = ("cut", "nil", "odd")
    refused(
        root, *(f"expected a readable image in {root}/test/bee/{name}.png, got " for name in names)
    )


def test_what_is_no_file_is_named_at_once(root: Path) -> None:
    (root / "test" / "bee" / "link.png").symlink_to(root / "nowhere.png")
    (root / "test" / "bee" / "loop.png").symlink_to(root / "test" / "bee" / "loop.png")
    os.mkfifo(root / "test" / "bee" / "pipe.png")
    with pytest.raises(InputError) as caught:
        Folder(str(root), size=(5, 4))
    reasons = {
        "link": "No such file",
        "loop": "Too many levels",
        "pipe": "a pipe, socket or device",
    }
    assert len(caught.value.problems) == len(reasons)
    for (name, reason), problem in zip(reasons.items(), caught.value.problems, strict=True):
        assert f"expected a readable image in {root}/test/bee/{name}.png, got {reason}" in problem
    for i in range(4):
        (root / "test" / "ant" / f"z{i}.png").symlink_to(root / "nowhere.png")
    links = [f"a readable image in {root}/test/ant/z{i}.png, got No such file" for i in range(4)]
    refused(root, *links, f"{root}/test/bee/link.png", "and 2 more images like these")


LOOPS = {
    "one": {"train/ant/loop": "train/ant"},
    "two, which multiply": {"train/ant/loop": "train/ant", "train/ant/again": "train/ant"},
    "through another class": {"train/ant/other": "train/bee", "train/bee/other": "train/ant"},
    "to the root": {"test/bee/root": "", "test/bee/roots": ""},
    "relative": {"test/bee/here": "test/bee"},
}


@pytest.mark.parametrize("links", LOOPS.values(), ids=LOOPS)
def test_links_that_lead_back_are_named_and_not_followed_for_ever(
    root: Path, links: dict[str, str]
) -> None:
    for link, target in links.items():
        (root / link).symlink_to(root / target)
    before = time.monotonic()
    with pytest.raises(InputError, match="a link that leads back to a folder above it") as caught:
        Folder(str(root), size=(5, 4))
    assert time.monotonic() - before < 30
    named = [f"{root / link}" for link in links]
    assert all(any(name in problem for name in named) for problem in caught.value.problems[:5])


def test_links_that_lead_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "more", {"deep/er": 3})
    for name in ("one", "two"):  # one folder may be met twice
        (root / "train" / "ant" / name).symlink_to(tmp_path / "more")
    listed = ImageFolder(str(root / "train"))
    folder = Folder(str(root), size=(5, 4))
    assert folder._listed()["train"].paths == [path for path, _ in listed.imgs]
    assert len(listed) == 96


@pytest.mark.parametrize("read", [Folder.read, lambda folder: folder._opened(PIPE.format(folder))])
def test_a_pipe_that_took_an_images_place_keeps_nobody_waiting(root: Path, read: Any) -> None:
    folder = Folder(str(root), size=(5, 4))
    pipe = Path(PIPE.format(folder))
    pipe.unlink()
    os.mkfifo(pipe)
    try:
        problem = read(folder)
    except InputError as error:
        problem = str(error)
    assert f"expected a readable image in {pipe}, got a pipe, socket or device" in problem


PIPE = "{0.root}/train/ant/001.png"

LARGE = """
import sys
import warnings
from pathlib import Path

from robsearch.data import Folder


def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


warnings.simplefilter("ignore")  # Pillow's
folder = Folder(sys.argv[1], size=(8, 8), resize=True, val=2)
before = most()
splits = folder.read()
print(most() - before, *sorted({int(shade) for shade in splits["train"].images.unique()}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux counts it")
def test_large_images_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    """Eight of 170 million pixels: together they took 5.5 GB."""
    large = tmp_path / "large.png"
    Image.new("L", (13_000, 13_077), 200).save(large, compress_level=1)
    assert large.stat().st_size < 2e6
    for place, n in (("train/ant", 4), ("train/bee", 4), ("test/ant", 1), ("test/bee", 1)):
        (tmp_path / "images" / place).mkdir(parents=True)
        for i in range(n):
            os.link(large, tmp_path / "images" / place / f"{i}.png")
    command = [sys.executable, "-c", LARGE, str(tmp_path / "images")]
    environment = {**os.environ, "ROBSEARCH_CACHE": str(tmp_path / "cache")}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    took, *shades = answer.stdout.split()
    # One byte a pixel as decoded, and four as RGB.
    assert 0.6 < float(took) < 1
    assert shades == ["200"]


def test_an_image_beyond_the_limit_is_refused_by_name_before_it_is_decoded(root: Path) -> None:
    beyond, bomb = root / "test" / "ant" / "beyond.png", root / "test" / "ant" / "bomb.png"
    for file, (w, h) in {beyond: (13_000, 13_767), bomb: (40_000, 40_000)}.items():
        Image.new("1", (w, h)).save(file, compress_level=1)
    refused(
        root,
        f"an image of at most 178,956,970 pixels in {beyond}, got 178,971,000 pixels: make it",
        f"an image of at most 178,956,970 pixels in {bomb}, got 1,600,000,000 pixels: make it",
        resize=True,
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_named(root: Path) -> None:
    (root / "test" / "ant" / "000.png").chmod(0)
    refused(
        root,
        f"expected a readable image in {root}/test/ant/000.png, got Permission denied: replace or",
    )
    (root / "train" / "bee").chmod(0)
    refused(
        root,
        f"expected a readable folder in {root}/train/bee, got Permission denied: make it readable",
    )
    (root / "train" / "bee").chmod(0o700)


def test_names_that_are_no_text_are_read_and_shown(root: Path) -> None:
    plain = Folder(str(root), size=(5, 4))
    odd = Path(os.fsdecode(os.fsencode(root / "test" / "bee") + b"/\xff.png"))
    shutil.copy(root / "test" / "bee" / "000.png", odd)
    dataset = Folder(str(root), size=(5, 4))
    assert dataset != plain
    assert Folder(str(root), size=(5, 4)) == dataset
    assert len(digest(dataset)) == 16
    assert len(dataset.read()["test"].labels) == 6
    odd.write_bytes(b"text")
    refused(root, rf"expected a readable image in {root}/test/bee/\xff.png, got ")


def test_another_size_without_resize_is_refused_and_long_lists_are_cut(root: Path) -> None:
    write_image(root / "test" / "bee" / "wide.png", np.zeros((5, 9, 3), dtype=np.uint8))
    refused(
        root,
        f"expected images of 5x4 pixels, got 5x9 in {root}/test/bee/wide.png: pass resize=True",
    )
    refused(root, *["got 5x4 in "] * 5, "and 90 more images like these", size=(5, 9))


def test_sixteen_bits_are_refused(root: Path) -> None:
    Image.fromarray(np.full((5, 4), 40_000, dtype=np.uint16)).save(
        root / "test" / "ant" / "deep.png"
    )
    refused(root, f"expected an 8-bit image in {root}/test/ant/deep.png, got mode I", grey=True)


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
def test_numbers_that_do_not_fit_are_refused(
    root: Path, options: dict[str, int], said: str
) -> None:
    refused(root, said, **options)


def test_numbers_of_a_val_folder_are_its_own(root: Path) -> None:
    write(root, {"val/ant": 2, "val/bee": 3})
    refused(root, "val to be a whole number from 2 to 5, got 6", val=6)
    refused(root, "train to be a whole number from 2 to 90, got 91", train=91)


# --- in parts ---


def test_a_folder_is_stored_part_by_part_as_it_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robsearch.data.folder.PIECE", 7 * 60 + 1)  # seven images
    folder = Folder(str(root), size=(5, 4))
    assert {len(part) for part in parts(folder)["train"].images} == {7, 81 % 7}
    assert same(load(folder, tmp_path), folder.read())


def test_images_that_cannot_be_read_are_named_all_at_once_and_leave_no_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robsearch.data.folder.PIECE", 60)
    for place in ("train/ant/003.png", "test/bee/001.png"):
        (root / place).write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        load(Folder(str(root), size=(5, 4)), tmp_path / "cache")
    train, test = caught.value.problems
    assert "003.png" in train
    assert "001.png" in test
    assert [file.suffix for file in (tmp_path / "cache").iterdir() if file.is_file()] == [".lock"]


MEASURED = """
import sys
from pathlib import Path

import torch

from robsearch import MLP, PGD, SGD, Recipe, train
from robsearch.data import Folder, folder as folders, load, maps
from robsearch.training import memory, streaming

maps.PIECE = folders.PIECE = streaming.PIECE = 2**23


def most():
    return memory.peak(torch.device("cpu"))["memory/peak_rss_gib"] * 1024


def trained_on(data):
    recipe = Recipe(
        model=MLP(width=1, depth=1),
        data=data,
        attack=PGD(eps=0.1, steps=1),
        optimiser=SGD(lr=1e-9),
        epochs=1,
        batch_size=4,
    )
    for _ in train(recipe, device=torch.device("cpu")):
        pass


side = int(sys.argv[2])
streaming.RESIDENT_SHARE = float(sys.argv[3])
# What a training takes whatever the set, such as modules that are imported.
trained_on(Folder(sys.argv[1], size=(side, side), train=8, val=2))
before = most()
folder = Folder(sys.argv[1], size=(side, side), val=2)
load(folder)
stored = most() - before
trained_on(folder)
print(stored, most() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux counts it")
def test_storing_and_training_on_a_folder_take_less_memory_than_its_images(tmp_path: Path) -> None:
    """400 images of 512 x 512 pixels, 300 MiB as bytes, in pieces of 8 MiB."""
    side = 512
    for place, n in (("train/a", 195), ("train/b", 195), ("test/a", 5), ("test/b", 5)):
        for i in range(n):
            shade = np.full((side, side, 3), (i * 7) % 256, np.uint8)
            write_image(tmp_path / "images" / place / f"{i:03}.png", shade)
    cache = {**os.environ, "ROBSEARCH_CACHE": str(tmp_path / "cache")}
    took = {}
    for share in ("1e-9", "1e9"):
        command = [sys.executable, "-c", MEASURED, str(tmp_path / "images"), str(side), share]
        answer = subprocess.run(command, env=cache, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        took[share] = [float(mebibytes) for mebibytes in answer.stdout.split()]
    stored, trained = took["1e-9"]
    assert stored < 100
    assert trained < 200
    # Where the set is not streamed, all that was looked at is in memory.
    assert took["1e9"][1] > 250
