"""How does the best lambda move with width? WideResNet-28-k on CIFAR-10, the setting of the
literature (GPUs)."""

import optuna

from robsearch import (
    CIFAR10,
    PGD,
    SGD,
    TRADES,
    CropFlip,
    Fixed,
    Piecewise,
    Recipe,
    WideResNet,
    space,
)


@space(widths=(1, 2, 4, 8))
def cifar10(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width; TRADES against 8/255, early stopping by the best epoch on
    ``val``."""
    return Recipe(
        model=WideResNet(depth=28, width=width),
        data=CIFAR10(),
        attack=PGD(eps=8 / 255, step_size=2 / 255, steps=10, start="gaussian"),
        objective=TRADES(),
        lam=Fixed(trial.suggest_float("lam", 0.5, 64.0, log=True)),
        optimiser=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        learning_rate=Piecewise(drops=(0.75, 0.9), factor=0.1),
        augment=CropFlip(padding=4),
        epochs=100,
        batch_size=128,
    )
