"""The three rates under one and the same attack, per example."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from robsearch.network.modes import checked_logits, evaluating
from robsearch.protocols import Attack, Images, Labels, Logits, PerExample


class Rates(NamedTuple):
    """Indicators (1.0 or 0.0) and numbers per example; their means are the rates.

    With ``yhat`` the model's prediction and ``x'`` the perturbed image (arXiv 2010.01279):
    the means obey ``max(0, natural + stable - 1) <= robust <= min(natural, stable)`` exactly.

    Attributes:
        natural: ``yhat(x) = y``.
        robust: ``yhat(x) = y`` and ``yhat(x') = y``.
        stable: ``yhat(x') = yhat(x)``, right or wrong.
        wrong_to_right: ``yhat(x) != y`` but ``yhat(x') = y``: flips that the attack did not mean.
        confidence: the largest softmax probability at ``x``.
        loss: the cross-entropy at ``x``, in nats.
        x_adv: the perturbed images ``x'``.
    """

    natural: PerExample
    robust: PerExample
    stable: PerExample
    wrong_to_right: PerExample
    confidence: PerExample
    loss: PerExample
    x_adv: Images


def rates(model: nn.Module, x: Images, y: Labels, attack: Attack) -> Rates:
    """Attacks the prediction ``yhat(x)``, not the label, and says what it did to each example.

    On correctly classified images the two are the same attack, so robust accuracy is the usual one;
    on the others stability still means something. The attack maximises the cross-entropy against
    ``yhat(x)``.

    Args:
        model: images in [0, 1] to logits; in eval mode meanwhile, and back in its own mode
            afterwards.
        x: images in [0, 1].
        y: labels.
        attack: such as ``PGD(steps=20)``.

    Raises:
        InputError: images outside [0, 1], also the attack's; labels out of range; logits not
            finite.
    """
    with evaluating(model), torch.no_grad():
        logits = checked_logits(model, x, y)
        before = logits.argmax(dim=1)
        x_adv = attack_prediction(attack, model, x, before)
        after = checked_logits(model, x_adv, y).argmax(dim=1)
        right = before == y
        right_after = after == y
        return Rates(
            natural=right.to(logits.dtype),
            robust=(right & right_after).to(logits.dtype),
            stable=(after == before).to(logits.dtype),
            wrong_to_right=(~right & right_after).to(logits.dtype),
            confidence=logits.softmax(dim=1).amax(dim=1),
            loss=F.cross_entropy(logits, y.long(), reduction="none"),
            x_adv=x_adv,
        )


def attack_prediction(
    attack: Attack,
    model: nn.Module,
    x: Images,
    prediction: Labels,
) -> Images:
    """Images of an attack on the cross-entropy against the prediction ``yhat(x)``."""

    def loss(logits: Logits) -> PerExample:
        return F.cross_entropy(logits, prediction, reduction="none")

    return attack(model, x, prediction, loss)
