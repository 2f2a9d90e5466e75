"""Whether the best lambda rises with width (H3 of arXiv 2010.01279) in other settings of training.

The paper has one learning rate, one initialisation and one training set. A study here trains the
same grid of widths and lambdas in several settings, and compares how fast lambda* rises in each.
Nets are judged after their last epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from robsearch.claims.claim import Claim, Evidence, NotDecidableError
from robsearch.claims.experiment import Experiment, Findings, pooled
from robsearch.claims.figures import means_by_arm
from robsearch.claims.statistics import Effect, estimate
from robsearch.errors import counted, refuse_unless
from robsearch.laws.curves import FAMILIES, LEAST
from robsearch.papers.recipes import has_sgd
from robsearch.papers.war.arms import LambdaArm, lambda_arms
from robsearch.papers.war.choices import chosen_on_val, with_val
from robsearch.papers.war.claims import LAST, SOURCE, peak_slopes
from robsearch.papers.war.experiments import at_width, normalised
from robsearch.papers.war.tables import percent
from robsearch.papers.war.wrong_labels_tables import LAST_ACCURACY
from robsearch.recipe import Recipe
from robsearch.trials.selection import sound

if TYPE_CHECKING:
    from robsearch.drawing.style import Drawing

DELTA = 0.05
"""The smallest slope of log lambda* on log width that matters, as for H3."""
CHOSEN = "chosen"


@dataclass(frozen=True)
class Setting:
    """One way of training in which the grid is trained.

    Attributes:
        name: of its experiment.
        words: how a sentence goes on: "The best lambda rises with width ...".
        base: what is trained but for width, lambda and seed.
        divided: whether the loss is divided by 1 + lambda, as ``(1 - rho) natural + rho robust``
            with ``rho = lambda / (1 + lambda)``; the base is trained by ``SGD`` then.
    """

    name: str
    words: str
    base: Recipe
    divided: bool = False

    def recipe(self, arm: LambdaArm, width: float, findings: Findings) -> Recipe:
        """At a width with a lambda."""
        recipe = at_width(self.base, width, arm.lam)
        return normalised(recipe, arm.lam) if self.divided else recipe


@dataclass(frozen=True)
class DriftStudy:
    """H3 in each of several settings, and how much faster lambda* rises in the first of them.

    Attributes:
        settings: the first is what others are held against; the same seeds are trained in all.
        widths: thin to wide.
        lams: of the grid, at least five.
        seeds: trainings of each lambda and width in each setting, at least three.
        chosen: names of settings, of which the one that is best on ``val`` is chosen at each width
            and lambda. It is one more setting, and nothing more is trained for it.
        chosen_words: how a sentence on that goes on.
        compared: names of the settings that are held against the first; ``CHOSEN`` may be one.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    settings: tuple[Setting, ...]
    widths: tuple[float, ...]
    lams: tuple[float, ...]
    seeds: int = 5
    chosen: tuple[str, ...] = ()
    chosen_words: str = ""
    compared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [setting.name for setting in self.settings]
        known = {*names, CHOSEN} if self.chosen else set(names)
        refuse_unless(
            (
                len(names) > 1 and len(set(names)) == len(names),
                "2 or more settings of different names",
                names,
                "lambda* in one is held against that in another",
            ),
            (
                len(self.widths) > 1 and all(a < b for a, b in pairwise(self.widths)),
                "2 or more rising widths",
                self.widths,
                "pass such as (16, 64, 256)",
            ),
            (
                len(set(self.lams)) >= LEAST and min(self.lams) > 0,
                f"{LEAST} or more lambdas above 0",
                self.lams,
                "a width's curve takes as many",
            ),
            (self.seeds >= 3, "3 or more seeds", self.seeds, "the jackknife takes three"),
            (
                set(self.chosen) <= set(names) and set(self.compared) <= known,
                f"chosen and compared out of {', '.join(sorted(known))}",
                f"chosen {self.chosen}, compared {self.compared}",
                "name settings of the study",
            ),
            *(
                has_sgd(setting.base, f"{setting.name} divides the loss")
                for setting in self.settings
                if setting.divided
            ),
        )

    @property
    def first(self) -> Setting:
        """What others are held against."""
        return self.settings[0]

    @property
    def words(self) -> Mapping[str, str]:
        """How the sentence on each setting goes on, by name."""
        words = {setting.name: setting.words for setting in self.settings}
        return {**words, CHOSEN: self.chosen_words} if self.chosen else words

    @property
    def claims(self) -> tuple[Claim, ...]:
        """H3 in each setting; the comparisons are the primary ones."""
        return (*self._rises(), *self._comparisons())

    def _rises(self) -> Iterator[Claim]:
        for name, words in self.words.items():
            yield Claim(
                f"H3-{name}",
                f"The best lambda rises with width {words}.",
                SOURCE,
                partial(self._slope_effects, name=name),
                f"a slope of log lambda* on log width below {DELTA:g}",
                primary=False,
            )

    def _comparisons(self) -> Iterator[Claim]:
        for name in self.compared:
            yield Claim(
                f"less-{name}",
                f"The best lambda rises less {self.words[name]} than {self.first.words}.",
                SOURCE,
                partial(self._difference_effects, name=name),
                f"slopes that differ by less than {DELTA:g}",
            )

    @property
    def experiments(self) -> tuple[Experiment[Any], ...]:
        """The grid, once in each setting, with the same seeds."""
        arms = lambda_arms(self.lams)
        return tuple(
            Experiment(
                setting.name,
                arms,
                self.widths,
                self.seeds,
                setting.recipe,
                seeds_of=None if setting is self.first else self.first.name,
            )
            for setting in self.settings
        )

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The slopes; robust accuracy in each setting; what was chosen on ``val``."""
        evidence = pooled(findings)
        shown = {
            "Slope of log lambda* on log width": self._slopes_table(evidence),
            **self._differences(evidence),
            "Robust accuracy (after the last epoch, on test)": accuracies(findings),
        }
        if self.chosen:
            shown["What is chosen on val at each width and lambda"] = self._choices_table(evidence)
        return shown

    def figures(self, findings: Findings) -> Sequence[Drawing]:
        """Accuracy by lambda and width, in each setting."""
        return [
            means_by_arm(evidence.trials, LAST_ACCURACY, f"Robust accuracy {self.words[name]}")
            for name, evidence in findings.items()
        ]

    # --- slopes ---

    def trials_of(self, evidence: Evidence, name: str) -> pd.DataFrame:
        """The trainings by which a setting is judged: sound ones that were measured.

        ``CHOSEN``: of each width and lambda those of the setting that is best on ``val``, mean over
        seeds.
        """
        trials = sound(with_val(evidence)).dropna(subset=[LAST])
        if name != CHOSEN:
            return pd.DataFrame(trials[trials["experiment"] == name])
        among = trials[trials["experiment"].isin(self.chosen)]
        return chosen_on_val(among, ("width", "arm"), "experiment")

    def slopes(self, evidence: Evidence, name: str) -> Mapping[str, tuple[float, ...]]:
        """By family of curves, and seed, the jackknife's pseudo-value of the slope in a setting.

        Raises:
            NotDecidableError: see ``peak_slopes``.
        """
        return peak_slopes(self.trials_of(evidence, name), LAST)

    def _slope_effects(self, evidence: Evidence, name: str) -> list[Effect]:
        return [
            Effect(f"slope of log lambda* on log width, by the {family}", "", slopes, DELTA)
            for family, slopes in self.slopes(evidence, name).items()
        ]

    def _difference_effects(self, evidence: Evidence, name: str) -> list[Effect]:
        """The slope of the first setting less that of another, seed by seed.

        Raises:
            NotDecidableError: lambda* cannot be placed in one of the two.
        """
        ours, theirs = (self.slopes(evidence, each) for each in (self.first.name, name))
        effects = []
        for family, slopes in ours.items():
            others = theirs[family]
            if len(slopes) != len(others):
                have = f"{counted(len(slopes), 'seed')} and {len(others)}"
                raise NotDecidableError(f"the two settings have {have}: trainings are missing")
            differences = tuple(np.subtract(slopes, others).tolist())
            what = f"difference of slopes, by the {family}"
            effects.append(Effect(what, "", differences, DELTA))
        return effects

    def _slopes_table(self, evidence: Evidence) -> pd.DataFrame:
        rows = []
        for name in self.words:
            trials = self.trials_of(evidence, name)
            texts = dict.fromkeys(FAMILIES, "")
            reason = ""
            try:
                slopes = peak_slopes(trials, LAST)
                texts = {family: estimate(values).text() for family, values in slopes.items()}
            except NotDecidableError as error:
                reason = str(error)
            rows.append(
                {
                    "setting": name,
                    **texts,
                    "seeds": trials["seed"].nunique(),
                    "why there is none": reason,
                }
            )
        return pd.DataFrame(rows)

    def _differences(self, evidence: Evidence) -> Mapping[str, pd.DataFrame]:
        """By caption: one row per setting whose slopes can be held against the first one's."""
        rows = []
        for name in list(self.words)[1:]:
            try:
                effects = self._difference_effects(evidence, name)
            except NotDecidableError:
                continue
            texts = [estimate(effect.per_seed).text() for effect in effects]
            rows.append(
                {
                    "setting": name,
                    **dict(zip(FAMILIES, texts, strict=True)),
                    "planned": "yes" if name in self.compared else "no",
                }
            )
        caption = f"Slope in {self.first.name} less that in another setting, seed by seed"
        return {caption: pd.DataFrame(rows)} if rows else {}

    def _choices_table(self, evidence: Evidence) -> pd.DataFrame:
        """One row per width, a column per lambda: the setting, and what it reaches."""
        trials = self.trials_of(evidence, CHOSEN)
        rows = []
        for width, of_width in trials.groupby("width"):
            row = {"width": f"{width:g}"}
            for lam, cell in of_width.groupby("lam"):
                row[f"lam {lam:g}"] = f"{cell['experiment'].iloc[0]}: {percent(cell[LAST])}"
            rows.append(row)
        return pd.DataFrame(rows).fillna("")


def accuracies(findings: Findings) -> pd.DataFrame:
    """One row per setting and width, a column per lambda: mean robust accuracy in percent."""
    rows = []
    for name, evidence in findings.items():
        for width, of_width in evidence.trials.groupby("width"):
            means = 100 * of_width.groupby("lam")[LAST].mean()
            cells = {f"lam {lam:g}": f"{mean:.2f}" for lam, mean in means.items()}
            rows.append({"setting": name, "width": f"{width:g}", **cells})
    # A lambda may be missing at a width, where none of its trainings ended.
    return pd.DataFrame(rows).fillna("")
