"""What can be wrong with the way a space is to be searched: sampler, goals, first parameters, allocation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler, TPESampler

from robsearch.errors import InputError, refusal
from robsearch.spaces.allocation import Allocation
from robsearch.spaces.asking import METRICS
from robsearch.spaces.definition import Space
from robsearch.spaces.ranges import PLAIN
from robsearch.spaces.scratch import scratch_study

Distributions = Mapping[str, BaseDistribution]


def how_problems(space: Space, known: Distributions) -> list[str]:
    """All of them, given the distribution of each parameter that the space asks for."""
    problems = [*_metric_problems(space), *_start_problems(space, known), *_allocation_problems(space)]
    return problems or [*_sampler_problems(space, known)]


def grid_size(sampler: BaseSampler | None) -> int | None:
    """How many points a grid has; None for other samplers."""
    return sampler._n_min_trials if isinstance(sampler, GridSampler) else None


def fresh_sampler(sampler: BaseSampler, seed: int) -> BaseSampler:
    """A copy of a sampler whose random numbers derive from ``seed``, whatever was drawn from the original.

    Those of Optuna keep them in attributes of one type, also in the samplers that they fall back on. What a sampler
    seeds in another way (QMC's scrambling) it keeps.
    """
    copied = copy.deepcopy(sampler)
    for name, value in vars(copied).items():
        if isinstance(value, BaseSampler):
            setattr(copied, name, fresh_sampler(value, seed + 1))
        elif isinstance(rng := getattr(value, "rng", None), np.random.RandomState):
            rng.seed(seed)
    return copied


def _metric_problems(space: Space) -> Iterator[str]:
    for metric in (*space.maximise, *(goal.metric for goal in space.subject_to)):
        if metric not in METRICS:
            yield refusal("metrics of the best epoch on val", repr(metric), f"use some of {', '.join(METRICS)}")


def _start_problems(space: Space, known: Distributions) -> Iterator[str]:
    for params in space.start_with:
        for name, value in params.items():
            if name not in known:
                has = f"the space asks for {', '.join(known) or 'none'}"
                yield refusal("parameters of the space in start_with", repr(name), has)
            elif not isinstance(value, PLAIN) or not contains(known[name], value):
                yield refusal(f"{name} in start_with from {known[name]}", repr(value), "choose one inside")


def contains(distribution: BaseDistribution, value: object) -> bool:
    """Whether a suggestion could have this value."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False


def _allocation_problems(space: Space) -> Iterator[str]:
    try:
        if isinstance(space.allocation, Allocation) and not isinstance(space.allocation, type):
            space.allocation.weights(dict.fromkeys(sorted(space.widths)))
            return
    except InputError as error:
        yield from error.problems
        return
    yield refusal("an Allocation", repr(space.allocation), "pass Equal(), Weighted(...) or ByCost()")


def _sampler_problems(space: Space, known: Distributions) -> Iterator[str]:
    """Asks the sampler once as a search would, on a study of its own in memory."""
    if space.sampler is None:
        return
    if not isinstance(space.sampler, BaseSampler):
        yield refusal("an Optuna sampler", repr(space.sampler), "pass an instance, such as TPESampler()")
        return
    if (name := getattr(space.sampler, "_parameter", None)) and name not in known:
        do = f"name one of {', '.join(known) or 'none'}"
        yield refusal(f"a parameter {name!r}, which {type(space.sampler).__name__} models", "none in this space", do)
        return
    stage = space.stages()[0]
    study = scratch_study(fresh_sampler(space.sampler, 0), metrics=len(space.maximise))
    try:
        for value in (0.4, 0.5, 0.6):
            trial = study.ask()
            space.recipe(stage, trial, space.widths[0])
            study.tell(trial, [value] * len(space.maximise))
    except Exception as error:
        if "stop" in str(error):  # how a small grid says that it was tried
            return
        got = f"{type(error).__name__}: {error}"
        do = "choose another, or give it other values (of a NumPy array, array.tolist())"
        yield refusal(f"a sampler that suits this space, {type(space.sampler).__name__}", got, do)


def default_sampler(trials: int, seed: int) -> BaseSampler:
    """TPE that begins to model after half of the trials planned at this width, ten at most (Optuna's default)."""
    return TPESampler(n_startup_trials=min(10, max(3, trials // 2)), seed=seed)
