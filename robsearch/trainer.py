"""The training loop, top to bottom: a generator of epochs. Whoever loops over it logs, saves or stops."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn

from robsearch.data import load
from robsearch.evaluation import best_device, judge, to_device, to_float
from robsearch.modes import evaluating
from robsearch.protocols import Checkpoint, Images, Labels, Metrics, Scalar, Split
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
    splits = {name: to_device(split, device) for name, split in load(recipe.data).items() if name != "test"}
    seed_epoch(recipe.seed, 0)
    model = recipe.model.build(recipe.data.spec).to(device)
    optimiser = recipe.optimiser.build(model)
    lam_state = recipe.lam.init()
    done = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        lam_state, done = state["lam"], state["epoch"]

    steps = math.ceil(len(splits["train"].labels) / recipe.batch_size)
    for number in range(done + 1, recipe.epochs + 1):
        started = time.perf_counter()
        seed_epoch(recipe.seed, number)
        model.train()
        totals = torch.zeros(2, dtype=torch.float64)
        for step, (x, y) in enumerate(batches(splits["train"], recipe)):
            progress = ((number - 1) * steps + step) / (recipe.epochs * steps)
            lr = recipe.optimiser.lr * recipe.learning_rate(progress)
            for group in optimiser.param_groups:
                group["lr"] = lr
            lam = recipe.lam.lam(lam_state)
            natural, robust = loss_terms(recipe, model, x, y)
            optimiser.zero_grad(set_to_none=True)
            (natural + lam * robust).backward()
            optimiser.step()
            terms = torch.stack([natural.detach(), robust.detach()]).cpu().double()
            if not terms.isfinite().all():
                raise NonFiniteLossError(
                    f"the loss became {terms[0]:g} + {lam:g} * {terms[1]:g} in epoch {number}, step {step + 1}:"
                    " lower the learning rate or lambda"
                )
            totals += terms * len(y)
            lam_state = recipe.lam.update(lam_state, float(terms[0]), float(terms[1]), progress)
        trained = time.perf_counter() - started
        natural_loss, robust_loss = (totals / len(splits["train"].labels)).tolist()
        metrics = {
            "train/natural_loss": natural_loss,
            "train/robust_loss": robust_loss,
            "train/lam": lam,
            "train/learning_rate": lr,
            **{f"val/{name}": value for name, value in judge(recipe, model, splits["val"]).items()},
            "time/train_seconds": trained,
            "time/epoch_seconds": time.perf_counter() - started,
            "time/images_per_second": len(splits["train"].labels) / trained,
        }
        yield Epoch(number, metrics, _state(model, optimiser, lam_state, number))


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


def _state(model: nn.Module, optimiser: torch.optim.Optimizer, lam: Mapping[str, float], epoch: int) -> Checkpoint:
    return {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "lam": dict(lam),
        "epoch": epoch,
    }
