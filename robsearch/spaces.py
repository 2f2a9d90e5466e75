"""A search space: a Python function from a suggestion and a width to a recipe."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch
from optuna.distributions import BaseDistribution

from robsearch.errors import InputError, refusal
from robsearch.recipe import Recipe
from robsearch.resources import Resources

Define = Callable[[optuna.Trial, float], Recipe]
Control = Callable[[float], Recipe]

optuna.logging.set_verbosity(optuna.logging.WARNING)

DRAWS = 3
"""Suggestions that ``check`` draws at each width."""


@dataclass(frozen=True)
class Space:
    """What may be tried: made by ``@space``, launched by ``robsearch launch MODULE:NAME``.

    Attributes:
        define: the function from (suggestion, width) to a recipe. Width is given, never suggested.
        widths: at which the search is made; each gets a study of its own.
        controls: functions from a width to a recipe that is trained once at each width beside the search,
            such as the same net without adversarial loss, as a yardstick.
        resources: a function from a width to what one training takes there, such as
            ``lambda width: Resources(gpus=0.25 if width <= 2 else 1)``; None for one CPU and, where there are any,
            one GPU.
    """

    define: Define
    widths: tuple[float, ...]
    controls: tuple[Control, ...] = ()
    resources: Callable[[float], Resources] | None = None

    def __post_init__(self) -> None:
        problems = []
        if not self.widths or len(set(self.widths)) < len(self.widths) or min(self.widths) <= 0:
            problems.append(refusal("distinct positive widths", self.widths, "pass such as widths=(1, 2, 4)"))
        names = [control.__name__ for control in self.controls]
        if len(set(names)) < len(names):
            problems.append(refusal("controls with distinct names", names, "rename one of the functions"))
        if problems:
            raise InputError(*problems)

    @property
    def reference(self) -> str:
        """How the command line names it: ``module:name``."""
        return f"{self.define.__module__}:{self.define.__name__}"


def space(
    *,
    widths: tuple[float, ...],
    controls: tuple[Control, ...] = (),
    resources: Callable[[float], Resources] | None = None,
) -> Callable[[Define], Space]:
    """Makes a search space of a function ``(trial, width) -> Recipe``; arguments as in ``Space``.

    Raises:
        InputError: widths that are not distinct and positive.
    """
    return lambda define: Space(define, tuple(widths), tuple(controls), resources)


def load_space(reference: str) -> Space:
    """The space that ``module:name`` refers to, on the import path or in the current folder.

    Raises:
        InputError: no such module, or it has no such space; lists those it has.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise InputError(refusal("a space as module:name", repr(reference), "such as search_spaces.quickstart:digits"))
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        got = f"no module named {error.name!r} on the import path or in {Path.cwd()}"
        raise InputError(
            refusal(f"an importable module {module_name!r}", got, "check the spelling or cd there")
        ) from error
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise InputError(refusal(f"an importable module {module_name!r}", got, "mend the module")) from error
    found = getattr(module, name, None)
    if isinstance(found, Space):
        return found
    spaces = sorted(key for key, value in vars(module).items() if isinstance(value, Space))
    got = f"{name!r} is a {type(found).__name__}" if hasattr(module, name) else f"it has no {name!r}"
    has = f"use one of {', '.join(spaces)}" if spaces else "decorate a function (trial, width) -> Recipe with @space"
    raise InputError(refusal(f"a Space in {module_name}", got, has))


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
        InputError: every recipe that does not build or pickle, every range that differs between widths, and
            a model that does not depend on width; all at once.
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
        for recipe in (*of_width, *_controls(space, width, problems)):
            problems += [f"at width {width:g}: {problem}" for problem in recipe_problems(recipe)]
    problems += [*_range_problems(drawn), *_width_problems(drawn), *_resource_problems(space)]
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return drawn


def recipe_problems(recipe: Recipe) -> Iterator[str]:
    """What would stop this recipe on a worker: it does not pickle, or its model does not build or fit the data."""
    try:
        pickle.dumps(recipe)
    except Exception as error:
        yield refusal("a recipe that pickles", error, "use objects of importable classes, no lambdas or closures")
    spec = recipe.data.spec
    expected = f"a model that maps {spec.shape} images to {spec.num_classes} logits"
    try:
        with torch.device("meta"), torch.no_grad():
            logits = recipe.model.build(spec).eval()(torch.zeros(2, *spec.shape))
        if tuple(logits.shape) != (2, spec.num_classes):
            yield refusal(expected, f"logits of shape {tuple(logits.shape)} for 2 images", f"mend {recipe.model}")
    except Exception as error:
        yield refusal(expected, f"{type(error).__name__}: {error}", f"mend {recipe.model}")


def _draw(space: Space, width: float, seed: int) -> Draw:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    trial = optuna.create_study(sampler=sampler).ask()
    recipe = _called(lambda: space.define(trial, width), f"{space.reference} with {trial.params}")
    return Draw(width, dict(trial.params), dict(trial.distributions), recipe)


def _controls(space: Space, width: float, problems: list[str]) -> Iterator[Recipe]:
    for control in space.controls:
        try:
            yield _called(lambda control=control: control(width), f"control {control.__name__}")  # type: ignore[misc]
        except InputError as error:
            problems += [f"at width {width:g}: {problem}" for problem in error.problems]


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
        raise InputError(refusal(f"a Recipe from {what}", f"a {type(recipe).__name__}", "return Recipe(...)"))
    return recipe


def _range_problems(drawn: list[Draw]) -> Iterator[str]:
    first: dict[str, tuple[float, BaseDistribution]] = {}
    for draw in drawn:
        for name, distribution in draw.distributions.items():
            width, known = first.setdefault(name, (draw.width, distribution))
            if known != distribution:
                got = f"{known} at width {width:g} but {distribution} at width {draw.width:g}"
                yield refusal(f"one range for {name!r}", got, "use one range, or a name of its own for each")


def _width_problems(drawn: list[Draw]) -> Iterator[str]:
    models: dict[object, float] = {}
    for draw in drawn:
        other = models.setdefault(draw.recipe.model, draw.width)
        if other != draw.width:
            got = f"{draw.recipe.model} at widths {other:g} and {draw.width:g}"
            yield refusal("a model that depends on the width", got, "pass width to the model")
