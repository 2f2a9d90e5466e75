"""``robsearch check``: draws suggestions at every width, without training, and says all that is wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import optuna
import torch
from optuna.distributions import BaseDistribution

from robsearch.errors import InputError, refusal
from robsearch.recipe import Recipe
from robsearch.resources import Resources
from robsearch.spaces.asking import asked
from robsearch.spaces.definition import Space
from robsearch.spaces.manner import how_problems
from robsearch.spaces.ranges import same_range
from robsearch.spaces.scratch import scratch_study
from robsearch.wording import a

DRAWS = 3
"""Suggestions that ``check`` draws at each width."""


@dataclass(frozen=True)
class Draw:
    """One suggestion drawn by ``check``: nothing is trained."""

    width: float
    params: dict[str, object]
    distributions: dict[str, BaseDistribution]
    recipe: Recipe


def check(space: Space, draws: int = DRAWS) -> list[Draw]:
    """Draws suggestions at every width, without training, and refuses a space that could not be searched.

    Raises:
        InputError: every recipe that does not build or pickle, every range that a storage would not give back equal
            or that differs between widths, and a model that does not depend on width; all at once.
    """
    drawn: list[Draw] = []
    problems: list[str] = []
    for width in space.widths:
        for seed in range(draws):
            try:
                drawn.append(_draw(space, width, seed))
            except InputError as error:
                problems += [f"at width {width:g}: {problem}" for problem in error.problems]
    for width in space.widths:
        of_width = [draw.recipe for draw in drawn if draw.width == width][:1]
        cheap = [recipe for full in of_width for recipe in _rungs(space, full, problems)]
        for recipe in (*of_width, *cheap, *_controls(space, width, problems)):
            problems += [f"at width {width:g}: {problem}" for problem in recipe_problems(recipe)]
    problems += [*_range_problems(drawn), *_width_problems(drawn), *_resource_problems(space)]
    problems += [] if problems else how_problems(space, distributions(drawn))
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return drawn


def distributions(draws: Sequence[Draw]) -> dict[str, BaseDistribution]:
    """Of every parameter that the space asked for."""
    return {name: distribution for draw in draws for name, distribution in draw.distributions.items()}


def recipe_problems(recipe: Recipe) -> Iterator[str]:
    """What would stop this recipe on a worker or on another day.

    It has a part without a lasting name, does not pickle, or its model does not build or fit the data.
    """
    yield from _naming_problems(recipe) or _pickling_problems(recipe)
    spec = recipe.data.spec
    expected = f"a model that maps {spec.shape} images to {spec.num_classes} logits"
    try:
        with torch.device("meta"), torch.no_grad():
            logits = recipe.model.build(spec).eval()(torch.zeros(2, *spec.shape))
        if tuple(logits.shape) != (2, spec.num_classes):
            yield refusal(expected, f"logits of shape {tuple(logits.shape)} for 2 images", f"mend {recipe.model}")
    except Exception as error:
        yield refusal(expected, f"{type(error).__name__}: {error}", f"mend {recipe.model}")


def _naming_problems(recipe: Recipe) -> Sequence[str]:
    try:
        recipe.digest  # noqa: B018 - it is made to see whether it can be
    except InputError as error:
        return error.problems
    return ()


def _pickling_problems(recipe: Recipe) -> Iterator[str]:
    try:
        pickle.dumps(recipe)
    except Exception as error:
        yield refusal("a recipe that pickles", error, "use objects of importable classes, no lambdas or closures")


def _draw(space: Space, width: float, seed: int) -> Draw:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = scratch_study(sampler, metrics=len(space.maximise))
    trial = [study.ask() for _ in range(seed + 1)][-1]  # numbers differ too: a range must not depend on them
    recipe = _called(lambda: asked(space.define, trial, width), f"{space.title} with {trial.params}")
    kept = study.get_trials()[-1]
    return Draw(width, kept.params, kept.distributions, recipe)


def _controls(space: Space, width: float, problems: list[str]) -> Iterator[Recipe]:
    for control in space.controls:
        try:
            yield _called(lambda control=control: control(width), f"control {control.__name__}")  # type: ignore[misc]
        except InputError as error:
            problems += [f"at width {width:g}: {problem}" for problem in error.problems]


def _rungs(space: Space, full: Recipe, problems: list[str]) -> Iterator[Recipe]:
    for rung in space.fidelity:
        try:
            yield _called(lambda rung=rung: rung.change(full), f"rung {rung.name}")  # type: ignore[misc]
        except InputError as error:
            problems += error.problems


def _resource_problems(space: Space) -> Iterator[str]:
    for width in space.widths if space.resources else ():
        asked: object
        try:
            asked = space.resources(width) if space.resources else None
        except Exception as error:
            asked = error
        if not isinstance(asked, Resources):
            do = "return such as Resources(gpus=0.5)"
            yield refusal(f"resources({width:g}) to give Resources", repr(asked), do)


def _called(make: Callable[[], object], what: str) -> Recipe:
    try:
        recipe = make()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            refusal(f"a Recipe from {what}", f"{type(error).__name__}: {error}", "mend the function")
        ) from error
    if not isinstance(recipe, Recipe):
        raise InputError(refusal(f"a Recipe from {what}", a(type(recipe).__name__), "return Recipe(...)"))
    return recipe


def _range_problems(drawn: list[Draw]) -> Iterator[str]:
    first: dict[str, tuple[float, BaseDistribution]] = {}
    for draw in drawn:
        for name, distribution in draw.distributions.items():
            width, known = first.setdefault(name, (draw.width, distribution))
            if not same_range(known, distribution):
                got = f"{known} at width {width:g} but {distribution} at width {draw.width:g}"
                yield refusal(f"one range for {name!r}", got, "use one range, or a name of its own for each")


def _width_problems(drawn: list[Draw]) -> Iterator[str]:
    models: dict[object, float] = {}
    for draw in drawn:
        other = models.setdefault(draw.recipe.model, draw.width)
        if other != draw.width:
            got = f"{draw.recipe.model} at widths {other:g} and {draw.width:g}"
            yield refusal("a model that depends on the width", got, "pass width to the model")
