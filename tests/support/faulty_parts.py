"""Recipes of which a trial would fail, and sound ones that are easily taken for faulty."""

import dataclasses
import importlib
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import torch
import torchvision
from small_spaces import recipe
from torch import nn

from robsearch import (
    MLP,
    PGD,
    PGDAT,
    AdamW,
    AutoAttack,
    AverageMargin,
    LogitMargin,
    NormDecay,
    WorstCase,
)
from robsearch.protocols import About, ImageSpec, Split


@dataclasses.dataclass(frozen=True)
class Blobs:
    """Grey images of 4 x 4 pixels, with labels 0 to ``classes`` - 1, or to ``last``."""

    classes: int = 3
    last: int | None = None

    @property
    def spec(self):
        return ImageSpec((1, 4, 4), self.classes, (0.5,), (0.25,))

    def read(self):
        images = torch.randint(
            256, (40, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        labels = torch.arange(40) % (self.classes if self.last is None else self.last + 1)
        return {name: Split(images, labels) for name in ("train", "val", "test")}


class Net(nn.Module):
    """An MLP with something done to it."""

    def __init__(self, body, how):
        super().__init__()
        self.body, self.how = body, how
        self.positions = self.ready(body)

    def ready(self, body):
        if self.how == "tolist":
            return torch.linspace(0, 0.1, 4).tolist()
        if self.how == "numpy":
            return torch.from_numpy(np.arange(4) + torch.ones(4).numpy())
        if self.how == "needs json.tool":
            importlib.import_module("json.tool")
        if self.how == "looks" and float(next(body.parameters()).norm()) == 0:
            raise ValueError("no weights")
        if self.how == "nan":
            next(body.parameters()).data.fill_(math.nan)
        if self.how == "frozen":
            body.requires_grad_(False)
        if self.how == "memory":
            self.held = [torch.ones(2**27) for _ in range(64)]  # 32 GiB
        self.end()
        return None

    def end(self):
        match self.how:
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "leaves a process":
                subprocess.Popen(["sleep", "987.5"])
            case "exits":
                sys.exit("bye")
            case "forks":
                os.fork()
            case "kills its group":
                os.killpg(0, signal.SIGKILL)
            case "dies with a fork":
                if os.fork():
                    os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(1000)
            case "half done":
                sys.modules["json.tool"] = None
        while self.how in ("endless", "half done"):
            pass

    def forward(self, x):
        if self.how == "in place":
            x.mul_(0.5)
        if self.how == "four":
            x = x.view(4, *x.shape[1:])
        logits = self.body(x)
        match self.how:
            case "probabilities":
                return logits.softmax(dim=1)
            case "tuple":
                return logits, x
            case "batch":
                return logits.mean(0, keepdim=True)
            case "neighbours":
                return logits + logits.mean(0, keepdim=True)
            case "no gradient":
                return logits.detach()
        return logits


@dataclasses.dataclass(frozen=True)
class Odd(MLP):
    how: str = ""

    def build(self, images):
        return Net(super().build(images), self.how)


@dataclasses.dataclass(frozen=True)
class Reflecting(MLP):
    def build(self, images):
        body = MLP(width=self.width, depth=1).build(images)
        return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), body)


@dataclasses.dataclass(frozen=True)
class Grouped(MLP):
    """With a group norm, of whose change no bound is known."""

    def build(self, images):
        body = MLP(width=self.width, depth=1).build(images)
        before = (nn.Conv2d(1, 2, 3, padding=1), nn.GroupNorm(2, 2), nn.Conv2d(2, 1, 1))
        return nn.Sequential(*before, body)


@dataclasses.dataclass(frozen=True)
class RegNet(MLP):
    def build(self, images):
        net = torchvision.models.regnet_y_400mf(num_classes=images.num_classes)
        net.stem[0] = nn.Conv2d(images.shape[0], 32, 3, stride=2, padding=1, bias=False)
        return net


@dataclasses.dataclass(frozen=True)
class Terms(PGDAT):
    how: str = ""

    def terms(self, clean_logits, adv_logits, y):
        natural, robust = super().terms(clean_logits, adv_logits, y)
        match self.how:
            case "raises":
                raise KeyError("natural")
            case "one":
                return natural + robust
            case "rows":
                return natural.repeat(4), robust
            case "detached":
                return natural.detach(), robust.detach()
            case "nan":
                return natural * math.nan, robust
            case "number":
                return natural.item(), robust
            case "needs ten":
                natural = natural + 0 * clean_logits.flatten().topk(100).values.mean()
        return natural, robust


@dataclasses.dataclass(frozen=True)
class Strays(PGD):
    how: str = ""

    def __call__(self, model, x, y, loss):
        match self.how:
            case "box":
                return x + 1.5
            case "ball":
                return (1 - x).detach()
            case "shape":
                return x[:, :, :2]
            case "double":
                return x.double()
            case "train mode":
                model.train()
                return x
        return super().__call__(model, x, y, loss)


@dataclasses.dataclass(frozen=True)
class Penalises(AverageMargin):
    def loss(self, model, clean_logits, y):
        return clean_logits.sum() * math.nan


@dataclasses.dataclass(frozen=True)
class Rate:
    value: float

    def __call__(self, progress):
        return self.value if progress > 0.5 else 1.0


@dataclasses.dataclass(frozen=True)
class Forgets:
    """An optimiser that leaves out the first parameter."""

    lr: float = 0.1

    def build(self, model):
        return torch.optim.SGD(list(model.parameters())[1:], self.lr)


@dataclasses.dataclass(frozen=True)
class Falling:
    def init(self):
        return {"lam": 1.0}

    def update(self, state, natural, robust, progress):
        return {"lam": state["lam"] - 0.2}

    def lam(self, state):
        return state["lam"]


@dataclasses.dataclass(frozen=True)
class Measures:
    how: str
    name: str = "odd"

    @property
    def about(self):
        return About("exact", "1", "none")

    def __call__(self, model, x, y):
        match self.how:
            case "raises":
                raise RuntimeError("no such layer")
            case "nan":
                return torch.full((len(x),), math.nan)
            case "needs ten":
                return x.flatten(1).amax(1) + x[:10].view(10, -1).mean()
        return x.mean()


def halves(x):
    return x[:, :, ::2]


def model(how):
    return {"model": Odd(width=4, depth=1, how=how)}


MARGIN = {"penalties": (AverageMargin(),)}
ATTACKED = AutoAttack(eps=0.1)
SOUND = {
    **{how: model(how) for how in ("tolist", "numpy", "looks")},
    "regnet": {"model": RegNet(width=4)},
    "loss_of_ten": {"objective": Terms(how="needs ten")},
    "measure_of_ten": {"measures": (Measures("needs ten"),)},
    "autoattack": {"test_attack": ATTACKED},
    "adamw": {"optimiser": AdamW(), "clip_gradient": 1.0, "eps_warmup": 0.5},
}
FAULTY = {
    "probabilities": (model("probabilities"), "model Odd: .*take the softmax off"),
    "nan_weights": (
        model("nan"),
        "model Odd: expected finite weights, got NaN or infinity in body",
    ),
    "two_outputs": (model("tuple"), r"got a tuple: return one tensor"),
    "no_batch": (model("batch"), r"expected floats of shape \(4, 10\)|\(32, 10\)"),
    "neighbours": (model("neighbours"), "not to depend on the images beside it"),
    "four_images": (
        model("four"),
        r"RuntimeError: .*invalid for input of size.* \(.*faulty_parts\.py:\d+\)",
    ),
    "in_place": (model("in place"), "images left as they are"),
    "frozen": (model("frozen"), "expected a weight that is trained, got none"),
    "no_slope": (model("no gradient"), "a finite gradient of the logits in the image"),
    "segfault": (model("segfault"), "killed by SIGSEGV at the part 'model'"),
    "reflect": (
        {"model": Reflecting(width=4), "penalties": (NormDecay(),)},
        r"penalties\[0\] NormDecay: expected zero",
    ),
    "few_classes": (
        {"data": Blobs(), "eval_attack": ATTACKED},
        "eval_attack .*at least 4 classes for apgd-t, got 3",
    ),
    "few_classes_of_several": (
        {"data": Blobs(), "test_attack": WorstCase((PGD(), ATTACKED))},
        "test_attack .*at least 4 classes for apgd-t, got 3",
    ),
    "one_class": (
        {"data": Blobs(classes=1), **MARGIN},
        r"penalties\[0\] AverageMargin: expected at least 2 classes",
    ),
    "labels": (
        {"data": Blobs(last=5)},
        r"labels to be whole numbers in one row, from 0 to 2, got 0 to 5",
    ),
    "raises": (
        {"objective": Terms(how="raises")},
        r"objective Terms .*KeyError: 'natural' \(.*faulty_parts\.py:\d+\)",
    ),
    "one_term": ({"objective": Terms(how="one")}, "objective Terms: expected two terms"),
    "rows": (
        {"objective": Terms(how="rows")},
        r"the natural term to be a finite scalar, got shape \(\d+,\)",
    ),
    "detached": (
        {"objective": Terms(how="detached")},
        "the natural term to have a gradient, got none",
    ),
    "nan_term": (
        {"objective": Terms(how="nan")},
        "the natural term to be a finite scalar, got nan",
    ),
    "no_tensor": ({"objective": Terms(how="number")}, "the natural term to be a tensor, got 2"),
    "box": ({"attack": Strays(how="box")}, r"attack Strays: .*images in \[0, 1\]"),
    "ball": ({"test_attack": Strays(how="ball")}, "test_attack Strays: .*images within eps"),
    "shape": (
        {"eval_attack": Strays(how="shape")},
        "eval_attack Strays: .*expected images of torch.float32",
    ),
    "double": ({"attack": Strays(how="double")}, "attack Strays: .*got torch.float64"),
    "train_mode": (
        {"eval_attack": Strays(how="train mode")},
        "eval_attack Strays: .*training flags untouched",
    ),
    "nan_penalty": (
        {"penalties": (Penalises(),)},
        r"penalties\[0\] Penalises: expected its loss to be a finite",
    ),
    "rate_below_0": ({"learning_rate": Rate(-1.0)}, "learning_rate Rate: .*finite factors >= 0"),
    "optimiser": (
        {"optimiser": Forgets()},
        "optimiser Forgets: expected each parameter in one group",
    ),
    "lam_below_0": ({"lam": Falling()}, "lam Falling: .*lambda finite and >= 0"),
    "augment": ({"augment": halves}, "augment halves: expected images of torch.float32"),
    "measure_raises": (
        {"measures": (LogitMargin(), Measures("raises"))},
        r"measures\[1\] Measures .*no such layer",
    ),
    "measure_nan": (
        {"measures": (Measures("nan"),)},
        r"measures\[0\] Measures: expected one float per image, got NaN",
    ),
    "measure_mean": (
        {"measures": (Measures("mean"),)},
        r"measures\[0\] Measures: expected one float per image",
    ),
}


def control(name, changes):
    def made(width):
        changed = dict(changes)
        if "model" not in changed:
            changed["model"] = MLP(width=width, depth=1)
        return recipe(width, **changed)

    made.__name__ = name
    return made
