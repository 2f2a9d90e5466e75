"""The training loop, top to bottom: a generator of epochs. Whoever loops over it logs, saves or stops."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from robsearch.data import load
from robsearch.evaluation import best_device, judge, to_device, to_float
from robsearch.modes import evaluating, frozen_statistics
from robsearch.protocols import Checkpoint, Images, Labels, Metrics, PenaltyState, Scalar, Split, State
from robsearch.recipe import Recipe

VALUE = "val/robust_accuracy"
"""What selection maximises; a trial's value is this metric at its best epoch."""


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite: training cannot go on."""


class Epoch(NamedTuple):
    """One finished pass over ``train``.

    ``state`` continues training: ``train(recipe, state)`` yields what would have followed, bit for bit on CPU.
    It refers to the live tensors, so save it before asking for the next epoch.
    """

    number: int
    metrics: Metrics
    state: Checkpoint


def train(recipe: Recipe, state: Checkpoint | None = None, device: torch.device | None = None) -> Iterator[Epoch]:
    """Trains one model adversarially and yields after each epoch.

    Args:
        recipe: what to train.
        state: of an earlier ``Epoch``, to go on from it.
        device: the first GPU by default, else the CPU.

    Raises:
        NonFiniteLossError: a loss term became NaN or infinite; names epoch and step.
        InputError: the data is not there.
    """
    device = device or best_device()
    data = load(recipe.data)
    images, val = to_device(data["train"], device), to_device(data["val"], device)
    learner, attack = Learner.of(recipe, device), recipe.eval_attack
    assert attack is not None, "Recipe fills it in"
    if state is not None:
        learner.load(state)
    while learner.epoch < recipe.epochs and not learner.out_of_patience:
        started = time.perf_counter()
        learner.epoch += 1
        seed_epoch(recipe.seed, learner.epoch)
        metrics = train_epoch(learner, images)
        trained = time.perf_counter() - started
        metrics |= {f"val/{name}": rate for name, rate in judge(learner.judged, val, attack).items()}
        if learner.average is not None:
            metrics |= {f"val_raw/{name}": rate for name, rate in judge(learner.model, val, attack).items()}
        learner.note(metrics[VALUE])
        metrics |= {
            "time/train_seconds": trained,
            "time/epoch_seconds": time.perf_counter() - started,
            "time/images_per_second": len(images.labels) / trained,
        }
        yield Epoch(learner.epoch, metrics, learner.state)


@dataclass
class Learner:
    """Everything that changes while one model is trained."""

    recipe: Recipe
    model: nn.Module
    optimiser: torch.optim.Optimizer
    lam: State
    penalties: list[PenaltyState]
    average: AveragedModel | None
    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device) -> Learner:
        """Freshly initialised from the recipe's seed."""
        seed_epoch(recipe.seed, 0)
        model = recipe.model.build(recipe.data.spec).to(device)
        average = recipe.averaging.build(model) if recipe.averaging else None
        penalties = [penalty.init(model) for penalty in recipe.penalties]
        return cls(recipe, model, recipe.optimiser.build(model), recipe.lam.init(), penalties, average)

    @property
    def judged(self) -> nn.Module:
        """The net that is judged and deployed: the average where the recipe asks for one."""
        return self.model if self.average is None else self.average.module

    @property
    def out_of_patience(self) -> bool:
        """Whether the best epoch is longer ago than the recipe waits."""
        return self.recipe.patience is not None and self.epoch - self.best_epoch >= self.recipe.patience

    def note(self, value: float) -> None:
        """Remembers the best epoch so far."""
        if value > self.best:
            self.best, self.best_epoch = value, self.epoch

    @property
    def state(self) -> Checkpoint:
        """What a checkpoint holds; ``judged`` are the weights to deploy, ``model`` those being trained."""
        return {
            "model": self.model.state_dict(),
            "judged": self.judged.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimiser": self.optimiser.state_dict(),
            "penalties": self.penalties,
            "lam": dict(self.lam),
            "epoch": self.epoch,
            "best": (self.best, self.best_epoch),
        }

    def load(self, state: Checkpoint) -> None:
        """Goes on from a checkpoint."""
        device = next(self.model.parameters()).device
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.penalties = [{name: value.to(device) for name, value in each.items()} for each in state["penalties"]]
        self.lam, self.epoch = state["lam"], state["epoch"]
        self.best, self.best_epoch = state["best"]


def train_epoch(learner: Learner, images: Split) -> Metrics:
    """One pass over ``train``; returns the epoch's mean loss terms, and lambda and learning rate at its end."""
    recipe, model = learner.recipe, learner.model
    model.train()
    steps, totals = math.ceil(len(images.labels) / recipe.batch_size), torch.zeros(2, dtype=torch.float64)
    for step, (x, y) in enumerate(batches(images, recipe), start=(learner.epoch - 1) * steps):
        progress = step / (recipe.epochs * steps)
        lr, lam = recipe.optimiser.lr * recipe.learning_rate(progress), recipe.lam.lam(learner.lam)
        for group in learner.optimiser.param_groups:
            group["lr"] = lr
        terms = gradient(learner, x, y, lam, progress)
        if not terms.isfinite().all():
            where = f"{terms[0]:g} + {lam:g} * {terms[1]:g} in epoch {learner.epoch}, step {step % steps + 1}"
            raise NonFiniteLossError(f"the loss became {where}: lower the learning rate or lambda")
        optimiser_step(learner, step)
        learner.lam = recipe.lam.update(learner.lam, terms[0].item(), terms[1].item(), progress)
        totals += terms * len(y)
    natural_loss, robust_loss = (totals / len(images.labels)).tolist()
    return {
        "train/natural_loss": natural_loss,
        "train/robust_loss": robust_loss,
        "train/lam": lam,
        "train/learning_rate": lr,
    }


def gradient(learner: Learner, x: Images, y: Labels, lam: float, progress: float) -> torch.Tensor:
    """Leaves the training loss's gradient in the model; returns the terms (natural, robust), shape (2,), on the CPU.

    With weight perturbation, gradient and terms are those at the perturbed weights.
    """
    recipe, model = learner.recipe, learner.model
    x_adv = perturbed(recipe, model, x, y)
    terms: list[torch.Tensor] = []

    def loss() -> Scalar:
        natural, robust, clean_logits = loss_terms(recipe, model, x, x_adv, y)
        terms[:] = [natural.detach(), robust.detach()]
        added = (penalty.loss(model, clean_logits, y) for penalty in recipe.penalties)
        return sum((term for term in added if term is not None), start=natural + lam * robust)

    learner.optimiser.zero_grad(set_to_none=True)
    awp = recipe.weight_perturbation
    with awp.perturbed(model, loss, progress) if awp else nullcontext():
        loss().backward()
    return torch.stack(terms).double().cpu()


def perturbed(recipe: Recipe, model: nn.Module, x: Images, y: Labels) -> Images | None:
    """The training attack's images, or None if the objective trains without.

    The attack's reference ``f(x)`` is computed once, in eval mode and without gradient, not at each attack step.
    """
    with evaluating(model), torch.no_grad():
        reference = model(x)
    loss = recipe.objective.inner(reference, y)
    return None if loss is None else recipe.attack(model, x, y, loss)


def loss_terms(
    recipe: Recipe, model: nn.Module, x: Images, x_adv: Images | None, y: Labels
) -> tuple[Scalar, Scalar, torch.Tensor]:
    """The objective's two terms on one batch, in train mode, and the clean logits.

    BatchNorm normalises clean and adversarial images each by their own statistics; ``recipe.batch_norm`` says
    which of the two enter its running statistics.
    """
    with frozen_statistics(model, recipe.batch_norm == "adversarial" and x_adv is not None):
        clean = model(x)
    if x_adv is None:
        return *recipe.objective.terms(clean, clean, y), clean
    with frozen_statistics(model, recipe.batch_norm == "clean"):
        adversarial = model(x_adv)
    return *recipe.objective.terms(clean, adversarial, y), clean


def optimiser_step(learner: Learner, step: int) -> None:
    """One step of the optimiser, with what penalties do before and after it, and the average's update."""
    penalties, model = learner.recipe.penalties, learner.model
    for i, penalty in enumerate(penalties):
        learner.penalties[i] = penalty.before_step(model, learner.penalties[i], step)
    learner.optimiser.step()
    for i, penalty in enumerate(penalties):
        learner.penalties[i] = penalty.after_step(model, learner.penalties[i], step)
    if learner.average is not None:
        learner.average.update_parameters(model)


def batches(split: Split, recipe: Recipe) -> Iterator[tuple[Images, Labels]]:
    """The training split once, in a fresh random order, augmented; the last batch may be smaller."""
    for rows in torch.randperm(len(split.labels)).split(recipe.batch_size):
        here = rows.to(split.labels.device)
        x = to_float(split.images[here])
        yield (x if recipe.augment is None else recipe.augment(x)), split.labels[here]


def seed_epoch(seed: int, epoch: int) -> None:
    """Seeds torch from (seed, epoch) alone: a resumed epoch draws what it would have drawn."""
    torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)
