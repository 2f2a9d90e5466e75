"""H1 to H4 under wrong labels, as tests over replicates, and what a sceptic asks beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from robsearch.claims.claim import Claim, Evidence, NotDecidableError
from robsearch.claims.images import accuracy_effect
from robsearch.claims.statistics import Effect
from robsearch.papers.war.claims import (
    BUDGET,
    GRID,
    LAST,
    NORMALISED,
    ORACLE,
    SHORTFALL,
    SOURCE,
    against_search_and_thin,
    at_one_learning_rate,
    claims as h1_to_h5,
    peak_effects,
    term_claims,
    trade_off,
)
from robsearch.papers.war.rates import at_best_rate
from robsearch.papers.war.ways import BETWEEN, DYNAMIC, STATIC, TWO, ways_frame
from robsearch.trials.selection import sound

LAST_NATURAL = "test_last/natural_accuracy"
LAST_STABLE = "test_last/stability"
LONGER = "longer"
LONGER_TIMES = 4
"""How much longer thin nets are trained there."""


def claims(
    widths: Sequence[float],
    *,
    between: bool,
    normalised: bool,
    ways: bool,
    rates: Mapping[str, float],
) -> tuple[Claim, ...]:
    """The claims of a study at these widths.

    Args:
        widths: thin to wide.
        between: whether those between the ends are trained.
        normalised: whether the grid is trained with the loss divided by 1 + lambda, too.
        ways: whether ways of choosing lambda are compared.
        rates: the factor on the learning rate of each arm that has another than the grid's, by
            name; empty where there is none.
    """
    thin, wide = widths[0], widths[-1]
    h1, h2, h3, h4, _ = h1_to_h5(thin, wide)
    h2 = replace(h2, effects=partial(trade_off, natural=LAST_NATURAL, stable=LAST_STABLE))
    h3 = replace(h3, effects=partial(best_lambda_rises, widths=(thin, wide)))
    all_claims = [h1, *term_claims(h1), h2, h3]
    if between:
        middle = len(widths) // 2
        for suffix, part in (("thin", widths[: middle + 1]), ("wide", widths[middle:])):
            sentence = f"The best lambda rises from width {part[0]:g} to {part[-1]:g}."
            effects = partial(best_lambda_rises, widths=tuple(part))
            all_claims.append(h3.beside(suffix, sentence, effects))
    if normalised:
        divided = partial(best_lambda_rises, widths=(thin, wide), experiments=(NORMALISED,))
        all_claims.append(replace(at_one_learning_rate(h3), effects=divided))
    if rates:
        rated = partial(best_lambda_rises_at_best_rate, widths=(thin, wide), rates=rates)
        sentence = f"{h3.sentence[:-1]}, also where the learning rate is chosen at each lambda."
        all_claims.append(h3.beside("rates", sentence, rated))
        sentence = (
            f"{h3.sentence[:-1]} above that of a thin net trained {LONGER_TIMES} times as long."
        )
        all_claims.append(
            h3.beside(
                "longer", sentence, partial(best_lambda_rises_from_longer, thin=thin, wide=wide)
            )
        )
    if ways:
        all_claims += _claims_on_ways(h4, thin, wide)
    return tuple(all_claims)


def _claims_on_ways(h4: Claim, thin: float, wide: float) -> list[Claim]:
    """H4 of WAR and of static WAR, and whether each beats a second training."""
    claimed = []
    for way, suffix in ((DYNAMIC, ""), (STATIC, "static")):
        suffices = partial(war_suffices, way=way, thin=thin, wide=wide)
        if suffix:
            sentence = (
                f"{way} is within {SHORTFALL:g} points of a full search, and above the reused thin "
                "lambda."
            )
            beside = h4.beside(suffix, sentence, suffices)
            change = (
                f"a shortfall of more than {SHORTFALL:g} points, or a gain over the thin lambda of "
                "less than 0.25"
            )
            claimed.append(replace(beside, change=change))
        else:
            claimed.append(replace(h4, effects=suffices))
        more = Claim(
            f"H4-{suffix}-adds" if suffix else "H4-adds",
            f"{way} is better than two trainings of the wide net, at the thin lambda and at three "
            "times that.",
            SOURCE,
            partial(war_adds, way=way, thin=thin, wide=wide),
            "no gain, or none that these replicates can tell from 0",
            least_seeds=10,
            primary=False,
        )
        claimed.append(more)
    return claimed


def best_lambda_rises(
    evidence: Evidence,
    widths: Sequence[float],
    experiments: Sequence[str] = (GRID, BETWEEN),
) -> Sequence[Effect]:
    """H3 at some widths, of the nets after their last epoch, in the replicates that all of them
    have."""
    return peak_effects(trials_at(evidence, widths, experiments), LAST)


def trials_at(
    evidence: Evidence,
    widths: Sequence[float],
    experiments: Sequence[str],
) -> pd.DataFrame:
    """The trainings of some experiments at these widths by which H3 is judged, in the replicates
    that were trained at all of them."""
    trials = sound(evidence.trials).dropna(subset=[LAST])
    trials = trials[trials["experiment"].isin(experiments) & trials["width"].isin(widths)]
    return _in_shared_seeds(trials, len(widths))


def best_lambda_rises_at_best_rate(
    evidence: Evidence,
    widths: Sequence[float],
    rates: Mapping[str, float],
) -> Sequence[Effect]:
    """H3 of the nets of each width and lambda at the learning rate that is best on ``val``.

    Raises:
        NotDecidableError: no replicate has all rates.
    """
    trials = at_best_rate(evidence, widths, rates)
    if trials.empty:
        raise NotDecidableError("no replicate was trained at all learning rates")
    return peak_effects(trials, LAST)


def best_lambda_rises_from_longer(
    evidence: Evidence,
    thin: float,
    wide: float,
) -> Sequence[Effect]:
    """H3 from thin nets that were trained longer to wide ones that were not."""
    trials = sound(evidence.trials).dropna(subset=[LAST])
    longer = (trials["experiment"] == LONGER) & (trials["width"] == thin)
    as_ever = (trials["experiment"] == GRID) & (trials["width"] == wide)
    return peak_effects(_in_shared_seeds(trials[longer | as_ever], 2), LAST)


def _in_shared_seeds(trials: pd.DataFrame, widths: int) -> pd.DataFrame:
    """Those of the seeds that were trained at so many widths."""
    at_how_many = trials.groupby("seed")["width"].nunique()
    shared = at_how_many.index[at_how_many == widths]
    return trials[trials["seed"].isin(shared)]


def war_suffices(evidence: Evidence, way: str, thin: float, wide: float) -> Sequence[Effect]:
    """H4: a way against a full search and against the thin lambda, each replicate having chosen for
    itself.

    Raises:
        NotDecidableError: the thin lambda is as good as a full search, so nothing could be gained
            here; or nothing was trained by the way.
    """
    frame = ways_frame(evidence, thin, wide)
    effects = against_search_and_thin(frame, "robust", way, way)
    if way not in set(frame["arm"]):
        raise NotDecidableError(f"no training by {way}")
    # Static WAR takes two trainings of the wide net, its probes among them, so what it costs is a
    # question of how many lambdas a search would try.
    if way == DYNAMIC:
        costs = frame.pivot_table(index="seed", columns="arm", values="operations")
        shares = (costs[way] / costs[ORACLE]).dropna()
        what = f"{BUDGET:g} less the share of the search's operations"
        effects.append(Effect(what, "", tuple(BUDGET - shares), 0.0))
    return effects


def war_adds(evidence: Evidence, way: str, thin: float, wide: float) -> Sequence[Effect]:
    """Whether a way beats the better of two wide nets on ``val``: what anybody would do without
    WAR."""
    frame = ways_frame(evidence, thin, wide)
    return [
        accuracy_effect(f"{way} less two wide trainings", frame, "robust", way, TWO, SHORTFALL),
    ]
