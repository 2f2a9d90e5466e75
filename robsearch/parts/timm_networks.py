"""Networks of the package timm, with a width that is searched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, final

import torch
from torch import nn

from robsearch.errors import described_error, number, refuse_unless, refused
from robsearch.parts.models import Normalize
from robsearch.protocols import ImageSpec

FAMILIES = ("ResNet", "ConvNeXt", "VisionTransformer")
"""The classes of timm whose width can be changed."""
GIVEN = ("num_classes", "in_chans", "img_size", "pretrained")
"""What is passed to timm already."""


@final
@dataclass(frozen=True)
class TimmNet:
    """A network of timm (``pip install 'robsearch[timm]'``) that has ``width`` times the channels
    that its name says: ``TimmNet("vit_small_patch16_224", width)``.

    - ResNet and its relatives (``resnet50``, ``resnext50_32x4d``, ``seresnet50`` ...; those of
      torchvision are the same networks): the channels of the four stages. The stem has 64 channels
      at every width, as that of a ``WideResNet`` has 16.
    - ConvNeXt (``convnext_tiny``, ``convnextv2_nano`` ...): the channels of the four stages.
    - Vision transformers (``vit_tiny_patch16_224``, ``deit_small_patch16_224`` ...): the heads of
      the attention, which keep their size, and so the embedding and the hidden layers. There has
      to be a whole number of heads: ``vit_small`` has 6, so 0.5, 1 and 2 are widths of it, and
      these are ``vit_tiny``, ``vit_small`` and ``vit_base``.

    Weights are at first as timm draws them; ``Pretrained`` begins at those of a file. Images are
    normalised by the data set's mean and deviation. A transformer is built for the size of the
    images, of which its patch has to be a divisor.

    Layer norms, position embeddings and layer scales are no linear maps: measures of layers
    leave them out, and name them. Bounds on the whole network, such as ``GlobalBound``, do not
    cover attention.

    Attributes:
        name: of a network of timm.
        width: the factor on the channels.
        options: more keywords for timm, as a dict or as pairs, such as ``{"patch_size": 4}`` for
            small images or ``{"drop_path_rate": 0.1}``. Numbers, texts, truth values and tuples.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    name: str
    width: int | float = 1
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        options: Any = self.options
        pairs = tuple(options.items()) if isinstance(options, Mapping) else options
        fits = isinstance(pairs, tuple) and all(_is_option(pair) for pair in pairs)
        given = sorted({name for name, _ in pairs} & set(GIVEN)) if fits else []
        do = "pass such as {'patch_size': 4}"
        theirs = "leave them out: the data set says them, and Pretrained begins at a file's weights"
        refuse_unless(
            (isinstance(self.name, str), "TimmNet.name as a text", repr(self.name), "resnet50"),
            number("TimmNet.width", self.width, "give the factor on the channels", above=0),
            (fits, "TimmNet.options as a dict from texts to plain values", repr(options), do),
            (not given, "no such options of TimmNet", ", ".join(given), theirs),
        )
        # A dataclass that is frozen is changed so while it is made.
        object.__setattr__(self, "options", tuple(sorted(pairs)))

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``.

        Raises:
            InputError: timm is not installed, has no such network or none of these families, or the
                width or the images do not suit it.
        """
        timm = _timm()
        channels, height, width = images.shape
        options: dict[str, Any] = {**dict(self.options), "in_chans": channels}
        with torch.device("meta"):
            base = self._created(timm, options)
        kind = _family(base)
        if kind not in FAMILIES:
            do = "use one of these, or a model of your own with a width"
            expected = f"a network of timm of {' or '.join(FAMILIES)}"
            raise refused(expected, f"{self.name}, a {type(base).__name__}", do)
        if kind == "VisionTransformer":
            _refuse_unfit_images(base, height, width)
            options["img_size"] = (height, width)
        options |= self._wider(kind, base)
        return nn.Sequential(
            Normalize(images), self._created(timm, {**options, "num_classes": images.num_classes})
        )

    def _created(self, timm: ModuleType, options: Mapping[str, Any]) -> nn.Module:
        try:
            net: nn.Module = timm.create_model(self.name, pretrained=False, **options)
        except Exception as error:  # whatever the options lead timm to
            expected = f"{self.name!r} with these options as a network of timm"
            do = f"look for one with timm.list_models(), and at its options; these are {options}"
            raise refused(expected, described_error(error), do) from error
        return net

    def _wider(self, kind: str, base: Any) -> dict[str, Any]:
        """The keywords that make it so wide."""
        if kind == "VisionTransformer":
            heads = base.blocks[0].attn.num_heads
            wider = self.width * heads
            is_whole = math.isclose(wider, round(wider), rel_tol=1e-6) and round(wider) >= 1
            expected = f"a width of {self.name} with a whole number of heads"
            do = f"use such as {1 / heads:.4g}, 1 or 2: at width 1 it has {heads} heads"
            refuse_unless((is_whole, expected, f"{self.width:g}, {wider:g} heads", do))
            heads_wider = round(wider)
            return {"num_heads": heads_wider, "embed_dim": base.embed_dim // heads * heads_wider}
        stages = [stage["num_chs"] for stage in base.feature_info[-4:]]
        if kind == "ConvNeXt":
            return {"dims": tuple(max(1, round(self.width * each)) for each in stages)}
        planes = [each // base.layer1[0].expansion for each in stages]
        return {"channels": tuple(max(1, round(self.width * each)) for each in planes)}


def _is_option(pair: object) -> bool:
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
        return False
    return _is_plain(pair[1])


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | bool | None)


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        do = "pip install 'robsearch[timm]', on every node"
        raise refused("the package timm, for TimmNet", f"{error}", do) from error
    return timm


def _family(net: nn.Module) -> str:
    """The name of the class, among a network's, whose options its width is."""
    for kind in type(net).__mro__:
        if kind.__name__ in FAMILIES and kind.__module__.startswith("timm."):
            return kind.__name__
    return ""


def _refuse_unfit_images(net: Any, height: int, width: int) -> None:
    patch = net.patch_embed.patch_size
    fits = height % patch[0] == 0 and width % patch[1] == 0
    expected = f"images that divide into patches of {patch[0]} x {patch[1]}"
    do = "pass options={'patch_size': ...}, or another size of the images"
    refuse_unless((fits, expected, f"images of {height} x {width}", do))
