"""``robsearch check``: draws suggestions at every width, tries a first step, and says all that is
wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from robsearch.errors import InputError, described_error, refusal, refuse
from robsearch.recipe import Recipe
from robsearch.spaces.checking.draws import (
    DRAWS,
    Draw,
    called,
    collecting,
    distributions,
    draw_all,
    draw_one,
    scratch_study,
)
from robsearch.spaces.checking.problems import Problem, merged
from robsearch.spaces.checking.recipes import Subject, data_problems, first_step_problems
from robsearch.spaces.definition import Space
from robsearch.spaces.ranges import PLAIN, same_range
from robsearch.spaces.resources import Resources
from robsearch.spaces.settings import Allocation, contains, fresh_sampler
from robsearch.spaces.space_trial import METRICS

Distributions = Mapping[str, BaseDistribution]


def check(
    space: Space,
    draws: int = DRAWS,
    say: Callable[[str], None] | None = None,
    needs_data: bool = False,
) -> list[Draw]:
    """Draws suggestions at every width, takes a first step with what is drawn, and refuses what
    could not be searched.

    Args:
        space: that would be searched.
        draws: suggestions at each width.
        say: is told what could not be tried here.
        needs_data: whether data that is not here is a problem, and told before a first step is
            tried.

    Raises:
        InputError: every recipe that does not pickle, that fails in a first step or in judging,
            every range that a storage would not give back equal or that differs between widths, and
            a model that does not depend on width; all at once.
    """
    problems: list[Problem] = []
    drawn = draw_all(space, draws, problems)
    subjects = _subjects(space, drawn, problems)
    for subject in subjects:
        for text in lasting_problems(subject.recipe):
            problems.append(Problem(text, subject.width, draw=len(problems)))
    missing: list[Problem] = []
    if needs_data:
        data = data_problems(draw.recipe.resolved_data for draw in drawn)
        missing = list(map(Problem, data))
    problems += missing or first_step_problems(space, subjects, say or (lambda text: None))
    problems += [*_range_problems(drawn), *_width_problems(drawn), *_resource_problems(space)]
    if not problems:
        problems += map(Problem, _setting_problems(space, distributions(drawn)))
    if not problems:
        problems += map(Problem, _sampler_problems(space, distributions(drawn)))
    refuse(merged(problems))
    return drawn


# --- recipes ---


def _subjects(space: Space, drawn: list[Draw], problems: list[Problem]) -> list[Subject]:
    """Every recipe that is tried: of the suggestions, their rungs, and the controls."""
    subjects = []
    for draw in (*drawn, *_with_other_choices(space, drawn, problems)):
        subjects.append(Subject(draw.width, draw.recipe, _text(draw.params)))
        for rung in space.fidelity:
            origin = f"rung {rung.name}"
            with collecting(problems, draw=len(subjects)):
                recipe = called(partial(rung.change, draw.recipe), origin)
                subjects.append(Subject(draw.width, recipe, origin))
    for width in space.widths:
        for control in space.controls:
            origin = f"control {control.__name__}"
            with collecting(problems, width):
                subjects.append(Subject(width, called(partial(control, width), origin), origin))
    return subjects


def _text(params: Mapping[str, object]) -> str:
    texts = []
    for name, value in params.items():
        text = f"{value:.4g}" if isinstance(value, float) else value
        texts.append(f"{name} {text}")
    return ", ".join(texts)


def _with_other_choices(space: Space, drawn: list[Draw], problems: list[Problem]) -> Iterator[Draw]:
    """Suggestions with each choice of a categorical parameter that no draw has, for it may be
    another structure."""
    for width in {min(space.widths), max(space.widths)}:
        at_width = [draw for draw in drawn if draw.width == width]
        seen = {(name, repr(value)) for draw in at_width for name, value in draw.params.items()}
        for name, distribution in distributions(at_width).items():
            for choice in getattr(distribution, "choices", ()):
                if (name, repr(choice)) not in seen:
                    with collecting(problems, width, f"{name} {choice}"):
                        yield draw_one(space, width, 0, {name: choice})


def lasting_problems(recipe: Recipe) -> Sequence[str]:
    """What would stop this recipe on another day or in another process: a part without a lasting
    name, or a pickle."""
    try:
        recipe.digest  # noqa: B018 - it is made to see whether it can be
        pickle.dumps(recipe)
    except InputError as error:
        return error.problems
    except Exception as error:
        do = "use objects of importable classes, no lambdas or closures"
        return [refusal("a recipe that pickles", error, do)]
    return ()


def _range_problems(drawn: list[Draw]) -> Iterator[Problem]:
    first: dict[str, Draw] = {}
    for draw in drawn:
        for name, distribution in draw.distributions.items():
            earlier = first.setdefault(name, draw)
            other = earlier.distributions[name]
            if not same_range(other, distribution):
                was = f"{other} at width {earlier.width:g}"
                got = f"{was} but {distribution} at width {draw.width:g}"
                do = "use one range, or a name of its own for each"
                yield Problem(refusal(f"one range for {name!r}", got, do), origin=str(draw.width))


def _width_problems(drawn: list[Draw]) -> Iterator[Problem]:
    models: dict[object, float] = {}
    for draw in drawn:
        other = models.setdefault(draw.recipe.model, draw.width)
        if other != draw.width:
            got = f"{draw.recipe.model} at widths {other:g} and {draw.width:g}"
            do = "pass width to the model"
            text = refusal("a model that depends on the width", got, do)
            yield Problem(text, origin=f"{other} {draw.width}", draw=len(models))


def _resource_problems(space: Space) -> Iterator[Problem]:
    if space.resources is None:
        return
    for i, width in enumerate(space.widths):
        got: object
        try:
            resources: object = space.resources(width)
            got = repr(resources)
        except InputError as error:
            yield from (Problem(text, draw=i) for text in error.problems)
            continue
        except Exception as error:
            resources = None
            got = described_error(error)
        if not isinstance(resources, Resources):
            expected = f"resources({width:g}) to give Resources"
            do = "return such as Resources(gpus=0.5)"
            yield Problem(refusal(expected, got, do), draw=i)


# --- how it is searched ---


def _setting_problems(space: Space, ranges: Distributions) -> Iterator[str]:
    for metric in (*space.maximise, *(goal.metric for goal in space.subject_to)):
        if metric not in METRICS:
            do = f"use some of {', '.join(METRICS)}"
            yield refusal("metrics of the best epoch on val", repr(metric), do)
    for params in space.start_with:
        for name, value in params.items():
            if name not in ranges:
                do = f"the space asks for {', '.join(ranges) or 'none'}"
                yield refusal("parameters of the space in start_with", repr(name), do)
            elif not isinstance(value, PLAIN) or not contains(ranges[name], value):
                expected = f"{name} in start_with from {ranges[name]}"
                yield refusal(expected, repr(value), "choose one inside")
    allocation = space.allocation
    if isinstance(allocation, type) or not isinstance(allocation, Allocation):
        do = "pass Equal(), Weighted(...) or ByCost()"
        yield refusal("an Allocation", repr(allocation), do)
        return
    try:
        allocation.weights(dict.fromkeys(sorted(space.widths)))
    except InputError as error:
        yield from error.problems


def _sampler_problems(space: Space, ranges: Distributions) -> Iterator[str]:
    """Asks the sampler once as a search would, on a study of its own in memory."""
    sampler = space.sampler
    if sampler is None:
        return
    kind = type(sampler).__name__
    if not isinstance(sampler, BaseSampler):
        yield refusal("an Optuna sampler", repr(sampler), "pass an instance, such as TPESampler()")
        return
    name = getattr(sampler, "parameter", None)
    if name and name not in ranges:
        expected = f"a parameter {name!r}, which {kind} models"
        do = f"name one of {', '.join(ranges) or 'none'}"
        yield refusal(expected, "none in this space", do)
        return
    stage = space.stages()[0]
    study = scratch_study(fresh_sampler(sampler, 0), metrics=len(space.maximise))
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
        yield refusal(f"a sampler that suits this space, {kind}", got, do)
