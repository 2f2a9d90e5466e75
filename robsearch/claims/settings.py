"""Recipes that the studies begin with, one for each preset."""

from __future__ import annotations

from dataclasses import replace

from robsearch.attacks import PGD, AutoAttack, OwnLoss, WorstCase
from robsearch.data import CIFAR10, CropFlip, Digits, FashionMNIST
from robsearch.models import MLP, SmallCNN, WideResNet
from robsearch.optimisers import SGD, Piecewise
from robsearch.recipe import Recipe
from robsearch.schedules import Fixed

PIXEL = 1 / 255


def final(eps: float, batch_size: int = 1000) -> AutoAttack:
    """What judges on test: APGD-CE and APGD-T, which find what PGD leaves standing on thin nets."""
    return AutoAttack(eps=eps, attacks=("apgd-ce", "apgd-t"), batch_size=batch_size)


def selecting(attack: PGD) -> WorstCase:
    """What chooses on val after each epoch: ``attack`` on the cross-entropy and on the margin.

    On the cross-entropy alone, PGD-10 ranked lambda 8 above 2 on the widest digits net, where APGD ranks 2 above 8.
    """
    judge = replace(attack, start="uniform")
    return WorstCase((judge, OwnLoss(judge)))


def digits() -> Recipe:
    """TRADES on 500 digits: an MLP with two hidden layers of 64 units, eps 0.15, 60 epochs."""
    eps = 0.15
    return Recipe(
        model=MLP(width=64, depth=2),
        data=Digits(train=500),
        attack=PGD(eps=eps, step_size=eps / 4, steps=10, start="gaussian"),
        test_attack=final(eps),
        lam=Fixed(1.0),
        optimiser=SGD(lr=0.1, weight_decay=0.0),
        learning_rate=Piecewise(drops=(0.5, 0.75)),
        epochs=60,
        batch_size=64,
        measures=(),
        measured_epoch="last",
        measured_examples=None,
    )


def fashion() -> Recipe:
    """TRADES on Fashion-MNIST reduced for CPUs: a SmallCNN of width 1, eps 0.1, PGD-5, 20 epochs.

    1,000 images to train on, 500 to choose by and 400 to judge by; the final attack is two thirds of the time.
    """
    eps = 0.1
    return Recipe(
        model=SmallCNN(width=1),
        data=FashionMNIST(train=1000, val=500, test=400),
        attack=PGD(eps=eps, step_size=eps / 2.5, steps=5, start="gaussian"),
        test_attack=final(eps),
        lam=Fixed(1.0),
        optimiser=SGD(lr=0.1, weight_decay=0.0),
        learning_rate=Piecewise(drops=(0.5, 0.75)),
        epochs=20,
        batch_size=100,
        measures=(),
        measured_epoch="last",
        measured_examples=1000,
    )


def cifar10(epochs: int = 30) -> Recipe:
    """TRADES on CIFAR-10: a WRN-16-4, eps 8/255, crops and flips, for GPUs."""
    return Recipe(
        model=WideResNet(depth=16, width=4),
        data=CIFAR10(),
        attack=PGD(eps=8 * PIXEL, step_size=2 * PIXEL, steps=10, start="gaussian"),
        test_attack=final(8 * PIXEL),
        lam=Fixed(1.0),
        optimiser=SGD(lr=0.1, weight_decay=0.0),
        learning_rate=Piecewise(drops=(0.5, 0.75)),
        augment=CropFlip(),
        epochs=epochs,
        batch_size=128,
        measures=(),
        measured_epoch="last",
        measured_examples=1000,
    )
