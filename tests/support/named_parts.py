"""Parts of recipes for the tests of identity: named ones, and ones without a lasting name."""

import dataclasses
import functools

import optuna
import torch
from small_spaces import recipe

from robsearch import PGD, Recipe, space
from robsearch.parts.attacks.losses import margin


def brighter(x: torch.Tensor, by: float = 0.1) -> torch.Tensor:
    return (x + by).clamp(0, 1)


def halved(progress: float) -> float:
    return 0.5 if progress > 0.5 else 1.0


class Flip:
    """A plain object, no dataclass: its state is what it holds."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.rand(len(x), 1, 1, 1) < self.share, x.flip(3), x)


class Grainy(torch.nn.Module):
    """A transform of a user's with a setting that begins with an underscore."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self._sigma = sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self._sigma * torch.randn_like(x)


@dataclasses.dataclass(frozen=True)
class Noisy:
    """An attack of a user's; ``digest_name`` keeps its digests when the class moves to another
    module."""

    eps: float = 0.1
    norm: str = "linf"

    digest_name = "named:Noisy"

    def __call__(self, model, x, y, loss):
        return PGD(eps=self.eps, steps=1)(model, x, y, loss)


@dataclasses.dataclass(frozen=True)
class Climbing:
    """An attack of a user's that holds a function of ours."""

    loss: object = margin

    digest_name = "named:Climbing"

    def __call__(self, model, x, y, loss):
        return PGD()(model, x, y, self.loss(y))


def local_function() -> object:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return x

    return inner


UNNAMED = {
    "lambda": lambda x: x,
    "closure": local_function(),
    "partial of a lambda": functools.partial(lambda x, by: x + by, by=1.0),
    "object that holds a lambda": Flip(share=lambda: 0.5),
    "generator": (x for x in ()),
}


@space(widths=(4, 8))
def by_functions(trial: optuna.Trial, width: float) -> Recipe:
    """Functions, a partial and a plain object where most recipes have dataclasses."""
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    augment = functools.partial(brighter, by=0.05)
    return recipe(width, lam, augment=augment, learning_rate=halved)


@space(widths=(4, 8))
def by_lambda(trial: optuna.Trial, width: float) -> Recipe:
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    return recipe(width, lam, augment=lambda x: x)
