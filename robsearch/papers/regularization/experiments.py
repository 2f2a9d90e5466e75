"""R1 to R4 on what adversarial training regularises (arXiv 2011.07478), as tests over seeds.

Each net is trained at one of several eps, 0 among them, and each claim compares the largest with 0,
seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from robsearch.claims.claim import Claim
from robsearch.claims.experiment import Experiment, Findings, recipes_experiment
from robsearch.claims.figures import means_by_arm
from robsearch.claims.seeds import Columns, layer_columns, table_by_arm
from robsearch.drawing.formatting import names_of
from robsearch.drawing.style import Drawing
from robsearch.errors import refuse_unless
from robsearch.measures import FeatureChange, InputMargin, LogitMargin, SingularValues
from robsearch.papers.recipes import PIXEL, cifar10, digits, fashion, final, has_pgd, pgd_of
from robsearch.papers.regularization.claims import (
    CHANGE,
    CONFIDENCE,
    GAP,
    GAP_POINTS,
    HIGH,
    LOW,
    MEDIAN,
    NATURAL,
    POINTS,
    ROBUST,
    STRENGTHS,
    against_none,
    by_layer,
    concentrate,
    narrow,
    smooth,
    trade,
)
from robsearch.parts.attacks import PGD
from robsearch.parts.models import PreActResNet
from robsearch.parts.objectives import PGDAT, Standard
from robsearch.recipe import Recipe

SOURCE = "arXiv 2011.07478"
EPS_VARIED = "its eps is what is varied"
COLUMNS: Columns = {
    "natural (%)": (NATURAL, 100),
    "robust (%)": (ROBUST, 100),
    "error gap (points)": (GAP, 100),
    "loss gap (nats)": ("gap/loss", 1),
    "confidence (%)": (CONFIDENCE, 100),
    "median logit margin": (MEDIAN, 1),
    "5 %": (LOW, 1),
    "95 %": (HIGH, 1),
    "median on training images": ("train_set/margin/logit/q50", 1),
    "input margin (pixel units)": ("test/margin/input_first_order/mean", 1),
    "feature change": (f"{CHANGE}/mean", 1),
}


@dataclass(frozen=True)
class RegularizationStudy:
    """The same net trained at several eps.

    Attributes:
        base: how it is trained at each; its attack is a ``PGD``, whose eps and step size are
            scaled.
        eps: training strengths in pixel units, four or more, 0 among them. All nets are judged at
            the largest.
        spectra: which singular values.
        seeds: of each eps.

    Raises:
        InputError: fewer than four strengths, or none of them 0; an attack that is not a ``PGD``.
    """

    base: Recipe
    eps: tuple[float, ...]
    spectra: tuple[SingularValues, ...] = (SingularValues(),)
    seeds: int = 5

    def __post_init__(self) -> None:
        refuse_unless(
            (
                len(set(self.eps)) >= 4 and min(self.eps) == 0,
                "four different eps or more, the least 0",
                self.eps,
                "such as 0, 0.05, 0.1, 0.15",
            ),
            has_pgd(self.base, EPS_VARIED),
        )

    @property
    def experiments(self) -> tuple[Experiment[str], ...]:
        """One, its arms from the strongest down: a plan takes the time of the first."""
        names = names_of(sorted(self.eps, reverse=True))
        recipes = {name: self._recipe(eps) for eps, name in names.items()}
        return (recipes_experiment(STRENGTHS, recipes, self.base.model.width, self.seeds),)

    def _recipe(self, eps: float) -> Recipe:
        judge = replace(self._attack(max(self.eps)), start="uniform")
        # Features must be moved as far as they can be, so this attack goes on for longer.
        stronger = replace(judge, steps=max(20, judge.steps))
        recipe = replace(
            self.base,
            eval_attack=judge,
            test_attack=final(judge.eps),
            measures=(
                LogitMargin(),
                InputMargin(judge.norm, classes=3),
                *self.spectra,
                FeatureChange(stronger),
            ),
        )
        # PGD-AT at eps 0 is standard training, here without an attack to pay for.
        if eps == 0:
            return replace(recipe, attack=judge, objective=Standard())
        return replace(recipe, attack=self._attack(eps))

    def _attack(self, eps: float) -> PGD:
        """The base's attack with another eps and a step size in proportion."""
        attack = pgd_of(self.base, EPS_VARIED)
        return replace(attack, eps=eps, step_size=attack.step_size * eps / attack.eps)

    @property
    def _deviations(self) -> dict[str, list[str]]:
        """The columns of singular values' standard deviations."""
        return {
            spectrum.name: layer_columns(self.base, spectrum.name, "std")
            for spectrum in self.spectra
        }

    @property
    def claims(self) -> tuple[Claim, ...]:
        """R1 to R4."""
        eps = tuple(sorted(self.eps))
        return (
            Claim(
                "R1",
                "With training eps, output margins concentrate towards the boundary and "
                "confidence falls.",
                SOURCE,
                partial(concentrate, eps=eps),
                "a median margin, a spread of margins or a confidence that falls by less than 5 %",
            ),
            Claim(
                "R2",
                "With training eps, the standard deviation of singular values shrinks in most "
                "layers.",
                SOURCE,
                partial(narrow, columns=self._deviations, eps=eps),
                "a fall of less than 1 % in the median layer",
            ),
            Claim(
                "R3",
                "With training eps, the change of features under attack becomes smaller and "
                "more uniform over layers.",
                SOURCE,
                partial(smooth, columns=layer_columns(self.base, CHANGE), eps=eps),
                "a change less than 5 % smaller, or layers less than 5 % nearer to each other",
            ),
            Claim(
                "R4",
                "With training eps, natural accuracy falls while the gap between test and "
                "training error shrinks.",
                SOURCE,
                partial(trade, eps=eps),
                f"a fall of less than {POINTS:g} point of accuracy, or of {GAP_POINTS:g} points "
                "of the gap",
            ),
        )

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """Accuracies, gaps and margins over eps; spectra and feature change over eps, layer by
        layer."""
        trials = findings[STRENGTHS].trials
        eps = sorted(self.eps)
        layers = {"mean feature change": layer_columns(self.base, CHANGE)}
        for name, columns in self._deviations.items():
            layers[f"sd of {name}"] = columns
        return {
            f"By training eps (judged at {max(eps):.3g}, APGD)": table_by_arm(trials, COLUMNS),
            "Each training eps less eps 0": against_none(trials, eps, COLUMNS),
            "Layer by layer: the value at eps 0 and the change at the largest eps": by_layer(
                trials,
                eps,
                layers,
            ),
        }

    def figures(self, findings: Findings) -> Sequence[Drawing]:
        """The numbers of the first table."""
        return [means_by_arm(findings[STRENGTHS].trials, COLUMNS, "By training eps")]


PRESETS = {
    "digits": RegularizationStudy(
        replace(digits(), objective=PGDAT()),
        eps=(0.0, 0.05, 0.1, 0.15, 0.2),
        seeds=8,
    ),
    "fashion": RegularizationStudy(
        replace(fashion(), objective=PGDAT()),
        eps=(0.0, 0.03, 0.06, 0.1),
    ),
    "cifar10": RegularizationStudy(
        replace(cifar10(), objective=PGDAT()),
        eps=tuple(pixels * PIXEL for pixels in (0, 2, 4, 8)),
        spectra=(SingularValues(), SingularValues("circular")),
    ),
    "paper": RegularizationStudy(
        replace(cifar10(100), objective=PGDAT(), model=PreActResNet(18)),
        eps=tuple(pixels * PIXEL for pixels in (0, 2, 4, 6, 8)),
    ),
}
"""``paper``: PGD-AT on CIFAR-10 at eps 0 to 8/255, 100 epochs.

The paper's nets, strengths and lengths of training are not known to us: a PreActResNet-18 stands in
their place.
"""
