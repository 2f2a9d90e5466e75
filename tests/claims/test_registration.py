"""What was planned is kept from before the first training on, and what differs is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from claimed_widths import STUDY

from robsearch.claims.registration import (
    LATER_PARTS,
    REGISTRATION,
    Registration,
    comparison,
    differences,
    plan_of,
    register,
)
from robsearch.identity import content_hash
from robsearch.papers.presets import designs
from robsearch.papers.war import WidthStudy, claims
from robsearch.papers.war.experiments import with_factors

(DRIFT,) = designs("war", "drift", "learning-rate").values()
(WRONG_LABELS,) = designs("war", "wrong-labels", "main").values()


class Fewer(WidthStudy):
    """A study that leaves a claim out."""

    @property
    def claims(self):
        return super().claims[:-1]


def test_a_plan_is_kept_as_it_was_when_training_began(tmp_path: Path) -> None:
    first = register(STUDY, 0, tmp_path, trained=0)
    again = register(replace(STUDY, seeds=7), 0, tmp_path, trained=3)
    assert again == first
    assert "before any training" in first.sentence()
    assert first.digest in first.sentence()
    assert first.plan["experiments"]["grid"]["seeds"] == STUDY.seeds
    assert first.plan["claims"]["H4"]["least_seeds"] == 10
    assert "OwnLoss" in first.plan["chosen by, on val"]


def test_a_plan_may_change_until_something_is_trained(tmp_path: Path) -> None:
    first = register(STUDY, 0, tmp_path, trained=0)
    second = register(replace(STUDY, seeds=7), 0, tmp_path, trained=0)
    assert second.digest != first.digest
    assert json.loads((tmp_path / REGISTRATION).read_text())["digest"] == second.digest


def test_a_plan_that_was_written_later_says_so(tmp_path: Path) -> None:
    assert "after 1 training" in register(STUDY, 0, tmp_path, trained=1).sentence()


def test_nothing_differs_from_a_plan_that_was_kept(tmp_path: Path) -> None:
    assert list(differences(register(STUDY, 0, tmp_path, 0), STUDY, 0)) == []


@pytest.mark.parametrize(
    ("study", "seed", "difference"),
    [
        (replace(STUDY, seeds=7), 0, "experiment grid differs from what was registered"),
        (STUDY, 1, "seed differs from what was registered"),
        (replace(STUDY, control_seeds=0), 0, "experiment retuned was registered and is gone"),
        (
            Fewer(STUDY.widths, STUDY.lams, STUDY.base, control_seeds=1),
            0,
            "claim H3-normalised was registered and is gone",
        ),
        (
            replace(STUDY, base=replace(STUDY.base, epochs=11)),
            0,
            "recipe differs from what was registered",
        ),
        (
            replace(STUDY, lams=(*STUDY.lams, 64.0)),
            0,
            "field lams differs from what was registered",
        ),
    ],
)
def test_what_differs_is_named(tmp_path: Path, study, seed: int, difference: str) -> None:
    registration = register(STUDY, 0, tmp_path, trained=0)
    assert difference in list(differences(registration, study, seed))


def differing(tmp_path: Path, study, changed) -> str:
    """What the page says of a study that was registered as another, whose digest is another."""
    registration = register(study, 0, tmp_path, trained=0)
    assert content_hash(plan_of(changed, 0)) != registration.digest
    return comparison(registration, changed, 0)


def test_a_setting_that_is_trained_otherwise_is_told(tmp_path: Path) -> None:
    settings = [
        replace(each, base=with_factors(each.base, 3.0, 10.0)) if each.name == "rate-1" else each
        for each in DRIFT.settings
    ]
    assert differing(tmp_path, DRIFT, replace(DRIFT, settings=tuple(settings))) == (
        "a recipe of rate-1 differs from what was registered; "
        "field settings differs from what was registered"
    )


def test_a_field_that_only_a_choice_among_findings_uses_is_told(tmp_path: Path) -> None:
    told = differing(tmp_path, WRONG_LABELS, replace(WRONG_LABELS, weight_decay=5e-2))
    assert told == "field weight_decay differs from what was registered"


@pytest.mark.parametrize(
    ("constant", "value"),
    [("SHORTFALL", 0.6), ("ASSAY", 0.5), ("BUDGET", 0.5), ("WINDOW", (0.3, 0.5))],
)
def test_a_threshold_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, value
) -> None:
    registration = register(STUDY, 0, tmp_path, trained=0)
    monkeypatch.setattr(claims, constant, value)
    assert content_hash(plan_of(STUDY, 0)) != registration.digest
    told = f"constant robsearch.papers.war.claims:{constant} differs from what was registered"
    assert list(differences(registration, STUDY, 0)) == [told]


def test_a_plan_has_recipes_and_smallest_effects_as_far_as_they_are_known() -> None:
    plan = plan_of(STUDY, 0)
    recipes = plan["recipes"]
    assert len(set(recipes["grid"].values())) == len(STUDY.lams) * len(STUDY.widths)
    assert not any("found" in recipe for recipe in recipes["grid"].values())
    assert recipes["arms"]["full search, width 256"].endswith(", but for what is found")
    assert not recipes["arms"]["lambda 6, width 256"].endswith("found")
    constants = plan["constants"]
    assert constants["robsearch.papers.war.claims:WINDOW"] == [0.4, 0.5]
    assert constants["robsearch.claims.claim:ALPHA"] == pytest.approx(0.025)
    assert "robsearch.papers.war.claims:GRID" not in constants


def test_every_shipped_study_has_a_plan_of_plain_json() -> None:
    for study in (DRIFT, WRONG_LABELS, *designs("margins", "digits").values()):
        plan = plan_of(study, 0)
        assert json.loads(json.dumps(plan)) == json.loads(json.dumps(plan_of(study, 0)))
        assert content_hash(json.loads(json.dumps(plan))) == content_hash(plan)


def test_a_registration_of_a_former_version_is_compared_by_what_it_has(tmp_path: Path) -> None:
    plan = json.loads(json.dumps(plan_of(STUDY, 0)))
    former = {part: plan[part] for part in plan if part not in LATER_PARTS}
    assert list(former) == [
        "claims",
        "experiments",
        "seed",
        "recipe",
        "chosen by, on val",
        "judged by, on test",
    ]
    registration = Registration("0", "2026-11-30", 0, former)
    less = (
        "; a former version registered the plan, without the fields of the study, the recipes of "
        "all arms, the constants by which claims are judged and lambda is chosen"
    )
    assert comparison(registration, STUDY, 0) == f"nothing{less}"
    changed = replace(STUDY, seeds=7)
    differs = "experiment grid differs from what was registered"
    assert comparison(registration, changed, 0) == f"{differs}{less}"
    assert comparison(register(STUDY, 0, tmp_path, 0), STUDY, 0) == "nothing"
