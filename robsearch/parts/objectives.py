"""Objectives: what training minimises, as (natural term, robust term); the trainer adds
``lam * robust``.

An objective sees logits only. On BatchNorm: the attack runs the model in eval mode, so its forwards
leave the running statistics alone, while the forwards behind ``terms`` run in train mode and count
once each. The copied references recompute the clean prediction at each attack step; here it is
computed once, in eval mode and before the attack, and handed to ``inner``: the same number, for no
step of the attack changes the model. Where ``inner`` looks at labels alone it is not computed at
all (``labels_only``). Handing it the train-mode logits instead would attack a
slightly different target: the batch's own statistics against the running ones.

``Standard``, ``PGDAT`` and ``TRADES`` have the natural loss as their first term; ``MART`` and
``ALP`` put an adversarial loss first, so the ratio of their terms is not the one that WAR matches
(arXiv 2010.01279), and WAR must refuse them (``natural_first``).

``term_names`` says in words what the terms are: in the record they are ``train/natural_loss`` and
``train/robust_loss`` of every objective.

No attack and no robust term sees smoothed labels: ``label_smoothing`` is in the natural term alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from robsearch.errors import refuse_unless, share
from robsearch.parts.attacks.losses import cross_entropy
from robsearch.protocols import Labels, Logits, Loss, PerExample, Scalar, labels_only


@dataclass(frozen=True)
class _NaturalFirst:
    """What the objectives share whose first term is the cross-entropy on clean images."""

    label_smoothing: float = 0.0
    natural_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_unless(share("label_smoothing", self.label_smoothing, "0.1 is usual"))

    def _natural(self, clean_logits: Logits, y: Labels) -> Scalar:
        return F.cross_entropy(clean_logits, y, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class Standard(_NaturalFirst):
    """Natural training: cross-entropy on clean images, no attack.

    Attributes:
        label_smoothing: the share of the target spread evenly over all classes, in [0, 1].
        natural_first: True, for all objectives of this class.
        term_names: what the two terms are, for a person.

    Raises:
        InputError: ``label_smoothing`` is outside [0, 1].
    """

    term_names: ClassVar[tuple[str, str]] = ("cross-entropy on clean images", "0")

    @labels_only
    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """None: there is nothing to attack."""
        return None

    def terms(
        self,
        clean_logits: Logits,
        adv_logits: Logits,
        y: Labels,
    ) -> tuple[Scalar, Scalar]:
        """(mean cross-entropy, 0); ``adv_logits`` are not looked at."""
        natural = self._natural(clean_logits, y)
        return natural, natural.new_zeros(())


@dataclass(frozen=True)
class PGDAT(_NaturalFirst):
    """lambda-PGD-AT (arXiv 2010.01279): ``mean(CE(x)) + lam * mean(max(CE(x') - CE(x), 0))``.

    At ``lam = 1`` it is adversarial training (arXiv 1706.06083), ``mean(CE(x'))``, up to the
    clipping at 0 of the examples on which the attack lowered the loss.

    Attributes:
        label_smoothing: the share of the target spread evenly over all classes in the first
            ``CE(x)``, in [0, 1]. Neither cross-entropy of the robust term is smoothed, so its value
            means the same at every share. At ``lam = 1`` this is ``CE(x')`` plus the share times
            how far the even target's cross-entropy at ``x`` lies above ``CE(x)``: clean predictions
            are smoothed, adversarial ones are not.
        natural_first: True, for all objectives of this class.
        term_names: what the two terms are, for a person.

    Raises:
        InputError: ``label_smoothing`` is outside [0, 1].
    """

    term_names: ClassVar[tuple[str, str]] = (
        "cross-entropy on clean images",
        "its rise under attack, at least 0",
    )

    @labels_only
    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """The attack maximises the cross-entropy against the label."""
        return cross_entropy(y)

    def terms(
        self,
        clean_logits: Logits,
        adv_logits: Logits,
        y: Labels,
    ) -> tuple[Scalar, Scalar]:
        """(mean clean cross-entropy, mean increase under attack, clipped at 0 per example), in
        nats."""
        clean = F.cross_entropy(clean_logits, y, reduction="none")
        adv = F.cross_entropy(adv_logits, y, reduction="none")
        # Once more for the natural term: the robust one takes no smoothed labels.
        return self._natural(clean_logits, y), (adv - clean).clamp_min(0).mean()


@dataclass(frozen=True)
class TRADES(_NaturalFirst):
    """TRADES (arXiv 1901.08573, eq. 5):
    ``CE(f(x), y) + lam * mean_i KL(softmax f(x_i) || softmax f(x'_i))``.

    ``lam`` is the paper's beta (its 1/lambda). The gradient goes through both arguments of the KL.

    Attributes:
        label_smoothing: the share of the target spread evenly over all classes in ``CE(f(x), y)``,
            in [0, 1]. The KL is between two predictions and has no labels to smooth.
        natural_first: True, for all objectives of this class.
        term_names: what the two terms are, for a person.

    Raises:
        InputError: ``label_smoothing`` is outside [0, 1].
    """

    term_names: ClassVar[tuple[str, str]] = (
        "cross-entropy on clean images",
        "KL from clean to adversarial predictions",
    )

    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """The attack maximises the same KL; the clean prediction is a constant there."""
        # Outside of the lambda, so that it is computed once and not at each attack step.
        clean = F.log_softmax(clean_logits.detach(), dim=1)
        return lambda logits: _kl(clean, F.log_softmax(logits, dim=1))

    def terms(
        self,
        clean_logits: Logits,
        adv_logits: Logits,
        y: Labels,
    ) -> tuple[Scalar, Scalar]:
        """(mean clean cross-entropy, mean KL from clean to adversarial prediction), in nats."""
        clean = F.log_softmax(clean_logits, dim=1)
        adv = F.log_softmax(adv_logits, dim=1)
        return self._natural(clean_logits, y), _kl(clean, adv).mean()


@dataclass(frozen=True)
class _AdversarialFirst:
    """What the objectives share whose first term is a loss on adversarial images."""

    natural_first: ClassVar[bool] = False

    @labels_only
    def inner(self, clean_logits: Logits, y: Labels) -> Loss | None:
        """The attack maximises the cross-entropy against the label."""
        return cross_entropy(y)


@dataclass(frozen=True)
class MART(_AdversarialFirst):
    """MART (ICLR 2020, openreview rklOg6EFwS):
    ``BCE(x') + lam * mean_i KL(p(x_i) || p(x'_i)) (1 - p_y(x_i))``.

    With ``p`` the softmax and ``BCE(x') = CE(x') - log(1 - max_{k != y} p_k(x'))``, which also
    presses down the strongest wrong class. The weight ``1 - p_y(x)`` puts the KL on images that are
    not yet classified with confidence; its gradient counts too, as in the authors' code. They take
    lam = 5 or 6.

    Attributes:
        natural_first: False, for all objectives of this class: the first term is the loss on
            adversarial images.
        term_names: what the two terms are, for a person.
    """

    term_names: ClassVar[tuple[str, str]] = (
        "BCE on adversarial images",
        "weighted KL of clean to adversarial logits",
    )

    def terms(
        self,
        clean_logits: Logits,
        adv_logits: Logits,
        y: Labels,
    ) -> tuple[Scalar, Scalar]:
        """(mean BCE of the adversarial prediction, mean weighted KL from clean to adversarial), in
        nats."""
        clean = F.log_softmax(clean_logits, dim=1)
        adv = F.log_softmax(adv_logits, dim=1)
        bce = F.nll_loss(adv, y, reduction="none") - _log_rest(adv, y)
        # 1 - p_y from log p_y, without the loss of digits where p_y is near 1.
        log_p_y = clean.gather(1, y[:, None])[:, 0]
        weighted = _kl(clean, adv) * -torch.expm1(log_p_y)
        return bce.mean(), weighted.mean()


@dataclass(frozen=True)
class ALP(_AdversarialFirst):
    """Adversarial logit pairing (arXiv 1803.06373), reconstructed:
    ``CE(x') + lam * mean_i ||z(x_i) - z(x'_i)||_2^2``.

    The sum of squares runs over the logits ``z``, so ``lam`` is on another scale than for a mean
    over them. The paper's own experiments put clean images beside the adversarial ones in the first
    term; this does not.

    Attributes:
        natural_first: False, for all objectives of this class: the first term is the loss on
            adversarial images.
        term_names: what the two terms are, for a person.
    """

    term_names: ClassVar[tuple[str, str]] = (
        "cross-entropy on adversarial images",
        "squared l2 distance of the logits",
    )

    def terms(
        self,
        clean_logits: Logits,
        adv_logits: Logits,
        y: Labels,
    ) -> tuple[Scalar, Scalar]:
        """(mean adversarial cross-entropy in nats, mean squared l2 distance of the logits)."""
        distances = (clean_logits - adv_logits).square().sum(dim=1)
        return F.cross_entropy(adv_logits, y), distances.mean()


def _kl(log_p: Logits, log_q: Logits) -> PerExample:
    """``sum_k p_k (log p_k - log q_k)`` from log-probabilities: finite where a softmax rounds to
    0."""
    terms = F.kl_div(log_q, log_p, reduction="none", log_target=True)
    return terms.sum(dim=1)


def _log_rest(log_p: Logits, y: Labels) -> PerExample:
    """``log(1 - max_{k != y} p_k)``, summed over the other classes: finite where that maximum
    rounds to 1."""
    wrong = log_p.detach().scatter(1, y[:, None], -torch.inf)
    strongest = wrong.argmax(dim=1, keepdim=True)
    return log_p.scatter(1, strongest, -torch.inf).logsumexp(dim=1)
