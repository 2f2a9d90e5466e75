"""How a model is looked at: in eval mode, on checked examples, and left as it was found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robsearch.errors import InputError, counted, problems_of, refusal, refuse, refuse_unless
from robsearch.network.draws import at_once, in_parts
from robsearch.protocols import Images, Labels, Logits, PerExample


class NonFiniteLogitsError(InputError):
    """A model's logits are NaN or infinite.

    Attributes:
        images: how many of them had such logits.
        of: how many were looked at together.
    """

    def __init__(self, images: int, of: int) -> None:
        self.images = images
        self.of = of
        got = f"NaN or infinity for {images} of {counted(of, 'image')}"
        super().__init__(refusal("finite logits", got, "look at the weights"))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards each submodule has its own training flag back, even on
    an error.

    ``model.train()`` is not enough, because it would also put submodules into train mode that were
    deliberately frozen.
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
    """After the block, BatchNorm's running statistics and their count are what they were, as are
    all other buffers.

    Layers normalise as their mode says. What they write to inside the block are copies, so that
    what autograd has kept for a backward after the block is not changed.
    """
    originals = buffers(model) if frozen else []
    # The copies take the buffers' places, because autograd may hold the buffers themselves.
    for module, name, buffer in originals:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in originals:
            setattr(module, name, buffer)


def buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """The model's buffers, each with the module that has it and its name there."""
    located = []
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            located.append((module, name, buffer))
    return located


class OneMove:
    """Micro-batches of one batch move running statistics once together: to the mean of where each
    would move them.

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
        self.model = model
        self.several = several
        self.buffers = self._statistics()
        self.mean: list[Tensor] = []
        self.images = 0

    @contextmanager
    def counting(self, images: int) -> Iterator[None]:
        """Around the forwards of a micro-batch of so many images."""
        with frozen_statistics(self.model, self.several):
            yield
            moved = self._statistics()
        self.images += images
        share = images / self.images
        # A running mean: only two sets of statistics are held, however many parts there are.
        pairs = zip(self.mean or moved, moved, strict=True)
        self.mean = [_between(mean, statistic, share) for mean, statistic in pairs]

    def _statistics(self) -> list[Tensor]:
        if not self.several:
            return []
        return [buffer for _, _, buffer in buffers(self.model)]

    def make(self) -> None:
        """Moves the statistics; after the backward passes of all micro-batches."""
        with torch.no_grad():
            for buffer, mean in zip(self.buffers, self.mean, strict=True):
                buffer.copy_(mean)


def _between(mean: Tensor, moved: Tensor, share: float) -> Tensor:
    """The mean, gone on by this share of its way to ``moved``; where they are equal, also infinite,
    it stays."""
    if not moved.is_floating_point():
        return moved
    # Between equal infinities lerp gives NaN.
    between = torch.lerp(mean, moved, share)
    return torch.where(mean == moved, mean, between).detach()


def checked_logits(model: nn.Module, x: Images, y: Labels) -> Logits:
    """``model(x)`` of examples that a measure can judge; the caller chooses mode and gradient.

    Logits of 16 bits are given as float32: so nothing behind them has to know of bfloat16.

    Raises:
        NonFiniteLogitsError: logits that are NaN or infinite.
        InputError: no examples, images outside [0, 1], labels that fit neither the images nor the
            logits, or probabilities in place of logits.
    """
    refuse(_example_problems(x, y))
    logits: Logits = model(x)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    refuse(_logit_problems(logits, y))
    return logits


def two_classes(logits: Logits) -> Logits:
    """The logits, of which a margin needs two for each image.

    Raises:
        InputError: fewer than two classes.
    """
    classes = logits.shape[1]
    refuse_unless((classes >= 2, "at least 2 classes", classes, "a margin needs another class"))
    return logits


def logit_margin(logits: Logits, y: Labels) -> PerExample:
    """``f_y - max_{k != y} f_k``. Raises InputError for fewer than two classes."""
    label = y.long()[:, None]
    others = two_classes(logits).scatter(1, label, -math.inf).amax(dim=1)
    return logits.gather(1, label)[:, 0] - others


def check_in_parts(model: nn.Module, x: Images, y: Labels) -> None:
    """``checked_logits`` of as many images at a time as memory has room for, for measures that look
    at weights."""
    size = at_once() or max(len(x), 1)
    for part in in_parts(x, y, size):
        checked_logits(model, *part)


def _example_problems(x: Images, y: Labels) -> list[str]:
    inside = bool(((x >= 0) & (x <= 1)).all())
    span = "" if inside else f"{x.min().item():g} to {x.max().item():g}"
    least = int(y.min()) if len(y) else 0
    images = counted(len(x), "image")
    return problems_of(
        (len(x) > 0, "at least one image", 0, "pass a batch of images"),
        (inside, "images in [0, 1]", span, "scale them, and normalise inside the model"),
        (len(y) == len(x), f"one label for each of {images}", len(y), "pass them together"),
        (least >= 0, "labels from 0 on", least, "number the classes 0 .. k-1"),
    )


def _logit_problems(logits: Logits, y: Labels) -> list[str]:
    finite = logits.isfinite().all(dim=1)
    lost = len(logits) - int(finite.sum())
    if lost:
        raise NonFiniteLogitsError(lost, len(logits))
    classes = logits.shape[1]
    most = int(y.max())
    do = "build the model with one logit per class"
    got = "rows from 0 to 1 that sum to 1"
    return problems_of(
        (most < classes, f"labels below {classes}", most, do),
        (not _are_probabilities(logits), "logits", got, "take the softmax off the model"),
    )


def _are_probabilities(logits: Logits) -> bool:
    """All rows lie on the simplex: a softmax where logits should be, whose gradients vanish."""
    if logits.shape[1] == 1:
        return False
    off_by = (logits.sum(dim=1) - 1).abs()
    return bool((logits >= 0).all() and (off_by < 1e-3).all())
