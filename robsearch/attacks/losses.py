"""What an attack can maximise: labels (n,) to a ``protocols.Loss``, logits (n, k) to one number per image (n,).

With ``z`` the logits, ``y`` the label and ``z_(1) >= z_(2) >= ...`` the logits in falling order. A loss knows its
labels by their place in the batch, so it takes the whole batch, in its order.
"""

from __future__ import annotations

import warnings

import torch.nn.functional as F

from robsearch.errors import InputError, refusal
from robsearch.protocols import Labels, Logits, Loss, PerExample

TINY = 1e-12
"""Added to the denominators of the DLR losses, as in the authors' code: it tells only where the logits tie."""


def cross_entropy(y: Labels) -> Loss:
    """``-log softmax(z)_y`` in nats. Its gradient vanishes where the prediction is confident and right."""
    return lambda logits: F.cross_entropy(logits, y, reduction="none")


def margin(y: Labels) -> Loss:
    """``max_{k != y} z_k - z_y`` (arXiv 1608.04644): positive where the prediction is not ``y``."""
    return lambda logits: _margin(logits, y)


def dlr(y: Labels) -> Loss:
    """The difference of logits ratio, ``-(z_y - max_{k != y} z_k) / (z_(1) - z_(3))`` (arXiv 2003.01690).

    It does not change when all logits are scaled or shifted together, so that a confident net gives it no
    vanishing gradient. Below three classes there is no ``z_(3)``: it falls back to ``margin``, and a
    ``UserWarning`` says so.
    """

    def loss(logits: Logits) -> PerExample:
        classes = logits.shape[1]
        if classes < 3:
            warnings.warn(f"the DLR loss needs 3 classes, got {classes}: the margin loss stands in", stacklevel=2)
            return _margin(logits, y)
        top = logits.topk(3, dim=1).values
        return _margin(logits, y) / (top[:, 0] - top[:, 2] + TINY)

    return loss


def targeted_dlr(y: Labels, target: Labels) -> Loss:
    """``-(z_y - z_target) / (z_(1) - (z_(3) + z_(4)) / 2)`` (arXiv 2003.01690), towards one wrong class each.

    Raises:
        InputError: a target is the label itself; when the loss is called, fewer than four classes.
    """
    same = int((y == target).sum())
    if same:
        raise InputError(refusal("targets other than the labels", f"{same} that are", "pass a wrong class for each"))

    def loss(logits: Logits) -> PerExample:
        classes = logits.shape[1]
        if classes < 4:
            raise InputError(refusal("at least 4 classes for the targeted DLR loss", classes, "pass dlr or margin"))
        top = logits.topk(4, dim=1).values
        towards = logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])
        return towards[:, 0] / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + TINY)

    return loss


def _margin(logits: Logits, y: Labels) -> PerExample:
    others = logits.scatter(1, y[:, None], -float("inf"))
    return others.amax(dim=1) - logits.gather(1, y[:, None])[:, 0]
