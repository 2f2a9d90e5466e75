"""Networks whose width is the variable of the search. Each is a description; ``build`` makes the network.

Every network takes images in [0, 1] and normalises them in its first layer, so that an attack's eps is in
pixel units whatever the data set. A layer's size is ``max(1, round(width * base))`` with Python's rounding:
widths may be fractional. Seed torch before ``build``: the initial weights come from its global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robsearch.errors import InputError, refusal
from robsearch.protocols import Images, ImageSpec, Logits
from robsearch.wording import counted

Features: TypeAlias = Float[Tensor, "n f p q"]
Output: TypeAlias = Float[Tensor, "n f2 p2 q2"]

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
        if not (len(images.mean) == len(images.std) == channels and min(images.std) > 0):
            expected = f"one mean and one positive std for each of {counted(channels, 'channel')}"
            got = f"mean {images.mean} and std {images.std}"
            raise InputError(refusal(expected, got, "correct the data set's spec"))
        self.register_buffer("mean", torch.tensor(images.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(images.std).view(1, -1, 1, 1))

    def forward(self, x: Images) -> Images:
        """Images of mean 0 and deviation 1 over the training set: ``(n, c, h, w)``."""
        return (x - self.mean) / self.std


@final
@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron: ``depth`` hidden layers of ``width`` units with ReLU, then a linear layer.

    Initialisation: PyTorch's defaults, weights and biases uniform in ``+-1 / sqrt(fan_in)``.

    Raises:
        InputError: ``width`` is not positive or ``depth`` not a whole number >= 1.
    """

    width: int | float
    depth: int = 2

    def __post_init__(self) -> None:
        problems = _width_problems(self.width)
        if not _is_whole(self.depth) or self.depth < 1:
            problems.append(refusal("depth >= 1", repr(self.depth), "give the number of hidden layers"))
        _refuse(problems)

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        layers: list[nn.Module] = [Normalize(images), nn.Flatten()]
        features = math.prod(images.shape)
        for _ in range(self.depth):
            layers += [nn.Linear(features, _scaled(self.width, 1)), nn.ReLU()]
            features = _scaled(self.width, 1)
        return nn.Sequential(*layers, nn.Linear(features, images.num_classes))


@final
@dataclass(frozen=True)
class SmallCNN:
    """Two 3x3 convolutions of stride 2 (``16 width``, ``32 width`` channels), a hidden layer of ``64 width``.

    ReLU after each, padding 1, then a linear layer; for images from 8x8. Initialisation: PyTorch's defaults,
    weights and biases uniform in ``+-1 / sqrt(fan_in)``.

    Raises:
        InputError: ``width`` is not positive.
    """

    width: int | float

    def __post_init__(self) -> None:
        _refuse(_width_problems(self.width))

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        channels, height, width = images.shape
        first, second, hidden = (_scaled(self.width, base) for base in (16, 32, 64))
        area = math.ceil(height / 4) * math.ceil(width / 4)
        return nn.Sequential(
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


@final
@dataclass(frozen=True)
class PreActResNet:
    """A pre-activation residual network (arXiv 1603.05027) for small images.

    A 3x3 stem and four stages of two-convolution blocks with ``64 width, 128 width, 256 width, 512 width``
    channels, then batch norm, ReLU, global mean and a linear layer: the network of the studies of robust
    overfitting (arXiv 2002.11569). Initialisation as in ``WideResNet``.

    Attributes:
        depth: 18 (2, 2, 2, 2 blocks) or 34 (3, 4, 6, 3 blocks).
        width: factor on every channel count, the stem included.

    Raises:
        InputError: a field is out of its range.
    """

    depth: int = 18
    width: int | float = 1

    BLOCKS: ClassVar[dict[int, tuple[int, ...]]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

    def __post_init__(self) -> None:
        problems = _width_problems(self.width)
        if not _is_whole(self.depth) or self.depth not in self.BLOCKS:
            problems.append(refusal("depth 18 or 34", repr(self.depth), "choose one of the two"))
        _refuse(problems)

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        stages = [_scaled(self.width, base) for base in (64, 128, 256, 512)]
        return _ResNet(images, stages[0], stages, self.BLOCKS[self.depth], "relu")


@final
@dataclass(frozen=True)
class WideResNet:
    """WRN-depth-width (arXiv 1605.07146) as adversarial training uses it (arXiv 1901.08573, 2010.01279).

    A 3x3 stem of 16 channels at every width, three stages of ``(depth - 4) / 6`` pre-activation blocks with
    ``16 width, 32 width, 64 width`` channels, batch norm, activation, global mean, linear layer. No dropout.
    Initialisation: convolutions normal with variance ``2 / (9 * channels out)`` (``2 / channels out`` where
    1x1), batch norm 1 and 0, the linear layer's weights uniform in ``+-1 / sqrt(fan_in)`` and its biases 0.

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
        problems = _width_problems(self.width)
        if not _is_whole(self.depth) or self.depth < 10 or self.depth % 6 != 4:
            do = "use 10, 16, 22, 28 or 34"
            problems.append(refusal("depth = 6 n + 4 with n >= 1", repr(self.depth), do))
        if self.activation not in _ACTIVATIONS:
            problems.append(refusal("activation relu or silu", repr(self.activation), "choose one of the two"))
        _refuse(problems)

    def build(self, images: ImageSpec) -> nn.Module:
        """A new network from images ``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        stages = [_scaled(self.width, base) for base in (16, 32, 64)]
        return _ResNet(images, 16, stages, [(self.depth - 4) // 6] * 3, self.activation)


class _Block(nn.Module):
    """Batch norm, activation, 3x3 convolution, twice; the shortcut starts after the first activation."""

    def __init__(self, channels: int, out: int, stride: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        same = channels == out and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Features) -> Output:
        act = _ACTIVATIONS[self.activation]
        y = act(self.bn1(x))
        change: Tensor = self.conv2(act(self.bn2(self.conv1(y))))
        return change + (x if self.shortcut is None else self.shortcut(y))


class _ResNet(nn.Module):
    """Normalisation, stem, stages of blocks (all but the first halve the image), batch norm, mean, linear."""

    def __init__(
        self, images: ImageSpec, stem: int, stages: Sequence[int], blocks: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        self.activation = activation
        self.normalize = Normalize(images)
        self.stem = nn.Conv2d(images.shape[0], stem, 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        channels = stem
        for i, (out, count) in enumerate(zip(stages, blocks, strict=True)):
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            into = [channels] + [out] * (count - 1)
            self.stages.append(
                nn.Sequential(*(_Block(c, out, s, activation) for c, s in zip(into, strides, strict=True)))
            )
            channels = out
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, images.num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Images) -> Logits:
        features = _ACTIVATIONS[self.activation](self.bn(self.stages(self.stem(self.normalize(x)))))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


def _scaled(width: int | float, base: int) -> int:
    return max(1, round(width * base))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _width_problems(width: object) -> list[str]:
    if isinstance(width, int | float) and not isinstance(width, bool) and 0 < width < math.inf:
        return []
    return [refusal("a finite width > 0", repr(width), "give the factor on the layers' sizes, such as 0.5 or 4")]


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise InputError(*problems)
