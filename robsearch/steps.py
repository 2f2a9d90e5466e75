"""One optimiser step: attack, loss and gradient, in micro-batches where the device's memory does not do.

A micro-batch of n of the batch's N images is attacked by itself, and its loss counts n / N. The batch's loss, terms
and gradient come out as they would in one piece, for they are sums of such shares: of means over images (both terms,
``AverageMargin``), and of what does not depend on images at all (``Orthogonality``). Weight perturbation, penalties
on gradients and weights, the optimiser and lambda's schedule act once per batch. Two things are another draw or
another number than in one piece: random starts of the attack, and BatchNorm, which in train mode normalises each
micro-batch by its own statistics. It needs two images for that, and moves its running ones once per batch, to the mean
of where each micro-batch would move them.

Data parallelism is the same sum, over ranks: each takes its share of every batch, and terms and gradients are summed
over ranks before they are used. So every rank holds the same lambda and takes the same step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robsearch.batching import at_once, least_images, micro_batch_sizes
from robsearch.errors import refusal
from robsearch.learner import Learner
from robsearch.memory import DeviceFullError, free, out_of_memory
from robsearch.modes import OneMove, buffers, evaluating, frozen_statistics
from robsearch.protocols import Images, Labels, Scalar
from robsearch.ranks import ALONE, Ranks
from robsearch.recipe import Recipe
from robsearch.wording import counted


def gradient_that_fits(learner: Learner, x: Images, y: Labels, lam: float, progress: float) -> Tensor:
    """``gradient``, done again with half the micro-batch for as long as the device's memory does not do.

    The failed attempt leaves no trace but the smaller ``learner.micro_batch``, which holds from here on: the result
    is, bit for bit, that of a learner which had it before. Says so once, in a warning. What does not fit on one rank
    is done again, in smaller micro-batches, on all.

    Raises:
        DeviceFullError: the fewest images at a time, one or under BatchNorm two or three, are still too many; says
            model, batch size and what to do.
    """
    before, given = _Before.of(learner.model, x.device), learner.micro_batch
    while (terms := _tried(learner, x, y, lam, progress)) is None:
        learner.optimiser.zero_grad(set_to_none=True)
        before.restore()
        free()
        learner.micro_batch = _half(learner, y)
    if learner.micro_batch < given:
        now = f"{learner.micro_batch} of {counted(learner.recipe.batch_size, 'image')} at a time"
        warnings.warn(f"out of memory in epoch {learner.epoch}: training goes on with {now}", stacklevel=2)
    return terms


def _tried(learner: Learner, x: Images, y: Labels, lam: float, progress: float) -> Tensor | None:
    """None if memory ran out. By then no traceback holds the attempt's tensors any more: its block is over."""
    try:
        with learner.ranks.united():
            return gradient(learner, x, y, lam, progress)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        now = _at_once(learner, y, learner.micro_batch)
        if _at_once(learner, y, _half(learner, y)) == now:
            few = "one image" if now == 1 else f"{now} images"
            room = f"memory for {learner.recipe.model} with {few} at a time (batch_size={learner.recipe.batch_size})"
            do = "train a narrower model, or give each trial a larger share of a GPU (--gpus-per-trial) or a larger GPU"
            raise DeviceFullError(refusal(room, str(error).partition("\n")[0], do)) from error
    return None


def _at_once(learner: Learner, y: Labels, micro_batch: int) -> int:
    """The most images of this batch that go through the model at once, on any rank."""
    return at_once(len(y), learner.ranks.size, micro_batch, least_images(learner.model))


def _half(learner: Learner, y: Labels) -> int:
    return max(_at_once(learner, y, learner.micro_batch) // 2, least_images(learner.model))


@dataclass(frozen=True)
class _Before:
    """What a failed attempt may have moved. Weight perturbation takes its own step back, even on an error."""

    buffers: list[tuple[nn.Module, str, Tensor, Tensor]]
    device: torch.device
    random: list[Tensor]

    @classmethod
    def of(cls, model: nn.Module, device: torch.device) -> _Before:
        random = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
        return cls([(*held, held[-1].clone()) for held in buffers(model)], device, random)

    def restore(self) -> None:
        with torch.no_grad():
            for module, name, buffer, before in self.buffers:
                setattr(module, name, buffer.copy_(before))  # a forward may have put another tensor there
        torch.set_rng_state(self.random[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.random[1], self.device)


def gradient(learner: Learner, x: Images, y: Labels, lam: float, progress: float) -> Tensor:
    """Leaves the training loss's gradient in the model; returns the terms (natural, robust), shape (2,), on the CPU.

    Both are those of the whole batch, which all ranks pass, in as many micro-batches of nearly one size as
    ``learner.micro_batch`` asks for. With weight perturbation, gradient and terms are those at the perturbed weights.
    """
    recipe, model, awp, ranks = learner.recipe, learner.model, learner.recipe.weight_perturbation, learner.ranks
    learner.optimiser.zero_grad(set_to_none=True)
    pieces = _pieces(learner, ranks.share(x), ranks.share(y), largest=-(-len(y) // ranks.size))
    parts = [(part, perturbed(recipe, model, part, labels), labels) for part, labels in pieces]
    terms: list[Tensor] = []

    def losses() -> Iterator[Scalar]:
        terms.clear()
        move = OneMove(model, several=len(parts) > 1)
        for part, part_adv, labels in parts:
            share = len(labels) / len(y)
            with move.counting(len(labels)):
                natural, robust, clean_logits = loss_terms(recipe, model, part, part_adv, labels)
            terms.append(share * torch.stack([natural.detach(), robust.detach()]).double())
            added = (penalty.loss(model, clean_logits, labels) for penalty in recipe.penalties)
            yield share * sum((term for term in added if term is not None), start=natural + lam * robust)
        move.make()

    with awp.perturbed(model, lambda: linear(losses(), model, ranks), progress) if awp else nullcontext():
        for loss in losses():
            loss.backward()
        own = torch.stack(terms).sum(dim=0).cpu() if terms else torch.zeros(2, dtype=torch.float64)
        return own if ranks.size == 1 else _summed(ranks, model, own)


def _pieces(learner: Learner, x: Images, y: Labels, largest: int) -> Iterator[tuple[Images, Labels]]:
    """The micro-batches of this rank's share, of nearly one size; none of an empty share."""
    sizes = micro_batch_sizes(len(y), largest, learner.micro_batch, least_images(learner.model))
    return zip(x.split(sizes), y.split(sizes), strict=True) if sizes else iter(())


def _summed(ranks: Ranks, model: nn.Module, terms: Tensor) -> Tensor:
    """The sum of the terms over ranks; that of the gradients takes the place of this rank's own."""
    weights = _trained(model)
    used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.float64)
    own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    terms, used, *sums = ranks.sum([terms, used, *own])
    for weight, total, users in zip(weights, sums, used.tolist(), strict=True):
        weight.grad = total if users else None
    return terms


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def linear(losses: Iterable[Scalar], model: nn.Module, ranks: Ranks = ALONE) -> Scalar:
    """A scalar with the losses' summed gradient in the weights, not with their value: ``sum_i w_i g_i``.

    The sum goes over the losses of all ranks. It needs the graph of one loss at a time; ``losses`` makes each when it
    is asked for.
    """
    weights = _trained(model)
    sums = [torch.zeros_like(weight) for weight in weights]
    for loss in losses:
        for total, found in zip(sums, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
            if found is not None:
                total += found
    sums = ranks.sum(sums)
    return torch.stack([(weight * total).sum() for weight, total in zip(weights, sums, strict=True)]).sum()


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
) -> tuple[Scalar, Scalar, Tensor]:
    """The objective's two terms on one batch, in train mode, and the clean logits.

    BatchNorm normalises clean and adversarial images each by their own statistics; ``recipe.batch_norm`` says
    which of the two enter its running statistics, and count there.
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
