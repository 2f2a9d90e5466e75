"""Attacks: maximise a loss inside a ball around each image.

An attack knows nothing of objectives: it is handed the loss. It touches no parameter's gradient and puts the
model's mode back. ``PGD`` and ``FGSM`` draw from torch's global generator and do not check that images lie in
[0, 1], because a check would stall the GPU at each training step. ``AutoAttack`` is for judging: it checks what
it is handed, brings its own losses and its own seed. ``WorstCase`` takes several attacks together, and
``OwnLoss`` gives an attack a loss of its own.

The functions make losses: ``PGD()(model, x, y, margin(y))``.
"""

from __future__ import annotations

from robsearch.attacks.autoattack import AutoAttack
from robsearch.attacks.losses import cross_entropy, dlr, margin, targeted_dlr
from robsearch.attacks.own_loss import OwnLoss
from robsearch.attacks.pgd import FGSM, GAUSSIAN_START, PGD
from robsearch.attacks.worst_case import WorstCase

__all__ = [
    "FGSM",
    "GAUSSIAN_START",
    "PGD",
    "AutoAttack",
    "OwnLoss",
    "WorstCase",
    "cross_entropy",
    "dlr",
    "margin",
    "targeted_dlr",
]
