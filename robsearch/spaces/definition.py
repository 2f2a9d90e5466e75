"""The space itself, and the studies that a search of it consists of."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from robsearch.drawing.formatting import alike, exactly
from robsearch.errors import (
    accepts,
    is_whole,
    kind_problems,
    one_of,
    problems_of,
    refuse,
    refuse_unless,
    refused,
)
from robsearch.identity import DERIVATION, MAIN, module_name
from robsearch.metrics import VALUE
from robsearch.spaces.ranges import plain
from robsearch.spaces.references import reference_of, referred
from robsearch.spaces.resources import Resources
from robsearch.spaces.settings import Allocation, AtLeast, Equal, Rung
from robsearch.spaces.space_trial import recipe_of

if TYPE_CHECKING:
    from robsearch.recipe import Recipe

Define = Callable[[optuna.Trial, float], "Recipe"]
Control = Callable[[float], "Recipe"]


@dataclass(frozen=True)
class Stage:
    """Which of a search's studies: those of a width, of all widths, of a control, of a rung of
    fidelity.

    Attributes:
        width: of every net in the study, or None where each suggestion is trained at all widths.
        control: the control's name, or None for the searched trials.
        rung: the rung's name, or None for the full recipe.
        exact: whether widths are named with all their digits: two of the search are equal to six.
    """

    width: float | None
    control: str | None = None
    rung: str | None = None
    exact: bool = False

    @property
    def label(self) -> str:
        """What names the study: ``w4``, ``w4-standard``, ``w4-scout``, ``all``."""
        return "-".join(part for part in (self._where, self.control, self.rung) if part)

    @property
    def _where(self) -> str:
        if self.width is None:
            return "all"
        return f"w{exactly(self.width) if self.exact else format(self.width, 'g')}"

    @property
    def deciding(self) -> bool:
        """Whether its values are the search's own: neither of a control nor of a rung."""
        return self.control is None and self.rung is None


def training_name(stage: Stage, width: float, number: int, replicate: int | None) -> str:
    """A training's name everywhere: ``w4-017``, ``w4-scout-017``, ``w4-017-r1`` for one of several
    seeds."""
    label = replace(stage, width=width).label
    return f"{label}-{number:03d}" + ("" if replicate is None else f"-r{replicate}")


@dataclass(frozen=True)
class Space:
    """What may be tried and how it is searched: made by ``@space``, launched by
    ``robsearch launch MODULE:NAME``.

    Attributes:
        define: the function from (suggestion, width) to a recipe. Width is given, never suggested.
            What it may ask the suggestion for is what Optuna's storage gives back equal
            (``spaces.ranges``).
        widths: at which the search is made; each gets a study of its own.
        controls: functions from a width to a recipe that is trained once at each width beside the
            search, such as the same net without adversarial loss, as a yardstick.
        resources: a function from a width to what one training takes there, such as
            ``lambda width: Resources(gpus=0.25 if width <= 2 else 1)``; None for one CPU and, where
            there are any, one GPU.
        per_trial: ``one`` width, or ``all``: each suggestion is trained at every width, thin to
            wide, and its value is the mean. That is how what belongs to no single width is
            searched, such as the parameters of a law; a name asked at two widths is one parameter.
        replicates: trainings of each suggestion and width, with seeds of their own; its value is
            their mean. ``trial.replicate``, from 0 on, tells ``define`` which of them a recipe is
            for; what it suggests must not depend on that.
        paired: whether replicate r of every suggestion has the same seed, at every width: the same
            first weights at a width and the same order of the data, so that differences between
            suggestions are seen through less noise. Where one fails, so does the suggestion, but
            its other replicates are trained all the same.
        maximise: metrics of the best epoch on ``val`` (the epoch is the one of highest robust
            accuracy). Several make the search multi-objective: it has a front of best trials, and
            no trial is pruned.
        subject_to: constraints; the best trial is the best of those that meet them all.
        sampler: any Optuna sampler; each study gets a copy with a seed of its own. By default TPE.
        pruner: any Optuna pruner; steps are epochs, or trainings where a suggestion has several. By
            default a ``MarginPruner`` that waits for the learning rate's first drop, and compares
            trials at the same share of their recipes' epochs; ``NopPruner()`` never prunes.
        allocation: how trials are shared out over the widths.
        start_with: parameters to try first at each width.
        learn_from: names of searches in the same place, paths of searches' folders, or paths of CSV
            files (columns ``width``, the metrics that are maximised or ``value``, as shares, and
            parameters): finished trials that the samplers know from the start. They are not trained
            again and not reported. The searches must have been judged under the same evaluation
            attack and on the same images as this one.
        fidelity: rungs below the full recipe, cheapest first.
    """

    define: Define
    widths: tuple[float, ...]
    controls: tuple[Control, ...] = ()
    resources: Callable[[float], Resources] | None = None
    per_trial: Literal["one", "all"] = "one"
    replicates: int = 1
    paired: bool = False
    maximise: tuple[str, ...] = (VALUE,)
    subject_to: tuple[AtLeast, ...] = ()
    sampler: BaseSampler | None = None
    pruner: BasePruner | None = None
    allocation: Allocation = field(default_factory=Equal)
    start_with: tuple[Mapping[str, Any], ...] = ()
    learn_from: tuple[str, ...] = ()
    fidelity: tuple[Rung, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.widths, Iterable) and not isinstance(self.widths, str):
            object.__setattr__(self, "widths", tuple(self.widths))
        refuse_unless(*self._kinds())
        # NumPy numbers become Python's: a storage keeps JSON, and a recipe's digest tells them
        # apart.
        object.__setattr__(self, "widths", tuple(map(plain, self.widths)))
        dicts = all(isinstance(params, Mapping) for params in self.start_with)
        if dicts:
            first = [{name: plain(value) for name, value in p.items()} for p in self.start_with]
            object.__setattr__(self, "start_with", tuple(first))
        names = [control.__name__ for control in self.controls]
        names += [rung.name for rung in self.fidelity]
        positive = _distinct(self.widths) and min(self.widths) > 0
        by_name = "pass such as start_with=({'lam': 6.0},)"
        one_metric = len(self.maximise) <= 1 or self.pruner is None
        pruner = type(self.pruner).__name__
        do = (
            "leave the pruner out, or maximise one metric, subject_to=(AtLeast(...),) for the "
            "others"
        )
        problems = problems_of(
            (dicts, "a tuple of dicts as start_with", repr(self.start_with), by_name),
            (positive, "distinct positive widths", self.widths, "pass such as widths=(1, 2, 4)"),
            (
                not names or _distinct(names),
                "controls and rungs with distinct names",
                names,
                "rename one of them",
            ),
            one_of("per_trial", self.per_trial, "one", "all"),
            (
                self.replicates >= 1,
                "replicates of at least 1",
                self.replicates,
                "3 shows the spread of seeds",
            ),
            (
                _distinct(self.maximise),
                "distinct metrics to maximise",
                self.maximise,
                f"such as ({VALUE!r},)",
            ),
            (one_metric, "no pruner with several metrics", pruner, do),
        )
        refuse([*problems, *kind_problems(self, "Space")])

    def _kinds(self) -> Iterator[tuple[bool, str, object, str]]:
        """Conditions on the kind of each field, without which the others cannot be asked."""
        expected = "a function of (trial, width) under @space"
        got = _signature(self.define)
        yield accepts(self.define, 2), expected, got, "write def name(trial, width)"
        numbers = isinstance(self.widths, tuple) and all(map(_is_number, self.widths))
        do = "pass such as widths=(1, 2, 4)"
        yield numbers, "widths as a tuple of numbers", repr(self.widths), do
        expected = "replicates as a whole number"
        yield is_whole(self.replicates), expected, repr(self.replicates), "pass such as 3"
        sources = isinstance(self.learn_from, tuple | list)
        sources = sources and all(isinstance(each, str | os.PathLike) for each in self.learn_from)
        do = "write such as learn_from=('first', 'table.csv')"
        yield sources, "learn_from as a tuple of names and paths", repr(self.learn_from), do
        for name, kind, example in (
            ("maximise", str, f"({VALUE!r},)"),
            ("subject_to", AtLeast, "(AtLeast('val/natural_accuracy', 0.8),)"),
            ("fidelity", Rung, "(Rung(...),)"),
        ):
            items = getattr(self, name)
            is_series = isinstance(items, tuple | list)
            fits = is_series and all(isinstance(item, kind) for item in items)
            noun = "texts" if kind is str else f"{kind.__name__}(...)"
            do = f"pass such as {name}={example}"
            yield fits, f"{name} as a tuple of {noun}", repr(items), do
        controls = self.controls if isinstance(self.controls, tuple | list) else (self.controls,)
        for control in controls:
            fits = accepts(control, 1) and hasattr(control, "__name__")
            do = "pass functions, such as controls=(standard,) with def standard(width)"
            yield fits, "controls as functions of the width", _signature(control), do
        fits = self.resources is None or accepts(self.resources, 1)
        do = "pass such as resources=lambda width: Resources(gpus=0.5)"
        yield fits, "resources as a function of the width", _signature(self.resources), do
        fits = isinstance(self.pruner, BasePruner | None)
        do = "pass an instance, such as MedianPruner(), or leave it out"
        yield fits, "an Optuna pruner", repr(self.pruner), do

    @property
    def reference(self) -> str | None:
        """``module:name`` under which another process finds this very space; None if no module
        holds it."""
        return reference_of(self, self.define.__module__)

    @property
    def title(self) -> str:
        """What it is called in messages: the module and the name of its function."""
        return f"{self.define.__module__}:{self.define.__name__}"

    @property
    def in_main(self) -> bool:
        """Whether a notebook, or Python's prompt, defines it: then no other process can import
        it."""
        return module_name(self.define.__module__) == MAIN

    @property
    def trainings(self) -> int:
        """How many trainings one suggestion consists of."""
        return self.replicates * (len(self.widths) if self.per_trial == "all" else 1)

    def stages(self) -> list[Stage]:
        """All studies of a search of it: of each width the rungs, cheapest first, and the full
        recipe; the controls."""
        exact = alike(self.widths)
        rungs = [*(rung.name for rung in self.fidelity), None]
        stages = []
        for width in [None] if self.per_trial == "all" else self.widths:
            stages += [Stage(width, None, rung, exact) for rung in rungs]
        for control in self.controls:
            stages += [Stage(width, control.__name__, None, exact) for width in self.widths]
        return stages

    def recipe(
        self,
        stage: Stage,
        trial: optuna.Trial,
        width: float,
        replicate: int = 0,
    ) -> Recipe:
        """What one replicate of a suggestion means in one of the studies.

        Raises:
            InputError: the space asked for what Optuna's storage would not give back equal.
        """
        if stage.control is not None:
            controls = {control.__name__: control for control in self.controls}
            return controls[stage.control](width)
        recipe = recipe_of(self.define, trial, width, replicate)
        for rung in self.fidelity:
            if rung.name == stage.rung:
                return rung.change(recipe)
        return recipe


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _signature(function: object) -> str:
    """A function as it was defined, ``name(trial)``; of anything else its text."""
    if not inspect.isroutine(function):
        return repr(function)
    return f"{function.__name__}{inspect.signature(function)}"


def _distinct(items: Sequence[object]) -> bool:
    """Whether there are any, and no two are equal."""
    return 0 < len(set(items)) == len(items)


def derived_by(space: Space, derivation: int) -> Space:
    """A space as a search goes on with it that was begun under former rules of deriving what a
    recipe leaves at None: all its recipes are derived by these (``Recipe.derivation``)."""
    if derivation == DERIVATION:
        return space

    def formerly(make: Callable[..., Recipe]) -> Callable[..., Recipe]:
        @wraps(make)
        def made(*what: Any) -> Recipe:
            return replace(make(*what), derivation=derivation)

        return made

    rungs = [replace(rung, change=formerly(rung.change)) for rung in space.fidelity]
    return replace(
        space,
        define=formerly(space.define),
        controls=tuple(map(formerly, space.controls)),
        fidelity=tuple(rungs),
    )


def space(
    *functions: object, widths: tuple[float, ...] = (), **how: Any
) -> Callable[[Define], Space]:
    """Makes a search space of a function ``(trial, width) -> Recipe``; all other arguments as in
    ``Space``.

    Raises:
        InputError: arguments that do not fit, all at once.
    """
    if functions:
        do = "write @space(widths=(1, 2, 4)) above the function"
        raise refused("@space with its arguments by name", _signature(functions[0]), do)
    names = [field.name for field in fields(Space) if field.name != "define"]
    if strange := sorted(set(how) - set(names)):
        do = f"it takes {', '.join(names)}"
        raise refused("arguments of @space", ", ".join(strange), do)
    for name, value in how.items():
        if isinstance(value, list):
            how[name] = tuple(value)
    return lambda define: Space(define, widths, **how)


UNNAMED = "<"
"""How a record begins that says in words where a space comes from, because it has no reference."""


def load_space(reference: str) -> Space:
    """The space that ``module:name`` refers to, on the import path or in the current folder.

    Raises:
        InputError: no such module, or it has no such space; lists those it has. Or the search that
            recorded this was launched with a space that no other process can import.
    """
    if reference.startswith(UNNAMED):
        return _of_this_notebook(reference)
    how = "decorate a function (trial, width) -> Recipe with @space"
    return referred(reference, Space, "a space", "search_spaces.quickstart:digits", how)


def _of_this_notebook(recorded: str) -> Space:
    """The space that was defined in a notebook, in this notebook, where its cell was run again.

    Args:
        recorded: what the record says of it: ``<__main__:NAME, ...>``.
    """
    title = recorded.removeprefix(UNNAMED).partition(",")[0]
    module, _, name = title.partition(":")
    do = "pass it: --space MODULE:NAME on the command line, or space=... from Python"
    if module == MAIN:
        # Not under the name that holds it: the function tells what is searched.
        thing = getattr(sys.modules[MAIN], name, None)
        if isinstance(thing, Space) and thing.title == title:
            return thing
        do = f"run the cell that defines {name!r} first, or {do}"
    raise refused("a space that can be imported", recorded, do)
