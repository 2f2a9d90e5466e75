"""A data set to which images are added for training: generated ones, or those of another set."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar, final

import torch

from robsearch.data.npz import NpzImages
from robsearch.data.splits import BY_SEED
from robsearch.errors import instance_of, number, problems_of, refuse
from robsearch.protocols import Dataset, ImageSpec, Split

EXTRA = "extra"
"""The split of a ``Mixed`` that holds the added images."""

Set = TypeVar("Set", bound=Dataset | NpzImages)


@final
@dataclass(frozen=True)
class Mixed:
    """A real data set with more images to train on: of each batch a fixed share is extra ones.

        Mixed(CIFAR10(), extra=NpzImages("1m.npz"), share=0.7)

    So train Gowal et al. 2021 (arXiv 2110.09468) and Wang et al. 2023 (arXiv 2302.04638) with
    generated images. An epoch has as many images as the real training split, so a training with
    extra images takes as many steps as one without. Of its ``n`` images ``round(share * n)`` are
    extra, and of each batch ``share`` to within one image. The real ones of an epoch are drawn
    without repetition, anew in each epoch; the extra ones independently, as in the sampler of
    Carmon et al. 2019 (arXiv 1905.13736), which both papers use. What is drawn depends on the
    recipe's seed and the epoch alone.

    ``val``, ``test``, classes and the mean and deviation to normalise by are those of the real set.
    The extra set gives its ``train`` and nothing else. Its labels are taken as they are, also
    pseudo-labels. Whether it holds copies of images of ``val`` or ``test`` is not looked at.

    ``label_noise`` and ``draw`` are fields of the two sets, and each acts on its own. Wrong labels
    of the real set are known by their place, as without a ``Mixed``; the labels of extra images
    count as right. ``draw="seed"`` is resolved in both.

    The two sets lie in the store as they would alone: another ``share``, or another extra set,
    builds no file of the real images anew.

    Attributes:
        real: where ``train``, ``val`` and ``test`` come from.
        extra: images to add: an ``NpzImages``, or any data set, of which ``train`` is taken.
        share: of a batch that is extra, in (0, 1).

    Raises:
        InputError: a field of another kind or out of its range, or an extra set with images of
            another size or with another number of classes.
    """

    real: Dataset
    _: KW_ONLY
    extra: Dataset | NpzImages
    share: float = 0.7

    def __post_init__(self) -> None:
        do = "give the share of extra images in a batch, such as 0.7"
        example = "NpzImages('1m.npz')"
        refuse(
            problems_of(
                instance_of("Mixed.real", self.real, Dataset, "CIFAR10()"),
                (
                    isinstance(self.extra, NpzImages)
                    or instance_of("Mixed.extra", self.extra, Dataset).fits,
                    "Mixed.extra to be a data set or an NpzImages",
                    repr(self.extra),
                    f"pass such as {example}",
                ),
                (
                    not any(isinstance(each, Mixed) for each in (self.real, self.extra)),
                    "Mixed of two sets",
                    "one that is mixed itself",
                    "mix the files first",
                ),
                number("Mixed.share", self.share, do, above=0, below=1),
            )
        )
        refuse(self._spec_problems())

    @property
    def spec(self) -> ImageSpec:
        """That of the real set."""
        return self.real.spec

    def read(self) -> Mapping[str, Split]:
        """The splits of the real set, and as ``extra`` the training images of the other; all in
        memory. ``data.load`` maps both from their files."""
        if isinstance(self.extra, NpzImages):
            images, labels = self.extra.parts()
            extra = Split(torch.cat(list(images)), labels)
        else:
            extra = self.extra.read()["train"]
        return {**self.real.read(), EXTRA: extra}

    def _spec_problems(self) -> list[str]:
        real = self.real.spec
        extra = self.extra.spec
        return problems_of(
            (
                extra.shape == real.shape,
                f"extra images of {real.shape}, as the real ones (channels, height, width)",
                f"{extra.shape} in {self.extra!r}",
                "bring them to that size; an .npz holds them as n x height x width x channels",
            ),
            (
                extra.num_classes == real.num_classes,
                f"an extra set of {real.num_classes} classes, as the real one",
                f"{extra.num_classes} in {self.extra!r}",
                "give the extra set the real one's classes; NpzImages takes num_classes=... where "
                "the last of them have no image",
            ),
        )


def members(dataset: Dataset | NpzImages) -> tuple[Dataset | NpzImages, ...]:
    """The sets of which one is made: two of a ``Mixed``, and itself of any other."""
    return (dataset.real, dataset.extra) if isinstance(dataset, Mixed) else (dataset,)


def with_draw(dataset: Set, seed: int) -> Set:
    """A data set whose draw is the recipe's ``seed`` where it says ``seed``; the same object where
    it does not."""
    changes: dict[str, Any] = {}
    if isinstance(dataset, Mixed):
        for name in ("real", EXTRA):
            member = getattr(dataset, name)
            drawn = with_draw(member, seed)
            if drawn is not member:
                changes[name] = drawn
    elif getattr(dataset, "draw", None) == BY_SEED:
        changes["draw"] = seed
    if not changes:
        return dataset
    # Not by replace: a Folder that is made anew looks at its files again.
    changed = copy.copy(dataset)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed
