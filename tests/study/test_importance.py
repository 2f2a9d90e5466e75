"""Importance by Optuna's evaluators: on the scale on which a parameter is searched, with intervals
over resamples of the trials."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from robsearch.study import EVALUATORS, ParamRange, importances
from robsearch.study.importance import MOST
from robsearch.study.param_ranges import range_of

LOG = ParamRange(1e-4, 1.0, is_log=True)
EVEN = ParamRange(0.0, 1.0)


def planted(n=40):
    """A step of 1 half-way up the logarithm of ``x``, a step of 0.3 half-way up ``z``, and ``word``
    without an effect."""
    rng = np.random.default_rng(0)
    x = (10 ** rng.uniform(-4, 0, n)).tolist()
    z = rng.uniform(0, 1, n).tolist()
    word = [("a", None)[place] for place in rng.integers(2, size=n)]
    values = [1.0 * (a > 0.01) + 0.3 * (b > 0.5) for a, b in zip(x, z, strict=True)]
    return {"x": x, "z": z, "word": word}, values


RANGES = {"x": LOG, "z": EVEN, "word": ParamRange(math.nan, math.nan, choices=("a", None))}


def test_what_has_an_effect_is_important_and_its_interval_holds_it():
    params, values = planted()
    rows = importances(params, RANGES, values)
    assert [row.evaluator for row in rows] == [EVALUATORS[0]] * 3 + [EVALUATORS[1]] * 3
    for evaluator in EVALUATORS:
        here = [row for row in rows if row.evaluator == evaluator]
        assert here[-1].parameter == "word"
        assert here[-1].share < 0.1
        assert sum(row.share for row in here) == pytest.approx(1)
        assert all(0 <= row.low <= row.share <= row.high <= 1 for row in here)
        assert {row.n for row in here} == {40}
    # Of the variance 1/4 is that of x and 0.09/4 that of z: 0.25 / 0.2725.
    assert rows[0].share == pytest.approx(0.92, abs=0.04)


def test_a_parameter_counts_on_the_scale_on_which_it_is_searched():
    """On an even scale only 1 % of the range of x lies below its step."""
    params, values = planted()
    even = importances(params, {**RANGES, "x": LOG._replace(is_log=False)}, values)
    share = {row.parameter: row.share for row in even if row.evaluator == "fANOVA"}
    # 0.01 * 0.99 of x against 0.09 / 4 of z
    assert share["x"] == pytest.approx(0.31, abs=0.15)


def test_trees_of_their_own_are_a_forest_of_optunas():
    params, values = planted()
    ours = {row.parameter: row.share for row in importances(params, RANGES, values)[:3]}
    study = optuna.create_study(direction="maximize")
    ranges = {
        "x": FloatDistribution(-4, 0),
        "z": FloatDistribution(0, 1),
        "word": CategoricalDistribution(("a", None)),
    }
    for x, z, word, value in zip(*params.values(), values, strict=True):
        point = {"x": math.log10(x), "z": z, "word": word}
        trial = optuna.trial.create_trial(params=point, distributions=ranges, value=value)
        study.add_trial(trial)
    forest = optuna.importance.FanovaImportanceEvaluator(seed=1)
    theirs = optuna.importance.get_param_importances(study, evaluator=forest)
    assert ours == pytest.approx(theirs, abs=0.03)


def test_of_many_trials_the_forest_is_grown_on_some():
    params, values = planted(MOST + 5)
    rows = importances(params, RANGES, values)
    assert [row.n for row in rows] == [MOST] * 3 + [MOST + 5] * 3


def test_optunas_ranges_in_our_words():
    assert range_of(FloatDistribution(0.5, 64, log=True)) == ParamRange(0.5, 64.0, True)
    assert range_of(IntDistribution(1, 9)) == ParamRange(1.0, 9.0, False)
    assert range_of(CategoricalDistribution(("a", None))).choices == ("a", None)
