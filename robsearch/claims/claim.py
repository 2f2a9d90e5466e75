"""The form of a claim: a sentence of a paper, the evidence it is held against, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import pandas as pd

from robsearch.claims.statistics import ALPHA, Effect, Estimate, estimate, holm, seeds_needed
from robsearch.errors import counted

Answer = Literal["supported", "refuted", "inconclusive"]


class Evidence(NamedTuple):
    """The trials that a claim is judged by.

    Attributes:
        trials: one row per finished training: ``experiment``, ``arm`` (its name), ``width``,
            ``seed`` (the replicate: two rows of one seed had the same first weights at a width and
            the same order of the data), ``lam`` (the last epoch's), ``seconds``, ``collapsed``
            (``robsearch.trials.selection``: out of peaks and laws), every average over ``test``
            (``test/robust_accuracy``, ``test_last/...``), shares in [0, 1].
        epochs: one row per training and epoch: ``experiment``, ``arm``, ``width``, ``seed``,
            ``epoch``, ``progress`` (the middle of the epoch as a share of training),
            ``train/natural_loss`` and others.
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
        effects: from evidence to the effects that must all be positive for the claim to hold, in a
            sequence or as a generator. It raises ``NotDecidableError`` where the experiment cannot
            tell.
        change: what would change our mind.
        least_seeds: below this number of seeds there is no verdict.
        primary: whether it is one of the paper's primary claims, over which Holm's correction goes.
    """

    name: str
    sentence: str
    source: str
    effects: Callable[[Evidence], Iterable[Effect]]
    change: str
    least_seeds: int = 3
    primary: bool = True

    def beside(
        self,
        suffix: str,
        sentence: str,
        effects: Callable[[Evidence], Iterable[Effect]],
    ) -> Claim:
        """The same in another setting; beside the paper's, so without a part in the correction."""
        name = f"{self.name}-{suffix}"
        return replace(self, name=name, sentence=sentence, effects=effects, primary=False)


class Part(NamedTuple):
    """One effect of a claim, and what the seeds say of it."""

    effect: Effect
    estimate: Estimate

    @classmethod
    def of(cls, effect: Effect) -> Part:
        """With the effect's own estimate where it has one, else Student's."""
        return cls(effect, effect.exact or estimate(effect.per_seed))

    @property
    def refuted(self) -> bool:
        """The whole interval lies below the smallest effect that matters."""
        return self.estimate.high < self.effect.delta


class Verdict(NamedTuple):
    """What became of a claim.

    Attributes:
        claim: which.
        answer: ``refuted``: some part's interval lies wholly below its smallest effect that
            matters, even if above 0. ``supported``: every part's lies above 0, after Holm's
            correction over the primary claims. Else ``inconclusive``.
        parts: each effect with its estimate.
        p: of the claim, one-sided: the largest of its parts.
        p_holm: the same, corrected.
        needed: seeds that would decide an inconclusive claim, if the effect is what it seems to be,
            and Holm's correction as strict as it can be.
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
        return min((part.estimate.n for part in self.parts), default=0)


def judge(claims: Sequence[Claim], evidence: Evidence) -> list[Verdict]:
    """A verdict for each claim, in their order; Holm's correction is over the primary ones."""
    weighed = [_weigh(claim, evidence) for claim in claims]
    corrected = holm(
        {verdict.claim.name: verdict.p for verdict in weighed if verdict.claim.primary}
    )
    strictest = ALPHA / max(len(corrected), 1)
    verdicts = []
    for verdict in weighed:
        level = strictest if verdict.claim.primary else ALPHA
        p_holm = corrected.get(verdict.claim.name, verdict.p)
        verdicts.append(_answer(verdict, p_holm, level))
    return verdicts


def _weigh(claim: Claim, evidence: Evidence) -> Verdict:
    """The estimates, without an answer yet."""
    try:
        # A generator finds out that it cannot tell only while it is read.
        parts = tuple(map(Part.of, claim.effects(evidence)))
    except NotDecidableError as error:
        return Verdict(claim, "inconclusive", reason=str(error))
    # A claim holds if all of its parts do, so its p-value is the largest of theirs.
    p = max(part.estimate.p for part in parts)
    return Verdict(claim, "inconclusive", parts, p)


def _answer(verdict: Verdict, p_holm: float, strictest: float) -> Verdict:
    """``strictest``: the level at which the claim would pass whatever became of the others."""
    verdict = verdict._replace(p_holm=p_holm)
    if verdict.reason:
        return verdict
    least = verdict.claim.least_seeds
    if verdict.seeds < least:
        reason = f"{counted(verdict.seeds, 'seed')}, and a verdict takes at least {least}"
        return verdict._replace(reason=reason, needed=least)
    if any(part.refuted for part in verdict.parts):
        return verdict._replace(answer="refuted")
    if p_holm < ALPHA:
        return verdict._replace(answer="supported")
    counts = [
        seeds_needed(part.estimate, part.effect.delta, strictest)
        for part in verdict.parts
        if part.estimate.p >= strictest
    ]
    # One part that no number of seeds would decide leaves the claim open.
    finite = [count for count in counts if count is not None]
    if len(finite) < len(counts):
        return verdict
    return verdict._replace(needed=max(finite, default=None))
