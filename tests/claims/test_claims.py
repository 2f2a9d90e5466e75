"""The form of a claim: what seeds say of an effect, and the verdict it leads to."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robsearch.claims.claim import Claim, Evidence, NotDecidableError, judge, why
from robsearch.claims.seeds import contrast, per_seed
from robsearch.claims.statistics import (
    Effect,
    Estimate,
    estimate,
    holm,
    seeds_needed,
    seeds_range,
    share_above,
)

NOTHING = Evidence(pd.DataFrame(), pd.DataFrame())


def claim(
    *parts: tuple[list[float], float], name: str = "C", least_seeds: int = 3, primary: bool = True
) -> Claim:
    """A claim whose parts are these numbers by seed, each with the smallest effect that matters."""
    effects = [Effect("effect", "points", tuple(per_seed), delta) for per_seed, delta in parts]
    return Claim(
        name,
        "Something is so.",
        "arXiv 0000.00000",
        lambda _: effects,
        "less of it",
        least_seeds,
        primary,
    )


def answer(*parts: tuple[list[float], float], least_seeds: int = 3) -> str:
    (verdict,) = judge([claim(*parts, least_seeds=least_seeds)], NOTHING)
    return verdict.answer


# --- statistics ---


def test_the_interval_and_p_value_are_those_of_a_t_test() -> None:
    values = [1.0, 2.0, 4.0, 5.0]
    found = estimate(values)
    peer = stats.ttest_1samp(values, 0, alternative="greater")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.mean == 3
    assert found.n == 4
    assert found.p == pytest.approx(peer.pvalue)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_two_seeds_leave_everything_open() -> None:
    found = estimate([5.0, 5.1])
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1.0)


def test_seeds_that_agree_to_the_last_bit_are_no_division_by_zero() -> None:
    found = estimate([2.0, 2.0, 2.0])
    assert found.low == pytest.approx(2.0)
    assert found.p < 1e-9
    assert estimate([0.0, 0.0, 0.0]).p == pytest.approx(0.5)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04, and none below the one before it.
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx(
        {"b": 0.03, "c": 0.06, "a": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


@pytest.mark.parametrize("ratio", [0.8, 1.5, 3.0])
def test_so_many_seeds_find_the_effect_in_four_studies_of_five(ratio: float) -> None:
    n = seeds_needed(Estimate(ratio, 0, 0, 1, 1.0, 5), delta=0.0)
    assert n is not None
    assert n >= 3
    draws = np.random.default_rng(0).normal(ratio, 1.0, (4000, n))
    t = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * math.sqrt(n)
    found = (t > stats.t.ppf(0.975, n - 1)).mean()
    fewer = draws[:, : n - 1]
    t_fewer = fewer.mean(axis=1) / fewer.std(axis=1, ddof=1) * math.sqrt(n - 1)
    assert found >= 0.78
    assert n == 3 or (t_fewer > stats.t.ppf(0.975, n - 2)).mean() < 0.82


def test_an_effect_below_what_matters_is_told_from_that() -> None:
    nothing = seeds_needed(Estimate(0.0, -1, 1, 0.5, 1.0, 5), delta=1.0)
    assert nothing == seeds_needed(Estimate(1.0, -1, 3, 0.1, 1.0, 5), delta=0.0)
    assert seeds_needed(Estimate(0.0, -1, 1, 0.5, 1.0, 5), delta=0.0) is None


def test_a_zero_has_no_sign_and_no_digits_of_rounding() -> None:
    assert Estimate(-0.001, -0.3, 0.2, 0.5, 1.0, 5).text() == "0.00 [-0.30, 0.20]"
    assert Estimate(2e-14, -3e-12, 3e-12, 0.5, 1e-12, 5).text(".3g") == "0 [0, 0]"


def test_seeds_with_no_finite_number_are_left_out_of_estimates() -> None:
    assert estimate([1.0, 2.0, 3.0, math.nan, math.inf]) == estimate([1.0, 2.0, 3.0])
    assert math.isnan(estimate([math.nan] * 4).mean)
    assert estimate([math.nan] * 4).p == 1.0


def test_a_share_has_the_exact_interval() -> None:
    found = share_above([1.0] * 500, 0.99)
    assert found.low == pytest.approx(0.025 ** (1 / 500) - 0.99)
    assert (found.mean, found.high) == pytest.approx((0.01, 0.01))
    assert found.p == pytest.approx(0.99**500)
    one_less = share_above([0.0] + [1.0] * 499, 0.99)
    assert one_less.low < 0
    assert one_less.p == pytest.approx(0.99**500 + 500 * 0.01 * 0.99**499)


# --- verdicts ---


def test_a_clear_effect_is_supported_and_its_mirror_refuted() -> None:
    assert answer(([1.0, 1.1, 0.9, 1.0], 0.1)) == "supported"
    assert answer(([-1.0, -1.1, -0.9, -1.0], 0.1)) == "refuted"


def test_a_clear_nothing_is_negligible_only_where_less_than_delta_matters() -> None:
    nothing = [0.1, -0.1, 0.05, -0.05]
    assert answer((nothing, 1.0)) == "negligible"
    assert answer((nothing, 0.0)) == "inconclusive"


def test_an_effect_that_is_there_but_too_small_to_matter_is_negligible() -> None:
    small = [0.1, 0.11, 0.09, 0.1]
    assert answer((small, 0.05)) == "supported"
    assert answer((small, 0.5)) == "negligible"
    assert answer(([-each for each in small], 0.5)) == "negligible"
    assert answer(([-each for each in small], 0.05)) == "refuted"


def test_what_may_be_a_reversal_or_nothing_is_open() -> None:
    """From -1.1 to 0.03: an effect of 0.05 is excluded, a reversal is not shown."""
    told = [-0.1, -0.5, -1.1, -0.1, -0.9]
    seen = estimate(told)
    assert seen.low < -0.05
    assert 0 < seen.high < 0.05
    assert answer((told, 0.05)) == "inconclusive"


def test_holm_makes_a_refutation_harder_too() -> None:
    weak = [-each for each in (0.2, 1.0, 1.4, 0.5, 0.1, 0.9, -0.2)]
    assert 0.0125 < estimate(weak).p_below < 0.025
    alone = judge([claim((weak, 0.1), name="A")], NOTHING)
    both = judge([claim((weak, 0.1), name="A"), claim(([0.0, 1.0, -1.0], 0.1), name="B")], NOTHING)
    assert [alone[0].answer, both[0].answer] == ["refuted", "inconclusive"]
    assert both[0].p_below_holm == pytest.approx(2 * estimate(weak).p_below)
    # Two parts, of which either could refute it.
    assert answer((weak, 0.1), ([1.0, 1.1, 0.9, 1.0, 1.0, 1.1, 0.9], 0.1)) == "inconclusive"


def test_all_parts_must_hold_and_one_can_refute() -> None:
    good, bad, unclear = [1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [2.0, -1.0, 0.5]
    assert answer((good, 0.1), (good, 0.1)) == "supported"
    assert answer((good, 0.1), (unclear, 0.1)) == "inconclusive"
    assert answer((good, 0.1), (bad, 0.1)) == "refuted"


def test_a_reversed_part_refutes_beside_one_that_is_negligible() -> None:
    nothing, bad = [0.01, -0.02, 0.03, 0.0], [-5.0, -5.1, -4.9, -5.0]
    assert answer((nothing, 0.5), (bad, 0.5)) == "refuted"
    assert answer((nothing, 0.5), ([1.0, 1.1, 0.9, 1.0], 0.5)) == "negligible"


def test_a_claim_that_found_nothing_to_measure_says_so() -> None:
    empty = Claim("C", "So.", "arXiv 0000.00000", lambda _: [], "less")
    (verdict,) = judge([empty], NOTHING)
    assert (verdict.answer, verdict.reason) == (
        "inconclusive",
        "the experiment has nothing that it asks for",
    )


def test_no_verdict_on_fewer_seeds_than_a_claim_takes() -> None:
    clear = [1.0, 1.1, 0.9, 1.0]
    (one,) = judge([claim((clear[:1], 0.1))], NOTHING)
    assert one.answer == "inconclusive"
    assert one.reason == "1 seed, and a verdict takes at least 3"
    (ten,) = judge([claim((clear, 0.1), least_seeds=10)], NOTHING)
    assert ten.answer == "inconclusive"
    assert ten.needed == 10


def test_holm_makes_the_second_of_two_claims_harder() -> None:
    # One-sided p: below 0.025 alone, not when doubled.
    weak = [0.2, 1.0, 1.4, 0.5, 0.1, 0.9, -0.2]
    p = estimate(weak).p
    assert 0.0125 < p < 0.025
    alone = judge([claim((weak, 0.1), name="A")], NOTHING)
    both = judge([claim((weak, 0.1), name="A"), claim(([0.0, 1.0, -1.0], 0.1), name="B")], NOTHING)
    secondary = judge(
        [claim((weak, 0.1), name="A"), claim(([0.0, 1.0, -1.0], 0.1), name="B", primary=False)],
        NOTHING,
    )
    assert [alone[0].answer, both[0].answer, secondary[0].answer] == [
        "supported",
        "inconclusive",
        "supported",
    ]
    assert both[0].p_holm == pytest.approx(2 * p)
    # What stands in the way is the correction: more seeds than there are, and not so many that none
    # would do.
    assert both[0].needed == seeds_needed(estimate(weak), 0.1, alpha=0.0125)
    assert len(weak) < seeds_needed(estimate(weak), 0.1) < both[0].needed < 40


def test_an_exact_estimate_takes_the_place_of_students() -> None:
    effect = Effect("share", "share", (0.01,) * 200, 0.0, share_above([1.0] * 200, 0.99))
    by_share = Claim("M", "So.", "arXiv 0000.00000", lambda _: [effect], "less")
    (verdict,) = judge([by_share], NOTHING)
    assert verdict.answer == "inconclusive"
    assert verdict.p == pytest.approx(0.99**200)


def test_an_experiment_that_cannot_tell_says_why() -> None:
    def untold(evidence: Evidence) -> list[Effect]:
        raise NotDecidableError("no assay sensitivity")

    (verdict,) = judge(
        [Claim("C", "Something is so.", "arXiv 0000.00000", untold, "less")], NOTHING
    )
    assert verdict.answer == "inconclusive"
    assert why(verdict) == "no assay sensitivity"


def test_an_open_claim_says_how_many_seeds_would_decide_it() -> None:
    (verdict,) = judge([claim(([2.0, -1.0, 0.5, 1.5], 0.1))], NOTHING)
    needed = seeds_needed(estimate([2.0, -1.0, 0.5, 1.5]), 0.1)
    assert verdict.needed == needed
    least, most = verdict.needed_range
    assert least < needed < most
    assert f"about {needed} seeds would decide it ({least} to {most})" in why(verdict)


def test_the_range_of_seeds_is_that_of_the_spread() -> None:
    """Of five seeds the spread's 80 % interval is sd times sqrt(4 / 7.779) to sqrt(4 / 1.064)."""
    seen = Estimate(1.0, -1, 3, 0.1, 1.0, 5)
    least, most = seeds_range(seen, delta=0.0)
    assert least == seeds_needed(seen._replace(sd=math.sqrt(4 / 7.7794)), delta=0.0)
    assert most == seeds_needed(seen._replace(sd=math.sqrt(4 / 1.0636)), delta=0.0)
    assert seeds_range(seen._replace(mean=0.01), delta=0.0)[1] is None


# --- evidence ---


def test_contrasts_are_paired_by_seed_and_averaged_over_widths() -> None:
    rows = [
        (0, 1, "a", 0.5),
        (0, 1, "b", 0.4),
        (0, 2, "a", 0.9),
        (0, 2, "b", 0.6),
        (1, 1, "a", 0.1),
        (1, 1, "b", 0.3),
    ]
    trials = pd.DataFrame(rows, columns=["seed", "width", "arm", "robust"])
    assert contrast(trials, "robust", "a", "b") == pytest.approx((0.2, -0.2))
    alone = trials[(trials["seed"] == 0) | (trials["arm"] == "a")]
    assert contrast(alone, "robust", "a", "b") == pytest.approx((0.2,))  # seed 1 lacks its partner


def test_seeds_without_a_number_are_left_out() -> None:
    trials = pd.DataFrame({"seed": [0, 1, 2], "x": [1.0, math.nan, 3.0]})
    assert per_seed(trials, lambda own: float(own["x"].iloc[0])) == (1.0, 3.0)


def test_a_notebook_shows_a_claim_and_its_verdict() -> None:
    (verdict,) = judge([claim(([2.0, -1.0, 0.5, 1.5], 0.1))], NOTHING)
    shown = verdict._repr_html_()
    assert f"<b>{verdict.claim.name}</b> {verdict.claim.sentence}" in shown
    assert "<b>inconclusive</b> about" in shown
    assert "<td>0.75 [" in shown  # the mean of the four seeds
    assert verdict.claim.source in verdict.claim._repr_html_()
