"""Every shipped plugin keeps its contract, and each promise of a contract fails on a plugin that
breaks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robsearch.data import CIFAR10, CIFAR100, MNIST, SVHN, Digits, FashionMNIST
from robsearch.measures import (
    AttackDistance,
    AttackRatio,
    FeatureChange,
    GlobalBound,
    InputMargin,
    KLGradient,
    LogitMargin,
    LogitRatio,
    OperatorNorm,
    SampledMargin,
    SingularValues,
)
from robsearch.network.modes import evaluating
from robsearch.parts.attacks import FGSM, PGD, AutoAttack, TwoLosses, WorstCase
from robsearch.parts.models import MLP, PreActResNet, SmallCNN, WideResNet
from robsearch.parts.objectives import ALP, MART, PGDAT, TRADES, Standard
from robsearch.parts.optimisers import (
    SGD,
    Adam,
    AdamW,
    Cosine,
    Halving,
    Piecewise,
    parameter_groups,
)
from robsearch.parts.penalties import AverageMargin, NormDecay, Orthogonality, SingularValueClipping
from robsearch.parts.schedules import WAR, Fixed, Warmup
from robsearch.protocols import About, ImageSpec, Split
from robsearch.testing import (
    check_attack,
    check_dataset,
    check_layer_measure,
    check_learning_rate,
    check_measure,
    check_model,
    check_objective,
    check_optimiser,
    check_penalty,
    check_schedule,
)

Check = Callable[[Any], None]


def named(value: object) -> str:
    return getattr(value, "__name__", repr(value))


SHIPPED: dict[Check, tuple[object, ...]] = {
    check_attack: (
        PGD(),
        PGD(eps=0.5, step_size=0.1, norm="l2", restarts=2),
        PGD(eps=0.5, step_size=0.3, start="gaussian"),
        PGD(steps=0, start="none"),
        PGD(eps=0),
        FGSM(),
        WorstCase((FGSM(), PGD(restarts=2))),
        TwoLosses(),
        TwoLosses(eps=0.5, step_size=0.1, norm="l2", restarts=2),
        TwoLosses(steps=0),
        TwoLosses(eps=0),
        AutoAttack(eps=0.1, attacks=("apgd-ce", "apgd-t", "fab", "fab-t")),
        AutoAttack(eps=0.5, norm="l2", attacks=("apgd-dlr", "square")),
    ),
    check_objective: (
        Standard(),
        Standard(label_smoothing=0.1),
        PGDAT(),
        PGDAT(label_smoothing=0.1),
        TRADES(),
        TRADES(label_smoothing=0.1),
        MART(),
        ALP(),
    ),
    check_schedule: (
        Fixed(0.0),
        Fixed(6.0),
        Warmup(6.0, until=0.5),
        WAR(target=1.0, lam_init=6.0),
        WAR(target=1.0, lam_init=6.0, ema=0.0, freeze_at=0.5),
        WAR(target=((0.0, 1.0), (1.0, 0.5)), form="paper"),
        WAR(((0.0, 1.0), (1.0, 0.5)), 6.0, hold=0.1, alpha_per="progress", interpolation="log"),
    ),
    check_model: (
        MLP(width=16),
        MLP(width=16, init="ntk"),
        MLP(width=16, init="he", parametrisation="mup", base_width=4),
        SmallCNN(width=0.5),
        PreActResNet(width=0.125),
        WideResNet(depth=10, width=1),
    ),
    check_dataset: (
        Digits(),
        Digits(train=100, label_noise=0.3),
        Digits(train=100, label_noise=0.3, noisy_val=True, draw=1),
    ),
    check_measure: (
        LogitMargin(),
        InputMargin(),
        InputMargin(norm="l2"),
        SampledMargin(radius=0.1, samples=3),
        AttackDistance(rounds=2, steps=3),
        LogitRatio(eps=0.1),
        AttackRatio(PGD()),
        KLGradient(eps=0.1),
    ),
    check_layer_measure: (
        OperatorNorm("l1"),
        OperatorNorm("l2"),
        OperatorNorm("linf", folded=True),
        SingularValues(),
        SingularValues("circular"),
        FeatureChange(PGD()),
        GlobalBound(),
    ),
    check_learning_rate: (Piecewise(), Cosine(), Halving()),
    check_optimiser: (
        SGD(),
        SGD(nesterov=True, decay_norms=False),
        Adam(),
        Adam(weight_decay=0.1, decay_norms=False),
        AdamW(),
    ),
    check_penalty: (
        NormDecay(),
        NormDecay(beta=0.1, mu=0.0, norm="l1"),
        SingularValueClipping(),
        SingularValueClipping(clip=0.1, every=1),
        SingularValueClipping(clip=0.1, every=3),
        AverageMargin(),
        Orthogonality(),
    ),
}


@pytest.mark.parametrize(
    ("check", "plugin"), [(c, p) for c, ps in SHIPPED.items() for p in ps], ids=named
)
def test_a_shipped_plugin_keeps_its_contract(check: Check, plugin: object) -> None:
    before = torch.random.get_rng_state()
    check(plugin)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "dataset", [MNIST(), FashionMNIST(), CIFAR10(), CIFAR100(), SVHN()], ids=repr
)
def test_real_images_keep_their_contract(dataset: CIFAR10, data_root: Path) -> None:
    if not (data_root / dataset.FOLDER / dataset.FILES[0]).exists():
        pytest.skip(f"ROBSEARCH_DATA has no {type(dataset).__name__}")
    check_dataset(dataset)


@pytest.mark.parametrize(
    "images",
    [ImageSpec((1, 8, 8), 10, (0.3,), (0.4,)), ImageSpec((2, 9, 11), 3, (0,) * 2, (1,) * 2)],
)
def test_a_model_is_checked_for_the_images_it_is_meant_for(images: ImageSpec) -> None:
    check_model(WideResNet(depth=10, width=1), images=images)


# --- each promise can be broken: `how` says which one, and "" breaks none ---

CALLS = count(1)
"""What a plugin remembers that should not."""


@dataclass(frozen=True)
class BadAttack:
    """Random noise in the ball, after two calls of the loss."""

    how: str = ""
    eps: float = 0.1
    norm: str = "linf"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> Tensor:
        self._look_at(model, x, loss)
        self._disturb(model, x, y)
        scale = 1.1 if self.how in ("outside the ball", "outside the l2 ball") else 1.0
        noise = torch.empty_like(x).uniform_(-scale * self.eps, scale * self.eps)
        adv = (x + noise).clamp(0, 1)
        return {
            "shape": adv[1:],
            "dtype": adv.double(),
            "outside the box": x + noise,
            "gradient": adv.clone().requires_grad_(),
            "NaN": adv * math.nan,
            "own randomness": (x + next(CALLS) * 1e-4).clamp(0, 1),
        }.get(self.how, adv)

    def _look_at(self, model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
        if self.how == "no_grad":
            with evaluating(model):
                torch.autograd.grad(loss(model(leaf := x.clone().requires_grad_())).sum(), leaf)
        if self.how == "forgets the mode":
            model.eval()
        if self.how == "wakes frozen":
            model.eval().train()
        with evaluating(model):
            if self.how == "attacks in train mode":
                model.train()
            loss(torch.zeros(len(x), 5))
            loss(torch.zeros(len(x), 5))

    def _disturb(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        parameters = list(model.parameters())
        match self.how:
            case "zeroes gradients":
                model.zero_grad()
            case "leaves gradients":
                with evaluating(model), torch.enable_grad():
                    F.cross_entropy(model(x), y).backward()
            case "weights":
                parameters[0].data.add_(1)
            case "requires_grad":
                parameters[0].requires_grad_(False)
            case "clean images":
                x.add_(0.01)


@dataclass(frozen=True)
class Forgetful:
    """An attack that puts the mode back, but not when the loss raises at its second call."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> Tensor:
        with evaluating(model):
            loss(model(x))
        flags = [(module, module.training) for module in model.modules()]
        model.eval()
        loss(model(x))
        for module, flag in flags:
            module.training = flag
        return x.clone()


@dataclass(frozen=True)
class BadObjective:
    """PGD-AT without the clipping."""

    how: str = ""

    def inner(self, clean: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        return {
            "inner is a mean": lambda logits: F.cross_entropy(logits, y),
            "inner is whole": lambda logits: (logits.argmax(1) != y).long(),
            "inner is NaN": lambda logits: F.cross_entropy(logits, y, reduction="none") * math.nan,
            "inner has no gradient": lambda logits: (logits.argmax(1) != y).float(),
            "inner has an infinite gradient": lambda logits: (
                (logits - logits.detach()).abs().sum(1).sqrt()
            ),
        }.get(self.how, lambda logits: F.cross_entropy(logits, y, reduction="none"))

    def terms(self, clean: Tensor, adv: Tensor, y: Tensor) -> Any:
        natural, robust = (
            F.cross_entropy(clean, y),
            F.cross_entropy(adv, y) - F.cross_entropy(clean, y),
        )
        return {
            "one term": natural + robust,
            "a list": [natural, robust],
            "per example": (F.cross_entropy(clean, y, reduction="none"), robust),
            "a sum": (natural, robust * len(y)),
            "naive log": (-clean.softmax(1).log()[torch.arange(len(y)), y].mean(), robust),
            "clean detached": (natural.detach(), F.cross_entropy(adv, y)),
            "adv detached": (natural, robust.detach()),
            "all detached": (natural.detach(), robust.detach()),
        }.get(self.how, (natural, robust))


@dataclass(frozen=True)
class AdversarialFirst(BadObjective):
    """Says that its first term is the natural loss, and puts the adversarial one there."""

    natural_first: ClassVar[bool] = True

    def terms(self, clean: Tensor, adv: Tensor, y: Tensor) -> Any:
        return F.cross_entropy(adv, y), (clean - adv).square().mean()


@dataclass(frozen=True)
class BadSchedule:
    """Lambda follows the mean of the robust terms, up to 10."""

    how: str = ""

    def init(self) -> Any:
        return {
            "not a mapping": 0.0,
            "tensor": {"sum": torch.tensor(0.0), "n": 0.0},
            "numbered": {1: 0.0},
            "infinite": {"sum": math.inf, "n": 0.0},
        }.get(self.how, {"sum": 0.0, "n": 0.0})

    def update(self, state: Any, natural: float, robust: float, progress: float) -> Any:
        new = state if self.how == "mutates" else dict(state)
        new["sum"] += natural / robust if self.how == "divides" else robust
        new["n"] += next(CALLS) if self.how == "remembers" else 1.0
        if self.how == "adds a tuple":
            new["last"] = (natural, robust)
        return new

    def lam(self, state: Any) -> Any:
        if self.how == "lam mutates":
            state["n"] += 1.0
        lam = min(state["sum"] / max(state["n"], 1.0), 10.0)
        return {
            "negative": lam - 1.0,
            "unbounded": math.inf if state["sum"] > 1e20 else 1.0,
            "tensor lambda": torch.tensor(lam),
            "random lambda": float(next(CALLS)),
        }.get(self.how, lam)


class Stuck(nn.Module):
    """Logits that do not see the images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + 0 * x.sum((1, 2, 3))[:, None]


class Squeezed(nn.Sequential):
    """The classic: one image loses its batch axis."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


SHARED = nn.Linear(3 * 32 * 32, 10)


@dataclass(frozen=True)
class BadModel:
    """A linear model."""

    how: str = ""
    width: float = 1.0

    def build(self, images: ImageSpec) -> Any:
        linear = nn.Linear(
            math.prod(images.shape), images.num_classes + (self.how == "too many classes")
        )
        match self.how:
            case "own randomness":
                nn.init.constant_(linear.weight, next(CALLS))
            case "infinite":
                nn.init.constant_(linear.weight, math.inf)
            case "shared":
                linear = SHARED
            case "not a module":
                return linear.forward
            case "ignores the image":
                return Stuck(images.num_classes)
            case "other images":
                linear = nn.Linear(7, 10)
            case "squeezes":
                return Squeezed(nn.Flatten(), linear)
        return nn.Sequential(
            Detached() if self.how == "detached" else nn.Identity(), nn.Flatten(), linear
        )


class Detached(nn.Module):
    """Attacks find no gradient behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


@dataclass(frozen=True)
class BadDataset:
    """Six images in three classes."""

    how: str = ""

    @property
    def spec(self) -> ImageSpec:
        std = 0.0 if self.how == "std" else 0.5
        return ImageSpec((1, 2, 2), 3, (0.5, 0.5) if self.how == "means" else (0.5,), (std,))

    def read(self) -> Mapping[str, Split]:
        images, labels = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2), torch.arange(6) % 3
        if self.how == "other each time":
            images = torch.randint(256, images.shape, dtype=torch.uint8)
        split = {
            "floats": Split(images / 255, labels),
            "shape": Split(images.view(6, 1, 4, 1), labels),
            "too few labels": Split(images, labels[1:]),
            "empty": Split(images[:0], labels[:0]),
            "label too high": Split(images, labels + 1),
            "label too low": Split(images, labels - 1),
            "float labels": Split(images, labels / 1),
            "one-hot labels": Split(images, F.one_hot(labels)),
        }.get(self.how, Split(images, labels))
        return dict.fromkeys(
            ("train", "test") if self.how == "no val" else ("train", "val", "test"), split
        )


@dataclass(frozen=True)
class NamelessDataset(BadDataset):
    """A field that the store cannot name."""

    size: complex = 1j


EXACT = About("exact", "logits", "made up")


@dataclass(frozen=True)
class BadMeasure:
    """The largest logit."""

    how: str = ""
    name: str = "logit/largest"
    about: Any = EXACT

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        match self.how:
            case "leaves the mode":
                model.train()
            case "statistics":
                model.train()
                model(x)
                model.eval()
            case "leaves gradients":
                model(x).sum().backward()
        logits = model(x)
        values = logits.detach().amax(1)
        return {
            "per class": logits.detach(),
            "mean": values.mean(),
            "whole": values.long(),
            "NaN": values * math.nan,
            "gradient": logits.amax(1),
        }.get(self.how, values)


@dataclass(frozen=True)
class BadLayerMeasure:
    """The largest weight of each layer."""

    how: str = ""
    name: str = "weights/largest"
    about: Any = EXACT

    def by_layer(self, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        if self.how == "leaves the mode":
            model.train()
        found = {
            name: layer.weight.detach().amax().reshape(1)
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear)
        }
        last = list(found)[-1]
        if self.how == "stranger":
            return {"nowhere": found[last]}
        if self.how == "list":
            return list(found.values())
        odd = {
            "scalar": found[last][0],
            "none": found[last][:0],
            "whole": found[last].long(),
            "number": 1.0,
            "NaN": found[last] * math.nan,
            "gradient": found[last].clone().requires_grad_(),
        }
        return found | ({last: odd[self.how]} if self.how in odd else {})


@dataclass(frozen=True)
class BadLearningRate:
    """Linear to 0."""

    how: str = ""

    def __call__(self, progress: float) -> Any:
        return {
            "negative": 0.5 - progress,
            "NaN": math.nan,
            "tensor": torch.tensor(progress),
            "remembers": float(next(CALLS)),
        }.get(self.how, 1 - progress if self.how != "divides" else 1 / progress)


class Stubborn(torch.optim.SGD):
    """Steps at the rate that it was built with, whatever its groups say."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr)
        self.first = lr

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["lr"] = self.first
        super().step()


class Counted(torch.optim.SGD):
    """Remembers beside its state how many steps it took."""

    steps = 0

    def step(self, closure: Any = None) -> None:
        self.steps += 1
        for group in self.param_groups:
            group["lr"] *= self.steps
        super().step()


@dataclass(frozen=True)
class BadOptimiser:
    """Plain gradient descent."""

    how: str = ""
    lr: Any = 0.1

    def build(self, model: nn.Module) -> Any:
        groups = parameter_groups(model, "sgd", self.lr, 0.0, True)
        parameters = list(model.parameters())
        match self.how:
            case "no optimiser":
                return groups
            case "some":
                return torch.optim.SGD(parameters[1:], self.lr)
            case "a stranger":
                return torch.optim.SGD([*parameters, nn.Parameter(torch.ones(1))], self.lr)
            case "rates of its own":
                groups = [
                    {"params": [p], "lr": self.lr / (i + 1)} for i, p in enumerate(parameters)
                ]
            case "deaf":
                return torch.optim.SGD(parameters, self.lr)
            case "negative factor":
                groups[0]["lr_factor"] = -1.0
            case "spoils weights":
                parameters[0].data.mul_(0.9)
        kinds: dict[str, Any] = {"stubborn": Stubborn, "remembers": Counted}
        return kinds.get(self.how, torch.optim.SGD)(groups, lr=self.lr)


SEEN: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""What a penalty remembers of a network beside its state."""


@dataclass(frozen=True)
class BadPenalty:
    """Weight decay in all three places, ever stronger."""

    how: str = ""

    def init(self, model: nn.Module) -> Any:
        if self.how == "init forgets the mode":
            model.train()
        return {
            "not a dict": [torch.zeros(1)],
            "numbers": {"n": 0.0},
            "numbered": {0: torch.zeros(1)},
            "attached": {"n": torch.zeros(1, requires_grad=True)},
            "NaN state": {"n": torch.full((1,), math.nan)},
        }.get(self.how, {"n": torch.zeros(1)})

    def loss(self, model: nn.Module, clean_logits: Tensor, y: Tensor) -> Any:
        total = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
        match self.how:
            case "no loss":
                return None
            case "loss changes weights":
                next(model.parameters()).data.mul_(0.9)
            case "loss leaves gradients":
                total.backward(retain_graph=True)
        return {
            "float": 1.0,
            "per example": total + clean_logits.sum(1),
            "detached": total.detach(),
            "overflows": total + clean_logits.exp().sum(),
            "steep": total + (clean_logits - clean_logits.detach()).abs().sum().sqrt(),
        }.get(self.how, total)

    def before_step(self, model: nn.Module, state: Any, step: int) -> Any:
        SEEN[model] = SEEN.get(model, 0) + 1
        strength = {"remembers": next(CALLS), "remembers the network": SEEN[model]}.get(
            self.how, state["n"] + 1
        )
        trained = [p for p in model.parameters() if p.requires_grad]
        for p in trained:
            p.grad.add_(0.01 * strength * p.detach())
        match self.how:
            case "before_step changes weights":
                trained[0].data.mul_(0.9)
            case "before_step changes its state":
                state["n"].add_(1)
            case "before_step spoils gradients":
                trained[0].grad.mul_(math.nan)
            case "before_step drops gradients":
                trained[0].grad = None
            case "before_step gives frozen weights a gradient":
                model[-1].bias.grad = torch.zeros_like(model[-1].bias)
            case "before_step gives nothing":
                return None
        return {"n": state["n"] + 1}

    def after_step(self, model: nn.Module, state: Any, step: int) -> Any:
        trained = [p for p in model.parameters() if p.requires_grad]
        for p in trained:
            p.data.mul_(0.99)
        match self.how:
            case "after_step changes gradients":
                trained[0].grad.mul_(0.5)
            case "after_step changes statistics":
                model[0][1].running_mean.zero_()
            case "after_step changes frozen weights":
                model[-1].bias.data.mul_(0.99)
            case "after_step replaces weights":
                model[-1].weight = nn.Parameter(0.99 * model[-1].weight.detach())
            case "after_step wakes frozen weights":
                model[-1].bias.requires_grad_()
        return {
            **state,
            "n": state["n"] + (step if self.how != "after_step mutates" else state["n"].add_(1)),
        }


BROKEN: dict[Check, dict[object, str]] = {
    check_attack: {
        BadAttack(
            "shape"
        ): r"images of torch.float32 \(6, 3, 8, 8\), got torch.float32 \(5, 3, 8, 8\)",
        BadAttack("dtype"): r"images of torch.float32 .* got torch.float64",
        BadAttack("outside the box"): r"images in \[0, 1\], got -0",
        BadAttack("NaN"): r"images in \[0, 1\], got nan",
        BadAttack("outside the ball"): r"images within eps = 0.1, got 0.1\d+ away",
        BadAttack("outside the l2 ball", norm="l2"): r"images within eps = 0.1, got 0.\d+ away",
        BadAttack("gradient"): "images without gradient",
        BadAttack("no_grad"): "no error, got RuntimeError: .*grad",
        BadAttack("own randomness", eps=1.0): "the same images from the same seed",
        BadAttack("clean images"): "the clean images untouched",
        BadAttack(
            "attacks in train mode"
        ): "the model in eval mode during the attack, got train mode",
        BadAttack(
            "forgets the mode"
        ): "the model's training flags untouched, got a change in the model, 0, 1, 3, 4, 5: ",
        BadAttack("wakes frozen"): "the model's training flags untouched, got a change in 2: ",
        BadAttack(
            "zeroes gradients"
        ): "the model's gradients untouched, got a change in 1.weight: ",
        BadAttack("leaves gradients"): "the model's gradients untouched",
        BadAttack(
            "weights"
        ): "the model's weights and statistics untouched, got a change in 1.weight: ",
        BadAttack(
            "requires_grad"
        ): "the model's requires_grad untouched, got a change in 1.weight: ",
        Forgetful(): "the model's training flags untouched",
        TRADES(): r"all of robsearch.protocols.Attack, got no __call__",
        PGD: "an instance, got a class",
    },
    check_objective: {
        BadObjective(
            "inner is a mean"
        ): r"the inner loss to give one float per example, \(6,\), got .*\(\)",
        BadObjective(
            "inner is whole"
        ): "the inner loss to give one float per example, .*got torch.int64",
        BadObjective("inner is NaN"): "the inner loss to give numbers, got NaN",
        BadObjective("inner has no gradient"): "the inner loss to have a finite gradient, got none",
        BadObjective(
            "inner has an infinite gradient"
        ): "the inner loss to have a finite gradient, got NaN or inf",
        BadObjective("one term"): r"two terms, \(natural, robust\)",
        BadObjective("a list"): r"two terms, \(natural, robust\)",
        BadObjective("per example"): "a finite scalar as natural term",
        BadObjective("naive log"): "a finite scalar as natural term, got inf",
        BadObjective("a sum"): "the robust term to be a batch mean, got .* for the batch twice",
        BadObjective(
            "clean detached"
        ): "the terms in the clean logits to have a finite gradient, got none",
        BadObjective(
            "adv detached"
        ): "the terms in the adversarial logits to have a finite gradient, got none",
        BadObjective(
            "all detached"
        ): "the terms in the clean logits to have a finite gradient, got none",
        AdversarialFirst(): "natural_first=False, or a first term of clean logits alone",
        PGD(): r"all of robsearch.protocols.Objective, got no inner, terms",
    },
    check_schedule: {
        BadSchedule("not a mapping"): "a state that maps names to finite numbers, got 0.0",
        BadSchedule("tensor"): "a state that maps names to finite numbers, got .*tensor",
        BadSchedule("numbered"): "a state that maps names to finite numbers, got {1: 0.0}",
        BadSchedule("infinite"): "a state that maps names to finite numbers, got .*inf",
        BadSchedule("adds a tuple"): "a state that maps names to finite numbers, got .*last",
        BadSchedule("mutates"): "update to leave its state alone",
        BadSchedule("lam mutates"): "lam to leave its state alone",
        BadSchedule("remembers"): "one next state from a state",
        BadSchedule("random lambda"): "one next state from a state",
        BadSchedule("divides"): "no error, got ZeroDivisionError",
        BadSchedule("negative"): "lambda finite and >= 0, got -1.0",
        BadSchedule("unbounded"): "lambda finite and >= 0, got inf",
        BadSchedule("tensor lambda"): "lambda finite and >= 0, got tensor",
        PGD(): r"all of robsearch.protocols.Schedule, got no init, update, lam",
    },
    check_model: {
        BadModel(width=0.0): "a finite width > 0, got 0.0",
        BadModel(width=math.inf): "a finite width > 0, got inf",
        BadModel("not a module"): "an nn.Module from build, got method",
        BadModel("own randomness"): "the same weights from the same seed",
        BadModel("shared"): "a new network from each build, got 2 shared parameters",
        BadModel("too many classes"): r"finite logits of shape \(4, 10\), got \(4, 11\)",
        BadModel("squeezes"): r"finite logits of shape \(1, 10\), got \(10,\)",
        BadModel("infinite"): "finite logits of shape",
        BadModel("other images"): "no error, got RuntimeError: .*shapes cannot be multiplied",
        BadModel("detached"): "the logits to have a finite gradient, got none",
        BadModel("ignores the image"): "logits that depend on the image",
        PGD(): r"all of robsearch.protocols.Model, got no width, build",
    },
    check_dataset: {
        BadDataset("means"): "a mean and a positive std for each of 1 channel",
        BadDataset("std"): "a mean and a positive std for each of 1 channel",
        BadDataset("no val"): "the splits train, val and test, got no val",
        BadDataset(
            "floats"
        ): r"train.images to be torch.uint8 \(6, 1, 2, 2\), .* got torch.float32",
        BadDataset("shape"): r"train.images to be torch.uint8 .* got torch.uint8 \(6, 1, 4, 1\)",
        BadDataset("too few labels"): "train to have a label for each of 6 images, got 5",
        BadDataset("empty"): "train.images .* not empty",
        BadDataset("label too high"): "train.labels .* 0 to 2, got 1 to 3",
        BadDataset("label too low"): "train.labels .* 0 to 2, got -1 to 1",
        BadDataset("float labels"): "train.labels to be whole numbers in one row, .*float",
        BadDataset("one-hot labels"): r"train.labels to be whole numbers in one row, .*\(6, 3\)",
        BadDataset("other each time"): "the same train from each read",
        NamelessDataset(): "no error, got InputError: expected NamelessDataset and its fields",
        PGD(): r"all of robsearch.protocols.Dataset, got no spec, read",
    },
    check_measure: {
        BadMeasure(name="acc@1"): "a name of letters, .* got 'acc@1'",
        BadMeasure(name="../above"): "a name of letters, .* got",
        BadMeasure(name="/rooted"): "a name of letters, .* got",
        BadMeasure(name="two//parts"): "a name of letters, .* got",
        BadMeasure(name=""): "a name of letters, .* got ''",
        BadMeasure(about="exact"): "about to be a robsearch.protocols.About, got 'exact'",
        BadMeasure(about=EXACT._replace(unit="")): "a unit and a source, got '', 'made up'",
        BadMeasure(about=EXACT._replace(span=(1.0, 1.0))): "a span from low to high",
        BadMeasure(
            about=About("bound", "logits", "made up")
        ): "a kind out of exact, lower bound, upper bound, estimate, got 'bound'",
        BadMeasure(
            "per class"
        ): r"a call to give one float per example, \(6,\), got torch.float32 \(6, 5\)",
        BadMeasure("mean"): r"a call to give one float per example, .* got torch.float32 \(\)",
        BadMeasure("whole"): "a call to give one float per example, .* got torch.int64",
        BadMeasure("NaN"): "a call to give numbers, got NaN",
        BadMeasure("gradient"): "numbers without gradient",
        BadMeasure("leaves the mode"): "the model's training flags untouched",
        BadMeasure("statistics"): "the model's weights and statistics untouched",
        BadMeasure("leaves gradients"): "the model's gradients untouched",
        PGD(): r"all of robsearch.protocols.Measure, got no name, about",
    },
    check_layer_measure: {
        BadLayerMeasure(name="acc@1"): "a name of letters, .* got 'acc@1'",
        BadLayerMeasure(about="exact"): "about to be a robsearch.protocols.About, got 'exact'",
        BadLayerMeasure(
            "list"
        ): "by_layer to give a mapping from layers' names, got <class 'list'>",
        BadLayerMeasure("stranger"): r"names of layers, .* got \['nowhere'\]",
        BadLayerMeasure(
            "scalar"
        ): r"one or more floats in a row for layer '5', got torch.float32 \(\)",
        BadLayerMeasure(
            "none"
        ): r"one or more floats in a row for layer '5', got torch.float32 \(0,\)",
        BadLayerMeasure("whole"): "one or more floats in a row for layer '5', got torch.int64",
        BadLayerMeasure("number"): "one or more floats in a row for layer '5', got 1.0",
        BadLayerMeasure("NaN"): "layer '5' to have numbers, got NaN",
        BadLayerMeasure("gradient"): "numbers without gradient",
        BadLayerMeasure("leaves the mode"): "the model's training flags untouched",
        LogitMargin(): r"all of robsearch.protocols.LayerMeasure, got no by_layer",
    },
    check_learning_rate: {
        BadLearningRate("negative"): r"finite factors >= 0, got -0.01\d* at progress 0.51: ",
        BadLearningRate("NaN"): r"finite factors >= 0, got nan at progress 0: ",
        BadLearningRate("tensor"): r"finite factors >= 0, got tensor\(0.\) at progress 0: ",
        BadLearningRate("remembers"): "the same factor at the same progress",
        BadLearningRate("divides"): "no error, got ZeroDivisionError",
        TRADES(): r"all of robsearch.protocols.LearningRate, got no __call__",
    },
    check_penalty: {
        BadPenalty(
            "init forgets the mode"
        ): "the model's training flags untouched, got a change in 1.1: ",
        BadPenalty("not a dict"): r"init to give a dict of named tensors, got \[tensor",
        BadPenalty("numbers"): r"init to give a dict of named tensors, got {'n': 0.0}",
        BadPenalty("numbered"): r"init to give a dict of named tensors, got {0: tensor",
        BadPenalty("attached"): "init to give a state without gradient, got one in n$",
        BadPenalty("NaN state"): "init's state to survive torch.save",
        BadPenalty(
            "loss changes weights"
        ): "the model's weights and statistics untouched, got a change in 0.0.weight: ",
        BadPenalty("loss leaves gradients"): "the model's gradients untouched",
        BadPenalty("float"): "a finite scalar as loss, or None, got 1.0",
        BadPenalty("per example"): r"a finite scalar as loss, or None, got tensor\(\[",
        BadPenalty("detached"): "a loss with a gradient, got none",
        BadPenalty("overflows"): "a finite scalar as loss, or None, got inf",
        BadPenalty("steep"): "a loss with a finite gradient, got NaN or infinity",
        BadPenalty("before_step changes weights"): "the model's weights and statistics untouched",
        BadPenalty("before_step changes its state"): "before_step to leave its state alone",
        BadPenalty(
            "before_step spoils gradients"
        ): "a finite gradient from before_step in 0.0.weight, got tensor",
        BadPenalty(
            "before_step drops gradients"
        ): "a finite gradient from before_step in 0.0.weight, got None",
        BadPenalty(
            "before_step gives frozen weights a gradient"
        ): "the model's frozen weights' gradients untouched",
        BadPenalty(
            "before_step gives nothing"
        ): "before_step to give a dict of named tensors, got None",
        BadPenalty(
            "after_step changes gradients"
        ): "the model's gradients untouched, got a change in 0.0.weight: ",
        BadPenalty(
            "after_step changes statistics"
        ): "the model's frozen weights and statistics untouched",
        BadPenalty(
            "after_step changes frozen weights"
        ): "the model's frozen weights and statistics untouched",
        BadPenalty(
            "after_step replaces weights"
        ): "the model's parameters untouched, got a change in 3.weight: ",
        BadPenalty(
            "after_step wakes frozen weights"
        ): "the model's requires_grad untouched, got a change in 3.bias: ",
        BadPenalty("after_step mutates"): "after_step to leave its state alone",
        BadPenalty("remembers"): "the same weights and state from the same start",
        BadPenalty("remembers the network"): "a resumed training to end like one that went on",
        PGD(): r"all of robsearch.protocols.Penalty, got no init, loss, before_step, after_step",
    },
    check_optimiser: {
        BadOptimiser("no optimiser"): "a torch.optim.Optimizer from build, got list",
        BadOptimiser("some"): "each parameter in one group",
        BadOptimiser("a stranger"): "each parameter in one group",
        BadOptimiser("rates of its own"): r"a group at the base rate, 0\.1, times its lr_factor, 1",
        BadOptimiser("deaf"): r"lr_factor 2 or 3 for 0\.0\.weight, as the network asks, got 1",
        BadOptimiser("negative factor"): "a finite lr_factor > 0, got -1",
        BadOptimiser("spoils weights"): "the model's weights and statistics untouched",
        BadOptimiser("stubborn"): "steps at the lr of its groups, got steps where that is 0",
        BadOptimiser("remembers"): "a resumed training to end like one that went on",
        BadOptimiser(lr=0.0): "a finite lr > 0",
        PGD(): "all of robsearch.protocols.Optimiser, got no lr, build",
    },
}


@pytest.mark.parametrize(
    ("check", "plugin", "broken"),
    [(c, p, b) for c, ps in BROKEN.items() for p, b in ps.items()],
    ids=named,
)
def test_a_broken_promise_is_named(check: Check, plugin: object, broken: str) -> None:
    with pytest.raises(AssertionError, match=f"expected {broken}") as caught:
        check(plugin)
    assert str(caught.value).startswith(repr(plugin))


@pytest.mark.parametrize("check", BROKEN, ids=named)
def test_the_same_plugin_passes_where_nothing_is_broken(check: Check) -> None:
    check(type(next(iter(BROKEN[check])))())


def test_a_penalty_may_leave_the_loss_alone() -> None:
    check_penalty(BadPenalty("no loss"))


# --- what every leaf of a recipe promises ---


@dataclass
class Thawed:
    """Not frozen."""

    def __call__(self, progress: float) -> float:
        return 1.0


class Plain:
    """Not a dataclass."""

    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Held(BadLearningRate):
    """Whatever one puts into its field."""

    held: object = None


@pytest.mark.parametrize(
    ("plugin", "broken"),
    [
        (Plain(), "a frozen dataclass, got a Plain"),
        (Thawed(), "a frozen dataclass, got a Thawed"),
        (Held(held=lambda: 1), "no error, got .*pickle"),
        (Held(held=[1]), "no error, got TypeError: unhashable type"),
        (Held(held=object()), "an equal value of the same repr from pickle"),
        (Held(held=math.nan), "an equal value of the same repr from pickle"),
    ],
    ids=str,
)
def test_every_leaf_is_a_frozen_value_that_pickles(plugin: object, broken: str) -> None:
    with pytest.raises(AssertionError, match=f"expected {broken}"):
        check_learning_rate(plugin)
