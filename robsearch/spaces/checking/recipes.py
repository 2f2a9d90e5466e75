"""Which of a space's recipes are tried in a child process, on which images, and what is said of
it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from traceback import walk_tb
from typing import NamedTuple

import psutil
import torch

from robsearch.data import load
from robsearch.data.mixed import members
from robsearch.errors import InputError, a, refusal, refuse_unless, refused
from robsearch.protocols import Dataset, ImageSpec, Split
from robsearch.recipe import Recipe
from robsearch.spaces.checking.first_step import MORE, Outcome, Task, try_recipe, try_shapes
from robsearch.spaces.checking.problems import Problem
from robsearch.spaces.checking.recipe_structure import structure
from robsearch.spaces.definition import Space
from robsearch.spaces.resources import Resources
from robsearch.training.batching import rank_problems, share_problems
from robsearch.training.evaluation import sampled
from robsearch.trials.child.client import in_child
from robsearch.trials.child.server import GIB, Limits, Lost

WITHOUT_DATA = "random images take the place of the data, which is not here"
"""How the note begins of a space that is sound, and cannot be launched here."""
SECONDS = 30.0
"""Which one recipe may take; ROBSEARCH_CHECK_SECONDS changes it."""
GIB_AT_MOST = 4.0
"""Memory that it may take."""
SHARE = 0.5
"""Of the free memory, which it may take."""


class Subject(NamedTuple):
    """A recipe of a space: at which width, and from which suggestion, rung or control."""

    width: float
    recipe: Recipe
    origin: str


def first_step_problems(
    space: Space, subjects: Sequence[Subject], say: Callable[[str], None]
) -> list[Problem]:
    """What fails in the first steps of each structure at the smallest and the largest width, and in
    all models."""
    problems: list[Problem] = []
    splits: dict[Dataset, Split] = {}
    tasks = []
    chosen = list(_distinct(space, subjects))
    for subject, whole in chosen:
        recipe = subject.recipe
        data = recipe.resolved_data
        if data not in splits:
            texts: list[str] = []
            splits[data] = _images(data, texts, say)
            problems += map(Problem, texts)
        tasks.append(Task(recipe, splits[data], whole, on_gpu(space, subject.width)))
    least: dict[str, int] = {}
    for (subject, _), outcome in zip(chosen, _outcomes(tasks), strict=True):
        where = f"at width {subject.width:g}"
        if subject.origin:
            where += f" ({subject.origin})"
        for text in outcome.problems:
            problems.append(Problem(text, subject.width, subject.origin))
        for text in outcome.notes:
            say(f"{where}: {text}")
        least[_model(subject)] = outcome.least
    return problems + list(_share_problems(space, subjects, least))


def _share_problems(
    space: Space, subjects: Sequence[Subject], least: Mapping[str, int]
) -> Iterator[Problem]:
    """Batches of which a process would have too few images; where the data is not here, nobody can
    tell."""
    images: dict[Dataset, int] = {}
    for dataset in dict.fromkeys(subject.recipe.resolved_data for subject in subjects):
        # Data that is not here is told by itself, once for all, for it may take long to say so.
        with suppress(Exception):
            images[dataset] = len(load(dataset)["train"].labels)
    for subject in subjects:
        recipe = subject.recipe
        resources = _resources(space, subject.width)
        if resources is None or recipe.resolved_data not in images:
            continue
        n = images[recipe.resolved_data]
        problems = rank_problems(recipe.loop, resources.processes)
        if recipe.loop is None:
            needed = least.get(_model(subject), 1)
            problems = share_problems(needed, n, recipe.batch_size, resources.processes)
        for problem in problems:
            yield Problem(problem, subject.width, draw=len(images))


def _resources(space: Space, width: float) -> Resources | None:
    """What a training at a width takes; None where the space does not say it, which is refused by
    itself."""
    with suppress(Exception):
        resources: object = space.resources(width) if space.resources else Resources()
        return resources if isinstance(resources, Resources) else None
    return None


def _model(subject: Subject) -> str:
    return repr((subject.recipe.model, subject.recipe.data))


def data_problems(datasets: Iterable[Dataset]) -> Iterator[str]:
    """Why data could not be put into the node's store."""
    for dataset in dict.fromkeys(datasets):
        try:
            load(dataset)
        except Exception as error:
            yield from _unreadable(dataset, error)


def limits() -> Limits:
    """Of one recipe, on this machine at this moment."""
    given = os.environ.get("ROBSEARCH_CHECK_SECONDS", str(SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    do = "pass seconds, such as 60, or unset it"
    refuse_unless((seconds > 0, "ROBSEARCH_CHECK_SECONDS > 0, a number", repr(given), do))
    free = SHARE * psutil.virtual_memory().available / GIB
    return Limits(seconds, min(GIB_AT_MOST, free))


def _distinct(space: Space, subjects: Sequence[Subject]) -> Iterator[tuple[Subject, bool]]:
    """Structures at the smallest and the largest width in whole; of those between, the models that
    are new."""
    ends = {min(space.widths), max(space.widths)}
    seen = set[object]()
    for subject in subjects:
        whole = subject.width in ends
        key = structure(subject.recipe) if whole else _model(subject)
        if (whole, key) not in seen:
            seen.add((whole, key))
            yield subject, whole


def _outcomes(tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Of each task; of what does not fit into memory the shapes are tried."""
    most = limits()
    for task, result in zip(tasks, in_child(try_recipe, tasks, most), strict=True):
        outcome: Outcome | Lost = result
        model = task.recipe.model
        if isinstance(result, Lost) and result.memory:
            (outcome,) = in_child(try_shapes, [task], most)
            if isinstance(outcome, Outcome):
                too_large = f"{model} takes {result.reason} here"
                notes = tuple(f"{too_large}: {text}" for text in outcome.notes)
                outcome = Outcome(outcome.problems, notes)
        if isinstance(outcome, Lost):
            part = getattr(task.recipe.resolved, outcome.stage, None)
            do = f"correct {part or 'the recipe'}; if it is only slow, set ROBSEARCH_CHECK_SECONDS"
            at = f" at the part {outcome.stage!r}" if outcome.stage else ""
            expected = f"{model} to be built and to take a step"
            outcome = Outcome((refusal(expected, outcome.reason + at, do),))
        yield outcome


def on_gpu(space: Space, width: float) -> bool:
    """Whether a training at a width would be on a GPU where there is one."""
    resources = _resources(space, width)
    return resources is not None and (space.resources is None or resources.gpus > 0)


def _images(dataset: Dataset, problems: list[str], say: Callable[[str], None]) -> Split:
    """Images of the data, with its largest label among the first; random ones of its shape where it
    is not here."""
    spec = dataset.spec
    if not isinstance(spec, ImageSpec):
        expected = f"spec of {type(dataset).__name__} to be an ImageSpec"
        do = "return ImageSpec(shape, num_classes, mean, std)"
        raise refused(expected, a(type(spec).__name__), do)
    try:
        train = load(dataset)["train"]
        rows = sampled(train, MORE).rows
        # A model with too few classes fails at the largest label only.
        rows[0] = train.labels.argmax()
        return Split(train.images[rows], train.labels[rows])
    except Exception as error:
        texts = _unreadable(dataset, error)
        if isinstance(error, OSError | InputError) and _while_reading(error, dataset):
            for text in texts:
                say(f"{WITHOUT_DATA}: {text}")
        else:
            problems += texts
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (MORE, *spec.shape), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(MORE).flip(0) % spec.num_classes)


def _unreadable(dataset: Dataset, error: Exception) -> Sequence[str]:
    if isinstance(error, InputError):
        return error.problems
    what = f"{type(dataset).__name__} to be read"
    return [refusal(what, f"{type(error).__name__}: {error}", f"correct {dataset!r}")]


def _while_reading(error: Exception, dataset: Dataset) -> bool:
    """Whether the data set itself raised it: the store's refusals are of data that is there."""
    sets = members(dataset)
    for frame, _ in walk_tb(error.__traceback__):
        reader = frame.f_locals.get("self")
        if frame.f_code.co_name == "read" and any(reader is each for each in sets):
            return True
    return False
