"""Images of one's own: a folder per split with a folder per class, as torchvision's ``ImageFolder``
has them."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, TypeAlias, final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from robsearch.data.contents import contents, open_regular
from robsearch.data.maps import PIECE
from robsearch.data.remote import is_remote
from robsearch.data.splits import (
    Indices,
    Parts,
    count_problem,
    draw,
    drawn_conditions,
    seeded,
    with_wrong_labels,
)
from robsearch.errors import InputError, counted, problems_of, refusal, refuse
from robsearch.identity import LATER, sparse_repr
from robsearch.protocols import ImageSpec, Split

Pixels: TypeAlias = UInt8[np.ndarray, "n c h w"]

_NAMED = 5
"""Images named in one refusal; the rest are counted."""

LARGEST_PIXELS = 178_956_970
"""Of one image: at so many Pillow, too, takes a file for a bomb."""

PIXELS_AT_ONCE = 1 << 24
"""Of all images that are decoded at the same time; a larger one is decoded alone. Pillow takes 4
bytes for each, as many again to convert it, and decoders of their own up to 4 more."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its name says. Pillow would give one of PostScript to Ghostscript,
which runs it as a program."""

_INTEGER = re.compile(r"\d+")

_LAYOUT = "lay images out as train/CLASS/*.png and test/CLASS/*.png, val/CLASS/*.png if you like"


class Listed(NamedTuple):
    """The images of one split: sorted class names, then per image its path and its class's place
    among them."""

    classes: list[str]
    paths: list[str]
    labels: Indices


@final
@dataclass(frozen=True)
class Folder:
    """A user's own images: ``root/train/CLASS/*.png``, ``root/test/CLASS/*.png``,
    ``root/val/CLASS/*.png`` or no val.

    Class folders are numbered by name from 0; all that torchvision's ``ImageFolder`` would find
    counts (.png, .jpg, .bmp, .webp ..., also in sub-folders). Without ``root/val``, ``val`` is
    carved out of ``root/train``, stratified, with a fixed seed. Labels follow the folders;
    ``train`` and ``val`` are in random order, ``test`` in the order of its names.

    Images become 8-bit RGB or grey; transparency is dropped and a camera's rotation mark is not
    applied. They are decoded by threads, up to ``PIXELS_AT_ONCE`` pixels of files at a time, and a
    larger file alone: that takes 4 bytes for each of its pixels, 8 if it has another mode than RGB
    (or grey), up to 12 of WebP and progressive JPEG. A file of more than ``LARGEST_PIXELS`` is
    refused. What becomes of them is in memory while ``read`` runs: ``n * channels * h * w`` bytes.

    The identity of the set is what its files hold: ``fingerprint`` is taken from their names below
    ``root`` and their bytes when the object is made. A file added, renamed or changed makes another
    set, with a file of its own in the store; times, owners and ``root`` do not count. So a copy of
    the files, made in any way, is the same set, and so it must be on all nodes of a cluster. The
    first object on a node reads every file. The node's cache keeps their hashes, so the next
    objects cost a listing and read only files that are new or changed.

    Attributes:
        root: a local folder, made absolute (or a mounted one: object stores are only for the sets
            of torchvision).
        size: (height, width) of all images, in pixels.
        train: keep only this many training images, stratified; None: all that there are, or that
            ``val`` leaves.
        val: keep only this many images of ``root/val`` (None: all); without ``root/val``, carve out
            this many (None: a tenth of ``root/train``, at least as many as classes).
        grey: one channel instead of three (ITU-R 601 luma of colour images).
        resize: scale an image of another size to cover ``size``, keeping its shape, and cut what
            stands out evenly (bilinear, antialiased). Otherwise another size is an error.
        label_noise: share of the labels of ``train`` that is another class, uniformly at random, 0
            to 1: exactly ``round(label_noise * images)``. Images do not depend on it.
        noisy_val: whether the same share of the labels of ``val`` is wrong too. Those of ``test``
            never are.
        draw: which draw of ``train``, ``val`` and wrong labels; ``test`` is the same in all (see
            ``robsearch.data``). It changes which images there are only where some are left out, or
            ``val`` is carved out.
        mean: per channel, of pixels in [0, 1], to normalise by; None: 0.5.
        std: likewise the deviation; None: 0.5.
        num_classes: found, not given.
        fingerprint: found, not given.

    Raises:
        InputError: no images, fewer than two classes, class folders that differ among splits,
            numbers that do not fit, all at once; or files or folders that cannot be read, are none,
            or lead back to where they lie in (names them).
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
    label_noise: float = field(default=0.0, metadata=LATER)
    noisy_val: bool = field(default=False, metadata=LATER)
    draw: int | Literal["seed"] = field(default=0, metadata=LATER)
    num_classes: int = field(init=False)
    fingerprint: str = field(init=False)

    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    __repr__ = sparse_repr

    def __post_init__(self) -> None:
        refuse(self._field_problems())
        object.__setattr__(self, "root", str(self._root))  # a worker may stand in another folder
        listed = self._listed()
        refuse(self._listing_problems(listed) or self._number_problems(listed))
        object.__setattr__(self, "num_classes", len(listed["train"].classes))
        object.__setattr__(self, "fingerprint", self._fingerprint(listed))

    @property
    def spec(self) -> ImageSpec:
        """Shape ``(1 or 3, h, w)``, the number of class folders, and ``mean`` and ``std`` as
        given."""
        channels = 1 if self.grey else 3
        half = (0.5,) * channels
        shape = (channels, *self.size)
        return ImageSpec(shape, self.num_classes, self.mean or half, self.std or half)

    def read(self) -> Mapping[str, Split]:
        """The splits ``train``, ``val`` and ``test``: uint8 images ``(n, c, h, w)``, int64 labels
        ``(n,)``.

        Raises:
            InputError: an image cannot be read or has another size (names the files), or the files
                do not hold what they held when the object was made.
        """
        listed = self._listed()
        if self._listing_problems(listed) or self._fingerprint(listed) != self.fingerprint:
            do = "make the Folder anew; on another machine, copy the files there again"
            got = "other names or contents"
            raise InputError(refusal(f"the files in {_shown(self.root)} as they were", got, do))
        splits = {}
        problems: list[str] = []
        for name, (source, chosen) in self._chosen(listed).items():
            pixels, unreadable = self._decoded([source.paths[i] for i in chosen])
            problems += unreadable
            labels = torch.from_numpy(source.labels[chosen])
            splits[name] = Split(torch.from_numpy(pixels), labels)
        refuse(_first(problems))
        return with_wrong_labels(splits, self)

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser().absolute()

    def _listed(self) -> dict[str, Listed]:
        """The splits that have a folder. Raises InputError for folders that cannot be listed."""
        failures: list[OSError] = []
        listed = {}
        for name in self.SPLITS:
            folder = self._root / name
            try:
                if folder.is_dir():
                    listed[name] = _listed(folder, failures.append)
            except OSError as problem:
                failures.append(problem)
        problems = [_unreadable("folder", failure.filename, failure) for failure in failures]
        refuse(_first(problems, "folders"))
        return listed

    def _chosen(self, listed: Mapping[str, Listed]) -> dict[str, tuple[Listed, Indices]]:
        """Per split, where its images are listed and which of them it has. ``val`` does not depend
        on ``train``."""
        random = seeded(0, self.draw)
        train = listed["train"]
        test = listed["test"]
        val = listed.get("val", train)
        val_indices, pool = draw(
            val.labels, np.arange(len(val.labels)), self._val_images(listed), random
        )
        if "val" in listed:
            pool = np.arange(len(train.labels))
        n = len(pool) if self.train is None else self.train
        train_indices, _ = draw(train.labels, pool, n, random)
        return {
            "train": (train, train_indices),
            "val": (val, val_indices),
            "test": (test, np.arange(len(test.labels))),
        }

    def _val_images(self, listed: Mapping[str, Listed]) -> int:
        if self.val is not None:
            return self.val
        if "val" in listed:
            return len(listed["val"].labels)
        return max(round(len(listed["train"].labels) / 10), len(listed["train"].classes))

    def _decoded(self, paths: list[str]) -> tuple[Pixels, list[str]]:
        """Images in the order of their paths, and what is wrong with any of them."""
        pixels = np.empty((len(paths), *self.spec.shape), dtype=np.uint8)
        problems: dict[int, str] = {}

        def decode(i: int, most: int = PIXELS_AT_ONCE) -> bool:
            image = self._opened(paths[i], most)
            if isinstance(image, str):
                problems[i] = image
            elif image is not None:
                pixels[i] = np.asarray(image).reshape(*self.size, -1).transpose(2, 0, 1)
            return image is not None

        with ThreadPoolExecutor() as threads:
            decoded = list(threads.map(decode, range(len(paths))))
        # In one thread: the C library keeps memory that was freed for each thread.
        for i, done in enumerate(decoded):
            if not done:
                decode(i, LARGEST_PIXELS)
        return pixels, [problems[i] for i in sorted(problems)]

    def _opened(self, path: str, most: int = LARGEST_PIXELS) -> Image.Image | str | None:
        """The image, or what is wrong with it; None if it has more than ``most`` pixels."""
        h, w = self.size
        try:
            with open_regular(path) as stream, Image.open(stream, formats=_FORMATS) as file:
                pixels = file.width * file.height
                if pixels > LARGEST_PIXELS:
                    return _too_large(path, pixels)
                if pixels > most:
                    return None
                if file.mode.startswith(("I", "F")):
                    do = "convert it to 8 bits: it is not said which of its values is white"
                    return refusal(f"an 8-bit image in {path}", f"mode {file.mode}", do)
                if file.size != (w, h) and not self.resize:
                    got = f"{file.height}x{file.width} in {path}"
                    do = "pass resize=True or correct size"
                    return refusal(f"images of {h}x{w} pixels", got, do)
                with _IN_MEMORY.taken(pixels):
                    return self._fitted(file)
        except Image.DecompressionBombError as problem:
            return _too_large(path, int(_INTEGER.findall(str(problem))[0]))
        except Exception as problem:  # a damaged file breaks its decoder in any way
            return _unreadable("image", path, problem)

    def _fitted(self, file: Image.Image) -> Image.Image:
        """Decodes an image; as large and of such colours as all shall be."""
        h, w = self.size
        mode = "L" if self.grey else "RGB"
        # To convert what has the mode already would copy it.
        image = file if file.mode == mode else file.convert(mode)
        if image.size == (w, h):
            return image.copy()
        return ImageOps.fit(image, (w, h), Image.Resampling.BILINEAR)

    def _fingerprint(self, listed: Mapping[str, Listed]) -> str:
        """Of names and contents. Raises InputError for files that cannot be read."""
        root = os.path.join(self.root, "")
        names = [path.removeprefix(root) for part in listed.values() for path in part.paths]
        hashes, problems = contents(self.root, names)
        unreadable = [
            _unreadable("image", root + name, problems[name]) for name in names if name in problems
        ]
        refuse(_first(unreadable))
        total = hashlib.sha256()
        for name in sorted(map(os.fsencode, hashes)):
            total.update(name + b"\0" + bytes.fromhex(hashes[os.fsdecode(name)]))
        return total.hexdigest()[:16]

    # --- what can be wrong ---

    def _field_problems(self) -> list[str]:
        is_pair = isinstance(self.size, tuple) and len(self.size) == 2
        sides_fit = is_pair and all(isinstance(side, int) and side > 0 for side in self.size)
        channels = 1 if self.grey else 3
        mean_fits = self.mean is None or len(self.mean) == channels
        std_fits = self.std is None or (len(self.std) == channels and min(self.std) > 0)
        numbers = counted(channels, "number")
        copy_it = "copy or mount it: object stores are only for the sets of torchvision"
        expected = "size as (height, width) in pixels"
        per_channel = "give one per channel, of pixels in [0, 1]"
        return problems_of(
            (not is_remote(str(self.root)), "a local folder", repr(self.root), copy_it),
            (sides_fit, expected, repr(self.size), "pass such as size=(32, 32)"),
            (mean_fits, f"mean as {numbers}", repr(self.mean), per_channel),
            (std_fits, f"std as {numbers} > 0", repr(self.std), per_channel),
            *drawn_conditions(self.label_noise, self.draw, self.noisy_val),
        )

    def _listing_problems(self, listed: Mapping[str, Listed]) -> list[str]:
        problems = []
        for name in self.SPLITS:
            expected = f"images in {self._root / name}"
            if name not in listed and name != "val":
                problems.append(refusal(expected, "no such folder", _LAYOUT))
            elif name in listed and not listed[name].paths:
                problems.append(refusal(expected, "none", _LAYOUT))
        return problems or self._class_problems(listed)

    def _class_problems(self, listed: Mapping[str, Listed]) -> list[str]:
        problems = []
        classes = listed["train"].classes
        if len(classes) < 2:
            expected = f"at least two class folders in {self._root / 'train'}"
            problems.append(refusal(expected, f"only {classes[0]}", _LAYOUT))
        for name, part in listed.items():
            in_one_only = ", ".join(sorted({*part.classes} ^ {*classes}))
            if in_one_only:
                expected = f"the same class folders in train and {name}"
                got = f"{in_one_only} in one of them only"
                problems.append(refusal(expected, got, "add or remove folders"))
            empty = ", ".join(c for i, c in enumerate(part.classes) if i not in part.labels)
            if empty:
                expected = f"images in every class folder of {self._root / name}"
                got = f"none in {empty}"
                problems.append(refusal(expected, got, "add some or remove the folder"))
        return problems

    def _number_problems(self, listed: Mapping[str, Listed]) -> list[str]:
        total = len(listed["train"].labels)
        least = len(listed["train"].classes)
        if "val" in listed:
            most = len(listed["val"].labels)
            why = "None keeps all"
        else:
            most = total - least
            images = counted(total, "image")
            why = f"train and val share the {images} of train, at least {least} each"
        if self.val is not None:
            problems = count_problem("val", self.val, least, most, why)
            if problems:
                return problems
        most = total if "val" in listed else total - self._val_images(listed)
        if self.train is not None:
            return count_problem("train", self.train, least, most, why)
        if most < least:
            return [refusal(f"at least {2 * least} images in train", total, why)]
        return []


def parts(folder: Folder) -> dict[str, Parts]:
    """What ``folder.read()`` gives, decoded as it is asked for, about ``PIECE`` bytes at a time.

    Not a method, for stored files are named by the source code of the class.

    Raises:
        InputError: as ``read`` does; for images that cannot be read at the end of the last split.
    """
    listed = folder._listed()
    if folder._listing_problems(listed) or folder._fingerprint(listed) != folder.fingerprint:
        do = "make the Folder anew; on another machine, copy the files there again"
        got = "other names or contents"
        raise InputError(refusal(f"the files in {_shown(folder.root)} as they were", got, do))
    chosen = folder._chosen(listed)
    at_once = max(PIECE // math.prod(folder.spec.shape), 1)
    problems: list[str] = []

    def images(source: Listed, rows: Indices, is_last: bool) -> Iterator[Tensor]:
        for some in np.split(rows, range(at_once, len(rows), at_once)):
            pixels, unreadable = folder._decoded([source.paths[i] for i in some])
            problems.extend(unreadable)
            yield torch.from_numpy(pixels)
        if is_last:
            refuse(_first(problems))

    last = list(chosen)[-1]
    splits = {}
    for name, (source, rows) in chosen.items():
        labels = torch.from_numpy(source.labels[rows])
        splits[name] = Parts(images(source, rows, name == last), labels)
    return with_wrong_labels(splits, folder)


class _Memory:
    """Lets threads decode images as long as these have few pixels together, or there is one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pixels = 0

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until an image of so many pixels may be decoded; inside it counts."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._pixels or self._pixels + pixels <= PIXELS_AT_ONCE
            )
            self._pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self._pixels -= pixels
                self._changed.notify_all()


_IN_MEMORY = _Memory()


def _walk(folder: str, failed: Callable[[OSError], None]) -> list[tuple[str, list[str]]]:
    """A folder and all below it, through links, each with its files, sorted.

    A link that leads back to a folder above it would be followed for ever: ``failed`` is told.
    """
    walked: list[tuple[str, list[str]]] = []
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(folder, ())]
    while waiting:
        place, above = waiting.pop()
        try:
            status = os.stat(place)
        except OSError as problem:
            failed(problem)
            continue
        here = status.st_dev, status.st_ino
        if here in above:
            failed(OSError(errno.ELOOP, "a link that leads back to a folder above it", place))
            continue
        _, folders, files = next(os.walk(place, onerror=failed), (place, [], []))
        walked.append((place, files))
        waiting += [(os.path.join(place, name), (*above, here)) for name in folders]
    return sorted(walked)


def _listed(folder: Path, failed: Callable[[OSError], None]) -> Listed:
    """All that torchvision's ``ImageFolder`` would find, in its order."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    nothing: tuple[str, list[str], list[str]] = ("", [], [])
    # A folder that cannot be listed yields nothing, after ``failed`` was told.
    _, classes, _ = next(os.walk(folder, onerror=failed), nothing)
    classes.sort()
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for place, files in _walk(os.path.join(folder, name), failed):
            images = sorted(file for file in files if file.lower().endswith(IMG_EXTENSIONS))
            paths += [os.path.join(place, image) for image in images]
            labels += [label] * len(images)
    return Listed(classes, paths, np.array(labels, dtype=np.int64))


def _too_large(path: str, pixels: int) -> str:
    expected = f"an image of at most {LARGEST_PIXELS:,} pixels in {_shown(path)}"
    return refusal(
        expected,
        counted(pixels, "pixel"),
        "make it smaller first, such as with Pillow's Image.thumbnail",
    )


def _unreadable(what: str, path: str | Path, problem: Exception) -> str:
    reason: object = problem
    if isinstance(problem, OSError) and problem.strerror:
        reason = problem.strerror  # without the path, which may not be printable
    do = "replace or remove the file" if what == "image" else "make it readable or remove it"
    return refusal(f"a readable {what} in {_shown(path)}", reason, do)


def _shown(path: str | Path) -> str:
    """A path that can be printed, whatever bytes its name has."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _first(problems: Sequence[str], what: str = "images") -> list[str]:
    more = len(problems) - _NAMED
    if more <= 0:
        return [*problems]
    return [*problems[:_NAMED], f"and {more} more {what} like these"]
