"""How does the best lambda move with width? Real handwritten digits, minutes on a laptop, no GPU,
no download."""

import optuna

from robsearch import MLP, PGD, SGD, TRADES, Digits, Fixed, Piecewise, Recipe, Standard, space
from robsearch.protocols import Objective


def recipe(width: float, lam: float, objective: Objective = TRADES()) -> Recipe:
    """An MLP with two hidden layers, trained on 500 digits against perturbations of up to 0.15 in
    each pixel."""
    return Recipe(
        model=MLP(width=width, depth=2),
        data=Digits(train=500),
        attack=PGD(eps=0.15, step_size=0.0375, steps=10, start="gaussian"),
        objective=objective,
        lam=Fixed(lam),
        optimiser=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        learning_rate=Piecewise(drops=(0.5, 0.75), factor=0.1),
        epochs=60,
        batch_size=64,
    )


def standard(width: float) -> Recipe:
    """The same net trained without adversarial loss: the yardstick for what robust training
    gains."""
    return recipe(width, lam=0.0, objective=Standard())


@space(widths=(16, 64, 256), controls=(standard,))
def digits(trial: optuna.Trial, width: float) -> Recipe:
    """One free lambda at each width."""
    return recipe(width, lam=trial.suggest_float("lam", 0.5, 64.0, log=True))
