"""Width Adjusted Regularization (arXiv 2010.01279): the experiments that test it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from robsearch.claims.experiment import Experiment, Found
from robsearch.claims.form import Claim
from robsearch.claims.war_claims import (
    LAW,
    MATCHED,
    ORACLE,
    SIX,
    THIN,
    WAR_LOG,
    WAR_PAPER,
    at_one_learning_rate,
    claims,
)
from robsearch.claims.war_tables import tables
from robsearch.errors import InputError, refusal, refuse_unless
from robsearch.laws import Point, PowerLaw
from robsearch.naming import names_of
from robsearch.recipe import Recipe
from robsearch.schedules import FLOOR, WAR, Fixed
from robsearch.selection import sound

if TYPE_CHECKING:
    from robsearch.report.canvas import Drawing

ARMS = (THIN, SIX, LAW, WAR_PAPER, WAR_LOG, MATCHED, ORACLE)
FINAL = "WAR's final lambda"
CONSTANTS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "alpha 0.01": {"alpha": 0.01},
    "alpha 0.03": {"alpha": 0.03},
    "alpha 0.3": {"alpha": 0.3},
    "ema 0": {"ema": 0.0},
    "ema 0.99": {"ema": 0.99},
    "frozen at half": {"freeze_at": 0.5},
}
"""What is varied of the epoch-matched WAR, one constant at a time."""
LR_FACTORS = (0.5, 1.0, 2.0)
DECAY_FACTORS = (0.2, 1.0, 5.0)
REFERENCE = 6.0
"""At this lambda the control that divides the loss by 1 + lam has the learning rate of the others."""


@dataclass(frozen=True)
class WidthStudy:
    """H1 to H5: a grid of lambdas at several widths, then ways to choose lambda at the widest net, on fresh seeds.

    Attributes:
        widths: thin to wide; the thinnest yields WAR's target, the widest is where the ways are compared.
        lams: of the grid, at least three, the same at each width.
        base: what is trained but for the model's width, lambda and the seed.
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
        rising = all(a < b for a, b in zip(self.widths, self.widths[1:], strict=False))
        positive = all(lam > 0 for lam in self.lams)
        least = min(self.seeds, self.arm_seeds, self.control_seeds + 1)
        refuse_unless(
            (len(self.widths) > 2 and rising, "3 or more rising widths", self.widths, "pass such as (16, 64, 256)"),
            (len(set(self.lams)) > 2 and positive, "3 or more lambdas above 0", self.lams, "a peak takes three"),
            (least >= 1, "at least one seed each, controls 0 or more", least, "3 and 10 are usual"),
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
        """H1 to H5; where there are controls, also H3 of nets whose loss is divided by 1 + lambda."""
        found = claims(self.thin, self.wide)
        return (*found, at_one_learning_rate(found[2])) if self.control_seeds else found

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """The grid, the ways on fresh seeds, and the controls."""
        ends, n = (self.thin, self.wide), self.control_seeds
        grid = tuple(self._arms)
        planned = (
            Experiment("grid", grid, self.widths, self.seeds, self._constant),
            Experiment("arms", ARMS, (self.wide,), self.arm_seeds, self._way),
            Experiment("constants", (*CONSTANTS, FINAL), (self.wide,), n, self._varied),
            Experiment("normalised", grid, ends, n, self._normalised),
            Experiment("retuned", tuple(self._retunings), ends, n, self._retuned),
        )
        return planned if n else planned[:2]

    def tables(self, found: Found) -> Mapping[str, pd.DataFrame]:
        """The ways with their accuracy, regret and cost; the controls; other windows of H3."""
        return tables(found, self.thin, self.wide, self.lams)

    def figures(self, found: Found) -> Sequence[Drawing]:
        """Accuracy along lambda, regret against cost, ratio and lambda over training."""
        from robsearch.claims.war_figures import figures

        return list(figures(found, self.thin, self.wide, self.best_arm(self.thin, found)))

    # -- recipes -----------------------------------------------------------------------------------------------

    def at(self, width: float, lam: float) -> Recipe:
        """The base at a width with a constant lambda."""
        model: Any = self.base.model
        return replace(self.base, model=replace(model, width=width), lam=Fixed(lam))

    @property
    def _arms(self) -> dict[str, float]:
        """The arms of the grid with their lambdas."""
        return {f"lam {name}": lam for lam, name in names_of(self.lams).items()}

    def _constant(self, arm: str, width: float, found: Found) -> Recipe:
        return self.at(width, self._arms[arm])

    def _way(self, arm: str, width: float, found: Found) -> Recipe:
        """One way of choosing lambda at the widest net; in a dry run, where nothing is found, the thin one."""
        if not found:
            return self.at(width, self.lams[0])
        lam = {THIN: self.thin_lam, SIX: lambda _: 6.0, LAW: self.law_lam, ORACLE: self.best_lam(width)}.get(arm)
        if lam is not None:
            return self.at(width, lam(found))
        return replace(self.at(width, 0.0), lam=self._war(arm, found))

    def _war(self, arm: str, found: Found) -> WAR:
        ratio, lam = self.thin_ratio(found), self.thin_lam(found)
        if arm == MATCHED:
            return WAR(target=ratio, lam_init=lam)
        constant = self.peak_ratio(found)
        return WAR(target=constant, form="paper") if arm == WAR_PAPER else WAR(target=constant, lam_init=lam)

    def _varied(self, arm: str, width: float, found: Found) -> Recipe:
        if not found:
            return self.at(width, self.lams[0])
        if arm == FINAL:
            ends = found["arms"].trials
            return self.at(width, float(ends.loc[ends["arm"] == MATCHED, "lam"].median()))
        return replace(self.at(width, 0.0), lam=replace(self._war(MATCHED, found), **CONSTANTS[arm]))

    def _normalised(self, arm: str, width: float, found: Found) -> Recipe:
        """The loss times ``(1 + 6) / (1 + lam)``, as the learning rate and weight decay that amount to it.

        For SGD with momentum at a constant lambda, a loss divided by s moves the weights as a learning rate divided
        by s and a weight decay multiplied by s.
        """
        lam = self._arms[arm]
        return self._with(self.at(width, lam), lr=(1 + REFERENCE) / (1 + lam), decay=(1 + lam) / (1 + REFERENCE))

    @property
    def _retunings(self) -> dict[str, tuple[str, float, float]]:
        ends = {"thin": "thin lambda", "wide": "wide lambda"}
        return {
            f"{said}, lr x {lr:g}, weight decay x {decay:g}": (end, lr, decay)
            for end, said in ends.items()
            for lr in LR_FACTORS
            for decay in DECAY_FACTORS
        }

    def _retuned(self, arm: str, width: float, found: Found) -> Recipe:
        end, lr, decay = self._retunings[arm]
        lam = self.best_lam(self.thin if end == "thin" else self.wide)(found) if found else self.lams[0]
        return self._with(self.at(width, lam), lr=lr, decay=decay)

    def _with(self, recipe: Recipe, lr: float, decay: float) -> Recipe:
        own = recipe.optimiser
        return replace(recipe, optimiser=replace(own, lr=own.lr * lr, weight_decay=own.weight_decay * decay))

    # -- what the grid says ------------------------------------------------------------------------------------

    def best_arm(self, width: float, found: Found) -> str:
        """The arm of highest robust accuracy on ``val`` at a width, mean over seeds: what a search would return.

        Arms that lack a seed which another has, because a training failed or collapsed, are passed over.

        Raises:
            InputError: all trainings of the width collapsed.
        """
        grid = sound(found["grid"].trials)
        values = grid[grid["width"] == width].groupby("arm")["value"]
        if not len(values):
            do = "pass smaller lambdas, or a recipe that trains"
            raise InputError(refusal(f"a training of width {width:g} that has not collapsed", "none", do))
        return str(values.mean()[values.count() == values.count().max()].idxmax())

    def best_lam(self, width: float) -> Callable[[Found], float]:
        """The lambda of the ``best_arm``."""
        return lambda found: self._arms[self.best_arm(width, found)]

    def thin_lam(self, found: Found) -> float:
        """What a search at the thinnest width returns."""
        return self.best_lam(self.thin)(found)

    def thin_ratio(self, found: Found) -> tuple[tuple[float, float], ...]:
        """``L_nat / L_rob`` of the thin net at its best lambda, over training: (progress, ratio), geometric mean
        over seeds."""
        epochs = self._thin_epochs(found)
        natural, robust = (epochs[f"train/{term}_loss"].clip(lower=FLOOR) for term in ("natural", "robust"))
        means = np.exp((natural / robust).map(math.log).groupby(epochs["progress"]).mean())
        return tuple(zip(map(float, means.index), map(float, means), strict=True))

    def peak_ratio(self, found: Found) -> float:
        """The same at the epoch that is best on ``val`` (median over seeds): the constant target, zeta."""
        trials = found["grid"].trials
        own = trials[(trials["width"] == self.thin) & (trials["arm"] == self.best_arm(self.thin, found))]
        trace = self.thin_ratio(found)
        return trace[min(int(own["best_epoch"].median()), len(trace)) - 1][1]

    def _thin_epochs(self, found: Found) -> pd.DataFrame:
        epochs = found["grid"].epochs
        return epochs[(epochs["width"] == self.thin) & (epochs["arm"] == self.best_arm(self.thin, found))]

    def law_lam(self, found: Found) -> float:
        """A power law's lambda at the widest net, from all trainings at thinner ones, within the grid's range.

        Where they are too flat to place a peak, the line through each width's best lambda, log on log.
        """
        grid = sound(found["grid"].trials)
        thinner = grid[grid["width"] < self.wide]
        rows = thinner[["width", "lam", "value", "seed"]].itertuples(index=False)
        try:
            lam = PowerLaw.fit([Point(float(w), float(lam), float(v), int(s)) for w, lam, v, s in rows])(self.wide)
        except InputError:
            known = self.widths[:-1]
            line = np.polyfit(np.log(known), np.log([self.best_lam(width)(found) for width in known]), 1)
            lam = float(np.exp(np.polyval(line, np.log(self.wide))))
        return float(np.clip(lam, min(self.lams), max(self.lams)))
