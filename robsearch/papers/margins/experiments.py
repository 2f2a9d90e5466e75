"""M1 to M3 on minimum and average margin (arXiv 1907.11780), as tests over seeds.

Margins are ``InputMargin``: the lead of the right logit over the norm of its gradient, least over
the other classes, in pixel units; the linear margin of the paper where the net is linear, a
first-order estimate elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pandas as pd

from robsearch.claims.claim import Claim
from robsearch.claims.experiment import Experiment, Findings, recipes_experiment
from robsearch.claims.figures import means_by_arm
from robsearch.claims.seeds import Columns, table_by_arm
from robsearch.drawing.style import Drawing
from robsearch.errors import refuse_unless
from robsearch.measures import InputMargin, LogitMargin
from robsearch.papers.margins.claims import (
    AGREED,
    AVERAGE,
    CONTROL,
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
from robsearch.papers.recipes import cifar10, digits, fashion, has_pgd, pgd_of
from robsearch.parts.models import PreActResNet
from robsearch.parts.objectives import Standard
from robsearch.parts.optimisers import Piecewise
from robsearch.parts.penalties import AverageMargin, Orthogonality
from robsearch.parts.schedules import Fixed
from robsearch.protocols import Penalty
from robsearch.recipe import Recipe

SOURCE = "arXiv 1907.11780"
NORM_USED = "its norm is used"
TITLES = {
    TRAINING: "Standard training: margins of training images, by epochs",
    STRENGTHS: "TRADES with and without the regulariser (test, APGD)",
}
COLUMNS: Mapping[str, Columns] = {
    TRAINING: {
        "minimum margin (pixel units)": (f"train_set/{MARGIN}/min", 1),
        "average margin": (f"train_set/{MARGIN}/mean", 1),
        "minimum logit margin": ("train_set/margin/logit/min", 1),
        "average logit margin": ("train_set/margin/logit/mean", 1),
        "train accuracy (%)": ("train_set/natural_accuracy", 100),
        "test accuracy (%)": (NATURAL, 100),
    },
    STRENGTHS: {
        "natural (%)": (NATURAL, 100),
        "robust (%)": (ROBUST, 100),
        "average margin (pixel units)": (AVERAGE, 1),
        "average logit margin": ("test/margin/logit/mean", 1),
    },
}


@dataclass(frozen=True)
class MarginsStudy:
    """Standard training, ever longer; TRADES over lambda with and without the average-margin
    regulariser.

    The margin during training is that of trainings of several lengths: with a constant learning
    rate, one of fewer epochs and the same seed is the beginning of a longer one, bit for bit.

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

    def __post_init__(self) -> None:
        refuse_unless(
            (
                len(set(self.epochs)) >= 3 and min(self.epochs) >= 1,
                "three different lengths of training or more",
                self.epochs,
                "such as 10, 20, 40",
            ),
            (
                len(set(self.lams)) >= 2,
                "two different lambdas or more",
                self.lams,
                "such as 1, 4, 16",
            ),
            has_pgd(self.base, NORM_USED),
        )

    @property
    def experiments(self) -> tuple[Experiment[str], ...]:
        """``strengths``, TRADES along lambda; ``training``, standard and ever longer."""
        width = self.base.model.width
        return (
            recipes_experiment(STRENGTHS, self._strengths(), width, self.seeds),
            recipes_experiment(TRAINING, self._lengths(), width, self.seeds),
        )

    def _strengths(self) -> dict[str, Recipe]:
        groups: dict[str, tuple[Penalty, ...]] = {
            WITHOUT: (),
            WITH: (self.penalty, self.orthogonality),
            CONTROL: (self.orthogonality,),
        }
        recipes = {}
        for group, penalties in groups.items():
            for arm, lam in sweep(group, self.lams).items():
                recipes[arm] = replace(self._measured, lam=Fixed(lam), penalties=penalties)
        return recipes

    def _lengths(self) -> dict[str, Recipe]:
        """From the longest down: a plan takes the time of the first arm."""
        # At a constant rate a shorter training is the beginning of a longer one.
        standard = replace(
            self._measured,
            objective=Standard(),
            learning_rate=Piecewise(drops=()),
            measured_examples=None,
        )
        lengths = sorted(self.epochs, reverse=True)
        return {str(epochs): replace(standard, epochs=epochs) for epochs in lengths}

    @property
    def _measured(self) -> Recipe:
        norm = pgd_of(self.base, NORM_USED).norm
        return replace(self.base, measures=(LogitMargin(), InputMargin(norm)))

    @property
    def claims(self) -> tuple[Claim, ...]:
        """M1 to M3; beside them M2 against orthogonality alone, and M3 of the penalty in the
        released code, which have no part in the correction."""
        m1 = Claim(
            "M1",
            "During standard training the minimum margin rises and the average margin falls.",
            SOURCE,
            partial(margins_move, epochs=self.epochs),
            "changes of less than 1 % of the first average margin per doubling of the epochs",
        )
        m2 = Claim(
            "M2",
            "The regulariser raises the average margin and robust accuracy at matched natural "
            "accuracy.",
            SOURCE,
            partial(raises_margin, lams=self.lams, other=WITHOUT),
            "less than 1 point of robust accuracy, or less than 5 % of average margin, "
            "natural accuracy matched, against the sweep without",
        )
        m3 = Claim(
            "M3",
            "The regularised loss is Fisher consistent: where its risk is least, the most "
            "probable class is on top.",
            SOURCE,
            partial(consistent, penalty=self.penalty, form="paper"),
            f"another class on top, or a tie, for more than {1 - AGREED:.0%} of posteriors",
        )
        m2_orthogonal = m2.beside(
            "orthogonal",
            f"{m2.sentence[:-1]}, against the orthogonality penalty alone.",
            partial(raises_margin, lams=self.lams, other=CONTROL),
        )
        m3_released = m3.beside(
            "released",
            "With clamp(-alpha, 0, tau), the penalty of the released code, the loss is Fisher "
            "consistent.",
            partial(consistent, penalty=self.penalty, form="released"),
        )
        return m1, m2, m3, m2_orthogonal, m3_released

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """Margins over training; accuracies and margins over lambda; what M2 rests on, by two kinds
        of interval."""
        by_arm = {
            title: table_by_arm(findings[name].trials, COLUMNS[name])
            for name, title in TITLES.items()
        }
        caption = (
            "Gains at matched natural accuracy, with 95 % intervals from seeds and from "
            "resampled seeds"
        )
        return {**by_arm, caption: gains(findings[STRENGTHS], self.lams)}

    def figures(self, findings: Findings) -> Sequence[Drawing]:
        """The numbers of the first two tables."""
        return [
            means_by_arm(findings[name].trials, COLUMNS[name], title)
            for name, title in TITLES.items()
        ]


PRESETS = {
    "digits": MarginsStudy(
        digits(),
        epochs=(10, 20, 40, 80, 160),
        seeds=6,
    ),
    "fashion": MarginsStudy(fashion(), epochs=(5, 10, 20, 40)),
    "cifar10": MarginsStudy(
        cifar10(),
        epochs=(4, 8, 16, 32),
        penalty=AverageMargin(tau=10.0),
    ),
    "paper": MarginsStudy(
        replace(cifar10(100), model=PreActResNet(18)),
        penalty=AverageMargin(tau=10.0),
    ),
}
"""``paper``: CIFAR-10 with the paper's mu 0.1, tau 10 and beta 1e-3.

Its nets and lengths of training for this data are not known to us: a PreActResNet-18 and 100
epochs stand in their place. It adds the regulariser to standard training, and compares nets of
different natural accuracy.
"""
