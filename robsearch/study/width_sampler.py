"""A sampler that learns lambda across widths: each width's study borrows the trials of all the others."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from robsearch.errors import InputError, refusal
from robsearch.laws.belief import believe
from robsearch.laws.points import Point

WIDTHS = 20
"""So many widths are told apart. Above, a suggestion would take seconds, and with thousands of widths all memory."""


class Seen(NamedTuple):
    """A trial as a sampler of another width reads it.

    ``value`` is None while it runs; ``choices`` are those of its parameters that are categorical.
    """

    width: float
    params: Mapping[str, Any]
    value: float | None
    choices: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def of(cls, width: float, trial: FrozenTrial, value: float | None) -> Seen:
        """A trial of a study of this width."""
        return cls(width, trial.params, value, choices_of(trial))


def choices_of(trial: FrozenTrial) -> dict[str, Any]:
    """The categorical parameters of a trial, as far as they were asked for."""
    each = trial.distributions.items()
    return {name: trial.params[name] for name, one in each if isinstance(one, CategoricalDistribution)}


class WidthSampler(BaseSampler):
    """Suggests one parameter by what the trials of all widths say together (``robsearch.laws.belief``).

    The first trial of a width goes where the other widths expect its best value. After n trials of a width, the next
    one is with probability 1 / (1 + n) to learn from, by knowledge gradient, for trials beside the crest tell best
    where it lies; else it is to be good, a Thompson draw. Running trials count as if they had told what is expected
    of them, pruned ones with the best value they reported, failed ones not at all. Trials that made other categorical
    choices do not count; of choices that this one has yet to make, because the space asks for them later, those of the
    best trial do. Of several metrics the first is modelled, and constraints are left to ``inner``. Trials of one width
    and nearly the same value of the parameter are pooled; of more than 20 widths, those that lie close count as one,
    for the time grows with the cube of their number.

    Args:
        parameter: the name of the one that moves with width, a float or an int, on its own (log) scale.
        inner: suggests all other parameters; ``TPESampler`` by default.
        seed: of the draws, and of the default ``inner``.
    """

    def __init__(self, parameter: str = "lam", *, inner: BaseSampler | None = None, seed: int | None = None) -> None:
        self._parameter = parameter
        self._inner = inner or TPESampler(seed=seed)
        self._rng = LazyRandomState(seed)
        self._bound: tuple[float, Callable[[], Sequence[Seen]]] | None = None

    def with_siblings(self, width: float, siblings: Callable[[], Sequence[Seen]]) -> WidthSampler:
        """The same sampler for the study of one width; it goes on with the same random numbers.

        Args:
            width: of the study.
            siblings: reads the trials of every width, this one's included.

        Raises:
            InputError: ``width`` is not positive and finite.
        """
        if not 0 < width < math.inf:
            raise InputError(refusal("a width that is positive and finite", width, "correct it"))
        bound = copy.copy(self)
        bound._bound = (float(width), siblings)
        return bound

    def reseed_rng(self) -> None:
        """Optuna calls it in each of several processes that share the sampler."""
        self._rng.rng.seed()
        self._inner.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that ``inner`` suggests together, without ours."""
        space = self._inner.infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in space.items() if name != self._parameter}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Left to ``inner``."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Our parameter from the belief, any other from ``inner``.

        Raises:
            InputError: our parameter is categorical: it has no scale on which it could move with width.
        """
        if param_name != self._parameter:
            return self._inner.sample_independent(study, trial, param_name, param_distribution)
        if isinstance(param_distribution, CategoricalDistribution):
            do = "suggest it as a float, or name another parameter: WidthSampler(parameter=...)"
            raise InputError(refusal(f"{param_name} to be a number", repr(param_distribution), do))
        if param_distribution.single():
            return param_distribution.to_external_repr(param_distribution._asdict()["low"])
        width, seen = self._seen(study)
        sign = -1 if study.directions[0] == StudyDirection.MINIMIZE else 1
        seen = few_widths(of_like_choices(seen, choices_of(trial), sign), width)
        scale = _SearchSpaceTransform({param_name: param_distribution}, transform_0_1=True)
        place = self._place(width, seen, scale, study.directions[0])
        return scale.untransform(scale.bounds[:, 0] + place)[param_name]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Left to ``inner``."""
        self._inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Left to ``inner``."""
        self._inner.after_trial(study, trial, state, values)

    def _seen(self, study: optuna.Study) -> tuple[float, list[Seen]]:
        """The study's width, and the trials that tell our parameter."""
        if self._bound:
            width, siblings = self._bound
            seen: Sequence[Seen] = siblings()
        else:
            best = min if study.directions[0] == StudyDirection.MINIMIZE else max
            width, seen = 1.0, seen_in(study.get_trials(deepcopy=False), 1.0, best)
        return width, [one for one in seen if self._parameter in one.params]

    def _place(
        self, width: float, seen: Sequence[Seen], scale: _SearchSpaceTransform, direction: StudyDirection
    ) -> float:
        """What to try, as a share of the range. The belief's lambdas are exp(share): its logs span 0 to 1."""
        sign = -1 if direction == StudyDirection.MINIMIZE else 1
        shares = [float(scale.transform(dict(one.params))[0]) for one in seen]
        lams = [math.exp(share) for share in shares]
        told = [
            Point(one.width, lam, sign * one.value)
            for one, lam in zip(seen, lams, strict=True)
            if one.value is not None and math.isfinite(one.value)
        ]
        belief = believe(told, (1.0, math.e))
        own = sum(one.width == width for one in seen)
        if told and not own:
            return math.log(belief.best(width))
        running = [(one.width, lam) for one, lam in zip(seen, lams, strict=True) if one.value is None]
        if self._rng.rng.random_sample() < 1 / (1 + own):
            return math.log(belief.knowledge_gradient(width, running))
        return math.log(belief.thompson(width, self._rng.rng, running))


def of_like_choices(seen: Sequence[Seen], made: Mapping[str, Any], sign: int = 1) -> list[Seen]:
    """Those that share the categorical choices ``made``, and in all others those of the best trial among them."""
    alike = [one for one in seen if made.items() <= one.choices.items()]
    told = [one for one in alike if one.value is not None and math.isfinite(one.value)]
    if not told:
        return alike
    best = max(told, key=lambda one: sign * (one.value or 0.0))
    return [one for one in alike if one.choices == best.choices]


def few_widths(seen: Sequence[Seen], width: float, most: int = WIDTHS) -> list[Seen]:
    """The same trials, at no more than ``most`` widths.

    If there are more, each but ``width`` is moved to the next of widths that lie evenly in log. What the belief costs
    grows with the cube of their number.
    """
    found = {one.width for one in seen}
    if len(found) <= most:
        return list(seen)
    grid = np.geomspace(min(found), max(found), most - 1)
    moved = {each: each if each == width else float(grid[np.abs(np.log(grid / each)).argmin()]) for each in found}
    return [one._replace(width=moved[one.width]) for one in seen]


def seen_in(trials: Sequence[FrozenTrial], width: float, best: Callable[[Iterable[float]], float] = max) -> list[Seen]:
    """The trials of one study that a sampler learns from: finished, pruned with a value reported, or running."""
    found = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            found.append(Seen.of(width, trial, trial.values[0]))
        elif trial.state == TrialState.RUNNING:
            found.append(Seen.of(width, trial, None))
        elif trial.state == TrialState.PRUNED and trial.intermediate_values:
            found.append(Seen.of(width, trial, best(trial.intermediate_values.values())))
    return found
