"""WAR (arXiv 2010.01279) where the thin net's lambda costs a wide net points: under wrong labels.

A wide net memorises wrong labels at a lambda at which a thin one cannot, so it takes a larger one,
and reusing the thin net's costs it points. (With right labels alone it costs some, too: see the
design ``dose-0`` in ``benchmarks/RESULTS.md``.) Each replicate is what one lab would do: it draws
its images and wrong labels, chooses everything on its own ``val``, and trains its own wide nets.
Only the images of ``test``, which judge, are those of all replicates. Nets are judged as they are
after their last epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd

from robsearch.claims.claim import Claim
from robsearch.claims.experiment import Experiment, Findings, pooled
from robsearch.errors import refuse_unless
from robsearch.papers.recipes import has_sgd, sgd_of
from robsearch.papers.war.arms import LambdaArm, RateArm, lambda_arms, rate_arms
from robsearch.papers.war.choices import best_on_val, law_lam, ratios_of, static_lam
from robsearch.papers.war.claims import GRID, LAW, NORMALISED
from robsearch.papers.war.experiments import at_width, normalised, with_factors
from robsearch.papers.war.rates import (
    FASTER,
    RATE_FACTORS,
    RATES,
    WAR_AT_RATE,
    WAR_RATES,
    at_all_rates,
    at_best_rate,
    grid_at_rate,
    rate_grid_table,
    rate_ways_table,
    rates_table,
    war_at_rates,
)
from robsearch.papers.war.variants import ARMS, VARIANTS, variants_table, war
from robsearch.papers.war.ways import (
    BETWEEN,
    DECAYED,
    DYNAMIC,
    LAWFUL,
    STATIC,
    WAYS,
    ways_frame,
)
from robsearch.papers.war.wrong_labels_claims import LONGER, LONGER_TIMES, claims
from robsearch.recipe import Recipe

if TYPE_CHECKING:
    from robsearch.drawing.style import Drawing


@dataclass(frozen=True)
class WrongLabelsStudy:
    """H1 to H4, and whether WAR adds anything to a second training of the wide net.

    Attributes:
        widths: thin to wide; the thinnest is searched, the widest is where ways of choosing lambda
            are compared. Those between serve the law, and the shape of lambda* over width.
        lams: of the grid, at least five.
        base: what is trained but for width, lambda and seed, by ``SGD``; its data set has
            ``draw="seed"``.
        seeds: replicates of the thinnest and the widest net, and of each way; H4 takes at least 10.
        between_seeds: those of them in which the widths between are trained too, and in which the
            loss is divided by 1 + lambda; 0 leaves both out, and the law.
        ways: whether WAR and what competes with it are trained. Without, H1 to H3 are judged.
        weight_decay: of the wide net that keeps the thin lambda and fights wrong labels by this.
        variant_seeds: those of the seeds in which WAR is trained with other constants, too; 0
            leaves that out.
        rate_seeds: those of the seeds in which the grid, and WAR, are trained at other learning
            rates, and thin nets for four times as long; 0 leaves all of that out.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    widths: tuple[float, ...]
    lams: tuple[float, ...]
    base: Recipe
    seeds: int = 16
    between_seeds: int = 5
    ways: bool = True
    weight_decay: float = 5e-3
    variant_seeds: int = 10
    rate_seeds: int = 0

    def __post_init__(self) -> None:
        draw = getattr(self.base.data, "draw", None)
        refuse_unless(
            (
                len(self.widths) > 1 and all(a < b for a, b in pairwise(self.widths)),
                "2 or more rising widths",
                self.widths,
                "pass such as (16, 64, 256)",
            ),
            (
                len(set(self.lams)) > 4 and min(self.lams) > 0,
                "5 or more lambdas above 0",
                self.lams,
                "a width's curve takes five",
            ),
            *(
                (
                    0 <= count <= self.seeds,
                    f"{name} from 0 to seeds={self.seeds}",
                    count,
                    "they are some of the same replicates",
                )
                for name, count in (
                    ("between_seeds", self.between_seeds),
                    ("variant_seeds", self.variant_seeds),
                    ("rate_seeds", self.rate_seeds),
                )
            ),
            (
                draw == "seed",
                'a base whose data set has draw="seed"',
                draw,
                "so that each replicate draws images and wrong labels of its own",
            ),
            has_sgd(self.base, "its weight decay and its rate are changed"),
            (
                self.base.eps_warmup == 0,
                "a base with eps_warmup=0",
                self.base.eps_warmup,
                "leave it out: WAR in the paper's form, one of the arms, cannot wait for it",
            ),
            (
                self.base.clip_gradient is None,
                "a base without clip_gradient",
                self.base.clip_gradient,
                "leave it out: a clipped gradient does not grow with the loss",
            ),
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
        """H1 to H4, and what stands beside them; each says under how many wrong labels, for some of
        them fail where all labels are right."""
        n = self.between_seeds
        of_study = claims(
            self.widths,
            between=n > 0 and len(self.widths) > 2,
            normalised=n > 0,
            ways=self.ways,
            rates=self._rates,
        )
        share = getattr(self.base.data, "label_noise", 0.0)
        where = f"{100 * share:g} % wrong labels" if share else "no wrong labels"
        return tuple(
            replace(claim, sentence=f"{claim.sentence[:-1]} ({where}).") for claim in of_study
        )

    @property
    def rate_arms(self) -> Mapping[str, tuple[RateArm, ...]]:
        """The grid at other learning rates than the base's, by experiment."""
        return {name: rate_arms(self.lams, factors) for name, factors in RATE_FACTORS.items()}

    @property
    def experiments(self) -> tuple[Experiment[Any], ...]:
        """The grid at both ends; the ways, in the same replicates; the widths between, the law that
        they give, and the grid with the loss divided; WAR with other constants; the grid at other
        learning rates, thin nets that are trained longer, and WAR at those rates."""
        ends = (self.thin, self.wide)
        between = self.widths[1:-1]
        grid = lambda_arms(self.lams)
        n = self.between_seeds
        experiments: list[Experiment[Any]] = [
            Experiment(GRID, grid, ends, self.seeds, self._constant)
        ]
        if self.ways:
            ways = (STATIC, DYNAMIC, DECAYED)
            experiments.append(self._in_each_replicate(WAYS, ways, self.seeds, self._chosen))
        if n and between:
            experiments.append(
                Experiment(BETWEEN, grid, between, n, self._constant, seeds_of=GRID),
            )
        if n and between and self.ways:
            experiments.append(
                Experiment(LAWFUL, (LAW,), (self.wide,), self.seeds, self._by_law, seeds_of=GRID)
            )
        if n:
            experiments.append(
                Experiment(NORMALISED, grid, ends, n, self._normalised, seeds_of=GRID)
            )
        if self.ways and self.variant_seeds:
            n = self.variant_seeds
            experiments.append(self._in_each_replicate(VARIANTS, ARMS, n, self._chosen))
        if self.rate_seeds:
            n = self.rate_seeds
            thin = ends[:1]
            at_rates = self.rate_arms
            experiments += [
                Experiment(RATES, at_rates[RATES], ends, n, self._at_rate, seeds_of=GRID),
                Experiment(LONGER, grid, thin, n, self._longer, seeds_of=GRID),
                Experiment(FASTER, at_rates[FASTER], ends, n, self._at_rate, seeds_of=GRID),
            ]
        if self.rate_seeds and self.ways:
            arms = tuple(WAR_AT_RATE)
            n = self.rate_seeds
            experiments.append(self._in_each_replicate(WAR_RATES, arms, n, self._war_at_rate))
        return tuple(experiments)

    @property
    def _rates(self) -> Mapping[str, float]:
        """The factor on the learning rate of each arm that has another than the grid's."""
        if not self.rate_seeds:
            return {}
        return {arm.name: arm.lr for arms in self.rate_arms.values() for arm in arms}

    def _in_each_replicate(
        self,
        name: str,
        arms: tuple[str, ...],
        seeds: int,
        recipe: Callable[[str, float, Findings], Recipe],
    ) -> Experiment[str]:
        """At the widest net, in the replicates of the grid, each choosing for itself."""
        return Experiment(
            name,
            arms,
            (self.wide,),
            seeds,
            recipe,
            by_replicate=True,
            seeds_of=GRID,
        )

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The ways with their accuracy and cost; the grid; the widths' best lambdas."""
        from robsearch.papers.war.wrong_labels_tables import grid_table, tables

        ways = self._ways(findings)
        shown = dict(tables(findings, ways, self.widths))
        if VARIANTS in findings:
            shown["WAR with other constants"] = variants_table(findings, self.thin)
        if RATES in findings:
            shown |= self._rate_tables(findings, ways)
        if LONGER in findings:
            caption = f"Thin nets trained {LONGER_TIMES} times as long"
            shown[caption] = grid_table(findings, (LONGER,))
        return shown

    def _rate_tables(self, findings: Findings, ways: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
        evidence = pooled(findings)
        ends = (self.thin, self.wide)
        # Of an earlier version of the study the last rates may be missing.
        trained = [arm for name, arms in self.rate_arms.items() if name in findings for arm in arms]
        rates = {arm.name: arm.lr for arm in trained}
        every = at_all_rates(evidence, ends, rates)
        if every.empty:
            return {}
        at_best = at_best_rate(evidence, ends, rates)
        usual = "(times the usual one)"
        searched = f"Searching the learning rate, too, at width {self.wide:g} (last epoch, test)"
        return {
            f"Robust accuracy by learning rate {usual}, on test": rate_grid_table(every),
            f"At the learning rate that is best on val {usual}": rates_table(at_best),
            searched: rate_ways_table(every, war_at_rates(findings), ways, *ends),
        }

    def figures(self, findings: Findings) -> Sequence[Drawing]:
        """Accuracy by lambda and width, and the regret of each way."""
        from robsearch.papers.war.wrong_labels_tables import figures

        return figures(findings, self._ways(findings))

    def _ways(self, findings: Findings) -> pd.DataFrame:
        """Also of a grid alone, which says what the thin net's lambda loses."""
        return ways_frame(pooled(findings), self.thin, self.wide)

    # --- recipes ---

    def _constant(self, arm: LambdaArm, width: float, findings: Findings) -> Recipe:
        return at_width(self.base, width, arm.lam)

    def _normalised(self, arm: LambdaArm, width: float, findings: Findings) -> Recipe:
        return normalised(at_width(self.base, width, arm.lam), arm.lam)

    def _at_rate(self, arm: RateArm, width: float, findings: Findings) -> Recipe:
        return with_factors(at_width(self.base, width, arm.lam), arm.lr, 1.0)

    def _war_at_rate(self, arm: str, width: float, findings: Findings) -> Recipe:
        """The thin net is searched at this rate, too, and its ratio there is the target."""
        factor = WAR_AT_RATE[arm]
        if not findings:
            return with_factors(at_width(self.base, width, self.lams[0]), factor, 1.0)
        there = grid_at_rate(findings, factor, self._rates)
        lam = best_on_val(there, self.thin)
        schedule = war(ratios_of(there, self.thin, lam), lam)
        return with_factors(at_width(self.base, width, schedule), factor, 1.0)

    def _longer(self, arm: LambdaArm, width: float, findings: Findings) -> Recipe:
        recipe = at_width(self.base, width, arm.lam)
        return replace(recipe, epochs=LONGER_TIMES * recipe.epochs)

    def _chosen(self, arm: str, width: float, findings: Findings) -> Recipe:
        """What one replicate trains; in a dry run, where nothing is found, any constant lambda."""
        if not findings:
            return at_width(self.base, width, self.lams[0])
        lam = best_on_val(findings, self.thin)
        if arm == STATIC:
            static = static_lam(findings, self.thin, self.wide, self.lams)
            return at_width(self.base, width, static)
        if arm == DECAYED:
            sgd = replace(sgd_of(self.base, "its decay is set"), weight_decay=self.weight_decay)
            return at_width(replace(self.base, optimiser=sgd), width, lam)
        target = ratios_of(findings, self.thin, lam)
        return at_width(self.base, width, war(target, lam, arm))

    def _by_law(self, arm: str, width: float, findings: Findings) -> Recipe:
        if not findings:
            return at_width(self.base, width, self.lams[0])
        lam = law_lam(findings, (GRID, BETWEEN), self.wide, self.lams)
        return at_width(self.base, width, lam)
