"""Networks whose width is the variable of the search. Each is a description; ``build`` makes the
network.

Every network takes images in [0, 1] and normalises them in its first layer, so that an attack's eps
is in pixel units whatever the data set. A layer's size is ``max(1, round(width * base))`` with
Python's rounding: widths may be fractional. Seed torch before ``build``: the initial weights come
from its global generator. The weights of convolutions lie in memory with the channels last (in
residual networks from 16 channels on), and so does what the convolutions make of images of either
layout: that is faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robsearch.errors import (
    Condition,
    count,
    counted,
    is_whole,
    number,
    one_of,
    refuse_unless,
    refused,
)
from robsearch.identity import LATER, sparse_repr
from robsearch.parts.optimisers import LrFactors
from robsearch.protocols import Images, ImageSpec, Logits

Features: TypeAlias = Float[Tensor, "n f p q"]
Output: TypeAlias = Float[Tensor, "n f2 p2 q2"]

FIRST_LINEAR = 2
"""The place of an ``MLP``'s first linear layer, after ``Normalize`` and ``Flatten``."""

NTK_BETA = 0.1
"""The weight of biases in the parametrisation of the neural tangent kernel (arXiv 1806.07572)."""

NARROWEST_LAST = 16
"""Channels from which on a residual network has them last. torch 2.14's weight gradient of a 1x1
convolution of stride 2 with the channels last writes beyond its memory on CPUs with AVX2 where
there are 6 channels or fewer; 16 is what the widest vectors of a CPU hold."""

_ACTIVATIONS = {"relu": F.relu, "silu": F.silu}


@final
class Normalize(nn.Module):
    """``(x - mean) / std`` per channel; the first layer of every network here.

    Raises:
        InputError: ``images`` has not one mean and one positive std per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, images: ImageSpec) -> None:
        super().__init__()
        channels = images.shape[0]
        one_each = len(images.mean) == len(images.std) == channels
        if not (one_each and min(images.std) > 0):
            expected = f"one mean and one positive std for each of {counted(channels, 'channel')}"
            got = f"mean {images.mean} and std {images.std}"
            raise refused(expected, got, "correct the data set's spec")
        for name, values in (("mean", images.mean), ("std", images.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, x: Images) -> Images:
        """Images of mean 0 and deviation 1 over the training set: ``(n, c, h, w)``."""
        return (x - self.mean) / self.std


class _PacedSequential(nn.Sequential):
    """Modules in turn that ask for factors on the learning rates of their parameters."""

    lr_factors: Mapping[str, LrFactors]


@final
@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron: ``depth`` hidden layers of ``width`` units with ReLU, then a linear
    layer.

    With ``fan_in`` the numbers that enter a layer and ``N(0, v)`` a normal distribution of variance
    v, a layer's weights and biases are at first

    - ``torch`` (PyTorch's default): both uniform in ``+-1 / sqrt(fan_in)``;
    - ``he`` (arXiv 1502.01852, eq. 10, in every layer): ``N(0, 2 / fan_in)`` and 0;
    - ``lecun`` (LeCun et al. 1998, Efficient BackProp, eq. 16): ``N(0, 1 / fan_in)`` and 0;
    - ``ntk`` (arXiv 1806.07572, eq. 1, beta = 0.1): the layer is ``V x / sqrt(fan_in) + beta c``
      with ``V`` and ``c`` from ``N(0, 1)``, and these are what the optimiser moves. Here that is a
      layer with ``W = V / sqrt(fan_in)`` and ``b = beta c`` and factors on the learning rate: for
      SGD ``1 / fan_in`` and ``beta ** 2``, for Adam the roots of these. The paper's rate of SGD is
      1.

    In the ``standard`` parametrisation one learning rate moves all layers. In the maximal update
    parametrisation, ``mup`` (arXiv 2203.03466), the size of each layer's change does not depend on
    the width, so that what is tuned at one width holds at others. It is expressed as in Table 3
    there: by initialisation and learning rates alone, without a multiplier on the output (Table 8
    has one, and the same function at each step), so that layers' norms are those of the layers.
    With m the width over ``base_width``, where both parametrisations are one:

    - weights of the first layer: learning rate times m for SGD and 1 for Adam;
    - weights between hidden layers: 1 for SGD and 1/m for Adam;
    - weights of the last layer: 1/m for both, and initial variance times 1/m;
    - biases: m for SGD in hidden layers, else 1; their initial variance does not fall with width.

    Weight decay of ``SGD`` and ``AdamW`` takes the same share of all weights per step
    (``parameter_groups``); a recipe refuses that of ``Adam``, ``clip_gradient`` and ``NormDecay``
    for layers with learning rates of their own, whose gradients are of other sizes. Gradients of
    the first layers fall as 1/m, and Adam's ``eps`` has to stay small beside them.

    Attributes:
        width: units of each hidden layer.
        depth: hidden layers.
        init: ``torch``, ``he``, ``lecun`` or ``ntk``.
        parametrisation: ``standard`` or ``mup``; ``ntk`` is one of its own.
        base_width: with ``mup``, the width at which the learning rate and all else were tuned.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    width: int | float
    depth: int = 2
    init: Literal["torch", "he", "lecun", "ntk"] = field(default="torch", metadata=LATER)
    parametrisation: Literal["standard", "mup"] = field(default="standard", metadata=LATER)
    base_width: int | float | None = field(default=None, metadata=LATER)

    __repr__ = sparse_repr

    def __post_init__(self) -> None:
        do = "give the number of hidden layers"
        refuse_unless(
            _width_condition(self.width),
            count("depth", self.depth, do),
            one_of("init", self.init, "torch", "he", "lecun", "ntk"),
            one_of("parametrisation", self.parametrisation, "standard", "mup"),
            (
                self.init != "ntk" or self.parametrisation == "standard",
                "parametrisation 'standard' with init='ntk'",
                repr(self.parametrisation),
                "leave it out: the neural tangent kernel's is a parametrisation of its own",
            ),
            self._base_condition(),
        )

    @property
    def has_own_rates(self) -> bool:
        """Whether layers have learning rates of their own: under muP and the tangent kernel."""
        return self.init == "ntk" or self.parametrisation == "mup"

    def _base_condition(self) -> Condition:
        base = self.base_width
        if self.parametrisation == "mup":
            do = "pass the width at which the learning rate was tuned"
            return number("base_width", base, do, above=0)
        do = "leave it out, or pass parametrisation='mup'"
        return Condition(base is None, "no base_width without muP", base, do)

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        layers: list[nn.Module] = [Normalize(images), nn.Flatten()]
        features = math.prod(images.shape)
        units = _scaled(self.width, 1)
        for _ in range(self.depth):
            layers += [nn.Linear(features, units), nn.ReLU()]
            features = units
        layers.append(nn.Linear(features, images.num_classes))
        factors: dict[str, LrFactors] = {}
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.Linear):
                self._initialise(layer)
                first = place == FIRST_LINEAR
                last = place == len(layers) - 1
                weight, bias = self._paced(layer, first, last)
                factors |= {f"{place}.weight": weight, f"{place}.bias": bias}
        if all(factor == LrFactors() for factor in factors.values()):
            return nn.Sequential(*layers)
        network = _PacedSequential(*layers)
        network.lr_factors = factors
        return network

    def _initialise(self, layer: nn.Linear) -> None:
        """Draws nothing for ``torch``: the layer comes with its default."""
        if self.init == "torch":
            return
        gain = 2 if self.init == "he" else 1
        nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.in_features))
        if self.init == "ntk":
            nn.init.normal_(layer.bias, std=NTK_BETA)
        else:
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def _paced(
        self,
        layer: nn.Linear,
        first: bool,
        last: bool,
    ) -> tuple[LrFactors, LrFactors]:
        """The factors of a layer's weight and bias; under muP, the layer is scaled to its initial
        variance."""
        if self.init == "ntk":
            fan_in = layer.in_features
            weight = LrFactors(sgd=1 / fan_in, adam=1 / math.sqrt(fan_in))
            return weight, LrFactors(sgd=NTK_BETA**2, adam=NTK_BETA)
        if self.base_width is None:
            return LrFactors(), LrFactors()
        ratio = _scaled(self.width, 1) / _scaled(self.base_width, 1)
        ratio_in = 1.0 if first else ratio
        ratio_out = 1.0 if last else ratio
        layer.bias.mul_(math.sqrt(ratio_in))
        if last:
            layer.weight.div_(math.sqrt(ratio_in))
        weight = LrFactors(sgd=ratio_out / ratio_in, adam=1 / ratio_in)
        return weight, LrFactors(sgd=ratio_out)


@final
@dataclass(frozen=True)
class SmallCNN:
    """Two 3x3 convolutions of stride 2 (``16 width``, ``32 width`` channels), a hidden layer of
    ``64 width``.

    ReLU after each, padding 1, then a linear layer; for images from 8x8. Initialisation: PyTorch's
    defaults, weights and biases uniform in ``+-1 / sqrt(fan_in)``.

    Raises:
        InputError: ``width`` is not positive.
    """

    width: int | float

    def __post_init__(self) -> None:
        refuse_unless(_width_condition(self.width))

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        channels, height, width = images.shape
        first = _scaled(self.width, 16)
        second = _scaled(self.width, 32)
        hidden = _scaled(self.width, 64)
        # Each stride of 2 halves the image, rounded up.
        area = math.ceil(height / 4) * math.ceil(width / 4)
        network = nn.Sequential(
            Normalize(images),
            nn.Conv2d(channels, first, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(second * area, hidden),
            nn.ReLU(),
            nn.Linear(hidden, images.num_classes),
        )
        return network.to(memory_format=torch.channels_last)


@final
@dataclass(frozen=True)
class PreActResNet:
    """A pre-activation residual network (arXiv 1603.05027) for small images.

    A 3x3 stem and four stages of two-convolution blocks with
    ``64 width, 128 width, 256 width, 512 width`` channels, then batch norm, ReLU, global mean and a
    linear layer: the network of the studies of robust overfitting (arXiv 2002.11569).
    Initialisation as in ``WideResNet``.

    Attributes:
        depth: 18 (2, 2, 2, 2 blocks) or 34 (3, 4, 6, 3 blocks).
        width: factor on every channel count, the stem included.

    Raises:
        InputError: a field is out of its range.
    """

    depth: int = 18
    width: int | float = 1

    BLOCKS: ClassVar[dict[int, tuple[int, ...]]] = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
    }

    def __post_init__(self) -> None:
        fits = is_whole(self.depth) and self.depth in self.BLOCKS
        refuse_unless(
            _width_condition(self.width),
            (fits, "depth 18 or 34", repr(self.depth), "choose one of the two"),
        )

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        stages = [_scaled(self.width, base) for base in (64, 128, 256, 512)]
        return _ResNet(images, stages[0], stages, self.BLOCKS[self.depth], "relu")


@final
@dataclass(frozen=True)
class WideResNet:
    """WRN-depth-width (arXiv 1605.07146) as adversarial training uses it (arXiv 1901.08573,
    2010.01279).

    A 3x3 stem of 16 channels at every width, three stages of ``(depth - 4) / 6`` pre-activation
    blocks with ``16 width, 32 width, 64 width`` channels, batch norm, activation, global mean,
    linear layer. No dropout. Initialisation: convolutions normal with variance
    ``2 / (9 * channels out)`` (``2 / channels out`` where 1x1), batch norm 1 and 0, the linear
    layer's weights uniform in ``+-1 / sqrt(fan_in)`` and its biases 0.

    Attributes:
        depth: ``6 n + 4``: 10, 16, 22, 28, 34 ...
        width: k of a WRN-d-k.
        activation: ``relu``, or ``silu`` as in arXiv 2010.03593.

    Raises:
        InputError: a field is out of its range.
    """

    depth: int = 28
    width: int | float = 10
    activation: str = "relu"

    def __post_init__(self) -> None:
        fits = is_whole(self.depth) and self.depth >= 10 and self.depth % 6 == 4
        is_activation = self.activation in _ACTIVATIONS
        refuse_unless(
            _width_condition(self.width),
            (
                fits,
                "depth = 6 n + 4 with n >= 1",
                repr(self.depth),
                "use 10, 16, 22, 28 or 34",
            ),
            (
                is_activation,
                "activation relu or silu",
                repr(self.activation),
                "choose one of the two",
            ),
        )

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        stages = [_scaled(self.width, base) for base in (16, 32, 64)]
        blocks = (self.depth - 4) // 6
        return _ResNet(images, 16, stages, [blocks] * 3, self.activation)


class _Block(nn.Module):
    """Batch norm, activation, 3x3 convolution, twice; the shortcut starts after the first
    activation."""

    def __init__(
        self,
        channels: int,
        out: int,
        stride: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.activation = activation
        # No biases: batch norm would take them out again.
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if channels != out or stride != 1:
            self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Features) -> Output:
        act = _ACTIVATIONS[self.activation]
        y = act(self.bn1(x))
        between = self.conv1(y)
        change: Tensor = self.conv2(act(self.bn2(between)))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return change + shortcut


class _ResNet(nn.Module):
    """Normalisation, stem, stages of blocks (all but the first halve the image), batch norm, mean,
    linear."""

    def __init__(
        self,
        images: ImageSpec,
        stem: int,
        stages: Sequence[int],
        blocks: Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.normalize = Normalize(images)
        self.stem = nn.Conv2d(images.shape[0], stem, 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        channels = stem
        stride = 1
        for out, repeats in zip(stages, blocks, strict=True):
            stage = nn.Sequential(_Block(channels, out, stride, activation))
            for _ in range(repeats - 1):
                stage.append(_Block(out, out, 1, activation))
            self.stages.append(stage)
            channels = out
            stride = 2  # the first stage alone keeps the image's size
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, images.num_classes)
        self._initialise()
        if min(stages) >= NARROWEST_LAST:
            self.to(memory_format=torch.channels_last)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Images) -> Logits:
        features = self.stages(self.stem(self.normalize(x)))
        features = _ACTIVATIONS[self.activation](self.bn(features))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


def _scaled(width: int | float, base: int) -> int:
    return max(1, round(width * base))


def _width_condition(width: float) -> Condition:
    do = "give the factor on the layers' sizes, such as 0.5 or 4"
    return number("width", width, do, above=0)
