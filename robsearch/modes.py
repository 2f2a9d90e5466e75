"""How a model is looked at: in eval mode, on checked examples, and left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robsearch.draws import at_once, in_parts
from robsearch.errors import InputError, refusal
from robsearch.protocols import Images, Labels, Logits
from robsearch.wording import counted


class NonFiniteLogitsError(InputError):
    """A model's logits are NaN or infinite.

    Attributes:
        images: how many of them had such logits.
        of: how many were looked at together.
    """

    def __init__(self, images: int, of: int) -> None:
        self.images, self.of = images, of
        got = f"NaN or infinity for {images} of {counted(of, 'image')}"
        super().__init__(refusal("finite logits", got, "look at the weights"))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards each submodule has its own training flag back, even on an error.

    ``model.train()`` would not do: it also wakes submodules that were deliberately frozen.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            if module.training != training:
                module.training = training


@contextmanager
def frozen_statistics(model: nn.Module, frozen: bool = True) -> Iterator[None]:
    """After the block, BatchNorm's running statistics and their count are what they were, as are all other buffers.

    Layers normalise as their mode says. What they write to inside the block are copies, so that what autograd has
    kept for a backward after the block is not changed.
    """
    held = buffers(model) if frozen else []
    for module, name, own in held:
        setattr(module, name, own.clone())
    try:
        yield
    finally:
        for module, name, own in held:
            setattr(module, name, own)


def buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """The model's buffers, each with the module that has it and its name there."""
    return [(module, *named) for module in model.modules() for named in module.named_buffers(recurse=False)]


class OneMove:
    """Micro-batches of one batch move running statistics once together: to the mean of where each would move them.

        move = OneMove(model, several=len(parts) > 1)
        for part in parts:
            with move.counting(len(part)):
                loss = model(part).mean()
            loss.backward()
        move.make()

    Counts and other whole numbers become those after the last micro-batch.

    Args:
        model: in train mode.
        several: whether there are several micro-batches; one alone moves the statistics itself.
    """

    def __init__(self, model: nn.Module, several: bool) -> None:
        self.model, self.several = model, several
        self.own = [own for _, _, own in buffers(model)] if several else []
        self.mean: list[Tensor] = []
        self.images = 0

    @contextmanager
    def counting(self, images: int) -> Iterator[None]:
        """Around the forwards of a micro-batch of so many images."""
        with frozen_statistics(self.model, self.several):
            yield
            moved = [there for _, _, there in buffers(self.model)] if self.several else []
        self.images += images
        before = self.mean or moved
        self.mean = [_between(*pair, images / self.images) for pair in zip(before, moved, strict=True)]

    def make(self) -> None:
        """Moves the statistics; after the backward passes of all micro-batches."""
        with torch.no_grad():
            for own, mean in zip(self.own, self.mean, strict=True):
                own.copy_(mean)


def _between(mean: Tensor, moved: Tensor, share: float) -> Tensor:
    """The mean, gone on by this share of its way to ``moved``; where they are equal, also infinite, it stays."""
    if not moved.is_floating_point():
        return moved
    return torch.where(mean == moved, mean, torch.lerp(mean, moved, share)).detach()


def checked_logits(model: nn.Module, x: Images, y: Labels) -> Logits:
    """``model(x)`` of examples that a measure can judge; the caller chooses mode and gradient.

    Logits of 16 bits are given as float32: so nothing behind them has to know of bfloat16.

    Raises:
        NonFiniteLogitsError: logits that are NaN or infinite.
        InputError: no examples, images outside [0, 1], labels that fit neither the images nor the logits, or
            probabilities in place of logits.
    """
    _refuse(_example_problems(x, y))
    logits: Logits = model(x)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    _refuse(_logit_problems(logits, y))
    return logits


def check_in_parts(model: nn.Module, x: Images, y: Labels) -> None:
    """``checked_logits`` of as many images at a time as memory has room for, for measures that look at weights."""
    size = at_once() or max(len(x), 1)
    for part in in_parts(x, y, size):
        checked_logits(model, *part)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise InputError(*problems)


def _example_problems(x: Images, y: Labels) -> list[str]:
    problems = []
    if len(x) == 0:
        problems.append(refusal("at least one image", 0, "pass a batch of images"))
    elif not bool(((x >= 0) & (x <= 1)).all()):
        span = f"{x.min().item():g} to {x.max().item():g}"
        problems.append(refusal("images in [0, 1]", span, "scale them, and normalise inside the model"))
    if len(y) != len(x):
        problems.append(refusal(f"one label for each of {counted(len(x), 'image')}", len(y), "pass them together"))
    if len(y) > 0 and int(y.min()) < 0:
        problems.append(refusal("labels from 0 on", int(y.min()), "number the classes 0 .. k-1"))
    return problems


def _logit_problems(logits: Logits, y: Labels) -> list[str]:
    problems = []
    classes = logits.shape[1]
    if int(y.max()) >= classes:
        problems.append(refusal(f"labels below {classes}", int(y.max()), "build the model with one logit per class"))
    lost = int((~logits.isfinite()).any(dim=1).sum())
    if lost:
        raise NonFiniteLogitsError(lost, len(logits))
    if _are_probabilities(logits):
        problems.append(refusal("logits", "rows from 0 to 1 that sum to 1", "take the softmax off the model"))
    return problems


def _are_probabilities(logits: Logits) -> bool:
    """All rows lie on the simplex: a softmax where logits should be, whose gradients vanish."""
    sums = (logits.sum(dim=1) - 1).abs()
    return logits.shape[1] > 1 and bool(((logits >= 0).all(dim=1) & (sums < 1e-3)).all())
