"""The form of a claim: a sentence of a paper, the evidence it is held against, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import pandas as pd

from robsearch.claims.statistics import (
    ALPHA,
    Effect,
    Estimate,
    estimate,
    holm,
    seeds_needed,
    seeds_range,
)
from robsearch.drawing.notebook import paragraph, table
from robsearch.errors import counted

Answer = Literal["supported", "refuted", "negligible", "inconclusive"]


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

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [
            ["source", self.source],
            ["what would change our mind", self.change],
            ["seeds for a verdict", f"at least {self.least_seeds}"],
        ]
        return paragraph(self.sentence, self.name) + table(["", ""], rows)

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
    def negligible(self) -> bool:
        """The whole interval lies nearer to 0 than the smallest effect that matters."""
        delta = self.effect.delta
        return -delta < self.estimate.low and self.estimate.high < delta


class Verdict(NamedTuple):
    """What became of a claim.

    Attributes:
        claim: which.
        answer: ``refuted``: some part's interval lies wholly below 0 and is not negligible, after
            Bonferroni's correction over the parts and Holm's over the primary claims. Else
            ``negligible``: some part's lies wholly between its smallest effect that matters and the
            negative of that. Else ``supported``: every part's lies above 0, after Holm's
            correction. Else ``inconclusive``.
        parts: each effect with its estimate.
        p: of the claim, one-sided: the largest of its parts.
        p_holm: the same, corrected.
        p_below: of the opposite of the claim, one-sided: the smallest of its parts, times their
            number.
        p_below_holm: the same, corrected.
        needed: seeds that would decide an inconclusive claim, if the effect is what it seems to be,
            and Holm's correction as strict as it can be.
        needed_range: the same at either end of what the seeds leave open about their spread; the
            second is None above 1,000.
        reason: why nothing could be decided, where the experiment cannot tell.
    """

    claim: Claim
    answer: Answer
    parts: tuple[Part, ...] = ()
    p: float = 1.0
    p_holm: float = 1.0
    p_below: float = 1.0
    p_below_holm: float = 1.0
    needed: int | None = None
    needed_range: tuple[int, int | None] | None = None
    reason: str = ""

    @property
    def seeds(self) -> int:
        """The fewest seeds behind any part."""
        return min((part.estimate.n for part in self.parts), default=0)

    def _repr_html_(self) -> str:
        """What a notebook shows: the claim, the answer, and each effect with its estimate."""
        heads = ["effect", "mean [95 %]", "unit", "smallest that matters", "seeds"]
        rows = []
        for part in self.parts:
            effect = part.effect
            delta = f"{effect.delta:.3g}"
            rows.append([effect.what, estimated(part), effect.unit, delta, part.estimate.n])
        shown = paragraph(self.claim.sentence, self.claim.name) + paragraph(why(self), self.answer)
        return shown + (table(heads, rows) if rows else "")


def why(verdict: Verdict) -> str:
    """What stands in the way of an answer."""
    if verdict.reason:
        return verdict.reason
    if verdict.answer != "inconclusive":
        return ""
    if verdict.needed:
        text = f"about {counted(verdict.needed, 'seed')} would decide it"
        if verdict.needed_range is not None:
            least, most = verdict.needed_range
            text += f" ({least} to {'more than 1,000' if most is None else most})"
        return text
    return "more seeds than 1,000 would be needed"


def estimated(part: Part) -> str:
    """``0.27 [0.20, 0.34]``; without seeds for an interval, the mean alone."""
    if math.isnan(part.estimate.mean):
        return "not measured"
    return part.estimate.text(".3g")


def named_parts(verdicts: Iterable[Verdict]) -> list[Part]:
    """The effects of all claims with their estimates, each with the name of its claim."""
    return [
        Part(effect._replace(what=f"{verdict.claim.name}: {effect.what}"), estimate)
        for verdict in verdicts
        for effect, estimate in verdict.parts
    ]


def judge(claims: Sequence[Claim], evidence: Evidence) -> list[Verdict]:
    """A verdict for each claim, in their order; Holm's correction is over the primary ones."""
    weighed = [weigh(claim, evidence) for claim in claims]
    primary = [verdict for verdict in weighed if verdict.claim.primary]
    above = holm({verdict.claim.name: verdict.p for verdict in primary})
    below = holm({verdict.claim.name: verdict.p_below for verdict in primary})
    verdicts = []
    for verdict in weighed:
        name = verdict.claim.name
        level = strictest_level(verdict.claim, claims)
        corrected = verdict._replace(
            p_holm=above.get(name, verdict.p),
            p_below_holm=below.get(name, verdict.p_below),
        )
        verdicts.append(_answer(corrected, level))
    return verdicts


def strictest_level(claim: Claim, claims: Sequence[Claim]) -> float:
    """The level at which a claim would pass whatever became of the others."""
    return ALPHA / sum(other.primary for other in claims) if claim.primary else ALPHA


def weigh(claim: Claim, evidence: Evidence) -> Verdict:
    """The estimates, without an answer yet."""
    try:
        # A generator finds out that it cannot tell only while it is read.
        parts = tuple(map(Part.of, claim.effects(evidence)))
    except NotDecidableError as error:
        return Verdict(claim, "inconclusive", reason=str(error))
    if not parts:
        return Verdict(claim, "inconclusive", reason="the experiment has nothing that it asks for")
    # A claim holds if all of its parts do, so its p-value is the largest of theirs.
    p = max(part.estimate.p for part in parts)
    # The opposite holds if any part that matters is reversed: Bonferroni.
    reversed_p = [1.0 if part.negligible else part.estimate.p_below for part in parts]
    p_below = min(1.0, len(parts) * min(reversed_p))
    return Verdict(claim, "inconclusive", parts, p, p_below=p_below)


def _answer(verdict: Verdict, strictest: float) -> Verdict:
    """``strictest``: the level at which the claim would pass whatever became of the others."""
    if verdict.reason:
        return verdict
    least = verdict.claim.least_seeds
    if verdict.seeds < least:
        reason = f"{counted(verdict.seeds, 'seed')}, and a verdict takes at least {least}"
        return verdict._replace(reason=reason, needed=least)
    if verdict.p_below_holm < ALPHA:
        return verdict._replace(answer="refuted")
    if any(part.negligible for part in verdict.parts):
        return verdict._replace(answer="negligible")
    if verdict.p_holm < ALPHA:
        return verdict._replace(answer="supported")
    open_parts = [part for part in verdict.parts if part.estimate.p >= strictest]
    counts = [seeds_needed(part.estimate, part.effect.delta, strictest) for part in open_parts]
    # One part that no number of seeds would decide leaves the claim open.
    finite = [count for count in counts if count is not None]
    if len(finite) < len(counts) or not finite:
        return verdict
    ranges = [seeds_range(part.estimate, part.effect.delta, strictest) for part in open_parts]
    lows, highs = zip(*ranges, strict=True)
    most = None if None in highs else max(highs)
    return verdict._replace(needed=max(finite), needed_range=(max(lows), most))
