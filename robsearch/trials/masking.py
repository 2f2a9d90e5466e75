"""May the robust accuracy under an attack be believed, or do the gradients mislead the attack?

Signs of gradient masking by Athalye et al. 2018 (arXiv 1802.00420, section 3.1) and the checks that
Carlini et al. 2019 (arXiv 1902.06705, section 4) ask for. A model that passes them may still be
broken by an attack made for it; one that fails has a robust accuracy under this attack that nobody
should quote.

    for check in checks(model, x, y, PGD(eps=8 / 255, steps=20)):
        print("passes" if check.passed else "FAILS ", check.name, check.evidence)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robsearch.errors import counted, number, refuse_unless, refused
from robsearch.network.modes import checked_logits, evaluating
from robsearch.parts.attacks import PGD, AutoAttack, cross_entropy, margin
from robsearch.protocols import Attack, Images, Labels, Logits, Loss, PerExample
from robsearch.training.evaluation import EVAL_SEED, in_batches, seeded
from robsearch.trials.ladder.results import mcnemar

NOISE = 0.05
"""A difference counts if so large a one has less than this probability were there none (one-sided,
exact McNemar)."""
LEFT = 0.02
"""At most this share of the correctly classified images may withstand an attack without bounds."""
FLAT = 0.01
"""At most this share of the correctly classified images may have no gradient."""
ROUNDING = 1e-3
"""Two forwards may differ by this share of the largest logit: what a GPU loses in TF32 when it adds
in other orders."""
GROWTH = (0.5, 1.0, 2.0, 4.0)
"""Factors on the attack's ``eps``."""
MORE = 5
"""Factor on the attack's steps."""


MISLED = (
    "the gradients mislead: attack through a differentiable stand-in (BPDA), or quote the "
    "black-box accuracy"
)
WRONG_LOSS = (
    "the gradients lead there with the margin loss: judge by a higher rung of the "
    "ladder, such as apgd"
)


class Check(NamedTuple):
    """One sign of gradient masking, and whether the model is free of it.

    Attributes:
        name: what holds where the gradients lead the attack well.
        passed: it holds.
        evidence: the numbers that say so.
        advice: what to do where it does not.
    """

    name: str
    passed: bool
    evidence: str
    advice: str


def checks(model: nn.Module, x: Images, y: Labels, attack: PGD, *, batch: int = 250) -> list[Check]:
    """Eight checks of a model; a few hundred images are enough, and a few dozen tell only of gross
    masking.

    Dearest is Square with its 5,000 queries for each image that withstands it; the others are some
    two hundred gradients per image for PGD-20. All attacks start from a fixed seed; torch's global
    generator stays where it was.

    Args:
        model: images in [0, 1] to logits, in float32; in eval mode meanwhile.
        x: float32 images in [0, 1].
        y: their labels.
        attack: the white-box attack that the model was judged by, with a bound and at least one
            step.
        batch: images at a time.

    Raises:
        InputError: an attack that is none, no image that the model gets right, logits that torch
            cannot differentiate in the images, or what ``AutoAttack`` refuses.
    """
    judge = "pass the attack that the model was judged by, such as PGD(eps=8 / 255, steps=20)"
    if not isinstance(attack, PGD):
        raise refused("a PGD", repr(attack), judge)
    refuse_unless(
        number("eps", attack.eps, judge, above=0),
        number("steps", attack.steps, judge, at_least=1, whole=True),
        (
            len(x) == len(y),
            f"a label for each of {counted(len(x), 'image')}",
            len(y),
            "pass them together",
        ),
        number("batch", batch, "pass as many images as fit into memory", at_least=1, whole=True),
        (
            x.dtype == torch.float32,
            "float32 images",
            x.dtype,
            "convert images and model: AutoAttack computes in it",
        ),
    )
    subject = _Subject(model, x, y.long(), attack, batch)
    cheap_to_dear = (
        _gradients,
        _repeatable,
        _alone,
        _single_step,
        _steps,
        _growth,
        _unbounded,
        _black_box,
    )
    with evaluating(model), torch.no_grad(), seeded(x.device):
        if not subject.right.any():
            do = "pass more images, or train it"
            raise refused("images that the model gets right", "none", do)
        return [check(subject) for check in cheap_to_dear]


@dataclass(frozen=True)
class _Subject:
    """A model, images, and the attack that judged it."""

    model: nn.Module
    x: Images
    y: Labels
    attack: PGD
    batch: int

    @cached_property
    def logits(self) -> Logits:
        return self.logits_in(self.batch)

    def logits_in(self, batch: int) -> Logits:
        """The logits, of so many images at a time."""
        parts = zip(self.x.split(batch), self.y.split(batch), strict=True)
        return torch.cat([checked_logits(self.model, x, y) for x, y in parts])

    @cached_property
    def right(self) -> Tensor:
        """Which images the model gets right."""
        return self.logits.argmax(dim=1) == self.y

    def holds(self, attack: Attack, loss: Callable[[Labels], Loss] = cross_entropy) -> Tensor:
        """Which images are right and stay so, each from the same start each time."""

        def robust(x: Images, y: Labels) -> Tensor:
            adv = attack(self.model, x, y, loss(y))
            return checked_logits(self.model, adv, y).argmax(dim=1) == y

        return in_batches(robust, self.x, self.y, self.batch)[0] & self.right

    @cached_property
    def robust(self) -> Tensor:
        """What holds under the attack that judged it."""
        return self.holds(self.attack)

    @property
    def name(self) -> str:
        return f"PGD-{self.attack.steps}"

    @property
    def n(self) -> str:
        return f"n = {len(self.y)}"


def _black_box(subject: _Subject) -> Check:
    attack, white = subject.attack, subject.robust
    black = subject.holds(
        AutoAttack(attack.eps, attack.norm, ("square",), EVAL_SEED, subject.batch)
    )
    with_margin = white & subject.holds(attack, margin)
    missed = int((white & ~black).sum())
    return Check(
        "a black-box attack is no stronger than the white-box one",
        not _beyond_noise(weaker=white, stronger=black),
        f"{subject.name} {_share(white)} (with the margin loss too: {_share(with_margin)}), Square "
        "with 5,000 queries "
        f"{_share(black)}; {counted(missed, 'image')} broken by Square alone, {subject.n}",
        MISLED if _beyond_noise(weaker=with_margin, stronger=black) else WRONG_LOSS,
    )


def _unbounded(subject: _Subject) -> Check:
    attack = subject.attack
    # From the image itself: the gradient has to lead the way, not a lucky start far off.
    eps = 1.0 if attack.norm == "linf" else sqrt(prod(subject.x.shape[1:]))
    step = min(2.5 * eps / attack.steps, eps)
    robust = subject.holds(replace(attack, eps=eps, step_size=step, start="none", restarts=1))
    share = robust.sum().item() / subject.right.sum().item()
    return Check(
        "without a bound the attack breaks all",
        share <= LEFT,
        f"{subject.name} at eps {eps:g} ({attack.norm}) {_share(robust)}, natural "
        f"{_share(subject.right)}, {subject.n}",
        "an attack that may change every pixel at will has to win: look for gradients that "
        "vanish or lead nowhere",
    )


def _steps(subject: _Subject) -> Check:
    longer = replace(subject.attack, steps=MORE * subject.attack.steps)
    robust = subject.holds(longer)
    return Check(
        "more steps are no weaker",
        not _beyond_noise(weaker=robust, stronger=subject.robust),
        f"{subject.name} {_share(subject.robust)}, PGD-{longer.steps} {_share(robust)}, "
        f"{subject.n}",
        "the ascent does not settle: take a smaller step_size, and look for randomness or "
        "rounding in the model",
    )


def _single_step(subject: _Subject) -> Check:
    once = replace(subject.attack, step_size=subject.attack.eps, steps=1, start="none", restarts=1)
    robust = subject.holds(once)
    return Check(
        "many steps are no weaker than one",
        not _beyond_noise(weaker=subject.robust, stronger=robust),
        f"{subject.name} {_share(subject.robust)}, one step of length eps {_share(robust)}, "
        f"{subject.n}",
        "the loss is rugged around the images (catastrophic overfitting does this): train "
        "against more steps",
    )


def _gradients(subject: _Subject) -> Check:
    tiny = torch.finfo(subject.x.dtype).tiny
    parts = zip(subject.x.split(subject.batch), subject.y.split(subject.batch), strict=True)
    largest = torch.cat([_largest_gradient(subject.model, x, y) for x, y in parts])
    flat = (largest < tiny)[subject.right]
    return Check(
        "the loss has a gradient",
        flat.double().mean().item() <= FLAT,
        f"no gradient in {int(flat.sum())} of the {counted(len(flat), 'image')} answered rightly, "
        f"median of the largest entry {largest[subject.right].median().item():.2g}",
        "logits that saturate the softmax, or a step without a derivative: attack the margin or "
        "DLR loss, or use BPDA",
    )


def _largest_gradient(model: nn.Module, x: Images, y: Labels) -> PerExample:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        loss = cross_entropy(y)(model(leaf)).sum()
        gradient = (
            torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
        )
    if gradient is None:
        do = (
            "stay in torch inside the model and detach nothing, or judge it by "
            "AutoAttack(attacks=('square',))"
        )
        raise refused("logits that torch can differentiate in the images", "others", do)
    largest: PerExample = gradient.abs().amax(dim=(1, 2, 3))
    return largest


def _repeatable(subject: _Subject) -> Check:
    return _same(
        "the same images get the same logits again",
        subject.logits,
        subject.logits_in(subject.batch),
        "the model draws at random: attack its average over many draws (EOT), and judge it by "
        "that average",
    )


def _alone(subject: _Subject) -> Check:
    fewer = max(1, min(subject.batch, len(subject.x)) // 3)
    return _same(
        "an image's logits do not depend on its neighbours",
        subject.logits,
        subject.logits_in(fewer),
        "look for batch statistics in eval mode (track_running_stats=False): an attacker does "
        "not choose neighbours",
    )


def _same(name: str, first: Logits, second: Logits, advice: str) -> Check:
    difference = (first - second).abs().max().item()
    largest = first.abs().max().item()
    changed = int((first.argmax(dim=1) != second.argmax(dim=1)).sum())
    evidence = (
        f"largest difference {difference:.2g}, largest logit {largest:.3g}, {changed} "
        f"predictions changed, n = {len(first)}"
    )
    return Check(name, difference <= ROUNDING * largest, evidence, advice)


def _growth(subject: _Subject) -> Check:
    attack = subject.attack
    most = 1.0 if attack.norm == "linf" else float("inf")
    scales = [
        replace(attack, eps=eps, step_size=min(attack.step_size * factor, most))
        for factor in GROWTH
        if (eps := attack.eps * factor) <= most
    ]
    robust = [subject.holds(scaled) for scaled in scales]
    rises = any(_beyond_noise(weaker=far, stronger=near) for near, far in pairwise(robust))
    falls = int(robust[-1].sum()) < int(robust[0].sum()) or not robust[-1].any()
    points = zip(scales, robust, strict=True)
    curve = ", ".join(f"{scaled.eps:.3g}: {_share(images)}" for scaled, images in points)
    return Check(
        "robust accuracy falls as eps grows",
        falls and not rises,
        f"by eps: {curve}, {subject.n}",
        "a curve that is flat or rises says that the attack fails, or that all these eps are "
        "far too small to matter",
    )


def _beyond_noise(weaker: Tensor, stronger: Tensor) -> bool:
    """Whether more images hold under ``weaker`` than under ``stronger``, beyond noise."""
    return mcnemar(weaker, stronger, alternative="greater") < NOISE


def _share(indicator: Tensor) -> str:
    return f"{100 * indicator.double().mean().item():.1f} %"
