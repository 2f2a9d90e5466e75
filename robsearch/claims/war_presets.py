"""The shipped studies of Width Adjusted Regularization; a preset may be several designs, each judged on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from robsearch.attacks import PGD
from robsearch.claims.settings import final, selecting
from robsearch.claims.war import WidthStudy
from robsearch.data import CIFAR10, CropFlip, Digits, FashionMNIST
from robsearch.measures import GlobalBound, LogitMargin, LogitRatio
from robsearch.models import MLP, SmallCNN, WideResNet
from robsearch.objectives import TRADES
from robsearch.optimisers import SGD, Piecewise
from robsearch.recipe import Recipe
from robsearch.schedules import Fixed

LAMS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
EPS = 8 / 255
Designs = Mapping[str, WidthStudy]


def digits_recipe(images: int, noise: float, epochs: int) -> Recipe:
    """TRADES on digits: an MLP with two hidden layers, eps 0.15."""
    eps = 0.15
    attack = PGD(eps=eps, step_size=eps / 4, steps=10, start="gaussian")
    return Recipe(
        model=MLP(width=16, depth=2),
        data=Digits(train=images, label_noise=noise),
        attack=attack,
        eval_attack=selecting(attack),
        test_attack=final(eps),
        objective=TRADES(),
        lam=Fixed(1.0),
        optimiser=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        learning_rate=Piecewise(drops=(0.5, 0.75), factor=0.1),
        epochs=epochs,
        batch_size=64,
        measures=(LogitMargin(), LogitRatio(eps), GlobalBound()),
    )


def war_digits() -> Designs:
    """500 images without and with 30 % wrong labels, and 1,000 images for 40 epochs."""
    widths = (16.0, 32.0, 64.0, 128.0, 256.0)
    designs = {
        "clean": digits_recipe(500, 0.0, 60),
        "noise": digits_recipe(500, 0.3, 60),
        "1000": digits_recipe(1000, 0.0, 40),
    }
    return {name: WidthStudy(widths, LAMS, base) for name, base in designs.items()}


def war_fashion() -> Designs:
    """Fashion-MNIST reduced to 2,000 images, SmallCNN at four widths, 20 epochs, PGD-5 in training."""
    eps = 0.1
    attack = PGD(eps=eps, step_size=eps / 2.5, steps=5, start="gaussian")
    base = Recipe(
        model=SmallCNN(width=1),
        data=FashionMNIST(train=2000, val=1000),
        attack=attack,
        eval_attack=selecting(attack),
        test_attack=final(eps),
        learning_rate=Piecewise(drops=(0.5, 0.75), factor=0.1),
        epochs=20,
        batch_size=100,
        measures=(LogitMargin(), LogitRatio(eps), GlobalBound()),
    )
    return {"": WidthStudy((1.0, 2.0, 4.0, 8.0), LAMS, base, control_seeds=0)}


def cifar10_recipe(depth: int, epochs: int, drops: tuple[float, ...]) -> Recipe:
    """TRADES on CIFAR-10 as it is usually trained, eps 8/255."""
    attack = PGD(eps=EPS, step_size=2 / 255, steps=10, start="gaussian")
    return Recipe(
        model=WideResNet(depth=depth, width=1),
        data=CIFAR10(),
        attack=attack,
        eval_attack=selecting(attack),
        test_attack=final(EPS),
        optimiser=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        learning_rate=Piecewise(drops=drops, factor=0.1),
        augment=CropFlip(),
        epochs=epochs,
        batch_size=128,
        measures=(LogitMargin(), LogitRatio(EPS), GlobalBound()),
        measured_examples=1000,
    )


def war_cifar10() -> Designs:
    """WRN-16-k, k of 1, 2, 4 and 8, 30 epochs: for GPUs."""
    return {"": WidthStudy((1.0, 2.0, 4.0, 8.0), LAMS, cifar10_recipe(16, 30, (0.5, 0.75)))}


def war_paper() -> Designs:
    """The paper's setting: WRN-34-k, 100 epochs, the learning rate halved after each epoch from 75 on.

    Its eps of 0.031 is 8/255 here, its best checkpoint is chosen on ``val`` and not on ``test``, and the final attack
    is APGD, not PGD-20. The widths and lambdas are ours: the paper's tables could not be recovered.
    """
    halving = tuple((75 + epoch) / 100 for epoch in range(25))
    base = replace(
        cifar10_recipe(34, 100, halving),
        attack=PGD(eps=EPS, step_size=0.007, steps=10, start="gaussian"),
        learning_rate=Piecewise(drops=halving, factor=0.5),
        optimiser=SGD(lr=0.1, momentum=0.9, weight_decay=2e-4),
    )
    return {"": WidthStudy((1.0, 2.0, 5.0, 10.0), LAMS, base)}


PRESETS: dict[str, Callable[[], Mapping[str, WidthStudy]]] = {
    "digits": war_digits,
    "fashion": war_fashion,
    "cifar10": war_cifar10,
    "paper": war_paper,
}
