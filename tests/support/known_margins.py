"""Models whose margins are known, and images in the middle of the box, where it is not in the
way."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

SHAPE = (2, 3, 3)
PIXELS = math.prod(SHAPE)
NORMS = ["linf", "l2"]


def linear(classes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes)).double()


def examples(classes: int, n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 + 0.2 * torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % classes


def by_pixel(lead: Callable[[Tensor], Tensor]) -> nn.Module:
    """Two classes, told apart by ``f_0 - f_1 = lead(pixels)``, (n, d) to (n,)."""
    net = nn.Flatten()
    net.forward = lambda x: torch.stack([3 + lead(x.flatten(1)), 3 + 0 * x[:, 0, 0, 0]], dim=1)
    return net


def pixels(values: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Images of one row, and labels 0."""
    x = torch.tensor(values, dtype=torch.float64)
    return x[:, None, None, :], torch.zeros(len(x), dtype=torch.long)


def linear_margin(model: nn.Sequential, x: Tensor, y: Tensor, norm: str) -> Tensor:
    weight, bias, dual = (
        model[1].weight.detach(),
        model[1].bias.detach(),
        {"linf": 1, "l2": 2}[norm],
    )
    return torch.stack(
        [
            min(
                ((weight[c] - weight[k]) @ image + bias[c] - bias[k])
                / (weight[c] - weight[k]).norm(p=dual)
                for k in range(len(weight))
                if k != c
            )
            for image, c in zip(x.flatten(1), y.tolist(), strict=True)
        ]
    )
