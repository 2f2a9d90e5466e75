"""Spaces that train in a second, for the tests of everything around training. Workers import this
module."""

import dataclasses
import os
import signal
from pathlib import Path

import optuna
import torch

from robsearch import (
    EMA,
    MLP,
    MNIST,
    PGD,
    PGDAT,
    SGD,
    TRADES,
    WAR,
    AdamW,
    AverageMargin,
    Digits,
    Fixed,
    LogitMargin,
    NormDecay,
    Orthogonality,
    Piecewise,
    Recipe,
    RobustOverfittingStopper,
    SingularValueClipping,
    Standard,
    WeightPerturbation,
    space,
)
from robsearch.protocols import Schedule


def recipe(width: float, lam: float | Schedule = 2.0, **changes: object) -> Recipe:
    attack = PGD(eps=0.1, step_size=0.05, steps=2, start="gaussian")
    return dataclasses.replace(
        Recipe(
            model=MLP(width=width, depth=1),
            data=Digits(train=100),
            attack=attack,
            eval_attack=dataclasses.replace(attack, start="uniform"),
            lam=Fixed(lam) if isinstance(lam, int | float) else lam,
            optimiser=SGD(lr=0.1),
            learning_rate=Piecewise(drops=(0.5,)),
            measures=(LogitMargin(),),
            epochs=4,
            batch_size=50,
        ),
        **changes,
    )


def standard(width: float) -> Recipe:
    return recipe(width, lam=0.0, objective=Standard())


def learning(width: float, lam: float, **changes: object) -> Recipe:
    """With an attack and a learning rate at which the nets learn something: one that collapses is
    never the best."""
    attack = PGD(eps=0.03, step_size=0.015, steps=2, start="gaussian")
    how = {
        "attack": attack,
        "eval_attack": dataclasses.replace(attack, start="uniform"),
        "optimiser": SGD(lr=0.5),
    }
    return recipe(width, lam, **{**how, **changes})


@space(widths=(4, 8), controls=(standard,))
def pair(trial: optuna.Trial, width: float) -> Recipe:
    return learning(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


@space(widths=(4,))
def elsewhere(trial: optuna.Trial, width: float) -> Recipe:
    """Its data is no package's, so it may be missing."""
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    return recipe(width, lam=Fixed(lam), data=MNIST(train=100, val=100))


@dataclasses.dataclass(frozen=True)
class Faulty(TRADES):
    """TRADES that fails in a given way in its ``after``-th training step of a process."""

    fault: str = "none"
    marker: str = ""
    after: int = 5

    def terms(self, clean_logits, adv_logits, y):
        natural, robust = super().terms(clean_logits, adv_logits, y)
        STEPS[self.fault] = STEPS.get(self.fault, 0) + 1
        if self.fault == "always" and STEPS[self.fault] > 4:  # check takes fewer
            raise RuntimeError("a fault of the objective")
        if STEPS[self.fault] == self.after:
            if self.fault == "raises":
                raise RuntimeError("a fault of the objective")
            if self.fault == "nan":
                return natural * torch.nan, robust
            if self.fault == "dies" and not Path(self.marker).exists():
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return natural, robust


STEPS: dict[str, int] = {}


@space(widths=(4,))
def hopeless(trial: optuna.Trial, width: float) -> Recipe:
    trial.suggest_float("lam", 0.5, 32.0, log=True)
    return recipe(width, objective=Faulty(fault="always"))


@space(widths=(4, 8))
def slow_pair(trial: optuna.Trial, width: float) -> Recipe:
    """Long enough to be killed half-way."""
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True), epochs=400)


@space(widths=(4, 8))
def everything(trial: optuna.Trial, width: float) -> Recipe:
    """WAR, penalties, averaging, weight perturbation, early stopping and what else there is, at
    once."""
    target = trial.suggest_float("target", 0.5, 20.0, log=True)
    return recipe(
        width,
        model=MLP(width=width, depth=1, init="he"),
        data=Digits(train=100, label_noise=0.1, draw="seed"),
        optimiser=AdamW(lr=0.01),
        clip_gradient=5.0,
        eps_warmup=0.1,
        lam=WAR(target=target, lam_init=1.0, hold=0.1, freeze_at="first_drop"),
        penalties=(
            NormDecay(beta=1e-4),
            SingularValueClipping(clip=2.0, every=3),
            AverageMargin(),
            Orthogonality(),
        ),
        averaging=EMA(decay=0.9),
        weight_perturbation=WeightPerturbation(gamma=0.005),
        stopper=RobustOverfittingStopper(patience=3, after=0.0),
        epochs=8,
    )


@space(widths=(4, 8))
def uneven(trial: optuna.Trial, width: float) -> Recipe:
    return recipe(width, trial.suggest_float("lam", 0.5, width, log=True))


@space(widths=(4, 8))
def blind(trial: optuna.Trial, width: float) -> Recipe:
    return recipe(4, trial.suggest_float("lam", 0.5, 32.0, log=True))


@space(widths=(4,))
def broken(trial: optuna.Trial, width: float) -> Recipe:
    return recipe(width, objective="TRADES", epochs=0)


@dataclasses.dataclass(frozen=True)
class Unbuildable:
    width: float = 4

    def build(self, images):
        raise RuntimeError("no such layer")


@space(widths=(4,))
def unbuildable(trial: optuna.Trial, width: float) -> Recipe:
    return recipe(width, model=Unbuildable(), augment=lambda x: x)


not_a_space = 3


def deterministic(width: float, **changes: object) -> Recipe:
    """Nothing random in it but order: what several processes train is what one does, up to
    rounding."""
    attack = PGD(eps=0.1, step_size=0.05, steps=2, start="none")
    return recipe(width, attack=attack, eval_attack=attack, objective=PGDAT(), **changes)
