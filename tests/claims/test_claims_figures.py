"""The two pictures of any study: means and intervals by hand, every arm and effect named, gaps
survived."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from claimed_widths import STUDY as WAR, arms, grid
from planted_margins import STUDY as MARGINS, evidence as of_margins
from planted_norms import STUDY as NORMS, evidence as of_norms
from planted_regularization import STUDY as REGULARIZATION, evidence as of_regularization

from robsearch.claims.claim import Evidence, Part
from robsearch.claims.experiment import Findings, PaperStudy
from robsearch.claims.figures import forest, whiskers
from robsearch.claims.statistics import Effect, estimate

CASES = {
    "norms": (NORMS, of_norms, 3, ["PGD-AT", "ALP", "clip 2", "l1 0.001", "local Lipschitz"]),
    "margins": (
        MARGINS,
        of_margins,
        2,
        ["without, lambda 4", "orthogonal only, lambda 64", "minimum margin (pixel units)", "40"],
    ),
    "regularization": (REGULARIZATION, of_regularization, 1, ["0.15", "confidence (%)"]),
}


def found(study: PaperStudy, evidence: Evidence) -> Findings:
    return {each.name: evidence.of(each.name) for each in study.experiments}


def test_marks_are_means_and_whiskers_reach_to_both_ends_of_the_t_interval() -> None:
    # The deviation of 1, 2, 3 is 1, and Student's t at 97.5 % with 2 degrees of freedom 4.303.
    mean, ends = whiskers([estimate([1.0, 2.0, 3.0]), estimate([5.0, 5.0, math.nan])])
    assert mean.tolist() == [2.0, 5.0]
    assert ends == pytest.approx(np.array([[4.303 / 3**0.5, 0.0], [4.303 / 3**0.5, 0.0]]), abs=1e-3)


def test_effects_of_one_unit_share_a_panel_and_two_seeds_have_no_interval() -> None:
    effects = [
        Effect("gain", "points", (1.0, 2.0, 3.0), 0.5),
        Effect("loss", "points", (1.0, 2.0), 0.5),
        Effect("slope", "", (), 0.05),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = forest([Part.of(effect) for effect in effects], "Effects", "All of them.")
    for text in ("gain", "loss", "slope", "points", "no unit"):
        assert picture.svg.count(f">{text}</text>") == 1


@pytest.mark.parametrize("name", CASES)
def test_every_arm_is_named_in_the_pictures(name: str) -> None:
    study, evidence, pictures, named = CASES[name]
    drawn = study.figures(found(study, evidence(np.random.default_rng(0))))
    assert len(drawn) == pictures
    for text in named:
        assert any(f">{text}</text>" in picture.svg for picture in drawn), text
    for picture in drawn:
        assert "Means of 5 seeds with 95 % intervals" in picture.caption


def test_the_pictures_of_widths_name_lambdas_widths_and_ways_with_their_costs() -> None:
    random = np.random.default_rng(0)
    by_lambda, regrets, traces = WAR.figures({"grid": grid(random, 3), "arms": arms(random)})
    assert all(f">{text}</text>" in by_lambda.svg for text in ("lam 0.5", "width 256"))
    # Searching the thin net takes (16 / 256)^2 of the operations of a search at the widest.
    assert ">thin lambda (0.4%)</text>" in regrets.svg
    assert "full search (" not in regrets.svg
    assert ">WAR, epoch-matched</text>" in traces.svg


@pytest.mark.parametrize("name", CASES)
def test_arms_that_failed_in_all_seeds_spoil_no_picture_of_the_others(name: str) -> None:
    study, evidence, pictures, _ = CASES[name]
    trials, epochs = evidence(np.random.default_rng(0))
    failed = {
        (each.name, arm)
        for each in study.experiments
        for arm in (each.arm_names[0], each.arm_names[-1])
    }
    left = trials[
        [key not in failed for key in zip(trials["experiment"], trials["arm"], strict=True)]
    ]
    assert 0 < len(left) < len(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(study.figures(found(study, Evidence(left, epochs)))) == pictures
