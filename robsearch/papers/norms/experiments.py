"""N1 to N4 on the norms of layers (arXiv 2009.08435), as tests over seeds.

The paper's own settings, by its text and its released code, are the primary ones: regularisers are
added to standard training without weight decay and attacked with a small eps (1/255); the nets
whose norms are compared are trained with PGD-AT, TRADES and ALP at lambda 1, without weight decay,
and taken at the last epoch. (Its ALP has the mean square over logits, ours the sum: ALP's lambda
here is 1 over the number of classes, always.) The secondary claims ask the same of regularised
TRADES, and of nets trained as is usual today, with TRADES at lambda 6, weight decay 5e-4, and taken
at the best epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from robsearch.claims.claim import Claim
from robsearch.claims.experiment import Experiment, Findings, recipes_experiment
from robsearch.claims.figures import means_by_arm
from robsearch.claims.seeds import Columns, layer_columns, table_by_arm
from robsearch.drawing.formatting import names_of
from robsearch.drawing.style import Drawing
from robsearch.errors import refuse_unless
from robsearch.measures import GlobalBound, LogitRatio, OperatorNorm
from robsearch.papers.norms.claims import (
    LOCAL,
    NATURAL,
    PRODUCT,
    ROBUST,
    STANDARD,
    TARGETS,
    compare_norms,
    exceed_local,
    keep_accuracy,
    lower_norms,
)
from robsearch.papers.recipes import (
    PIXEL,
    cifar10,
    digits,
    fashion,
    final,
    has_pgd,
    has_sgd,
    pgd_of,
    sgd_of,
)
from robsearch.parts.models import PreActResNet
from robsearch.parts.objectives import ALP, PGDAT, Standard
from robsearch.parts.optimisers import Piecewise
from robsearch.parts.penalties import NormDecay, SingularValueClipping
from robsearch.parts.schedules import Fixed
from robsearch.protocols import Penalty
from robsearch.recipe import Recipe

SOURCE = "arXiv 2009.08435"
REGULARISED = "regularised"
LAST = "last"
EARLY = "early"
TITLES = {
    REGULARISED: "Standard training with norm regularisers",
    LAST: "TRADES and others at lambda 1 without weight decay, last epoch",
    EARLY: "TRADES and others at lambda 6 with weight decay 5e-4, best epoch",
}
SETTINGS = {
    LAST: "TRADES at lambda 1, last epoch",
    EARLY: "lambda 6, weight decay 5e-4, best epoch",
}
"""The experiments of the secondary claims, as their sentences name them."""
NORMS = (OperatorNorm("l1"), OperatorNorm("linf"), OperatorNorm("l2"))
DECAY_VARIED = "its weight decay is set, as the paper's is"
COLUMNS: Columns = {
    "natural (%)": (NATURAL, 100),
    "robust (%)": (ROBUST, 100),
    "l1 norm, mean of layers": ("norms/l1/mean", 1),
    "linf norm": ("norms/linf/mean", 1),
    "linf norm, batch norm folded": ("norms_folded/linf/mean", 1),
    "spectral norm": ("norms/l2/mean", 1),
    "local Lipschitz": (LOCAL, 1),
    "product of norms": (PRODUCT, 1),
}


@dataclass(frozen=True)
class NormsStudy:
    """Nets with and without norm regularisers, and nets trained with and without adversarial
    examples.

    Attributes:
        base: TRADES at lambda 1, no weight decay, the last epoch measured; its attack is a ``PGD``
            and its optimiser ``SGD``.
        small_eps: at which standardly trained nets are attacked, in pixel units.
        betas: strengths of ``NormDecay``, for each of l1 and linf; the first alone is added to
            TRADES.
        clips: bounds of ``SingularValueClipping``; the first alone is added to TRADES.
        every: steps between clippings.
        margin: points of accuracy that do not matter in N2.
        seeds: of each arm.

    Raises:
        InputError: the base's attack is not a ``PGD``, or its optimiser not ``SGD``.
    """

    base: Recipe
    small_eps: float
    betas: tuple[float, ...] = (1e-2, 1e-3)
    clips: tuple[float, ...] = (1.0, 2.0)
    every: int = 100
    margin: float = 1.0
    seeds: int = 5

    def __post_init__(self) -> None:
        refuse_unless(
            has_pgd(self.base, "its eps is that of the local Lipschitz estimate"),
            has_sgd(self.base, DECAY_VARIED),
        )

    @property
    def penalties(self) -> Mapping[str, Mapping[str, Penalty]]:
        """By family and arm, in the order of the strengths."""
        families: dict[str, dict[str, Penalty]] = {family: {} for family in TARGETS}
        for beta, name in names_of(self.betas).items():
            families["l1"][f"l1 {name}"] = NormDecay(beta=beta, norm="l1")
            families["linf"][f"linf {name}"] = NormDecay(beta=beta, norm="linf")
        for clip, name in names_of(self.clips).items():
            families["clip"][f"clip {name}"] = SingularValueClipping(clip=clip, every=self.every)
        return families

    @property
    def experiments(self) -> tuple[Experiment[str], ...]:
        """``last`` and ``early``: TRADES, regularised TRADES and other training; ``regularised``:
        standard nets."""
        modern = replace(
            self.base,
            lam=Fixed(6.0),
            optimiser=replace(sgd_of(self.base, DECAY_VARIED), weight_decay=5e-4),
            measured_epoch="best",
        )
        recipes = {
            LAST: self._adversarial(self.base),
            EARLY: self._adversarial(modern),
            REGULARISED: self._standard(),
        }
        width = self.base.model.width
        return tuple(
            recipes_experiment(name, arms, width, self.seeds) for name, arms in recipes.items()
        )

    def _adversarial(self, setting: Recipe) -> dict[str, Recipe]:
        """Standard training has no best epoch of robust accuracy to speak of: it is measured at the
        last."""
        eps = pgd_of(setting, "its eps is measured at").eps
        local = (OperatorNorm("linf", folded=True), LogitRatio(eps), GlobalBound("layer"))
        trades = replace(setting, measures=(*NORMS, *local))
        classes = setting.data.spec.num_classes
        recipes = {
            "TRADES": trades,
            "PGD-AT": replace(trades, objective=PGDAT(), lam=Fixed(1.0)),
            "ALP": replace(trades, objective=ALP(), lam=Fixed(1 / classes)),
            STANDARD: replace(trades, objective=Standard(), measured_epoch="last"),
        }
        for penalties in self.penalties.values():
            # Only the first strength is added to TRADES: the paper asks it of standard training.
            arm, penalty = next(iter(penalties.items()))
            recipes[arm] = replace(trades, penalties=(penalty,))
        return recipes

    def _standard(self) -> dict[str, Recipe]:
        standard = replace(
            self.base,
            objective=Standard(),
            measures=NORMS,
            test_attack=final(self.small_eps),
        )
        recipes = {STANDARD: standard}
        for penalties in self.penalties.values():
            for arm, penalty in penalties.items():
                recipes[arm] = replace(standard, penalties=(penalty,))
        return recipes

    @property
    def claims(self) -> tuple[Claim, ...]:
        """N1 to N4 in the paper's settings; the same of regularised TRADES (``-last``) and today's
        (``-early``)."""
        columns = {norm: layer_columns(self.base, norm) for norm in TARGETS.values()}
        # Arms by family: all of them in standard training, the first ones in TRADES.
        all_strengths = {family: list(arms) for family, arms in self.penalties.items()}
        first_strengths = {family: arms[:1] for family, arms in all_strengths.items()}
        lower = partial(lower_norms, columns=columns)
        keep = partial(keep_accuracy, margin=self.margin)
        compare = partial(compare_norms, columns=columns)
        standard = {"experiment": REGULARISED, "reference": STANDARD, "families": all_strengths}
        n1 = Claim(
            "N1",
            "Norm regularisers lower the norms that they target.",
            SOURCE,
            partial(lower, **standard),
            "a family that lowers its norm by less than 5 %",
        )
        n2 = Claim(
            "N2",
            "Norm regularisers keep or improve natural accuracy, and do not raise robust accuracy.",
            SOURCE,
            partial(keep, **standard),
            f"natural accuracy lower, or robust accuracy higher, by more than {self.margin:g} "
            "points with one family",
        )
        n3 = Claim(
            "N3",
            "Adversarially trained nets have comparable or larger layer norms than standardly "
            "trained ones.",
            SOURCE,
            partial(compare, experiment=LAST),
            "norms more than 10 % smaller with one way of adversarial training",
        )
        n4 = Claim(
            "N4",
            "The product of layer norms is far above the local Lipschitz estimate.",
            SOURCE,
            partial(exceed_local, experiment=LAST),
            "a product less than 10 times the local estimate",
        )

        def repeated(claim: Claim, experiment: str, effects: Any, **more: Any) -> Claim:
            sentence = f"{claim.sentence[:-1]} ({SETTINGS[experiment]})."
            in_setting = partial(effects, experiment=experiment, **more)
            return claim.beside(experiment, sentence, in_setting)

        secondary = []
        for name in SETTINGS:
            trades = {"reference": "TRADES", "families": first_strengths}
            secondary.append(repeated(n1, name, lower, **trades))
            secondary.append(repeated(n2, name, keep, **trades))
        secondary.append(repeated(n3, EARLY, compare))
        secondary.append(repeated(n4, EARLY, exceed_local))
        return n1, n2, n3, n4, *secondary

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """Accuracies, norms and Lipschitz figures of every arm, by experiment."""
        small = f"APGD at eps {self.small_eps:.3g}"
        tables = {}
        for name, evidence in findings.items():
            attack = small if name == REGULARISED else "APGD"
            caption = f"{TITLES[name]} (test, {attack})"
            tables[caption] = table_by_arm(evidence.trials, COLUMNS)
        return tables

    def figures(self, findings: Findings) -> Sequence[Drawing]:
        """The same as pictures."""
        return [
            means_by_arm(evidence.trials, COLUMNS, TITLES[name])
            for name, evidence in findings.items()
        ]


PRESETS = {
    "digits": NormsStudy(
        digits(),
        small_eps=0.05,
        every=20,
        margin=2.0,
        seeds=6,
    ),
    "fashion": NormsStudy(fashion(), small_eps=0.02, every=50),
    "cifar10": NormsStudy(cifar10(), small_eps=PIXEL, betas=(1e-3, 1e-4)),
    "paper": NormsStudy(
        replace(
            cifar10(120),
            model=PreActResNet(18),
            learning_rate=Piecewise(drops=(75 / 120, 90 / 120, 100 / 120)),
        ),
        small_eps=PIXEL,
        betas=(1e-3, 1e-5, 1e-4, 1e-2, 1e-1),
        clips=(1.0, 2.0, 1.5, 0.5, 0.1),
    ),
}
"""``paper``: 120 epochs, the learning rate over 10 at 75, 90 and 100, as in the released code; eps
8/255 for its 0.031.

Its nets are VGG, ResNet-18, SENet-18 and RegNetX-200MF; here it is a PreActResNet-18. All five
strengths of norm decay and of clipping; clipped every 100 steps. Its robust accuracy is that of
1,024 test images, here of all, and regularised standard nets were trained at a base rate of
0.01, here at 0.1 as the others.
"""
