"""``robsearch check``: draws suggestions at every width, tries a first step, and says all that is wrong."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution

from robsearch.errors import InputError, refusal
from robsearch.recipe import Recipe
from robsearch.resources import Resources
from robsearch.spaces.asking import asked
from robsearch.spaces.definition import Space
from robsearch.spaces.manner import how_problems
from robsearch.spaces.ranges import same_range
from robsearch.spaces.scratch import scratch_study
from robsearch.spaces.trying import Subject, data_problems, first_step_problems
from robsearch.wording import a

DRAWS = 3
"""Suggestions that ``check`` draws at each width."""
MORE = 8
"""With those of ``check`` eleven: both of two choices are among them in all but one of a thousand spaces."""


@dataclass(frozen=True)
class Draw:
    """One suggestion drawn by ``check``: nothing is trained."""

    width: float
    params: dict[str, object]
    distributions: dict[str, BaseDistribution]
    recipe: Recipe


def check(
    space: Space, draws: int = DRAWS, say: Callable[[str], None] | None = None, needs_data: bool = False
) -> list[Draw]:
    """Draws suggestions at every width, takes a first step with what is drawn, and refuses what could not be searched.

    Args:
        space: that would be searched.
        draws: suggestions at each width.
        say: is told what could not be tried here.
        needs_data: whether data that is not here is a problem, and told before a first step is tried.

    Raises:
        InputError: every recipe that does not pickle, that fails in a first step or in judging, every range that a
            storage would not give back equal or that differs between widths, and a model that does not depend on
            width; all at once.
    """
    problems: list[str] = []
    drawn = _drawn(space, draws, problems)
    subjects = list(_subjects(space, drawn, problems))
    for subject in subjects:
        problems += [f"at width {subject.width:g}: {problem}" for problem in lasting_problems(subject.recipe)]
    missing = list(data_problems(draw.recipe.data for draw in drawn)) if needs_data else []
    problems += missing or first_step_problems(space, subjects, say or (lambda note: None))
    problems += [*_range_problems(drawn), *_width_problems(drawn), *_resource_problems(space)]
    problems += [] if problems else how_problems(space, distributions(drawn))
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return drawn


def more_draws(space: Space, width: float) -> Iterator[Draw]:
    """Suggestions at one width beside those of ``check``, the same every time; without those that the space refuses."""
    for seed in range(DRAWS, DRAWS + MORE):
        with contextlib.suppress(InputError):  # ``check`` has passed: such a one will fail as a trial, with its reason
            yield _draw(space, width, seed)


def suggestions(space: Space, draws: int = DRAWS) -> list[Draw]:
    """Those that ``check`` draws, where it has passed before.

    Raises:
        InputError: recipes that cannot be made.
    """
    problems: list[str] = []
    drawn = _drawn(space, draws, problems)
    if problems:
        raise InputError(*problems)
    return drawn


def _drawn(space: Space, draws: int, problems: list[str]) -> list[Draw]:
    drawn: list[Draw] = []
    for width in space.widths:
        for seed in range(draws):
            try:
                drawn.append(_draw(space, width, seed))
            except InputError as error:
                problems += [f"at width {width:g}: {problem}" for problem in error.problems]
    return drawn


def _subjects(space: Space, drawn: list[Draw], problems: list[str]) -> Iterator[Subject]:
    """Every recipe that is tried: of the suggestions, their rungs, and the controls."""
    for draw in (*drawn, *_with_other_choices(space, drawn, problems)):
        yield Subject(draw.width, draw.recipe, _text(draw.params))
        for name, recipe in _rungs(space, draw.recipe, problems):
            yield Subject(draw.width, recipe, f"rung {name}")
    for width in space.widths:
        for name, recipe in _controls(space, width, problems):
            yield Subject(width, recipe, f"control {name}")


def _text(params: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items()
    )


def _with_other_choices(space: Space, drawn: list[Draw], problems: list[str]) -> Iterator[Draw]:
    """Suggestions with each choice of a categorical parameter that no draw has, for it may be another structure."""
    for width in {min(space.widths), max(space.widths)}:
        own = [draw for draw in drawn if draw.width == width]
        seen = {(name, repr(value)) for draw in own for name, value in draw.params.items()}
        for name, distribution in distributions(own).items():
            for choice in getattr(distribution, "choices", ()):
                if (name, repr(choice)) not in seen:
                    try:
                        yield _draw(space, width, 0, {name: choice})
                    except InputError as error:
                        problems += [f"at width {width:g} with {name} {choice}: {each}" for each in error.problems]


def distributions(draws: Sequence[Draw]) -> dict[str, BaseDistribution]:
    """Of every parameter that the space asked for."""
    return {name: distribution for draw in draws for name, distribution in draw.distributions.items()}


def lasting_problems(recipe: Recipe) -> Iterator[str]:
    """What would stop this recipe on another day or in another process: a part without a lasting name, or a pickle."""
    yield from _naming_problems(recipe) or _pickling_problems(recipe)


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


def _draw(space: Space, width: float, seed: int, fixed: Mapping[str, object] | None = None) -> Draw:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = scratch_study(sampler, metrics=len(space.maximise))
    if fixed:
        study.enqueue_trial(dict(fixed))
    trial = [study.ask() for _ in range(seed + 1)][-1]  # numbers differ too: a range must not depend on them
    recipe = _called(lambda: asked(space.define, trial, width), f"{space.title} with {trial.params}")
    kept = study.get_trials()[-1]
    return Draw(width, kept.params, kept.distributions, recipe)


def _controls(space: Space, width: float, problems: list[str]) -> Iterator[tuple[str, Recipe]]:
    for control in space.controls:
        try:
            yield control.__name__, _called(lambda control=control: control(width), f"control {control.__name__}")  # type: ignore[misc]
        except InputError as error:
            problems += [f"at width {width:g}: {problem}" for problem in error.problems]


def _rungs(space: Space, full: Recipe, problems: list[str]) -> Iterator[tuple[str, Recipe]]:
    for rung in space.fidelity:
        try:
            yield rung.name, _called(lambda rung=rung: rung.change(full), f"rung {rung.name}")  # type: ignore[misc]
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
