"""The training loop, top to bottom: a generator of epochs. Whoever loops over it logs, saves or
stops."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robsearch.data import load, wrong_labels
from robsearch.data.mixed import members
from robsearch.errors import counted, refuse
from robsearch.metrics import (
    APART,
    EPOCH_GPU_SECONDS,
    EPOCH_SECONDS,
    IMAGES_PER_SECOND,
    LAM,
    LEARNING_RATE,
    MICRO_BATCH,
    NATURAL_LOSS,
    RATES,
    ROBUST_LOSS,
    TRAIN_SECONDS,
    VALUE,
)
from robsearch.network.modes import NonFiniteLogitsError
from robsearch.parts.optimisers import LR_FACTOR
from robsearch.protocols import Checkpoint, Images, Labels, Metrics, Split
from robsearch.recipe import Recipe
from robsearch.training.batching import (
    batch_sizes,
    least_images,
    rank_problems,
    share_problems,
)
from robsearch.training.costs import gpu_seconds
from robsearch.training.evaluation import best_device, judge, taken, to_device, to_float
from robsearch.training.learner import Learner, seed_epoch
from robsearch.training.memory import forget_peak, peak
from robsearch.training.mixing import Extra, extra_of, mixed_batches, plain_batches
from robsearch.training.own_loop import LoopLearner
from robsearch.training.precision import precision_problems
from robsearch.training.ranks import ALONE, Ranks
from robsearch.training.step import gradient_that_fits, optimiser_step


class NonFiniteLossError(ArithmeticError):
    """The loss, or the logits of judging, became NaN or infinite: training cannot go on."""


class Epoch(NamedTuple):
    """One finished pass over ``train``.

    ``state`` continues training: ``train(recipe, state)`` yields what would have followed, bit for
    bit on CPU. It refers to the live tensors, so save it before asking for the next epoch.
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
        ranks: the processes that train it together, with the recipe's batch size between them; each
            calls this inside ``ranks.fail_together()`` and is given the same epochs, but with
            times and memory of its own.

    Raises:
        NonFiniteLossError: a loss term, or logits of ``val``, became NaN or infinite; names epoch
            and step.
        DeviceFullError: not even the fewest images at a time fit into the device's memory
            (``step``).
        InputError: the device has not the recipe's precision (``precision``), the data is not
            there, a rank's share of a batch has too few images (``batching``), or a loop of one's
            own (``Recipe.loop``) does not do what its protocol says.
    """
    device = device or best_device()
    refuse(precision_problems(recipe, device))
    data = recipe.resolved_data
    splits = load(data)
    images = to_device(splits["train"], device)
    extra = extra_of(data, splits, device)
    val = to_device(splits["val"], device)
    learner = learner_of(recipe, device, ranks, len(images.labels))
    if state is not None:
        learner.load(state)
    with closing(passes(learner, images, extra)) as trained_epochs:
        for metrics in trained_epochs:
            trained = time.perf_counter()
            metrics |= judge_on_val(learner, "val", learner.eval_model, val)
            if learner.average is not None:
                metrics |= judge_on_val(learner, "val_raw", learner.model, val)
            learner.remember_best(metrics[VALUE])
            ended = time.perf_counter()
            metrics |= epoch_costs(
                device,
                len(images.labels),
                trained - learner.started,
                ended - learner.started,
                ranks.size,
            )
            yield Epoch(learner.epoch, metrics, learner.state)


def learner_of(
    recipe: Recipe,
    device: torch.device,
    ranks: Ranks,
    images: int,
) -> Learner | LoopLearner:
    """What trains the recipe: robsearch's loop, or the recipe's own.

    Args:
        recipe: what to train.
        device: to train on.
        ranks: that train it together.
        images: of ``train``.

    Raises:
        InputError: a rank's share of a batch has too few images (``batching``), or there are
            several ranks and the loop is the recipe's own.
    """
    if recipe.loop is not None:
        refuse(rank_problems(recipe.loop, ranks.size))
        return LoopLearner.of(recipe, device)
    learner = Learner.of(recipe, device, ranks)
    least = least_images(learner.model.train())
    refuse(share_problems(least, images, recipe.batch_size, ranks.size))
    return learner


def passes(
    learner: Learner | LoopLearner,
    images: Split,
    extra: Extra | None = None,
) -> Generator[Metrics]:
    """Trains epoch by epoch until the recipe's last or until its stopper ends it, and yields the
    metrics of each.

    Args:
        learner: what trains.
        images: of ``train``.
        extra: images to be mixed in.
    """
    recipe = learner.recipe
    if isinstance(learner, LoopLearner):
        yield from learner.passes(images, lambda: _pairs(images, recipe, extra))
        return
    while learner.epoch < recipe.epochs and not learner.should_stop:
        learner.started = time.perf_counter()
        forget_peak(next(learner.model.parameters()).device)
        learner.epoch += 1
        # A resumed training draws in this epoch what an unbroken one draws.
        seed_epoch(recipe.seed, learner.epoch)
        yield train_epoch(learner, images, extra)


def _pairs(
    images: Split,
    recipe: Recipe,
    extra: Extra | None,
) -> Iterator[tuple[Images, Labels]]:
    with closing(batches(images, recipe, extra=extra)) as ahead:
        for x, y, _ in ahead:
            yield x, y


def judge_on_val(
    learner: Learner | LoopLearner,
    prefix: str,
    model: nn.Module,
    val: Split,
) -> Metrics:
    """``judge`` under the recipe's ``eval_attack``; each rank judges its share of ``val``, and all
    know the whole's.

    Each image is attacked from its own start, whichever rank it is on.

    Raises:
        NonFiniteLossError: logits are NaN or infinite; names the epoch and how many images.
    """
    attack = learner.recipe.resolved_eval_attack
    ranks = learner.ranks
    share = val
    if ranks.size > 1:
        share = taken(val, ranks.share(torch.arange(len(val.labels))))
    # A rank without images of ``val`` adds none to the counts.
    rates = dict.fromkeys(RATES, 0.0)
    try:
        if len(share.labels):
            rates = judge(model, share, attack)
    except NonFiniteLogitsError as error:
        which = "val" if prefix == "val" else "val with the raw weights"
        images = f"{error.images} of {counted(error.of, 'image')} of a chunk"
        raise NonFiniteLossError(
            f"the logits became NaN or infinite in epoch {learner.epoch}, judging {which}, for "
            f"{images}: lower the learning rate or lambda"
        ) from error
    if ranks.size > 1:
        # Whole counts add up without rounding, so that all ranks see what one process would.
        counts = [round(rates[name] * len(share.labels)) for name in RATES]
        (totals,) = ranks.sum([torch.tensor(counts)])
        for name, total in zip(RATES, totals.tolist(), strict=True):
            rates[name] = total / len(val.labels)
    return {f"{prefix}/{name}": rate for name, rate in rates.items()}


def epoch_costs(
    device: torch.device,
    images: int,
    trained: float,
    whole: float,
    devices: int = 1,
) -> Metrics:
    """What an epoch took: time and peak memory, and on a GPU ``time/gpu_seconds``.

    Args:
        device: that it ran on; of a GPU that trials share, the share counts (see
            ``robsearch.training.costs``).
        images: trained on.
        trained: seconds of training.
        whole: seconds of training and judging.
        devices: how many of them it ran on.
    """
    metrics = {
        TRAIN_SECONDS: trained,
        EPOCH_SECONDS: whole,
        IMAGES_PER_SECOND: images / trained,
    }
    if device.type == "cuda":
        metrics[EPOCH_GPU_SECONDS] = gpu_seconds(whole, devices)
    return metrics | peak(device)


def train_epoch(learner: Learner, images: Split, extra: Extra | None = None) -> Metrics:
    """One pass over ``train``, or over as many images of it and of extra ones; returns the epoch's
    mean loss terms, and lambda and learning rate at its end.

    With ``train/micro_batch``, images at a time, where the whole batch did not fit into memory.
    """
    real, *_ = members(learner.recipe.resolved_data)
    wrong = wrong_labels(real, len(images.labels))
    with closing(batches(images, learner.recipe, wrong, extra)) as ahead:
        return _steps(learner, ahead, len(images.labels), wrong is not None)


def _steps(
    learner: Learner,
    ahead: Iterator[Batch],
    images: int,
    apart: bool,
) -> Metrics:
    recipe = learner.recipe
    learner.model.train()
    steps = len(batch_sizes(images, recipe.batch_size))
    totals = torch.zeros(4 if apart else 2, dtype=torch.float64)
    number_wrong = 0
    first_step = (learner.epoch - 1) * steps
    for step, (x, y, wrong_labels_of_batch) in enumerate(ahead, start=first_step):
        progress = step / (recipe.epochs * steps)
        lr = recipe.optimiser.lr * recipe.learning_rate(progress)
        # From the steps before this one: a schedule that looks at losses lags by a step.
        lam = learner.schedule.lam(learner.lam)
        for group in learner.optimiser.param_groups:
            group["lr"] = lr * group.get(LR_FACTOR, 1.0)
        # A large prime keeps the steps of one seed apart from those of the next.
        with learner.ranks.random_of_rank(recipe.seed * 1_000_003 + step, y.device):
            terms = gradient_that_fits(learner, x, y, lam, progress, wrong_labels_of_batch)
        # Not those of the wrong labels: an objective may have no finite mean of a single image.
        if not terms[:2].isfinite().all():
            raise NonFiniteLossError(
                f"the loss became {terms[0]:g} + {lam:g} * {terms[1]:g} in epoch {learner.epoch}, "
                f"step {step % steps + 1}: lower the learning rate or lambda"
            )
        optimiser_step(learner, step)
        natural, robust, *_ = terms.tolist()
        learner.lam = learner.schedule.update(learner.lam, natural, robust, progress)
        # Batches differ by an image: the epoch's mean is over images, not over batches.
        totals += terms * len(y)
        if wrong_labels_of_batch is not None:
            number_wrong += int(wrong_labels_of_batch.sum())
    # Before judging, for BatchNorm's statistics have drifted apart among ranks.
    learner.sync()
    metrics = {
        **_mean_terms(totals, images, number_wrong),
        LAM: lam,
        LEARNING_RATE: lr,
    }
    if learner.micro_batch < recipe.batch_size:
        metrics[MICRO_BATCH] = learner.micro_batch
    return metrics


def _mean_terms(totals: Tensor, images: int, number_wrong: int) -> Metrics:
    """Means over images of the sums over an epoch: over all, and where labels are wrong, over those
    with a right and those with a wrong one, where there are any and their mean is finite."""
    natural, robust, *of_wrong = totals.tolist()
    sums = {NATURAL_LOSS: natural, ROBUST_LOSS: robust}
    metrics = {name: total / images for name, total in sums.items()}
    if not of_wrong:
        return metrics
    sums_of_wrong = dict(zip(sums, of_wrong, strict=True))
    for name, (term, is_wrong) in APART.items():
        count = number_wrong if is_wrong else images - number_wrong
        total = sums_of_wrong[term]
        if count and math.isfinite(total):
            metrics[name] = (total if is_wrong else sums[term] - total) / count
    return metrics


class Batch(NamedTuple):
    """Images (n, c, h, w) in [0, 1], augmented, their labels, and which of these are wrong, (n,) on
    the CPU, where a data set says that some are."""

    images: Images
    labels: Labels
    wrong: Tensor | None


def batches(
    split: Split,
    recipe: Recipe,
    wrong: Tensor | None = None,
    extra: Extra | None = None,
) -> Generator[Batch]:
    """The training split once, in a fresh random order, augmented; the sizes of batches differ by
    at most one. With ``extra`` images there are as many, of which a share is theirs.

    Args:
        split: ``train``.
        recipe: its batch size and augmentation.
        wrong: which of its labels are wrong, where that is known.
        extra: images to be mixed in.
    """
    sizes = batch_sizes(len(split.labels), recipe.batch_size)
    ahead = (
        plain_batches(split, sizes, wrong)
        if extra is None
        else mixed_batches(split, extra, sizes, wrong)
    )
    with closing(ahead):
        for batch in ahead:
            x = to_float(batch.images)
            if recipe.augment is not None:
                x = recipe.augment(x)
            yield Batch(x, batch.labels, batch.wrong)
