"""Models on a device that is too small, and all that may be trained on it."""

import copy
import dataclasses
import math
import warnings
import weakref

import pytest
import torch
from small_spaces import recipe
from torch import nn

from robsearch import (
    EMA,
    MART,
    PGD,
    PGDAT,
    TRADES,
    WAR,
    Adam,
    AverageMargin,
    Digits,
    Fixed,
    NormDecay,
    Orthogonality,
    SingularValueClipping,
    Standard,
    WeightPerturbation,
    train,
)
from robsearch.protocols import Split

CPU = torch.device("cpu")

NOTHING = math.inf

EPS = 0.1

AWP = WeightPerturbation(gamma=0.05)


class TightNet(nn.Module):
    """Raises in the ``late``-th forward in train mode with more than ``limit`` images, or in the
    first of any mode.

    The forward does its work before, so that by then statistics have moved and random numbers are
    drawn.
    """

    def __init__(self, body, limit, late, says):
        super().__init__()
        self.body, self.limit, self.late, self.says = body, limit, late, says
        self.seen, self.sizes, self.held = 0, [], []

    def forward(self, x):
        fits = len(x) <= self.limit
        if fits:
            assert not [tensor for tensor in self.held if tensor() is not None], (
                "the failed attempt holds memory"
            )
        out = self.body(x)
        self.sizes.append(len(x))
        if not fits and (self.training or not self.late):
            self.held.append(weakref.ref(out))
            self.seen += 1
            if self.seen >= self.late:
                self.seen = 0
                raise (
                    RuntimeError(self.says)
                    if self.says
                    else torch.OutOfMemoryError("CUDA out of memory.")
                )
        return out


class Double(nn.Module):
    def forward(self, x):
        return x.double()


@dataclasses.dataclass(frozen=True)
class Tight:
    """An MLP of 8 hidden units in float64 on a device with room for ``limit`` images at a time."""

    limit: float = NOTHING
    late: int = 1
    norm: bool = False
    says: str = ""
    width: float = 8

    def build(self, images):
        norm = [nn.BatchNorm1d(8)] if self.norm else []
        layers = [Double(), nn.Flatten(), nn.Linear(64, 8), *norm, nn.Tanh(), nn.Linear(8, 10)]
        return TightNet(nn.Sequential(*layers).double(), self.limit, self.late, self.says)


@dataclasses.dataclass(frozen=True)
class Slanted:
    """PGD from a fixed start beside each image: nothing random, and the KL has a gradient there."""

    eps: float = EPS

    def __call__(self, model, x, y, loss):
        slant = torch.linspace(-self.eps, self.eps, x[0].numel()).view_as(x[0])
        climbed = PGD(eps=self.eps, step_size=self.eps / 2, steps=2, start="none")(
            model, (x + slant / 2).clamp(0, 1), y, loss
        )
        return climbed.clamp(x - self.eps, x + self.eps)


@dataclasses.dataclass(frozen=True)
class FewDigits(Digits):
    """With 100 images in each split to judge on."""

    def read(self):
        splits = super().read()
        few = {
            name: Split(splits[name].images[:100], splits[name].labels[:100])
            for name in ("val", "test")
        }
        return {**splits, **few}


def made(model, **changes):
    small = {
        "data": FewDigits(train=100),
        "epochs": 2,
        "attack": Slanted(),
        "eval_attack": PGD(steps=1),
        "lam": Fixed(2.0),
    }
    return recipe(8, model=model, **{**small, **changes})


def frozen(made, state=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(dict(e.metrics), copy.deepcopy(e.state)) for e in train(made, state, CPU)]


def assert_close(one, other, atol):
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)
    elif isinstance(one, dict | list | tuple):
        assert len(one) == len(other)
        for key in (one.keys() - {"micro_batch"}) if isinstance(one, dict) else range(len(one)):
            assert_close(one[key], other[key], atol)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=0, abs=atol)
    else:
        assert one == other


SEARCHED = {
    "trades": {"objective": TRADES(label_smoothing=0.1)},
    "pgdat": {"objective": PGDAT()},
    "mart": {"objective": MART()},
    "standard": {"objective": Standard(), "lam": Fixed(0.0)},
    "awp": {"weight_perturbation": AWP},
    "war": {"lam": WAR(target=2.0, lam_init=1.0)},
    "penalties": {
        "penalties": (
            NormDecay(beta=1e-2),
            SingularValueClipping(2.0, 3),
            AverageMargin(),
            Orthogonality(),
        ),
        "averaging": EMA(decay=0.9),
    },
    "adam": {
        # With the usual eps it would divide rounding errors by each other.
        "optimiser": Adam(lr=0.01, eps=1e-3, weight_decay=0.01),
        "clip_gradient": 0.3,
        "eps_warmup": 0.5,
    },
    "everything": {
        "lam": WAR(target=2.0, lam_init=1.0),
        "penalties": (NormDecay(beta=1e-2), AverageMargin(mu=1.0), Orthogonality()),
        "weight_perturbation": AWP,
        "averaging": EMA(decay=0.9),
    },
}
