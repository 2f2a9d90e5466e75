"""One optimiser step: attack, loss and gradient, in micro-batches where the batch does not fit into
the device's memory.

A micro-batch of n of the batch's N images is attacked by itself, and its loss counts n / N. The
batch's loss, terms and gradient come out as they would in one piece, for they are sums of such
shares: of means over images (both terms, ``AverageMargin``), and of what does not depend on images
at all (``Orthogonality``). Weight perturbation, penalties on gradients and weights, the optimiser
and lambda's schedule act once per batch. Two things are another draw or another number than in one
piece: random starts of the attack, and BatchNorm, which in train mode normalises each micro-batch
by its own statistics. It needs two images for that, and moves its running ones once per batch, to
the mean of where each micro-batch would move them.

Data parallelism is the same sum, over ranks: each takes its share of every batch, and terms and
gradients are summed over ranks before they are used. So every rank holds the same lambda and takes
the same step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robsearch.errors import counted, refusal
from robsearch.network.modes import OneMove, buffers, evaluating, frozen_statistics
from robsearch.protocols import Images, Labels, Scalar, looks_at_logits
from robsearch.recipe import Recipe
from robsearch.training.batching import at_once, least_images, micro_batch_sizes
from robsearch.training.learner import Learner
from robsearch.training.memory import DeviceFullError, halve_until_it_fits, out_of_memory
from robsearch.training.ranks import ALONE, Ranks


def gradient_that_fits(
    learner: Learner,
    x: Images,
    y: Labels,
    lam: float,
    progress: float,
    wrong: Tensor | None = None,
) -> Tensor:
    """``gradient``, done again with half the micro-batch for as long as memory runs out.

    The failed attempt leaves no trace but the smaller ``learner.micro_batch``, which holds from
    here on: the result is, bit for bit, that of a learner which had it before. Says so once, in a
    warning. What does not fit on one rank is done again, in smaller micro-batches, on all.

    Raises:
        DeviceFullError: the fewest images at a time, one or under BatchNorm two or three, still do
            not fit; says model, batch size and what to do.
    """
    before = [
        (module, name, buffer, buffer.clone()) for module, name, buffer in buffers(learner.model)
    ]
    micro_batch = learner.micro_batch
    least = least_images(learner.model)

    def attempt(images: int) -> Tensor:
        learner.micro_batch = images
        with learner.ranks.fail_together():
            return gradient(learner, x, y, lam, progress, wrong)

    def with_images(images: int) -> int:
        return at_once(len(y), learner.ranks.size, images, least)

    def smaller(images: int) -> int:
        half = max(with_images(images) // 2, least)
        return half if with_images(half) < with_images(images) else 0

    def undo(_: int) -> None:
        # Weight perturbation takes its own step back, even on an error.
        learner.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for module, name, buffer, value in before:
                # A forward may have put another tensor there.
                setattr(module, name, buffer.copy_(value))

    try:
        terms, _ = halve_until_it_fits(attempt, micro_batch, smaller, x.device, undo)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise DeviceFullError(_full(learner, with_images(learner.micro_batch), error)) from error
    if learner.micro_batch < micro_batch:
        now = f"{learner.micro_batch} of {counted(learner.recipe.batch_size, 'image')} at a time"
        warnings.warn(
            f"out of memory in epoch {learner.epoch}: training goes on with {now}", stacklevel=2
        )
    return terms.cpu()


def _full(learner: Learner, images: int, error: RuntimeError) -> str:
    few = "one image" if images == 1 else f"{images} images"
    size = learner.recipe.batch_size
    return refusal(
        f"memory for {learner.recipe.model} with {few} at a time (batch_size={size})",
        str(error).partition("\n")[0],
        "train a narrower model, or give each trial a larger share of a GPU (--gpus-per-trial) "
        "or a larger GPU",
    )


def gradient(
    learner: Learner,
    x: Images,
    y: Labels,
    lam: float,
    progress: float,
    wrong: Tensor | None = None,
) -> Tensor:
    """Leaves the training loss's gradient in the model; returns the terms (natural, robust), shape
    (2,), in float64.

    With ``wrong``, whether each label is wrong, (n,) on the CPU, the shape is (4,): then come the
    parts of both terms that the images with a wrong label add, so that what is left is of the
    others.

    In one process nothing in it waits for the device; ranks wait for one another.

    Both are those of the whole batch, which all ranks pass, in as many micro-batches of nearly one
    size as ``learner.micro_batch`` asks for. With weight perturbation, gradient and terms are those
    at the perturbed weights.
    """
    recipe = learner.recipe
    model = learner.model
    network = learner.network
    ranks = learner.ranks
    learner.optimiser.zero_grad(set_to_none=True)
    parts = []
    for images, labels, wrong_labels in _micro_batches(learner, x, y, wrong):
        adversarial = adversarial_images(recipe, network, images, labels, progress)
        parts.append((images, adversarial, labels, wrong_labels))
    terms: list[Tensor] = []

    def losses() -> Iterator[Scalar]:
        # Weight perturbation runs through them once more: the last run's terms count.
        terms.clear()
        move = OneMove(model, several=len(parts) > 1)
        for images, adversarial, labels, wrong_labels in parts:
            share = len(labels) / len(y)
            with move.counting(len(labels)):
                of_batch = loss_terms(recipe, network, images, adversarial, labels)
            terms.append(share * _known_terms(recipe, of_batch, labels, wrong_labels))
            loss = of_batch.natural + lam * of_batch.robust
            for penalty in recipe.penalties:
                added = penalty.loss(model, of_batch.logits, labels)
                if added is not None:
                    loss = loss + added
            yield share * loss
        move.make()

    def whole_loss() -> Scalar:
        return linear(losses(), model, ranks)

    weights: AbstractContextManager[None] = nullcontext()
    if recipe.weight_perturbation:
        weights = recipe.weight_perturbation.perturbed_weights(model, whole_loss, progress)
    with weights:
        for loss in losses():
            loss.backward()
        total = _total(terms, 2 if wrong is None else 4)
        if ranks.size == 1:
            return total
        return _summed(ranks, model, total)


def _micro_batches(
    learner: Learner,
    x: Images,
    y: Labels,
    wrong: Tensor | None,
) -> Iterator[tuple[Images, Labels, Tensor | None]]:
    """Those of this rank's share, of nearly one size; none of an empty share."""
    ranks = learner.ranks
    images = ranks.share(x)
    labels = ranks.share(y)
    largest = -(-len(y) // ranks.size)  # rounded up
    least = least_images(learner.model)
    sizes = micro_batch_sizes(len(labels), largest, learner.micro_batch, least)
    if sizes:
        masks: Iterable[Tensor | None] = [None] * len(sizes)
        if wrong is not None:
            masks = ranks.share(wrong).split(sizes)
        yield from zip(images.split(sizes), labels.split(sizes), masks, strict=True)


def _known_terms(
    recipe: Recipe,
    of_batch: BatchTerms,
    labels: Labels,
    wrong: Tensor | None,
) -> Tensor:
    """Both terms of a micro-batch in float64, and the parts of its images with a wrong label."""
    both = torch.stack([of_batch.natural.detach(), of_batch.robust.detach()]).double()
    if wrong is None:
        return both
    of_wrong = torch.zeros_like(both)
    # The mask is on the CPU, so that nothing waits for the device.
    rows = wrong.nonzero()[:, 0]
    if len(rows):
        share = len(rows) / len(wrong)
        rows = rows.to(labels.device)
        # An objective may follow the gradient of its logits, so they have one here as in training.
        clean = of_batch.logits.detach()[rows].requires_grad_()
        adversarial = of_batch.adversarial.detach()[rows].requires_grad_()
        natural, robust = recipe.objective.terms(clean, adversarial, labels[rows])
        of_wrong = share * torch.stack([natural.detach(), robust.detach()]).double()
    return torch.cat([both, of_wrong])


def _total(terms: Sequence[Tensor], size: int) -> Tensor:
    """The sum over micro-batches, in one order for all: another differs in the last bit."""
    if not terms:
        return torch.zeros(size, dtype=torch.float64)
    return torch.stack(list(terms)).sum(dim=0)


def _summed(ranks: Ranks, model: nn.Module, terms: Tensor) -> Tensor:
    """The sum of the terms over ranks; that of the gradients takes the place of this rank's own."""
    weights = _trained(model)
    has_gradient = [weight.grad is not None for weight in weights]
    # A sum needs as many tensors on every rank, also where a rank's share was empty.
    gradients = [
        torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights
    ]
    users = torch.tensor(has_gradient, dtype=torch.float64)
    terms, users, *sums = ranks.sum([terms.cpu(), users, *gradients])
    for weight, total, used in zip(weights, sums, users.tolist(), strict=True):
        weight.grad = total if used else None
    return terms


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def linear(
    losses: Iterable[Scalar],
    model: nn.Module,
    ranks: Ranks = ALONE,
) -> Scalar:
    """A scalar with the losses' summed gradient in the weights, not with their value:
    ``sum_i w_i g_i``.

    The sum goes over the losses of all ranks. It needs the graph of one loss at a time; ``losses``
    makes each when it is asked for.
    """
    weights = _trained(model)
    sums = [torch.zeros_like(weight) for weight in weights]
    for loss in losses:
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for total, part in zip(sums, gradients, strict=True):
            if part is not None:
                total += part
    products = []
    for weight, total in zip(weights, ranks.sum(sums), strict=True):
        products.append((weight * total).sum())
    return torch.stack(products).sum()


def adversarial_images(
    recipe: Recipe,
    model: nn.Module,
    x: Images,
    y: Labels,
    progress: float,
) -> Images | None:
    """The training attack's images, or None if the objective trains without. Where the attack's eps
    is still 0, they are ``x``.

    The attack's reference ``f(x)`` is computed once, in eval mode and without gradient, not at each
    attack step, and only for an objective that looks at it.
    """
    reference = x.new_empty(len(x), 0)
    if looks_at_logits(recipe.objective):
        with evaluating(model), torch.no_grad():
            reference = model(x)
    loss = recipe.objective.inner(reference, y)
    if loss is None:
        return None
    attack = recipe.training_attack(progress)
    return x if attack is None else attack(model, x, y, loss)


class BatchTerms(NamedTuple):
    """What the loss of a batch is made of.

    Attributes:
        natural: the objective's first term.
        robust: its second.
        logits: of the clean images, (n, k).
        adversarial: logits of the attacked ones, or of the clean ones where there is no attack.
    """

    natural: Scalar
    robust: Scalar
    logits: Tensor
    adversarial: Tensor


def loss_terms(
    recipe: Recipe,
    model: nn.Module,
    x: Images,
    x_adv: Images | None,
    y: Labels,
) -> BatchTerms:
    """The objective's two terms on one batch, in train mode, and the logits.

    BatchNorm normalises clean and adversarial images each by their own statistics;
    ``recipe.batch_norm`` says which of the two enter its running statistics, and count there.
    """
    only_adversarial = recipe.batch_norm == "adversarial" and x_adv is not None
    with frozen_statistics(model, only_adversarial):
        clean = model(x)
    adversarial = clean
    if x_adv is not None:
        with frozen_statistics(model, recipe.batch_norm == "clean"):
            adversarial = model(x_adv)
    natural, robust = recipe.objective.terms(clean, adversarial, y)
    return BatchTerms(natural, robust, clean, adversarial)


def optimiser_step(learner: Learner, step: int) -> None:
    """One step of the optimiser, with what penalties do before and after it, and the average's
    update.

    The gradient is clipped first: what penalties add to it is a decay, as the optimiser's own is.
    """
    penalties = learner.recipe.penalties
    model = learner.model
    clip = learner.recipe.clip_gradient
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    for i, penalty in enumerate(penalties):
        learner.penalties[i] = penalty.before_step(model, learner.penalties[i], step)
    learner.optimiser.step()
    for i, penalty in enumerate(penalties):
        learner.penalties[i] = penalty.after_step(model, learner.penalties[i], step)
    if learner.average is not None:
        learner.average.update_parameters(model)
