"""R1 to R4 on what adversarial training regularises (arXiv 2011.07478), as tests over seeds.

Each net is trained at one of several eps, 0 among them, and each claim is a slope over eps, fitted for each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from robsearch.attacks import PGD
from robsearch.claims.experiment import Experiment, Found
from robsearch.claims.form import Claim, Evidence
from robsearch.claims.paired import Numbers, by_arm, layer_columns, positive, shown, slopes
from robsearch.claims.paired_figures import over_eps
from robsearch.claims.settings import PIXEL, cifar10, digits, fashion, final
from robsearch.claims.statistics import Effect
from robsearch.errors import InputError, refusal
from robsearch.measures import FeatureChange, InputMargin, LogitMargin, SingularValues
from robsearch.models import PreActResNet
from robsearch.naming import names_of
from robsearch.objectives import PGDAT, Standard
from robsearch.recipe import Recipe
from robsearch.report.canvas import Drawing

SOURCE = "arXiv 2011.07478"
STRENGTHS = "eps"
NATURAL, ROBUST, GAP = "test/natural_accuracy", "test/robust_accuracy", "gap/error"
CONFIDENCE, MEDIAN = "test/confidence", "test/margin/logit/q50"
LOW, HIGH = "test/margin/logit/q05", "test/margin/logit/q95"
CHANGE = "features/change"
LESS = 0.05
"""R1: falls below 5 % of the value at eps 0, over all eps, do not matter."""
NARROWER = 0.01
"""R2: the same, of the deviation of singular values in the median layer: 1 %."""
SMALLER = float(np.log(1.05))
"""R3: feature change smaller by 5 %, or layers 5 % nearer to each other."""
POINTS, GAP_POINTS = 1.0, 0.5
"""R4: points of natural accuracy, points of the error gap."""


@dataclass(frozen=True)
class RegularizationStudy:
    """The same net trained at several eps.

    Attributes:
        base: how it is trained at each; its attack is a ``PGD``, whose eps and step size are scaled.
        eps: training strengths in pixel units, four or more, 0 among them. All nets are judged at the largest.
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
        problems = []
        if len(set(self.eps)) < 4 or min(self.eps, default=1.0) != 0:
            problems.append(refusal("four different eps or more, the least 0", self.eps, "such as 0, 0.05, 0.1, 0.15"))
        if not isinstance(self.base.attack, PGD):
            do = "its eps is what is varied"
            problems.append(refusal("a base recipe whose attack is a PGD", repr(self.base.attack), do))
        if problems:
            raise InputError(*problems)

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """One, its arms from the strongest down: a plan takes the time of the first."""
        arms = tuple(names_of(sorted(self.eps, reverse=True)).values())
        return (Experiment(STRENGTHS, arms, (self.base.model.width,), self.seeds, self._recipe),)

    def _attack(self, eps: float) -> PGD:
        """The base's attack with another eps and a step size in proportion."""
        attack = self.base.attack
        assert isinstance(attack, PGD), "refused otherwise"
        return replace(attack, eps=eps, step_size=attack.step_size * eps / attack.eps)

    def _recipe(self, arm: str, width: float, found: Found) -> Recipe:
        judge = replace(self._attack(max(self.eps)), start="uniform")
        moved = FeatureChange(replace(judge, steps=max(20, judge.steps)))
        recipe = replace(
            self.base,
            eval_attack=judge,
            test_attack=final(judge.eps),
            measures=(LogitMargin(), InputMargin(judge.norm, classes=3), *self.spectra, moved),
        )
        eps = {name: number for number, name in names_of(self.eps).items()}[arm]
        if eps == 0:
            return replace(recipe, attack=judge, objective=Standard())
        return replace(recipe, attack=self._attack(eps))

    @property
    def claims(self) -> tuple[Claim, ...]:
        """R1 to R4."""
        eps = tuple(sorted(self.eps))
        deviations = {m.name: layer_columns(self.base, m.name, "std") for m in self.spectra}
        change = layer_columns(self.base, CHANGE)
        return (
            Claim(
                "R1",
                "With training eps, output margins concentrate towards the boundary and confidence falls.",
                SOURCE,
                partial(concentrate, eps=eps),
                "a median margin, a spread of margins or a confidence that falls by less than 5 %",
            ),
            Claim(
                "R2",
                "With training eps, the standard deviation of singular values shrinks in most layers.",
                SOURCE,
                partial(narrow, columns=deviations, eps=eps),
                "a fall of less than 1 % in the median layer",
            ),
            Claim(
                "R3",
                "With training eps, the change of features under attack becomes smaller and more uniform over layers.",
                SOURCE,
                partial(smooth, columns=change, eps=eps),
                "a change less than 5 % smaller, or layers less than 5 % nearer to each other",
            ),
            Claim(
                "R4",
                "With training eps, natural accuracy falls while the gap between test and training error shrinks.",
                SOURCE,
                partial(trade, eps=eps),
                f"a fall of less than {POINTS:g} point of accuracy, or of {GAP_POINTS:g} points of the gap",
            ),
        )

    def tables(self, found: Found) -> Mapping[str, pd.DataFrame]:
        """Accuracies, gaps and margins over eps; spectra and feature change over eps, layer by layer."""
        trials = found[STRENGTHS].trials
        eps = sorted(self.eps)
        spectra = {f"sd of {m.name}, {{}}": layer_columns(self.base, m.name, "std") for m in self.spectra}
        layers = {"mean feature change, {}": layer_columns(self.base, CHANGE), **spectra}
        return {
            f"By training eps (judged at {max(eps):.3g}, APGD)": shown(trials, HEADINGS),
            "Layer by layer: the value at eps 0 and the change over all eps": by_layer(trials, eps, layers),
        }

    def figures(self, found: Found) -> Sequence[Drawing]:
        """Margins, singular values, feature change and rates over eps."""
        layers = {f"sd of {m.name}": layer_columns(self.base, m.name, "std") for m in self.spectra}
        layers["feature change"] = layer_columns(self.base, CHANGE)
        return (over_eps(found[STRENGTHS].trials, sorted(self.eps), (LOW, MEDIAN, HIGH), layers, GAP),)


HEADINGS: dict[str, tuple[str, float]] = {
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
"""Headings of the table: a metric, and the factor it is shown with."""


# -- the effects: over the whole range of eps, from a straight line through each seed's values ------------------


def over_range(evidence: Evidence, eps: Sequence[float], metrics: Sequence[str]) -> tuple[Numbers, Numbers]:
    """(values, change): (seeds, eps, metrics), and the fitted line's change from eps 0 to the largest."""
    values = by_arm(evidence.of(STRENGTHS).trials, list(names_of(eps).values()), metrics)
    return values, slopes([each / max(eps) for each in eps], values)


def concentrate(evidence: Evidence, eps: Sequence[float]) -> list[Effect]:
    """Falls as shares of the value at eps 0: of the median margin, of its 5 to 95 % spread, of confidence."""
    values, _ = over_range(evidence, eps, [MEDIAN, LOW, HIGH, CONFIDENCE])
    values = np.stack([values[..., 0], values[..., 2] - values[..., 1], values[..., 3]], axis=2)
    names = ("the median logit margin", "the spread of logit margins", "confidence")
    bases = [positive(values[:, 0, place], f"{name} at eps 0") for place, name in enumerate(names)]
    falls = -slopes([each / max(eps) for each in eps], values) / np.stack(bases, axis=1)
    unit = "of the value at eps 0, over all eps"
    return [Effect(f"fall of {name}", unit, _told(fall), LESS) for name, fall in zip(names, falls.T, strict=True)]


def narrow(evidence: Evidence, eps: Sequence[float], columns: Mapping[str, Sequence[str]]) -> list[Effect]:
    """The fall in the median layer, as a share of its value at eps 0: above 0 where it shrinks in most layers."""
    found = []
    for name, layers in columns.items():
        values, change = over_range(evidence, eps, layers)
        base = positive(values[:, 0], f"the standard deviation of {name} in a layer at eps 0")
        fall = np.median(-change / base, axis=1)
        what = f"fall of the standard deviation of {name} in the median layer"
        found.append(Effect(what, "of the value at eps 0, over all eps", _told(fall), NARROWER))
    return found


def smooth(evidence: Evidence, eps: Sequence[float], columns: Sequence[str]) -> list[Effect]:
    """Falls of the mean over layers of log relative change, and of its standard deviation over layers."""
    changes = by_arm(evidence.of(STRENGTHS).trials, list(names_of(eps).values()), columns)
    values = np.log(positive(changes, "the feature change of a layer"))
    both = np.stack([values.mean(axis=2), values.std(axis=2)], axis=2)
    mean, spread = -slopes([each / max(eps) for each in eps], both).T
    return [
        Effect("fall of the feature change, mean over layers", "log, over all eps", _told(mean), SMALLER),
        Effect("fall of its deviation over layers", "log, over all eps", _told(spread), SMALLER),
    ]


def trade(evidence: Evidence, eps: Sequence[float]) -> list[Effect]:
    """Falls of natural accuracy and of the error on test less that on training images."""
    _, change = over_range(evidence, eps, [NATURAL, GAP])
    natural, gap = -100 * change.T
    return [
        Effect("fall of natural accuracy", "points, over all eps", _told(natural), POINTS),
        Effect("fall of the error gap", "points, over all eps", _told(gap), GAP_POINTS),
    ]


def by_layer(trials: pd.DataFrame, eps: Sequence[float], layers: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row per layer and quantity: seeds' mean at eps 0, and the mean change over all eps with its deviation."""
    arms, rows = list(names_of(eps).values()), []
    for heading, columns in layers.items():
        values = by_arm(trials, arms, columns)
        change = slopes([each / max(eps) for each in eps], values)
        for place, column in enumerate(columns if len(values) > 1 else ()):
            own = change[:, place]
            told = f"{own.mean():+.3g} ± {own.std(ddof=1):.2g}"
            start = f"{values[:, 0, place].mean():.4g}"
            rows.append({"layer": heading.format(column.split("/")[-2]), "at eps 0": start, "change": told})
    return pd.DataFrame(rows)


def _told(values: Numbers) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


# -- the presets ------------------------------------------------------------------------------------------------


def _digits() -> RegularizationStudy:
    return RegularizationStudy(replace(digits(), objective=PGDAT()), eps=(0.0, 0.05, 0.1, 0.15, 0.2), seeds=8)


def _fashion() -> RegularizationStudy:
    return RegularizationStudy(replace(fashion(), objective=PGDAT()), eps=(0.0, 0.03, 0.06, 0.1))


def _cifar10() -> RegularizationStudy:
    both = (SingularValues(), SingularValues("circular"))
    return RegularizationStudy(
        replace(cifar10(), objective=PGDAT()), tuple(each * PIXEL for each in (0, 2, 4, 8)), both
    )


def _paper() -> RegularizationStudy:
    """PGD-AT on CIFAR-10 at eps 0 to 8/255, 100 epochs.

    The paper's nets, strengths and lengths of training are not known to us: a PreActResNet-18 stands in their place.
    """
    base = replace(cifar10(100), objective=PGDAT(), model=PreActResNet(18))
    return RegularizationStudy(base, tuple(each * PIXEL for each in (0, 2, 4, 6, 8)))


PRESETS: dict[str, Callable[[], RegularizationStudy]] = {
    "digits": _digits,
    "fashion": _fashion,
    "cifar10": _cifar10,
    "paper": _paper,
}
