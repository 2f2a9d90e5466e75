"""Objectives: what training minimises, as (natural term, robust term); the trainer adds ``lam * robust``.

An objective sees logits only. On BatchNorm: the attack runs the model in eval mode, so its forwards leave
the running statistics alone, while the forwards behind ``terms`` run in train mode and count once each. The
copied references recompute the clean prediction at each attack step; here it is computed once, in eval mode
and before the attack, and handed to ``inner``: the same number, for no step of the attack changes the model.
Handing it the train-mode logits instead would attack a slightly different target: the batch's own statistics
against the running ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from robsearch.errors import InputError, refusal
from robsearch.protocols import Labels, Logits, Loss, PerExample, Scalar


@dataclass(frozen=True)
class Standard:
    """Natural training: cross-entropy on clean images, no attack.

    Attributes:
        label_smoothing: the share of the target spread evenly over all classes, in [0, 1].

    Raises:
        InputError: ``label_smoothing`` is outside [0, 1].
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise InputError(refusal("label_smoothing in [0, 1]", self.label_smoothing, "0.1 is usual"))

    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """None: there is nothing to attack."""
        return None

    def terms(self, clean_logits: Logits, adv_logits: Logits, y: Labels) -> tuple[Scalar, Scalar]:
        """(mean cross-entropy, 0); ``adv_logits`` are not looked at."""
        natural = F.cross_entropy(clean_logits, y, label_smoothing=self.label_smoothing)
        return natural, natural.new_zeros(())


@dataclass(frozen=True)
class PGDAT:
    """lambda-PGD-AT (arXiv 2010.01279): ``mean(CE(x)) + lam * mean(max(CE(x') - CE(x), 0))``.

    At ``lam = 1`` it is adversarial training (arXiv 1706.06083), ``mean(CE(x'))``, up to the clipping at 0 of
    the examples on which the attack lowered the loss.
    """

    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """The attack maximises the cross-entropy against the label."""
        return lambda logits: F.cross_entropy(logits, y, reduction="none")

    def terms(self, clean_logits: Logits, adv_logits: Logits, y: Labels) -> tuple[Scalar, Scalar]:
        """(mean clean cross-entropy, mean increase under attack, clipped at 0 per example), in nats."""
        clean = F.cross_entropy(clean_logits, y, reduction="none")
        adv = F.cross_entropy(adv_logits, y, reduction="none")
        return clean.mean(), (adv - clean).clamp_min(0).mean()


@dataclass(frozen=True)
class TRADES:
    """TRADES (arXiv 1901.08573, eq. 5): ``CE(f(x), y) + lam * mean_i KL(softmax f(x_i) || softmax f(x'_i))``.

    ``lam`` is the paper's beta (its 1/lambda). The gradient goes through both arguments of the KL.
    """

    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """The attack maximises the same KL; the clean prediction is a constant there."""
        clean = F.log_softmax(clean_logits.detach(), dim=1)
        return lambda logits: _kl(clean, F.log_softmax(logits, dim=1))

    def terms(self, clean_logits: Logits, adv_logits: Logits, y: Labels) -> tuple[Scalar, Scalar]:
        """(mean clean cross-entropy, mean KL from clean to adversarial prediction), in nats."""
        clean, adv = F.log_softmax(clean_logits, dim=1), F.log_softmax(adv_logits, dim=1)
        return F.nll_loss(clean, y), _kl(clean, adv).mean()


def _kl(log_p: Logits, log_q: Logits) -> PerExample:
    """``sum_k p_k (log p_k - log q_k)`` from log-probabilities: finite where a softmax rounds to 0."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
