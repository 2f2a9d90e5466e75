"""N1 to N4 on the norms of layers (arXiv 2009.08435), as tests over seeds.

The paper's own settings, by its text and its released code, are the primary ones: regularisers are added to standard
training without weight decay and attacked with a small eps (1/255); the nets whose norms are compared are trained
with PGD-AT, TRADES and ALP at lambda 1, without weight decay, and taken at the last epoch. (Its ALP has the mean
square over logits, ours the sum: ALP's lambda here is 1 over the number of classes, always.) The secondary claims ask
the same of regularised TRADES, and of nets trained as is usual today, with TRADES at lambda 6, weight decay 5e-4, and
taken at the best epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from robsearch.attacks import PGD
from robsearch.claims.experiment import Experiment, Found
from robsearch.claims.form import Claim
from robsearch.claims.norms_claims import (
    ADVERSARIAL,
    EARLY,
    FRAMEWORKS,
    LAST,
    LOCAL,
    NATURAL,
    PRODUCT,
    REGULARISED,
    ROBUST,
    STANDARD,
    TARGETS,
    again,
    compare_norms,
    exceed_local,
    keep_accuracy,
    lower_norms,
    n1,
    n2,
    n3,
    n4,
)
from robsearch.claims.paired import layer_columns, shown
from robsearch.claims.paired_figures import bound_and_local, norms_by_arm
from robsearch.claims.settings import PIXEL, cifar10, digits, fashion, final
from robsearch.errors import InputError, refusal
from robsearch.measures import GlobalBound, LogitRatio, OperatorNorm
from robsearch.models import PreActResNet
from robsearch.naming import names_of
from robsearch.objectives import Standard
from robsearch.optimisers import Piecewise
from robsearch.penalties import NormDecay, SingularValueClipping
from robsearch.protocols import Penalty
from robsearch.recipe import Recipe
from robsearch.report.canvas import Drawing
from robsearch.schedules import Fixed


@dataclass(frozen=True)
class NormsStudy:
    """Nets with and without norm regularisers, and nets trained with and without adversarial examples.

    Attributes:
        base: TRADES at lambda 1, no weight decay, the last epoch measured; its attack is a ``PGD``.
        small_eps: at which standardly trained nets are attacked, in pixel units.
        betas: strengths of ``NormDecay``, for each of l1 and linf; the first alone is added to TRADES.
        clips: bounds of ``SingularValueClipping``; the first alone is added to TRADES.
        every: steps between clippings.
        margin: points of accuracy that do not matter in N2.
        seeds: of each arm.

    Raises:
        InputError: the base's attack is not a ``PGD``.
    """

    base: Recipe
    small_eps: float
    betas: tuple[float, ...] = (1e-2, 1e-3)
    clips: tuple[float, ...] = (1.0, 2.0)
    every: int = 100
    margin: float = 1.0
    seeds: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.base.attack, PGD):
            do = "its eps is that of the local Lipschitz estimate"
            raise InputError(refusal("a base recipe whose attack is a PGD", repr(self.base.attack), do))

    @property
    def penalties(self) -> Mapping[str, Mapping[str, Penalty]]:
        """By family and arm, in the order of the strengths."""
        betas, clips = names_of(self.betas).items(), names_of(self.clips).items()
        return {
            "l1": {f"l1 {name}": NormDecay(beta=beta, norm="l1") for beta, name in betas},
            "linf": {f"linf {name}": NormDecay(beta=beta, norm="linf") for beta, name in betas},
            "clip": {f"clip {name}": SingularValueClipping(clip=clip, every=self.every) for clip, name in clips},
        }

    @property
    def families(self) -> Mapping[str, tuple[str, ...]]:
        """The arms of each family of regularisers."""
        return {family: tuple(arms) for family, arms in self.penalties.items()}

    @property
    def firsts(self) -> Mapping[str, tuple[str, ...]]:
        """The first arm of each family."""
        return {family: arms[:1] for family, arms in self.families.items()}

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """``last`` and ``early``: TRADES, regularised TRADES and other training; ``regularised``: standard nets."""
        widths, trained = (self.base.model.width,), (*FRAMEWORKS, STANDARD)
        some = (*trained, *(arm for arms in self.firsts.values() for arm in arms))
        every = (STANDARD, *(arm for arms in self.families.values() for arm in arms))
        modern = replace(
            self.base, lam=Fixed(6.0), optimiser=replace(self.base.optimiser, weight_decay=5e-4), measured_epoch="best"
        )
        return (
            Experiment(LAST, some, widths, self.seeds, partial(self._adversarial, self.base)),
            Experiment(EARLY, some, widths, self.seeds, partial(self._adversarial, modern)),
            Experiment(REGULARISED, every, widths, self.seeds, self._standard),
        )

    def _adversarial(self, setting: Recipe, arm: str, width: float, found: Found) -> Recipe:
        """Standard training has no best epoch of robust accuracy to speak of: it is measured at the last."""
        assert isinstance(setting.attack, PGD), "refused otherwise"
        local = (OperatorNorm("linf", folded=True), LogitRatio(setting.attack.eps), GlobalBound("layer"))
        recipe = replace(setting, measures=(*NORMS, *local), penalties=self._added(arm))
        if arm in FRAMEWORKS and arm != ADVERSARIAL:
            lam = 1 / setting.data.spec.num_classes if arm == "ALP" else 1.0
            return replace(recipe, objective=FRAMEWORKS[arm], lam=Fixed(lam))
        return replace(recipe, objective=Standard(), measured_epoch="last") if arm == STANDARD else recipe

    def _standard(self, arm: str, width: float, found: Found) -> Recipe:
        attack = final(self.small_eps)
        penalties = self._added(arm)
        return replace(self.base, objective=Standard(), penalties=penalties, measures=NORMS, test_attack=attack)

    def _added(self, arm: str) -> tuple[Penalty, ...]:
        return tuple(arms[arm] for arms in self.penalties.values() if arm in arms)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """N1 to N4 in the paper's settings; the same of regularised TRADES (``-last``) and today's (``-early``)."""
        columns = {measure: layer_columns(self.base, measure) for measure in TARGETS.values()}
        lowers = partial(lower_norms, columns=columns)
        keeps = partial(keep_accuracy, margin=self.margin)
        found = [
            n1(partial(lowers, experiment=REGULARISED, reference=STANDARD, families=self.families)),
            n2(partial(keeps, experiment=REGULARISED, reference=STANDARD, families=self.families), self.margin),
            n3(partial(compare_norms, experiment=LAST, columns=columns)),
            n4(partial(exceed_local, experiment=LAST)),
        ]
        for name in (LAST, EARLY):
            where = {"experiment": name, "reference": ADVERSARIAL, "families": self.firsts}
            found += [again(n1(partial(lowers, **where)), name)]
            found += [again(n2(partial(keeps, **where), self.margin), name)]
        found += [again(n3(partial(compare_norms, experiment=EARLY, columns=columns)), EARLY)]
        return (*found, again(n4(partial(exceed_local, experiment=EARLY)), EARLY))

    def tables(self, found: Found) -> Mapping[str, pd.DataFrame]:
        """Accuracies, norms and Lipschitz figures of every arm, by experiment."""
        attacks = {REGULARISED: f"APGD at eps {self.small_eps:.3g}", LAST: "APGD", EARLY: "APGD"}
        return {f"{TITLES[name]} (test, {attacks[name]})": shown(found[name].trials, HEADINGS) for name in found}

    def figures(self, found: Found) -> Sequence[Drawing]:
        """Norms of every arm relative to standard training; the product of norms beside the local estimate."""
        columns = {name: layer_columns(self.base, TARGETS[family]) for name, family in FAMILIES.items()}
        lipschitz = {"product of layer norms": PRODUCT, "local estimate": LOCAL}
        trials, trained = {name: found[name].trials for name in found}, (STANDARD, *FRAMEWORKS)
        drawn = [norms_by_arm(own, STANDARD, columns, TITLES[name]) for name, own in trials.items()]
        return [*drawn, *(bound_and_local(trials[name], trained, lipschitz, TITLES[name]) for name in (LAST, EARLY))]


TITLES = {
    REGULARISED: "Standard training with norm regularisers",
    LAST: "TRADES and others at lambda 1 without weight decay, last epoch",
    EARLY: "TRADES and others at lambda 6 with weight decay 5e-4, best epoch",
}
FAMILIES = {"l1 norm": "l1", "linf norm": "linf", "spectral norm": "clip"}
NORMS: tuple[OperatorNorm, ...] = (OperatorNorm("l1"), OperatorNorm("linf"), OperatorNorm("l2"))
HEADINGS: dict[str, tuple[str, float]] = {
    "natural (%)": (NATURAL, 100),
    "robust (%)": (ROBUST, 100),
    "l1 norm, mean of layers": ("norms/l1/mean", 1),
    "linf norm": ("norms/linf/mean", 1),
    "linf norm, batch norm folded": ("norms_folded/linf/mean", 1),
    "spectral norm": ("norms/l2/mean", 1),
    "local Lipschitz": (LOCAL, 1),
    "product of norms": (PRODUCT, 1),
}
"""Headings of the tables: a metric, and the factor it is shown with."""


# -- the presets ------------------------------------------------------------------------------------------------


def _digits() -> NormsStudy:
    return NormsStudy(digits(), small_eps=0.05, every=20, margin=2.0, seeds=6)


def _fashion() -> NormsStudy:
    return NormsStudy(fashion(), small_eps=0.02, every=50)


def _cifar10() -> NormsStudy:
    return NormsStudy(cifar10(), small_eps=PIXEL, betas=(1e-3, 1e-4))


def _paper() -> NormsStudy:
    """120 epochs, the learning rate over 10 at 75, 90 and 100, as in the released code; eps 8/255 for its 0.031.

    Its nets are VGG, ResNet-18, SENet-18 and RegNetX-200MF; here it is a PreActResNet-18. All five strengths of norm
    decay and of clipping; clipped every 100 steps. Its robust accuracy is that of 1,024 test images, here of all, and
    regularised standard nets were trained at a base rate of 0.01, here at 0.1 as the others.
    """
    base = replace(cifar10(120), model=PreActResNet(18), learning_rate=Piecewise(drops=(75 / 120, 90 / 120, 100 / 120)))
    return NormsStudy(base, PIXEL, betas=(1e-3, 1e-5, 1e-4, 1e-2, 1e-1), clips=(1.0, 2.0, 1.5, 0.5, 0.1))


PRESETS: dict[str, Callable[[], NormsStudy]] = {
    "digits": _digits,
    "fashion": _fashion,
    "cifar10": _cifar10,
    "paper": _paper,
}
