"""Robust training does what the field says it does, on real images."""

import dataclasses

import pytest

from robsearch import PGD, SGD, TRADES, FashionMNIST, Fixed, Piecewise, Recipe, SmallCNN, Standard
from robsearch.trials.trial import measure, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_trades_makes_a_small_cnn_robust_on_fashion_mnist_and_the_standard_objective_does_not(
    data_root, tmp_path
):
    """3,000 images, 10 epochs, eps 0.1, judged by PGD-20 on all test images at the best epoch
    on val."""
    trades = Recipe(
        model=SmallCNN(width=1),
        data=FashionMNIST(root=str(data_root), train=3000, val=200),
        attack=PGD(eps=0.1, step_size=0.025, steps=10, start="gaussian"),
        eval_attack=PGD(eps=0.1, step_size=0.025, steps=10),
        objective=TRADES(),
        lam=Fixed(6.0),
        optimiser=SGD(lr=0.05, momentum=0.9, weight_decay=5e-4),
        learning_rate=Piecewise(drops=(0.75, 0.9)),
        measures=(),
        epochs=10,
        batch_size=64,
    )
    standard = dataclasses.replace(trades, objective=Standard(), lam=Fixed(0.0))
    robust = {}
    for name, recipe in (("trades", trades), ("standard", standard)):
        assert list(run(recipe, tmp_path / name))[-1].ended == "COMPLETE"
        (report,) = measure(recipe, tmp_path / name)
        robust[name] = report.test["test/robust_accuracy"]
    assert robust["trades"] > 0.60
    assert robust["standard"] < 0.30
