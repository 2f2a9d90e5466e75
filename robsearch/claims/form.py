"""The form of a claim: a sentence of a paper, the evidence it is held against, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from robsearch.claims.statistics import ALPHA, Effect, Estimate, estimate, holm, seeds_needed

Answer = Literal["supported", "refuted", "inconclusive"]


class Evidence(NamedTuple):
    """What a claim is held against.

    Attributes:
        trials: one row per finished training: ``experiment``, ``arm``, ``width``, ``seed`` (the replicate: two rows of
            one seed had the same first weights at a width and the same order of the data), ``lam`` (the last epoch's),
            ``seconds``, ``collapsed`` (``robsearch.selection``: out of peaks and laws), every average over ``test``
            (``test/robust_accuracy``, ``test_last/...``), shares in [0, 1].
        epochs: one row per training and epoch: ``experiment``, ``arm``, ``width``, ``seed``, ``epoch``, ``progress``
            (the middle of the epoch as a share of training), ``train/natural_loss`` and others.
    """

    trials: pd.DataFrame
    epochs: pd.DataFrame

    def of(self, experiment: str) -> Evidence:
        """The part of one experiment."""
        return Evidence(*(frame[frame["experiment"] == experiment] for frame in self))


class NotDecidableError(Exception):
    """The experiment cannot tell, whatever the seeds say: such as an assay without sensitivity."""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, as a test.

    Attributes:
        name: such as ``H1``.
        sentence: what is claimed.
        source: the paper, as an arXiv number.
        effects: from evidence to the effects that must all be positive for the claim to hold. It raises
            ``NotDecidableError`` where the experiment cannot tell.
        change: what would change our mind.
        least_seeds: below this number of seeds there is no verdict.
        primary: whether it is one of the paper's primary claims, over which Holm's correction goes.
    """

    name: str
    sentence: str
    source: str
    effects: Callable[[Evidence], Sequence[Effect]]
    change: str
    least_seeds: int = 3
    primary: bool = True


class Part(NamedTuple):
    """One effect of a claim, as the seeds saw it."""

    effect: Effect
    found: Estimate

    @property
    def refuted(self) -> bool:
        """The whole interval lies below the smallest effect that matters."""
        return self.found.high < self.effect.delta


class Verdict(NamedTuple):
    """What became of a claim.

    Attributes:
        claim: which.
        answer: ``refuted``: some part's interval lies wholly below its smallest effect that matters, even if above 0.
            ``supported``: every part's lies above 0, after Holm's correction over the primary claims. Else
            ``inconclusive``.
        parts: each effect with its estimate.
        p: of the claim, one-sided: the largest of its parts.
        p_holm: the same, corrected.
        needed: seeds that would decide an inconclusive claim, if the effect is what it seems to be, and Holm's
            correction as strict as it can be.
        reason: why nothing could be decided, where the experiment cannot tell.
    """

    claim: Claim
    answer: Answer
    parts: tuple[Part, ...] = ()
    p: float = 1.0
    p_holm: float = 1.0
    needed: int | None = None
    reason: str = ""

    @property
    def seeds(self) -> int:
        """The fewest seeds behind any part."""
        return min((part.found.n for part in self.parts), default=0)


def judge(claims: Sequence[Claim], evidence: Evidence) -> list[Verdict]:
    """A verdict for each claim, in their order; Holm's correction is over the primary ones."""
    found = [_weigh(claim, evidence) for claim in claims]
    adjusted = holm({verdict.claim.name: verdict.p for verdict in found if verdict.claim.primary})
    strictest = ALPHA / max(len(adjusted), 1)
    return [
        _answered(verdict, adjusted[verdict.claim.name], strictest)
        if verdict.claim.primary
        else _answered(verdict, verdict.p, ALPHA)
        for verdict in found
    ]


def _weigh(claim: Claim, evidence: Evidence) -> Verdict:
    try:
        effects = claim.effects(evidence)
    except NotDecidableError as error:
        return Verdict(claim, "inconclusive", reason=str(error))
    parts = tuple(Part(effect, effect.exact or estimate(effect.per_seed)) for effect in effects)
    return Verdict(claim, "inconclusive", parts, max(part.found.p for part in parts))


def _answered(verdict: Verdict, p_holm: float, strictest: float) -> Verdict:
    """``strictest``: the level at which the claim would pass whatever became of the others."""
    found = verdict._replace(p_holm=p_holm)
    if verdict.reason:
        return found
    if (n := verdict.seeds) < verdict.claim.least_seeds:
        told = f"{n} {'seed' if n == 1 else 'seeds'}, and a verdict takes at least {verdict.claim.least_seeds}"
        return found._replace(reason=told, needed=verdict.claim.least_seeds)
    if any(part.refuted for part in verdict.parts):
        return found._replace(answer="refuted")
    if p_holm < ALPHA:
        return found._replace(answer="supported")
    open_parts = [part for part in verdict.parts if part.found.p >= strictest]
    counts = [seeds_needed(part.found, part.effect.delta, strictest) for part in open_parts]
    return found._replace(needed=None if None in counts else max((n for n in counts if n), default=None))


def by_seed(trials: pd.DataFrame, number: Callable[[pd.DataFrame], float]) -> tuple[float, ...]:
    """One number from each seed's trainings; seeds whose number is not finite are left out."""
    found = (number(own) for _, own in trials.groupby("seed", sort=True))
    return tuple(float(each) for each in found if math.isfinite(each))


def contrast(trials: pd.DataFrame, metric: str, arm: str, other: str) -> tuple[float, ...]:
    """Metric of one arm less that of another, paired by seed, averaged over the widths that both have."""

    table = trials.pivot_table(index=["seed", "width"], columns="arm", values=metric)
    if not {arm, other} <= set(table):
        return ()
    paired = (table[arm] - table[other]).dropna()
    return tuple(float(each) for each in paired.groupby("seed").mean())


def points(shares: Iterable[float]) -> tuple[float, ...]:
    """Shares as percentage points."""
    return tuple(100 * share for share in shares)
