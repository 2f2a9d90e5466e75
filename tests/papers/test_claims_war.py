"""H1 to H5: what is planted is found, and what is not there is not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from claimed_widths import STUDY, WAYS, arms, both, grid
from scipy import stats

from robsearch.claims.claim import Evidence, NotDecidableError, Verdict, judge
from robsearch.claims.experiment import Experiment
from robsearch.errors import InputError
from robsearch.papers.war import WidthStudy, digits_recipe
from robsearch.papers.war.claims import (
    GLOBAL,
    LOCAL,
    MARGIN,
    MATCHED,
    ROBUST,
    STABLE,
    along_width,
    best_lambda_rises,
    claims,
    left_out_error,
    lipschitz_explains,
    ratio_falls,
    search_cost,
    term_claims,
    trade_off,
    war_suffices,
)
from robsearch.papers.war.experiments import with_factors
from robsearch.papers.war.from_table import judged_table, ratios, read_table
from robsearch.parts.schedules import WAR, Fixed
from robsearch.search import Search
from robsearch.study import SearchRecord

H1, H2, H3, H4, H5 = claims(16.0, 256.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def verdict(which: int, evidence: Evidence) -> Verdict:
    return judge([claims(16.0, 256.0)[which - 1]], evidence)[0]


# --- effects by hand ---


def test_h1_is_the_planted_exponent() -> None:
    (effect,) = ratio_falls(grid(rng(), 3, ratio=-0.27, noise=0.0))
    assert effect.per_seed == pytest.approx((0.27,) * 3)


def test_the_halves_of_h1_are_the_terms_of_the_ratio() -> None:
    """All of the planted fall is in the natural loss; the robust one is 1 everywhere."""
    natural, robust = term_claims(H1)
    evidence = grid(rng(), 3, ratio=-0.27, noise=0.0)
    (fall,) = natural.effects(evidence)
    (rise,) = robust.effects(evidence)
    assert fall.per_seed == pytest.approx((0.27,) * 3)
    assert rise.per_seed == pytest.approx((0.0,) * 3)
    assert (natural.primary, robust.primary) == (False, False)


def test_h2_is_points_per_doubling() -> None:
    natural, stability = trade_off(grid(rng(), 3, natural=1.5, stability=-0.5, noise=0.0))
    assert natural.per_seed == pytest.approx((1.5,) * 3)
    assert stability.per_seed == pytest.approx((0.5,) * 3)


def test_h3_is_the_planted_slope_of_the_peak() -> None:
    cubic, asymmetric = best_lambda_rises(grid(rng(), 3, peak=0.3, noise=0.0, own=0.0))
    assert cubic.per_seed == pytest.approx((0.3,) * 3, abs=0.01)
    assert asymmetric.per_seed == pytest.approx((0.3,) * 3, abs=0.01)


def test_h3_leaves_out_a_training_that_was_not_measured() -> None:
    found = grid(rng(), 3, peak=0.3, noise=0.0)
    robust = found.trials[ROBUST].where(found.trials.index != found.trials.index[0])
    effects = best_lambda_rises(Evidence(found.trials.assign(**{ROBUST: robust}), found.epochs))
    for effect in effects:
        assert np.mean(effect.per_seed) == pytest.approx(0.3, abs=0.05)


def test_h3_on_a_flat_surface_has_no_answer() -> None:
    evidence = grid(rng(), 3, noise=0.0)
    flat = evidence.trials.assign(
        **{"test/robust_accuracy": 0.5 + 0.001 * rng().normal(size=len(evidence.trials))}
    )
    with pytest.raises(NotDecidableError, match=r"no peak|too flat"):
        best_lambda_rises(Evidence(flat, evidence.epochs))


def test_h4_counts_a_search_of_the_thin_net_and_one_training() -> None:
    evidence = grid(rng(), 2)  # operations: the width squared
    assert search_cost(evidence.trials, [16.0], "operations") == 7 * 16**2
    assert search_cost(evidence.trials, [256.0], "operations") == 7 * 256**2
    behind, ahead, cheap = war_suffices(
        both(evidence, arms(rng(), noise=0.0, war=-0.2, thin=-2.0)), 16.0, 256.0
    )
    assert behind.per_seed == pytest.approx((0.3,) * 10)
    assert ahead.per_seed == pytest.approx((1.8,) * 10)
    assert cheap.per_seed == pytest.approx((0.25 - (7 * 16**2 + 256**2) / (8 * 256**2),) * 10)


def test_h4_without_anything_to_gain_is_not_judged() -> None:
    evidence = both(grid(rng(), 2), arms(rng(), thin=-0.5, noise=0.0))
    assert "no assay sensitivity" in verdict(4, evidence).reason


def test_h5_leaves_one_width_out() -> None:
    evidence = grid(rng(), 3, noise=0.0)
    trials = evidence.trials
    exact = trials.assign(**{LOCAL: trials[MARGIN] * np.exp(-10 * trials[STABLE])})
    one = exact[exact["seed"] == 0]
    assert left_out_error(one, LOCAL) == pytest.approx(0, abs=1e-12)
    # A predictor that knows only the width says nothing of a width it has not seen within a line's
    # reach.
    assert left_out_error(one.assign(**{GLOBAL: one["lam"]}), GLOBAL) > 0.005


def test_h5_leaves_out_nets_that_collapsed() -> None:
    evidence = grid(rng(), 3)
    before = lipschitz_explains(evidence)
    collapsed = evidence.trials.head(1).assign(collapsed=True, **{MARGIN: 0.0})
    trials = pd.concat([evidence.trials.assign(collapsed=False), collapsed])
    assert lipschitz_explains(Evidence(trials, evidence.epochs)) == before


@pytest.mark.parametrize("column", [LOCAL, GLOBAL, MARGIN])
def test_h5_says_what_was_not_measured(column: str) -> None:
    evidence = grid(rng(), 3)
    without = Evidence(evidence.trials.drop(columns=column), evidence.epochs)
    with pytest.raises(NotDecidableError, match=f"does not measure {column}"):
        lipschitz_explains(without)


# --- verdicts on planted worlds ---


def test_a_world_as_claimed_supports_all_five() -> None:
    evidence = both(grid(rng(), 5, noise=0.3), arms(rng(), noise=0.15))
    assert [each.answer for each in judge((H1, H2, H3, H4, H5), evidence)] == ["supported"] * 5


def test_the_mirrored_world_refutes() -> None:
    mirrored = grid(rng(), 5, ratio=0.27, natural=-1.0, stability=1.0, peak=-0.3, noise=0.3)
    mirrored = mirrored._replace(
        trials=mirrored.trials.rename(columns={LOCAL: GLOBAL, GLOBAL: LOCAL})
    )
    evidence = both(mirrored, arms(rng(), war=-1.5, thin=-2.0))
    assert [each.answer for each in judge((H1, H2, H3, H4, H5), evidence)] == ["refuted"] * 5


def test_one_part_of_h2_is_not_enough() -> None:
    assert verdict(2, grid(rng(), 5, stability=0.0, noise=0.3)).answer == "negligible"


# --- false support and power, simulated ---

STUDIES = 200
COSTS = grid(rng(), 1)
"""H4 takes nothing from the grid but what its trainings cost."""


def worlds(which: int, seed: int) -> Evidence:
    """The hardest world in which the claim is false: one part at the border of it, the others
    true."""
    draw = rng(seed)
    if which == 1:
        return grid(draw, 5, ratio=0.0, own=0.1)
    if which == 2:
        return grid(
            draw, 5, natural=0.0 if seed % 2 else 1.0, stability=-1.0 if seed % 2 else 0.0, own=0.1
        )
    if which == 3:
        return grid(draw, 5, peak=0.0, own=0.1)
    if which == 4:
        border = {"war": -0.5, "thin": -2.0} if seed % 2 else {"war": -1.2, "thin": -1.2}
        return both(COSTS, arms(draw, **border))
    same = grid(draw, 5, noise=2.0)
    like = np.log(same.trials[LOCAL].to_numpy()) + draw.normal(0, 0.5, (2, len(same.trials)))
    return same._replace(
        trials=same.trials.assign(**{LOCAL: np.exp(like[0]), GLOBAL: np.exp(like[1])})
    )


@pytest.mark.slow
@pytest.mark.parametrize("which", [1, 2, 3, 4, 5])
def test_what_is_not_there_is_supported_in_at_most_one_study_of_twenty(which: int) -> None:
    # H3's curves take long, and benchmarks/laws.py has many more of them.
    studies = 100 if which == 3 else STUDIES
    wrong = sum(
        verdict(which, worlds(which, seed)).answer == "supported" for seed in range(studies)
    )
    least = stats.beta.ppf(0.05, wrong, studies - wrong + 1) if wrong else 0.0
    assert least <= 0.05, f"{wrong} of {studies}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "seeds", "studies", "world"),
    [
        (1, 5, 100, {"ratio": -0.2, "own": 0.1, "noise": 0.3}),
        (2, 5, 100, {"natural": 0.3, "stability": -0.3, "own": 0.1, "noise": 0.3}),
        (3, 10, 40, {"peak": 0.4, "noise": 1.0}),
    ],
)
def test_what_is_planted_is_found_with_power_of_four_fifths(
    which: int, seeds: int, studies: int, world: dict[str, float]
) -> None:
    found = sum(
        verdict(which, grid(rng(seed), seeds, **world)).answer == "supported"
        for seed in range(studies)
    )
    assert found >= 0.8 * studies


@pytest.mark.slow
def test_h4_finds_a_war_as_good_as_a_full_search_with_ten_seeds() -> None:
    found = sum(
        verdict(4, both(COSTS, arms(rng(seed), war=0.0, noise=0.3))).answer == "supported"
        for seed in range(100)
    )
    assert found >= 80


# --- the study itself ---


def test_each_way_is_the_recipe_it_says() -> None:
    found = {"grid": grid(rng(), 3, peak=0.3, noise=0.0)}
    thin = STUDY.best_lam(16.0, found)
    ways = STUDY.experiments[1]
    assert ways.arm_names == list(WAYS)
    way = {arm.name: ways.recipe(arm, 256.0, found) for arm in ways.arms}
    assert way["thin lambda"].lam == Fixed(thin)
    assert way["lambda 6"].lam == Fixed(6.0)
    assert way["full search"].lam == Fixed(STUDY.best_lam(256.0, found))
    assert thin < STUDY.best_lam(256.0, found)
    law = way["law"].lam
    assert isinstance(law, Fixed)
    assert law.value == pytest.approx(4 * 4**0.3, rel=0.3)
    matched, paper = way[MATCHED].lam, way["WAR, paper's form"].lam
    assert isinstance(matched, WAR)
    assert isinstance(matched.target, tuple)
    assert matched.lam_init == thin
    assert matched.target[0] == (0.05, pytest.approx((16 / 64) ** -0.27))
    assert isinstance(paper, WAR)
    assert paper.form == "paper"
    assert paper.target == pytest.approx((16 / 64) ** -0.27)
    assert {recipe.model.width for recipe in way.values()} == {256.0}


def test_controls_are_the_recipes_they_say() -> None:
    found = {"grid": grid(rng(), 3, peak=0.3, noise=0.0), "arms": arms(rng())}
    constants, normalised, retuned = STUDY.experiments[2:]
    varied = {arm.name: constants.recipe(arm, 256.0, found).lam for arm in constants.arms}
    assert varied["WAR's final lambda"] == Fixed(6.0)  # what the arms say it ended with
    assert [varied[f"alpha {alpha:g}"].alpha for alpha in (0.01, 0.03, 0.3)] == [0.01, 0.03, 0.3]
    assert varied["as it is"] == STUDY.experiments[1].recipe_of(MATCHED, 256.0, found).lam
    assert normalised.recipe_of("lam 16", 16.0, found).optimiser.lr == pytest.approx(0.1 * 7 / 17)
    best = retuned.recipe_of("wide lambda, lr x 0.5, weight decay x 5", 16.0, found)
    assert best.lam == Fixed(STUDY.best_lam(256.0, found))
    assert (best.optimiser.lr, best.optimiser.weight_decay) == pytest.approx((0.05, 25e-4))
    digests = {
        e.recipe(arm, w, found).digest
        for e in STUDY.experiments[2:]
        for arm in e.arms
        for w in e.widths
    }
    assert len(digests) == 8 + 14 + 36


def test_a_loss_divided_by_one_plus_lambda_is_a_learning_rate_and_a_decay() -> None:
    """For SGD with momentum: the same weights, step by step, in float64."""
    import torch

    scale, base = 7 / (1 + 2.0), STUDY.at(16.0, 2.0)
    as_it_is = with_factors(base, lr=scale, decay=1 / scale).optimiser

    def weights(optimiser: object, factor: float) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3).double()
        steps = optimiser.build(layer)  # type: ignore[attr-defined]
        x = torch.randn(8, 4, dtype=torch.float64)
        for _ in range(20):
            steps.zero_grad()
            (factor * layer(x).square().mean()).backward()
            steps.step()
        return layer.weight.detach()

    torch.testing.assert_close(
        weights(as_it_is, 1.0), weights(base.optimiser, scale), rtol=1e-10, atol=0
    )


def test_tables_can_be_made_of_every_experiment() -> None:
    found = {"grid": grid(rng(), 3, noise=0.3), "arms": arms(rng(), noise=0.0)}
    made = STUDY.tables(found)
    ways = next(iter(made.values())).set_index("way")
    # A search is one training of each of seven lambdas; at a width each takes width^2 operations,
    # 1,000 gradients, 1 s.
    assert ways.loc["lambda 6", "operations"] == "0 (0.0%)"
    assert ways.loc["full search", "gradients"] == "7e+03 (100.0%)"
    assert ways.loc["full search", "operations"] == f"{7 * 256**2:.3g} (100.0%)"
    assert ways.loc["thin lambda", "operations"] == f"{7 * 16**2:.3g} ({16**2 / 256**2:.1%})"
    assert ways.loc["law", "seconds"] == f"{7 * 4:.3g} (400.0%)"
    assert ways.loc["thin lambda", "regret"].startswith("2.")
    assert len(STUDY.figures(found)) == 3


def test_where_there_are_controls_h3_is_also_asked_at_one_learning_rate() -> None:
    names = [claim.name for claim in replace(STUDY, control_seeds=0).claims]
    assert names == ["H1", "H1a", "H1b", "H2", "H3", "H4", "H5"]
    *paper, control = STUDY.claims
    assert (control.name, control.primary, len(paper)) == ("H3-normalised", False, 7)
    flat = grid(rng(1), 5, noise=0.1, peak=0.0)
    flat = Evidence(*(frame.assign(experiment="normalised") for frame in flat))
    rising = grid(rng(0), 5, noise=0.1, peak=0.3)
    h3 = next(claim for claim in paper if claim.name == "H3")
    verdicts = judge([h3, control], both(rising, flat))
    answers = {verdict.claim.name: verdict.answer for verdict in verdicts}
    assert answers == {"H3": "supported", "H3-normalised": "negligible"}


def test_bad_plans_are_refused_all_at_once() -> None:
    with pytest.raises(InputError) as refused:
        WidthStudy((4.0, 2.0), (1.0, 2.0), digits_recipe(100, 0.0, 10), seeds=0)
    assert len(refused.value.problems) == 3


# --- somebody else's table ---


def table(folder: Path, exponent: float, seeds: int) -> Path:
    rows = [
        {
            "width": width,
            "epoch": epoch,
            "seed": seed,
            "train_nat_loss": 2.0 * width**exponent * (1 + 0.01 * seed),
            "train_rob_loss": 1.0 + 2.0 * width**exponent * (1 + 0.01 * seed),
            "test_nat_acc": 0.8 + 0.01 * math.log2(width) + 0.001 * seed,
            "test_rob_acc": 0.5 + 0.01 * math.log2(width) - 0.01 * (epoch == 9),
        }
        for seed in range(seeds)
        for width in (1, 2, 4, 8)
        for epoch in range(10)
    ]
    file = folder / "table.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def test_a_table_of_one_seed_shows_its_trends_and_decides_nothing(tmp_path: Path) -> None:
    evidence = read_table(table(tmp_path, -0.27, seeds=1))
    verdicts, shown = judged_table(evidence)
    assert [each.answer for each in verdicts] == ["inconclusive"] * 2
    assert "1 seed" in verdicts[0].reason
    first = shown["Trends over widths"].iloc[0]
    assert first["trend"] == "ratio = 2.00 width^b"
    assert first.iloc[1].startswith("-0.270")
    assert ratios(evidence).loc[8] == pytest.approx(2 * 8**-0.27)


def test_a_table_of_four_seeds_decides_h1_but_not_what_it_lacks(tmp_path: Path) -> None:
    verdicts, _ = judged_table(read_table(table(tmp_path, -0.27, seeds=4)))
    assert [each.answer for each in verdicts] == ["supported", "inconclusive"]


def test_a_table_with_columns_missing_or_no_numbers_is_refused(tmp_path: Path) -> None:
    file = table(tmp_path, -0.27, seeds=1)
    pd.read_csv(file).drop(columns="train_rob_loss").to_csv(tmp_path / "short.csv")
    with pytest.raises(InputError, match="add train_rob_loss"):
        read_table(tmp_path / "short.csv")
    pd.read_csv(file).astype({"width": object}).replace({"width": {4: "four"}}).to_csv(
        tmp_path / "words.csv"
    )
    with pytest.raises(InputError, match=r"a number above 0 as width .*, got 'four' in line 22"):
        read_table(tmp_path / "words.csv")
    with pytest.raises(InputError, match="pass a CSV"):
        read_table(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("width", -4, "a number above 0 as width .*, got -4.* in line 7"),
        ("test_rob_acc", 50.0, "a share from 0 to 1 as test_rob_acc .*, got 50.0 in line 7"),
        ("train_nat_loss", math.inf, "a number from 0 up as train_nat_loss .*, got inf in line 7"),
        ("lam", "six", "a number above 0 as lam .*, got 'six' in line 7"),
        ("seed", "", "a number from 0 up as seed .*, got nan in line 7"),
        (
            "test_stability",
            "high",
            "a share from 0 to 1 as test_stability .*, got 'high' in line 7",
        ),
        ("epoch", 4, "each width, lam, seed, epoch once in .*, got line 7 again"),
    ],
)
def test_what_is_out_of_range_in_a_table_is_named_with_its_line(
    tmp_path: Path, column: str, value: object, told: str
) -> None:
    rows = (
        pd.read_csv(table(tmp_path, -0.27, seeds=1))
        .assign(lam=1.0, test_stability=0.5)
        .astype(object)
    )
    rows.loc[5, column] = value
    rows.to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(InputError, match=told) as refused:
        read_table(tmp_path / "wrong.csv")
    assert len(refused.value.problems) == 1


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    pd.read_csv(table(tmp_path, -0.27, seeds=1)).head(0).to_csv(tmp_path / "empty.csv")
    with pytest.raises(InputError, match="expected rows in"):
        read_table(tmp_path / "empty.csv")


def test_trainings_that_collapsed_are_out_of_peaks_choices_and_the_law() -> None:
    found = grid(rng(), 3, peak=0.3, noise=0.0)
    spoiled = found.trials.assign(collapsed=found.trials["lam"] == 32.0)
    spoiled.loc[spoiled["collapsed"], [ROBUST, "value"]] = 0.9  # a set with a class of 90 %
    for effect in best_lambda_rises(Evidence(spoiled, found.epochs)):
        assert effect.per_seed == pytest.approx((0.3,) * 3, abs=0.05)
    whole, without = (
        {"grid": Evidence(trials, found.epochs)} for trials in (found.trials, spoiled)
    )
    assert STUDY.best_lam(256.0, without) == STUDY.best_lam(256.0, whole)
    assert STUDY.law_lam(without) == pytest.approx(STUDY.law_lam(whole))
    with pytest.raises(InputError, match="a training of width 16 that has not collapsed"):
        STUDY.best_lam(16.0, {"grid": Evidence(spoiled.assign(collapsed=True), found.epochs)})


def test_progress_of_the_evidence_is_the_share_of_the_recipes_epochs(tmp_path: Path) -> None:
    """A stopper ended the training after 2 of 10 epochs: H1's window from .4 to .5 has none of
    them."""
    facts = {
        "trial": "w16-000",
        "width": 16.0,
        "replicate": 0,
        "state": "COMPLETE",
        "param/arm": "lam 1",
    }
    trials = pd.DataFrame([{**facts, "epochs": 2, "recipe_epochs": 10}])
    epochs = pd.DataFrame({"trial": "w16-000", "epoch": [1, 2]})
    record = SearchRecord("s", "m:n", (16.0,), 0, 1, "", {})
    experiment = Experiment(
        "grid", ("lam 1",), (16.0,), 1, lambda arm, width, found: STUDY.at(width, 1.0)
    )
    found = experiment.evidence(Search(record, tmp_path, trials, epochs), {})
    assert list(found.epochs["progress"]) == [0.05, 0.15]


def test_lambdas_of_the_grid_keep_their_digits() -> None:
    study = replace(STUDY, lams=(1 / 3, 2.0, 4.0))
    experiment = study.experiments[0]
    assert experiment.arm_names == ["lam 0.333333", "lam 2", "lam 4"]
    assert experiment.recipe_of("lam 0.333333", 16.0, {}).lam == Fixed(1 / 3)


def test_what_a_seed_lacks_at_one_width_is_left_out_of_slopes_and_choices() -> None:
    trials = pd.DataFrame(
        [
            {
                "seed": seed,
                "arm": f"lam {lam:g}",
                "width": width,
                "value": lam / 10,
                STABLE: lam * math.log(width),
            }
            for seed in (0, 1)
            for lam in (1.0, 2.0)
            for width in (1.0, math.e)
        ]
    )
    assert along_width(trials, STABLE, 1.0) == pytest.approx((1.5, 1.5))  # slopes 1 and 2
    lost = trials.drop(index=3)  # seed 0, lambda 2, the wide net
    assert along_width(lost, STABLE, 1.0) == pytest.approx((1.0, 1.5))
    assert along_width(lost.drop(index=1), STABLE, 1.0) == pytest.approx((1.5,))
    assert STUDY.best_lam(math.e, {"grid": Evidence(trials, trials)}) == 2.0
    assert STUDY.best_lam(math.e, {"grid": Evidence(lost, lost)}) == 1.0


def test_a_predictor_of_zero_leaves_h5_without_a_number() -> None:
    trials = grid(rng(), 3, noise=0.3).trials
    assert math.isfinite(left_out_error(trials, LOCAL))
    trials.loc[trials.index[0], LOCAL] = 0.0
    assert math.isnan(left_out_error(trials, LOCAL))


def test_the_public_logs_say_what_is_known_of_them(data_root: Path) -> None:
    file = data_root / "rice2020_width_sweep.csv"
    if not file.exists():
        pytest.skip(f"ROBSEARCH_DATA has no {file.name}")
    _, shown = judged_table(read_table(file))
    trends = shown["Trends over widths"].set_index("trend")
    assert trends.index[0] == "ratio = 1.97 width^b"
    ratio, best, last, _ = trends["slope [95 %, over widths]"]
    assert ratio.startswith(("-0.26", "-0.27"))
    assert trends["R2"].iloc[0] == "0.980"
    low = [float(told.split("[")[1].split(",")[0]) for told in (best, last)]
    assert low[0] > 0 > low[1]
