"""Images of one's own: a folder per split with a folder per class, as torchvision's ``ImageFolder`` has them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeAlias, final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps

from robsearch.data.contents import contents
from robsearch.data.remote import is_remote
from robsearch.data.splits import Indices, count_problem, draw, seeded
from robsearch.errors import InputError, refusal
from robsearch.protocols import ImageSpec, Split
from robsearch.wording import counted

Pixels: TypeAlias = UInt8[np.ndarray, "n c h w"]

_NAMED = 5
"""Images named in one refusal; the rest are counted."""

_LAYOUT = "lay images out as train/CLASS/*.png and test/CLASS/*.png, val/CLASS/*.png if you like"


class Listed(NamedTuple):
    """The images of one split: sorted class names, then per image its path and its class's place among them."""

    classes: list[str]
    paths: list[str]
    labels: Indices


@final
@dataclass(frozen=True)
class Folder:
    """A user's own images: ``root/train/CLASS/*.png``, ``root/test/CLASS/*.png``, ``root/val/CLASS/*.png`` or no val.

    Class folders are numbered by name from 0; all that torchvision's ``ImageFolder`` would find counts
    (.png, .jpg, .bmp, .webp ..., also in sub-folders). Without ``root/val``, ``val`` is carved out of
    ``root/train``, stratified, with a fixed seed. Labels follow the folders; ``train`` and ``val`` are in random
    order, ``test`` in the order of its names.

    Images become 8-bit RGB or grey; transparency is dropped and a camera's rotation mark is not applied. They are
    decoded by threads, and all are in memory while the store is built: ``n * channels * h * w`` bytes.

    The identity of the set is what its files hold: ``fingerprint`` is taken from their names below ``root`` and
    their bytes when the object is made. A file added, renamed or changed makes another set, with a file of its own
    in the store; times, owners and ``root`` do not count. So a copy of the files, made in any way, is the same set,
    and so it must be on all nodes of a cluster. The first object on a node reads every file. The node's cache keeps
    their hashes, so the next objects cost a listing and read only files that are new or changed.

    Attributes:
        root: a local folder, made absolute (or a mounted one: object stores are only for the sets of torchvision).
        size: (height, width) of all images, in pixels.
        train: keep only this many training images, stratified; None: all that there are, or that ``val`` leaves.
        val: keep only this many images of ``root/val`` (None: all); without ``root/val``, carve out this many
            (None: a tenth of ``root/train``, at least as many as classes).
        grey: one channel instead of three (ITU-R 601 luma of colour images).
        resize: scale an image of another size to cover ``size``, keeping its shape, and cut what stands out
            evenly (bilinear, antialiased). Otherwise another size is an error.
        mean: per channel, of pixels in [0, 1], to normalise by; None: 0.5.
        std: likewise the deviation; None: 0.5.
        num_classes: found, not given.
        fingerprint: found, not given.

    Raises:
        InputError: no images, fewer than two classes, class folders that differ among splits, numbers that do not
            fit, all at once; or files or folders that cannot be read (names them).
    """

    root: str = field(compare=False)
    _: KW_ONLY
    size: tuple[int, int]
    train: int | None = None
    val: int | None = None
    grey: bool = False
    resize: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    num_classes: int = field(init=False)
    fingerprint: str = field(init=False)

    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __post_init__(self) -> None:
        if problems := self._field_problems():
            raise InputError(*problems)
        object.__setattr__(self, "root", str(self._root))  # a worker may stand in another folder
        listed = self._listed()
        if problems := self._listing_problems(listed) or self._number_problems(listed):
            raise InputError(*problems)
        object.__setattr__(self, "num_classes", len(listed["train"].classes))
        object.__setattr__(self, "fingerprint", self._fingerprint(listed))

    @property
    def spec(self) -> ImageSpec:
        """Shape ``(1 or 3, h, w)``, the number of class folders, and ``mean`` and ``std`` as given."""
        channels = 1 if self.grey else 3
        half = (0.5,) * channels
        return ImageSpec((channels, *self.size), self.num_classes, self.mean or half, self.std or half)

    def read(self) -> Mapping[str, Split]:
        """The splits ``train``, ``val`` and ``test``: uint8 images ``(n, c, h, w)``, int64 labels ``(n,)``.

        Raises:
            InputError: an image cannot be read or has another size (names the files), or the files do not
                hold what they held when the object was made.
        """
        listed = self._listed()
        if self._listing_problems(listed) or self._fingerprint(listed) != self.fingerprint:
            do = "make the Folder anew; on another machine, copy the files there again"
            got = "other names or contents"
            raise InputError(refusal(f"the files in {_shown(self.root)} as they were", got, do))
        chosen = self._chosen(listed)
        found = {name: self._decoded([part.paths[i] for i in at]) for name, (part, at) in chosen.items()}
        if problems := [problem for _, problems in found.values() for problem in problems]:
            raise InputError(*_first(problems))
        return {
            name: Split(torch.from_numpy(found[name][0]), torch.from_numpy(part.labels[at]))
            for name, (part, at) in chosen.items()
        }

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser().absolute()

    def _listed(self) -> dict[str, Listed]:
        """The splits that have a folder. Raises InputError for folders that cannot be listed."""
        unread: list[OSError] = []
        listed = {}
        for name in self.SPLITS:
            folder = self._root / name
            try:
                if folder.is_dir():
                    listed[name] = _listed(folder, unread.append)
            except OSError as problem:
                unread.append(problem)
        if unread:
            raise InputError(*_first([_unreadable("folder", p.filename, p) for p in unread], "folders"))
        return listed

    def _chosen(self, listed: Mapping[str, Listed]) -> dict[str, tuple[Listed, Indices]]:
        """Per split, where its images are listed and which of them it has. ``val`` does not depend on ``train``."""
        random, train, test = seeded(0), listed["train"], listed["test"]
        source = listed.get("val", train)
        val, rest = draw(source.labels, np.arange(len(source.labels)), self._val_images(listed), random)
        pool = np.arange(len(train.labels)) if "val" in listed else rest
        kept, _ = draw(train.labels, pool, len(pool) if self.train is None else self.train, random)
        return {"train": (train, kept), "val": (source, val), "test": (test, np.arange(len(test.labels)))}

    def _val_images(self, listed: Mapping[str, Listed]) -> int:
        if self.val is not None:
            return self.val
        if "val" in listed:
            return len(listed["val"].labels)
        return max(round(len(listed["train"].labels) / 10), len(listed["train"].classes))

    def _decoded(self, paths: list[str]) -> tuple[Pixels, list[str]]:
        """Images in the order of their paths, and what is wrong with any of them."""
        pixels = np.empty((len(paths), *self.spec.shape), dtype=np.uint8)

        def decode(i: int) -> list[str]:
            image, problems = self._opened(paths[i])
            if image is not None:
                pixels[i] = np.asarray(image).reshape(*self.size, -1).transpose(2, 0, 1)
            return problems

        with ThreadPoolExecutor() as threads:
            return pixels, [problem for problems in threads.map(decode, range(len(paths))) for problem in problems]

    def _opened(self, path: str) -> tuple[Image.Image | None, list[str]]:
        h, w = self.size
        try:
            with Image.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    do = "convert it to 8 bits: it is not said which of its values is white"
                    return None, [refusal(f"an 8-bit image in {path}", f"mode {file.mode}", do)]
                image: Image.Image = file.convert("L" if self.grey else "RGB")
        except Exception as problem:  # a damaged file breaks its decoder in any way
            return None, [_unreadable("image", path, problem)]
        if image.size == (w, h):
            return image, []
        if self.resize:
            return ImageOps.fit(image, (w, h), Image.Resampling.BILINEAR), []
        got = f"{image.height}x{image.width}"
        return None, [refusal(f"images of {h}x{w} pixels", f"{got} in {path}", "pass resize=True or correct size")]

    def _fingerprint(self, listed: Mapping[str, Listed]) -> str:
        """Of names and contents. Raises InputError for files that cannot be read."""
        root = os.path.join(self.root, "")
        names = [path.removeprefix(root) for part in listed.values() for path in part.paths]
        found = contents(self.root, names)
        if found.problems:
            failed = [name for name in names if name in found.problems]
            problems = [_unreadable("image", root + name, found.problems[name]) for name in failed]
            raise InputError(*_first(problems))
        total = hashlib.sha256()
        for name, sha256 in sorted((os.fsencode(name), sha256) for name, sha256 in found.hashes.items()):
            total.update(name + b"\0" + bytes.fromhex(sha256))
        return total.hexdigest()[:16]

    # --- what can be wrong ---

    def _field_problems(self) -> list[str]:
        problems = []
        if is_remote(str(self.root)):
            do = "copy or mount it: object stores are only for the sets of torchvision"
            problems.append(refusal("a local folder", repr(self.root), do))
        sides = self.size if isinstance(self.size, tuple) else ()
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            problems.append(refusal("size as (height, width) in pixels", repr(self.size), "pass such as size=(32, 32)"))
        channels = 1 if self.grey else 3
        for name, values, low in (("mean", self.mean, -math.inf), ("std", self.std, 0)):
            if values is not None and not (len(values) == channels and min(values) > low):
                expected = f"{name} as {counted(channels, 'number')}{' > 0' * (low == 0)}"
                problems.append(refusal(expected, repr(values), "give one per channel, of pixels in [0, 1]"))
        return problems

    def _listing_problems(self, listed: Mapping[str, Listed]) -> list[str]:
        problems = []
        for name in self.SPLITS:
            if name not in listed and name != "val":
                problems.append(refusal(f"images in {self._root / name}", "no such folder", _LAYOUT))
            elif name in listed and not listed[name].paths:
                problems.append(refusal(f"images in {self._root / name}", "none", _LAYOUT))
        return problems or self._class_problems(listed)

    def _class_problems(self, listed: Mapping[str, Listed]) -> list[str]:
        problems, classes = [], listed["train"].classes
        if len(classes) < 2:
            expected = f"at least two class folders in {self._root / 'train'}"
            problems.append(refusal(expected, f"only {classes[0]}", _LAYOUT))
        for name, part in listed.items():
            if odd := sorted({*part.classes} ^ {*classes}):
                expected, got = f"the same class folders in train and {name}", f"{', '.join(odd)} in one of them only"
                problems.append(refusal(expected, got, "add or remove folders"))
            if empty := [kind for i, kind in enumerate(part.classes) if i not in part.labels]:
                expected = f"images in every class folder of {self._root / name}"
                problems.append(refusal(expected, f"none in {', '.join(empty)}", "add some or remove the folder"))
        return problems

    def _number_problems(self, listed: Mapping[str, Listed]) -> list[str]:
        total, least = len(listed["train"].labels), len(listed["train"].classes)
        most, why = len(listed.get("val", listed["train"]).labels), "None keeps all"
        if "val" not in listed:
            most, why = (
                total - least,
                f"train and val share the {counted(total, 'image')} of train, at least {least} each",
            )
        if self.val is not None and (problems := count_problem("val", self.val, least, most, why)):
            return problems
        left = total if "val" in listed else total - self._val_images(listed)
        if self.train is not None:
            return count_problem("train", self.train, least, left, why)
        return [] if left >= least else [refusal(f"at least {2 * least} images in train", total, why)]


def _listed(folder: Path, failed: Callable[[OSError], None]) -> Listed:
    """All that torchvision's ``ImageFolder`` would find, in its order."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    _, classes, _ = next(os.walk(folder, onerror=failed), ("", [], []))
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(sorted(classes)):
        for place, _, files in sorted(os.walk(folder / name, onerror=failed, followlinks=True)):
            images = sorted(file for file in files if file.lower().endswith(IMG_EXTENSIONS))
            paths += [os.path.join(place, image) for image in images]
            labels += [label] * len(images)
    return Listed(sorted(classes), paths, np.array(labels, dtype=np.int64))


def _unreadable(what: str, path: str | Path, problem: Exception) -> str:
    reason = problem.strerror if isinstance(problem, OSError) else None
    do = "replace or remove the file" if what == "image" else "make it readable or remove it"
    return refusal(f"a readable {what} in {_shown(path)}", reason or problem, do)


def _shown(path: str | Path) -> str:
    """A path that can be printed, whatever bytes its name has."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _first(problems: Sequence[str], what: str = "images") -> list[str]:
    more = len(problems) - _NAMED
    return [*problems[:_NAMED], *([f"and {more} more {what} like these"] if more > 0 else [])]
