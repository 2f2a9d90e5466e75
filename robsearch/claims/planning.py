"""What a study would take, from a measured epoch and a measured attack; and what it could see, from
the spread of a pilot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from robsearch.claims.claim import Claim, Evidence, Part, Verdict, strictest_level, weigh
from robsearch.claims.experiment import Experiment, PaperStudy
from robsearch.claims.statistics import LEAST_SEEDS, POWER, power, seeds_for
from robsearch.errors import counted, refusal, refused
from robsearch.trials.pricing import TrainingCost, measure_cost


class Planned(NamedTuple):
    """One experiment of a dry run, with what all its trainings take together."""

    experiment: Experiment[Any]
    cost: TrainingCost


def plan(study: PaperStudy) -> list[Planned]:
    """What ``validate`` would train, with the time of it on one device like this one.

    What arms of a later experiment depend on is not known yet: at each width an epoch and the
    judging of all arms are taken to cost what they do in the first arm of the first experiment
    there. Measures are not counted, but for accuracy under attack.
    """
    costs: dict[float, TrainingCost] = {}
    planned = []
    for experiment in study.experiments:
        training = 0.0
        judging = 0.0
        for width in experiment.widths:
            # Nothing has been found yet.
            recipes = [experiment.recipe(arm, width, {}) for arm in experiment.arms]
            # The epoch is measured once for each width, which takes seconds to minutes.
            if width not in costs:
                costs[width] = measure_cost(recipes[0])
            epochs = sum(recipe.epochs for recipe in recipes)
            training += experiment.seeds * epochs * costs[width].training
            judging += experiment.seeds * len(recipes) * costs[width].judging
        planned.append(Planned(experiment, TrainingCost(training, judging)))
    return planned


# --- power ---


class PlannedPower(NamedTuple):
    """What a plan can see of one part of a claim.

    Attributes:
        claim: its name.
        part: as the pilot has it.
        effect: what the plan must see: the smallest that matters, or what the pilot's 95 % interval
            has shown already, if that is more.
        seeds: that the plan has for it.
        power: the probability of seeing it, at the pilot's spread and the strictest level of Holm's
            correction.
        needed: seeds for a power of 80 %; None above 1,000.
        primary: whether the claim is one of the paper's.
    """

    claim: str
    part: Part
    effect: float
    seeds: int
    power: float
    needed: int | None
    primary: bool

    def refusal(self) -> str:
        """Why this is too little, in words."""
        seen = f"{self.power:.2f} with {counted(self.seeds, 'seed')}"
        needed = "more than 1,000 seeds" if self.needed is None else counted(self.needed, "seed")
        expected = f"a power of {POWER:g} for {self.claim} ({self.part.effect.what})"
        return refusal(expected, seen, f"plan {needed}, or judge on more test images")


class UnseenClaim(NamedTuple):
    """A claim of which the pilot cannot tell what the plan could see.

    Attributes:
        claim: which.
        reason: why not.
    """

    claim: Claim
    reason: str

    def refusal(self) -> str:
        """Why a plan with this claim is too little, in words."""
        expected = f"a pilot and a plan by which {self.claim.name} can be judged"
        do = "change the plan so that it can, or pass a pilot that shows it"
        return refusal(expected, self.reason.removesuffix("."), do)


class PowerAnalysis(NamedTuple):
    """What a plan can see at the spread of a pilot.

    Attributes:
        parts: of each claim, those that have a smallest effect that matters.
        unseen: claims of which nothing, or not everything, can be said.
    """

    parts: tuple[PlannedPower, ...]
    unseen: tuple[UnseenClaim, ...]

    @property
    def refusals(self) -> list[str]:
        """Why primary claims could not be decided, in words; empty for a plan that suffices."""
        weak = [each.refusal() for each in self.parts if each.primary and each.power < POWER]
        return [*weak, *(each.refusal() for each in self.unseen if each.claim.primary)]


def power_analysis(study: PaperStudy, pilot: Evidence) -> PowerAnalysis:
    """What a plan can see of each claim.

    Args:
        study: the plan.
        pilot: evidence of the same experiments, whatever their number of seeds, three at least.

    Raises:
        InputError: the pilot has none of the plan's experiments, or fewer seeds.
    """
    _check_seeds(study, pilot)
    planned = enlarged(pilot, study)
    parts: list[PlannedPower] = []
    unseen = []
    for claim in study.claims:
        seen = weigh(claim, pilot)
        larger = weigh(claim, planned)
        reason = _why_unseen(seen, larger)
        if reason:
            unseen.append(UnseenClaim(claim, reason))
        if seen.parts and larger.parts:
            level = strictest_level(claim, study.claims)
            parts += _powers(seen, larger, level)
    return PowerAnalysis(tuple(parts), tuple(unseen))


def _check_seeds(study: PaperStudy, pilot: Evidence) -> None:
    """A spread takes three seeds; of an experiment with fewer in the plan, as many."""
    lacking = []
    for experiment in study.experiments:
        seeds = pilot.of(experiment.name).trials["seed"].nunique()
        if 0 < seeds < min(LEAST_SEEDS, experiment.seeds):
            lacking.append(f"{counted(seeds, 'seed')} in {experiment.name}")
    if lacking:
        expected = f"a pilot of {counted(LEAST_SEEDS, 'seed')} or more in each experiment"
        raise refused(expected, ", ".join(lacking), "pass a validation of more seeds")


def _why_unseen(seen: Verdict, larger: Verdict) -> str:
    """Why the power for a claim, or for a part of it, is not known; empty where it is.

    Args:
        seen: the claim by the pilot.
        larger: by the pilot with the seeds of the plan.
    """
    if not seen.parts:
        return seen.reason
    if not larger.parts:
        return larger.reason
    if seen.seeds < LEAST_SEEDS:
        # One number has no spread, and that of two is hardly known.
        had = f"{counted(seen.seeds, 'seed')} in the pilot with all the trainings that it takes"
        return f"{had}, and a spread takes {LEAST_SEEDS}"
    least = seen.claim.least_seeds
    if larger.seeds < least:
        # Trainings that are missing in the pilot are taken to be missing as often in the plan.
        had = f"{counted(larger.seeds, 'seed')} in the plan with all the trainings that it takes"
        return f"{had}, and a verdict takes at least {least}"
    return ""


def _powers(seen: Verdict, larger: Verdict, level: float) -> Iterator[PlannedPower]:
    """Of each part that has a smallest effect that matters, and a spread."""
    for part, planned in zip(seen.parts, larger.parts, strict=True):
        matters = part.effect.expected or part.effect.delta
        # An effect that the pilot has shown already, on either side, is no smaller than that.
        effect = max(matters, part.estimate.low, -part.estimate.high)
        sd, n = part.estimate.sd, planned.estimate.n
        # What every seed agrees on, such as a cost, is no question of their number.
        if matters > 0 and sd > 0 and n > 1:
            yield PlannedPower(
                seen.claim.name,
                part,
                effect,
                n,
                power(effect, sd, n, level),
                seeds_for(effect, sd, level),
                seen.claim.primary,
            )


def enlarged(pilot: Evidence, study: PaperStudy) -> Evidence:
    """The pilot with as many seeds as are planned, each a copy of one of its own: it has the number
    of seeds of every effect."""
    frames: list[tuple[pd.DataFrame, ...]] = []
    for experiment in study.experiments:
        part = pilot.of(experiment.name)
        seeds = sorted(part.trials["seed"].unique())
        for seed in range(experiment.seeds if seeds else 0):
            of_seed = [frame[frame["seed"] == seeds[seed % len(seeds)]] for frame in part]
            frames.append(tuple(_renamed(frame, seed) for frame in of_seed))
    if not frames:
        names = ", ".join(experiment.name for experiment in study.experiments)
        do = "pass a validation of this study with fewer seeds"
        raise refused(f"a pilot with trainings of {names}", "none", do)
    return Evidence(*(pd.concat(parts) for parts in zip(*frames, strict=True)))


def _renamed(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    copy = frame.assign(seed=seed)
    if "trial" in copy:
        copy["trial"] = copy["trial"] + f"-seed-{seed}"
    return copy


def read_pilot(folder: Path) -> Evidence:
    """The evidence in a validation's folder.

    Raises:
        InputError: it has none.
    """
    files = [folder / f"{name}.parquet" for name in Evidence._fields]
    for file in files:
        if not file.exists():
            do = "pass the name of a finished validation, or its folder"
            raise refused(f"evidence in {folder}", f"no {file.name}", do)
    return Evidence(*map(pd.read_parquet, files))
