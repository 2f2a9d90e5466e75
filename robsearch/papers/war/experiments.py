"""Width Adjusted Regularization (arXiv 2010.01279): the experiments that test it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from robsearch.claims.claim import Claim
from robsearch.claims.experiment import Experiment, Findings
from robsearch.errors import Condition, refuse_unless, refused
from robsearch.papers.recipes import has_sgd, sgd_of
from robsearch.papers.war.arms import LambdaArm, Retuning, Searched, Way, lambda_arms
from robsearch.papers.war.claims import (
    ARMS,
    CONSTANTS,
    GRID,
    LAW,
    MATCHED,
    NORMALISED,
    ORACLE,
    RETUNED,
    SIX,
    THIN,
    WAR_LOG,
    WAR_PAPER,
    at_one_learning_rate,
    best_of_complete,
    claims,
    lam_by_law,
    loss_ratio,
    term_claims,
)
from robsearch.papers.war.tables import tables
from robsearch.parts.schedules import WAR, Fixed
from robsearch.protocols import Schedule
from robsearch.recipe import Recipe
from robsearch.trials.selection import sound

if TYPE_CHECKING:
    from robsearch.drawing.style import Drawing

LR_FACTORS = (0.5, 1.0, 2.0)
DECAY_FACTORS = (0.2, 1.0, 5.0)
REFERENCE = 6.0
"""At this lambda the control that divides the loss by 1 + lam has the learning rate of the
others."""


@dataclass(frozen=True)
class WidthStudy:
    """H1 to H5: a grid of lambdas at several widths, then ways to choose lambda at the widest net,
    on fresh seeds.

    Attributes:
        widths: thin to wide; the thinnest yields WAR's target, the widest is where the ways are
            compared.
        lams: of the grid, at least three, the same at each width.
        base: what is trained but for the model's width, lambda and the seed; by ``SGD`` where
            there are controls.
        seeds: trainings of each lambda and width.
        arm_seeds: trainings of each way at the widest net; H4 takes at least 10.
        control_seeds: trainings of each arm of the controls; 0 leaves them out.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    widths: tuple[float, ...]
    lams: tuple[float, ...]
    base: Recipe
    seeds: int = 3
    arm_seeds: int = 10
    control_seeds: int = 3

    def __post_init__(self) -> None:
        least = min(self.seeds, self.arm_seeds, self.control_seeds + 1)
        refuse_unless(
            (
                len(self.widths) > 2 and all(a < b for a, b in pairwise(self.widths)),
                "3 or more rising widths",
                self.widths,
                "pass such as (16, 64, 256)",
            ),
            (
                len(set(self.lams)) > 2 and min(self.lams) > 0,
                "3 or more lambdas above 0",
                self.lams,
                "a peak takes three",
            ),
            (
                least >= 1,
                "at least one seed each, controls 0 or more",
                least,
                "3 and 10 are usual",
            ),
            (
                self.base.eps_warmup == 0,
                "a base with eps_warmup=0",
                self.base.eps_warmup,
                "leave it out: WAR in the paper's form, one of the arms, cannot wait for it",
            ),
            *self._control_conditions(),
        )

    def _control_conditions(self) -> Iterator[Condition]:
        """The controls move the learning rate and weight decay as a factor on the loss would."""
        if self.control_seeds > 0:
            do = "its steps grow with the loss; or pass control_seeds=0"
            yield has_sgd(self.base, do)
            clip = self.base.clip_gradient
            yield Condition(
                clip is None,
                "a base recipe without clip_gradient for the controls",
                clip,
                "a clipped gradient does not grow with the loss; or pass control_seeds=0",
            )

    @property
    def thin(self) -> float:
        """The width that is searched to learn from."""
        return self.widths[0]

    @property
    def wide(self) -> float:
        """The width at which ways of choosing lambda are compared."""
        return self.widths[-1]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """H1 to H5; where there are controls, also H3 of nets whose loss is divided by 1 +
        lambda."""
        h1, *others = claims(self.thin, self.wide)
        of_paper = (h1, *term_claims(h1), *others)
        if not self.control_seeds:
            return of_paper
        return (*of_paper, at_one_learning_rate(others[1]))

    @property
    def experiments(self) -> tuple[Experiment[Any], ...]:
        """The grid, the ways on fresh seeds, and the controls."""
        wide = (self.wide,)
        ends = (self.thin, self.wide)
        grid = lambda_arms(self.lams)
        n = self.control_seeds
        main = (
            Experiment(GRID, grid, self.widths, self.seeds, self._constant),
            Experiment(ARMS, self.ways, wide, self.arm_seeds, self._chosen),
        )
        if not n:
            return main
        return (
            *main,
            Experiment(CONSTANTS, self._variations, wide, n, self._chosen),
            Experiment(NORMALISED, grid, ends, n, self._normalised),
            Experiment(RETUNED, self.retunings, ends, n, self._retuned),
        )

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The ways with their accuracy, regret and cost; the controls; other windows of H3."""
        return tables(findings, self._searched, self.lams, self.retunings)

    def figures(self, findings: Findings) -> Sequence[Drawing]:
        """Accuracy by lambda and width, regret, ratio and lambda over training."""
        from robsearch.papers.war.figures import figures

        return figures(findings, self._searched, self._thin_epochs(findings))

    # --- arms ---

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways of choosing lambda that are compared."""
        thin = (self.thin,)
        return (
            Way(THIN, partial(self._best, self.thin), thin),
            Way(SIX, lambda findings: Fixed(6.0)),
            Way(LAW, lambda findings: Fixed(self.law_lam(findings)), self.widths[:-1]),
            Way(WAR_PAPER, self._paper_war, thin),
            Way(WAR_LOG, partial(self._log_war, self.peak_ratio), thin),
            Way(MATCHED, partial(self._log_war, self.thin_ratio), thin),
            Way(ORACLE, partial(self._best, self.wide), (self.wide,)),
        )

    @property
    def _searched(self) -> Searched:
        """The widths that each way searches, by which its cost is counted."""
        return {way.name: way.searched for way in self.ways}

    def _best(self, width: float, findings: Findings) -> Fixed:
        return Fixed(self.best_lam(width, findings))

    def _paper_war(self, findings: Findings) -> WAR:
        return WAR(target=self.peak_ratio(findings), form="paper")

    def _log_war(self, target: Callable[[Findings], Any], findings: Findings) -> WAR:
        """WAR that begins with the thin net's best lambda; ``target`` says what ratio it keeps."""
        return WAR(target=target(findings), lam_init=self.best_lam(self.thin, findings))

    @property
    def _variations(self) -> tuple[Way, ...]:
        """The epoch-matched WAR, one constant at a time another; and lambda held at its last."""
        changes: dict[str, dict[str, Any]] = {
            "as it is": {},
            "alpha 0.01": {"alpha": 0.01},
            "alpha 0.03": {"alpha": 0.03},
            "alpha 0.3": {"alpha": 0.3},
            "ema 0": {"ema": 0.0},
            "ema 0.99": {"ema": 0.99},
            "frozen at half": {"freeze_at": 0.5},
        }

        def varied(name: str, findings: Findings) -> WAR:
            return replace(self._log_war(self.thin_ratio, findings), **changes[name])

        def final(findings: Findings) -> Fixed:
            trials = findings[ARMS].trials
            lams = trials.loc[trials["arm"] == MATCHED, "lam"]
            return Fixed(float(lams.median()))

        variations = [Way(name, partial(varied, name)) for name in changes]
        return (*variations, Way("WAR's final lambda", final))

    @property
    def retunings(self) -> tuple[Retuning, ...]:
        """The best lambdas of both ends, each with all rates and decays."""
        ends = {"thin lambda": self.thin, "wide lambda": self.wide}
        arms = product(ends, LR_FACTORS, DECAY_FACTORS)
        return tuple(Retuning(name, ends[name], lr, decay) for name, lr, decay in arms)

    # --- recipes ---

    def at(self, width: float, lam: float | Schedule) -> Recipe:
        """The base at a width with a lambda, or a schedule of it."""
        return at_width(self.base, width, lam)

    def _constant(self, arm: LambdaArm, width: float, findings: Findings) -> Recipe:
        return self.at(width, arm.lam)

    def _chosen(self, way: Way, width: float, findings: Findings) -> Recipe:
        """In a dry run, where nothing is found, any constant lambda."""
        if not findings:
            return self.at(width, self.lams[0])
        return self.at(width, way.schedule(findings))

    def _normalised(self, arm: LambdaArm, width: float, findings: Findings) -> Recipe:
        return normalised(self.at(width, arm.lam), arm.lam)

    def _retuned(self, arm: Retuning, width: float, findings: Findings) -> Recipe:
        lam = self.best_lam(arm.width, findings) if findings else self.lams[0]
        return with_factors(self.at(width, lam), arm.lr, arm.decay)

    # --- what the grid says ---

    def best_arm(self, width: float, findings: Findings) -> LambdaArm:
        """The arm of highest robust accuracy on ``val`` at a width, mean over seeds: what a search
        would return.

        Arms that lack a seed which another has, because a training failed or collapsed, are passed
        over.

        Raises:
            InputError: all trainings of the width collapsed.
        """
        grid = sound(findings[GRID].trials)
        trials = grid[grid["width"] == width]
        if trials.empty:
            expected = f"a training of width {width:g} that has not collapsed"
            do = "pass smaller lambdas, or a recipe that trains"
            raise refused(expected, "none", do)
        best = best_of_complete(trials, "arm", "value")
        return next(arm for arm in lambda_arms(self.lams) if arm.name == best)

    def best_lam(self, width: float, findings: Findings) -> float:
        """The lambda of the ``best_arm``: what a search at that width returns."""
        return self.best_arm(width, findings).lam

    def thin_ratio(self, findings: Findings) -> tuple[tuple[float, float], ...]:
        """``L_nat / L_rob`` of the thin net at its best lambda, over training: (progress, ratio),
        geometric mean over seeds."""
        epochs = self._thin_epochs(findings)
        # The mean over seeds is one of logs, as WAR steers a ratio.
        logs = loss_ratio(epochs).map(math.log)
        means = np.exp(logs.groupby(epochs["progress"]).mean())
        return tuple((float(progress), float(mean)) for progress, mean in means.items())

    def peak_ratio(self, findings: Findings) -> float:
        """The same at the epoch that is best on ``val`` (median over seeds): the constant target,
        zeta."""
        trials = self._thin_best(findings[GRID].trials, findings)
        ratios = self.thin_ratio(findings)
        # Epochs are counted from 1.
        best_epoch = min(int(trials["best_epoch"].median()), len(ratios))
        return ratios[best_epoch - 1][1]

    def _thin_epochs(self, findings: Findings) -> pd.DataFrame:
        return self._thin_best(findings[GRID].epochs, findings)

    def _thin_best(self, rows: pd.DataFrame, findings: Findings) -> pd.DataFrame:
        """Those of the thin net at its best lambda."""
        best = self.best_arm(self.thin, findings)
        of_thin = rows[rows["width"] == self.thin]
        return of_thin[of_thin["arm"] == best.name]

    def law_lam(self, findings: Findings) -> float:
        """A power law's lambda at the widest net, from all trainings at thinner ones, within the
        grid's range.

        Where they are too flat to place a peak, the line through each width's best lambda, log on
        log.
        """
        grid = sound(findings[GRID].trials)
        thinner = grid[grid["width"] < self.wide]
        return lam_by_law(thinner, "value", self.wide, self.lams)


def at_width(base: Recipe, width: float, lam: float | Schedule) -> Recipe:
    """A recipe at a width with a lambda, or a schedule of it."""
    # Not every model has a width; those that are compared over widths do.
    model: Any = base.model
    schedule = lam if isinstance(lam, Schedule) else Fixed(lam)
    return replace(base, model=replace(model, width=width), lam=schedule)


def normalised(recipe: Recipe, lam: float) -> Recipe:
    """With the loss times ``(1 + 6) / (1 + lam)``, as the learning rate and weight decay that
    amount to it.

    For SGD with momentum at a constant lambda, a loss divided by s moves the weights as a learning
    rate divided by s and a weight decay multiplied by s.
    """
    # At the reference both factors are 1.
    lr = (1 + REFERENCE) / (1 + lam)
    decay = (1 + lam) / (1 + REFERENCE)
    return with_factors(recipe, lr, decay)


def with_factors(recipe: Recipe, lr: float, decay: float) -> Recipe:
    """The recipe with its learning rate and weight decay times these factors."""
    sgd = sgd_of(recipe, "its rate and decay are scaled")
    scaled = replace(
        sgd,
        lr=sgd.lr * lr,
        weight_decay=sgd.weight_decay * decay,
    )
    return replace(recipe, optimiser=scaled)
