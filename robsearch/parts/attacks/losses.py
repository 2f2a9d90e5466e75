"""What an attack can maximise: labels (n,) to a ``protocols.Loss``, logits (n, k) to one number per
image (n,).

With ``z`` the logits, ``y`` the label and ``z_(1) >= z_(2) >= ...`` the logits in falling order. A
loss knows its labels by their place in the batch, so it takes the whole batch, in its order.
"""

from __future__ import annotations

import warnings

import torch.nn.functional as F

from robsearch.network.modes import logit_margin
from robsearch.protocols import Labels, Logits, Loss, PerExample

TINY = 1e-12
"""Added to the denominator of the DLR loss, as in the authors' code: it tells only where the
logits tie."""


def cross_entropy(y: Labels) -> Loss:
    """``-log softmax(z)_y`` in nats. Its gradient vanishes where the prediction is confident and
    right."""
    return lambda logits: F.cross_entropy(logits, y, reduction="none")


def margin(y: Labels) -> Loss:
    """``max_{k != y} z_k - z_y`` (arXiv 1608.04644): positive where the prediction is not ``y``."""
    return lambda logits: -logit_margin(logits, y)


def dlr(y: Labels) -> Loss:
    """The difference of logits ratio, ``-(z_y - max_{k != y} z_k) / (z_(1) - z_(3))`` (arXiv
    2003.01690).

    It does not change when all logits are scaled or shifted together, so that a confident net gives
    it no vanishing gradient. Below three classes there is no ``z_(3)``: it falls back to
    ``margin``, and a ``UserWarning`` says so.
    """

    def loss(logits: Logits) -> PerExample:
        classes = logits.shape[1]
        if classes < 3:
            warnings.warn(
                f"the DLR loss needs 3 classes, got {classes}: the margin loss stands in",
                stacklevel=2,
            )
            return -logit_margin(logits, y)
        top = logits.topk(3, dim=1).values
        spread = top[:, 0] - top[:, 2]
        return -logit_margin(logits, y) / (spread + TINY)

    return loss
