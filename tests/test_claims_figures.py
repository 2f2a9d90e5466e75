"""The pictures of norms, margins and regularisation: means and intervals by hand, every arm named, gaps survived."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from test_claims_margins import STUDY as MARGINS
from test_claims_margins import evidence as of_margins
from test_claims_norms import STUDY as NORMS
from test_claims_norms import evidence as of_norms
from test_claims_regularization import STUDY as REGULARIZATION
from test_claims_regularization import evidence as of_regularization

from robsearch.claims.experiment import Found, Study
from robsearch.claims.form import Evidence
from robsearch.claims.paired_figures import of_ratios, whiskers

CASES = {
    "norms": (NORMS, of_norms, 5, ["PGD-AT", "ALP", "clip 2", "l1 0.001", "local estimate", "spectral norm"]),
    "margins": (MARGINS, of_margins, 2, ["without", "with", "orthogonal only", "minimum margin (pixel units)", "40"]),
    "regularization": (REGULARIZATION, of_regularization, 1, ["0.15", "median layer", "sd of spectra/reshaped"]),
}


def found(study: Study, evidence: Evidence) -> Found:
    return {each.name: evidence.of(each.name) for each in study.experiments}


def test_marks_are_means_and_whiskers_reach_to_both_ends_of_the_t_interval() -> None:
    # The deviation of 1, 2, 3 is 1, and Student's t at 97.5 % with 2 degrees of freedom 4.303.
    mean, ends = whiskers(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, np.nan]]))
    assert mean.tolist() == [2.0, 5.0]
    assert ends == pytest.approx(np.array([[4.303 / 3**0.5, 0.0], [4.303 / 3**0.5, 0.0]]), abs=1e-3)


def test_ratios_have_a_geometric_mean_and_an_interval_on_the_log_scale() -> None:
    mean, ends = of_ratios(np.log([[1.0], [2.0], [4.0]]))  # the logs' deviation is that of 2
    reach = 2 ** (4.303 / 3**0.5)
    assert mean == pytest.approx(2.0)
    assert ends[:, 0] == pytest.approx([2 - 2 / reach, 2 * reach - 2], rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_every_arm_is_named_in_the_pictures(name: str) -> None:
    study, evidence, pictures, named = CASES[name]
    drawn = study.figures(found(study, evidence(np.random.default_rng(0))))
    assert len(drawn) == pictures
    for text in named:
        assert any(f">{text}</text>" in picture.svg for picture in drawn), text
    for picture in drawn:
        assert "5 seeds" in picture.caption or "over seeds" in picture.caption


@pytest.mark.parametrize("name", CASES)
def test_arms_that_failed_in_all_seeds_spoil_no_picture_of_the_others(name: str) -> None:
    study, evidence, pictures, _ = CASES[name]
    trials, epochs = evidence(np.random.default_rng(0))
    failed = {(each.name, arm) for each in study.experiments for arm in (each.arms[0], each.arms[-1])}
    left = trials[[key not in failed for key in zip(trials["experiment"], trials["arm"], strict=True)]]
    assert 0 < len(left) < len(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(study.figures(found(study, Evidence(left, epochs)))) == pictures
