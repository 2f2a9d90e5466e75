"""Recipes that the studies begin with, one for each preset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from robsearch.data import CIFAR10, CropFlip, Digits, FashionMNIST
from robsearch.errors import Condition, refuse_unless
from robsearch.parts.attacks import PGD, AutoAttack, OwnLoss, WorstCase
from robsearch.parts.models import MLP, SmallCNN, WideResNet
from robsearch.parts.optimisers import SGD, Piecewise
from robsearch.parts.schedules import Fixed
from robsearch.recipe import Recipe

PIXEL = 1 / 255


def final(eps: float) -> AutoAttack:
    """What judges on test: APGD-CE and APGD-T, which find what PGD leaves standing on thin nets."""
    return AutoAttack(eps=eps, attacks=("apgd-ce", "apgd-t"), batch_size=1000)


def selecting(attack: PGD) -> WorstCase:
    """What chooses on val after each epoch: ``attack`` on the cross-entropy and on the margin.

    On the cross-entropy alone, PGD-10 ranked lambda 8 above 2 on the widest digits net, where APGD
    ranks 2 above 8.
    """
    # A Gaussian start is TRADES' own; judging begins anywhere in the ball.
    judge = replace(attack, start="uniform")
    return WorstCase((judge, OwnLoss(judge)))


def has_pgd(recipe: Recipe, why: str) -> Condition:
    """A condition on a base recipe: its attack is a ``PGD``. ``why`` says what it is needed for."""
    attack = recipe.attack
    expected = "a base recipe whose attack is a PGD"
    return Condition(isinstance(attack, PGD), expected, repr(attack), why)


def pgd_of(recipe: Recipe, why: str) -> PGD:
    """The attack of a base recipe, which must be a ``PGD``.

    Raises:
        InputError: it is not; ``why`` says what it is needed for.
    """
    refuse_unless(has_pgd(recipe, why))
    return cast("PGD", recipe.attack)


def has_sgd(recipe: Recipe, why: str) -> Condition:
    """A condition on a base recipe: it is trained by ``SGD``. ``why`` says what that is needed
    for."""
    optimiser = recipe.optimiser
    expected = "a base recipe whose optimiser is SGD"
    return Condition(isinstance(optimiser, SGD), expected, repr(optimiser), why)


def sgd_of(recipe: Recipe, why: str) -> SGD:
    """The optimiser of a base recipe, which must be ``SGD``.

    Raises:
        InputError: it is not; ``why`` says what it is needed for.
    """
    refuse_unless(has_sgd(recipe, why))
    return cast("SGD", recipe.optimiser)


def digits() -> Recipe:
    """TRADES on 500 digits: an MLP with two hidden layers of 64 units, eps 0.15, 60 epochs."""
    return _trades(
        PGD(eps=0.15, step_size=0.15 / 4, steps=10, start="gaussian"),
        model=MLP(width=64, depth=2),
        data=Digits(train=500),
        epochs=60,
        batch_size=64,
        measured_examples=None,
    )


def fashion() -> Recipe:
    """TRADES on Fashion-MNIST reduced for CPUs: a SmallCNN of width 1, eps 0.1, PGD-5, 20 epochs.

    1,000 images to train on, 500 to choose by and 400 to judge by; the final attack is two thirds
    of the time.
    """
    return _trades(
        PGD(eps=0.1, step_size=0.1 / 2.5, steps=5, start="gaussian"),
        model=SmallCNN(width=1),
        data=FashionMNIST(train=1000, val=500, test=400),
        epochs=20,
        batch_size=100,
    )


def cifar10(epochs: int = 30) -> Recipe:
    """TRADES on CIFAR-10: a WRN-16-4, eps 8/255, crops and flips, for GPUs."""
    return _trades(
        PGD(eps=8 * PIXEL, step_size=2 * PIXEL, steps=10, start="gaussian"),
        model=WideResNet(depth=16, width=4),
        data=CIFAR10(),
        augment=CropFlip(),
        epochs=epochs,
        batch_size=128,
    )


def _trades(attack: PGD, **fields: Any) -> Recipe:
    """At lambda 1, without weight decay, measured at the last epoch."""
    return Recipe(
        attack=attack,
        test_attack=final(attack.eps),
        lam=Fixed(1.0),
        optimiser=SGD(lr=0.1, weight_decay=0.0),
        learning_rate=Piecewise(drops=(0.5, 0.75)),
        measures=(),
        measured_epoch="last",
        **fields,
    )
