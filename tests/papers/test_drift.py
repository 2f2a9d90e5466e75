"""The study of how lambda* rises with width in several settings, on planted peaks and on tiny
nets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from planted_replicates import Training, constants, findings
from rich.console import Console

from robsearch.claims.claim import Verdict, judge
from robsearch.claims.experiment import Findings, pooled
from robsearch.claims.running import validate
from robsearch.data import Digits
from robsearch.errors import InputError
from robsearch.papers.presets import designs
from robsearch.papers.war.drift import CHOSEN, DriftStudy, Setting
from robsearch.parts.attacks import PGD
from robsearch.parts.models import MLP
from robsearch.parts.optimisers import SGD, AdamW
from robsearch.recipe import Recipe
from robsearch.search import RunOptions

WIDTHS = (16.0, 64.0, 256.0)
LAMS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SEEDS = 4
BASE = Recipe(
    model=MLP(width=4, depth=1),
    data=Digits(train=100),
    attack=PGD(eps=0.05, step_size=0.03, steps=1, start="uniform"),
    optimiser=SGD(lr=0.1),
    epochs=2,
    batch_size=50,
    measures=(),
)
STUDY = DriftStudy(
    (Setting("first", "as it is", BASE), Setting("other", "otherwise", BASE, divided=True)),
    WIDTHS,
    LAMS,
    seeds=SEEDS,
    compared=("other",),
)


def peaked(name: str, slope: float, top: float = 0.6) -> list[Training]:
    """Accuracies of a parabola over log lambda whose peak is 2 at width 64 and moves as a power of
    width; seeds differ in that power by up to 0.03."""
    trainings = []
    for seed in range(SEEDS):
        power = slope + 0.02 * (seed - 1.5)
        for width in WIDTHS:
            peak = math.log(2) + power * math.log(width / 64)
            values = {lam: top - 0.01 * (math.log(lam) - peak) ** 2 for lam in LAMS}
            both = {lam: (value, value) for lam, value in values.items()}
            trainings += constants(width, seed, both, experiment=name)
    return trainings


def verdicts(study: DriftStudy, found: Findings) -> Mapping[str, Verdict]:
    return {verdict.claim.name: verdict for verdict in judge(study.claims, pooled(found))}


def test_each_setting_has_its_own_slope_and_the_first_is_held_against_others() -> None:
    found = findings([*peaked("first", 0.4), *peaked("other", 0.1)])
    answers = verdicts(STUDY, found)
    assert list(answers) == ["H3-first", "H3-other", "less-other"]
    for name, slope in (("H3-first", 0.4), ("H3-other", 0.1), ("less-other", 0.3)):
        for part in answers[name].parts:
            assert part.estimate.mean == pytest.approx(slope, abs=0.02), name
    # Both settings' seeds differ from their mean alike, so the difference has next to no spread.
    assert max(part.estimate.sd for part in answers["less-other"].parts) < 0.01
    assert [verdict.answer for verdict in answers.values()] == ["supported"] * 3


def test_settings_of_one_slope_differ_by_nothing_that_matters() -> None:
    found = findings([*peaked("first", 0.2), *peaked("other", 0.2)])
    assert verdicts(STUDY, found)["less-other"].answer == "negligible"


def test_a_peak_beyond_the_grid_decides_nothing() -> None:
    found = findings([*peaked("first", 0.2), *peaked("other", 2.0)])
    answers = verdicts(STUDY, found)
    assert answers["H3-first"].answer == "supported"
    assert answers["less-other"].answer == answers["H3-other"].answer == "inconclusive"
    assert "16" in answers["less-other"].reason


def test_one_setting_is_chosen_on_val_in_each_cell() -> None:
    """On val ``first`` is better at width 16 and ``other`` elsewhere; on test it is the reverse."""
    trainings = []
    for name, on_val in (("first", {16.0: 0.7, 64.0: 0.5, 256.0: 0.5}), ("other", {})):
        trainings += [
            training._replace(on_val=on_val.get(training.width, 0.6))
            for training in peaked(name, 0.2)
        ]
    study = replace(STUDY, chosen=("first", "other"), chosen_words="as is best", compared=(CHOSEN,))
    found = findings(trainings)
    chosen = study.trials_of(pooled(found), CHOSEN)
    assert len(chosen) == len(WIDTHS) * len(LAMS) * SEEDS
    by_width = chosen.groupby("width")["experiment"].unique().map(list).to_dict()
    assert by_width == {16.0: ["first"], 64.0: ["other"], 256.0: ["other"]}
    assert verdicts(study, found)[f"less-{CHOSEN}"].answer == "negligible"
    table = study.tables(found)["What is chosen on val at each width and lambda"]
    assert table.set_index("width").loc["16", "lam 2"].startswith("first: ")


def test_tables_and_figures_show_every_setting() -> None:
    found = findings([*peaked("first", 0.4), *peaked("other", 0.1)])
    slopes, differences, accuracies = STUDY.tables(found).values()
    (difference,) = differences.to_dict("records")
    assert (difference["setting"], difference["planned"]) == ("other", "yes")
    assert difference["cubic"].startswith(("0.29", "0.30", "0.31"))
    assert list(slopes["setting"]) == ["first", "other"]
    assert slopes["cubic"][0].startswith("0.4")
    cell = accuracies.set_index(["setting", "width"]).loc[("first", "64"), "lam 2"]
    assert cell == "60.00"
    assert len(STUDY.figures(found)) == 2


def test_a_divided_loss_is_a_smaller_learning_rate() -> None:
    first, other = STUDY.experiments
    assert other.seeds_of == "first"
    arm = first.arms[-1]
    as_it_is, divided = (each.recipe_of(arm.name, 16.0, {}) for each in (first, other))
    assert divided.optimiser.lr == pytest.approx(as_it_is.optimiser.lr * 7 / (1 + arm.lam))
    assert divided.lam == as_it_is.lam


def test_the_preset_has_three_designs() -> None:
    studies = designs("war", "drift")
    assert list(studies) == ["learning-rate", "initialisation", "images"]
    counts = [sum(each.trainings for each in study.experiments) for study in studies.values()]
    assert counts == [270, 375, 225]
    for study in studies.values():
        for experiment in study.experiments:
            for width in study.widths:
                recipe = experiment.recipe_of(experiment.arms[0].name, width, {})
                recipe.model.build(recipe.data.spec)


def test_a_bad_plan_is_refused_with_everything_that_is_wrong() -> None:
    adam = replace(BASE, optimiser=AdamW(lr=0.1))
    with pytest.raises(InputError) as refused:
        DriftStudy(
            (Setting("a", "so", BASE), Setting("a", "so", adam, divided=True)),
            (16.0,),
            (1.0, 2.0),
            seeds=2,
            compared=("b",),
        )
    assert len(refused.value.problems) == 6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_trains_every_setting_with_the_same_seeds(tmp_path: Path) -> None:
    study = replace(STUDY, widths=(4.0, 8.0), lams=LAMS[:5], seeds=3)
    options = RunOptions(results=tmp_path)
    validation = validate(study, "v", options=options, console=Console(quiet=True))
    assert validation is not None
    seeds = [
        evidence.trials.groupby("seed")["test_last/robust_accuracy"].count().to_dict()
        for evidence in validation.findings.values()
    ]
    assert seeds == [{0: 10, 1: 10, 2: 10}] * 2
    assert [verdict.claim.name for verdict in validation.verdicts][-1] == "less-other"
    assert (validation.folder / "report.html").exists()
