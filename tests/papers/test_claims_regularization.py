"""R1 to R4: nets differ by their training eps alone, and planted slopes over it lead to the
verdicts they must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_regularization import EPS, LAYERS, SEEDS, STUDY, evidence
from rich.console import Console
from scipy import stats

from robsearch import MLP, PGD, PGDAT, SGD, Digits, RunOptions, Standard
from robsearch.claims.claim import Claim, Evidence, Verdict, judge
from robsearch.claims.running import validate
from robsearch.errors import InputError
from robsearch.papers.recipes import digits
from robsearch.papers.regularization.claims import against_none, narrow, trade
from robsearch.papers.regularization.experiments import PRESETS, RegularizationStudy
from robsearch.parts.attacks import FGSM, AutoAttack

CLAIMS = STUDY.claims


def test_a_median_margin_at_eps_0_that_is_not_above_0_leaves_r1_open() -> None:
    found = evidence(np.random.default_rng(0), noise=0.0, margin=0.3, confidence=0.3)
    found.trials["test/margin/logit/q50"] *= -1
    r1 = verdicts(found)["R1"]
    assert (r1.answer, "the median logit margin at eps 0 is not above 0" in r1.reason) == (
        "inconclusive",
        True,
    )


def test_nets_are_trained_at_the_eps_that_they_are_judged_at() -> None:
    """8 / 255 has more than six digits; its arm is still called by six."""
    study = RegularizationStudy(
        replace(digits(), objective=PGDAT()), tuple(each / 255 for each in (0, 2, 4, 8))
    )
    (experiment,) = study.experiments
    assert experiment.arm_names[0] == "0.0313725"
    recipe = experiment.recipe_of("0.0313725", 64.0, {})
    assert recipe.attack.eps == recipe.eval_attack.eps == 8 / 255


def verdicts(found: Evidence, claims: tuple[Claim, ...] = CLAIMS) -> dict[str, Verdict]:
    return {verdict.claim.name: verdict for verdict in judge(claims, found)}


def answers(seed: int = 0, noise: float = 0.01, **planted: float) -> dict[str, str]:
    found = verdicts(evidence(np.random.default_rng(seed), noise, **planted))
    return {name: verdict.answer for name, verdict in found.items()}


# --- what is trained ---


def test_nets_differ_by_their_training_eps_alone_and_are_judged_alike() -> None:
    (experiment,) = STUDY.experiments
    recipes = {arm: experiment.recipe(arm, 64, {}) for arm in experiment.arms}
    assert list(recipes) == ["0.15", "0.1", "0.05", "0"]
    for arm, recipe in recipes.items():
        assert recipe.test_attack == AutoAttack(
            eps=0.15, attacks=("apgd-ce", "apgd-t"), batch_size=1000
        )
        assert (recipe.eval_attack, recipe.measures) == (
            recipes["0.15"].eval_attack,
            recipes["0.15"].measures,
        )
        if arm != "0":
            assert isinstance(recipe.attack, PGD)
            assert recipe.attack.eps == float(arm)
            assert recipe.attack.step_size == pytest.approx(float(arm) / 4)
            assert replace(recipe, attack=recipes["0.15"].attack) == recipes["0.15"]
    assert isinstance(recipes["0"].objective, Standard)


def test_every_recipe_of_every_preset_is_one_of_its_own() -> None:
    for study in PRESETS.values():
        recipes = [
            each.recipe(arm, study.base.model.width, {})
            for each in study.experiments
            for arm in each.arms
        ]
        assert len({recipe.digest for recipe in recipes}) == len(recipes) >= 4


@pytest.mark.parametrize("eps", [(0.0, 0.1, 0.2), (0.05, 0.1, 0.15, 0.2), ()])
def test_fewer_than_four_strengths_or_none_of_zero_are_refused(eps: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="four different eps or more, the least 0"):
        RegularizationStudy(digits(), eps)


def test_an_attack_that_is_no_pgd_is_refused() -> None:
    with pytest.raises(InputError, match="PGD"):
        RegularizationStudy(replace(digits(), attack=FGSM(), eval_attack=PGD()), EPS)


# --- the effects, by hand ---


def test_falls_of_accuracy_and_gap_are_those_at_the_largest_eps() -> None:
    found = evidence(np.random.default_rng(0), 0.0, natural=3.0, gap=2.0)
    natural, gap = trade(found, EPS)
    assert natural.per_seed == pytest.approx([3.0] * SEEDS)
    assert gap.per_seed == pytest.approx([2.0] * SEEDS)


def test_a_curve_that_is_not_monotone_is_no_line() -> None:
    """Natural accuracy of 90, 93, 95 and 88 %: a line through it falls by 1.2 points;
    the net at the largest eps lies 2 points below the first."""
    found = evidence(np.random.default_rng(0), 0.0)
    natural = found.trials["arm"].map({"0": 0.90, "0.05": 0.93, "0.1": 0.95, "0.15": 0.88})
    trials = found.trials.assign(**{"test/natural_accuracy": natural})
    fall, _ = trade(found._replace(trials=trials), EPS)
    assert fall.per_seed == pytest.approx([2.0] * SEEDS)
    table = against_none(trials, EPS, {"natural (%)": ("test/natural_accuracy", 100)})
    assert list(table["eps"]) == ["0.05", "0.1", "0.15"]
    assert [cell.split(" ")[0] for cell in table["natural (%)"]] == ["3", "5", "-2"]


def test_most_layers_shrink_where_the_median_one_does() -> None:
    # Two of three layers shrink by 10 %, one grows by half.
    found = evidence(np.random.default_rng(0), 0.0, deviation=0.1)
    columns = [f"layer/spectra/reshaped/{layer}/std" for layer in LAYERS]
    grown = 0.7 * (1 + 0.5 * found.trials["arm"].astype(float) / max(EPS))
    (effect,) = narrow(
        found._replace(trials=found.trials.assign(**{columns[0]: grown})), EPS, {"spectra": columns}
    )
    assert effect.per_seed == pytest.approx([0.1] * SEEDS)
    (effect,) = narrow(
        found._replace(trials=found.trials.assign(**dict.fromkeys(columns[:2], grown))),
        EPS,
        {"spectra": columns},
    )
    assert effect.per_seed == pytest.approx([-0.5] * SEEDS)


def test_layers_that_all_change_half_as_much_are_smaller_and_no_more_uniform() -> None:
    verdict = verdicts(evidence(np.random.default_rng(0), 1e-6, change=0.5))["R3"]
    smaller, uniform = (part.estimate.mean for part in verdict.parts)
    assert smaller > 0.5
    assert uniform == pytest.approx(0, abs=1e-4)
    assert verdict.answer == "negligible"


# --- what is concluded ---


HOLDING = {
    "margin": 0.5,
    "confidence": 0.5,
    "deviation": 0.5,
    "change": 0.5,
    "nearer": 0.5,
    "natural": 9.0,
    "gap": 9.0,
}


def test_planted_effects_are_supported_and_their_mirrors_refuted() -> None:
    small = {
        "margin": 0.3,
        "confidence": 0.3,
        "deviation": 0.2,
        "change": 0.3,
        "nearer": 0.3,
        "natural": 3.0,
        "gap": 2.0,
    }
    assert answers(**small) == dict.fromkeys(["R1", "R2", "R3", "R4"], "supported")
    mirrored = answers(**{name: -value for name, value in small.items()})
    assert mirrored == dict.fromkeys(["R1", "R2", "R3", "R4"], "refuted")


def test_noise_as_large_as_what_matters_leaves_it_open() -> None:
    planted = {
        "margin": 0.1,
        "confidence": 0.1,
        "deviation": 0.05,
        "change": 0.1,
        "nearer": 0.1,
        "natural": 2,
        "gap": 1,
    }
    assert answers(noise=0.3, **planted) == dict.fromkeys(["R1", "R2", "R3", "R4"], "inconclusive")


def test_a_claim_fails_with_its_weakest_part() -> None:
    assert answers(**(HOLDING | {"confidence": -0.3}))["R1"] == "refuted"
    assert answers(**(HOLDING | {"gap": -2.0}))["R4"] == "refuted"


def test_the_tables_have_a_row_for_every_eps_and_every_layer() -> None:
    found = evidence(np.random.default_rng(0), 0.0, deviation=0.1)
    by_eps, changes, by_layer = STUDY.tables({"eps": found}).values()
    assert list(changes["eps"]) == ["0.05", "0.1", "0.15"]
    assert list(by_eps["arm"]) == ["0", "0.05", "0.1", "0.15"]
    assert list(by_layer["layer"][3:]) == [f"sd of spectra/reshaped, {layer}" for layer in LAYERS]
    assert by_layer["change"][3] == "-0.07 ± 0"


# --- how often it is right ---

STUDIES = 200
NULLS = {
    "R1 margin": {"margin": 0.0},
    "R1 confidence": {"confidence": 0.0},
    "R2": {"deviation": 0.0},
    "R3 smaller": {"change": 0.0},
    "R3 uniform": {"nearer": 0.0},
    "R4 natural": {"natural": 0.0},
    "R4 gap": {"gap": 0.0},
}


def found_share(studies: int, name: str, **planted: float) -> int:
    """How many of so many simulated studies support a claim; the other claims are planted to
    hold."""
    found = (
        verdicts(evidence(np.random.default_rng(seed), **planted))[name] for seed in range(studies)
    )
    return sum(verdict.answer == "supported" for verdict in found)


@pytest.mark.slow
@pytest.mark.parametrize("case", NULLS)
def test_at_the_border_of_a_claim_at_most_one_study_in_twenty_supports_it(case: str) -> None:
    wrong = found_share(STUDIES, case.split()[0], **(HOLDING | NULLS[case]))
    assert wrong == 0 or stats.beta.ppf(0.05, wrong, STUDIES - wrong + 1) <= 0.05


@pytest.mark.slow
def test_planted_effects_are_found() -> None:
    # Deviations over seeds: 10 % of each size, 1 point of accuracy and of the gap; five seeds of
    # four strengths.
    for name, planted in {
        "R1": {"margin": 0.4},
        "R2": {"deviation": 0.3},
        "R4": {"natural": 4.0, "gap": 4.0},
    }.items():
        assert found_share(100, name, **(HOLDING | planted)) >= 80


# --- the whole of it ---


@pytest.mark.slow
def test_a_tiny_study_is_run_and_judged(two_cpus: None, uri: str, tmp_path) -> None:
    base = replace(
        digits(), model=MLP(width=8, depth=1), data=Digits(train=100), epochs=2, objective=PGDAT()
    )
    attack = PGD(eps=0.1, step_size=0.05, steps=2)
    base = replace(base, attack=attack, optimiser=SGD(lr=0.1), measured_examples=50)
    study = RegularizationStudy(base, (0.0, 0.03, 0.06, 0.1), seeds=2)
    found = validate(
        study, "tiny", options=RunOptions(results=tmp_path, parallel=2), console=Console(quiet=True)
    )
    assert found is not None
    trials = found.findings["eps"].trials
    assert len(trials) == 8
    for layer in ("2", "4"):
        assert trials[f"layer/spectra/reshaped/{layer}/std"].notna().all()
        assert trials[f"layer/features/change/{layer}/mean"].notna().all()
    assert {verdict.answer for verdict in found.verdicts} == {"inconclusive"}
    assert all(part.estimate.n == 2 for verdict in found.verdicts for part in verdict.parts)
    assert len(found.tables) == 3
