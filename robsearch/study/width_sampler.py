"""A sampler that learns lambda across widths: each width's study borrows the trials of all the
others."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from robsearch.errors import refused
from robsearch.laws.points import Point
from robsearch.laws.posterior import fit_posterior

WIDTHS = 20
"""So many widths are told apart. Above, a suggestion would take seconds, and with thousands of
widths all memory."""


class Observation(NamedTuple):
    """What a sampler learns from: a trial of any width, of this search or from elsewhere.

    Attributes:
        width: of its nets; None for a suggestion that was trained at all widths.
        params: that were suggested.
        values: of the metrics that are maximised; empty while it runs.
        source: the search or the table that it comes from; empty for one of this search.
        choices: those of its parameters that are categorical.
    """

    width: float | None
    params: Mapping[str, Any]
    values: tuple[float, ...] = ()
    source: str = ""
    choices: Mapping[str, Any] = MappingProxyType({})

    @property
    def finished(self) -> bool:
        """Whether it has a value that tells something."""
        return bool(self.values) and math.isfinite(self.values[0])


def observation(width: float, trial: FrozenTrial, *values: float) -> Observation:
    """A trial of a study of this width."""
    return Observation(width, trial.params, values, choices=choices_of(trial))


def choices_of(trial: FrozenTrial) -> dict[str, Any]:
    """The categorical parameters of a trial, as far as they were asked for."""
    return {
        name: trial.params[name]
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, CategoricalDistribution)
    }


class WidthSampler(BaseSampler):
    """Suggests one parameter by what the trials of all widths say together
    (``robsearch.laws.posterior``).

    The first trial of a width goes where the other widths expect its best value. After n trials of
    a width, the next one is with probability 1 / (1 + n) to learn from, by knowledge gradient, for
    trials beside the optimum tell best where it lies; else it is to be good, a Thompson draw.
    Running trials count as if they had told what is expected of them, pruned ones with the best
    value they reported, failed ones not at all. Trials that made other categorical choices do not
    count; of choices that this one has yet to make, because the space asks for them later, those of
    the best trial do. Of several metrics the first is modelled, and constraints are left to
    ``inner``. Trials of one width and nearly the same value of the parameter are pooled; of more
    than 20 widths, those that lie close count as one, for the time grows with the cube of their
    number.

    Args:
        parameter: the name of the one that moves with width, a float or an int, on its own (log)
            scale.
        inner: suggests all other parameters; ``TPESampler`` by default.
        seed: of the draws, and of the default ``inner``.
    """

    def __init__(
        self, parameter: str = "lam", *, inner: BaseSampler | None = None, seed: int | None = None
    ) -> None:
        self.parameter = parameter
        self._inner = inner or TPESampler(seed=seed)
        self._random = np.random.RandomState(seed)
        self._siblings: tuple[float, Callable[[], Sequence[Observation]]] | None = None

    def with_siblings(
        self, width: float, siblings: Callable[[], Sequence[Observation]]
    ) -> WidthSampler:
        """The same sampler for the study of one width; it goes on with the same random numbers.

        Args:
            width: of the study.
            siblings: reads the trials of every width, this one's included.

        Raises:
            InputError: ``width`` is not positive and finite.
        """
        if not 0 < width < math.inf:
            raise refused("a width that is positive and finite", width, "correct it")
        bound = copy.copy(self)
        bound._siblings = (float(width), siblings)
        return bound

    def reseed_rng(self) -> None:
        """Optuna calls it in each of several processes that share the sampler."""
        self._random.seed()
        self._inner.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that ``inner`` suggests together, without ours."""
        space = dict(self._inner.infer_relative_search_space(study, trial))
        space.pop(self.parameter, None)
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Left to ``inner``."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Our parameter from the belief, any other from ``inner``.

        Raises:
            InputError: our parameter is categorical: it has no scale on which it could move with
                width.
        """
        if param_name != self.parameter:
            return self._inner.sample_independent(study, trial, param_name, param_distribution)
        if not isinstance(param_distribution, FloatDistribution | IntDistribution):
            do = "suggest it as a float, or name another parameter: WidthSampler(parameter=...)"
            raise refused(f"{param_name} to be a number", repr(param_distribution), do)
        if param_distribution.single():
            return param_distribution.low
        sign = -1 if study.directions[0] == StudyDirection.MINIMIZE else 1
        if self._siblings:
            width, siblings = self._siblings
            observations = siblings()
        else:
            width = 1.0
            best = max if sign == 1 else min
            observations = observations_in(study.get_trials(deepcopy=False), width, best)
        asked = [observed for observed in observations if param_name in observed.params]
        alike = with_like_choices(asked, choices_of(trial), sign)
        few = with_few_widths(alike, width)
        scale = _Scale(param_distribution)
        return scale.value(self._share(width, few, scale, sign))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Left to ``inner``."""
        self._inner.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Left to ``inner``."""
        self._inner.after_trial(study, trial, state, values)

    def _share(
        self, width: float, observations: Sequence[Observation], scale: _Scale, sign: int
    ) -> float:
        """What to try, as a share of the range. The belief's lambdas are exp(share): its logs span
        0 to 1."""
        finished = []
        running = []
        here = 0
        for observed in observations:
            at = observed.width or 1.0
            lam = math.exp(scale.share(observed.params[self.parameter]))
            here += at == width  # those that run count as well
            if observed.finished:
                finished.append(Point(at, lam, sign * observed.values[0]))
            elif not observed.values:
                running.append((at, lam))
        posterior = fit_posterior(finished, (1.0, math.e))
        # The first trial of a width goes where the others expect the best value.
        if finished and not here:
            return math.log(posterior.best(width))
        if self._random.random_sample() < 1 / (1 + here):
            return math.log(posterior.knowledge_gradient(width, running))
        return math.log(posterior.thompson(width, self._random, running))


class _Scale:
    """The range of a number as shares of its (log) scale: steps reach half a step beyond it."""

    def __init__(self, distribution: FloatDistribution | IntDistribution) -> None:
        self._range = distribution
        half = (distribution.step or 0) / 2
        self._start = self._position(distribution.low - half)
        end = self._position(distribution.high + half)
        self._length = end - self._start

    def _position(self, value: float) -> float:
        return math.log(value) if self._range.log else float(value)

    def share(self, value: float) -> float:
        """0 to 1 for what lies in the range."""
        return (self._position(value) - self._start) / self._length

    def value(self, share: float) -> Any:
        """The value of the range that is nearest."""
        position = self._start + share * self._length
        value = math.exp(position) if self._range.log else position
        low = self._range.low
        step = self._range.step
        if step:
            value = low + round((value - low) / step) * step
        return self._range.to_external_repr(min(max(value, low), self._range.high))


def with_like_choices(
    observations: Sequence[Observation], made: Mapping[str, Any], sign: int
) -> list[Observation]:
    """Those that share the categorical choices ``made``, and in all others those of the best trial
    among them."""
    alike = [observed for observed in observations if made.items() <= observed.choices.items()]
    finished = [observed for observed in alike if observed.finished]
    if not finished:
        return alike
    best = max(finished, key=lambda observed: sign * observed.values[0])
    return [observed for observed in alike if observed.choices == best.choices]


def with_few_widths(observations: Sequence[Observation], width: float) -> list[Observation]:
    """The same trials, at no more than ``WIDTHS`` widths.

    If there are more, each but ``width`` is moved to the next of widths that lie evenly in log.
    What the belief costs grows with the cube of their number.
    """
    widths = {observed.width or width for observed in observations}
    if len(widths) <= WIDTHS:
        return list(observations)
    grid = np.geomspace(min(widths), max(widths), WIDTHS - 1)
    moved = {}
    for old in widths:
        distances = np.abs(np.log(grid / old))
        moved[old] = float(grid[distances.argmin()])
    moved[width] = width
    return [observed._replace(width=moved[observed.width or width]) for observed in observations]


def observations_in(
    trials: Sequence[FrozenTrial], width: float, best: Callable[[Iterable[float]], float] = max
) -> list[Observation]:
    """The trials of one study that a sampler learns from: finished, pruned with a value reported,
    or running."""
    observations = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            observations.append(observation(width, trial, *trial.values))
        elif trial.state == TrialState.RUNNING:
            observations.append(observation(width, trial))
        elif trial.state == TrialState.PRUNED and trial.intermediate_values:
            value = best(trial.intermediate_values.values())
            observations.append(observation(width, trial, value))
    return observations
