"""The training loop, top to bottom: a generator of epochs. Whoever loops over it logs, saves or stops."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from robsearch.data import load
from robsearch.evaluation import best_device, judge, to_device, to_float
from robsearch.modes import evaluating
from robsearch.protocols import Checkpoint, Images, Labels, Metrics, Scalar, Split, State
from robsearch.recipe import Recipe


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
    seed_epoch(recipe.seed, 0)
    model = recipe.model.build(recipe.data.spec).to(device)
    optimiser = recipe.optimiser.build(model)
    lam_state, done = recipe.lam.init(), 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        lam_state, done = state["lam"], state["epoch"]

    for number in range(done + 1, recipe.epochs + 1):
        started = time.perf_counter()
        seed_epoch(recipe.seed, number)
        lam_state, metrics = train_epoch(recipe, model, optimiser, lam_state, images, number)
        trained = time.perf_counter() - started
        metrics |= {f"val/{name}": value for name, value in judge(recipe, model, val).items()}
        metrics |= {
            "time/train_seconds": trained,
            "time/epoch_seconds": time.perf_counter() - started,
            "time/images_per_second": len(images.labels) / trained,
        }
        yield Epoch(number, metrics, _state(model, optimiser, lam_state, number))


def train_epoch(
    recipe: Recipe, model: nn.Module, optimiser: torch.optim.Optimizer, lam_state: State, images: Split, number: int
) -> tuple[State, Metrics]:
    """One pass over ``train``: the schedule's next state, and the epoch's mean loss terms."""
    model.train()
    steps, totals = math.ceil(len(images.labels) / recipe.batch_size), torch.zeros(2, dtype=torch.float64)
    for step, (x, y) in enumerate(batches(images, recipe)):
        progress = ((number - 1) * steps + step) / (recipe.epochs * steps)
        lr, lam = recipe.optimiser.lr * recipe.learning_rate(progress), recipe.lam.lam(lam_state)
        for group in optimiser.param_groups:
            group["lr"] = lr
        natural, robust = loss_terms(recipe, model, x, y)
        optimiser.zero_grad(set_to_none=True)
        (natural + lam * robust).backward()
        optimiser.step()
        terms = torch.stack([natural.detach(), robust.detach()]).double().cpu()
        if not terms.isfinite().all():
            where = f"{terms[0]:g} + {lam:g} * {terms[1]:g} in epoch {number}, step {step + 1}"
            raise NonFiniteLossError(f"the loss became {where}: lower the learning rate or lambda")
        lam_state = recipe.lam.update(lam_state, terms[0].item(), terms[1].item(), progress)
        totals += terms * len(y)
    natural_loss, robust_loss = (totals / len(images.labels)).tolist()
    return lam_state, {
        "train/natural_loss": natural_loss,
        "train/robust_loss": robust_loss,
        "train/lam": lam,
        "train/learning_rate": lr,
    }


def loss_terms(recipe: Recipe, model: nn.Module, x: Images, y: Labels) -> tuple[Scalar, Scalar]:
    """The objective's two terms on one batch.

    The attack's reference ``f(x)`` is computed once, in eval mode and without gradient, not at each attack
    step. Both forwards of the loss run in train mode, so BatchNorm's running statistics see clean and
    adversarial images in equal parts.
    """
    with evaluating(model), torch.no_grad():
        reference = model(x)
    loss = recipe.objective.inner(reference, y)
    clean = model(x)
    if loss is None:
        return recipe.objective.terms(clean, clean, y)
    return recipe.objective.terms(clean, model(recipe.attack(model, x, y, loss)), y)


def batches(split: Split, recipe: Recipe) -> Iterator[tuple[Images, Labels]]:
    """The training split once, in a fresh random order, augmented; the last batch may be smaller."""
    order = torch.randperm(len(split.labels))
    for rows in order.split(recipe.batch_size):
        rows = rows.to(split.labels.device)
        x = to_float(split.images[rows])
        yield (x if recipe.augment is None else recipe.augment(x)), split.labels[rows]


def seed_epoch(seed: int, epoch: int) -> None:
    """Seeds torch from (seed, epoch) alone: a resumed epoch draws what it would have drawn."""
    torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)


def _state(model: nn.Module, optimiser: torch.optim.Optimizer, lam: State, epoch: int) -> Checkpoint:
    return {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "lam": dict(lam),
        "epoch": epoch,
    }
