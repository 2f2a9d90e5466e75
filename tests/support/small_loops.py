"""Training loops of a user's own, and a space that searches one. Workers import this module."""

import dataclasses
import os
import random
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from optuna.pruners import ThresholdPruner
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robsearch import MLP, PGD, Digits, Fixed, LogitMargin, Recipe, space
from robsearch.trials.trial import REPORT_SECONDS


@dataclasses.dataclass(frozen=True)
class Momentum:
    """Cross-entropy of clean and of attacked images, by SGD with momentum."""

    lr: float = 0.05
    momentum: float = 0.9

    uses: ClassVar[tuple[str, ...]] = ("batch_size",)

    def train(self, training):
        model = training.model
        optimiser = torch.optim.SGD(model.parameters(), self.lr, self.momentum)
        if training.state is not None:
            optimiser.load_state_dict(training.state["optimiser"])
        for epoch in training.epochs:
            model.train()
            losses = [self.step(training, optimiser, x, y) for x, y in training.batches()]
            self.end_of(epoch, training)
            yield {"train/loss": np.mean(losses)}, {"optimiser": optimiser.state_dict()}

    def step(self, training, optimiser, x, y):
        def loss_of(logits):
            return F.cross_entropy(logits, y, reduction="none")

        adv = training.recipe.attack(training.model, x, y, loss_of)
        natural = loss_of(training.model(x)).mean()
        robust = loss_of(training.model(adv)).mean()
        optimiser.zero_grad()
        (natural + training.lam * robust).backward()
        optimiser.step()
        training.advance_lam(natural.item(), robust.item(), 0.5)
        return natural.item()

    def end_of(self, epoch, training):
        """Nothing."""


@dataclasses.dataclass(frozen=True)
class Averaging(Momentum):
    """Draws from all generators, also before the first epoch, and has an average judged."""

    def train(self, training):
        random.random(), np.random.rand(), torch.rand(3)
        average = AveragedModel(training.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        if training.state is not None:
            average.load_state_dict(training.state["average"])
        for _ in training.epochs:
            training.model.train()
            for x, y in training.batches():
                noise = random.random() + np.random.rand() + torch.rand(()).item()
                loss = F.cross_entropy(training.model(x + 0.01 * noise), y)
                (loss + 0 * training.lam).backward()
                with torch.no_grad():
                    for weight in training.model.parameters():
                        weight -= self.lr * weight.grad
                        weight.grad = None
                average.update_parameters(training.model)
            yield {}, {"average": average.state_dict()}, average.module


@dataclasses.dataclass(frozen=True)
class Mortal(Momentum):
    """Its process is killed at the end of the third epoch, once. What learns nothing takes so long
    that each epoch is reported by itself."""

    marker: str = ""

    def end_of(self, epoch, training):
        may_die = self.marker and not Path(self.marker).exists()
        if self.lr < 1e-4 or (may_die and epoch == 2):
            time.sleep(1.5 * REPORT_SECONDS)
        if may_die and epoch == 3:
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def recipe(width, lam, loop, **changes):
    attack = PGD(eps=0.03, step_size=0.015, steps=2, start="gaussian")
    uses = {"batch_size": 50} if "batch_size" in loop.uses else {}
    return Recipe(
        **{
            "model": MLP(width=width, depth=1),
            "data": Digits(train=100),
            "attack": attack,
            "eval_attack": dataclasses.replace(attack, start="uniform"),
            "lam": Fixed(lam) if isinstance(lam, float) else lam,
            "loop": loop,
            "measures": (LogitMargin(),),
            "epochs": 5,
            **uses,
            **changes,
        }
    )


@space(
    widths=(8, 16),
    pruner=ThresholdPruner(lower=0.25, n_warmup_steps=3),
    start_with=({"lam": 1.0, "lr": 0.2}, {"lam": 1.0, "lr": 1e-6}),
)
def own(trial: optuna.Trial, width: float) -> Recipe:
    """The second suggestion of a width learns nothing; a worker of width 16 dies once."""
    lam = trial.suggest_float("lam", 0.5, 8.0, log=True)
    lr = trial.suggest_float("lr", 1e-6, 1.0, log=True)
    marker = os.environ.get("ROBSEARCH_TEST_MARKER", "") if width == 16 and lr > 0.1 else ""
    return recipe(width, lam, Mortal(lr=lr, marker=marker))
