"""The training loop, top to bottom: a generator of epochs. Whoever loops over it logs, saves or stops."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from robsearch.batching import batch_sizes, least_images, share_problems
from robsearch.costs import EPOCH, EPOCH_GPU, gpu_seconds
from robsearch.data import load
from robsearch.errors import InputError
from robsearch.evaluation import RATES, best_device, judge, to_device, to_float
from robsearch.learner import Learner, seed_epoch
from robsearch.memory import forget_peak, peak
from robsearch.modes import NonFiniteLogitsError
from robsearch.protocols import Checkpoint, Images, Labels, Metrics, Split
from robsearch.ranks import ALONE, Ranks
from robsearch.recipe import Recipe
from robsearch.steps import gradient_that_fits, optimiser_step
from robsearch.wording import counted

VALUE = "val/robust_accuracy"
"""What selection maximises; a trial's value is this metric at its best epoch."""


class NonFiniteLossError(ArithmeticError):
    """The loss, or the logits of judging, became NaN or infinite: training cannot go on."""


class Epoch(NamedTuple):
    """One finished pass over ``train``.

    ``state`` continues training: ``train(recipe, state)`` yields what would have followed, bit for bit on CPU.
    It refers to the live tensors, so save it before asking for the next epoch.
    """

    number: int
    metrics: Metrics
    state: Checkpoint


def train(
    recipe: Recipe,
    state: Checkpoint | None = None,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Epoch]:
    """Trains one model adversarially and yields after each epoch.

    Args:
        recipe: what to train.
        state: of an earlier ``Epoch``, to go on from it.
        device: the process's GPU by default, else the CPU.
        ranks: the processes that train it together, with the recipe's batch size between them; each calls this inside
            ``ranks.united()`` and is given the same epochs, but with times and memory of its own.

    Raises:
        NonFiniteLossError: a loss term, or logits of ``val``, became NaN or infinite; names epoch and step.
        DeviceFullError: the device's memory does not do for the fewest images at a time (``steps``).
        InputError: the data is not there, or a rank's share of a batch has too few images (``batching``).
    """
    device = device or best_device()
    data = load(recipe.data)
    images, val = to_device(data["train"], device), to_device(data["val"], device)
    learner = Learner.of(recipe, device, ranks)
    _refuse_small_shares(learner, len(images.labels))
    if state is not None:
        learner.load(state)
    while learner.epoch < recipe.epochs and not learner.peaked:
        started = time.perf_counter()
        forget_peak(device)
        learner.epoch += 1
        seed_epoch(recipe.seed, learner.epoch)
        metrics = train_epoch(learner, images)
        trained = time.perf_counter() - started
        metrics |= {f"val/{name}": rate for name, rate in judged(learner, learner.judged, val).items()}
        if learner.average is not None:
            metrics |= {f"val_raw/{name}": rate for name, rate in judged(learner, learner.model, val).items()}
        learner.note(metrics[VALUE])
        metrics |= costs(device, len(images.labels), trained, time.perf_counter() - started, ranks.size)
        yield Epoch(learner.epoch, metrics, learner.state)


def _refuse_small_shares(learner: Learner, images: int) -> None:
    least = least_images(learner.model.train())
    problems = share_problems(least, images, learner.recipe.batch_size, learner.ranks.size)
    if problems:
        raise InputError(*problems)


def judged(learner: Learner, model: nn.Module, val: Split) -> Metrics:
    """``judge`` under the recipe's ``eval_attack``; each rank judges its share of ``val``, and all know the whole's.

    Each image is attacked from its own start, whichever rank it is on.

    Raises:
        NonFiniteLossError: logits are NaN or infinite; names the epoch and how many images.
    """
    attack, ranks = learner.recipe.resolved_eval_attack, learner.ranks
    own = val if ranks.size == 1 else Split(ranks.share(val.images), ranks.share(val.labels))
    try:
        shares = judge(model, own, attack) if len(own.labels) else dict.fromkeys(RATES, 0.0)
    except NonFiniteLogitsError as error:
        which = "val" if model is learner.judged else "val with the raw weights"
        where = (
            f"in epoch {learner.epoch}, judging {which}, for {error.images} of {counted(error.of, 'image')} of a chunk"
        )
        raise NonFiniteLossError(
            f"the logits became NaN or infinite {where}: lower the learning rate or lambda"
        ) from error
    if ranks.size == 1:
        return shares
    (counts,) = ranks.sum([torch.tensor([round(shares[name] * len(own.labels)) for name in RATES])])
    return {name: count / len(val.labels) for name, count in zip(RATES, counts.tolist(), strict=True)}


def costs(device: torch.device, images: int, trained: float, whole: float, devices: int = 1) -> Metrics:
    """What an epoch took: time and peak memory, and on a GPU ``time/gpu_seconds``.

    Args:
        device: that it ran on; of a GPU that trials share, the share counts (see ``robsearch.costs``).
        images: trained on.
        trained: seconds of training.
        whole: seconds of training and judging.
        devices: how many of them it ran on.
    """
    found = {"time/train_seconds": trained, EPOCH: whole, "time/images_per_second": images / trained}
    if device.type == "cuda":
        found[EPOCH_GPU] = gpu_seconds(whole, devices)
    return found | peak(device)


def train_epoch(learner: Learner, images: Split) -> Metrics:
    """One pass over ``train``; returns the epoch's mean loss terms, and lambda and learning rate at its end.

    With ``train/micro_batch``, images at a time, where memory did not do for the whole batch.
    """
    recipe, model = learner.recipe, learner.model
    model.train()
    steps = len(batch_sizes(len(images.labels), recipe.batch_size))
    totals = torch.zeros(2, dtype=torch.float64)
    for step, (x, y) in enumerate(batches(images, recipe), start=(learner.epoch - 1) * steps):
        progress = step / (recipe.epochs * steps)
        lr, lam = recipe.optimiser.lr * recipe.learning_rate(progress), recipe.lam.lam(learner.lam)
        for group in learner.optimiser.param_groups:
            group["lr"] = lr
        with learner.ranks.own_random(recipe.seed * 1_000_003 + step, y.device):
            terms = gradient_that_fits(learner, x, y, lam, progress)
        if not terms.isfinite().all():
            where = f"{terms[0]:g} + {lam:g} * {terms[1]:g} in epoch {learner.epoch}, step {step % steps + 1}"
            raise NonFiniteLossError(f"the loss became {where}: lower the learning rate or lambda")
        optimiser_step(learner, step)
        learner.lam = recipe.lam.update(learner.lam, terms[0].item(), terms[1].item(), progress)
        totals += terms * len(y)
    learner.unite()
    natural_loss, robust_loss = (totals / len(images.labels)).tolist()
    metrics = {
        "train/natural_loss": natural_loss,
        "train/robust_loss": robust_loss,
        "train/lam": lam,
        "train/learning_rate": lr,
    }
    if learner.micro_batch < recipe.batch_size:
        metrics["train/micro_batch"] = learner.micro_batch
    return metrics


def batches(split: Split, recipe: Recipe) -> Iterator[tuple[Images, Labels]]:
    """The training split once, in a fresh random order, augmented; the sizes of batches differ by at most one."""
    images = len(split.labels)
    for rows in torch.randperm(images).split(batch_sizes(images, recipe.batch_size)):
        here = rows.to(split.labels.device)
        x = to_float(split.images[here])
        yield (x if recipe.augment is None else recipe.augment(x)), split.labels[here]
