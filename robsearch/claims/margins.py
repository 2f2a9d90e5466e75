"""M1 to M3 on minimum and average margin (arXiv 1907.11780), as tests over seeds.

Margins are ``InputMargin``: the lead of the right logit over the norm of its gradient, least over the other classes,
in pixel units; the linear margin of the paper where the net is linear, a first-order estimate elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import pandas as pd

from robsearch.attacks import PGD
from robsearch.claims.experiment import Experiment, Found
from robsearch.claims.form import Claim
from robsearch.claims.margins_claims import (
    AGREED,
    AVERAGE,
    CONTROL,
    GAIN,
    MARGIN,
    NATURAL,
    ROBUST,
    STRENGTHS,
    TRAINING,
    WITH,
    WITHOUT,
    consistent,
    gains,
    margins_move,
    raises_margin,
    sweep,
)
from robsearch.claims.paired import shown
from robsearch.claims.paired_figures import matched, over_epochs
from robsearch.claims.settings import cifar10, digits, fashion
from robsearch.errors import InputError, refusal
from robsearch.measures import InputMargin, LogitMargin
from robsearch.models import PreActResNet
from robsearch.naming import names_of
from robsearch.objectives import Standard
from robsearch.optimisers import Piecewise
from robsearch.penalties import AverageMargin, Orthogonality
from robsearch.protocols import Penalty
from robsearch.recipe import Recipe
from robsearch.report.canvas import Drawing
from robsearch.schedules import Fixed

SOURCE = "arXiv 1907.11780"


@dataclass(frozen=True)
class MarginsStudy:
    """Standard training, ever longer; TRADES over lambda with and without the average-margin regulariser.

    The margin during training is that of trainings of several lengths: with a constant learning rate, one of fewer
    epochs and the same seed is the beginning of a longer one, bit for bit.

    Attributes:
        base: TRADES, the last epoch measured, its attack a ``PGD``.
        epochs: lengths of standard training; the learning rate stays at the base's.
        lams: from weak to strong, along which natural accuracy falls.
        penalty: the regulariser that M2 is about.
        orthogonality: added to it as in the paper, and alone in the control.
        seeds: of each arm.

    Raises:
        InputError: fewer than three lengths of training, or than two lambdas.
    """

    base: Recipe
    epochs: tuple[int, ...] = (10, 20, 40, 80)
    lams: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0)
    penalty: AverageMargin = field(default=AverageMargin(mu=0.1, tau=5.0))
    orthogonality: Orthogonality = field(default=Orthogonality(1e-3))
    seeds: int = 5

    GROUPS: ClassVar[tuple[str, ...]] = (WITHOUT, WITH, CONTROL)

    def __post_init__(self) -> None:
        problems = []
        if len(set(self.epochs)) < 3 or not all(each >= 1 for each in self.epochs):
            problems.append(refusal("three different lengths of training or more", self.epochs, "such as 10, 20, 40"))
        if len(set(self.lams)) < 2:
            problems.append(refusal("two different lambdas or more", self.lams, "such as 1, 4, 16"))
        if not isinstance(self.base.attack, PGD):
            problems.append(refusal("a base recipe whose attack is a PGD", repr(self.base.attack), "its norm is used"))
        if problems:
            raise InputError(*problems)

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """``strengths``, TRADES along lambda; ``training``, standard and ever longer."""
        widths = (self.base.model.width,)
        arms = tuple(arm for group in self.GROUPS for arm in sweep(group, self.lams))
        lengths = tuple(map(str, sorted(self.epochs, reverse=True)))
        return (
            Experiment(STRENGTHS, arms, widths, self.seeds, self._strength),
            Experiment(TRAINING, lengths, widths, self.seeds, self._length),
        )

    @property
    def _measures(self) -> tuple[LogitMargin, InputMargin]:
        assert isinstance(self.base.attack, PGD), "refused otherwise"
        return LogitMargin(), InputMargin(self.base.attack.norm)

    def _strength(self, arm: str, width: float, found: Found) -> Recipe:
        group, _, name = arm.rpartition(", lambda ")
        lam = {name: lam for lam, name in names_of(self.lams).items()}[name]
        penalties: dict[str, tuple[Penalty, ...]] = {
            WITHOUT: (),
            WITH: (self.penalty, self.orthogonality),
            CONTROL: (self.orthogonality,),
        }
        return replace(self.base, lam=Fixed(lam), penalties=penalties[group], measures=self._measures)

    def _length(self, arm: str, width: float, found: Found) -> Recipe:
        constant = Piecewise(drops=())
        recipe = replace(self.base, objective=Standard(), learning_rate=constant, epochs=int(arm))
        return replace(recipe, measures=self._measures, measured_examples=None)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """M1 to M3; beside them M2 against orthogonality alone, and M3 of the penalty in the released code."""
        against = "natural accuracy matched, against the sweep without"
        m2 = Claim(
            "M2",
            "The regulariser raises the average margin and robust accuracy at matched natural accuracy.",
            SOURCE,
            partial(raises_margin, lams=self.lams, other=WITHOUT),
            f"less than {GAIN:g} point of robust accuracy, or less than 5 % of average margin, {against}",
        )
        m3 = Claim(
            "M3",
            "The regularised loss is Fisher consistent: where its risk is least, the most probable class is on top.",
            SOURCE,
            partial(consistent, penalty=self.penalty, head="paper"),
            f"another class on top, or a tie, for more than {1 - AGREED:.0%} of posteriors",
        )
        m1 = Claim(
            "M1",
            "During standard training the minimum margin rises and the average margin falls.",
            SOURCE,
            partial(margins_move, epochs=self.epochs),
            "changes of less than 1 % of the first average margin per doubling of the epochs",
        )
        return m1, m2, m3, *self._beside(m2, m3)

    def _beside(self, m2: Claim, m3: Claim) -> tuple[Claim, Claim]:
        """M2 against orthogonality alone, M3 of the released code; no part in the correction."""
        alone = f"{m2.sentence[:-1]}, against the orthogonality penalty alone."
        against = partial(raises_margin, lams=self.lams, other=CONTROL)
        released = "With clamp(-alpha, 0, tau), the penalty of the released code, the loss is Fisher consistent."
        head = partial(consistent, penalty=self.penalty, head="released")
        return (
            replace(m2, name="M2-orthogonal", sentence=alone, effects=against, primary=False),
            replace(m3, name="M3-released", sentence=released, effects=head, primary=False),
        )

    def tables(self, found: Found) -> Mapping[str, pd.DataFrame]:
        """Margins over training; accuracies and margins over lambda; what M2 rests on, by two kinds of interval."""
        strengths = found[STRENGTHS].trials
        return {
            "Standard training: margins of training images, by epochs": shown(found[TRAINING].trials, LENGTHS),
            "TRADES with and without the regulariser (test, APGD)": shown(strengths, SWEEPS),
            "Gains at matched natural accuracy, with 95 % intervals from seeds and from resampled seeds": gains(
                found[STRENGTHS], self.lams
            ),
        }

    def figures(self, found: Found) -> Sequence[Drawing]:
        """Margins over training; robust accuracy and margin over natural accuracy."""
        margins = {f"{which} margin (pixel units)": f"train_set/{MARGIN}/{each}" for which, each in EXTREMES.items()}
        gained = {"robust accuracy (%)": ROBUST, "average margin (pixel units)": AVERAGE}
        groups = {group: sweep(group, self.lams) for group in self.GROUPS}
        return (
            over_epochs(found[TRAINING].trials, sorted(self.epochs), margins),
            matched(found[STRENGTHS].trials, groups, gained),
        )


EXTREMES = {"minimum": "min", "average": "mean"}
LENGTHS: dict[str, tuple[str, float]] = {
    "minimum margin (pixel units)": (f"train_set/{MARGIN}/min", 1),
    "average margin": (f"train_set/{MARGIN}/mean", 1),
    "minimum logit margin": ("train_set/margin/logit/min", 1),
    "average logit margin": ("train_set/margin/logit/mean", 1),
    "train accuracy (%)": ("train_set/natural_accuracy", 100),
    "test accuracy (%)": (NATURAL, 100),
}
SWEEPS: dict[str, tuple[str, float]] = {
    "natural (%)": (NATURAL, 100),
    "robust (%)": (ROBUST, 100),
    "average margin (pixel units)": (AVERAGE, 1),
    "average logit margin": ("test/margin/logit/mean", 1),
}
"""Headings of the tables: a metric, and the factor it is shown with."""


# -- the presets ------------------------------------------------------------------------------------------------


def _digits() -> MarginsStudy:
    return MarginsStudy(digits(), epochs=(10, 20, 40, 80, 160), seeds=6)


def _fashion() -> MarginsStudy:
    return MarginsStudy(fashion(), epochs=(5, 10, 20, 40))


def _cifar10() -> MarginsStudy:
    return MarginsStudy(cifar10(), epochs=(4, 8, 16, 32), penalty=AverageMargin(mu=0.1, tau=10.0))


def _paper() -> MarginsStudy:
    """CIFAR-10 with the paper's mu 0.1, tau 10 and beta 1e-3.

    Its nets and lengths of training for this data are not known to us: a PreActResNet-18 and 100 epochs stand in
    their place. It adds the regulariser to standard training, and compares nets of different natural accuracy.
    """
    base = replace(cifar10(100), model=PreActResNet(18))
    return MarginsStudy(base, epochs=(10, 20, 40, 80), penalty=AverageMargin(mu=0.1, tau=10.0))


PRESETS: dict[str, Callable[[], MarginsStudy]] = {
    "digits": _digits,
    "fashion": _fashion,
    "cifar10": _cifar10,
    "paper": _paper,
}
