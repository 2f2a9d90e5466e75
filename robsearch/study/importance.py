"""How important each searched parameter was, by Optuna's evaluators, and how far that is to be
trusted.

fANOVA (Hutter et al. 2014, proceedings.mlr.press/v32/hutter14.html) asks which share of the
variance of the values over the whole range a parameter explains by itself. PED-ANOVA (Watanabe et
al. 2023, arXiv 2304.10255) asks how much the best trials differ from all trials in a parameter.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from robsearch.study.param_ranges import ParamRange

if TYPE_CHECKING:
    from optuna.importance import BaseImportanceEvaluator

EVALUATORS = ("fANOVA", "PED-ANOVA")
RESAMPLES = 32
"""Resamples of the trials; a forest of fANOVA has so many trees, each grown on one of them."""
MOST = 100
"""Trials that fANOVA is computed of: its time grows faster than with their square."""
BEST_SHARE = 0.1
"""PED-ANOVA compares this share of the trials, the best ones, with all of them ..."""
BEST_COUNT = 5
"""... but so many at least, as Optuna's documentation asks for."""
LEAST = 2 * BEST_COUNT
"""Trials without which nothing is said."""
ENDS = (5.0, 95.0)
"""The percentiles of the resamples at which an interval ends."""


class Importance(NamedTuple):
    """How important one parameter was.

    Attributes:
        evaluator: one of ``EVALUATORS``.
        parameter: its name.
        share: from 0 to 1; those of all parameters sum up to 1, as Optuna gives them.
        low: the 5th percentile of the share over resamples of the trials.
        high: the 95th.
        n: how many trials it was computed of.
    """

    evaluator: str
    parameter: str
    share: float
    low: float
    high: float
    n: int


def importances(
    params: Mapping[str, Sequence[Any]],
    ranges: Mapping[str, ParamRange],
    values: Sequence[float],
    seed: int = 0,
) -> list[Importance]:
    """The importance of each parameter by both evaluators, most important first in each.

    A parameter that is searched by its logarithm counts by it: Optuna's fANOVA would else weigh a
    learning rate from 0.001 to 1 as if nine tenths of it lay above 0.1. The shares are means, and
    the intervals percentiles, of ``RESAMPLES`` trees of fANOVA, each grown on a resample of the
    trials; of PED-ANOVA the share is that of all trials, and the interval that of as many
    resamples. A resample whose values are all equal says nothing and is left out.

    Args:
        params: by name the value of each trial (n,), none of them absent.
        ranges: of these parameters.
        values: of the trials (n,), to be maximised, finite and not all equal; at least ``LEAST``.
        seed: of the resamples, and of the choice of ``MOST`` trials where there are more.
    """
    with _silent():
        return _importances(params, ranges, values, seed)


def _importances(
    params: Mapping[str, Sequence[Any]],
    ranges: Mapping[str, ParamRange],
    values: Sequence[float],
    seed: int,
) -> list[Importance]:
    generator = np.random.default_rng(seed)
    rows = [dict(zip(params, row, strict=True)) for row in zip(*params.values(), strict=True)]
    scales = {name: _scale(ranges[name]) for name in params}
    trials = [
        _trial({name: scales[name][1](value) for name, value in row.items()}, scales, value)
        for row, value in zip(rows, values, strict=True)
    ]
    some = trials
    if len(trials) > MOST:
        some = [trials[place] for place in generator.choice(len(trials), MOST, replace=False)]
    names = list(params)
    # A tree of a forest is grown on a resample of the trials, so the trees are the resamples.
    forest = [_shares(some, names, _tree(seed + place)) for place in range(RESAMPLES)]
    picks = generator.integers(len(trials), size=(RESAMPLES, len(trials)))
    divergence = _divergence(len(trials))
    resampled = [_shares([trials[place] for place in row], names, divergence) for row in picks]
    trees = np.array([shares for shares in forest if shares is not None])
    whole = _shares(trials, names, divergence)
    draws = np.array([shares for shares in resampled if shares is not None])
    results: list[Importance] = []
    if len(trees):
        results += _ordered("fANOVA", names, trees.mean(axis=0), trees, len(some))
    if whole is not None and len(draws):
        results += _ordered("PED-ANOVA", names, whole, draws, len(trials))
    return results


@contextmanager
def _silent() -> Iterator[None]:
    """Without Optuna's notice of each study, for those that are made here are kept nowhere, and
    without its warnings."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # A resample in which no trial is better than the others is left out anyway.
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _ordered(
    evaluator: str, names: list[str], shares: np.ndarray, draws: np.ndarray, n: int
) -> Iterator[Importance]:
    """Most important first: the shares (p,) of the parameters, and their resamples (r, p)."""
    low, high = np.percentile(draws, ENDS, axis=0)
    for place in np.argsort(-shares, kind="stable"):
        share = float(shares[place])
        # The share of all trials may lie outside those of nine resamples in ten.
        ends = min(share, float(low[place])), max(share, float(high[place]))
        yield Importance(evaluator, names[place], share, *ends, n)


def _scale(bounds: ParamRange) -> tuple[BaseDistribution, Callable[[Any], Any]]:
    """The range on the scale on which a parameter is searched, and what brings a value there."""
    if bounds.choices:
        return CategoricalDistribution(bounds.choices), lambda value: value
    convert: Callable[[Any], float] = math.log if bounds.is_log else float
    low, high = convert(bounds.low), convert(bounds.high)

    # A logarithm, rounded, may lie beyond that of the end by the last bit.
    def inside(value: Any) -> float:
        return min(max(convert(value), low), high)

    return FloatDistribution(low, high), inside


def _trial(
    params: dict[str, Any],
    scales: Mapping[str, tuple[BaseDistribution, Callable[[Any], Any]]],
    value: float,
) -> optuna.trial.FrozenTrial:
    distributions = {name: scales[name][0] for name in params}
    return optuna.trial.create_trial(params=params, distributions=distributions, value=float(value))


def _tree(seed: int) -> BaseImportanceEvaluator:
    # It brings scikit-learn, which nobody waits for who computes no importance.
    from optuna.importance import FanovaImportanceEvaluator

    return FanovaImportanceEvaluator(n_trees=1, seed=seed)


def _divergence(n: int) -> BaseImportanceEvaluator:
    from optuna.importance import PedAnovaImportanceEvaluator

    share = min(max(BEST_SHARE, BEST_COUNT / n), 0.5)
    return PedAnovaImportanceEvaluator(target_quantile=share)


def _shares(
    trials: Sequence[optuna.trial.FrozenTrial], names: list[str], evaluator: BaseImportanceEvaluator
) -> np.ndarray | None:
    """The share of each parameter (p,); None where the trials tell nothing of it."""
    if len({trial.value for trial in trials}) < 2:
        return None
    storage = optuna.storages.InMemoryStorage()
    number = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "importance")
    for trial in trials:
        storage.create_new_trial(number, trial)
    study = optuna.Study("importance", storage)
    try:
        shares = evaluator.evaluate(study, names)
    except RuntimeError:  # a tree without a split: all values of its resample are equal
        return None
    total = sum(shares.values())
    if not total > 0:
        return None
    return np.array([shares[name] / total for name in names])
