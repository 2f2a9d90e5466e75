"""The study under wrong labels: each replicate chooses for itself, and what it chose is what it
says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_replicates import Training, constants, findings
from rich.console import Console

from robsearch.claims.claim import NotDecidableError, judge
from robsearch.claims.experiment import of_replicate, pooled
from robsearch.claims.running import validate
from robsearch.data import Digits
from robsearch.errors import InputError
from robsearch.metrics import APART
from robsearch.papers.presets import designs
from robsearch.papers.war import choices
from robsearch.papers.war.claims import LAW, ORACLE, THIN
from robsearch.papers.war.presets import wrong_labels_recipe
from robsearch.papers.war.rates import (
    WAR_RATES,
    at_all_rates,
    at_best_rate,
    rate_grid_table,
    rate_ways_table,
    rates_table,
    war_at_rates,
)
from robsearch.papers.war.variants import ARMS, PAPER, VARIANTS, variants_table, war
from robsearch.papers.war.ways import (
    DECAYED,
    DYNAMIC,
    EARLY,
    FIXED_ORACLE,
    FIXED_THIN,
    LAWFUL,
    STATIC,
    TWO,
    WAYS,
    ways_frame,
)
from robsearch.papers.war.wrong_labels import WrongLabelsStudy
from robsearch.papers.war.wrong_labels_claims import (
    best_lambda_rises,
    best_lambda_rises_at_best_rate,
    best_lambda_rises_from_longer,
    war_adds,
    war_suffices,
)
from robsearch.papers.war.wrong_labels_tables import rises_table, slopes_table, terms_table
from robsearch.parts.schedules import WAR, Fixed
from robsearch.search import RunOptions, load_search

LAMS = (1.0, 2.0, 4.0, 8.0, 16.0)
# By lambda, shares on val and on test. The thin net's best on val is 2 in replicate 0, 4 in 1.
THIN_NETS = (
    {1.0: (0.40, 0.41), 2.0: (0.45, 0.44), 4.0: (0.44, 0.45), 8.0: (0.3, 0.3), 16.0: (0.2, 0.2)},
    {1.0: (0.40, 0.41), 2.0: (0.41, 0.42), 4.0: (0.48, 0.45), 8.0: (0.3, 0.3), 16.0: (0.2, 0.2)},
)
WIDE_NETS = (
    {1.0: (0.3, 0.3), 2.0: (0.40, 0.41), 4.0: (0.5, 0.5), 8.0: (0.58, 0.56), 16.0: (0.57, 0.57)},
    {1.0: (0.3, 0.3), 2.0: (0.40, 0.41), 4.0: (0.5, 0.5), 8.0: (0.56, 0.55), 16.0: (0.59, 0.59)},
)


def planted(*more: Training):
    """Two replicates; the thin net's ratio is lambda, the wide net's a quarter of it."""
    trainings = list(more)
    for seed in range(2):
        trainings += constants(16, seed, THIN_NETS[seed])
        trainings += constants(64, seed, WIDE_NETS[seed], ratio=0.25, operations=10.0)
    return findings(trainings)


def way(name: str, seed: int, on_val: float, last: float) -> Training:
    return Training(LAWFUL if name == LAW else WAYS, name, 64.0, seed, 5.0, on_val, last)


# --- choosing ---


def test_each_replicate_chooses_by_its_own_val_after_the_last_epoch() -> None:
    first, second = (of_replicate(planted(), seed) for seed in range(2))
    assert (choices.best_on_val(first, 16), choices.best_on_val(second, 16)) == (2, 4)
    assert (choices.best_on_val(first, 64), choices.best_on_val(second, 64)) == (8, 16)
    # Together: 0.40, 0.43, 0.46 on val.
    assert choices.best_on_val(planted(), 16) == 4


def test_a_net_that_collapsed_is_not_chosen() -> None:
    (grid,) = of_replicate(planted(), 0).values()
    trials = grid.trials.assign(collapsed=grid.trials["lam"] == 2)
    assert choices.best_on_val({"grid": grid._replace(trials=trials)}, 16) == 4


@pytest.mark.parametrize(("lam", "second"), [(1, 4), (2, 8), (4, 16), (8, 16), (16, 16)])
def test_the_second_lambda_is_the_grids_nearest_to_three_times_the_first(lam, second) -> None:
    assert choices.second_lam(lam, LAMS) == second


def test_static_war_has_the_thin_nets_ratio() -> None:
    """The thin net's ratio at its best lambda, 2, is 2; the wide net's is a quarter of lambda."""
    assert choices.static_lam(of_replicate(planted(), 0), 16, 64, LAMS) == pytest.approx(8)
    assert choices.static_lam(of_replicate(planted(), 1), 16, 64, LAMS) == pytest.approx(16)


def test_static_war_of_a_ratio_that_does_not_rise_is_the_larger_lambda_probed() -> None:
    trainings = constants(16, 0, THIN_NETS[0])
    trainings += [each._replace(ratio=3.0) for each in constants(64, 0, WIDE_NETS[0])]
    assert choices.static_lam(findings(trainings), 16, 64, LAMS) == 8


def test_the_law_goes_on_from_the_thinner_nets() -> None:
    """Parabolas over log lambda whose tops lie at 2 and at 4: at four times the width at 8 again
    twice as far."""
    trainings = []
    for width, top, experiment in ((4, 2.0, "grid"), (16, 4.0, "between")):
        for seed in range(3):
            values = {lam: 0.5 - 0.02 * np.log(lam / top) ** 2 for lam in LAMS}
            pairs = {lam: (value, 0.0) for lam, value in values.items()}
            trainings += constants(width, seed, pairs, experiment=experiment)
    lam = choices.law_lam(findings(trainings), ("grid", "between"), 64, LAMS)
    assert lam == pytest.approx(8, rel=1e-3)


def test_where_no_peak_can_be_placed_the_law_is_the_line_through_the_best() -> None:
    """The best lambda is 1 at width 4 and 2 at width 16, so it is 4 at width 64."""
    trainings = []
    for width, best, experiment in ((4, 1.0, "grid"), (16, 2.0, "between")):
        values = {lam: (0.6 if lam == best else 0.5 + 0.01 * lam / 16, 0.0) for lam in LAMS}
        for seed in range(2):
            trainings += constants(width, seed, values, experiment=experiment)
    lam = choices.law_lam(findings(trainings), ("grid", "between"), 64, LAMS)
    assert lam == pytest.approx(4)


# --- the ways ---


def test_ways_are_the_nets_and_the_costs_they_say() -> None:
    more = [
        way(DECAYED, 0, 0.39, 0.7),  # worse on val than without decay
        way(DECAYED, 1, 0.51, 0.52),
        way(STATIC, 0, 0.0, 0.60),
        way(DYNAMIC, 0, 0.0, 0.61),
        way(LAW, 0, 0.0, 0.62),
        *constants(32, 0, {1.0: (0.1, 0.1), 2.0: (0.1, 0.1)}, experiment="between", operations=3),
    ]
    frame = ways_frame(pooled(planted(*more)), 16, 64).set_index(["seed", "arm"])
    robust = frame["robust"].to_dict()
    assert robust[0, THIN] == 0.41
    assert robust[1, THIN] == 0.5
    assert robust[0, EARLY] == pytest.approx(0.42)  # its best epoch
    assert robust[0, TWO] == 0.56  # 8 is better on val than 2
    assert robust[1, TWO] == 0.59
    assert robust[0, ORACLE] == 0.56  # best on val, not on test
    assert robust[0, DECAYED] == 0.41
    assert robust[1, DECAYED] == 0.52
    assert robust[0, FIXED_THIN] == 0.5  # at 4, the best of thin nets on average
    assert robust[0, FIXED_ORACLE] == 0.57  # at 16
    assert (robust[0, STATIC], robust[0, DYNAMIC], robust[0, LAW]) == (0.60, 0.61, 0.62)
    assert (1, STATIC) not in robust
    costs = frame["operations"].to_dict()
    assert costs[0, THIN] == 5 + 10  # five thin trainings and one wide one
    assert costs[0, TWO] == costs[0, STATIC] == 5 + 20
    assert costs[0, DYNAMIC] == 5 + 10
    assert costs[0, LAW] == 5 + 2 * 3 + 10
    assert costs[0, ORACLE] == 5 * 10


def test_a_law_costs_what_the_widths_between_cost_where_they_were_trained() -> None:
    more = [way(LAW, 0, 0.0, 0.62), way(LAW, 1, 0.0, 0.62)]
    more += constants(32, 1, {1.0: (0.1, 0.1), 2.0: (0.1, 0.1)}, experiment="between", operations=3)
    frame = ways_frame(pooled(planted(*more)), 16, 64).set_index(["seed", "arm"])
    costs = frame["operations"].to_dict()
    assert costs[0, LAW] == costs[1, LAW] == 5 + 2 * 3 + 10


def collapsing(evidence, arm: str, seeds, robust: float):
    """The evidence as it is where the nets of an arm in some replicates give one class to all."""
    trials = evidence.trials
    lost = trials["arm"].eq(arm) & trials["width"].eq(64) & trials["seed"].isin(seeds)
    trials = trials.assign(collapsed=trials["collapsed"] | lost)
    trials["test_last/robust_accuracy"] = trials["test_last/robust_accuracy"].mask(lost, robust)
    return evidence._replace(trials=trials)


def test_a_way_counts_where_its_net_collapsed() -> None:
    """WAR is as good as a full search, but in three of ten replicates its net says one class."""
    fails = collapsing(ten(0.6), DYNAMIC, (1, 4, 7), 0.1)
    behind, gain, _ = war_suffices(fails, DYNAMIC, 16, 64)
    assert len(behind.per_seed) == len(gain.per_seed) == 10
    assert sorted(behind.per_seed)[:3] == pytest.approx([-49.5] * 3)
    (verdict,) = judge([replace(h4(), effects=h4_at_64)], fails)
    assert verdict.answer != "supported"
    (adds,) = war_adds(fails, DYNAMIC, 16, 64)
    assert len(adds.per_seed) == 10
    # So does the reused lambda: it is what a lab would have got.
    reused = collapsing(ten(0.6), "lam 2", (0,), 0.1)
    _, gain, _ = war_suffices(reused, DYNAMIC, 16, 64)
    assert gain.per_seed[0] == pytest.approx(50)


def test_no_way_returns_a_net_that_is_worse_on_val_because_it_collapsed() -> None:
    evidence = pooled(planted())
    lost = evidence.trials["arm"].eq("lam 8") & evidence.trials["width"].eq(64)
    epochs = evidence.epochs
    of_lost = epochs["arm"].eq("lam 8") & epochs["width"].eq(64)
    on_val = epochs["val/robust_accuracy"].mask(of_lost, 0.1)
    collapsed = evidence._replace(
        trials=evidence.trials.assign(collapsed=lost),
        epochs=epochs.assign(**{"val/robust_accuracy": on_val}),
    )
    frame = ways_frame(collapsed, 16, 64).set_index(["seed", "arm"])
    assert frame.loc[(0, ORACLE), "lam"] == 16


def test_where_a_width_was_not_measured_no_way_is_judged() -> None:
    evidence = pooled(findings(constants(16, 0, THIN_NETS[0])))
    assert ways_frame(evidence, 16, 64).empty
    with pytest.raises(NotDecidableError):
        war_suffices(evidence, DYNAMIC, 16, 64)
    # All thin nets collapsed: what is reused then is as good as any other choice of theirs.
    evidence = pooled(planted())
    thin = evidence.trials["width"].eq(16)
    frame = ways_frame(evidence._replace(trials=evidence.trials.assign(collapsed=thin)), 16, 64)
    assert THIN in set(frame["arm"])


def ten(war: float, second: float = 0.55):
    """Ten replicates: a full search reaches 60 %, the thin lambda 50 %."""
    trainings = []
    for seed in range(10):
        off = 0.001 * (seed % 3)
        thin = {lam: (0.5 if lam == 2 else 0.4, 0.4) for lam in LAMS}
        wide = dict.fromkeys(LAMS, (0.4, 0.4)) | {2.0: (0.5, 0.5), 8.0: (0.59, second)}
        wide[16.0] = (0.6, 0.6)
        trainings += constants(16, seed, thin)
        trainings += constants(64, seed, wide, operations=10)
        trainings.append(way(DYNAMIC, seed, 0.6, war + off)._replace(operations=10))
        trainings.append(way(STATIC, seed, 0.6, war + off)._replace(operations=10))
    return pooled(findings(trainings))


def test_h4_is_a_shortfall_a_gain_and_a_cost() -> None:
    behind, gain, spared = war_suffices(ten(0.598), DYNAMIC, 16, 64)
    # 59.8, 59.9, 60.0 against 60, plus half a point; against 50.
    assert behind.per_seed[:3] == pytest.approx((0.3, 0.4, 0.5))
    assert gain.per_seed[:3] == pytest.approx((9.8, 9.9, 10.0))
    # Five thin trainings and one wide one of ten each, of the fifty of a full search.
    assert spared.per_seed == pytest.approx((0.25 - 15 / 50,) * 10)


def test_static_war_is_not_held_to_a_quarter_of_the_cost() -> None:
    assert len(war_suffices(ten(0.6), STATIC, 16, 64)) == 2


def test_h4_without_anything_to_gain_is_not_judged() -> None:
    evidence = ten(0.6)
    grid = evidence.trials["experiment"] == "grid"
    level = evidence.trials["test_last/robust_accuracy"].where(~grid, 0.5)
    flat = evidence._replace(trials=evidence.trials.assign(**{"test_last/robust_accuracy": level}))
    with pytest.raises(NotDecidableError, match="no assay sensitivity"):
        war_suffices(flat, DYNAMIC, 16, 64)


@pytest.mark.parametrize(
    ("second", "answer"), [(0.55, "supported"), (0.6, "negligible"), (0.65, "refuted")]
)
def test_war_adds_something_where_it_beats_the_better_of_two_trainings(second, answer) -> None:
    claim = next(claim for claim in STUDY.claims if claim.name == "H4-adds")
    assert claim.effects.func is war_adds
    (verdict,) = judge([replace(claim, effects=adds_at_64)], ten(0.6, second))
    assert verdict.answer == answer


def adds_at_64(evidence):
    return war_adds(evidence, DYNAMIC, 16, 64)


def h4():
    return next(claim for claim in STUDY.claims if claim.name == "H4")


def h4_at_64(evidence):
    return war_suffices(evidence, DYNAMIC, 16, 64)


def test_h3_takes_the_replicates_that_all_widths_have() -> None:
    trainings = []
    for width, top, seeds in ((16, 2.0, 5), (32, 4.0, 3), (64, 8.0, 5)):
        experiment = "between" if width == 32 else "grid"
        lams = (0.5, 1, 2, 4, 8, 16, 32)
        values = {lam: (0.0, 0.5 - 0.01 * np.log(lam / top) ** 2) for lam in lams}
        for seed in range(seeds):
            trainings += constants(width, seed, values, experiment=experiment)
    evidence = pooled(findings(trainings))
    for effect in best_lambda_rises(evidence, (16, 32, 64)):
        assert effect.per_seed == pytest.approx((1.0,) * 3, abs=0.01)
    for effect in best_lambda_rises(evidence, (16, 64)):
        assert effect.per_seed == pytest.approx((1.0,) * 5, abs=0.01)


# --- the study ---

BASE = replace(
    wrong_labels_recipe(0.3),
    data=Digits(train=100, label_noise=0.3, draw="seed"),
    epochs=12,
    batch_size=20,
)
STUDY = WrongLabelsStudy((8.0, 16.0, 32.0), LAMS, BASE, 2, between_seeds=1, variant_seeds=0)


def test_a_replicate_trains_what_it_chose() -> None:
    study = replace(STUDY, widths=(16.0, 64.0))
    (_, ways, *_) = study.experiments
    found = planted()
    first = {name: ways.recipe_of(name, 64, found, 0) for name in ways.arm_names}
    second = {name: ways.recipe_of(name, 64, found, 1) for name in ways.arm_names}
    assert first[STATIC].lam.value == pytest.approx(8)
    assert second[STATIC].lam.value == pytest.approx(16)
    schedule = first[DYNAMIC].lam
    assert isinstance(schedule, WAR)
    assert schedule.lam_init == 2
    assert [ratio for _, ratio in schedule.target] == pytest.approx([2] * 10)
    assert first[DYNAMIC].resolved_lam.freeze_at == 0.75
    assert schedule == WAR(target=schedule.target, lam_init=2.0, freeze_at="first_drop")
    assert first[DECAYED].lam == Fixed(2.0)
    assert first[DECAYED].optimiser.weight_decay == 5e-3
    assert first[STATIC].optimiser.weight_decay == 0


def test_variants_of_war_differ_in_one_thing_each() -> None:
    target = ((0.1, 4.0), (0.45, 9.0), (0.9, 3.0))
    as_it_is = war(target, 2.0)
    assert as_it_is == WAR(target=target, lam_init=2.0, freeze_at="first_drop")
    assert war(target, 2.0, "held for 15 %") == replace(as_it_is, hold=0.15)
    # 800 steps of 0.01 each.
    slow = replace(as_it_is, alpha=8.0, alpha_per="progress")
    assert war(target, 2.0, "gain of 8 per training") == slow
    assert war(target, 2.0, "not frozen") == replace(as_it_is, freeze_at=1.0)
    paper = war(target, 2.0, PAPER)
    assert (paper.form, paper.lam_init, paper.target) == ("paper", 0.0, pytest.approx(9.0))
    assert len({repr(war(target, 2.0, name)) for name in ("", *ARMS)}) == 8


def test_a_variants_row_is_less_war_as_it_is_in_the_same_replicates() -> None:
    """WAR reaches 60 and 62 %, with another constant 61 and 64 %; the thin net's ratio is 2 in one
    replicate and 4 in the other."""
    more = [
        way(DYNAMIC, 0, 0.0, 0.60)._replace(ratio=2 * math.e),
        way(DYNAMIC, 1, 0.0, 0.62)._replace(ratio=4 / math.e**2),
        Training(VARIANTS, "no averaging", 64.0, 0, 5.0, 0.0, 0.61, ratio=2.0),
        Training(VARIANTS, "no averaging", 64.0, 1, 5.0, 0.0, 0.64, ratio=4.0),
    ]
    # A replicate in which no variant was trained is in no row.
    more += [way(DYNAMIC, 2, 0.0, 0.99), *constants(16, 2, THIN_NETS[0])]
    as_it_is, variant = variants_table(planted(*more), 16).to_dict("records")
    assert (as_it_is["seeds"], variant["seeds"]) == (2, 2)
    assert as_it_is["robust"].startswith("61.00")
    assert as_it_is["less WAR as it is"] == ""
    assert variant["less WAR as it is"].startswith("1.50")
    assert float(as_it_is["distance to target (in logs)"]) == pytest.approx(1.5)
    assert float(variant["distance to target (in logs)"]) == pytest.approx(0.0, abs=1e-9)


def test_tables_show_each_way_and_each_cell_of_the_grid() -> None:
    evidence = planted(way(DYNAMIC, 0, 0.0, 0.6), way(DYNAMIC, 1, 0.0, 0.62))
    study = replace(STUDY, widths=(16.0, 64.0))
    ways, words, cells, _ = study.tables(evidence).values()
    assert list(ways["way"]) == list(words["way"])
    row = ways.set_index("way").loc[DYNAMIC]
    # 60 and 62 % against 56 and 59 %, both of the full search and of two trainings.
    assert row["less full search"].startswith("3.50")
    assert row["less two wide trainings"].startswith("3.50")
    assert row["operations"] == f"{(5 + 10) / 50:.1%}"
    assert len(cells) == 10
    cell = cells.set_index(["width", "lambda"]).loc["64", "8"]
    assert (cell["ratio of the losses"], cell["robust loss at the end"]) == ("2", "1")
    assert len(study.figures(evidence)) == 2


def with_peaks(experiment: str, width: float, peak: float, suffix: str = "", top: float = 0.6):
    """Three replicates whose accuracies are parabolas over log lambda, of one peak but for 2 %."""
    trainings = []
    for seed in range(3):
        values = {}
        for lam in LAMS:
            value = top - 0.02 * np.log(lam / (peak * 1.02**seed)) ** 2
            values[lam] = (value, value)
        trainings += constants(width, seed, values, experiment=experiment)
    return [each._replace(arm=each.arm + suffix) for each in trainings]


def test_at_the_rate_that_is_best_on_val_the_peak_may_stay_where_it_is() -> None:
    """At the usual rate the peak moves from 2 to 8; at half of it, where wide nets are better by 10
    points, it is 2 there, too."""
    trainings = with_peaks("grid", 16, 2.0) + with_peaks("grid", 64, 8.0)
    for name, factor, peak, more in (
        ("rates", 0.25, 4.0, -0.1),
        ("rates", 0.5, 2.0, 0.1),
        ("rates", 2.0, 4.0, -0.1),
        ("faster", 4.0, 4.0, -0.2),
    ):
        suffix = f", lr x {factor:g}"
        trainings += with_peaks(name, 16, 4.0, suffix, top=0.5)
        trainings += with_peaks(name, 64, peak, suffix, top=0.6 + more)
    evidence = pooled(findings(trainings))
    study = replace(STUDY, widths=(16.0, 64.0), seeds=3, rate_seeds=3)
    rates = {arm.name: arm.lr for arms in study.rate_arms.values() for arm in arms}
    for effect in best_lambda_rises(evidence, (16.0, 64.0)):
        assert np.mean(effect.per_seed) == pytest.approx(1.0, abs=0.01)
    for effect in best_lambda_rises_at_best_rate(evidence, (16.0, 64.0), rates):
        assert np.mean(effect.per_seed) == pytest.approx(0.0, abs=0.01)
    table = rates_table(at_best_rate(evidence, (16.0, 64.0), rates))
    assert list(table["learning rate"]) == ["1 (3)"] * 5 + ["0.5 (3)"] * 5
    by_rate = rate_grid_table(at_all_rates(evidence, (16.0, 64.0), rates))
    assert list(by_rate["learning rate"]) == ["0.25", "0.5", "1", "2", "4"] * 2
    assert float(by_rate.iloc[6]["lam 2"]) == pytest.approx(70, abs=0.1)
    without = pooled(findings(with_peaks("grid", 16, 2.0)))
    with pytest.raises(NotDecidableError, match="no replicate was trained at all learning rates"):
        best_lambda_rises_at_best_rate(without, (16.0,), rates)


def test_each_replicate_chooses_its_own_rate() -> None:
    trainings = []
    for seed, (usual, half) in enumerate(((0.5, 0.6), (0.6, 0.5), (0.5, 0.6))):
        for experiment, suffix, value in (("grid", "", usual), ("rates", ", lr x 0.5", half)):
            values = {2.0: (value, value)}
            made = constants(16, seed, values, experiment=experiment)
            trainings += [each._replace(arm=each.arm + suffix) for each in made]
    at_best = at_best_rate(pooled(findings(trainings)), (16.0,), {"lam 2, lr x 0.5": 0.5})
    assert at_best.set_index("seed")["rate"].to_dict() == {0: 0.5, 1: 1.0, 2: 0.5}
    assert list(rates_table(at_best)["learning rate"]) == ["0.5 (2), 1 (1)"]


def test_what_a_search_of_the_learning_rate_adds_is_paired_over_replicates() -> None:
    """The thin net is best at lambda 2 and the usual rate; the wide one at 8 and half of it, where
    it gains 10 points on the usual rate, and at lambda 2 it gains as much there."""
    trainings = with_peaks("grid", 16, 2.0) + with_peaks("grid", 64, 8.0)
    trainings += with_peaks("rates", 16, 2.0, ", lr x 0.5", top=0.5)
    trainings += with_peaks("rates", 64, 8.0, ", lr x 0.5", top=0.7)
    evidence = pooled(findings(trainings))
    rates = {each.arm: 0.5 for each in trainings if each.arm.endswith(", lr x 0.5")}
    every = at_all_rates(evidence, (16.0, 64.0), rates)
    ways = ways_frame(evidence, 16.0, 64.0)
    table = rate_ways_table(every, war_at_rates({}), ways, 16.0, 64.0).set_index("way")
    lost = 100 * 0.02 * np.log(4) ** 2  # by lambda 2 where 8 is best
    reached = table["robust"].map(lambda text: float(text.split()[0]))
    assert reached.to_dict() == pytest.approx(
        {
            "thin lambda": 60 - lost,
            "full search": 60,
            "thin lambda and learning rate": 60 - lost,
            "thin lambda, learning rate searched": 70 - lost,
            "full search of lambda and learning rate": 70,
        },
        abs=0.2,
    )
    assert table.loc["full search of lambda and learning rate", "lambda"] == "8, 8, 8"
    assert table.loc["full search of lambda and learning rate", "learning rate"] == "0.5, 0.5, 0.5"
    less = table.loc["full search", "less full search of lambda and learning rate"]
    assert float(less.split()[0]) == pytest.approx(-10, abs=0.2)


def test_war_at_other_rates_is_what_a_replicate_would_train() -> None:
    """The thin net is best at the usual rate; by WAR the wide one is best at half of it, on val."""
    grid = with_peaks("grid", 16, 2.0) + with_peaks("grid", 64, 8.0)
    at_half = with_peaks("rates", 16, 2.0, ", lr x 0.5", top=0.4)
    at_half += with_peaks("rates", 64, 8.0, ", lr x 0.5", top=0.7)
    war_nets = []
    for seed in range(3):
        war_nets.append(way(DYNAMIC, seed, 0.6, 0.61))
        of_rate = Training(WAR_RATES, "WAR, lr x 0.5", 64.0, seed, 9.0, 0.65, 0.66)
        war_nets.append(of_rate)
    found = findings(grid + at_half + war_nets)
    every = at_all_rates(pooled(found), (16.0, 64.0), {each.arm: 0.5 for each in at_half})
    ways = ways_frame(pooled(found), 16.0, 64.0)
    table = rate_ways_table(every, war_at_rates(found), ways, 16.0, 64.0).set_index("way")
    assert table.loc["WAR, thin learning rate", "learning rate"] == "1, 1, 1"
    assert table.loc["WAR, learning rate searched", "learning rate"] == "0.5, 0.5, 0.5"
    assert table.loc["WAR, thin learning rate", "robust"].startswith("61.00")
    assert table.loc["WAR, learning rate searched", "robust"].startswith("66.00")


def test_a_replicate_of_which_a_training_failed_lacks_that_way_alone() -> None:
    """The thin net is best at lambda 2 and half the rate; at these the second replicate's wide net
    is missing, and the third's net by WAR."""
    grid = with_peaks("grid", 16, 2.0) + with_peaks("grid", 64, 8.0)
    at_half = with_peaks("rates", 16, 2.0, ", lr x 0.5", top=0.7)
    at_half += with_peaks("rates", 64, 8.0, ", lr x 0.5", top=0.7)
    failed = (1, 64.0, 2.0)
    ended = [each for each in at_half if (each.seed, each.width, each.lam) != failed]
    by_war = [way(DYNAMIC, seed, 0.6, 0.61) for seed in range(3)]
    by_war += [
        Training(WAR_RATES, "WAR, lr x 0.5", 64.0, seed, 9.0, 0.65, 0.66) for seed in range(2)
    ]
    found = findings(grid + ended + by_war)
    every = at_all_rates(pooled(found), (16.0, 64.0), {each.arm: 0.5 for each in at_half})
    ways = ways_frame(pooled(found), 16.0, 64.0)
    table = rate_ways_table(every, war_at_rates(found), ways, 16.0, 64.0).set_index("way")
    assert table.loc["thin lambda and learning rate", "seeds"] == 2
    assert table.loc["full search of lambda and learning rate", "seeds"] == 3
    assert table.loc["WAR, learning rate searched", "seeds"] == 2


def test_war_at_another_rate_takes_its_lambda_and_its_target_from_there() -> None:
    """At half the rate the thin net's best lambda is 8, where its ratio is 8; at the usual rate
    both are 2."""
    trainings = with_peaks("grid", 16, 2.0) + with_peaks("rates", 16, 8.0, ", lr x 0.5")
    study = replace(STUDY, widths=(16.0, 64.0), rate_seeds=2)
    experiment = next(each for each in study.experiments if each.name == WAR_RATES)
    usual = study.experiments[0].recipe_of("lam 4", 64.0, {})
    found = of_replicate(findings(trainings), 0)
    recipe = experiment.recipe_of("WAR, lr x 0.5", 64.0, found)
    assert recipe.optimiser == replace(usual.optimiser, lr=usual.optimiser.lr / 2)
    assert recipe.lam.lam_init == 8
    ratios = [ratio for _, ratio in recipe.lam.target]
    assert ratios == pytest.approx([8.0] * len(ratios))


def test_what_rises_with_width_at_one_lambda_may_fall_at_another() -> None:
    """At lambda 1 stability falls by 2 points per doubling, at 4 it rises by 3; the mean rises."""
    trainings = []
    for width in (16.0, 32.0, 64.0):
        for seed in range(3):
            trainings += constants(width, seed, {1.0: (0.5, 0.5), 4.0: (0.5, 0.5)})
    (grid,) = findings(trainings).values()
    doublings = np.log2(grid.trials["width"] / 16)
    per_doubling = grid.trials["lam"].map({1.0: -0.02, 4.0: 0.03})
    trials = grid.trials.assign(**{"test_last/stability": 0.7 + per_doubling * doublings})
    table = rises_table({"grid": grid._replace(trials=trials)}).set_index("lambda")
    assert table.loc["1", "stability"].startswith("-2.00")
    assert table.loc["4", "stability"].startswith("3.00")
    assert list(table["seeds"]) == [3, 3]


def test_a_difference_of_slopes_is_that_of_the_replicates_that_both_have() -> None:
    """The peak moves from 2 to 8 as the loss is, a slope of 1, and to 4 where it is divided, one of
    a half. A fourth replicate of the grid has none of the latter."""
    trainings = with_peaks("grid", 16, 2.0) + with_peaks("grid", 64, 8.0)
    trainings += with_peaks("normalised", 16, 2.0) + with_peaks("normalised", 64, 4.0)
    for width in (16.0, 64.0):
        fourth = with_peaks("grid", width, 4.0)
        trainings += [each._replace(seed=3) for each in fourth if each.seed == 0]
    table = slopes_table(findings(trainings), (16.0, 64.0)).set_index("setting")
    for family in ("cubic", "asymmetric parabola"):
        slopes = [float(text.split()[0]) for text in table[family]]
        assert slopes == pytest.approx([1.0, 0.5, 0.5], abs=0.02)
    assert list(table["seeds"]) == [3, 3, 3]


def test_a_thin_net_that_was_trained_longer_stands_in_for_the_thin_one() -> None:
    trainings = with_peaks("grid", 16, 2.0) + with_peaks("grid", 64, 8.0)
    trainings += with_peaks("longer", 16, 4.0)
    for effect in best_lambda_rises_from_longer(pooled(findings(trainings)), 16, 64):
        assert np.mean(effect.per_seed) == pytest.approx(0.5, abs=0.01)


def test_other_rates_and_longer_trainings_are_those_of_the_grid_but_for_that() -> None:
    study = replace(STUDY, widths=(8.0, 32.0), rate_seeds=2)
    *_, rates, longer, faster, by_war = study.experiments
    assert {each.seeds_of for each in (rates, longer, faster, by_war)} == {"grid"}
    arm = next(arm for arm in study.rate_arms["rates"] if (arm.lam, arm.lr) == (4.0, 0.5))
    usual = study.experiments[0].recipe_of("lam 4", 8.0, {})
    half = rates.recipe_of(arm.name, 8.0, {})
    assert half == replace(usual, optimiser=replace(usual.optimiser, lr=usual.optimiser.lr / 2))
    assert longer.recipe_of("lam 4", 8.0, {}) == replace(usual, epochs=4 * usual.epochs)
    assert longer.widths == (8.0,)


def test_terms_stand_apart_for_right_and_wrong_labels_where_they_are_on_record() -> None:
    found = planted()
    assert terms_table(found).empty
    (grid,) = found.values()
    lams = grid.epochs["train/lam"]
    apart = dict(zip(APART, (lams, 2 * lams, 3 * lams, 4 * lams), strict=True))
    table = terms_table({"grid": grid._replace(epochs=grid.epochs.assign(**apart))})
    row = table.set_index(["width", "lambda"]).loc[("64", "8")]
    assert row.to_dict() == {
        "natural, right": "8",
        "robust, right": "16",
        "natural, wrong": "24",
        "robust, wrong": "32",
    }


def test_the_preset_is_the_setting_it_names() -> None:
    studies = designs("war", "wrong-labels")
    assert list(studies) == ["main", "dose-0", "dose-15"]
    noises = [study.base.data.label_noise for study in studies.values()]
    assert noises == [0.3, 0.0, 0.15]
    main = studies["main"]
    names = [claim.name for claim in main.claims if claim.primary]
    assert names == ["H1", "H2", "H3", "H4"]
    of_dose = [claim.name for claim in studies["dose-0"].claims]
    assert of_dose[:6] == ["H1", "H1a", "H1b", "H2", "H3", "H4"]
    assert [experiment.trainings for experiment in studies["dose-0"].experiments] == [80, 15]
    assert not studies["dose-15"].ways
    h3 = [studies[name].claims[4].sentence for name in studies]
    wheres = ("30 % wrong labels", "no wrong labels", "15 % wrong labels")
    assert h3 == [f"The best lambda rises with width ({where})." for where in wheres]
    counts = [experiment.trainings for experiment in main.experiments]
    assert counts == [256, 48, 120, 16, 80, 70, 144, 24, 48, 12]
    assert {experiment.seeds_of for experiment in main.experiments} == {None, "grid"}


def test_bad_plans_are_refused_all_at_once() -> None:
    with pytest.raises(InputError) as refused:
        WrongLabelsStudy(
            (16.0,),
            (1.0, 2.0),
            replace(BASE, data=Digits(train=100), clip_gradient=1.0, eps_warmup=0.1),
            seeds=2,
            between_seeds=3,
        )
    assert len(refused.value.problems) == 7


def facts(trial: Path) -> dict[str, float]:
    """Of a run, among others when it was handed out and when it ended."""
    return dict(json.loads((trial / "run.json").read_text()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_judges_what_its_replicates_chose(tmp_path: Path) -> None:
    options = RunOptions(results=tmp_path)
    study = replace(STUDY, lams=(1.0, 2.0, 4.0, 8.0, 16.0), between_seeds=0)
    validation = validate(study, "v", options=options, console=Console(quiet=True))
    grid, ways = (load_search(f"v-{name}", tmp_path).trials for name in ("grid", WAYS))
    # Nothing prunes, so replicates of an arm are trained side by side.
    first, second = (facts(tmp_path / "v-grid" / "trials" / f"w8-000-r{r}") for r in range(2))
    assert second["started"] < first["ended"]
    # Replicate r of both has the same seed, so the same images and first weights.
    by_replicate = ways.groupby("replicate")["seed"].agg(set).to_dict()
    assert by_replicate == grid.groupby("replicate")["seed"].agg(set).to_dict()
    assert all(len(seeds) == 1 for seeds in by_replicate.values())
    for replicate in range(2):
        found = of_replicate(validation.findings, replicate)
        static = found[WAYS].trials.set_index("arm").loc[STATIC]
        assert static["lam"] == pytest.approx(choices.static_lam(found, 8, 32, study.lams))
        decayed = found[WAYS].trials.set_index("arm").loc[DECAYED]
        assert decayed["lam"] == choices.best_on_val(found, 8)
    assert "Ways of choosing lambda at width 32" in next(iter(validation.tables))
    answers = {verdict.claim.name: verdict.answer for verdict in validation.verdicts}
    assert set(answers) == {claim.name for claim in study.claims}
    # Nothing is trained again, and the recipes are those that were recorded.
    again = validate(study, "v", options=options, console=Console(quiet=True))
    assert [v.answer for v in again.verdicts] == [v.answer for v in validation.verdicts]
