"""Attacks: maximise a loss inside a ball around each image.

An attack knows nothing of objectives: it is handed the loss. It touches no parameter's gradient and
puts the model's mode back. ``PGD`` and ``FGSM`` draw from torch's global generator and do not check
that images lie in [0, 1], because a check would stall the GPU at each training step. ``AutoAttack``
is for judging: it checks what it is handed, brings its own losses and its own seed. ``WorstCase``
takes several attacks together, ``OwnLoss`` gives an attack a loss of its own, and ``TwoLosses``,
which judges by default, climbs one loss after the other.
``scaled`` makes the same attack in a smaller ball.

The other functions make losses: ``PGD()(model, x, y, margin(y))``.
"""

from __future__ import annotations

from robsearch.parts.attacks.autoattack import AutoAttack
from robsearch.parts.attacks.losses import cross_entropy, dlr, margin
from robsearch.parts.attacks.own_loss import OwnLoss
from robsearch.parts.attacks.pgd import FGSM, PGD, standing_pgd
from robsearch.parts.attacks.scaling import scaled, scales
from robsearch.parts.attacks.two_losses import TwoLosses
from robsearch.parts.attacks.worst_case import WorstCase

__all__ = [
    "FGSM",
    "PGD",
    "AutoAttack",
    "OwnLoss",
    "TwoLosses",
    "WorstCase",
    "cross_entropy",
    "dlr",
    "margin",
    "scaled",
    "scales",
    "standing_pgd",
]
