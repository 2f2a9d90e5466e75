"""N1 to N4: the experiments are the paper's, and the verdicts follow from planted numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted_norms import LAYERS, SEEDS, STUDY, evidence
from rich.console import Console
from scipy import stats

from robsearch import (
    ALP,
    MLP,
    PGD,
    PGDAT,
    SGD,
    TRADES,
    Digits,
    Fixed,
    NormDecay,
    RunOptions,
    SingularValueClipping,
    Standard,
)
from robsearch.claims.claim import Claim, Evidence, Verdict, judge
from robsearch.claims.running import validate
from robsearch.claims.seeds import complete_arm_values, layer_columns, slopes
from robsearch.errors import InputError
from robsearch.papers.norms.claims import best_by_others
from robsearch.papers.norms.experiments import PRESETS, NormsStudy
from robsearch.papers.recipes import digits
from robsearch.parts.attacks import FGSM, AutoAttack

CLAIMS = STUDY.claims


def verdicts(found: Evidence, claims: tuple[Claim, ...] = CLAIMS) -> dict[str, Verdict]:
    return {verdict.claim.name: verdict for verdict in judge(claims, found)}


def answers(seed: int = 0, noise: float = 0.01, **planted: float) -> dict[str, str]:
    found = verdicts(evidence(np.random.default_rng(seed), noise, **planted))
    return {name: verdict.answer for name, verdict in found.items()}


# --- what is trained ---


def test_the_primary_experiments_are_those_of_the_paper() -> None:
    for preset in ("digits", "cifar10", "paper"):
        study = PRESETS[preset]
        last, early, regularised = study.experiments
        for arm, objective in {
            "TRADES": TRADES,
            "PGD-AT": PGDAT,
            "ALP": ALP,
            "Standard": Standard,
        }.items():
            recipe = last.recipe_of(arm, study.base.model.width, {})
            assert isinstance(recipe.objective, objective)
            assert recipe.penalties == ()
            assert recipe.optimiser.weight_decay == 0
            assert recipe.measured_epoch == "last"
            assert recipe.lam == Fixed(0.1 if arm == "ALP" else 1.0)
        modern = early.recipe_of("TRADES", study.base.model.width, {})
        assert modern.lam == Fixed(6.0)
        assert modern.optimiser.weight_decay == 5e-4
        assert modern.measured_epoch == "best"
        assert early.recipe_of("Standard", study.base.model.width, {}).measured_epoch == "last"
        for arm in regularised.arms:
            recipe = regularised.recipe(arm, study.base.model.width, {})
            assert isinstance(recipe.objective, Standard)
            assert recipe.optimiser.weight_decay == 0
            assert isinstance(recipe.test_attack, AutoAttack)
            assert recipe.test_attack.eps == study.small_eps


def test_each_regularised_arm_differs_from_the_one_without_by_its_penalty_alone() -> None:
    last, _, regularised = STUDY.experiments
    plain = regularised.recipe_of("Standard", 64, {})
    added = {
        "l1 0.01": NormDecay(1e-2, norm="l1"),
        "linf 0.001": NormDecay(1e-3),
        "clip 2": SingularValueClipping(2.0),
    }
    for arm, penalty in added.items():
        assert regularised.recipe_of(arm, 64, {}) == replace(plain, penalties=(penalty,))
    trades = last.recipe_of("TRADES", 64, {})
    assert last.recipe_of("clip 1", 64, {}) == replace(
        trades, penalties=(SingularValueClipping(1.0),)
    )
    assert len(regularised.arms) == 1 + 3 * 2


def test_every_recipe_builds_and_the_layers_are_those_of_the_model() -> None:
    assert layer_columns(STUDY.base, "norms/l1") == [
        f"layer/norms/l1/{layer}/mean" for layer in LAYERS
    ]
    for study in PRESETS.values():
        recipes = [
            each.recipe(arm, study.base.model.width, {})
            for each in study.experiments
            for arm in each.arms
        ]
        assert len({recipe.digest for recipe in recipes}) == len(recipes)
    names = layer_columns(PRESETS["cifar10"].base, "norms/l1")
    assert len(names) == 1 + 12 + 3 + 1
    assert not any("bn" in name for name in names)


def test_an_attack_that_is_no_pgd_is_refused() -> None:
    base = replace(digits(), attack=FGSM(), eval_attack=PGD())
    with pytest.raises(InputError, match="PGD"):
        NormsStudy(base, small_eps=0.05)


# --- numbers by seed and arm ---


def test_seeds_that_lack_a_training_or_a_number_are_left_out() -> None:
    rows = [
        ("a", 0, 1.0),
        ("b", 0, 2.0),
        ("a", 1, 3.0),
        ("b", 2, 4.0),
        ("a", 3, 5.0),
        ("b", 3, math.nan),
    ]
    trials = pd.DataFrame(rows, columns=["arm", "seed", "metric"])
    assert complete_arm_values(trials, ["b", "a"], ["metric"]).tolist() == [[[2.0], [1.0]]]
    assert complete_arm_values(trials, ["a", "b"], ["metric", "missing"]).shape == (0, 2, 2)
    assert complete_arm_values(trials, ["a", "c"], ["metric"]).shape == (0, 2, 1)
    twice = complete_arm_values(trials, ["a", "b", "a"], ["metric"])
    assert twice.tolist() == [[[1.0], [2.0], [1.0]]]
    with pytest.raises(ValueError, match="several of one seed and arm"):
        complete_arm_values(pd.concat([trials, trials]), ["a", "b"], ["metric"])


def test_slopes_by_hand() -> None:
    # y = 1 + 2 x exactly, and y = 0, 3, 0 over x = 0, 1, 2, which has no slope.
    values = np.array([[[1.0, 0.0], [3.0, 3.0], [5.0, 0.0]]])
    assert slopes([0, 1, 2], values).tolist() == [[2.0, 0.0]]


def test_a_strength_is_chosen_by_the_other_seeds() -> None:
    # Over all seeds the second is best, but only because of the last one: for it, the others choose
    # the first.
    val = np.array([[0.90, 0.89], [0.90, 0.89], [0.90, 0.99]])
    assert best_by_others(val).tolist() == [1, 1, 0]


# --- what is concluded ---


def test_planted_effects_are_supported_and_their_mirrors_refuted() -> None:
    planted = answers(norm=-0.3, natural=0.5, robust=-0.5, grown=0.2, product=2.0)
    assert set(planted.values()) == {"supported"}
    assert len(planted) == 10
    mirrored = answers(norm=0.3, natural=-3.0, robust=3.0, grown=-0.4, product=0.5)
    assert set(mirrored.values()) == {"refuted"}


def test_noise_as_large_as_what_matters_leaves_it_open() -> None:
    found = answers(noise=0.3, norm=-0.1, grown=-0.1, product=1.05)
    assert [found[name] for name in ("N1", "N2", "N3", "N4")] == ["inconclusive"] * 4


def test_norms_that_are_a_little_smaller_are_comparable() -> None:
    assert answers(grown=-0.05)["N3"] == "supported"
    assert answers(grown=-0.15)["N3"] == "refuted"


def test_an_arm_that_failed_in_all_seeds_leaves_its_claims_open() -> None:
    found = evidence(np.random.default_rng(0), 0.01, norm=-0.3)
    lost = (found.trials["experiment"] == "regularised") & found.trials["arm"].str.startswith(
        "clip"
    )
    verdict = verdicts(found._replace(trials=found.trials[~lost]))["N1"]
    assert verdict.answer == "inconclusive"
    assert verdict.seeds == 0


def test_the_table_has_a_row_for_every_arm() -> None:
    found = evidence(np.random.default_rng(0))
    tables = STUDY.tables({each.name: found.of(each.name) for each in STUDY.experiments})
    assert [len(table) for table in tables.values()] == [7, 7, 7]
    assert all((table["seeds"] == SEEDS).all() for table in tables.values())


# --- how often it is right ---

STUDIES = 200
HOLDING = {"norm": -0.5, "natural": 1.0, "robust": -2.0, "grown": 0.5, "product": 3.0}
NULLS: dict[str, tuple[str, dict[str, float]]] = {
    "N1 with one family": ("l1", {"norm": 0.0}),
    "N1 with all": ("", {"norm": 0.0}),
    "N2 natural": ("clip", {"natural": -STUDY.margin}),
    "N2 robust": ("clip", {"robust": STUDY.margin}),
    "N3": ("PGD-AT", {"grown": -math.log(1.1)}),
    "N4": ("ALP", {"product": 1.0}),
}
"""By claim, the arms (by how their names begin) in which it lies at the border; in all others it
holds."""


def at_border(random: np.random.Generator, arms: str, null: dict[str, float]) -> Evidence:
    holding, border = evidence(random, **HOLDING), evidence(random, **(HOLDING | null))
    there = holding.trials["arm"].str.startswith(arms)
    trials, epochs = (one.where(~there, other) for one, other in zip(holding, border, strict=True))
    return Evidence(trials, epochs)


@pytest.mark.slow
@pytest.mark.parametrize("case", NULLS)
def test_at_the_border_of_a_claim_at_most_one_study_in_twenty_supports_it(case: str) -> None:
    studies = (at_border(np.random.default_rng(seed), *NULLS[case]) for seed in range(STUDIES))
    wrong = sum(verdicts(study, CLAIMS[:4])[case[:2]].answer == "supported" for study in studies)
    assert wrong == 0 or stats.beta.ppf(0.05, wrong, STUDIES - wrong + 1) <= 0.05


def found_share(studies: int, name: str, **planted: float) -> int:
    """How many of so many simulated studies support a claim; the other claims are planted to
    hold."""
    found = (
        evidence(np.random.default_rng(seed), **(HOLDING | planted)) for seed in range(studies)
    )
    return sum(verdicts(study, CLAIMS[:4])[name].answer == "supported" for study in found)


@pytest.mark.slow
def test_planted_effects_are_found() -> None:
    # Deviations over seeds: 10 % of a norm (averaged over layers and strengths), 1 point of
    # accuracy.
    assert found_share(100, "N1", norm=-0.3) >= 80
    assert found_share(100, "N3", grown=0.2) >= 80
    assert found_share(100, "N4", product=1.3) >= 80


# --- the whole of it ---


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tiny_study_is_run_and_judged(two_cpus: None, uri: str, tmp_path) -> None:
    base = replace(
        digits(),
        model=MLP(width=8, depth=1),
        data=Digits(train=100),
        epochs=2,
        optimiser=SGD(lr=0.5, weight_decay=0.0),
    )
    base = replace(
        base, attack=PGD(eps=0.03, step_size=0.015, steps=2), eval_attack=None, measured_examples=50
    )
    study = NormsStudy(base, small_eps=0.05, betas=(1e-2,), clips=(1.0,), every=2, seeds=2)
    found = validate(
        study, "tiny", options=RunOptions(results=tmp_path, parallel=2), console=Console(quiet=True)
    )
    assert found is not None
    trials = found.findings["last"].trials
    assert len(trials) == 2 * 7
    assert trials["layer/norms/l1/2/mean"].notna().all()
    assert (trials["test/epoch"] == 2).all()
    assert trials["lipschitz/global_bound_by_layer"].notna().all()
    assert {verdict.answer for verdict in found.verdicts} == {"inconclusive"}
    assert all(part.estimate.n == 2 for verdict in found.verdicts for part in verdict.parts)
